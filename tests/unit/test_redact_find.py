"""Unit: lines of text are found where the gate says that any may be, and nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.errors import RedactionUncertain
from dicomnode.stages.redact import detect
from dicomnode.stages.redact.detect import HALO, Detector, Eyes
from dicomnode.stages.redact.line import Line, Place
from dicomnode.stages.redact.views import stack
from tests.unit import pictures


class FakeSession:
    """Answers with what a function makes of the first view, one value for ``step`` by ``step`` pixels."""

    def __init__(self, output: str, step: int, answers: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self.output, self.step, self.answers = output, step, answers
        self.asked: list[tuple[int, int]] = []

    def run(self, wanted: list[str], given: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """As `Session.run`."""
        seen = given["views"]
        assert wanted == [self.output]
        assert (seen.dtype, seen.shape[:2]) == (np.float32, (1, 3))
        assert (seen.shape[2] % 32, seen.shape[3] % 32) == (0, 0)
        self.asked.append(seen.shape[2:])
        said = self.answers(seen[0, 0])
        rows, cols = said.shape
        return [said.reshape(rows // self.step, self.step, cols // self.step, self.step).max(axis=(1, 3))[None, None]]


def fakes(gate: Callable[[NDArray[Any]], NDArray[Any]] = lambda seen: seen) -> tuple[Eyes, FakeSession, FakeSession]:
    """Eyes whose gate fires where the frame is bright, and whose detector calls that core."""
    one, other = FakeSession("text", 16, gate), FakeSession("cores", 2, lambda seen: seen)
    return Eyes(one, other, 0.1), one, other  # type: ignore[arg-type]


def frame(rows: int, cols: int, *bright: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Views of a dark frame with bright bars, x, y, w and h."""
    values = np.zeros((rows, cols, 3), np.uint8)
    for x, y, w, h in bright:
        values[y : y + h, x : x + w] = 255
    return values


@pytest.fixture(scope="module")
def shipped() -> Detector:
    """The networks that the node brings."""
    return Detector.load()


def drawn(text: str, scale: float, *, dark: bool = False, turned: int = 0, x: int = 40, y: int = 150) -> tuple[Any, Any]:
    """Views of anatomy with one line of text, and its ink."""
    grey = pictures.anatomy().astype(np.uint8)
    ink = np.zeros(grey.shape, np.uint8)
    cv2.putText(ink, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(1, round(2 * scale)), cv2.LINE_AA)
    if dark:
        grey = 255 - grey
    grey = np.where(ink > 127, 0 if dark else 255, grey).astype(np.uint8)
    grey, ink = np.ascontiguousarray(np.rot90(grey, turned)), np.rot90(ink, turned)
    return stack(grey, grey, falls=False), ink > 127


def covered(lines: list[Line], ink: Any) -> float:
    """Share of ink that lies in lines."""
    under = np.zeros(ink.shape, bool)
    for line in lines:
        under[line.y : line.bottom, line.x : line.right] = True
    return float(under[ink].mean())


# -- how the networks are asked
def test_where_the_gate_is_silent_the_detector_is_not_asked() -> None:
    """The detector costs most of the time: a frame without text is seen by the gate alone."""
    eyes, gate, detector = fakes(gate=np.zeros_like)
    assert eyes(frame(300, 500, (40, 40, 200, 12))) == []
    assert len(gate.asked) == 1
    assert detector.asked == []


def test_where_the_gate_fires_the_detector_sees_what_lies_around() -> None:
    """Only tiles around the place are computed, and the line has the core's box grown by half of what the core is thick."""
    eyes, _, detector = fakes()
    lines = eyes(frame(1024, 1024, (128, 512, 160, 8)))
    assert detector.asked
    assert all(rows * cols < 4 * 512 * 512 for rows, cols in detector.asked)
    assert [(line.x, line.y, line.w, line.h, line.vertical) for line in lines] == [(124, 508, 168, 16, False)]
    assert lines[0].score == pytest.approx(1.0)


def test_a_frame_larger_than_a_tile_is_put_together_without_a_seam() -> None:
    """A line that crosses the edge of a tile is one line."""
    eyes, _, detector = fakes()
    lines = eyes(frame(64, 2400, (100, 24, 2200, 8)))
    assert len(detector.asked) > 2
    assert max(cols for _, cols in detector.asked) <= detect._TILE + 2 * HALO
    assert [(line.x, line.right) for line in lines] == [(96, 2304)]


def test_what_is_as_in_the_frame_before_is_not_computed_again() -> None:
    """Of the next frame only the blocks that changed, and those beside them, are asked for; its lines are its own."""
    eyes, gate, detector = fakes()
    first = frame(512, 2048, (64, 64, 160, 8))
    found = eyes(first, (first,))
    gate.asked.clear()
    detector.asked.clear()
    assert eyes(first, (first,)) == found
    assert gate.asked == detector.asked == []
    second = first.copy()
    second[384:392, 1024:1184] = 255
    both = eyes(second, (second,))
    assert len(both) == len(found) + 1
    assert gate.asked
    assert all(rows * cols < 512 * 1024 for rows, cols in gate.asked)
    assert both == fakes()[0](second, (second,))


def test_without_values_nothing_is_taken_for_known() -> None:
    """What is not said to be the same is computed."""
    eyes, gate, _ = fakes()
    views = frame(256, 256, (64, 64, 100, 8))
    eyes(views)
    eyes(frame(256, 256))
    assert len(gate.asked) == 2
    assert eyes(frame(256, 256)) == []


def test_only_the_place_that_is_asked_for_is_looked_at() -> None:
    """The second look asks about what was blanked; other lines are none of its business."""
    eyes, _, _ = fakes()
    lines = eyes(frame(1024, 1024, (64, 64, 160, 8), (640, 832, 160, 8)), (), [Place(640, 820, 160, 30)])
    assert [(line.x, line.y) for line in lines] == [(636, 828)]


def test_a_frame_that_is_too_large_is_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held, not passed unseen."""
    monkeypatch.setattr(detect, "MAX_PIXELS", 1000)
    eyes, gate, _ = fakes()
    with pytest.raises(RedactionUncertain):
        eyes(frame(64, 64))
    assert gate.asked == []


# -- lines of several scales
def test_lines_that_ran_together_are_told_from_each_other() -> None:
    """At twice the size two stacked lines are two: they take the place of the one that held both."""
    one = Line(10, 10, 100, 24, vertical=False, score=0.7)
    two = [Line(10, 10, 100, 11, vertical=False, score=0.9), Line(10, 23, 100, 11, vertical=False, score=0.9)]
    assert detect._finer([one], two) == two


def test_a_line_that_is_seen_at_one_scale_alone_stays() -> None:
    """Nothing that either scale has found is lost."""
    one, other = Line(10, 10, 100, 20, vertical=False, score=0.7), Line(10, 200, 100, 12, vertical=False, score=0.7)
    assert set(detect._finer([one], [other])) == {one, other}
    assert set(detect._broader([one], [other])) == {one, other}


def test_large_letters_that_fall_to_pieces_are_one_line() -> None:
    """The pieces that the finer scale makes of large text do not count beside the whole."""
    whole = Line(0, 0, 400, 60, vertical=False, score=0.9)
    pieces = [Line(x, 20, 30, 20, vertical=False, score=0.8) for x in range(10, 390, 60)]
    assert detect._finer([whole], pieces) == [whole]
    assert detect._broader(pieces, [whole]) == [whole]


# -- the networks that the node brings
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("scale", [0.4, 0.7, 1.2])
def test_drawn_text_is_found(shipped: Detector, scale: float, dark: bool) -> None:
    """Small, middling and large; bright and dark."""
    views, ink = drawn("QUISTGAARD 47", scale, dark=dark)
    lines = shipped(views)
    assert covered(lines, ink) > 0.95
    assert sum(line.area for line in lines) < 4 * ink.any(axis=1).sum() * ink.any(axis=0).sum()


@pytest.mark.parametrize("turned", [1, 3])
def test_text_that_runs_upwards_or_downwards_is_found(shipped: Detector, turned: int) -> None:
    """By 90 degrees, either way: it is one vertical line."""
    views, ink = drawn("QUISTGAARD 47", 0.7, turned=turned)
    lines = [line for line in shipped(views) if covered([line], ink) > 0.3]
    assert covered(lines, ink) > 0.95
    assert all(line.vertical for line in lines)


def test_small_stacked_lines_are_told_from_each_other(shipped: Detector) -> None:
    """Each of a block of small lines is a line."""
    grey = pictures.anatomy().astype(np.uint8)
    tops = range(60, 60 + 4 * 14, 14)
    for y, text in zip(tops, ("QUISTGAARD M", "ZX4481907 AB", "KLINIK NORD", "PORTABLE AP"), strict=True):
        cv2.putText(grey, text, (40, y), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 255, 1, cv2.LINE_8)
    lines = shipped(stack(grey, grey, falls=False))
    middles = [sum(line.y <= y - 4 < line.bottom for line in lines) for y in tops]
    assert middles == [1, 1, 1, 1]


def test_a_frame_without_text_has_no_long_line(shipped: Detector) -> None:
    """Soft anatomy is no text."""
    grey = pictures.anatomy().astype(np.uint8)
    assert not [line for line in shipped(stack(grey, grey, falls=False)) if line.score > 0.6]

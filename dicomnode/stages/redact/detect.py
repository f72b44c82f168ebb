"""Finds lines of text in a frame with two small networks: one says where any may be, the other which pixels are its core.

**Way** `Detector.eyes` gives what looks at the frames of one instance. The gate sees the whole frame; where it fires, and 64 px
around, the detector gives for each pixel how probably it lies in the core of a line. What is connected there is a line. Large
frames are also seen at half their size, for large text, and where there is text at twice theirs, for small. Both work tile by
tile, and what is bit for bit as in the frame before is not computed again.

**Fails** `MissingModel` and `BadCard` when it is built; `StageFailed` when onnxruntime gives up; `RedactionUncertain` for a
frame that is too large.

**Limits** Text that is neither horizontal nor vertical is found in pieces, or not. Strokes of a slanted line are not told from
those of a straight one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import RedactionUncertain
from dicomnode.repository import DETECTOR, GATE, load_text_model
from dicomnode.stages.redact.line import Line, Place
from dicomnode.stages.redact.model import TextModel
from dicomnode.stages.session import Session

Views = NDArray[np.uint8]
Map = NDArray[np.uint8]
Blocks = NDArray[np.bool_]
Values = tuple[NDArray[Any], ...]
#: Pixels of a frame that will still be looked at.
MAX_PIXELS = 80_000_000
#: Probability from which a pixel of the core counts.
CORE = 0.3
#: Pixels around a place that the networks see too, and side of a block that is computed or not.
HALO = 64
#: Longest side of a tile.
_TILE = 1024
#: Share of the frame from which all of it is computed.
_MOST = 0.6
#: Frames longer than this are seen at half their size too; those of no more than so many pixels at twice.
_LARGE, _FINE = 1600, 6_000_000
#: Lines at least so thick are told from each other at their own size, and what they may be less sure than their pieces.
_SMALL, _LESS = 16, 0.1
#: A line so many times as long as thick is no letter.
_LONG = 2.5
#: Pixels of the smallest core, at its own scale.
_LEAST = 2
#: A line so many times as high as wide is vertical.
_UPRIGHT = 1.5
#: Share of a line that lies in one of another scale, how much thicker that one is when the line is a piece of it, and share of
#: it that is known already.
_INSIDE, _THICKER, _KNOWN = 0.8, 1.4, 0.5


class Detector:
    """Both networks, opened once."""

    def __init__(self, gate: Session, detector: Session, version: str, threshold: float) -> None:
        self._gate, self._detector = gate, detector
        self._threshold = threshold
        #: ``name@version`` of both, joined by a blank.
        self.version = version

    @classmethod
    def load(cls, models: Path | None = None) -> Detector:
        """Open both of a folder of models, or those that the node brings; raises as `load_text_model` and `TextModel`."""
        gate, detector = (TextModel(load_text_model(models, name)) for name in (GATE, DETECTOR))
        for model in (gate, detector):
            model.check_sample()
        version = f"{detector.card.reference} {gate.card.reference}"
        return cls(gate.session, detector.session, version, gate.card.threshold)

    def __call__(self, views: Views) -> list[Line]:
        """Find the lines of one frame, (rows, cols, 3) as `views.views` gives it, from top to bottom."""
        return self.eyes()(views)

    def eyes(self) -> Eyes:
        """Give what looks at the frames of one instance, one after the other."""
        return Eyes(self._gate, self._detector, self._threshold)


@dataclass
class Eyes:
    """Looks at frames, and remembers the last one."""

    gate: Session
    detector: Session
    threshold: float
    _scales: dict[float, _Scale] = field(default_factory=dict)

    def __call__(self, views: Views, values: Values = (), within: Sequence[Place] | None = None) -> list[Line]:
        """Find the lines of a frame.

        Parameters
        ----------
        values
            What the views were made of, each (rows, cols, ...): where all are as in the frame before, nothing is computed
            again.
        within
            Look here alone; None is everywhere.
        """
        rows, cols = views.shape[:2]
        if rows * cols > MAX_PIXELS:
            raise RedactionUncertain("a frame is too large to be looked at")
        spots = None if within is None else list(within)
        lines, fired = self._at(1.0, views, values, spots)
        if fired and rows * cols <= _FINE:
            # Small text is told line from line at twice its size only; that is computed where there is text at all.
            lines = _finer(lines, self._at(2.0, views, values, fired)[0])
        if max(rows, cols) > _LARGE:
            lines = _broader(lines, self._at(0.5, views, values, spots)[0])
        return sorted(lines, key=lambda line: (line.y, line.x))

    def forget(self) -> None:
        """Let go of the last frame."""
        self._scales.clear()

    def _at(self, scale: float, views: Views, values: Values, spots: list[Place] | None) -> tuple[list[Line], list[Place]]:
        """Look at one scale; gives lines, and the places where there may be text."""
        rows, cols = views.shape[:2]
        seen = views if scale == 1 else _resized(views, scale)
        asked = None if spots is None else [_scaled(place, scale) for place in spots]
        if scale not in self._scales:
            self._scales[scale] = _Scale(self.gate, self.detector, self.threshold, gated=scale <= 1, block=round(HALO / scale))
        own = self._scales[scale]
        lines = [_back(line, scale, rows, cols) for line in own.lines(seen, values, asked)]
        return lines, own.fired


@dataclass
class _Scale:
    """Looks at frames at one scale; a block is `HALO` by `HALO` pixels."""

    gate: Session
    detector: Session
    threshold: float
    #: Whether the gate is asked; without it, all that is asked for is computed.
    gated: bool = True
    #: Side of a block in the frame itself, from which the values come.
    block: int = HALO
    #: Where there may be text.
    fired: list[Place] = field(default_factory=list)
    _values: Values = ()
    #: Of the gate and of the detector, for the last frame.
    _text: _Answer | None = None
    _cores: _Answer | None = None

    def lines(self, views: Views, values: Values, within: Sequence[Place] | None) -> list[Line]:
        """Find the lines of a frame; parameters as of `Eyes`."""
        rows, cols = views.shape[:2]
        before, self._values = self._values, values
        if self._text is None or self._cores is None or self._text.size != (rows, cols):
            self._text, self._cores = _Answer(self.gate, "text", 16, rows, cols), _Answer(self.detector, "cores", 2, rows, cols)
        asked = np.ones(self._text.blocks, bool) if within is None else _touched(within, self._text.blocks)
        changed = _changed(before, values, self._text.blocks, self.block)
        wanted = asked
        if self.gated:
            self._text.answer(views, asked, changed)
            wanted = asked & _fires(self._text.map >= self.threshold * 255, self._text.blocks)
            self.fired = _tiles(wanted)
        self._cores.answer(views, wanted, changed)
        return _lines(self._cores.only(wanted), rows, cols)


class _Answer:
    """What a network says of a frame, tile by tile."""

    def __init__(self, session: Session, output: str, step: int, rows: int, cols: int) -> None:
        self._session, self._output, self._step = session, output, step
        self.size = (rows, cols)
        self.blocks = (-(-rows // HALO), -(-cols // HALO))
        #: Probabilities times 255, one for ``step`` by ``step`` pixels.
        self.map: Map = np.zeros((self.blocks[0] * HALO // step, self.blocks[1] * HALO // step), np.uint8)
        self._held = np.zeros(self.blocks, bool)

    def answer(self, views: Views, wanted: Blocks, changed: Blocks) -> None:
        """Compute what is wanted and not known from the frame before."""
        self._held &= ~changed
        for place in _tiles(wanted & ~self._held):
            self._run(views, place)
        self._held |= wanted

    def only(self, blocks: Blocks) -> Map:
        """The map with 0 in all other blocks."""
        shown = np.repeat(np.repeat(blocks.astype(np.uint8), HALO // self._step, axis=0), HALO // self._step, axis=1)
        return np.asarray(self.map * shown)

    def _run(self, views: Views, place: Place) -> None:
        """Compute one tile, with what lies around it."""
        rows, cols = self.size
        wide = place.grown(HALO)
        top, left = max(0, wide.y), max(0, wide.x)
        seen = views[top : min(rows, wide.bottom), left : min(cols, wide.right)]
        missing = (0, -seen.shape[0] % 32, 0, -seen.shape[1] % 32)
        seen = np.asarray(cv2.copyMakeBorder(seen, *missing, cv2.BORDER_REPLICATE), np.uint8)
        given = np.ascontiguousarray(seen.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        (made,) = self._session.run([self._output], {"views": given})
        answer = np.rint(np.clip(made[0, 0], 0, 1) * 255).astype(np.uint8)
        y, x = (place.y - top) // self._step, (place.x - left) // self._step
        answer = answer[y : y + place.h // self._step, x : x + place.w // self._step]
        y, x = place.y // self._step, place.x // self._step
        self.map[y : y + answer.shape[0], x : x + answer.shape[1]] = answer


def _changed(before: Values, now: Values, blocks: tuple[int, int], side: int) -> Blocks:
    """Blocks of which something, or something in the block beside it, is not as it was."""
    if not now or [(one.shape, one.dtype) for one in before] != [(one.shape, one.dtype) for one in now]:
        return np.ones(blocks, bool)
    any_of = np.zeros(blocks, np.uint8)
    for one, other in zip(before, now, strict=True):
        apart = one != other
        if apart.ndim == 3:
            apart = apart.any(axis=2)
        apart = np.ascontiguousarray(apart[: blocks[0] * side, : blocks[1] * side])
        rows, cols = apart.shape
        edges = (0, blocks[0] * side - rows, 0, blocks[1] * side - cols)
        whole = cv2.copyMakeBorder(apart.view(np.uint8), *edges, cv2.BORDER_CONSTANT, value=0)
        any_of |= whole.reshape(blocks[0], side, blocks[1], side).any(axis=(1, 3))
    return np.asarray(cv2.dilate(any_of, np.ones((3, 3), np.uint8)) > 0)


def _touched(places: Sequence[Place], blocks: tuple[int, int]) -> Blocks:
    """Blocks in which a place, or something near it, lies."""
    found = np.zeros(blocks, bool)
    for place in places:
        wide = place.grown(HALO // 2)
        found[max(0, wide.y) // HALO : -(-wide.bottom // HALO), max(0, wide.x) // HALO : -(-wide.right // HALO)] = True
    return found


def _fires(text: NDArray[np.bool_], blocks: tuple[int, int]) -> Blocks:
    """Blocks in which, or so near to which as `HALO`, the gate has seen text."""
    near = cv2.dilate(text.astype(np.uint8), np.ones((2 * (HALO // 16) + 1,) * 2, np.uint8))
    return np.asarray(near.reshape(blocks[0], HALO // 16, blocks[1], HALO // 16).any(axis=(1, 3)))


def _tiles(blocks: Blocks) -> list[Place]:
    """Rectangles around what is connected of these blocks, none larger than a tile; the whole frame when that is most of it."""
    if not blocks.any():
        return []
    count, _, stats, _ = cv2.connectedComponentsWithStats(blocks.astype(np.uint8), connectivity=8)
    around = [Place(*(int(v) for v in part[:4])) for part in stats[1:count]]
    if sum(place.area for place in around) > _MOST * blocks.size:
        around = [Place(0, 0, blocks.shape[1], blocks.shape[0])]
    most = _TILE // HALO
    return [
        Place(x * HALO, y * HALO, min(most, place.right - x) * HALO, min(most, place.bottom - y) * HALO)
        for place in around for y in range(place.y, place.bottom, most) for x in range(place.x, place.right, most)
    ]


def _lines(cores: Map, rows: int, cols: int) -> list[Line]:
    """Give the line of each connected core."""
    is_core = (cores >= CORE * 255).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(is_core, connectivity=8)
    if count < 2:
        return []
    ys, xs = np.nonzero(is_core)
    scores = np.bincount(labels[ys, xs], weights=cores[ys, xs], minlength=count) / np.maximum(1, stats[:, 4]) / 255
    found: list[Line] = []
    for (x, y, w, h, area), score in zip(stats[1:].tolist(), scores[1:].tolist(), strict=True):
        if area < _LEAST:
            continue
        # The core is half as thick as its line.
        by = max(1, min(w, h))
        left, top = max(0, 2 * x - by), max(0, 2 * y - by)
        right, bottom = min(cols, 2 * (x + w) + by), min(rows, 2 * (y + h) + by)
        if right > left and bottom > top:
            found.append(Line(left, top, right - left, bottom - top, h > _UPRIGHT * w, round(score, 3)))
    return found


def _resized(views: Views, scale: float) -> Views:
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(views, None, fx=scale, fy=scale, interpolation=method), np.uint8)


def _scaled(place: Place, scale: float) -> Place:
    left, top = int(place.x * scale), int(place.y * scale)
    return Place(left, top, int(np.ceil(place.right * scale)) - left, int(np.ceil(place.bottom * scale)) - top)


def _back(line: Line, scale: float, rows: int, cols: int) -> Line:
    """A line of the frame at another scale, in the frame itself."""
    left, top = int(line.x / scale), int(line.y / scale)
    right, bottom = min(cols, int(np.ceil(line.right / scale))), min(rows, int(np.ceil(line.bottom / scale)))
    return Line(left, top, max(1, right - left), max(1, bottom - top), line.vertical, line.score)


def _finer(lines: list[Line], fine: list[Line]) -> list[Line]:
    """Put together what was found at its own size and at twice that, where small lines are told from each other.

    A line stays that no finer ones make up, unless it is several of them in one. One that they do make up stays in their place
    where it is much thicker and no less sure: its letters are so large that they fall to pieces there.
    """
    kept = list(fine)
    for line in lines:
        inside = [one for one in kept if one.shared(line) >= _INSIDE * one.area]
        if any(_told(one, line) for one in fine):
            continue
        large = line.thickness >= _SMALL and inside and line.thickness > _THICKER * max(one.thickness for one in inside)
        if large and line.score >= max(one.score for one in inside) - _LESS:
            kept = [one for one in kept if one not in inside]
        elif sum(one.shared(line) for one in kept) >= _KNOWN * line.area:
            continue
        kept.append(line)
    return kept


def _told(fine: Line, line: Line) -> bool:
    """Say whether a line is several that ran together, of which ``fine`` is one."""
    long = max(fine.w, fine.h) >= _LONG * fine.thickness
    part = fine.shared(line) >= _KNOWN * fine.area and fine.thickness * _THICKER < line.thickness
    return long and part and fine.score > line.score


def _broader(lines: list[Line], others: list[Line]) -> list[Line]:
    """Put together what was found at its own size and at half of that, where the pieces of large text hold together."""
    kept = list(lines)
    for other in others:
        inside = [line for line in kept if line.shared(other) >= _INSIDE * line.area]
        if inside and other.thickness > _THICKER * max(line.thickness for line in inside):
            kept = [line for line in kept if line not in inside]
        elif sum(line.shared(other) for line in kept) >= _KNOWN * other.area:
            continue
        kept.append(other)
    return kept

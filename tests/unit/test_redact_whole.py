"""Unit: the whole stage on drawn pictures: cines, turned text, colours, the language model and the rectangles by device."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomnode.image import Redacted
from dicomnode.places import Place
from dicomnode.stages.redact import Redact
from dicomnode.stages.redact.appeal import Verdict
from dicomnode.stages.redact.places import Places
from tests.unit import pictures

pytestmark = pytest.mark.skipif(shutil.which("tesseract") is None, reason="the program tesseract is not installed")
NAME, UNKNOWN, OTHER = ("MARLENE QUISTGAARD", 20, 40), ("HOLGERSSON WILMA", 20, 110), ("PORTABLE AP", 20, 200)
RULE = {"manufacturer": "Acme", "model": "Sono 5", "rows": 256, "columns": 384,
        "rectangles": [{"x": 300, "y": 10, "w": 40, "h": 20}]}


class Fake:
    """A language model that calls what holds a word PHI."""

    name = "fake"

    def __init__(self, word: str) -> None:
        self.word = word
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[Verdict]:
        """As `Appeal`."""
        self.asked += texts
        return ["phi" if self.word in text else "harmless" for text in texts]


@pytest.fixture(scope="module")
def strict() -> Redact:
    """The stage in strict mode, with a rule for one device."""
    return Redact("strict", places=Places([Place(**RULE)]))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def appeal() -> Fake:
    """Knows one name."""
    return Fake("HOLGERSSON")


@pytest.fixture(scope="module")
def header(appeal: Fake) -> Redact:
    """The stage in header mode, with a language model and the same rule."""
    return Redact("header", appeal=appeal, places=Places([Place(**RULE)]))  # type: ignore[arg-type]


def ink(text: tuple[str, int, int]) -> Any:
    """Pixels that a line of text has drawn."""
    page = np.zeros((256, 384))
    pictures.draw(page, *text, 1)
    return page > 0


def mask(redacted: Redacted, frame: int = 0) -> NDArray[np.bool_]:
    """Pixels of a frame that are blanked."""
    gone = np.zeros((redacted.image.rows, redacted.image.columns), bool)
    for r in redacted.regions_of(frame):
        gone[r.y : r.y + r.h, r.x : r.x + r.w] = True
    return gone


def test_text_in_one_middle_frame_of_a_cine(strict: Redact) -> None:
    """It goes there; the frames before and behind it keep every value."""
    frames = np.stack([pictures.anatomy(seed=7).astype(np.uint8)] * 5)
    pictures.draw(frames[2], *NAME, 255)
    redacted = strict(pictures.image(pictures.native(frames, frames=5)))
    assert mask(redacted, 2)[ink(NAME)].mean() > 0.98
    assert {region.frame for region in redacted.regions} == {2}
    for number in (0, 1, 3, 4):
        np.testing.assert_array_equal(redacted.frame(number), frames[number])


def test_text_that_moves_through_a_cine(strict: Redact) -> None:
    """What is remembered of one frame is not taken for the next."""
    frames = np.stack([pictures.anatomy(seed=7).astype(np.uint8)] * 3)
    places = [(NAME[0], 20 + 40 * i, 40 + 70 * i) for i in range(3)]
    for values, place in zip(frames, places, strict=True):
        pictures.draw(values, *place, 255)
    redacted = strict(pictures.image(pictures.native(frames, frames=3)))
    for number, place in enumerate(places):
        assert mask(redacted, number)[ink(place)].mean() > 0.98
        assert mask(redacted, number).mean() < 0.2


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_text_goes(strict: Redact, turns: int) -> None:
    """By 90, 180 and 270 degrees."""
    values, described = pictures.burned("u8", (NAME,))
    turned = np.ascontiguousarray(np.rot90(values, turns))
    redacted = strict(pictures.image(pictures.native(turned, **described)))
    assert mask(redacted)[np.rot90(ink(NAME), turns)].mean() > 0.98


@pytest.mark.parametrize("photometric", ["RGB", "MONOCHROME1"])
@pytest.mark.parametrize("dark", [False, True])
def test_text_of_any_tone_in_any_colours(strict: Redact, photometric: str, dark: bool) -> None:
    """Yellow on black, dark on light; black is what is displayed so."""
    values = (128 + pictures.anatomy() / 2 if dark else pictures.anatomy() / 2).astype(np.uint8)
    if photometric == "RGB":
        values = np.dstack([values] * 3)
        pictures.draw(values, *NAME, (0, 0, 90) if dark else (255, 255, 0))
    else:
        pictures.draw(values, *NAME, 0 if dark else 255)
    redacted = strict(pictures.image(pictures.native(values, photometric)))
    gone = mask(redacted)
    assert gone[ink(NAME)].mean() > 0.98
    assert (redacted.picture(0)[gone] == 0).all()
    np.testing.assert_array_equal(values[~gone], redacted.frame(0)[~gone])


def test_a_language_model_turns_what_nobody_knows(header: Redact, appeal: Fake) -> None:
    """In header mode; it is asked about nothing else, and the means name it."""
    appeal.asked.clear()
    values, described = pictures.burned("u8", (NAME, UNKNOWN, OTHER))
    redacted = header(pictures.image(pictures.native(values, **described)))
    gone = mask(redacted)
    assert gone[ink(NAME)].mean() > 0.98
    assert gone[ink(UNKNOWN)].mean() > 0.98
    assert gone[ink(OTHER)].mean() < 0.05
    assert {region.reason for region in redacted.regions} == {"header-match", "model"}
    assert appeal.asked
    assert not any("QUISTGAARD" in text or "PORTABLE" in text for text in appeal.asked)
    assert redacted.means is not None
    assert redacted.means.judge == "fake"


def test_what_the_language_model_calls_harmless_stays(header: Redact) -> None:
    """A text that it does not know as a name."""
    values, described = pictures.burned("u8", (("ZWORBEL KRINT", 20, 110),))
    assert header(pictures.image(pictures.native(values, **described))).regions == ()


@pytest.mark.parametrize("mode", ["strict", "header"])
def test_rectangles_of_the_configuration_go_too(strict: Redact, header: Redact, mode: str) -> None:
    """From pictures of their device, beside what is found; from no other."""
    values, described = pictures.burned("u8", (NAME,))
    redact = strict if mode == "strict" else header
    device = {"Manufacturer": "ACME", "ManufacturerModelName": "Sono 5"}
    redacted = redact(pictures.image(pictures.native(values, **described, **device)))
    assert mask(redacted)[10:30, 300:340].all()
    assert mask(redacted)[ink(NAME)].mean() > 0.98
    assert [r.reason for r in redacted.regions if r.x >= 290] == ["rule"]
    assert redacted.means is not None
    assert redacted.means.places == Places([Place(**RULE)]).digest  # type: ignore[arg-type]
    other = redact(pictures.image(pictures.native(values, **described, Manufacturer="Acme", ManufacturerModelName="Sono 6")))
    assert "rule" not in {r.reason for r in other.regions}


def test_the_means_say_by_what() -> None:
    """Names and versions alone; the language model has no part in strict mode."""
    means = Redact("strict", appeal=Fake("X")).means
    assert (means.mode, means.judge, means.places, means.second_look) == ("strict", "", "", "none")
    assert [part.split("@")[0] for part in means.detector.split()] == ["text-detector", "text-gate"]
    assert means.reader.startswith("tesseract ")
    assert "text-reader@" in means.reader
    assert len(means.allow_list) == 64

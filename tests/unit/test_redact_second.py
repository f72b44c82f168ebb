"""Unit: what was blanked is looked at again, what is still there is blanked too, and what is then left holds the picture."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from dicomnode.errors import RedactionUncertain, TextLeft
from dicomnode.image import Image
from dicomnode.records import Region
from dicomnode.stages.redact import Redact, second
from dicomnode.stages.redact.line import Line, Place
from tests.unit import pictures

needs_tesseract = pytest.mark.skipif(shutil.which("tesseract") is None, reason="the program tesseract is not installed")
NAME, HIDDEN = ("MARLENE QUISTGAARD", 20, 60), ("HOLGERSSON WILMA", 20, 200)


@pytest.fixture(scope="module")
def strict() -> Redact:
    """The stage in strict mode."""
    return Redact("strict")


class Blind:
    """Eyes that see the lines with which they are told to begin, one list a look."""

    def __init__(self, *looks: list[Line]) -> None:
        self.looks = list(looks)
        self.within: list[Any] = []

    def __call__(self, _views: Any, _values: Any = (), within: Any = None) -> list[Line]:
        """As `Eyes`."""
        self.within.append(within)
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def forget(self) -> None:
        """As `Eyes`; nothing is remembered here."""


def line(text: tuple[str, int, int]) -> Line:
    """The line of a drawn text."""
    ys, xs = np.nonzero(ink(text))
    return Line(int(xs.min()) - 2, int(ys.min()) - 2, int(np.ptp(xs)) + 5, int(np.ptp(ys)) + 5, vertical=False, score=0.95)


def ink(text: tuple[str, int, int]) -> Any:
    """Pixels that a text has drawn."""
    page = np.zeros((256, 384))
    pictures.draw(page, *text, 1)
    return page > 0


def picture(*texts: tuple[str, int, int]) -> Image:
    """A picture with these texts."""
    values, described = pictures.burned("u8", texts)
    return pictures.image(pictures.native(values, **described))


def blind(strict: Redact, monkeypatch: pytest.MonkeyPatch, first: list[Line], *again: list[Line]) -> Blind:
    """Give the stage a first look that sees so much, and a second one."""
    eyes = Blind(*again)
    both = iter([Blind(first), eyes])
    monkeypatch.setattr(strict._detector, "eyes", lambda: next(both))
    return eyes


# -- as a whole
@needs_tesseract
def test_a_picture_that_is_clean_after_blanking_says_so(strict: Redact) -> None:
    """With the networks that the node brings."""
    redacted = strict(picture(NAME))
    assert redacted.regions
    assert redacted.means is not None
    assert redacted.means.second_look == "clean"


@needs_tesseract
def test_text_that_the_second_look_finds_is_blanked_too(strict: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """And looked at again: there, and nowhere else."""
    eyes = blind(strict, monkeypatch, [line(NAME)], [line(HIDDEN)], [])
    redacted = strict(picture(NAME, HIDDEN))
    mask = np.zeros((256, 384), bool)
    for r in redacted.regions:
        mask[r.y : r.y + r.h, r.x : r.x + r.w] = True
    assert mask[ink(NAME)].mean() > 0.98
    assert mask[ink(HIDDEN)].mean() > 0.98
    assert redacted.means is not None
    assert redacted.means.second_look == "clean"
    assert len(eyes.within) == 2
    assert all(place.y < 100 for place in eyes.within[0])
    assert all(place.y > 150 for place in eyes.within[1])


@needs_tesseract
def test_text_that_is_left_at_the_last_look_holds_the_picture(strict: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something new at every look: after two more rounds a person decides, and what he releases says so."""
    texts = [NAME, *((f"HOLGERSSON {word}", 20, 95 + 35 * i) for i, word in enumerate(("WILMA", "KARIN", "BERTA")))]
    lines = [line(text) for text in texts]
    looks = [[one] for one in lines[1:]]
    blind(strict, monkeypatch, lines[:1], *looks)
    with pytest.raises(TextLeft):
        strict(picture(*texts))
    blind(strict, monkeypatch, lines[:1], *looks)
    waived = strict.waive(picture(*texts))
    assert (waived.released, waived.strict) == (True, False)
    assert waived.means is not None
    assert waived.means.second_look == "waived"
    assert issubclass(TextLeft, RedactionUncertain)


@needs_tesseract
def test_a_picture_without_regions_is_not_looked_at_again(strict: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changed."""
    eyes = blind(strict, monkeypatch, [], [line(NAME)])
    assert strict(picture()).regions == ()
    assert eyes.within == []


# -- in parts
def test_blanked_views_are_copies() -> None:
    """What the next look needs as it was stays as it was; an even place is grey to the local rendering."""
    views = np.full((20, 30, 3), 200, np.uint8)
    grey, colour = (second.blanked(views, [Region(0, 5, 4, 10, 6, "date")], colour=of) for of in (False, True))
    assert (views == 200).all()
    assert grey[6, 7].tolist() == [0, 0, 128]
    assert colour[6, 7].tolist() == [0, 0, 0]
    for made in (grey, colour):
        made[4:10, 5:15] = 200
        assert (made == 200).all()


def test_lines_that_were_judged_before_are_no_news() -> None:
    """Neither what lies in a region, nor what stands where something was read and stays; beside both is."""
    region, stays = Region(0, 10, 10, 100, 20, "date"), Place(10, 50, 100, 20)
    within, known, fresh, half = (
        Line(x, y, 80, 16, vertical=False, score=0.9) for x, y in ((20, 12), (20, 51), (20, 100), (70, 12))
    )
    assert second.news([within, known, fresh, half], [region], [stays]) == [fresh, half]

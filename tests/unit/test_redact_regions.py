"""Unit: what is marked becomes rectangles with a margin, which stops at neighbours that stay, made of whole cells."""

from __future__ import annotations

import numpy as np
import pytest

from dicomnode.image import Image
from dicomnode.records import Region
from dicomnode.stages.redact.line import Place
from dicomnode.stages.redact.marks import Mark
from dicomnode.stages.redact.regions import PAD_PX, regions, without_inner
from tests.unit import pictures


@pytest.fixture(scope="module")
def image() -> Image:
    """200 columns and 100 rows, without cells."""
    return pictures.image(pictures.native(np.zeros((100, 200), np.uint8)))


def mark(x: int, y: int, w: int, h: int, reason: str | None = "date", *, read: bool = True) -> Mark:
    """A mark at a place."""
    return Mark(Place(x, y, w, h), reason, read=read)


def boxes(image: Image, *lines: list[Mark]) -> list[tuple[int, int, int, int]]:
    """x, y, w and h of the rectangles of some lines."""
    return [(r.x, r.y, r.w, r.h) for r in regions(lines, image, 0)]


def test_six_pixels_around_the_glyphs_go_with_them(image: Image) -> None:
    """On every side; the reason and the frame come along."""
    assert PAD_PX == 6
    assert regions([[mark(50, 40, 30, 12, "person")]], image, 0) == [Region(0, 44, 34, 42, 24, "person")]


def test_the_margin_ends_with_the_frame(image: Image) -> None:
    """A rectangle never reaches beyond the picture."""
    assert boxes(image, [mark(0, 0, 30, 12)]) == [(0, 0, 36, 18)]
    assert boxes(image, [mark(180, 95, 20, 5)]) == [(174, 89, 26, 11)]


@pytest.mark.parametrize(
    ("neighbour", "box"),
    [
        ((84, 40, 30, 12), (44, 34, 38, 24)),  # right, 4 away: 2 of it
        ((16, 40, 30, 12), (48, 34, 38, 24)),  # left
        ((50, 56, 30, 12), (44, 34, 42, 20)),  # below
        ((50, 24, 30, 12), (44, 38, 42, 20)),  # above
        ((86, 40, 30, 12), (44, 34, 42, 24)),  # far enough away
        ((80, 40, 30, 12), (44, 34, 36, 24)),  # at once beside it
    ],
)
def test_the_margin_stops_half_way_to_a_neighbour_that_stays(
    image: Image, neighbour: tuple[int, int, int, int], box: tuple[int, int, int, int]
) -> None:
    """The glyphs of a harmless word are left whole, in the same line or in another one."""
    goes, stays = mark(50, 40, 30, 12), mark(*neighbour, None)
    assert boxes(image, [goes, stays]) == [box]
    assert boxes(image, [goes], [stays]) == [box]


def test_what_could_not_be_read_stops_no_margin(image: Image) -> None:
    """In header mode it stays, but nobody knows where its glyphs are."""
    assert boxes(image, [mark(50, 40, 30, 12)], [mark(82, 40, 30, 12, None, read=False)]) == [(44, 34, 42, 24)]


def test_a_neighbour_in_the_glyphs_takes_nothing_from_them(image: Image) -> None:
    """Places that overlap: all of what goes, goes."""
    (x, y, w, h), = boxes(image, [mark(50, 40, 30, 12)], [mark(70, 44, 30, 12, None)])
    assert (x, y) <= (50, 40)
    assert x + w >= 80
    assert y + h >= 52


def test_words_that_go_side_by_side_meet(image: Image) -> None:
    """What stands between two of them, a stroke perhaps, is not left standing."""
    two = boxes(image, [mark(20, 40, 30, 12), mark(75, 40, 30, 12)])
    covered = np.zeros(200, bool)
    for x, _, w, _ in two:
        covered[x : x + w] = True
    assert covered[14:111].all()
    apart = boxes(image, [mark(20, 40, 30, 12), mark(55, 40, 10, 12, None), mark(75, 40, 30, 12)])
    assert all(x + w <= 55 or x >= 65 for x, _, w, _ in apart)


def test_rectangles_are_made_of_whole_cells() -> None:
    """Of a native YBR_FULL_422 frame two columns share their colour, so they go together."""
    pixels = np.zeros((40, 60, 2), np.uint8)
    ds = pictures.dataset(np.zeros((40, 60, 3), np.uint8), "YBR_FULL_422")
    image = pictures.image(pictures.part10(ds, pixels.tobytes()))
    assert image.cells == (1, 2)
    (box,) = boxes(image, [mark(21, 15, 10, 5)])
    assert box == (14, 9, 24, 17)


def test_a_rectangle_within_another_one_is_dropped() -> None:
    """Reading order, and nothing empty."""
    large, inner, other = Region(0, 10, 10, 50, 20, "date"), Region(0, 20, 12, 5, 5, "number"), Region(0, 0, 5, 9, 9, "date")
    assert without_inner([inner, large, Region(0, 1, 1, 0, 5, "date"), other, large]) == [other, large]


def test_nothing_that_goes_is_no_rectangle(image: Image) -> None:
    """Words that stay alone make none."""
    assert boxes(image, [mark(50, 40, 30, 12, None)], []) == []

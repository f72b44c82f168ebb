"""A map lies where its place says: to the pixel, on grids of any size, in strips, and not where it was not looked."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dicomnode.outputs import lay
from dicomnode.outputs.lay import Grid, belongs
from dicomnode.records import Placement, Region
from tests.unit.materials import a_map


def ramp(rows, cols):
    """A map whose value at the middle of each cell is the cell's place across, in cells."""
    return np.tile(np.arange(cols, dtype=np.float32) + 0.5, (rows, 1))


@pytest.mark.parametrize("place", [
    Placement(0, 0, 60, 90), Placement(10, 20, 40, 60), Placement(-15, 0, 90, 90), Placement(0, -30, 60, 150),
    Placement(2.3, 3.3, 50.1, 45.1),
], ids=["whole", "cropped", "letter-boxed", "pillar-boxed", "within pixels"])
@pytest.mark.parametrize("scale", [1, 2, 0.5])
def test_a_ramp_is_where_its_place_says(place, scale):
    """Between the middles of the cells a value is that of its very place; outside of the rectangle it is 0."""
    grid = Grid(round(60 * scale), round(90 * scale), (60, 90))
    values = grid.values(a_map(ramp(8, 10), place))
    assert values.shape == (grid.rows, grid.cols)
    down, across = ((np.arange(n) + 0.5) / scale for n in (grid.rows, grid.cols))
    inside = np.logical_and.outer(
        (down > place.top) & (down < place.top + place.height), (across > place.left) & (across < place.left + place.width),
    )
    assert (values[~inside] == 0).all()
    expected = np.clip((across - place.left) / place.width * 10, 0.5, 9.5)
    assert np.allclose(values[inside], np.broadcast_to(expected, values.shape)[inside], atol=1e-4)


def test_strips_join_without_a_seam(monkeypatch):
    """However many rows are made at a time, the values are the same."""
    one = a_map(np.random.default_rng(1).random((7, 5)), Placement(3, -2, 70, 48))
    grid = Grid(77, 41, (77, 41))
    whole = grid.values(one, [Region(0, 3, 10, 8, 30, "date")])
    monkeypatch.setattr(lay, "_STRIP_PIXELS", 41 * 3)
    strips = list(grid.strips(one, [Region(0, 3, 10, 8, 30, "date")]))
    assert {len(strip) for strip in strips} == {3, 77 % 3}
    assert np.array_equal(np.concatenate(strips), whole)


@pytest.mark.parametrize("scale", [1, 0.37, 2])
def test_what_is_cut_is_nothing(scale):
    """Every pixel that touches a region is 0, on the frame's own grid exactly those of the region."""
    region = Region(0, 11, 7, 21, 5, "header-match")
    grid = Grid(round(60 * scale), round(90 * scale), (60, 90))
    values = grid.values(a_map(np.ones((2, 2)), Placement(0, 0, 60, 90)), [region])
    down, across = ((np.arange(n) + 0.5) / scale for n in (grid.rows, grid.cols))
    within = np.logical_and.outer((down > 7) & (down < 12), (across > 11) & (across < 32))
    assert (values[within] == 0).all()
    if scale == 1:
        assert (values[~within] == 1).all()


def test_a_large_frame_needs_little_memory():
    """The values of sixteen million pixels are never there at once."""
    grid = Grid(4000, 4000, (4000, 4000))
    one = a_map(np.random.default_rng(1).random((64, 64)), Placement(0, 0, 4000, 4000))
    tracemalloc.start()
    pixels = sum(strip.size for strip in grid.strips(one))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pixels == 16_000_000
    assert peak < 32 << 20


def test_what_was_not_looked_at_belongs_to_no_mask():
    """Not even where the threshold is 0."""
    one = a_map(np.ones((2, 2)), Placement(0, 0, 10, 5), threshold=0)
    inside = belongs(Grid(10, 10, (10, 10)).values(one), one)
    assert inside[:, :5].all()
    assert not inside[:, 5:].any()

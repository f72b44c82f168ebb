"""Lays a map over the frame: from an array of the network's size to values of any grid of pixels.

**Way** The map's area is the rectangle of the frame that its place says; each of its cells is a value at the cell's middle,
and between the middles is interpolated linearly. A grid of pixels covers the whole frame in any size; what of it lies outside
of the rectangle was not looked at and is 0. Rows come in strips, so that a large frame needs little memory.

**Fails** Nothing.

**Limits** A place is scaled and shifted, not turned (`records.Placement`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.records import Map, Region

Values = NDArray[np.float32]
#: Pixels that are made at a time.
_STRIP_PIXELS = 1 << 20


def belongs(values: Values, one: Map) -> NDArray[np.bool_]:
    """Say which pixels a mask takes: those from its threshold on; what was not looked at is 0 and never one of them."""
    return (values >= (one.threshold or 0)) & (values > 0)


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels that cover a frame: of its own size, or as a picture of it was scaled."""

    rows: int
    cols: int
    #: Size of the frame.
    frame: tuple[int, int]

    def strips(self, one: Map, cut: Iterable[Region] = ()) -> Iterator[Values]:
        """Give the map's values from the first row to the last, (some rows, cols) at a time; 0 in the regions that are cut."""
        height = max(1, _STRIP_PIXELS // self.cols)
        cut = tuple(cut)
        across = _axis(self.cols, self.frame[1], one.place.left, one.place.width, one.values.shape[1])
        down = _axis(self.rows, self.frame[0], one.place.top, one.place.height, one.values.shape[0])
        wide: Values = one.values[:, across.low] * (1 - across.share) + one.values[:, across.high] * across.share
        wide[:, ~across.inside] = 0
        for first in range(0, self.rows, height):
            part = slice(first, min(first + height, self.rows))
            share = down.share[part, np.newaxis]
            strip: Values = wide[down.low[part]] * (1 - share) + wide[down.high[part]] * share
            strip[~down.inside[part]] = 0
            for region in cut:
                self._blank(strip, first, region)
            yield strip

    def values(self, one: Map, cut: Iterable[Region] = ()) -> Values:
        """Give all values at once."""
        return np.concatenate(list(self.strips(one, cut)))

    def _blank(self, strip: Values, first: int, region: Region) -> None:
        """Set 0 every pixel of the strip that touches the region."""
        down, across = self.rows / self.frame[0], self.cols / self.frame[1]
        top, bottom = int(np.floor(region.y * down)) - first, int(np.ceil((region.y + region.h) * down)) - first
        left, right = int(np.floor(region.x * across)), int(np.ceil((region.x + region.w) * across))
        strip[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 0


@dataclass(frozen=True, slots=True)
class _Axis:
    """For each pixel of one direction: the cells on both sides of its middle, the share of the second, and whether it is in."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: Values
    inside: NDArray[np.bool_]


def _axis(pixels: int, length: int, start: float, extent: float, cells: int) -> _Axis:
    middles = (np.arange(pixels) + 0.5) * (length / pixels)  # in pixels of the frame
    at = (middles - start) * (cells / extent)  # in cells, edge of the first one at 0
    inside = (at >= 0) & (at <= cells)
    behind = np.clip(at - 0.5, 0, cells - 1)
    low = np.floor(behind).astype(np.intp)
    return _Axis(low, np.minimum(low + 1, cells - 1), (behind - low).astype(np.float32), inside)

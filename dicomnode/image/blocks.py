"""The blocks of a sequential JPEG: which of them show a place, and the same code stream with some of them black.

**Way** `Blocks` walks the scans (`huffman`) and knows of each block of 8 x 8 samples its direct-current coefficient and
whether it has others. `fit` grows a place to what can be blanked with no pixel outside of it changing: to whole blocks; and
where components are subsampled, to whole blocks of theirs that are not black already, and further by the columns and rows into
which decoders draw a sample out when they enlarge it. `blanked` makes blocks black: direct current as low (high) as it goes,
the others 0. The bits of every other block are copied.

**Fails** `NotKnown` for a stream that is not understood, and for regions that are no whole blocks.

**Standard** ISO/IEC 10918-1 Annex A (blocks, units, sampling factors).

**Limits** Sequential Huffman streams of 1 or 3 components, the first of which is not subsampled, the others by 2 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.image import codecs
from dicomnode.image.huffman import NotKnown, Scan, Table, Unit, walk
from dicomnode.image.jpeg_parts import Component, Parts, Piece, join
from dicomnode.image.spec import Spec

Array = NDArray[Any]
#: x, y, width and height.
Place = tuple[int, int, int, int]
_SIDE = 8
#: The largest factor of subsampling; colour is drawn out by half of it.
_DRAWN_OUT = 2
#: Columns and rows at the edge of a blanked place of colours that need not be black: colour is drawn out on either side.
RIM = _DRAWN_OUT
#: Bits of a coefficient beyond those of a sample; the direct-current one is eight times a sample's mean.
_MORE_BITS = 2


@dataclass(frozen=True, slots=True)
class _Plane:
    """The blocks of one component."""

    #: Pixels that one block covers.
    across: int
    down: int
    #: Direct current of a black block.
    black: int
    #: Scan that has it, and its place there.
    scan: int
    place: int
    #: Number within the scan of each block, (rows, columns) of blocks.
    numbers: Array
    #: Which blocks are black as they are.
    already: Array

    @property
    def reach(self) -> tuple[int, int]:
        """Columns and rows around a block in which decoders show it too, as they enlarge it."""
        return self.across // _SIDE // 2, self.down // _SIDE // 2

    def within(self, mask: Array) -> Array:
        """Say which blocks show nowhere outside a mask of the frame."""
        (right, below), (rows, columns) = self.reach, mask.shape
        high, wide = self.numbers.shape
        open_ = np.zeros((high * self.down + 2 * below, wide * self.across + 2 * right), bool)
        open_[below : below + rows, right : right + columns] = ~mask
        sums = np.pad(np.cumsum(np.cumsum(open_, 0, np.int32), 1, np.int32), ((1, 0), (1, 0)))
        top, left = np.arange(high) * self.down, np.arange(wide) * self.across
        bottom, end = top + self.down + 2 * below, left + self.across + 2 * right
        outside = sums[bottom][:, end] - sums[top][:, end] - sums[bottom][:, left] + sums[top][:, left]
        return np.asarray(outside == 0)

    def meet(self, mask: Array) -> Array:
        """Say which blocks have a pixel in a mask of the frame."""
        rows, columns = mask.shape
        high, wide = self.numbers.shape
        # Blocks beyond the edge go with what is at the edge.
        padded = np.pad(mask, ((0, high * self.down - rows), (0, wide * self.across - columns)), mode="edge")
        return np.asarray(padded.reshape(high, self.down, wide, self.across).any(axis=(1, 3)))


class Blocks:
    """A code stream, block by block."""

    def __init__(self, taken: Parts, spec: Spec) -> None:
        components, black = taken.components, codecs.black(spec, spec.photometric)
        self._parts, self._shape = taken, (spec.rows, spec.columns)
        most = max(one.across for one in components), max(one.down for one in components)
        first = components[0]
        if not taken.sequential or (first.across, first.down) != most or any(
            most[0] % one.across or most[1] % one.down for one in components
        ):
            raise NotKnown
        if most[0] > _DRAWN_OUT * min(one.across for one in components) or most[1] > _DRAWN_OUT * min(
            one.down for one in components
        ):
            raise NotKnown
        self._scans: list[Scan] = []
        planes: dict[int, _Plane] = {}
        for piece in taken.scans:
            planes |= self._scan(piece, components, most, black)
        if len(planes) != len(components):
            raise NotKnown
        self._planes = [planes[number] for number in range(len(components))]

    @property
    def cell(self) -> tuple[int, int]:
        """Rows and columns of a unit: what a place is made of where nothing is black already."""
        return max(plane.down for plane in self._planes), max(plane.across for plane in self._planes)

    def _scan(
        self, piece: Piece, components: Sequence[Component], most: tuple[int, int], black: Sequence[float],
    ) -> dict[int, _Plane]:
        """Walk a scan; give the blocks of its components by number."""
        rows, columns = self._shape
        tables = {body[0]: Table(body) for body in piece.tables}
        numbers = _members(piece.header, components)
        alone = len(numbers) == 1
        units: list[Unit] = []
        for number, names in numbers.items():
            one = components[number]
            units += [Unit(number, tables[names >> 4], tables[16 | names & 15])] * (1 if alone else one.across * one.down)
        sides = [(_SIDE * most[0] // components[n].across, _SIDE * most[1] // components[n].down) for n in numbers]
        # A scan of one component has no more blocks than it needs; others have whole units.
        unit_across, unit_down = sides[0] if alone else (_SIDE * most[0], _SIDE * most[1])
        wide, high = -(-columns // unit_across), -(-rows // unit_down)
        scan = walk(piece.data, units, wide * high, self._parts.restart, self._parts.precision + _MORE_BITS)
        self._scans.append(scan)
        made: dict[int, _Plane] = {}
        for place, (number, side) in enumerate(zip(numbers, sides, strict=True)):
            one = components[number]
            a, d = (1, 1) if alone else (one.across, one.down)
            order = scan.members(number).reshape(high, wide, d, a).transpose(0, 2, 1, 3).reshape(high * d, wide * a)
            level = _level(black[number], self._parts, one)
            already = scan.even[order] & (scan.direct[order] == level)
            made[number] = _Plane(side[0], side[1], level, len(self._scans) - 1, place, order, already)
        return made

    def fit(self, place: Place) -> Place:
        """Grow a place to what can be blanked with no pixel outside of it changing."""
        rows, columns = self._shape
        x, y, w, h = place
        left, top, right, bottom = max(0, x), max(0, y), min(columns, x + w), min(rows, y + h)
        if left >= right or top >= bottom:
            return left, top, 0, 0
        drawn_out = 0, 0
        before = None
        while before != (left, top, right, bottom):
            before = left, top, right, bottom
            for plane in self._planes:
                a, d = plane.across, plane.down
                own = plane.already[top // d : -(-bottom // d), left // a : -(-right // a)]
                if plane.reach != (0, 0) and own.all():
                    continue
                drawn_out = max(drawn_out[0], plane.reach[0]), max(drawn_out[1], plane.reach[1])
                left, top = left // a * a, top // d * d
                right, bottom = -(-right // a) * a, -(-bottom // d) * d
        left, top = max(0, left - drawn_out[0]), max(0, top - drawn_out[1])
        return left, top, min(columns, right + drawn_out[0]) - left, min(rows, bottom + drawn_out[1]) - top

    def blanked(self, mask: Array) -> bytes:
        """Make the code stream with the blocks black that show within a mask of the frame and nowhere else.

        Raises
        ------
        NotKnown
            A pixel of the mask that is no neighbour of its edge would not be black.
        """
        core = self.core(mask)
        chosen = []
        for plane in self._planes:
            inside = plane.within(mask) & plane.meet(mask)
            if (plane.meet(core) & ~inside & ~plane.already).any():
                raise NotKnown
            chosen.append(inside)
        pieces = []
        for number, (scan, piece) in enumerate(zip(self._scans, self._parts.scans, strict=True)):
            blank = np.zeros(len(scan.begins), bool)
            direct = np.zeros(len(self._planes), np.int64)
            for component, plane in enumerate(self._planes):
                if plane.scan == number:
                    blank[plane.numbers[chosen[component]]] = True
                    direct[component] = plane.black
            tables, data = scan.written(blank, direct)
            pieces.append(Piece(tuple(table.body for table in tables), piece.header, data))
        return join(replace(self._parts, scans=pieces))

    def core(self, mask: Array) -> Array:
        """Give a mask without the columns and rows at its edge into which the colour of blocks is drawn out."""
        across, down = (max(plane.reach[i] for plane in self._planes) for i in (0, 1))
        return inner(mask, across, down)


def inner(mask: Array, across: int, down: int) -> Array:
    """Give a mask of a frame without so many columns and rows at its edge; what lies beyond the frame is not outside."""
    core = mask.copy()
    for axis, count in ((1, across), (0, down)):
        for _ in range(count):
            ahead, behind = np.roll(core, 1, axis), np.roll(core, -1, axis)
            np.moveaxis(ahead, axis, 0)[0] = True
            np.moveaxis(behind, axis, 0)[-1] = True
            core &= ahead & behind
    return core


def _members(header: bytes, components: Sequence[Component]) -> dict[int, int]:
    """Give number and tables of the components that a scan has."""
    names = [one.name for one in components]
    if len(set(names)) != len(names):
        raise NotKnown
    try:
        return {names.index(header[1 + 2 * i]): header[2 + 2 * i] for i in range(header[0])}
    except ValueError:
        raise NotKnown from None


def _level(black: float, taken: Parts, component: Component) -> int:
    """Give the quantised direct current of a block of one value: rounded outward, for decoders cut at the ends of the scale."""
    table = taken.quantisation[component.quantisation]
    step = table[1] << 8 | table[2] if table[0] >> 4 else table[1]
    if not step:
        raise NotKnown
    wanted = (round(black) - (1 << taken.precision - 1)) * _SIDE
    return -(-wanted // step) if wanted > 0 else wanted // step

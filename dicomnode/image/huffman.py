"""Walks the Huffman codes of a sequential JPEG scan: where each block begins and ends, and its direct-current coefficient.

**Way** `walk` looks up the code at every bit position of a piece of the data at once, then steps from block to block; no
coefficient but the first of a block is decoded. `Scan.written` gives the same data again with some blocks made even: the bits
of all others are copied, so that their coefficients cannot change. What lies between the last code and the end of the data is
not copied.

**Fails** `NotKnown` for data that are no such scan, and for a table that has no room for a code that is needed.

**Standard** ISO/IEC 10918-1 Annexes B.2.4.2, C, F.1.2, F.2.2 and K.

**Limits** Not for progressive scans, nor arithmetic coding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
#: Bytes whose bit positions are looked up at once, and what follows them, in which a unit that begins there ends.
_CHUNK, _REACH = 16 << 10, 4 << 10
#: End of block, and sixteen zeros.
_EOB, _ZRL = 0x00, 0xF0
#: Bits of a step, and how much of it says how far it goes among the coefficients.
_BITS, _SHIFT = 31, 5
_LONGEST = 16


class NotKnown(Exception):
    """The stream has something that is not understood."""


class Table:
    """A Huffman table as a DHT segment holds it: class and name, counts, symbols."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        counts, symbols = body[1:17], body[17:]
        self._codes: dict[int, tuple[int, int]] = {}
        code, at = 0, 0
        for length, count in enumerate(counts, 1):
            for symbol in symbols[at : at + count]:
                self._codes[symbol] = (code, length)
                code += 1
            at += count
            if code > 1 << length:
                raise NotKnown
            code <<= 1

    def symbols(self) -> tuple[Array, Array]:
        """Give length and symbol of the code with which each of the 65,536 words of 16 bits begins; length 0 for none."""
        lengths, names = np.zeros(1 << _LONGEST, np.uint8), np.zeros(1 << _LONGEST, np.uint8)
        for symbol, (code, length) in self._codes.items():
            own = slice(code << _LONGEST - length, code + 1 << _LONGEST - length)
            lengths[own], names[own] = length, symbol
        return lengths, names

    def code(self, symbol: int) -> Array:
        """Give the bits of a symbol, which the table has."""
        code, length = self._codes[symbol]
        return bits_of(code, length)

    def with_symbol(self, symbol: int) -> Table:
        """Give a table that has this symbol as well, all codes of the others as they are: it gets one behind them."""
        if symbol in self._codes:
            return self
        last, longest = max(self._codes.values(), key=lambda pair: (pair[1], pair[0]))
        # Of the code behind the last one, or of one that begins so; all ones is not for use.
        length = next((n for n in range(longest, _LONGEST + 1) if (last + 1 << n - longest) < (1 << n) - 1), 0)
        if not length:
            raise NotKnown
        counts = bytearray(self.body[1:17])
        counts[length - 1] += 1
        return Table(self.body[:1] + bytes(counts) + self.body[17:] + bytes([symbol]))


def bits_of(value: int, count: int) -> Array:
    """Give the last ``count`` bits of a number, the highest first."""
    return np.array([value >> place & 1 for place in range(count - 1, -1, -1)], np.uint8)


def _words(data: Array, positions: Array) -> Array:
    """Give the 16 bits from each position; ``data`` goes on for three bytes behind the last."""
    at = positions >> 3
    three = data[at].astype(np.uint32) << 16 | data[at + 1].astype(np.uint32) << 8 | data[at + 2]
    return np.asarray(three >> (8 - (positions & 7)).astype(np.uint32) & 0xFFFF)


@dataclass(frozen=True, slots=True)
class Unit:
    """One block of the unit of a scan (MCU): which of its components, and the tables of that."""

    component: int
    direct: Table
    alternating: Table


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan, block by block in its order."""

    units: tuple[Unit, ...]
    #: The data without stuffing and markers.
    data: Array
    #: Bit positions: of each block's begin, of the end of its direct-current part, and of its end.
    begins: Array
    splits: Array
    ends: Array
    #: Number of the stretch between restarts in which each block lies.
    stretch: Array
    #: Difference of each block's direct-current coefficient to that of the one before of its component, and that itself.
    differences: Array
    direct: Array
    #: Blocks that have nothing beside their direct-current coefficient.
    even: Array

    def members(self, component: int) -> Array:
        """Numbers of the blocks of one component, in their order."""
        count = len(self.units)
        own = [place for place, unit in enumerate(self.units) if unit.component == component]
        return np.asarray((np.arange(0, len(self.begins), count)[:, None] + np.array(own)).reshape(-1))

    def written(self, blank: Array, direct: Array) -> tuple[list[Table], bytes]:
        """Make the data with some blocks even.

        Parameters
        ----------
        blank
            Which blocks.
        direct
            Direct-current coefficient of each component of theirs.

        Returns
        -------
        tables, data
            The Huffman tables, those that miss a code having one more, and the data with stuffing and restart markers.
        """
        units = self.units
        place = np.arange(len(self.begins)) % len(units)
        of = np.array([unit.component for unit in units])[place]
        wanted = np.where(blank, direct[of], self.direct)
        differences = np.empty_like(wanted)
        for component in {unit.component for unit in units}:
            own = self.members(component)
            differences[own] = _differences(wanted[own], self.stretch[own])
        changed = np.flatnonzero((differences != self.differences) | (blank & ~self.even))
        tables = self._tables(changed, differences, blank)
        bits = np.unpackbits(self.data)
        made: list[bytes] = []
        borders = np.searchsorted(self.stretch, np.arange(int(self.stretch[-1]) + 2))
        for number, (first, behind) in enumerate(pairwise(borders.tolist())):
            pieces, at = [], int(self.begins[first])
            for block in changed[np.searchsorted(changed, first) : np.searchsorted(changed, behind)].tolist():
                unit = units[block % len(units)]
                pieces += [bits[at : self.begins[block]], *_coded(int(differences[block]), tables[unit.direct.body[0]])]
                at = int(self.splits[block])
                if blank[block]:
                    pieces.append(tables[unit.alternating.body[0]].code(_EOB))
                    at = int(self.ends[block])
            pieces.append(bits[at : self.ends[behind - 1]])
            whole = np.concatenate(pieces)
            filled = np.packbits(np.append(whole, np.ones(-whole.size % 8, np.uint8))).tobytes()
            made.append((bytes([0xFF, 0xD0 + (number - 1) % 8]) if number else b"") + filled.replace(b"\xff", b"\xff\0"))
        return [tables[name] for name in sorted(tables)], b"".join(made)

    def _tables(self, changed: Array, differences: Array, blank: Array) -> dict[int, Table]:
        """Give the tables by class and name, with every code that the changed blocks need."""
        tables = {table.body[0]: table for unit in self.units for table in (unit.direct, unit.alternating)}
        for place, unit in enumerate(self.units):
            own = changed[changed % len(self.units) == place]
            for size in {abs(value).bit_length() for value in differences[own].tolist()}:
                tables[unit.direct.body[0]] = tables[unit.direct.body[0]].with_symbol(size)
            if blank[own].any():
                tables[unit.alternating.body[0]] = tables[unit.alternating.body[0]].with_symbol(_EOB)
        return tables


def _coded(difference: int, table: Table) -> tuple[Array, Array]:
    """Give the bits of a difference (F.1.2.1)."""
    size = abs(difference).bit_length()
    return table.code(size), bits_of(difference if difference > 0 else difference - 1, size)


def _differences(values: Array, stretch: Array) -> Array:
    """Give what each value is apart from the one before; each stretch begins with 0."""
    before = np.roll(values, 1)
    before[np.flatnonzero(np.diff(stretch, prepend=-1))] = 0
    return values - before


def walk(data: bytes, units: Sequence[Unit], count: int, restart: int, largest: int) -> Scan:
    """Walk a scan.

    Parameters
    ----------
    data
        Between the header of the scan and the next marker, restart markers and stuffing within.
    units
        The blocks of one unit.
    count
        Units of the scan.
    restart
        Units between restart markers, 0 without.
    largest
        Bits that a coefficient may have.
    """
    pieces = _stretches(data)
    stretches = -(-count // restart) if restart else 1
    if len(pieces) != stretches:
        raise NotKnown
    joined = np.frombuffer(b"".join(pieces) + b"\xff" * (_REACH + 3), np.uint8)
    borders = np.cumsum([0, *map(len, pieces)]) * 8
    steps = _Steps(joined, units, largest)
    found: list[int] = []
    for number, (begin, end) in enumerate(pairwise(borders.tolist())):
        own = min(restart, count - number * restart) if restart else count
        behind = steps.through(begin, own, found)
        if behind > end:
            raise NotKnown
    marks = np.array(found, np.int64).reshape(-1, 3)
    order = np.arange(len(marks)) // len(units)
    stretch = order // restart if restart else np.zeros(len(marks), np.int64)
    differences, direct = np.zeros(len(marks), np.int64), np.zeros(len(marks), np.int64)
    even = np.zeros(len(marks), bool)
    for place, unit in enumerate(units):
        own_ = slice(place, None, len(units))
        differences[own_] = _magnitudes(joined, marks[own_, 0], marks[own_, 1], unit.direct)
        lengths, names = unit.alternating.symbols()
        words = _words(joined, marks[own_, 1])
        even[own_] = (names[words] == _EOB) & (marks[own_, 2] - marks[own_, 1] == lengths[words])
    scan = Scan(
        tuple(units), joined[: borders[-1] // 8], marks[:, 0], marks[:, 1], marks[:, 2], stretch, differences, direct, even,
    )
    for component in {unit.component for unit in units}:
        members = scan.members(component)
        sums = np.cumsum(differences[members])
        firsts = np.flatnonzero(np.diff(stretch[members], prepend=-1))
        before = np.repeat(sums[firsts] - differences[members][firsts], np.diff(np.append(firsts, len(members))))
        direct[members] = sums - before
    return scan


def _stretches(data: bytes) -> list[bytes]:
    """Part the data at the restart markers, which count from 0 to 7, and undo the stuffing."""
    pieces: list[bytes] = []
    first, at = 0, data.find(b"\xff")
    while at >= 0:
        marker = data[at + 1 : at + 2]
        if marker == bytes([0xD0 + len(pieces) % 8]):
            pieces.append(data[first:at])
            first = at + 2
        elif marker != b"\0":
            raise NotKnown
        at = data.find(b"\xff", at + 2)
    return [piece.replace(b"\xff\0", b"\xff") for piece in (*pieces, data[first:])]


def _magnitudes(data: Array, begins: Array, splits: Array, table: Table) -> Array:
    """Read the differences of direct current between two positions (F.2.2.1)."""
    sizes = table.symbols()[1][_words(data, begins)].astype(np.int64)
    values = _words(data, splits - sizes).astype(np.int64) >> 16 - sizes
    return np.where(values < (1 << sizes) >> 1, values - (1 << sizes) + 1, values)


class _Steps:
    """Goes over the data from block to block."""

    def __init__(self, data: Array, units: Sequence[Unit], largest: int) -> None:
        self._data = data
        self._plan = [(unit.direct.body[0], unit.alternating.body[0]) for unit in units]
        self._lookups: dict[int, Array] = {}
        for unit in units:
            self._lookups[unit.direct.body[0]] = _direct_steps(unit.direct, largest + 1)
            self._lookups[unit.alternating.body[0]] = _alternating_steps(unit.alternating, largest)
        self._base = self._limit = 0
        self._steps: list[tuple[list[int], list[int]]] = []

    def _look(self, position: int) -> None:
        """Look up the steps of every bit from a position on."""
        first, end = position // 8, len(self._data) - 3 - _REACH
        if first >= end:
            raise NotKnown
        behind = min(first + _CHUNK, end) + _REACH
        words = _words(self._data, np.arange(first * 8, behind * 8))
        made = {name: lookup[words].tolist() for name, lookup in self._lookups.items()}
        self._steps = [(made[direct], made[alternating]) for direct, alternating in self._plan]
        self._base, self._limit = first * 8, min(first + _CHUNK, end) * 8

    def through(self, begin: int, count: int, found: list[int]) -> int:
        """Go over so many units and note three positions of each block; give the position behind."""
        at = begin
        for _ in range(count):
            if not self._base <= at < self._limit:
                self._look(at)
            here, base = at - self._base, self._base
            for direct, alternating in self._steps:
                found.append(base + here)
                step = direct[here]
                if not step:
                    raise NotKnown
                here += step
                found.append(base + here)
                place = 1
                while place < 64:
                    step = alternating[here]
                    if not step:
                        raise NotKnown
                    here += step & _BITS
                    place += step >> _SHIFT
                if place != 64 and step >> _SHIFT != 64:
                    raise NotKnown
                found.append(base + here)
            at = base + here
        return at


def _direct_steps(table: Table, largest: int) -> Array:
    """Give the bits of a direct-current difference by the 16 bits with which it begins, 0 where none does."""
    lengths, sizes = (part.astype(np.uint16) for part in table.symbols())
    return np.where((lengths > 0) & (sizes <= largest), lengths + sizes, 0).astype(np.uint16)


def _alternating_steps(table: Table, largest: int) -> Array:
    """Give the bits of a coefficient, and over them how far it goes, by the 16 bits with which it begins."""
    lengths, names = (part.astype(np.uint16) for part in table.symbols())
    sizes, runs = names & 15, (names >> 4) + 1
    runs = np.where(names == _EOB, 64, runs)
    known = (lengths > 0) & (sizes <= largest) & ((sizes > 0) | (names == _EOB) | (names == _ZRL))
    return np.where(known, lengths + sizes | runs << _SHIFT, 0).astype(np.uint16)

"""Finds the bytes of single frames in pixel data, native or encapsulated, so that one frame at a time is in memory.

**Way** `index` looks at the description of the pixels and at the stream and gives an object with ``raw(i)``: the bytes of
frame i as they are stored. What the data set declares and what lies in the stream must agree.

**Fails** `Undecodable`: too few bytes or fragments, offsets that point nowhere, more frames than were declared (a frame
that nobody declared is a frame that nobody looks at).

**Standard** PS3.5 section 8.2 and Annex A.4 (encapsulation, offset tables), PS3.3 C.7.6.3.

**Limits** One fragment may not hold two frames. At most `FRAGMENTS_MAX` fragments, of which 12 bytes each are kept.
"""

from __future__ import annotations

import struct
from array import array
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.errors import Undecodable
from dicomnode.image.file import Parsed, PixelElement
from dicomnode.image.spec import FRAME_MAX_BYTES, Spec

#: Syntaxes in which a frame is one fragment (PS3.5 Annexes A.4.2 and A.4.13).
_ONE_FRAGMENT = frozenset(("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"))
#: End of a code stream, JPEG's and JPEG 2000's.
_END = b"\xff\xd9"
#: More would cost more memory than the pictures that they make.
FRAGMENTS_MAX = 1 << 20
_ITEM, _DELIMITER = 0xFFFEE000, 0xFFFEE0DD


class Frames(Protocol):
    """Gives frames as stored."""

    def raw(self, index: int) -> bytes:
        """Give the bytes of one frame."""


class Native:
    """Frames that lie one behind the other."""

    def __init__(self, stream: BinaryIO, pixels: PixelElement, spec: Spec) -> None:
        self._stream = stream
        self._pixels = pixels
        self._spec = spec
        needed = -(-spec.bits * spec.frames // 8)
        if spec.bits > FRAME_MAX_BYTES * 8:
            raise Undecodable("a frame is too large to be looked at")
        if pixels.length < needed or not _reaches(stream, pixels.offset + needed):
            raise Undecodable("there are fewer pixel data than declared")
        if spec.subsampled and spec.columns % 2:
            raise Undecodable("YBR_FULL_422 with an odd number of columns")

    def raw(self, index: int) -> bytes:
        """Give the bytes that hold frame ``index``; of 1 bit allocated, its first and last byte may be shared."""
        spec = self._spec
        first, last = index * spec.bits // 8, -(-(index + 1) * spec.bits // 8)
        swapped = not spec.little and spec.vr == "OW" and spec.bits_allocated <= 8
        if not swapped:
            return self._read(first, last)
        # PS3.5 section 8.1.1: OW of Big Endian holds 8-bit cells pairwise swapped, across frames as well.
        begin, end = first // 2 * 2, min(-(-last // 2) * 2, self._pixels.length)
        data = bytearray(self._read(begin, end))
        even = len(data) // 2 * 2
        data[0:even:2], data[1:even:2] = data[1:even:2], data[0:even:2]
        return bytes(data[first - begin : last - begin])

    def _read(self, first: int, last: int) -> bytes:
        self._stream.seek(self._pixels.offset + first)
        data = self._stream.read(last - first)
        if len(data) != last - first:
            raise Undecodable("there are fewer pixel data than declared")
        return data


def _reaches(stream: BinaryIO, end: int) -> bool:
    """Say whether a stream has so many bytes; of a deflated one no more are inflated."""
    stream.seek(end - 1)
    return bool(stream.read(1))


class Encapsulated:
    """Frames that lie in fragments."""

    def __init__(self, stream: BinaryIO, pixels: PixelElement, spec: Spec, ds: Dataset) -> None:
        self._stream = stream
        end = stream.seek(0, 2)
        stream.seek(pixels.offset)
        table, offsets = self._table(end, spec.frames)
        self._at, self._size = self._walk(end)
        #: Number of the first fragment of each frame, and of the one behind the last.
        self._firsts = self._group(table, offsets, spec, ds)
        if any(self._ends(number) for number in self._inner()):
            raise Undecodable("a fragment follows the end of its code stream")

    def raw(self, index: int) -> bytes:
        """Give the bytes of frame ``index``, its fragments joined."""
        own = slice(int(self._firsts[index]), int(self._firsts[index + 1]))
        if sum(self._size[own]) > FRAME_MAX_BYTES:
            raise Undecodable("a frame is too large to be looked at")
        return b"".join(self._read(at, size) for at, size in zip(self._at[own], self._size[own], strict=True))

    def _read(self, at: int, size: int) -> bytes:
        self._stream.seek(at)
        data = self._stream.read(size)
        if len(data) != size:
            raise Undecodable("a fragment ends too early")
        return data

    def _table(self, end: int, frames: int) -> tuple[int, NDArray[Any]]:
        """Give the number of entries of the Basic Offset Table, and the offsets when there is one for each frame."""
        tag, size = self._item()
        if tag != _ITEM or size % 4 or self._stream.tell() + size > end:
            raise Undecodable("encapsulated pixel data do not begin with an offset table")
        entries = size // 4
        if entries != frames:
            self._stream.seek(size, 1)
            return entries, np.zeros(0, np.uint64)
        return entries, np.frombuffer(self._stream.read(size), "<u4").astype(np.uint64)

    def _walk(self, end: int) -> tuple[array[int], array[int]]:
        """Give position and size of each fragment."""
        positions, sizes = array("Q"), array("I")
        while True:
            tag, size = self._item()
            if tag == _DELIMITER:
                return positions, sizes
            here = self._stream.tell()
            if tag != _ITEM or here + size > end:
                raise Undecodable("the fragments of the pixel data are broken")
            if len(positions) == FRAGMENTS_MAX:
                raise Undecodable("there are more fragments than are looked at")
            positions.append(here)
            sizes.append(size)
            self._stream.seek(here + size)

    def _item(self) -> tuple[int, int]:
        head = self._stream.read(8)
        if len(head) < 8:
            raise Undecodable("encapsulated pixel data end without a delimiter")
        group, element, size = struct.unpack("<HHL", head)
        return group << 16 | element, size

    def _group(self, entries: int, offsets: NDArray[Any], spec: Spec, ds: Dataset) -> NDArray[Any]:
        """Give the numbers of the fragments with which frames begin, and of the one behind the last."""
        count = len(self._at)
        if count < spec.frames:
            raise Undecodable("there are fewer fragments than frames")
        extended = ds.get("ExtendedOffsetTable")
        if isinstance(extended, bytes) and extended:
            entries = len(extended) // 8
            offsets = np.frombuffer(extended[: entries * 8], "<u8")
        if count > spec.frames and (entries > spec.frames or spec.transfer_syntax_uid in _ONE_FRAGMENT):
            raise Undecodable("there are more frames than declared")
        if entries == spec.frames and spec.frames > 1:
            return self._by_table(offsets)
        if count == spec.frames:
            return np.arange(count + 1)
        return self._by_marker(spec)

    def _inner(self) -> NDArray[Any]:
        """Numbers of the fragments that are not the last of their frame."""
        inner = np.ones(len(self._at), np.bool_)
        inner[self._firsts[1:] - 1] = False
        return np.flatnonzero(inner)

    def _ends(self, number: int) -> bool:
        """Say whether a code stream ends with this fragment, padding aside."""
        at, size = self._at[number], self._size[number]
        tail = min(size, 4)
        return self._read(at + size - tail, tail).rstrip(b"\0").endswith(_END)

    def _by_table(self, offsets: NDArray[Any]) -> NDArray[Any]:
        positions = np.frombuffer(self._at, np.uint64) - np.uint64(self._at[0])
        firsts = np.searchsorted(positions, offsets)
        if (firsts == len(positions)).any() or (positions[firsts] != offsets).any():
            raise Undecodable("an offset table points between fragments")
        if firsts[0] != 0 or (np.diff(firsts) <= 0).any():
            raise Undecodable("an offset table is out of order")
        return np.append(firsts, len(positions))

    def _by_marker(self, spec: Spec) -> NDArray[Any]:
        """Without a table a frame ends where its code stream ends (EOI, EOC)."""
        firsts = [0]
        for number, (at, size) in enumerate(zip(self._at, self._size, strict=True)):
            if number and self._read(at, min(size, 3)) in (b"\xff\xd8\xff", b"\xff\x4f\xff"):
                firsts.append(number)
        if len(firsts) != spec.frames:
            raise Undecodable("the fragments do not make the declared number of frames")
        return np.array([*firsts, len(self._at)])


def index(parsed: Parsed, pixels: PixelElement, spec: Spec) -> Frames:
    """Find the frames of the pixel data."""
    if spec.encapsulated:
        return Encapsulated(parsed.stream, pixels, spec, parsed.dataset)
    return Native(parsed.stream, pixels, spec)

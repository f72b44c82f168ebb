"""Finds the bytes of single frames in pixel data, native or encapsulated, so that one frame at a time is in memory.

**Way** `index` looks at the description of the pixels and at the stream and gives an object with ``raw(i)``: the bytes of
frame i as they are stored. What the data set declares and what lies in the stream must agree.

**Fails** `Undecodable`: too few bytes or fragments, offsets that point nowhere, more frames than were declared (a frame
that nobody declared is a frame that nobody looks at).

**Standard** PS3.5 section 8.2 and Annex A.4 (encapsulation, offset tables), PS3.3 C.7.6.3.

**Limits** One fragment may not hold two frames.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Protocol

from pydicom.dataset import Dataset

from dicomnode.errors import Undecodable
from dicomnode.image.file import Parsed, PixelElement
from dicomnode.image.spec import FRAME_MAX_BYTES, Spec

#: Syntaxes in which a frame is one fragment (PS3.5 Annexes A.4.2 and A.4.13).
_ONE_FRAGMENT = frozenset(("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"))
#: End of a code stream, JPEG's and JPEG 2000's.
_END = b"\xff\xd9"
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
        if pixels.length < needed or stream.seek(0, 2) < pixels.offset + needed:
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


class Encapsulated:
    """Frames that lie in fragments."""

    def __init__(self, stream: BinaryIO, pixels: PixelElement, spec: Spec, ds: Dataset) -> None:
        self._stream = stream
        end = stream.seek(0, 2)
        stream.seek(pixels.offset)
        table, start, fragments = self._walk(end)
        self._frames = self._group(table, start, fragments, spec, ds)

    def raw(self, index: int) -> bytes:
        """Give the bytes of frame ``index``, its fragments joined."""
        if sum(size for _, size in self._frames[index]) > FRAME_MAX_BYTES:
            raise Undecodable("a frame is too large to be looked at")
        return b"".join(self._read(at, size) for at, size in self._frames[index])

    def _read(self, at: int, size: int) -> bytes:
        self._stream.seek(at)
        data = self._stream.read(size)
        if len(data) != size:
            raise Undecodable("a fragment ends too early")
        return data

    def _walk(self, end: int) -> tuple[tuple[int, ...], int, list[tuple[int, int]]]:
        """Give the Basic Offset Table, where the first fragment's item starts, and (position, size) of each fragment."""
        tag, size = self._item()
        if tag != _ITEM or size % 4 or self._stream.tell() + size > end:
            raise Undecodable("encapsulated pixel data do not begin with an offset table")
        table = struct.unpack(f"<{size // 4}L", self._stream.read(size))
        start = self._stream.tell()
        fragments: list[tuple[int, int]] = []
        while True:
            tag, size = self._item()
            if tag == _DELIMITER:
                return table, start, fragments
            here = self._stream.tell()
            if tag != _ITEM or here + size > end:
                raise Undecodable("the fragments of the pixel data are broken")
            fragments.append((here, size))
            self._stream.seek(here + size)

    def _item(self) -> tuple[int, int]:
        head = self._stream.read(8)
        if len(head) < 8:
            raise Undecodable("encapsulated pixel data end without a delimiter")
        group, element, size = struct.unpack("<HHL", head)
        return group << 16 | element, size

    def _group(
        self, table: tuple[int, ...], start: int, fragments: list[tuple[int, int]], spec: Spec, ds: Dataset
    ) -> list[list[tuple[int, int]]]:
        """Give the fragments of each frame."""
        if len(fragments) < spec.frames:
            raise Undecodable("there are fewer fragments than frames")
        extended = ds.get("ExtendedOffsetTable")
        if isinstance(extended, bytes) and extended:
            table = struct.unpack(f"<{len(extended) // 8}Q", extended[: len(extended) // 8 * 8])
        if len(fragments) > spec.frames and (len(table) > spec.frames or spec.transfer_syntax_uid in _ONE_FRAGMENT):
            raise Undecodable("there are more frames than declared")
        if len(table) == spec.frames and spec.frames > 1:
            frames = _by_table(table, start, fragments)
        elif len(fragments) == spec.frames:
            return [[fragment] for fragment in fragments]
        else:
            frames = self._by_marker(fragments, spec)
        if any(self._ends(fragment) for frame in frames for fragment in frame[:-1]):
            raise Undecodable("a fragment follows the end of its code stream")
        return frames

    def _ends(self, fragment: tuple[int, int]) -> bool:
        """Say whether a code stream ends with this fragment, padding aside."""
        at, size = fragment
        tail = min(size, 4)
        return self._read(at + size - tail, tail).rstrip(b"\0").endswith(_END)

    def _by_marker(self, fragments: list[tuple[int, int]], spec: Spec) -> list[list[tuple[int, int]]]:
        """Without a table a frame ends where its code stream ends (EOI, EOC)."""
        frames: list[list[tuple[int, int]]] = [[]]
        for at, size in fragments:
            if self._read(at, min(size, 3)) in (b"\xff\xd8\xff", b"\xff\x4f\xff") and frames[-1]:
                frames.append([])
            frames[-1].append((at, size))
        if len(frames) != spec.frames:
            raise Undecodable("the fragments do not make the declared number of frames")
        return frames


def _by_table(table: tuple[int, ...], start: int, fragments: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    numbers = {at - 8 - start: i for i, (at, _) in enumerate(fragments)}
    try:
        firsts = [numbers[offset] for offset in table]
    except KeyError:
        raise Undecodable("an offset table points between fragments") from None
    if firsts[0] != 0 or firsts != sorted(set(firsts)):
        raise Undecodable("an offset table is out of order")
    return [fragments[a:b] for a, b in zip(firsts, [*firsts[1:], len(fragments)], strict=True)]


def index(parsed: Parsed, pixels: PixelElement, spec: Spec) -> Frames:
    """Find the frames of the pixel data."""
    if spec.encapsulated:
        return Encapsulated(parsed.stream, pixels, spec, parsed.dataset)
    return Native(parsed.stream, pixels, spec)

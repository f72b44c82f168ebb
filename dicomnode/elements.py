"""A walk over the elements of a data set that keeps only what it is asked for: bounded memory, any transfer syntax.

**Way** `Walker` reads one element after the other at the top level. Values that are not asked for are skipped, sequences and
items of undefined length too, however deep. `plain` and `deflated` are the two sources; both may carry a limit of bytes.

**Fails** `Broken` (a ValueError) with tag and offset, never a value, when the bytes make no sense or end too early.

**Standard** PS3.5 section 7.1 (elements), 7.5 (nesting), 6.2.2 note 2 (UN of undefined length is Implicit VR Little
Endian), Annex A.5 (deflated).

**Limits** A kept value is at most `KEEP_MAX_BYTES`; nesting at most `DEPTH_MAX` levels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

KEEP_MAX_BYTES = 64 << 10
DEPTH_MAX = 64
_CHUNK_BYTES = 64 << 10
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
#: VRs whose length has 16 bits (PS3.5 Table 7.1-2); every other one has 2 reserved bytes and 32 bits.
_SHORT = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split(),
)


class Broken(ValueError):
    """The bytes are no data set of this encoding, or they end too early."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written (PS3.5 Annex A)."""

    implicit: bool
    little: bool


@dataclass(frozen=True, slots=True)
class Source:
    """Bytes in order: ``read`` gives up to n of them, ``skip`` passes over n or raises `Broken`."""

    read: Callable[[int], bytes]
    skip: Callable[[int], None]


def plain(stream: BinaryIO, limit: int | None = None) -> Source:
    """Read from a seekable stream at its position."""
    here = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(here)
    if limit is not None:
        end = min(end, here + limit)

    def read(count: int) -> bytes:
        return stream.read(max(0, min(count, end - stream.tell())))

    def skip(count: int) -> None:
        if stream.tell() + count > end:
            raise Broken(f"a value reaches {stream.tell() + count - end} bytes beyond the end")
        stream.seek(count, 1)

    return Source(read, skip)


def deflated(stream: BinaryIO, limit: int | None = None) -> Source:
    """Inflate from a stream at its position, piece by piece, at most ``limit`` inflated bytes."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    ready = bytearray()
    left = [_UNDEFINED if limit is None else limit]

    def fill() -> bool:
        data = inflate.unconsumed_tail or stream.read(_CHUNK_BYTES)
        if inflate.eof or not data:
            return False
        try:
            ready.extend(inflate.decompress(data, _CHUNK_BYTES))
        except zlib.error:
            raise Broken("the deflated data set does not inflate") from None
        return True

    def read(count: int) -> bytes:
        count = min(count, left[0])
        while len(ready) < count and fill():
            pass
        piece = bytes(ready[:count])
        del ready[:count]
        left[0] -= len(piece)
        return piece

    def skip(count: int) -> None:
        while count:
            piece = len(read(min(count, _CHUNK_BYTES)))
            if not piece:
                raise Broken(f"a value reaches {count} bytes beyond the end")
            count -= piece

    return Source(read, skip)


class Walker:
    """Reads elements one after the other from a `Source`."""

    def __init__(self, source: Source, encoding: Encoding) -> None:
        self._source = source
        self._encoding = encoding
        #: Bytes that were looked at and not yet taken.
        self._ahead = b""
        #: Bytes that were taken or passed over.
        self.position = 0
        #: VR of the element that was read last, empty when it has none.
        self.vr = b""

    def settle(self) -> None:
        """See whether the first element is written as the transfer syntax says; some senders write it the other way."""
        first = self._look(6)
        if len(first) == 6:
            explicit = first[4:6].isalpha() and first[4:6].isupper()
            self._encoding = Encoding(implicit=not explicit, little=self._encoding.little)

    def group(self) -> int | None:
        """Group number of the next element, None at the end."""
        tag = self.tag()
        return None if tag is None else tag >> 16

    def tag(self) -> int | None:
        """Tag of the next element, None at the end."""
        raw = self._look(4)
        if not raw:
            return None
        if len(raw) < 4:
            raise Broken("the data set ends inside a tag")
        return self._tag(raw, self._encoding)

    def element(self, *, keep: bool) -> tuple[int, bytes]:
        """Read one element; its value is given when ``keep``, else passed over and given as ``b""``."""
        tag, vr, length = self._head(self._encoding)
        self.vr = vr
        if length == _UNDEFINED:
            self._skip_nested(tag, vr)
            return tag, b""
        if not keep or length > KEEP_MAX_BYTES:
            self._skip(length)
            return tag, b""
        return tag, self._take(length, tag)

    def _look(self, count: int) -> bytes:
        if len(self._ahead) < count:
            self._ahead += self._source.read(count - len(self._ahead))
        return self._ahead[:count]

    def _take(self, count: int, tag: int = 0) -> bytes:
        raw = self._look(count)
        if len(raw) < count:
            raise Broken(f"the data set ends inside ({tag >> 16:04X},{tag & 0xFFFF:04X})")
        self._ahead = self._ahead[count:]
        self.position += count
        return raw

    def _skip(self, count: int) -> None:
        self._source.skip(count)
        self.position += count

    @staticmethod
    def _tag(raw: bytes, encoding: Encoding) -> int:
        group, number = struct.unpack("<HH" if encoding.little else ">HH", raw[:4])
        return int(group) << 16 | int(number)

    def _head(self, encoding: Encoding) -> tuple[int, bytes, int]:
        """Tag, VR (empty when implicit) and length; nothing stays looked at, so that ``skip`` may follow."""
        order = "<" if encoding.little else ">"
        raw = self._take(8)
        tag = self._tag(raw, encoding)
        if encoding.implicit or tag >> 16 == 0xFFFE:
            return tag, b"", int(struct.unpack(order + "L", raw[4:])[0])
        vr = raw[4:6]
        if not (vr.isalpha() and vr.isupper()):
            raise Broken(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has no value representation")
        if vr in _SHORT:
            return tag, vr, int(struct.unpack(order + "H", raw[6:])[0])
        return tag, vr, int(struct.unpack(order + "L", self._take(4, tag))[0])

    def _skip_nested(self, tag: int, vr: bytes) -> None:
        """Pass over a value of undefined length: items, their elements, and what is nested in them."""
        # One entry a level: the encoding inside, and whether we are between the items (True) or inside one (False).
        levels = [(self._inner(vr, self._encoding), True)]
        while levels:
            encoding, between = levels[-1]
            inner, inner_vr, length = self._head(encoding)
            if inner == (_SEQUENCE_END if between else _ITEM_END):
                levels.pop()
            elif between and inner == _ITEM:
                if length == _UNDEFINED:
                    levels.append((encoding, False))
                else:
                    self._skip(length)
            elif between or inner >> 16 == 0xFFFE:
                raise Broken(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has no items where items belong")
            elif length == _UNDEFINED:
                levels.append((self._inner(inner_vr, encoding), True))
            else:
                self._skip(length)
            if len(levels) > DEPTH_MAX:
                raise Broken(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is nested more than {DEPTH_MAX} levels deep")

    @staticmethod
    def _inner(vr: bytes, outer: Encoding) -> Encoding:
        return Encoding(implicit=True, little=True) if vr == b"UN" else outer

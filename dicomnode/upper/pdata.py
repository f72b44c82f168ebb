"""P-DATA-TF PDUs: presentation data values read out of a buffer, and fragments framed for writing.

**Way** `values` goes through the presentation data values of one PDU's body as views, without a copy. `head` gives the twelve
bytes that make one fragment a PDU of its own; `message` cuts a whole command set or data set into such PDUs, as buffers for
one gathered write.

**Fails** `values` raises `command.Malformed` where lengths do not add up.

**Standard** PS3.8 sections 9.3.1 and 9.3.5, Annex E.2 (message control header); D.1 (Maximum Length is of the PDU without
its first six bytes).

**Limits** One presentation data value a PDU when writing, as everybody does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dicomnode.upper.command import Malformed
from dicomnode.upper.pdus import P_DATA_TF

#: Bits of the message control header.
COMMAND, LAST = 0x01, 0x02
#: What of a PDU's length is no data: item length, context id, control header.
OVERHEAD = 6
#: Fragment length where a peer sets no limit (Maximum Length 0).
UNLIMITED = 128 << 10
_ITEM = struct.Struct(">LBB")
_HEAD = struct.Struct(">BBLLBB")
_NO_DATA = _ITEM.size - 4


def values(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Give context id, control header and fragment of each presentation data value of a P-DATA-TF PDU's body."""
    at, end = 0, len(body)
    if not end:
        raise Malformed("a P-DATA-TF PDU without a presentation data value")
    while at < end:
        if end - at < _ITEM.size:
            raise Malformed("a P-DATA-TF PDU ends inside an item")
        length, context_id, control = _ITEM.unpack_from(body, at)
        stop = at + 4 + length
        if length < _NO_DATA or stop > end:
            raise Malformed("a presentation data value is longer than its PDU, or has no header")
        yield context_id, control, body[at + _ITEM.size:stop]
        at = stop


def room(max_pdu_bytes: int) -> int:
    """Give the longest fragment that fits a peer's Maximum Length (0: no limit)."""
    return max(max_pdu_bytes - OVERHEAD, 1) if max_pdu_bytes else UNLIMITED


def head(context_id: int, control: int, length: int) -> bytes:
    """Give PDU and item header of a PDU that holds one fragment of ``length`` bytes."""
    return _HEAD.pack(P_DATA_TF, 0, length + OVERHEAD, length + _NO_DATA, context_id, control)


def message(context_id: int, data: bytes | memoryview, max_pdu_bytes: int, control: int = COMMAND) -> list[bytes | memoryview]:
    """Cut a whole command set (or data set, ``control`` 0) into PDUs: header and fragment in turn."""
    view, longest = memoryview(data), room(max_pdu_bytes)
    buffers: list[bytes | memoryview] = []
    for start in range(0, max(len(view), 1), longest):
        fragment = view[start:start + longest]
        last = LAST if start + longest >= len(view) else 0
        buffers += [head(context_id, control | last, len(fragment)), fragment]
    return buffers

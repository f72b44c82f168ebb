"""Command sets of DIMSE messages as bytes: read into a `Command`, and written for C-STORE, C-ECHO and refusals.

**Way** `parse` reads a whole command set; `store_rq`, `echo_rq` and `response` give one that is ready for `pdata.message`.
A command set is always Implicit VR Little Endian (PS3.7 section 6.3.1), so tag, length and value are all there is.

**Fails** `parse` raises `Malformed`: an element runs over the end, stands twice or is not of group 0000, a number is not of
two bytes, or what every message must have is absent. Its text holds tags, never values.

**Standard** PS3.7 sections 6.3.1, 9.3 and Annex E.

**Limits** Elements that neither C-STORE nor C-ECHO uses are passed over. What names no UID is an empty text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from dicomnode import uids

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
C_CANCEL_RQ = 0x0FFF
#: Set in the command field of every response.
RESPONSE = 0x8000
#: (0000,0800) of a message without a data set; every other value says that there is one.
NO_DATA_SET = 0x0101
_DATA_SET = 0x0001
#: (0000,0700)
MEDIUM = 0x0000
#: Longer command sets are nobody's.
MAX_BYTES = 64 << 10

_SOP_CLASS, _REQUESTED_SOP_CLASS, _FIELD = 0x0002, 0x0003, 0x0100
_MESSAGE_ID, _RESPONDED_TO, _PRIORITY, _DATA_SET_TYPE, _STATUS = 0x0110, 0x0120, 0x0700, 0x0800, 0x0900
_SOP_INSTANCE, _REQUESTED_SOP_INSTANCE = 0x1000, 0x1001
_NUMBERS = frozenset((_FIELD, _MESSAGE_ID, _RESPONDED_TO, _PRIORITY, _DATA_SET_TYPE, _STATUS))
_HEAD = struct.Struct("<HHL")
_NUMBER = struct.Struct("<HHLH")
_GROUP_LENGTH = struct.Struct("<HHLL")


class Malformed(ValueError):
    """Bytes of a peer that the standard does not allow; the association is aborted."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a command set says."""

    #: (0000,0100), see C_STORE_RQ and its like.
    field: int
    #: (0000,0110) of a request, 0 where a response has none.
    message_id: int
    #: (0000,0120) of a response or C-CANCEL, 0 of a request.
    responded_to: int
    has_data_set: bool
    #: Affected or Requested SOP Class UID as sent, without padding; anything that a peer may write.
    sop_class_uid: str
    #: Affected or Requested SOP Instance UID likewise.
    sop_instance_uid: str
    #: (0000,0900) of a response.
    status: int | None


def parse(raw: bytes | bytearray | memoryview) -> Command:
    """Read a whole command set; raises `Malformed`."""
    found: dict[int, bytes] = {}
    at, end = 0, len(raw)
    while at < end:
        if end - at < _HEAD.size:
            raise Malformed("a command set ends inside an element")
        group, element, length = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        if group or length > end - at:
            raise Malformed(f"({group:04X},{element:04X}) cannot stand in a command set, or runs over its end")
        if element in found:
            raise Malformed(f"(0000,{element:04X}) stands twice")
        found[element] = bytes(raw[at:at + length])
        at += length
    numbers: dict[int, int] = {}
    for element in _NUMBERS & found.keys():
        if len(found[element]) != 2:
            raise Malformed(f"(0000,{element:04X}) is not of two bytes")
        numbers[element] = int.from_bytes(found[element], "little")
    if _FIELD not in numbers or _DATA_SET_TYPE not in numbers:
        raise Malformed("(0000,0100) or (0000,0800) is absent")
    field = numbers[_FIELD]
    answers = field & RESPONSE or field == C_CANCEL_RQ
    if (_RESPONDED_TO if answers else _MESSAGE_ID) not in numbers or (field & RESPONSE and _STATUS not in numbers):
        raise Malformed("a message id or status is absent")
    return Command(
        field, numbers.get(_MESSAGE_ID, 0), numbers.get(_RESPONDED_TO, 0), numbers[_DATA_SET_TYPE] != NO_DATA_SET,
        uids.text_of(found.get(_SOP_CLASS, found.get(_REQUESTED_SOP_CLASS))),
        uids.text_of(found.get(_SOP_INSTANCE, found.get(_REQUESTED_SOP_INSTANCE))),
        numbers.get(_STATUS),
    )


def store_rq(message_id: int, sop_class_uid: str, sop_instance_uid: str, priority: int = MEDIUM) -> bytes:
    """Give the command set of a C-STORE-RQ (PS3.7 Table 9.3-1)."""
    return _command((
        _uid(_SOP_CLASS, sop_class_uid), _number(_FIELD, C_STORE_RQ), _number(_MESSAGE_ID, message_id),
        _number(_PRIORITY, priority), _number(_DATA_SET_TYPE, _DATA_SET), _uid(_SOP_INSTANCE, sop_instance_uid),
    ))


def echo_rq(message_id: int, sop_class_uid: str) -> bytes:
    """Give the command set of a C-ECHO-RQ (PS3.7 Table 9.3-12)."""
    return _command((
        _uid(_SOP_CLASS, sop_class_uid), _number(_FIELD, C_ECHO_RQ), _number(_MESSAGE_ID, message_id),
        _number(_DATA_SET_TYPE, NO_DATA_SET),
    ))


def response(request: Command, status: int) -> bytes:
    """Give the command set that answers a request, without a data set (PS3.7 Tables 9.3-2 and 9.3-13, and Annex C).

    A text of the request that has not the look of a UID is left out of the answer.
    """
    named = uids.has_look(request.sop_class_uid), uids.has_look(request.sop_instance_uid)
    return _command((
        _uid(_SOP_CLASS, request.sop_class_uid) if named[0] else b"", _number(_FIELD, request.field | RESPONSE),
        _number(_RESPONDED_TO, request.message_id), _number(_DATA_SET_TYPE, NO_DATA_SET), _number(_STATUS, status),
        _uid(_SOP_INSTANCE, request.sop_instance_uid) if named[1] else b"",
    ))


def _command(elements: Iterable[bytes]) -> bytes:
    body = b"".join(elements)
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def _number(element: int, value: int) -> bytes:
    return _NUMBER.pack(0, element, 2, value)


def _uid(element: int, text: str) -> bytes:
    value = text.encode("ascii")
    return _HEAD.pack(0, element, len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2)

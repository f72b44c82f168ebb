"""The few PDUs and messages that the drill's peers speak, as bytes; nothing of the node's own network code is used.

**Way** A fault in the node's framing would be shared, and so hidden, by a peer that is built on it; this one is written from
the standard alone. Functions build PDUs and read them; `read` takes one PDU from a socket.

**Fails** `Ended` when the other side closes or aborts, `Rejected` with result, source and reason, `Silent` when nothing
comes in time, `Wrong` for bytes that are no such PDU.

**Standard** PS3.8 9.3 (PDUs), PS3.7 6.3.1 and E.1 (command set, Implicit VR Little Endian).

**Limits** C-STORE and C-ECHO; one transfer syntax for each presentation context that is accepted, the first proposed.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence

RQ, AC, RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
C_STORE_RQ, C_STORE_RSP, C_ECHO_RQ, C_ECHO_RSP = 0x0001, 0x8001, 0x0030, 0x8030
#: Presentation context: id, abstract syntax, transfer syntaxes; in an answer: id, result, transfer syntax.
Proposed = tuple[int, str, tuple[str, ...]]
#: PS3.8 Table 9-18: results of a presentation context.
ACCEPTED, NO_ABSTRACT_SYNTAX = 0, 3
#: Of one fragment that we send; every receiver takes this much.
FRAGMENT = 16_000
_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_IMPLEMENTATION = b"2.25.260517093812756164183210117306513917325"
_MOST_BYTES = 1 << 24
_COMMAND, _LAST = 1, 2
_PRIORITY, _NO_DATA, _WITH_DATA = 0, 0x0101, 0x0001


class Wrong(Exception):
    """What the node does is wrong; the text is the sentence that the administrator reads."""


class Ended(Exception):
    """The other side closed the connection or aborted the association."""


class Silent(Ended):
    """Nothing came in time."""


class Rejected(Exception):
    """A-ASSOCIATE-RJ: result, source, reason."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"an association was rejected: {result}/{source}/{reason}")
        self.code = result, source, reason


# -- PDUs
def pdu(kind: int, body: bytes) -> bytes:
    """Frame a body."""
    return struct.pack(">BBL", kind, 0, len(body)) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _names(called: str, calling: str) -> bytes:
    return struct.pack(">HH16s16s32x", 1, 0, called.encode().ljust(16), calling.encode().ljust(16))


def _user(max_bytes: int) -> bytes:
    return _item(0x50, _item(0x51, struct.pack(">L", max_bytes)) + _item(0x52, _IMPLEMENTATION))


def associate_rq(called: str, calling: str, contexts: Sequence[Proposed]) -> bytes:
    """Ask for an association."""
    body = _names(called, calling) + _item(0x10, _APPLICATION_CONTEXT)
    for number, abstract, syntaxes in contexts:
        items = _item(0x30, abstract.encode()) + b"".join(_item(0x40, one.encode()) for one in syntaxes)
        body += _item(0x20, bytes([number, 0, 0, 0]) + items)
    return pdu(RQ, body + _user(131072))


def associate_ac(called: str, calling: str, answers: Sequence[tuple[int, int, str]]) -> bytes:
    """Accept an association with these contexts: id, result, transfer syntax."""
    body = _names(called, calling) + _item(0x10, _APPLICATION_CONTEXT)
    for number, result, syntax in answers:
        body += _item(0x21, bytes([number, 0, result, 0]) + _item(0x40, syntax.encode()))
    return pdu(AC, body + _user(131072))


def reject(result: int, source: int, reason: int) -> bytes:
    """Reject an association."""
    return pdu(RJ, bytes([0, result, source, reason]))


def abort() -> bytes:
    """A-ABORT by the service user."""
    return pdu(ABORT, bytes(4))


def request_of(body: bytes) -> tuple[str, str, list[Proposed]]:
    """Read an A-ASSOCIATE-RQ: called, calling, contexts."""
    called, calling = (body[at : at + 16].decode("ascii", "replace").strip() for at in (4, 20))
    contexts = []
    for kind, item in _items(body[68:]):
        if kind == 0x20:
            below = list(_items(item[4:]))
            abstract = next((value.decode() for sort, value in below if sort == 0x30), "")
            contexts.append((item[0], abstract, tuple(value.decode() for sort, value in below if sort == 0x40)))
    return called, calling, contexts


def accepted_of(body: bytes) -> frozenset[int]:
    """Read from an A-ASSOCIATE-AC which contexts were accepted."""
    return frozenset(item[0] for kind, item in _items(body[68:]) if kind == 0x21 and item[2] == ACCEPTED)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        if len(data) < 4 or len(data) < 4 + (size := int.from_bytes(data[2:4], "big")):
            raise Wrong("the node sent an association PDU whose items are longer than the PDU")
        yield data[0], data[4 : 4 + size]
        data = data[4 + size :]


# -- messages
def command(context: int, elements: Mapping[int, int | str]) -> bytes:
    """Give a P-DATA-TF of one command set; elements of group 0000 by number."""
    body = b""
    for number, value in sorted(elements.items()):
        text = value.encode() if isinstance(value, str) else struct.pack("<H", value)
        text += b"\0" * (len(text) % 2)
        body += struct.pack("<HHL", 0, number, len(text)) + text
    body = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
    return _data(context, body, _COMMAND | _LAST)


def store_rq(context: int, message: int, sop_class: str, uid: str) -> bytes:
    """C-STORE-RQ."""
    return command(context, {
        0x0002: sop_class, 0x0100: C_STORE_RQ, 0x0110: message, 0x0700: _PRIORITY, 0x0800: _WITH_DATA, 0x1000: uid,
    })


def echo_rq(context: int, message: int) -> bytes:
    """C-ECHO-RQ."""
    return command(context, {0x0002: VERIFICATION, 0x0100: C_ECHO_RQ, 0x0110: message, 0x0800: _NO_DATA})


def response(context: int, kind: int, request: Mapping[int, bytes], status: int) -> bytes:
    """Answer a request."""
    elements: dict[int, int | str] = {
        0x0002: uid_in(request, 0x0002), 0x0100: kind, 0x0120: number_in(request, 0x0110), 0x0800: _NO_DATA, 0x0900: status,
    }
    if 0x1000 in request:
        elements[0x1000] = uid_in(request, 0x1000)
    return command(context, elements)


def data(context: int, content: bytes) -> Iterator[bytes]:
    """Give the P-DATA-TF PDUs of a data set."""
    for at in range(0, len(content), FRAGMENT):
        last = _LAST if at + FRAGMENT >= len(content) else 0
        yield _data(context, content[at : at + FRAGMENT], last)


def _data(context: int, fragment: bytes, flags: int) -> bytes:
    return pdu(DATA, struct.pack(">LBB", len(fragment) + 2, context, flags) + fragment)


def fragments(body: bytes) -> Iterator[tuple[int, bool, bool, bytes]]:
    """Read a P-DATA-TF: context, of a command, last, bytes."""
    while body:
        size = int.from_bytes(body[:4], "big") if len(body) >= 6 else 0
        if size < 2 or len(body) < 4 + size:
            raise Wrong("the node sent a P-DATA-TF whose values are longer than the PDU")
        yield body[4], bool(body[5] & _COMMAND), bool(body[5] & _LAST), body[6 : 4 + size]
        body = body[4 + size :]


def elements_of(body: bytes) -> dict[int, bytes]:
    """Read a command set."""
    found = {}
    while body:
        if len(body) < 8 or len(body) < 8 + (size := int.from_bytes(body[4:8], "little")):
            raise Wrong("the node sent a command set whose elements are longer than the command set")
        found[int.from_bytes(body[2:4], "little")] = body[8 : 8 + size]
        body = body[8 + size :]
    return found


def number_in(elements: Mapping[int, bytes], number: int) -> int:
    """Give a number of a command set; one that is not there is a fault of the node."""
    if number not in elements:
        raise Wrong(f"the node sent a command set without (0000,{number:04X})")
    return int.from_bytes(elements[number], "little")


def uid_in(elements: Mapping[int, bytes], number: int) -> str:
    """Give a UID of a command set, empty when it is not there."""
    return elements.get(number, b"").rstrip(b"\0 ").decode("ascii", "replace")


# -- the socket
def read(sock: socket.socket) -> tuple[int, bytes]:
    """Take one PDU from a socket."""
    head = _exactly(sock, 6)
    kind, size = head[0], int.from_bytes(head[2:6], "big")
    if not RQ <= kind <= ABORT or size > _MOST_BYTES:
        raise Wrong(f"the node sent what is no PDU (type 0x{kind:02X}, {size} bytes)")
    return kind, _exactly(sock, size)


def _exactly(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = sock.recv(size - len(parts))
        except TimeoutError:
            raise Silent("nothing came in time") from None
        except OSError as error:
            raise Ended(f"the connection broke ({type(error).__name__})") from None
        if not part:
            raise Ended("the connection was closed")
        parts += part
    return bytes(parts)


def write(sock: socket.socket, content: bytes) -> None:
    """Write to a socket."""
    try:
        sock.sendall(content)
    except TimeoutError:
        raise Silent("the other side does not read") from None
    except OSError as error:
        raise Ended(f"the connection broke ({type(error).__name__})") from None

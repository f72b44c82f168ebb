"""Conversations that nobody should have with an acceptor: made from a seed, one a number, and judged by what was sent.

A conversation starts as a proper one (association request, C-STOREs and C-ECHOs, release) and is spoilt by up to three of
`SPOILERS`. `complete` reads what was sent as PS3.8 has it, with code of its own, so that a test can say which data sets the
acceptor may have kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

CT, MR, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
#: Presentation context id → SOP Class and its transfer syntaxes.
CONTEXTS = {1: (VERIFICATION, (IMPLICIT,)), 3: (CT, (IMPLICIT,)), 5: (MR, (IMPLICIT, EXPLICIT))}
#: Bytes of a conversation at most, so that its sender never waits for a reader that has gone.
_LONGEST = 120_000
_SUCCESS = 0x0000


@dataclass
class Conversation:
    """One connection: what is sent, how it ends, what came back."""

    number: int
    pdus: list[bytes]
    #: ``close``, ``half`` (end of sending, then wait for the end), ``reset``.
    end: str = "half"
    spoilt: list[str] = field(default_factory=list)
    answer: bytes = b""

    @property
    def raw(self) -> bytes:
        """What goes over the wire."""
        return b"".join(self.pdus)[:_LONGEST]

    def acknowledged(self) -> Iterator[str]:
        """SOP Instance UIDs that were answered 0x0000."""
        for _, control, fragment in _values(self.answer):
            if control & 1:
                found = _command(fragment)
                if found.get(0x0100) == b"\x01\x80" and found.get(0x0900) == _SUCCESS.to_bytes(2, "little"):
                    yield found.get(0x1000, b"").rstrip(b"\0").decode("ascii")


def conversation(seed: int, number: int) -> Conversation:
    """Make the conversation of a number; the same for the same seed."""
    dice = random.Random(f"{seed}/{number}")
    pdus = [request(dice)]
    for message in range(dice.choice((1, 1, 1, 2, 3))):
        pdus += _message(dice, f"1.2.{number + 1}.{message + 1}", message + 1)
    pdus.append(_pdu(5, bytes(4)))
    made = Conversation(number, pdus, end=dice.choice(("half", "half", "half", "close", "reset")))
    for spoil in dice.sample(SPOILERS, dice.choice((1, 1, 1, 2, 3))):
        if made.pdus:
            spoil(dice, made.pdus)
            made.spoilt.append(spoil.__name__)
    return made


def hold(made: Conversation, port: int) -> None:
    """Have it; what the acceptor does to the connection is its right."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        if made.end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(ConnectionError):
            sock.sendall(made.raw)
            if made.end == "half":
                sock.shutdown(socket.SHUT_WR)
                while came := sock.recv(65536):
                    made.answer += came


def complete(raw: bytes) -> set[bytes]:
    """Give SHA-256 of every data set that is complete in what was sent, whatever stands before or behind it."""
    found, message = set(), b""
    for _, control, fragment in _values(raw):
        if control & 1:
            message = b""
        else:
            message += fragment
            if control & 2:
                found.add(hashlib.sha256(message).digest())
                message = b""
    return found


# -- proper PDUs
def _pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def request(dice: random.Random) -> bytes:
    """An A-ASSOCIATE-RQ for `CONTEXTS`."""
    body = struct.pack(">HH16s16s32x", 1, 0, b"DICOMNODE".ljust(16), b"FUZZ".ljust(16)) + _item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (sop_class, syntaxes) in CONTEXTS.items():
        names = _item(0x30, sop_class.encode()) + b"".join(_item(0x40, syntax.encode()) for syntax in syntaxes)
        body += _item(0x20, bytes((number, 0, 0, 0)) + names)
    longest = dice.choice((0, 7, 128, 16384, 1 << 20))
    return _pdu(1, body + _item(0x50, _item(0x51, struct.pack(">L", longest)) + _item(0x52, b"1.2.3.4")))


def _element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHL", group, number, len(value)) + value


def _uid(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


def _us(number: int) -> bytes:
    return struct.pack("<H", number)


def _message(dice: random.Random, uid: str, message_id: int) -> list[bytes]:
    kind = dice.random()
    if kind < 0.2:
        return _fragments(dice, 1, _echo(message_id))
    if kind < 0.3:
        other = dice.choice((0x10, 0x20, 0x21, 0x100, 0x110, 0x120, 0x130, 0x140, 0x150, 0xFFF, 0x8001, 0x7777))
        more = {0x120: _us(message_id), 0x900: _us(0)} if other in {0xFFF, 0x8001} else {}
        elements = {2: _uid(CT), 0x100: _us(other), 0x110: _us(message_id), 0x800: _us(0x101), **more}
        return _fragments(dice, 3, _command_set(elements))
    number, (sop_class, _) = dice.choice(list(CONTEXTS.items())[1:])
    command = _command_set({
        2: _uid(sop_class), 0x100: _us(1), 0x110: _us(message_id), 0x700: _us(0), 0x800: _us(0), 0x1000: _uid(uid),
    })
    # Implicit VR is what the acceptor takes of context 3; of 5 it takes Explicit VR and tells by the first element.
    data = b"".join(_element(element, value, group=8) for element, value in (
        (0x16, _uid(sop_class)), (0x18, _uid(uid)), (0x60, b"CT"),
    )) + _element(0x10, dice.randbytes(2 * dice.choice((0, 1, 50, 1000, 10_000))), group=0x7FE0)
    return _fragments(dice, number, command) + _fragments(dice, number, data, command=False)


def _echo(message_id: int) -> bytes:
    return _command_set({2: _uid(VERIFICATION), 0x100: _us(0x30), 0x110: _us(message_id), 0x800: _us(0x101)})


def _command_set(elements: dict[int, bytes]) -> bytes:
    body = b"".join(_element(number, elements[number]) for number in sorted(elements))
    return _element(0, struct.pack("<L", len(body))) + body


def _fragments(dice: random.Random, context_id: int, data: bytes, *, command: bool = True) -> list[bytes]:
    """Cut into presentation data values and these into PDUs, in one of the ways that are allowed."""
    step = dice.choice((len(data) or 1, len(data) or 1, max(len(data) // 3, 1), 200))
    pieces = [data[at:at + step] for at in range(0, len(data), step)] or [b""]
    values = [
        struct.pack(">LBB", len(piece) + 2, context_id, command | (2 if place == len(pieces) - 1 else 0)) + piece
        for place, piece in enumerate(pieces)
    ]
    together = dice.choice((1, 1, 2, len(values)))
    return [_pdu(4, b"".join(values[at:at + together])) for at in range(0, len(values), together)]


# -- what spoils them; each changes the list
def cut(dice: random.Random, pdus: list[bytes]) -> None:
    """End in the middle of something."""
    place = dice.randrange(len(pdus))
    del pdus[place + 1:]
    pdus[place] = pdus[place][:dice.randrange(len(pdus[place]) + 1)]


def oversize(dice: random.Random, pdus: list[bytes]) -> None:
    """Claim more than there is, up to 4 GiB."""
    place = dice.randrange(len(pdus))
    pdus[place] = pdus[place][:2] + struct.pack(">L", dice.choice((1 << 17, 1 << 20, 1 << 31, 0xFFFFFFFF))) + pdus[place][6:]


def wrong_length(dice: random.Random, pdus: list[bytes]) -> None:
    """Be off by a few in a PDU's length."""
    place = dice.randrange(len(pdus))
    length = int.from_bytes(pdus[place][2:6], "big") + dice.randint(-20, 20)
    pdus[place] = pdus[place][:2] + struct.pack(">L", max(length, 0) % (1 << 32)) + pdus[place][6:]


def wrong_inner_length(dice: random.Random, pdus: list[bytes]) -> None:
    """Be off in four bytes somewhere inside: of an item, a value, an element."""
    place = dice.randrange(len(pdus))
    if len(pdus[place]) > 12:
        at = dice.randrange(6, min(len(pdus[place]) - 4, 120))
        pdus[place] = pdus[place][:at] + struct.pack(">L", dice.choice((0, 1, 2, 3, 0xFFFF, 0xFFFFFFFF))) + pdus[place][at + 4:]


def wrong_type(dice: random.Random, pdus: list[bytes]) -> None:
    """Say that a PDU is another."""
    place = dice.randrange(len(pdus))
    pdus[place] = bytes((dice.choice((*range(9), dice.randrange(256))),)) + pdus[place][1:]


def reorder(dice: random.Random, pdus: list[bytes]) -> None:
    """Mix up the order."""
    dice.shuffle(pdus)


def repeat(dice: random.Random, pdus: list[bytes]) -> None:
    """Say something again, at once or later."""
    pdus.insert(dice.randrange(len(pdus) + 1), dice.choice(pdus))


def leave_out(dice: random.Random, pdus: list[bytes]) -> None:
    """Miss a PDU."""
    del pdus[dice.randrange(len(pdus))]


def insert(dice: random.Random, pdus: list[bytes]) -> None:
    """Put in a PDU of noise, or noise that is none."""
    noise = dice.randbytes(dice.choice((1, 5, 6, 40, 3000)))
    place = dice.choice((1, len(pdus), dice.randrange(len(pdus) + 1)))
    pdus.insert(place, dice.choice((noise, _pdu(4, noise), _pdu(dice.randrange(1, 8), noise))))


def wrong_context(dice: random.Random, pdus: list[bytes]) -> None:
    """Change context id or control header of the first value of a P-DATA-TF."""
    places = [place for place, pdu in enumerate(pdus) if pdu[:1] == b"\4" and len(pdu) > 12]
    if places:
        place, at = dice.choice(places), dice.choice((10, 11))
        value = dice.choice((0, 1, 2, 3, 4, 5, 7, 255, dice.randrange(256)))
        pdus[place] = pdus[place][:at] + bytes((value,)) + pdus[place][at + 1:]


def flip(dice: random.Random, pdus: list[bytes]) -> None:
    """Change some bytes, mostly where it matters: near the front."""
    for _ in range(dice.choice((1, 3, 20))):
        place = dice.randrange(len(pdus))
        if pdus[place]:
            at = dice.randrange(min(len(pdus[place]), dice.choice((20, 200, 100_000))))
            pdus[place] = pdus[place][:at] + bytes((dice.randrange(256),)) + pdus[place][at + 1:]


def broken_command(dice: random.Random, pdus: list[bytes]) -> None:
    """A command set of elements that are absent, double, too long, of another group or of the wrong kind."""
    elements = [
        (2, _uid(dice.choice((CT, MR, "", "1..2", "x" * 70)))), (0x100, _us(dice.choice((1, 1, 1, 0x30, 0x8001)))),
        (0x110, _us(9)), (0x700, _us(0)), (0x800, _us(dice.choice((0, 1, 0x101)))),
        (0x1000, _uid(f"1.3.{dice.getrandbits(60)}")),
    ]
    for _ in range(dice.choice((1, 1, 2, 4))):
        place = dice.randrange(len(elements))
        number, value = elements[place]
        elements[place] = dice.choice((
            (number, b""), (number, value + b"\0\0"), (number, dice.randbytes(dice.choice((1, 2, 4, 100)))),
            (dice.randrange(0x10000), value), elements[dice.randrange(len(elements))],
        ))
    body = b"".join(_element(number, value, group=dice.choice((0, 0, 0, 0, 0, 8))) for number, value in elements)
    place = dice.randrange(1, len(pdus) + 1)
    pdus[place:place] = _fragments(dice, 3, body) + _fragments(dice, 3, dice.randbytes(500), command=False)


def broken_request(dice: random.Random, pdus: list[bytes]) -> None:
    """An association request with items twice, too many contexts, ids that are even or double, titles of anything."""
    contexts = b"".join(
        _item(0x20, bytes((dice.randrange(256), 0, 0, 0)) + _item(0x30, dice.choice((CT.encode(), b"", dice.randbytes(70))))
              + b"".join(_item(0x40, dice.choice((IMPLICIT.encode(), b"", b"\xff" * 9))) for _ in range(dice.randrange(4))))
        for _ in range(dice.choice((0, 1, 3, 200)))
    )
    titles = dice.choice((b"DICOMNODE".ljust(16), dice.randbytes(16)))
    titles += dice.choice((b"FUZZ".ljust(16), b" " * 16, dice.randbytes(16)))
    identity = _item(0x58, b"\1\1\0\2ab\0\1c")
    user = dice.choice((b"", *(_item(0x50, value) for value in (dice.randbytes(40), _item(0x51, b"\0"), identity))))
    body = struct.pack(">HH", dice.choice((1, 1, 1, 0, 2, 0xFFFF)), 0) + titles + bytes(32)
    pdus[0] = _pdu(1, body + _item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user)


def storm(dice: random.Random, pdus: list[bytes]) -> None:
    """Many messages in one PDU, or fragments without data."""
    one = struct.pack(">LBB", 2, dice.choice((1, 3)), dice.choice((0, 1, 2, 3)))
    values = b"".join(pdu[6:] for pdu in _fragments(dice, 1, _echo(1)))
    pdus.insert(dice.randrange(1, len(pdus) + 1), _pdu(4, dice.choice((one * 2000, values * 40))))


SPOILERS: tuple[Callable[[random.Random, list[bytes]], None], ...] = (
    cut, oversize, wrong_length, wrong_inner_length, wrong_type, reorder, repeat, leave_out, insert, wrong_context, flip,
    broken_command, broken_request, storm,
)


# -- reading, with code of its own
def _values(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Presentation data values of every P-DATA-TF PDU, up to the first thing that is none."""
    at = 0
    while at + 6 <= len(raw):
        kind, length = struct.unpack_from(">BxL", raw, at)
        body = raw[at + 6:at + 6 + length]
        if len(body) < length or not 1 <= kind <= 7:
            return
        at += 6 + length
        inner = 0
        while kind == 4 and inner + 6 <= len(body):
            size, context_id, control = struct.unpack_from(">LBB", body, inner)
            if size < 2 or inner + 4 + size > len(body):
                return
            yield context_id, control, body[inner + 6:inner + 4 + size]
            inner += 4 + size


def _command(raw: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 8 <= len(raw):
        _, number, length = struct.unpack_from("<HHL", raw, at)
        found[number] = raw[at + 8:at + 8 + length]
        at += 8 + length
    return found

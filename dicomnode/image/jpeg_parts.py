"""Takes a DCT JPEG apart into what its decoder needs, and puts it together again.

**Way** `parts` keeps the frame header, quantisation tables, restart interval, and each scan with the Huffman tables that it
names. Comments, application data, thumbnails, tables that no scan uses and whatever stands behind the end are not kept; JFIF
and Adobe markers, which decide the colour space, are written by `join` in one fixed form.

**Fails** `NotKnown` for what is not understood.

**Standard** ISO/IEC 10918-1 Annex B.

**Limits** Arithmetic coding, hierarchical streams, lines counted behind the scan (DNL) and quantisation tables that change
between scans are not understood.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from dicomnode.image.huffman import NotKnown
from dicomnode.image.spec import Spec

_SOI, _EOI, _SOS, _DQT, _DHT, _DRI, _APP0, _APP14, _COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xE0, 0xEE, 0xFE
#: Baseline, extended sequential and progressive, with Huffman coding.
PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1, PROGRESSIVE)
_JFIF = b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
#: Symbols of a table of direct-current coefficients are below this.
_DC_SYMBOLS = 17


@dataclass(frozen=True, slots=True)
class Piece:
    """One scan: the Huffman tables that it needs, its header, and its data with stuffing and restart markers."""

    tables: tuple[bytes, ...]
    header: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Component:
    """A component of the frame: its sampling factors and its quantisation table."""

    name: int
    across: int
    down: int
    quantisation: int


@dataclass(slots=True)
class Parts:
    """A code stream taken apart."""

    frame: bytes = b""
    kind: int = 0
    jfif: bool = False
    adobe: int | None = None
    #: Units between restart markers, 0 without.
    restart: int = 0
    quantisation: dict[int, bytes] = field(default_factory=dict)
    huffman: dict[int, bytes] = field(default_factory=dict)
    scans: list[Piece] = field(default_factory=list)

    @property
    def sequential(self) -> bool:
        """True when each scan holds whole blocks."""
        return self.kind != PROGRESSIVE

    @property
    def precision(self) -> int:
        """Bits of a sample."""
        return self.frame[0]

    @property
    def components(self) -> list[Component]:
        """What the frame header says of each component."""
        fields = [self.frame[6 + 3 * i : 9 + 3 * i] for i in range(self.frame[5])]
        return [Component(name, factors >> 4, factors & 15, table) for name, factors, table in fields]


def parts(raw: bytes, spec: Spec) -> Parts:
    """Take a code stream apart."""
    try:
        return _parts(raw, spec)
    except (IndexError, struct.error):
        raise NotKnown from None


def _parts(raw: bytes, spec: Spec) -> Parts:
    if raw[:2] != bytes([0xFF, _SOI]):
        raise NotKnown
    found, at = Parts(), 2
    while True:
        if raw[at] != 0xFF:
            raise NotKnown
        while raw[at] == 0xFF:
            at += 1
        marker, at = raw[at], at + 1
        if marker == _EOI:
            break
        (length,) = struct.unpack_from(">H", raw, at)
        body, at = raw[at + 2 : at + length], at + length
        if len(body) != length - 2:
            raise NotKnown
        if marker == _SOS:
            end = _scan_end(raw, at, found)
            found.scans.append(Piece(_tables_of(found, body), body, raw[at:end]))
            at = end
        else:
            _take(found, marker, body)
    if not found.scans:
        raise NotKnown
    _check(found, spec)
    return found


def _scan_end(raw: bytes, at: int, found: Parts) -> int:
    """Where the data of a scan end: at the first marker that is no restart."""
    while True:
        at = raw.find(b"\xff", at)
        if at < 0:
            raise NotKnown
        if raw[at + 1] and not (found.restart and 0xD0 <= raw[at + 1] <= 0xD7):
            return at
        at += 2


def _take(found: Parts, marker: int, body: bytes) -> None:
    """Keep what a segment says, when it is one that is needed."""
    if marker in _FRAMES and not found.frame:
        found.frame, found.kind = body, marker
    elif marker == _DQT and not found.scans:
        found.quantisation |= _quantisation(body)
    elif marker == _DHT:
        found.huffman |= _huffman(body)
    elif marker == _DRI and not found.scans:
        (found.restart,) = struct.unpack(">H", body)
    elif _APP0 <= marker <= _APP0 + 15:
        found.jfif = found.jfif or (marker == _APP0 and body[:5] == _JFIF[:5])
        if marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            found.adobe = body[11]
    elif marker != _COM:
        raise NotKnown


def _quantisation(body: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(body):
        size = 1 + (128 if body[at] >> 4 else 64)
        found[body[at] & 15] = body[at : at + size]
        at += size
    if at != len(body):
        raise NotKnown
    return found


def _huffman(body: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(body):
        count = sum(body[at + 1 : at + 17])
        table = body[at : at + 17 + count]
        symbols = table[17:]
        # A table names each symbol once; those of direct-current coefficients are few.
        if len(table) != 17 + count or len(set(symbols)) != count or (table[0] < 16 and any(s >= _DC_SYMBOLS for s in symbols)):
            raise NotKnown
        found[table[0]] = table
        at += 17 + count
    return found


def _tables_of(found: Parts, header: bytes) -> tuple[bytes, ...]:
    """The Huffman tables that a scan names, and needs for its band of coefficients."""
    count = header[0]
    if len(header) != 4 + 2 * count or not 1 <= count <= 4:
        raise NotKnown
    first, last, step = header[1 + 2 * count :]
    names = [header[2 + 2 * i] for i in range(count)]
    # Progressive: one band a scan, and refinements of direct current are of plain bits. Sequential: both, whatever it says.
    direct = {name >> 4 for name in names} if found.sequential or (first == 0 and not step >> 4) else set()
    needed = direct | ({16 | name & 15 for name in names} if found.sequential or last else set())
    if not needed <= found.huffman.keys():
        raise NotKnown
    return tuple(found.huffman[name] for name in sorted(needed))


def _check(found: Parts, spec: Spec) -> None:
    """The frame is that of the header: size, components, and bits that fit its cells."""
    frame = found.frame
    precision, rows, columns, count = struct.unpack_from(">BHHB", frame)
    if (rows, columns, count) != (spec.rows, spec.columns, spec.samples) or len(frame) != 6 + 3 * count:
        raise NotKnown
    if precision > spec.bits_allocated or not {one.quantisation for one in found.components} <= found.quantisation.keys():
        raise NotKnown
    if found.restart and not found.sequential:
        raise NotKnown


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def join(given: Parts) -> bytes:
    """Put a code stream together."""
    made = [bytes([0xFF, _SOI])]
    if given.jfif:
        made.append(_segment(_APP0, _JFIF))
    if given.adobe is not None:
        made.append(_segment(_APP14, b"Adobe\0\x64\0\0\0\0" + bytes([min(given.adobe, 2)])))
    used = {one.quantisation for one in given.components}
    made += [_segment(_DQT, given.quantisation[name]) for name in sorted(used)]
    made.append(_segment(given.kind, given.frame))
    if given.restart:
        made.append(_segment(_DRI, struct.pack(">H", given.restart)))
    for scan in given.scans:
        made += [*(_segment(_DHT, table) for table in scan.tables), _segment(_SOS, scan.header), scan.data]
    return b"".join((*made, bytes([0xFF, _EOI])))

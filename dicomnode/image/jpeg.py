"""Rebuilds a DCT JPEG of what its decoder needs and nothing else, so that a lossy frame can leave without being coded anew.

**Way** `rebuilt` takes a code stream apart and writes the frame header, the tables that the scans name and the scans again.
Comments, application data, thumbnails, tables that no scan uses and whatever stands behind the end are not written; JFIF and
Adobe markers, which decide the colour space, are written in one fixed form. `is_whole` proves by decoding that nothing else
is in it: the last bytes of each scan change the picture, and blocks that reach over the edge go on as the edge does.

**Fails** Nothing: a stream that cannot be vouched for gives None or False, and its decoded values are stored instead.

**Standard** ISO/IEC 10918-1 Annex B; PS3.5 Annex A.4.1 and 8.2.1.

**Limits** Restart intervals, arithmetic coding and hierarchical streams are not rebuilt. Up to three bytes behind the last
block of a scan, and symbols of a Huffman table that no block uses, go unseen.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

import imagecodecs
import numpy as np

from dicomnode.errors import Undecodable, UnsupportedTransferSyntax
from dicomnode.image import codecs
from dicomnode.image.file import guard
from dicomnode.image.spec import Spec

#: JPEG Baseline, Extended, and the retired Spectral Selection and Full Progression: what `rebuilt` takes.
SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55))
_SOI, _EOI, _SOS, _DQT, _DHT, _DRI, _APP0, _APP14, _COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xE0, 0xEE, 0xFE
#: Baseline, extended sequential and progressive, with Huffman coding.
_PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)
_JFIF = b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
#: What is cut from a scan to see whether it is needed, bytes.
_TAIL = 4
#: How far blocks over the edge may differ from the edge, as a share of the scale.
_EDGE = 0.35
#: Symbols of a table of direct-current coefficients are below this.
_DC_SYMBOLS = 17


@dataclass(slots=True)
class _Parts:
    """A code stream taken apart."""

    frame: bytes = b""
    kind: int = 0
    jfif: bool = False
    adobe: int | None = None
    quantisation: dict[int, bytes] = field(default_factory=dict)
    huffman: dict[int, bytes] = field(default_factory=dict)
    #: The tables of each scan, its header, and where its data begin and end.
    scans: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)


class _NotKnown(Exception):
    """The stream has something that is not rebuilt."""


def rebuilt(raw: bytes, spec: Spec) -> bytes | None:
    """Write a code stream again, from what is needed; None when it has parts that are not understood."""
    try:
        return _join(_parts(raw, spec))
    except (_NotKnown, IndexError, struct.error):
        return None


def is_whole(raw: bytes, spec: Spec) -> bool:
    """Say whether `rebuilt` gives the same values, and holds nothing that the picture does not show."""
    try:
        parts = _parts(raw, spec)
        clean = _join(parts)
        if not np.array_equal(codecs.decode(clean, spec)[0], codecs.decode(raw, spec)[0]):
            return False
        whole = _plain(clean)
        if whole is None or int(whole.max()) >> spec.bits_stored:
            return False
        for number, (tables, header, data) in enumerate(parts.scans):
            cut = [*parts.scans]
            cut[number] = (tables, header, data[:-_TAIL].removesuffix(b"\xff"))
            short = _plain(_join(replace(parts, scans=cut)))
            if short is not None and np.array_equal(whole, short):
                return False
        return _edge_goes_on(parts, spec)
    except (_NotKnown, IndexError, struct.error, Undecodable, UnsupportedTransferSyntax):
        return False


def _plain(raw: bytes) -> codecs.Array | None:
    """Decode with every bit that the stream has; None when it does not decode."""
    try:
        with guard("a frame does not decode"):
            return np.asarray(imagecodecs.jpeg_decode(raw))
    except Undecodable:
        return None


def _parts(raw: bytes, spec: Spec) -> _Parts:
    if raw[:2] != b"\xff\xd8":
        raise _NotKnown
    parts, at = _Parts(), 2
    while True:
        if raw[at] != 0xFF:
            raise _NotKnown
        while raw[at] == 0xFF:
            at += 1
        marker, at = raw[at], at + 1
        if marker == _EOI:
            break
        (length,) = struct.unpack_from(">H", raw, at)
        body, at = raw[at + 2 : at + length], at + length
        if len(body) != length - 2:
            raise _NotKnown
        if marker == _SOS:
            end = _scan_end(raw, at)
            parts.scans.append((_tables_of(parts, body), body, raw[at:end]))
            at = end
        else:
            _take(parts, marker, body)
    if not parts.scans:
        raise _NotKnown
    _check(parts, spec)
    return parts


def _scan_end(raw: bytes, at: int) -> int:
    """Where the data of a scan end: at the first marker; a restart is none that is rebuilt."""
    while True:
        at = raw.find(b"\xff", at)
        if at < 0:
            raise _NotKnown
        if raw[at + 1] != 0:
            return at
        at += 2


def _take(parts: _Parts, marker: int, body: bytes) -> None:
    """Keep what a segment says, when it is one that is needed."""
    if marker in _FRAMES and not parts.frame:
        parts.frame, parts.kind = body, marker
    elif marker == _DQT and not parts.scans:
        parts.quantisation |= _quantisation(body)
    elif marker == _DHT:
        parts.huffman |= _huffman(body)
    elif _APP0 <= marker <= _APP0 + 15:
        parts.jfif = parts.jfif or (marker == _APP0 and body[:5] == _JFIF[:5])
        if marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            parts.adobe = body[11]
    elif marker != _COM and (marker, body) != (_DRI, b"\0\0"):
        raise _NotKnown


def _quantisation(body: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(body):
        size = 1 + (128 if body[at] >> 4 else 64)
        found[body[at] & 15] = body[at : at + size]
        at += size
    if at != len(body):
        raise _NotKnown
    return found


def _huffman(body: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(body):
        count = sum(body[at + 1 : at + 17])
        table = body[at : at + 17 + count]
        symbols = table[17:]
        # A table names each symbol once; those of direct-current coefficients are few.
        if len(table) != 17 + count or len(set(symbols)) != count or (table[0] < 16 and any(s >= _DC_SYMBOLS for s in symbols)):
            raise _NotKnown
        found[table[0]] = table
        at += 17 + count
    return found


def _tables_of(parts: _Parts, header: bytes) -> bytes:
    """The Huffman tables that a scan names, and needs for its band of coefficients."""
    count = header[0]
    if len(header) != 4 + 2 * count or not 1 <= count <= 4:
        raise _NotKnown
    first, last, step = header[1 + 2 * count :]
    names = [header[2 + 2 * i] for i in range(count)]
    # Progressive: one band a scan, and refinements of direct current are of plain bits. Sequential: both, whatever it says.
    sequential = parts.kind != _PROGRESSIVE
    direct = {name >> 4 for name in names} if sequential or (first == 0 and not step >> 4) else set()
    needed = direct | ({16 | name & 15 for name in names} if sequential or last else set())
    if not needed <= parts.huffman.keys():
        raise _NotKnown
    return b"".join(_segment(_DHT, parts.huffman[name]) for name in sorted(needed))


def _check(parts: _Parts, spec: Spec) -> None:
    """The frame is that of the header: size, components, and bits that fit its cells."""
    frame = parts.frame
    precision, rows, columns, count = struct.unpack_from(">BHHB", frame)
    if (rows, columns, count) != (spec.rows, spec.columns, spec.samples) or len(frame) != 6 + 3 * count:
        raise _NotKnown
    if precision > spec.bits_allocated or not {frame[8 + 3 * i] for i in range(count)} <= parts.quantisation.keys():
        raise _NotKnown


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _join(parts: _Parts) -> bytes:
    made = [b"\xff\xd8"]
    if parts.jfif:
        made.append(_segment(_APP0, _JFIF))
    if parts.adobe is not None:
        made.append(_segment(_APP14, b"Adobe\0\x64\0\0\0\0" + bytes([min(parts.adobe, 2)])))
    used = {parts.frame[8 + 3 * i] for i in range(parts.frame[5])}
    made += [_segment(_DQT, parts.quantisation[name]) for name in sorted(used)]
    made.append(_segment(parts.kind, parts.frame))
    for tables, header, data in parts.scans:
        made += [tables, _segment(_SOS, header), data]
    return b"".join((*made, b"\xff\xd9"))


def _edge_goes_on(parts: _Parts, spec: Spec) -> bool:
    """Say whether the blocks that reach over the edge show what the edge shows: a cropped picture may hold more."""
    frame = parts.frame
    factors = [frame[7 + 3 * i] for i in range(frame[5])]
    across, down = (8 * max(f >> 4 for f in factors), 8 * max(f & 15 for f in factors)) if len(factors) > 1 else (8, 8)
    rows, columns = -(-spec.rows // down) * down, -(-spec.columns // across) * across
    if (rows, columns) == (spec.rows, spec.columns):
        return True
    enlarged = frame[:1] + struct.pack(">HH", rows, columns) + frame[5:]
    whole = _plain(_join(replace(parts, frame=enlarged)))
    if whole is None or whole.shape[:2] != (rows, columns):
        return False
    values = whole.astype(np.int64)
    inside = values[: spec.rows, : spec.columns]
    pad = ((0, rows - spec.rows), (0, columns - spec.columns), *(((0, 0),) if values.ndim == 3 else ()))
    apart = np.abs(values - np.pad(inside, pad, mode="edge"))
    return bool(apart.max() <= _EDGE * (1 << spec.bits_stored))

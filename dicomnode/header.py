"""The header of a spooled file: the meta that says who sent it, the peek at the door, and the `Instance` at intake.

**Way** The acceptor writes `file_meta` in front of the bytes of the data set, which stay as they were sent; `peek` reads up
to SOP Instance UID, so that the door can answer; `header` makes the `Instance`. Both walk the top level of the data set
with `elements.Walker`, in bounded memory, and stop before anything large.

The file meta (PS3.10 Table 7.1-1) of a received instance says who sent it, so that the database can be rebuilt from the
directory: (0002,0016) and (0002,0017) are the calling, (0002,0018) the called AE title; (0002,0026) and (0002,0027) are
``dicom://address`` of the caller and (0002,0028) ours; (0002,0100) is `PRIVATE_CREATOR_UID` and (0002,0102) the time of
reception in UTC and the process id of the acceptor, as ASCII ``2026-11-20T17:44:50.123456+00:00 4711``.

**Fails** `peek` raises `CannotUnderstand`, `header` raises `Undecodable`; their texts hold tags and offsets, never values.

**Standard** PS3.10 section 7.1, PS3.5 sections 6.2, 7.1, 7.5 and Annex A.

**Limits** A UID of digits and dots that breaks PS3.5 section 9.1 by a leading zero is taken: such UIDs exist and do no harm.
Elements out of order behind Series Instance UID are not looked for.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import BinaryIO
from urllib.parse import urlsplit

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode import __version__, uids
from dicomnode.elements import Broken, Encoding, Walker, deflated, plain
from dicomnode.errors import CannotUnderstand, Undecodable
from dicomnode.gate import accession_token
from dicomnode.records import Instance

#: (0002,0012) of everything that this program writes.
IMPLEMENTATION_CLASS_UID = uids.derive("dicomnode", "implementation class")
#: (0002,0013), VR SH.
IMPLEMENTATION_VERSION_NAME = f"DICOMNODE_{__version__}"[:16]
#: (0002,0100): (0002,0102) is ours, in the form that the docstring of this module gives.
PRIVATE_CREATOR_UID = uids.derive("dicomnode", "private information of file meta", "received at")
#: What (0008,0070) Manufacturer says in results of this program.
MANUFACTURER = "dicomnode"
#: Defined terms of Modality (PS3.3 C.7.3.1.1.1), retired ones too: what else stands there is a peer's text and goes nowhere.
_TERMS = """
    ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO
    LEN LS MG MR M3D NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT
    RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC
    AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF
    SC
"""
MODALITIES = frozenset(_TERMS.split())

_SOP_CLASS, _SOP_INSTANCE, _ACCESSION = 0x00080016, 0x00080018, 0x00080050
_MODALITY, _MAKER, _SERIAL = 0x00080060, 0x00080070, 0x00181000
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_WANTED = frozenset((_SOP_CLASS, _SOP_INSTANCE, _ACCESSION, _MODALITY, _MAKER, _SERIAL, _STUDY, _SERIES))
#: Before SOP Instance UID stand dates, a character set and perhaps a language sequence: this is plenty.
_PEEK_MAX_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
#: Longest file meta that `stored_as` looks at; a sender's private information (0002,0102) may make it long.
_META_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent an instance, to whom, from where and when."""

    calling_ae: str
    called_ae: str
    #: Address of the sender as the socket gave it.
    address: str
    #: Aware UTC.
    received_at: datetime


# -- writing
def file_meta(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, sender: Sender, *, receiver: tuple[str, int] = ("", 0),
) -> bytes:
    """Give preamble, prefix and group 2 of a spool file; ``receiver`` is our own address and port."""
    calling, called = sender.calling_ae.encode("ascii"), sender.called_ae.encode("ascii")
    address = _uri(sender.address).encode("ascii")
    received_at = sender.received_at.astimezone(UTC).isoformat(timespec="microseconds")
    body = b"".join((
        _element(0x0001, b"OB", b"\x00\x01"),
        _element(0x0002, b"UI", sop_class_uid.encode("ascii")),
        _element(0x0003, b"UI", sop_instance_uid.encode("ascii")),
        _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii")),
        _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
        _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii")),
        _element(0x0016, b"AE", calling),
        _element(0x0017, b"AE", calling),
        _element(0x0018, b"AE", called),
        _element(0x0026, b"UR", address),
        _element(0x0027, b"UR", address),
        _element(0x0028, b"UR", _uri(*receiver).encode("ascii")),
        _element(0x0100, b"UI", PRIVATE_CREATOR_UID.encode("ascii")),
        _element(0x0102, b"OB", f"{received_at} {os.getpid()}".encode("ascii")),
    ))
    return bytes(128) + b"DICM" + _element(0x0000, b"UL", struct.pack("<L", len(body))) + body


def _uri(address: str, port: int = 0) -> str:
    if not address:
        return ""
    host = f"[{address}]" if ":" in address else address
    return f"dicom://{host}:{port}" if port else f"dicom://{host}"


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    """One element of group 2, Explicit VR Little Endian, padded to even length (PS3.5 section 6.2)."""
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    if vr in (b"OB", b"UR"):
        return struct.pack("<HH2sHL", 0x0002, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value


# -- reading
def peek(stream: BinaryIO, start: int, transfer_syntax_uid: str) -> tuple[str, str]:
    """Give SOP Class UID and SOP Instance UID as the data set itself says them; it begins at ``start``.

    Raises
    ------
    CannotUnderstand
        The data set cannot be read that far, or one of the two is no UID.
    """
    meta = _Meta({}, start, transfer_syntax_uid)
    try:
        found = _walk(stream, meta, frozenset((_SOP_CLASS, _SOP_INSTANCE)), limit=_PEEK_MAX_BYTES)
    except Broken as error:
        raise CannotUnderstand(f"the data set cannot be read up to (0008,0018): {error}") from None
    pair = _uid(found.get(_SOP_CLASS)), _uid(found.get(_SOP_INSTANCE))
    if not all(pair):
        raise CannotUnderstand("(0008,0016) or (0008,0018) is absent or no UID")
    return pair


def header(stream: BinaryIO, *, instance_id: str, location: str, node_id: str, key: bytes = b"") -> Instance:
    """Make the `Instance` of a spooled file; ``stream`` is seekable.

    Parameters
    ----------
    key
        Of the node, for the token of the Accession Number; without one there is none.

    Raises
    ------
    Undecodable
        The header cannot be read up to Series Instance UID, or there is no SOP Class or SOP Instance UID.
    """
    try:
        meta = _read_meta(stream)
        found = _walk(stream, meta, _WANTED)
    except Broken as error:
        raise Undecodable(f"the header cannot be read: {error}") from None
    sop_class, sop_instance = _uid(found.get(_SOP_CLASS)), _uid(found.get(_SOP_INSTANCE))
    if not sop_class or not sop_instance:
        raise Undecodable("(0008,0016) or (0008,0018) is absent or no UID")
    sender = meta.sender(stream)
    size, digest = _digest(stream, meta.end)
    return Instance(
        instance_id=instance_id,
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance,
        series_instance_uid=_uid(found.get(_SERIES)),
        study_instance_uid=_uid(found.get(_STUDY)),
        transfer_syntax_uid=meta.transfer_syntax_uid,
        modality=_modality(found.get(_MODALITY)),
        calling_ae=sender.calling_ae,
        called_ae=sender.called_ae,
        address=sender.address,
        received_at=sender.received_at,
        location=location,
        size_bytes=size,
        sha256=digest,
        own_result=uids.text_of(found.get(_MAKER)) == MANUFACTURER and uids.text_of(found.get(_SERIAL)) == node_id,
        accession_token=_accession(found.get(_ACCESSION), key),
        acceptor_pid=meta.acceptor_pid,
    )


def data_set_start(stream: BinaryIO) -> int:
    """Give the offset of the data set behind preamble and file meta; raises `Undecodable`."""
    try:
        return _read_meta(stream).end
    except Broken as error:
        raise Undecodable(f"the file meta cannot be read: {error}") from None


def stored_as(stream: BinaryIO) -> tuple[int, str, str, str]:
    """Give where the data set begins, and SOP Class, SOP Instance and transfer syntax UID as the file meta has them.

    Raises
    ------
    Undecodable
        There is no file meta that can be read, or it lacks one of the three.
    """
    head = io.BytesIO(stream.read(_META_BYTES))  # one read; a file meta beyond it is no file of ours or of any program
    if head.getvalue()[128:132] != b"DICM":
        raise Undecodable("this is no Part 10 file")
    try:
        meta = _read_meta(head)
    except Broken as error:
        raise Undecodable(f"the file meta cannot be read: {error}") from None
    named = _uid(meta.values.get(0x0002)), _uid(meta.values.get(0x0003)), _uid(meta.values.get(0x0010))
    if not all(named):
        raise Undecodable("(0002,0002), (0002,0003) or (0002,0010) is absent or no UID")
    return meta.end, *named


@dataclass(frozen=True, slots=True)
class _Meta:
    """Group 2 as read: values by element number, and where the data set begins."""

    values: dict[int, bytes]
    end: int
    transfer_syntax_uid: str

    @property
    def _ours(self) -> tuple[str, str]:
        """Time of reception and process id of the acceptor as they stand; empty where the file meta is not ours."""
        private = uids.text_of(self.values.get(0x0102)) if uids.text_of(self.values.get(0x0100)) == PRIVATE_CREATOR_UID else ""
        time, _, pid = private.partition(" ")
        return time, pid

    @property
    def acceptor_pid(self) -> int:
        """Process id of the acceptor, 0 where nobody knows."""
        pid = self._ours[1]
        return int(pid) if re.fullmatch(r"[0-9]{1,9}", pid) else 0

    def sender(self, stream: BinaryIO) -> Sender:
        """Who sent it; empty texts and the file's time where the file meta is not ours."""
        try:
            received_at = datetime.fromisoformat(self._ours[0])
        except ValueError:
            received_at = None
        return Sender(
            calling_ae=_ae_title(self.values.get(0x0017, self.values.get(0x0016))),
            called_ae=_ae_title(self.values.get(0x0018)),
            address=_host(self.values.get(0x0027, self.values.get(0x0026))),
            received_at=received_at if received_at is not None and received_at.tzinfo else _file_time(stream),
        )


def _read_meta(stream: BinaryIO) -> _Meta:
    """Read group 2 with or without its preamble; leaves the stream anywhere."""
    stream.seek(0)
    start = 132 if stream.read(132)[128:] == b"DICM" else 0
    stream.seek(start)
    walker = Walker(plain(stream), Encoding(implicit=False, little=True))
    values: dict[int, bytes] = {}
    end, limit = start, None
    while limit is None or end < limit:
        if walker.group() != 0x0002:
            break
        tag, value = walker.element(keep=True)
        end = stream.tell()
        values.setdefault(tag & 0xFFFF, value)
        if tag == 0x00020000 and len(value) == 4 and limit is None:
            limit = end + int(struct.unpack("<L", value)[0])
    syntax = _uid(values.get(0x0010))
    if not syntax:
        stream.seek(end)
        vr = stream.read(6)[4:6]
        syntax = ExplicitVRLittleEndian if vr.isalpha() and vr.isupper() else ImplicitVRLittleEndian
    return _Meta(values, end, str(syntax))


def _walk(stream: BinaryIO, meta: _Meta, wanted: frozenset[int], limit: int | None = None) -> dict[int, bytes]:
    """Give the wanted top-level elements; stops behind the last of them."""
    encoding, packed = _encoding(meta.transfer_syntax_uid)
    stream.seek(meta.end)
    source = deflated(stream, limit) if packed else plain(stream, limit)
    walker = Walker(source, encoding)
    walker.settle()
    found: dict[int, bytes] = {}
    last = max(wanted)
    while (tag := walker.tag()) is not None and tag <= last:
        tag, value = walker.element(keep=tag in wanted)
        if tag in wanted:
            found.setdefault(tag, value)
        if tag == last:
            break
    return found


@lru_cache(maxsize=256)
def _encoding(transfer_syntax_uid: str) -> tuple[Encoding, bool]:
    """How a transfer syntax writes elements, and whether it deflates them."""
    syntax = UID(transfer_syntax_uid)
    known = syntax.is_transfer_syntax and not syntax.is_private
    encoding = Encoding(implicit=known and syntax.is_implicit_VR, little=not known or syntax.is_little_endian)
    return encoding, bool(known and syntax.is_deflated)


def _digest(stream: BinaryIO, start: int) -> tuple[int, str]:
    stream.seek(start)
    size, digest = 0, hashlib.sha256()
    while chunk := stream.read(_CHUNK_BYTES):
        size += len(chunk)
        digest.update(chunk)
    return size, digest.hexdigest()


# -- values of others, taken only in the form that the standard gives them
def _uid(value: bytes | None) -> str:
    text = uids.text_of(value)
    return text if uids.has_look(text) else ""


def _ae_title(value: bytes | None) -> str:
    text = uids.text_of(value)
    return text if re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", text) else ""


def _modality(value: bytes | None) -> str:
    text = uids.text_of(value).split("\\", maxsplit=1)[0].strip(" ").upper()
    return text if text in MODALITIES else ""


def _accession(value: bytes | None, key: bytes) -> str:
    """The token of an Accession Number; one that is neither ASCII nor UTF-8 has none."""
    try:
        number = (value or b"").decode("utf-8").strip(" \0") if key else ""
    except UnicodeDecodeError:
        return ""
    return accession_token(number, key)


def _host(value: bytes | None) -> str:
    try:
        parts = urlsplit(uids.text_of(value))
    except ValueError:
        return ""
    host = parts.hostname or ""
    return host if parts.scheme == "dicom" and re.fullmatch(r"[0-9A-Za-z.:%_-]{1,64}", host) else ""


def _file_time(stream: BinaryIO) -> datetime:
    try:
        seconds = os.fstat(stream.fileno()).st_mtime
    except OSError:  # io.UnsupportedOperation is one: a stream in memory
        seconds = 0.0
    return datetime.fromtimestamp(seconds, UTC)

"""Writes a Part 10 file whose pixel data come frame by frame: an object of any size passes through little memory.

**Way** `write` writes preamble, file meta and data set, then the pixel data of a `Coded` as its frames are made:
encapsulated ones with one fragment a frame and a Basic Offset Table that is filled in afterwards, or when the stream
cannot go back, left empty.

**Fails** What `Coded.frames` raises while it runs; the stream is then incomplete, and the caller drops it.

**Standard** PS3.10 section 7.1, PS3.5 Annex A.4.

**Limits** Native pixel data above 4 GiB have no length that fits (PS3.5 section 7.1.1): `StageFailed`. Offset tables above
4 GiB are left empty.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO, cast

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicomnode.errors import StageFailed
from dicomnode.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.image import Coded
from dicomnode.image.file import guard

_TAGS = {"OF": (0x7FE0, 0x0008), "OD": (0x7FE0, 0x0009)}
_PIXEL_DATA = (0x7FE0, 0x0010)
_LIMIT = 0xFFFFFFFE
#: They point into the code streams as they were.
_OLD_TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
#: Characters of a short text (ST).
_ST_MAX = 1024


def write(stream: BinaryIO, dataset: Dataset, coded: Coded) -> None:
    """Write the object.

    Parameters
    ----------
    dataset
        Without pixel data, with SOP Class UID and SOP Instance UID. The attributes that the coded frames need are set here.
    """
    syntax = UID(coded.transfer_syntax_uid)
    head = Dataset()
    head.update(dataset)
    for keyword, value in coded.attributes.items():
        setattr(head, keyword, value)
    for keyword in _OLD_TABLES:
        if keyword in head:
            delattr(head, keyword)
    if coded.derivation:
        said = [str(head.get("DerivationDescription") or ""), coded.derivation]
        head.DerivationDescription = "; ".join(filter(None, said))[-_ST_MAX:]
    _write_meta(stream, head, syntax)
    body: Any = _Deflating(stream) if syntax == DeflatedExplicitVRLittleEndian else stream
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    body.write(_encoded(head, syntax))
    if coded.is_encapsulated:
        _encapsulated(body, coded)
    else:
        _native(body, coded, order, implicit=syntax == ImplicitVRLittleEndian)
    if isinstance(body, _Deflating):
        body.finish()


def _write_meta(stream: BinaryIO, head: Dataset, syntax: UID) -> None:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = head.SOPClassUID
    meta.MediaStorageSOPInstanceUID = head.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    packed = BytesIO()
    write_file_meta_info(cast("Any", packed), meta)
    stream.write(b"\0" * 128 + b"DICM" + packed.getvalue())


def _encoded(head: Dataset, syntax: UID) -> bytes:
    packed = DicomBytesIO()
    # Asked of the UID itself: pydicom raises for syntaxes that are younger than it is.
    packed.is_little_endian = syntax != ExplicitVRBigEndian
    packed.is_implicit_VR = syntax == ImplicitVRLittleEndian
    with guard("the data set cannot be written"):
        write_dataset(packed, head)
    return packed.getvalue()


def _native(stream: Any, coded: Coded, order: str, *, implicit: bool) -> None:
    spec = coded.redacted.image.spec
    total = -(-spec.bits * spec.frames // 8)
    if coded.redacted.image.spec.encapsulated:
        total = -(-spec.rows * spec.columns * spec.samples * spec.bits_allocated * spec.frames // 8)
    length = total + total % 2
    if length > _LIMIT:
        raise StageFailed("native pixel data of more than 4 GiB cannot be written")
    tag = struct.pack(order + "HH", *_TAGS.get(coded.vr, _PIXEL_DATA))
    vr = b"" if implicit else coded.vr.encode("ascii") + b"\0\0"
    stream.write(tag + vr + struct.pack(order + "L", length))
    written = 0
    for piece in coded.frames():
        stream.write(piece)
        written += len(piece)
    if written != total:
        raise StageFailed("the coded frames have another length than they should")
    stream.write(b"\0" * (total % 2))


def _encapsulated(stream: Any, coded: Coded) -> None:
    frames = coded.redacted.image.frames
    stream.write(struct.pack("<HH2sHL", *_PIXEL_DATA, b"OB", 0, 0xFFFFFFFF))
    seekable = stream.seekable()
    table = stream.tell() if seekable else 0
    stream.write(struct.pack("<HHL", 0xFFFE, 0xE000, 4 * frames if seekable else 0))
    stream.write(b"\0" * (4 * frames if seekable else 0))
    offsets, here = [], 0
    for frame in _counted(coded, frames):
        offsets.append(here)
        padded = frame + b"\0" * (len(frame) % 2)
        stream.write(struct.pack("<HHL", 0xFFFE, 0xE000, len(padded)))
        stream.write(padded)
        here += 8 + len(padded)
    stream.write(struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    if seekable:
        end = stream.tell()
        if here > _LIMIT:
            raise StageFailed("encapsulated pixel data of more than 4 GiB cannot be written")
        stream.seek(table + 8)
        stream.write(struct.pack(f"<{frames}L", *offsets))
        stream.seek(end)


def _counted(coded: Coded, frames: int) -> Iterator[bytes]:
    made = 0
    for frame in coded.frames():
        made += 1
        yield frame
    if made != frames:
        raise StageFailed("there are not as many coded frames as there should be")


class _Deflating:
    """Deflates what is written to it (PS3.5 Annex A.5)."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        self._length = 0

    def write(self, data: bytes) -> None:
        """Take bytes."""
        self._put(self._deflate.compress(data))

    def finish(self) -> None:
        """Write what is left, padded to an even length."""
        self._put(self._deflate.flush())
        self._stream.write(b"\0" * (self._length % 2))

    def _put(self, data: bytes) -> None:
        self._length += len(data)
        self._stream.write(data)

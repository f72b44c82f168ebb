"""Reads the header of a Part 10 file and finds its pixel data, without reading them.

**Way** `parse` takes a seekable stream and gives a `Parsed`: file meta, data set up to the pixel data, and where the
pixel data lie in which stream. A deflated data set is inflated while it is read (`Inflated`), never as a whole. A file
without file meta is taken when it names its SOP Class; its syntax is then guessed.

**Fails** `Undecodable`, whose message holds types of faults and tags, never a value.

**Standard** PS3.10 section 7.1, PS3.5 sections 7.1 and 7.5, Annex A.5 (deflated).

**Limits** Elements behind the pixel data are not read; nothing of them can leave the node. A single element that cannot
be understood is kept as unknown (UN) bytes, so that one bad number does not cost the image. Of a header, 8 MiB of texts,
numbers and sequences and 64 MiB of bytes are read (`Parsed.left_out` names the rest): parsed, a sequence takes 40 times its
size.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from pydicom import config
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.elements import Broken, Encoding, Walker, deflated, plain
from dicomnode.errors import DicomNodeError, Undecodable

# A value that breaks its VR is read all the same, and the warning about it, which quotes it, is never made.
config.settings.reading_validation_mode = config.IGNORE

#: Pixel Data, Float Pixel Data and Double Float Pixel Data, in the order of preference.
PIXEL_TAGS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")
_BUFFER_BYTES = 1 << 20
#: What is read of a header: texts, numbers, sequences and what is unknown; and bytes, as overlays are.
HEADER_MAX_BYTES, BYTES_MAX_BYTES = 8 << 20, 64 << 20
#: Parts of the value representations of bytes, which hold no text.
_BYTES_VRS = frozenset(("OB", "OW", "OF", "OD", "OL", "OV"))


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data lie."""

    tag: int
    #: ``OB``, ``OW``, ``OF`` or ``OD``; ``OW`` when the file is of Implicit VR.
    vr: str
    #: First byte of the value in `Parsed.stream`.
    offset: int
    #: In bytes, or `UNDEFINED` when encapsulated.
    length: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """A header that was read, and the stream that holds the pixel data."""

    dataset: Dataset
    meta: FileMetaDataset
    transfer_syntax_uid: str
    implicit: bool
    little: bool
    #: The source itself, or what inflates it; seekable.
    stream: BinaryIO
    pixels: PixelElement | None
    #: Tags of elements in front of the pixel data that were too large to be read.
    left_out: frozenset[int] = frozenset()
    #: One of them may hold text.
    unread: bool = False


class Inflated(io.RawIOBase):
    """A deflated data set as a seekable stream: forward it inflates, backward it starts again."""

    def __init__(self, source: BinaryIO, start: int) -> None:
        super().__init__()
        self._source = source
        self._start = start
        self._rewind()

    def _rewind(self) -> None:
        self._at = self._start
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._ready = memoryview(b"")  # a slice of it is no copy
        self._position = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Give the position in the inflated bytes."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as one step of inflating goes."""
        while not self._ready and not self._inflate.eof:
            data = self._inflate.unconsumed_tail
            if not data:
                self._source.seek(self._at)
                data = self._source.read(64 << 10)
                self._at += len(data)
            if not data:
                break
            try:
                self._ready = memoryview(self._inflate.decompress(data, _BUFFER_BYTES))
            except zlib.error:
                raise Undecodable("the deflated data set does not inflate") from None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; to the end by inflating all there is."""
        target = offset + (self._position if whence == io.SEEK_CUR else 0)
        if whence == io.SEEK_END:
            target = 1 << 62
        if target < self._position:
            self._rewind()
        scratch = bytearray(64 << 10)
        while self._position < target:
            view = memoryview(scratch)[: min(len(scratch), target - self._position)]
            if not self.readinto(view):
                break
        return self._position


@contextmanager
def guard(doing: str) -> Iterator[None]:
    """Turn whatever a library raises into `Undecodable`, and silence its warnings: both may quote a patient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DicomNodeError:
            raise
        except (Exception, MemoryError) as error:  # noqa: BLE001 - the border to pydicom and the codecs
            raise Undecodable(f"{doing}: {type(error).__name__}") from None


def parse(source: BinaryIO) -> Parsed:
    """Read the header of a Part 10 file.

    Parameters
    ----------
    source
        Seekable, read from its start; it stays the caller's.

    Raises
    ------
    Undecodable
        The bytes are no DICOM file, or end within an element of the header.
    """
    with guard("the header cannot be read"):
        source.seek(0)
        head = source.read(132)
        bare = head[128:] != b"DICM"
        start = 0 if bare else 132
        source.seek(start)
        meta = FileMetaDataset()
        if not bare or head[:2] == b"\x02\x00":
            meta = FileMetaDataset(read_dataset(cast("Any", source), False, True, stop_when=_behind_meta))
        body = source.tell()
        syntax = UID(str(meta.get("TransferSyntaxUID") or "")) or _guess(source)
        parsed = _body(source, body, meta, syntax)
    if not str(parsed.dataset.get("SOPClassUID") or "") and bare:
        raise Undecodable("the file has neither a DICOM prefix nor a SOP Class")
    return parsed


def _behind_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _guess(source: BinaryIO) -> UID:
    here = source.tell()
    first = source.read(6)
    source.seek(here)
    return ExplicitVRLittleEndian if first[4:6].isalpha() and first[4:6].isupper() else ImplicitVRLittleEndian


def _body(source: BinaryIO, start: int, meta: FileMetaDataset, syntax: UID) -> Parsed:
    little = bool(syntax.is_little_endian) if syntax.is_transfer_syntax else True
    implicit = syntax == ImplicitVRLittleEndian
    squeezed = syntax == DeflatedExplicitVRLittleEndian
    plan = _walk(source, start, Encoding(implicit, little), squeezed=squeezed)
    stream: BinaryIO = source
    if squeezed:
        stream, start = cast("BinaryIO", io.BufferedReader(Inflated(source, start), _BUFFER_BYTES)), 0
    header = io.BytesIO()
    for first, behind in plan.pieces:
        stream.seek(start + first)
        header.write(stream.read(behind - first))
    header.seek(0)
    dataset = read_dataset(cast("Any", header), implicit, little)
    if plan.pieces:
        implicit = bool(dataset.original_encoding[0])
    _mend(dataset)
    stream.seek(start + plan.end)
    pixels = _pixels(stream, implicit=implicit, little=little)
    return Parsed(dataset, meta, str(syntax), implicit, little, stream, pixels, frozenset(plan.left_out), plan.unread)


@dataclass(slots=True)
class _Plan:
    """What of a header is read: pieces from and to, counted from its start."""

    pieces: list[tuple[int, int]] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)
    unread: bool = False
    #: Where the pixel data begin, or the data set ends.
    end: int = 0

    def keep(self, first: int, behind: int) -> None:
        """Add an element."""
        if self.pieces and self.pieces[-1][1] == first:
            first = self.pieces.pop()[0]
        self.pieces.append((first, behind))


def _walk(source: BinaryIO, start: int, encoding: Encoding, *, squeezed: bool) -> _Plan:
    """Walk the elements in front of the pixel data: pydicom takes a data set that ends too early without a word, and of any
    size.
    """
    source.seek(start)
    walker = Walker(deflated(source) if squeezed else plain(source), encoding)
    plan, left = _Plan(), {True: BYTES_MAX_BYTES, False: HEADER_MAX_BYTES}
    try:
        walker.settle()
        while (tag := walker.tag()) is not None and tag not in PIXEL_TAGS:
            first = walker.position
            walker.element(keep=False)
            size, of_bytes = walker.position - first, _is_bytes(tag, walker.vr)
            if size <= left[of_bytes]:
                left[of_bytes] -= size
                plan.keep(first, walker.position)
            else:
                plan.left_out.add(tag)
                plan.unread = plan.unread or not of_bytes
        plan.end = walker.position
    except Broken as error:
        raise Undecodable(str(error)) from None
    return plan


def _is_bytes(tag: int, vr: bytes) -> bool:
    """Say whether an element holds bytes and no text, by its VR, or the dictionary's where it has none."""
    try:
        named = vr.decode("ascii") or dictionary_VR(tag)
    except (KeyError, UnicodeDecodeError):
        return False
    return set(named.split(" or ")) <= _BYTES_VRS


def _mend(dataset: Dataset) -> None:
    """Turn elements that cannot be converted into unknown ones; the others stay raw, as they were sent."""
    encodings = convert_encodings(_character_sets(dataset))
    for tag in list(dataset.keys()):
        element: Any = dataset.get_item(tag)
        if not isinstance(element, RawDataElement):
            continue
        try:
            converted = convert_raw_data_element(element, encoding=encodings, ds=dataset)
            if converted.VR == "SQ":
                for item in converted.value:
                    _mend(item)
                dataset[tag] = converted
        except Exception:  # noqa: BLE001 - one bad element must not cost the image, nor its text leak
            dataset[tag] = DataElement(tag, "UN", element.value or b"")


def _character_sets(dataset: Dataset) -> Any:
    try:
        return dataset.get("SpecificCharacterSet") or "ISO_IR 6"
    except Exception:  # noqa: BLE001 - as in `_mend`
        return "ISO_IR 6"


def _pixels(stream: BinaryIO, *, implicit: bool, little: bool) -> PixelElement | None:
    """Read the head of the element at the stream's position."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    order = "<" if little else ">"
    group, element = struct.unpack(order + "HH", head[:4])
    tag = group << 16 | element
    if tag not in PIXEL_TAGS:
        return None
    if implicit:
        return PixelElement(tag, "OW", stream.tell(), struct.unpack(order + "L", head[4:])[0])
    if head[4:6] not in _LONG_VRS:
        raise Undecodable("the pixel data have no value representation of pixel data")
    (length,) = struct.unpack(order + "L", stream.read(4))
    vr = head[4:6].decode("ascii")
    return PixelElement(tag, "OW" if vr == "UN" else vr, stream.tell(), length)

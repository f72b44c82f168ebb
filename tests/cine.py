"""Large multi-frame objects for tests and benchmarks, written to disk frame by frame, never whole in memory.

**Way** `write_cine` gives a moving picture of soft shapes with a line of text burned in above it, of the kind and size that it
is asked for. Frames differ in the picture and not in the text; each depends on its number only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
    generate_uid,
)

Frame = NDArray[Any]
#: A person who does not exist.
NAME, PATIENT_ID = "Quorvexley^Zambrindelle", "ZX4481907"


@dataclass(frozen=True)
class Kind:
    """How the frames of an object are stored."""

    sop_class_uid: str
    syntax: str
    modality: str
    #: Size of a frame and bits of a value.
    rows: int
    cols: int
    bits: int = 8
    colour: bool = False
    #: Encapsulated ones: code stream of a frame.
    code: Callable[[Frame], bytes] | None = None
    #: Whether the offset table is filled.
    table: bool = False
    #: Noise of the last bits, in which tesseract looks for text in each frame anew.
    noise: bool = True

    @property
    def band(self) -> int:
        """Rows at the top that hold the text, and nothing else."""
        return self.rows // 8

    @property
    def native_bytes(self) -> int:
        """Bytes of a decoded frame."""
        return self.rows * self.cols * (3 if self.colour else 1) * (1 if self.bits <= 8 else 2)


def _jpeg(frame: Frame) -> bytes:
    return bytes(imagecodecs.jpeg_encode(frame, level=98, subsampling="444"))


def _jpegls(frame: Frame) -> bytes:
    return bytes(imagecodecs.jpegls_encode(frame))


def _rle(frame: Frame) -> bytes:
    """One segment a sample (PS3.5 Annex G), each row packed by itself."""
    segments = []
    for sample in range(frame.shape[2]):
        packed = b"".join(bytes(imagecodecs.packbits_encode(row.tobytes())) for row in frame[..., sample])
        segments.append(packed + b"\0" * (len(packed) % 2))
    offsets = [64]
    for segment in segments[:-1]:
        offsets.append(offsets[-1] + len(segment))
    return struct.pack("<16L", len(segments), *offsets, *([0] * (15 - len(segments)))) + b"".join(segments)


KINDS = {
    "grey8": Kind(str(MultiFrameGrayscaleByteSecondaryCaptureImageStorage), str(ExplicitVRLittleEndian), "OT", 1024, 1280),
    "grey16": Kind(str(XRayAngiographicImageStorage), str(ExplicitVRLittleEndian), "XA", 1024, 1024, 12),
    "smooth": Kind(
        str(XRayAngiographicImageStorage), str(ExplicitVRLittleEndian), "XA", 2048, 2048, 12, noise=False,
    ),
    "colour": Kind(str(UltrasoundMultiFrameImageStorage), str(ExplicitVRLittleEndian), "US", 768, 1024, colour=True),
    "deflated": Kind(
        str(MultiFrameGrayscaleWordSecondaryCaptureImageStorage), str(DeflatedExplicitVRLittleEndian), "OT", 1024, 1024, 12,
    ),
    "jpeg": Kind(str(UltrasoundMultiFrameImageStorage), str(JPEGBaseline8Bit), "US", 1536, 2048, colour=True, code=_jpeg),
    "jpegls": Kind(
        str(XRayAngiographicImageStorage), str(JPEGLSLossless), "XA", 1024, 1024, 12, code=_jpegls, table=True,
    ),
    "rle": Kind(
        str(MultiFrameTrueColorSecondaryCaptureImageStorage), str(RLELossless), "OT", 768, 1024, colour=True, code=_rle,
        table=True,
    ),
}


def _picture(kind: Kind, ground: Frame, number: int) -> Frame:
    """Frame ``number``: the ground moved on, text above it."""
    top = (1 << kind.bits) - 1
    moved = np.roll(ground, number * 3, axis=1) + (number % 7)
    grey = np.zeros((kind.rows, kind.cols), np.uint8 if kind.bits <= 8 else np.uint16)
    band = kind.band
    grey[band:] = moved[band:]
    mask = np.zeros(grey.shape, np.uint8)
    cv2.putText(mask, NAME.replace("^", " "), (20, band // 2), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2, cv2.LINE_8)
    grey[mask > 0] = top
    if not kind.colour:
        return grey
    return np.dstack((grey, grey, np.where(mask > 0, grey, grey // 2)))


def _ground(kind: Kind) -> Frame:
    """Soft shapes over 5 to 60 % of the range, with the noise of the last bits."""
    random = np.random.default_rng(11)
    small = random.normal(size=(kind.rows // 16 + 1, kind.cols // 16 + 1)).astype(np.float32)
    soft = cv2.GaussianBlur(cv2.resize(small, (kind.cols, kind.rows), interpolation=cv2.INTER_CUBIC), (0, 0), 25)
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    top = (1 << kind.bits) - 1
    noisy = top * (0.05 + 0.55 * soft) + (random.normal(0, top / 200, soft.shape) if kind.noise else 0)
    return np.clip(noisy, 0, top * 0.7).astype(np.uint8 if kind.bits <= 8 else np.uint16)


def frames_of(kind: Kind, size_bytes: int) -> int:
    """How many frames make about so many bytes of pixel data as they are stored, before they are deflated; at least one."""
    each = len(kind.code(_picture(kind, _ground(kind), 0))) if kind.code else kind.native_bytes
    return max(1, size_bytes // each)


def write_cine(path: Path, kind: Kind, frames: int, tell: Callable[[int, int], object] = lambda *_: None) -> None:
    """Write an object of so many frames."""
    ground = _ground(kind)
    with path.open("wb") as file:
        ds = _header(kind, frames)
        file.write(_meta(ds, kind))
        body = _Squeezed(file) if kind.syntax == DeflatedExplicitVRLittleEndian else file
        body.write(_encoded(ds))
        if kind.code:
            _encapsulated(file, kind, ground, frames, tell)
        else:
            length = frames * kind.native_bytes
            body.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW" if kind.bits > 8 else b"OB", 0, length))
            for number in range(frames):
                body.write(_picture(kind, ground, number).tobytes())
                tell(number + 1, frames)
        if isinstance(body, _Squeezed):
            body.finish()


def _encapsulated(file: BinaryIO, kind: Kind, ground: Frame, frames: int, tell: Callable[[int, int], object]) -> None:
    assert kind.code is not None
    file.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
    table = file.tell() + 8
    room = 4 * frames if kind.table else 0
    file.write(struct.pack("<HHL", 0xFFFE, 0xE000, room) + b"\0" * room)
    start, offsets = file.tell(), []
    for number in range(frames):
        stream = kind.code(_picture(kind, ground, number))
        stream += b"\0" * (len(stream) % 2)
        offsets.append(file.tell() - start)
        file.write(struct.pack("<HHL", 0xFFFE, 0xE000, len(stream)) + stream)
        tell(number + 1, frames)
    file.write(struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    if kind.table:
        file.seek(table)
        file.write(struct.pack(f"<{frames}L", *offsets))


def _header(kind: Kind, frames: int) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = kind.sop_class_uid, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = NAME, PATIENT_ID, "19700101", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240301", "101500", "1", "ACC1"
    ds.ReferringPhysicianName, ds.SeriesNumber, ds.InstanceNumber = "", "1", "1"
    ds.Modality, ds.Manufacturer, ds.BodyPartExamined = kind.modality, "Synthetic", "ABDOMEN"
    ds.FrameTime, ds.FrameIncrementPointer, ds.NumberOfFrames = "33.3", 0x00181063, frames
    ds.Rows, ds.Columns, ds.PixelRepresentation = kind.rows, kind.cols, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 if kind.bits <= 8 else 16, kind.bits, kind.bits - 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if kind.colour else (1, "MONOCHROME2")
    if kind.colour:
        ds.PlanarConfiguration = 0
    if kind.code is _jpeg:
        ds.PhotometricInterpretation, ds.LossyImageCompression = "YBR_FULL", "01"
    return ds


def _meta(ds: Dataset, kind: Kind) -> bytes:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = UID(kind.syntax)
    meta.ImplementationClassUID = "1.2.3.4"
    packed = BytesIO()
    write_file_meta_info(cast("Any", packed), meta)
    return b"\0" * 128 + b"DICM" + packed.getvalue()


def _encoded(ds: Dataset) -> bytes:
    packed = DicomBytesIO()
    packed.is_little_endian, packed.is_implicit_VR = True, False
    write_dataset(packed, ds)
    return packed.getvalue()


class _Squeezed:
    """Deflates what is written to it, without much effort."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._squeeze = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
        self._start = file.tell()

    def write(self, data: bytes) -> None:
        """Take bytes."""
        self._file.write(self._squeeze.compress(data))

    def finish(self) -> None:
        """Write what is left, to an even length."""
        self._file.write(self._squeeze.flush())
        self._file.write(b"\0" * ((self._file.tell() - self._start) % 2))

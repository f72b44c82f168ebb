"""Drawn frames as DICOM objects, in the photometric interpretations, depths and syntaxes that devices send.

**Way** A `Form` says how values are stored; `FORMS` has one of each kind. Values above 8 bits get noise below the grey levels
of the picture, as a detector has it.

**Fails** What the codecs raise, which a fixed table of forms does not provoke.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from dicomnode.evaluation.synthetic.words import Identity, fill
from dicomnode.image import codecs
from dicomnode.image.spec import Spec

Frames = list[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Form:
    """How values are stored."""

    photometric: str
    syntax: str
    bits: int = 8
    signed: bool = False
    planar: int = 0
    #: Of the most significant bit, where it is not the last one.
    high_bit: int | None = None

    @property
    def colour(self) -> bool:
        """Whether frames are RGB before they are stored."""
        return self.photometric not in {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"}


FORMS = (
    Form("MONOCHROME2", ExplicitVRLittleEndian),
    Form("MONOCHROME2", ExplicitVRLittleEndian, 12),
    Form("MONOCHROME1", ImplicitVRLittleEndian, 10),
    Form("RGB", ExplicitVRLittleEndian),
    Form("MONOCHROME2", JPEGBaseline8Bit),
    Form("YBR_FULL_422", JPEGBaseline8Bit),
    Form("MONOCHROME2", ExplicitVRLittleEndian, 16, signed=True),
    Form("MONOCHROME2", JPEGLosslessSV1, 12),
    Form("RGB", ExplicitVRLittleEndian, planar=1),
    Form("MONOCHROME2", JPEG2000Lossless, 12),
    Form("PALETTE COLOR", ExplicitVRLittleEndian),
    Form("MONOCHROME1", DeflatedExplicitVRLittleEndian),
    Form("YBR_FULL", ExplicitVRLittleEndian),
    Form("MONOCHROME2", RLELossless, 12),
    Form("RGB", RLELossless),
    Form("YBR_FULL_422", ExplicitVRLittleEndian),
    Form("MONOCHROME2", ExplicitVRBigEndian, 14),
    Form("MONOCHROME2", JPEGLSLossless, 12),
    Form("YBR_RCT", JPEG2000Lossless),
    Form("MONOCHROME2", HTJ2KLossless, 10),
    Form("YBR_FULL", JPEGBaseline8Bit),
    Form("MONOCHROME2", ExplicitVRLittleEndian, 12, high_bit=15),
    Form("RGB", JPEGLSLossless),
    Form("PALETTE COLOR", RLELossless),
)  # fmt: skip


def write(path: Path, frames: Frames, form: Form, who: Identity, device: str, random: np.random.Generator) -> None:
    """Write an object of RGB or grey frames."""
    ds = Dataset()
    seed = str(random.integers(0, 2**62))
    single = CTImageStorage if form.signed else SecondaryCaptureImageStorage
    ds.SOPClassUID = UltrasoundMultiFrameImageStorage if len(frames) > 1 else single
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (generate_uid(entropy_srcs=[seed, kind]) for kind in "isv")
    ds.Modality = "US" if len(frames) > 1 else "CT" if form.signed else "OT"
    ds.Manufacturer, ds.ManufacturerModelName = "Synthetic", device
    ds.BurnedInAnnotation = "NO"  # a claim that redaction must not believe
    fill(ds, who)
    spec = _spec(form, frames)
    _describe(ds, form, spec)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(form.syntax)
    stored = [_stored(frame, form, random) for frame in frames]
    if spec.encapsulated:
        ds.PixelData = encapsulate([_stream(values, form, spec) for values in stored])
    else:
        joined = b"".join(codecs.pack(values, spec) for values in stored)
        ds.PixelData = joined + b"\0" * (len(joined) % 2)
    ds["PixelData"].VR = "OB" if spec.encapsulated or spec.bits_allocated == 8 else "OW"
    dcmwrite(path, ds, enforce_file_format=True)


def _spec(form: Form, frames: Frames) -> Spec:
    rows, columns = frames[0].shape[:2]
    encapsulated = form.syntax not in {
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    }
    return Spec(
        transfer_syntax_uid=form.syntax,
        encapsulated=encapsulated,
        rows=rows,
        columns=columns,
        samples=3 if form.colour else 1,
        frames=len(frames),
        bits_allocated=8 if form.bits <= 8 else 16,
        bits_stored=form.bits,
        high_bit=form.bits - 1 if form.high_bit is None else form.high_bit,
        signed=form.signed,
        planar=form.planar,
        photometric=form.photometric,
        little=form.syntax != ExplicitVRBigEndian,
        vr="OW",
        real=False,
        subsampled=form.photometric == "YBR_FULL_422" and not encapsulated,
    )


def _describe(ds: Dataset, form: Form, spec: Spec) -> None:
    """Write the Image Pixel Module and what display needs."""
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = (
        spec.rows,
        spec.columns,
        spec.samples,
        form.photometric,
    )
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = spec.bits_allocated, spec.bits_stored, spec.high_bit
    ds.PixelRepresentation = int(form.signed)
    if spec.samples == 3:
        ds.PlanarConfiguration = form.planar
    if spec.frames > 1:
        ds.NumberOfFrames = spec.frames
    if form.syntax == JPEGBaseline8Bit:
        ds.LossyImageCompression = "01"
    if form.signed:
        # Text at the end of the range, tissue in a window far below it.
        ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth = 1, 0, 100, 1600
    if form.photometric == "PALETTE COLOR":
        for name in ("Red", "Green", "Blue"):
            setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(ds, f"{name}PaletteColorLookupTableData", (np.arange(256, dtype="<u2") * 257).tobytes())


def _stored(frame: NDArray[np.uint8], form: Form, random: np.random.Generator) -> NDArray[Any]:
    """The values of a frame in the form's own space."""
    if form.colour:
        return _ybr(frame) if form.photometric.startswith("YBR_FULL") and form.syntax != JPEGBaseline8Bit else frame
    if form.bits <= 8:
        return 255 - frame if form.photometric == "MONOCHROME1" else frame
    if form.signed:
        # What is drawn at full white lies at the end of the range, as consoles write it.
        values = np.where(frame == 255, 3071, frame.astype(np.int32) * 6 - 700 + random.integers(-3, 4, frame.shape))
        return np.asarray(np.where(frame == 0, -1024, values), np.int16)
    most = (1 << form.bits) - 1
    step = most // 255
    values = frame.astype(np.int64) * most // 255
    inside = (frame > 0) & (frame < 255)
    values = np.where(inside, values + random.integers(0, max(1, step), frame.shape), values)
    if form.photometric == "MONOCHROME1":
        values = most - values
    return np.asarray(np.clip(values, 0, most) << (0 if form.high_bit is None else form.high_bit + 1 - form.bits), np.uint16)


def _ybr(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    red, green, blue = (rgb[..., n].astype(np.float32) for n in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = (luma, 128 + 0.564 * (blue - luma), 128 + 0.713 * (red - luma))
    return np.asarray(np.clip(np.rint(np.dstack(planes)), 0, 255), np.uint8)


def _stream(values: NDArray[Any], form: Form, spec: Spec) -> bytes:
    """Encode one frame."""
    if form.syntax == JPEGBaseline8Bit:
        if not form.colour:
            return bytes(imagecodecs.jpeg8_encode(values, level=92))
        chroma = "422" if form.photometric == "YBR_FULL_422" else "444"
        return bytes(imagecodecs.jpeg8_encode(values, level=92, colorspace="RGB", outcolorspace="YCBCR", subsampling=chroma))
    if form.photometric == "YBR_RCT":
        return bytes(encode_array(np.ascontiguousarray(values), bits_stored=8, photometric_interpretation=1, use_mct=True))
    return codecs.encode(values, spec, form.photometric)

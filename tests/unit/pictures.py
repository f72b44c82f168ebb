"""Synthetic objects for the tests of pixels: every layout, with or without text drawn into them."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from dicomnode.image import Image

NAME, PATIENT_ID, BIRTH = "Quistgaard^Marlene", "ZX4481907", "19610417"


def anatomy(rows: int = 256, cols: int = 384, top: int = 255, seed: int = 7) -> NDArray[np.float64]:
    """Soft blobs that fill the middle of the range up to 60 %."""
    noise = np.random.default_rng(seed).normal(size=(rows, cols))
    soft = cv2.GaussianBlur(noise, (0, 0), 25)
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    return soft * 0.6 * top


def draw(picture: NDArray[Any], text: str, x: int, y: int, value: Any, scale: float = 0.7) -> None:
    """Draw one line of text, in place; y is the base line."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.putText(mask, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 2, cv2.LINE_8)
    picture[mask > 0] = value


def dataset(array: NDArray[Any], photometric: str = "MONOCHROME2", bits_stored: int = 0, **more: Any) -> Dataset:
    """Describe pixels: (rows, cols), (rows, cols, 3) or with frames in front when ``frames`` is given."""
    frames = more.pop("frames", 0)
    shape = array.shape[1:] if frames else array.shape
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.826.0.1.3680043.9.77.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.1.3680043.9.77.2", "1.2.826.0.1.3680043.9.77.3"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.Modality = NAME, PATIENT_ID, BIRTH, "OT"
    ds.Rows, ds.Columns = shape[:2]
    ds.SamplesPerPixel = 3 if len(shape) == 3 else 1
    ds.PhotometricInterpretation = photometric
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = array.dtype.itemsize * 8
    ds.BitsStored = bits_stored or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    if frames:
        ds.NumberOfFrames = frames
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def part10(ds: Dataset, pixels: bytes, syntax: str = ExplicitVRLittleEndian, vr: str = "") -> bytes:
    """Write a file; encapsulated pixel data are given as they go between tag and end."""
    ds.PixelData = pixels + b"\0" * (len(pixels) % 2)
    ds["PixelData"].VR = vr or ("OB" if ds.BitsAllocated <= 8 else "OW")
    ds["PixelData"].is_undefined_length = UID(syntax).is_encapsulated
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    stream = BytesIO()
    pydicom.dcmwrite(
        stream, ds, implicit_vr=syntax == "1.2.840.10008.1.2", little_endian=syntax != "1.2.840.10008.1.2.2",
        enforce_file_format=True,
    )
    return stream.getvalue()


def native(array: NDArray[Any], photometric: str = "MONOCHROME2", bits_stored: int = 0, **more: Any) -> bytes:
    """A native file of these values."""
    return part10(dataset(array, photometric, bits_stored, **more), array.tobytes())


def encapsulated(ds: Dataset, frames: list[bytes], syntax: str, *, table: bool = True) -> bytes:
    """An encapsulated file of these code streams."""
    return part10(ds, encapsulate(frames, has_bot=table), syntax, "OB")


def image(data: bytes) -> Image:
    """Open the bytes of a file."""
    return Image.open(BytesIO(data))


def burned(kind: str = "u8", texts: tuple[tuple[str, int, int], ...] = ()) -> tuple[NDArray[Any], dict[str, Any]]:
    """Values with text at the bright end, and what `dataset` needs to describe them."""
    layouts: dict[str, tuple[int, str, int, str]] = {
        "u8": (255, "u1", 0, "MONOCHROME2"), "u12": (4095, "u2", 12, "MONOCHROME2"), "u16": (65535, "u2", 0, "MONOCHROME2"),
        "i16": (65535, "i2", 0, "MONOCHROME2"), "m1": (4095, "u2", 12, "MONOCHROME1"), "rgb": (255, "u1", 0, "RGB"),
        "ybr": (255, "u1", 0, "YBR_FULL"),
    }
    top, dtype, bits, photometric = layouts[kind]
    grey = anatomy(top=top)
    for text, x, y in texts:
        draw(grey, text, x, y, top)
    if kind == "i16":
        grey -= 32768
    if kind == "m1":
        grey = top - grey
    values = grey.astype(dtype)
    if kind in ("rgb", "ybr"):
        chroma = values if kind == "rgb" else np.full_like(values, 128)
        values = np.dstack((values, chroma, chroma))
    return values, {"photometric": photometric, "bits_stored": bits}

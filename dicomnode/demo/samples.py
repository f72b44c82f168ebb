"""The images that the demo sends: test files of pydicom and pydicom-data, and radiographs that this module draws.

**Way** `write` puts Part 10 files into a folder and names each. The drawn ones carry an invented patient, in the header and
burned into the pixels, so that redaction has something to find.

**Limits** The drawings look like radiographs from afar; what a model says of them means nothing.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

Picture = NDArray[np.uint16]

#: File of pydicom or pydicom-data → what it shows.
FILES = {
    "RG1_J2KI.dcm": "CR, chest, JPEG 2000",
    "RG3_J2KI.dcm": "CR, extremity, JPEG 2000",
    "CT_small.dcm": "CT, head",
    "MR-SIEMENS-DICOM-WithOverlays.dcm": "MR with overlays",
    "US1_J2KR.dcm": "US, RGB, JPEG 2000",
    "MR_small_RLE.dcm": "MR, RLE",
}

NAME, PATIENT_ID, BIRTH_DATE = "DOE^JANE", "DN4711", "20190312"


@dataclass(frozen=True, slots=True)
class Sample:
    """A file to send."""

    path: Path
    title: str
    sop_instance_uid: str


def write(folder: Path) -> list[Sample]:
    """Write every sample that can be had without a network into ``folder``."""
    folder.mkdir(parents=True)
    samples = []
    for name, title in FILES.items():
        found = get_testdata_file(name, download=False)
        if found is None:  # pydicom-data is not installed
            continue
        path = folder / name
        shutil.copyfile(str(found), path)
        samples.append(Sample(path, title, str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)))
    for number, (title, picture, banner) in enumerate(_drawings()):
        dataset = _dataset(number, banner)
        dataset.PixelData = picture.tobytes()
        dataset.Rows, dataset.Columns = picture.shape
        path = folder / f"drawn-{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        samples.append(Sample(path, title, str(dataset.SOPInstanceUID)))
    return samples


def _drawings() -> list[tuple[str, Picture, bool]]:
    """Give title, pixels and whether a name is burned in."""
    banner = ["DOE JANE", f"ID {PATIENT_ID}", "12.03.2019"]
    return [
        ("drawn: radiograph, name burned in", _burn(_radiograph(1, 1.0), banner), True),
        ("drawn: small radiograph", _radiograph(2, 0.8), False),
        ("drawn: screen of text", _burn(np.full((480, 640), 300, np.uint16), [*banner, "OUTPATIENT CLINIC 4"]), True),
    ]


def _radiograph(seed: int, scale: float) -> Picture:
    """Draw something like a chest, 12 bits, bright is dense."""
    rows, columns = int(1024 * scale), int(896 * scale)
    canvas = np.zeros((rows, columns), np.float32)

    def oval(x: float, y: float, w: float, h: float, value: float, angle: float = 0) -> None:
        centre, axes = (int(x * columns), int(y * rows)), (int(w * columns), int(h * rows))
        layer = np.zeros_like(canvas)
        cv2.ellipse(layer, centre, axes, angle, 0, 360, 1.0, -1)
        canvas[:] += value * cv2.GaussianBlur(layer, (0, 0), 6 * scale)

    oval(0.5, 0.62, 0.47, 0.62, 1500)
    for side in (-1, 1):
        oval(0.5 + side * 0.21, 0.52, 0.15, 0.3, -900, side * 6)
        for rib in range(8):
            centre = (int((0.5 + side * 0.2) * columns), int((0.22 + rib * 0.075) * rows))
            line = np.zeros_like(canvas)
            cv2.ellipse(line, centre, (int(0.19 * columns), int(0.06 * rows)), side * 14, 180, 360, 1.0, max(2, int(9 * scale)))
            canvas += 260 * cv2.GaussianBlur(line, (0, 0), 3 * scale)
    oval(0.5, 0.6, 0.05, 0.6, 900)
    oval(0.56, 0.66, 0.13, 0.15, 800, 35)
    oval(0.5, 1.0, 0.5, 0.2, 900)
    noise = np.random.default_rng(seed).normal(0, 25, canvas.shape)
    return np.clip(cv2.GaussianBlur(canvas, (0, 0), 2) + noise + 120, 0, 4095).astype(np.uint16)


def _burn(picture: Picture, lines: list[str]) -> Picture:
    """Write lines of text into the upper left corner, as a device would."""
    text = np.zeros(picture.shape, np.uint8)
    for number, line in enumerate(lines):
        cv2.putText(text, line, (24, 44 + 40 * number), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2, cv2.LINE_AA)
    return np.maximum(picture, (text.astype(np.uint32) * 4095) // 255).astype(np.uint16)


def _dataset(number: int, burned: bool) -> Dataset:
    """Give the header of a drawn image."""
    secondary = number == 2
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = SecondaryCaptureImageStorage if secondary else ComputedRadiographyImageStorage
    ds.Modality = "OT" if secondary else "CR"
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(ds, keyword, generate_uid(entropy_srcs=["dicomnode demo", keyword, str(number)]))
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = NAME, PATIENT_ID, BIRTH_DATE, "F"
    ds.PatientAge = "007Y"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260102", "101500", "1", f"A100{number}"
    ds.ReferringPhysicianName, ds.SeriesNumber, ds.InstanceNumber = "", 1, 1
    ds.PatientOrientation, ds.ImageType = "", ["DERIVED", "SECONDARY"] if secondary else ["ORIGINAL", "PRIMARY"]
    if secondary:
        ds.ConversionType = "WSD"
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "AP"
    ds.BurnedInAnnotation = "YES" if burned else "NO"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.WindowCenter, ds.WindowWidth = 1400, 2800
    return ds

"""Instances for the drill: small drawn radiographs of nobody, no two alike.

**Limits** No anatomy: what a model says of them means nothing.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

SOP_CLASS, SYNTAX = str(ComputedRadiographyImageStorage), str(ExplicitVRLittleEndian)
_SIDE = 128


@dataclass(frozen=True, slots=True)
class Picture:
    """A data set in Explicit VR Little Endian, as C-STORE carries it."""

    uid: str
    content: bytes


def uid() -> str:
    """Give a new UID; all have the same length, so none is the beginning of another."""
    return f"2.25.{10**38 + secrets.randbelow(2 * 10**38)}"


def draw() -> Picture:
    """Draw a bright oval with noise."""
    noise = np.random.default_rng().normal(0, 20, (_SIDE, _SIDE))
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    pixels = 3000 * np.exp(-3 * ((x / 0.8) ** 2 + (y / 0.9) ** 2) ** 2) + noise + 100
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASS, uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(), uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "DRILL^NOBODY", "DRILL", "", "O"
    ds.PatientAge, ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "050Y", "20260102", "101500", ""
    ds.ReferringPhysicianName, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "", "1", "1", "1"
    ds.Modality, ds.Manufacturer, ds.BodyPartExamined, ds.ViewPosition = "CR", "dicomnode drill", "CHEST", "PA"
    ds.PatientOrientation, ds.Laterality, ds.ImageType = ["L", "F"], "", ["ORIGINAL", "PRIMARY"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows = ds.Columns = _SIDE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelData = np.clip(pixels, 0, 4095).astype("<u2").tobytes()
    buffer = BytesIO()
    target = DicomIO(buffer)
    target.is_little_endian, target.is_implicit_VR = True, False
    write_dataset(target, ds)
    return Picture(str(ds.SOPInstanceUID), buffer.getvalue())

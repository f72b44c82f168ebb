"""Objects for whole-node tests: small, valid, made by program, each with its own UIDs."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

#: A person who does not exist, spelt so that no other text holds it.
MARKED_NAME = "Quorvexley^Zambrindelle"


def radiograph(
    *, rows: int = 96, cols: int = 96, seed: int = 0, name: str = "Doe^Jane", patient_id: str = "P-1",
    uid: str | None = None, study: str | None = None, series: str | None = None,
) -> FileDataset:
    """A CR image of 12 bits: a bright ellipse with noise, never twice the same for two seeds."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:rows * 1j, -1:1:cols * 1j]
    body = 3000 * np.exp(-3 * ((x / 0.8) ** 2 + (y / 0.9) ** 2) ** 2) + random.normal(0, 20, (rows, cols)) + 100
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = uid or generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study or generate_uid(), series or generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = name, patient_id, "19700101", "F"
    ds.PatientAge, ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "050Y", f"{date(2024, 3, 1):%Y%m%d}", "101500", "ACC1"
    ds.ReferringPhysicianName, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "", "1", "1", "1"
    ds.Modality, ds.Manufacturer, ds.BodyPartExamined, ds.ViewPosition = "CR", "Synthetic", "CHEST", "PA"
    ds.PatientOrientation, ds.Laterality = ["L", "F"], ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, cols, 16, 12, 11
    ds.PixelData = np.clip(body, 0, 4095).astype("<u2").tobytes()
    return ds


def write(ds: Dataset, folder: Path) -> Path:
    """Save under the SOP Instance UID and give the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path

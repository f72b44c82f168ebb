"""The images that the demo sends: test files of pydicom and pydicom-data, and radiographs that this module draws.

**Way** `write` puts Part 10 files into a folder and names each. The drawn ones carry an invented patient, in the header and
burned into the pixels, so that redaction has something to find.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from dicomnode.demo.drawing import ADULT, CHILD, Picture, burn, chest, screen

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
        ("drawn: chest, name burned in", burn(chest(ADULT, seed=1), banner), True),
        ("drawn: chest of a child", chest(CHILD, seed=2), False),
        ("drawn: screen of text", burn(screen(480, 640), [*banner, "OUTPATIENT CLINIC 4"]), True),
    ]


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

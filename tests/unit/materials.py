"""Instances and materials for the tests of outputs: files of pydicom, and objects with a marked patient made here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
)

from dicomnode.header import Sender, data_set_start, file_meta, header
from dicomnode.image import Coded, Image, Redacted
from dicomnode.outputs import Material, NodeFacts
from dicomnode.records import Code, Finding, Findings, Identity, Map, Means, Output, Placement, Region, Route

NODE = NodeFacts(node_id="node-under-test", ae_title="DICOMNODE", key=b"k" * 32, version="0.1.0")
PNEUMONIA = Finding("pneumonia", Code("233604007", "SCT", "Pneumonia"), 0.968, abnormal=True)
NORMAL = Finding("normal", Code("17621005", "SCT", "Normal"), 0.032)
FINDINGS = (Findings((PNEUMONIA, NORMAL), "chest-findings", "1.0", "ab" * 32),)
LESION = Finding("lesion", Code("52988006", "SCT", "Lesion"), 0.93, abnormal=True)
CHEST = Route(
    "pediatric_chest", 0.973, {"pediatric_chest": 0.973, "other": 0.027}, "model", "chest", ("chest-findings",), ("sr", "sc"),
    ("pacs",),
)
#: By what an image was redacted that may leave for outside.
MEANS = Means("strict", "detector@1", "reader 1", "ab" * 32, second_look="clean")
UNSURE = Route("uncertain", 0.31, {"spine": 0.31}, "model", "rest", (), ("sr", "sc"), ("pacs",))
SPINE = Route("spine", 1.0, {}, "header", "rest", (), ("sr", "sc"), ("pacs",))
RECEIVED_AT = datetime(2031, 7, 9, 10, 11, 12, 131415, tzinfo=UTC)


@dataclass(frozen=True)
class Charset:
    """A patient whose name needs a character set, and the Python codecs in which it might lie in a file."""

    terms: str | list[str]
    name: str
    codecs: tuple[str, ...]


#: Character sets of PS3.3 C.12.1.1.2, one each of the single-byte, UTF-8 and code-extension kinds.
CHARSETS = {
    "ascii": Charset("", "Zzmarker^Quentin", ("ascii",)),
    "latin-1": Charset("ISO_IR 100", "Zzmärker^Jörgé", ("latin-1", "utf-8")),
    "utf-8": Charset("ISO_IR 192", "Ζζμάρκερ^Ψυχή", ("utf-8", "iso8859-7")),
    "iso-2022-japanese": Charset(
        ["", "ISO 2022 IR 87"], "Zzmarker^Tarou=山田^太郎=やまだ^たろう", ("iso2022_jp", "utf-8", "shift_jis", "ascii"),
    ),
    "iso-2022-korean": Charset(["", "ISO 2022 IR 149"], "Zzmarker^Gildong=洪^吉洞=홍^길동", ("euc_kr", "utf-8", "ascii")),
}
#: Everything else that marks the patient; none of it may leave.
MARKS = ("ZZID4711", "19871203", "ZZACC0815", "Zzoperator", "Zzreferrer", "Zzprivate", "Zzward", "20310708", "Zzstudy")


def pydicom_file(name: str) -> bytes:
    """Bytes of a file that comes with pydicom; nothing is downloaded."""
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path)).read_bytes()


def marked_dx(charset: str = "ascii", *, rows: int = 96, cols: int = 64, frames: int = 1) -> bytes:
    """Make an image of the marked patient, nested and private elements included: a DX, or with several frames a capture."""
    ds, people = Dataset(), CHARSETS[charset]
    if people.terms:
        ds.SpecificCharacterSet = people.terms
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (f"1.2.826.0.1.3680043.9.99.{n}" for n in (1, 2, 3))
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = people.name, "ZZID4711", "19871203", "O"
    ds.OtherPatientIDsSequence = [_nested("ZZID4711")]
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20310708", "120000", "Zzstudy", "ZZACC0815"
    ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20310708"
    ds.ReferringPhysicianName, ds.OperatorsName = "Zzreferrer^A", "Zzoperator^B"
    ds.StudyDescription = "Zzward chest"
    ds.Modality, ds.PresentationIntentType, ds.SeriesNumber, ds.InstanceNumber = "DX", "FOR PRESENTATION", 1, 7
    ds.Manufacturer, ds.BodyPartExamined, ds.PatientAge = "Zzward devices", "CHEST", "007Y"
    block = ds.private_block(0x0011, "ZZPRIVATE", create=True)
    block.add_new(0x01, "LO", "Zzprivate")
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, cols, 16, 12, 11
    if frames > 1:
        ds.NumberOfFrames, ds.SOPClassUID = frames, MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    values = np.arange(frames * rows * cols, dtype=np.uint16) % 4096
    ds.PixelData = values.tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def _nested(value: str) -> Dataset:
    item = Dataset()
    item.PatientID, item.TypeOfPatientID = value, "TEXT"
    return item


def spooled(source: bytes) -> bytes:
    """The same data set behind the file meta that our acceptor writes."""
    ds = pydicom.dcmread(BytesIO(source), stop_before_pixels=True)
    syntax = str(ds.file_meta.TransferSyntaxUID)
    sender = Sender("MODALITY", "DICOMNODE", "127.0.0.1", RECEIVED_AT)
    start = data_set_start(BytesIO(source))
    return file_meta(str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax, sender) + source[start:]


def a_map(
    values: NDArray[np.float32] | list[list[float]], place: Placement, *, kind: Literal["heat", "mask"] = "mask",
    of: Finding = LESION, threshold: float = 0.5,
) -> Map:
    """A map of a label over a rectangle of the frame."""
    cells = np.asarray(values, dtype=np.float32)
    return Map(kind, of.label, of.code, of.abnormal, cells, place, threshold if kind == "mask" else None)


def mapped(rows: int, cols: int) -> tuple[Findings, ...]:
    """Findings of a model with heat for pneumonia, and of one with masks of a lesion and of what is normal, over the frame."""
    whole = Placement(0, 0, rows, cols)
    heat = a_map([[0, 1], [-1, 4]], whole, kind="heat", of=PNEUMONIA)
    masks = (a_map([[1, 0], [0, 0]], whole), a_map([[0, 0.7], [0.6, 0.7]], whole, of=NORMAL))
    second = Findings((LESION, NORMAL), "lesions", "2.0", "ef" * 32, masks)
    return dataclasses.replace(FINDINGS[0], maps=(heat,)), second


def material(  # the fields of `Material` that tests change
    source: bytes,
    identity: Identity = "kept",
    *,
    sr_class: str = "comprehensive-3d",
    route: Route = CHEST,
    findings: tuple[Findings, ...] = FINDINGS,
    picture: NDArray[np.uint8] | None = None,
    **more: Any,
) -> Material:
    """Fill a material from the bytes of a file; the picture stands for what redaction gave."""
    stream = BytesIO(spooled(source))
    instance = header(stream, instance_id="20310709T101112131415-0badcafe", location="incoming/x.dcm", node_id=NODE.node_id)
    stream.seek(0)
    image = Image.open(stream, instance)
    coded = None if picture is None else shown(picture)
    base = Material(
        instance=instance, image=image, coded=coded, route=route, findings=findings, identity=identity, destinations=("pacs",),
        sr_class=sr_class, node=NODE, settings_digest="cd" * 32, generation=0, source=stream,
    )
    return dataclasses.replace(base, **more)


def shown(
    picture: NDArray[np.uint8] | Callable[[int], NDArray[np.uint8]], *, strict: bool = True, released: bool = False,
    regions: tuple[Region, ...] = (), clean: bool = True,
) -> Any:
    """What a capture asks of `Coded`, with a picture of our own for every frame."""
    of_frame = picture if callable(picture) else lambda _frame: picture
    return SimpleNamespace(redacted=SimpleNamespace(
        picture=of_frame, strict=strict, released=released, regions_of=lambda _frame: regions,
        clean=clean and strict,
    ))


def clean(image: Image) -> Coded:
    """The image's own pixels as `Redacted` with nothing found, and as `Coded` that writes nothing."""
    redacted = Redacted(image, (), "found nothing", (0.0, 0.0, 0.0), strict=True, means=MEANS)
    return Coded(redacted, "", "", is_encapsulated=False, vr="OB", attributes={}, make=lambda: iter(()))


def grey(rows: int = 96, cols: int = 64) -> NDArray[np.uint8]:
    """A grey ramp, as a redacted picture might be."""
    return np.tile(np.linspace(0, 255, cols, dtype=np.uint8), (rows, 1))


def written(output: Output) -> bytes:
    """The Part 10 file of an output."""
    stream = BytesIO()
    output.write(stream)
    return stream.getvalue()


def read(output: Output) -> Dataset:
    """The data set of an output, as a reader would find it."""
    return pydicom.dcmread(BytesIO(written(output)))


def traces(charset: str) -> list[bytes]:
    """Every form in which the marked patient might lie in a file: the parts of the name, in all codecs, and the other marks."""
    people = CHARSETS[charset]
    parts = [part for part in people.name.replace("=", "^").split("^") if len(part) > 1]
    found = [part.encode(codec, "ignore") for part in parts for codec in people.codecs]
    return [trace for trace in found if len(trace) > 1] + [mark.encode() for mark in MARKS]

"""A marked patient goes through everything and is found nowhere but where results keep the identity."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytesseract
import pytest
from numpy.typing import NDArray
from pydicom import config, dcmread, dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut, get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import UID, JPEGBaseline8Bit, RLELossless, SegmentationStorage

from dicomnode.header import header
from dicomnode.pipeline import process
from dicomnode.repository import models_dir
from dicomnode.settings import WorkSettings
from tests.acceptance.harness import Node
from tests.acceptance.samples import radiograph, write
from tests.peers import STORESCP, storescp, wait_for
from tests.unit import fakes
from tests.unit.materials import NODE, written

#: (SpecificCharacterSet, name); every other marked value is ASCII.
PEOPLE = {
    "latin-1": ("ISO_IR 100", "Quörvexleyß^Zämbrindelle"),
    "utf-8": ("ISO_IR 192", "Квёрвекслей^Замбринделль=王小東"),
    "iso-2022-jp": (["", "ISO 2022 IR 87"], "Zambrindelle^Quorvexley=山田薇^太郎璃"),
    "iso-2022-kr": (["", "ISO 2022 IR 149"], "Zambrindelle^Quorvexley=洪吉洞薇"),
}
MARKS = {"PatientID": "QZX-7741902", "AccessionNumber": "ACQZX55819", "PatientBirthDate": "19570823"}
BURNED = "QUORVEXLEY 23.08.1957"
KINDS = ("sr", "sc", "sc-map", "seg", "deidentified")


def marked(charset: str | list[str], name: str, seed: int) -> FileDataset:
    """A radiograph whose person stands at the top, nested, in private elements and burned into the pixels."""
    ds = radiograph(rows=512, cols=512, seed=seed)
    ds.SpecificCharacterSet = charset
    ds.PatientName = name
    for keyword, value in MARKS.items():
        setattr(ds, keyword, value)
    item = Dataset()
    item.PatientName, item.PatientID = name, MARKS["PatientID"]
    item.StudyInstanceUID = ds.StudyInstanceUID
    ds.ReferencedStudySequence = Sequence()
    ds.RequestAttributesSequence = Sequence([Dataset()])
    ds.RequestAttributesSequence[0].RequestedProcedureDescription = f"For {name.split('=', maxsplit=1)[0]}"
    ds.RequestAttributesSequence[0].ScheduledProcedureStepID = MARKS["AccessionNumber"]
    ds.OriginalAttributesSequence = Sequence()
    ds.OtherPatientIDsSequence = Sequence([Dataset()])
    ds.OtherPatientIDsSequence[0].PatientID = MARKS["PatientID"]
    ds.PatientComments = f"Known as {name.split('=', maxsplit=1)[0]}"
    ds.StudyDescription = f"Chest of {name.split('=', maxsplit=1)[0]}"[:60]
    block = ds.private_block(0x0099, "QZX PRIVATE", create=True)
    block.add_new(0x01, "PN", name)
    block.add_new(0x02, "LO", MARKS["PatientID"])
    block.add_new(0x03, "SQ", Sequence([item]))
    text = np.zeros((ds.Rows, ds.Columns), np.uint8)
    cv2.putText(text, BURNED, (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 255, 2, cv2.LINE_AA)
    ds.PixelData = np.maximum(ds.pixel_array, text.astype(np.uint16) * 16).tobytes()
    return ds


def needles() -> dict[str, bytes]:
    """What must not be found, in every encoding in which it was sent or could be written."""
    found: dict[str, bytes] = {key: value.encode() for key, value in MARKS.items()}
    codecs = {"latin-1": ["latin-1", "utf-8"], "utf-8": ["utf-8"], "iso-2022-jp": ["iso2022_jp", "utf-8", "euc_jp"],
              "iso-2022-kr": ["euc_kr", "utf-8", "iso2022_kr"]}
    for who, (_, name) in PEOPLE.items():
        for codec in codecs[who]:
            for part in name.replace("=", "^").split("^"):
                needle = part.encode(codec, "ignore")
                if len(needle) >= 6:
                    found[f"{who} {codec} {part[:3]}"] = needle
                # What a JSON log would write for it.
                if not part.isascii():
                    found[f"{who} escaped {part[:3]}"] = part.encode("ascii", "backslashreplace")
    return found


def breaches(data: bytes, where: str) -> list[str]:
    """Names of the needles in the data, never the needles themselves."""
    lower = data.lower()
    return [f"{label} in {where}" for label, needle in needles().items() if needle.lower() in lower]


@pytest.mark.skipif(not shutil.which(STORESCP), reason="DCMTK is not installed (apt: dcmtk)")
def test_a_marked_patient_reaches_no_log_queue_name_or_outside_peer(tmp_path: Path) -> None:
    """Name, ID, birth date, accession in four character sets, nested, private, burned in: nothing of it outside."""
    mapper = pytest.importorskip("tests.unit.mapper", reason="the extra `train` is not installed: onnx makes a model")
    sources = [marked(charset, name, seed) for seed, (charset, name) in enumerate(PEOPLE.values())]
    with (
        storescp(tmp_path / "inside", ae_title="INSIDE") as inside,
        storescp(tmp_path / "outside", ae_title="OUTSIDE") as outside,
    ):
        node = Node(tmp_path, forward=(inside.forward,))
        node.append("peers/partner.toml", f'ae_title = "OUTSIDE"\nhost = "127.0.0.1"\nport = {outside.port}\n')
        # A model of a stranger whose masks are what is bright, at full resolution: they trace what is burned in.
        mapper.write(tmp_path / "models", size=512, cell=1)
        (tmp_path / "models" / "bodypart-router").symlink_to(models_dir(WorkSettings()) / "bodypart-router")
        node.edit("node.toml", '# models_dir = "/var/lib/dicomnode-models"', f'models_dir = "{tmp_path / "models"}"')
        (node.config / "routes.toml").write_text(
            f'[[rule]]\nname = "all"\nmodels = ["lesions"]\noutputs = {json.dumps(KINDS)}\n'
            'destinations = ["inside", "partner"]\n',
        )
        node.edit("node.toml", 'level = "info"', 'level = "debug"')
        with node.running():
            paths = [write(ds, tmp_path / "sources") for ds in sources]
            line = ["/usr/bin/storescu", "-aec", "DICOMNODE", "127.0.0.1", str(node.port), *map(str, paths)]
            subprocess.run(line, check=True, env={**os.environ, "TCP_NODELAY": "1"}, timeout=60)
            # deidentified is one object for both peers
            for archive in (outside, inside):
                arrived = lambda archive=archive: len(list(archive.folder.iterdir())) == len(KINDS) * len(sources)  # noqa: E731
                wait_for(arrived, 120, lambda: f"results arrive; {node.counts()} {node.tail()}")
            table = node.command("queue", "list").stdout + node.command("queue").stdout
            shown = node.command("queue", "show", str(sources[0].SOPInstanceUID)).stdout
            # Asked for as people paste it, and told by everything but itself.
            for form in ("--json", "--limit=2"):
                told = node.command("where", f" {MARKS['AccessionNumber'].lower()} ", form).stdout
                assert "Accession Number" in told
                assert "delivered" in told
                shown += told
            shown += node.command("queue", "verify").stdout
        found = breaches(node.log_path.read_bytes(), "the log")
        found += breaches(table.encode() + shown.encode(), "dicomnode queue")
        # Everything that the node keeps beside the images and results themselves.
        kept = [path for path in node.state.rglob("*") if path.is_file() and "spool" not in path.parts]
        assert {"queue.sqlite", "node.json"} <= {path.name for path in kept}
        for path in kept:
            found += breaches(path.read_bytes(), path.name)
        for path in [*node.state.rglob("*"), *outside.folder.iterdir()]:
            found += breaches(path.name.encode(), "a file name")
        for path in outside.folder.iterdir():
            found += breaches(path.read_bytes(), f"an outside {dcmread(path).Modality}")
            found += [f"burned in, {path.name[:2]}" for word in BURNED.split() if word.lower() in _read(path)]
        assert not found
        # The test can fail: inside, the identity is there.
        kept = b"".join(path.read_bytes() for path in inside.folder.iterdir() if path.name.startswith("SR"))
        assert {"PatientID", "AccessionNumber"} <= {label.split(" in ")[0] for label in breaches(kept, "inside")}
        assert all(word.lower() in _read(paths[0]) for word in BURNED.split())
        masks = [_read(path) for path in inside.folder.iterdir() if dcmread(path).SOPClassUID == SegmentationStorage]
        assert [BURNED.split(maxsplit=1)[0].lower() in mask for mask in masks] == [True] * len(sources)


#: A name as a code string could hold it.
HIDDEN = "QUORVEXLEY Z"
#: What a sender may write where the standard has numbers and terms: (keyword, VR, value).
ODD = (
    ("ImageType", "CS", ["ORIGINAL", "PRIMARY", HIDDEN]), ("ViewPosition", "CS", HIDDEN), ("Modality", "CS", HIDDEN),
    ("RescaleType", "LO", HIDDEN), ("LossyImageCompressionMethod", "CS", HIDDEN), ("Laterality", "CS", HIDDEN),
    ("ConversionType", "CS", HIDDEN), ("PresentationLUTShape", "CS", HIDDEN), ("PatientOrientation", "CS", HIDDEN),
    ("SliceThickness", "OB", HIDDEN.encode()), ("ImagePositionPatient", "UN", HIDDEN.encode()), ("PixelSpacing", "LO", HIDDEN),
    ("InstanceNumber", "LO", HIDDEN), ("LUTData", "OW", HIDDEN.encode() * 40),
)  # fmt: skip


def outside(ds: Dataset) -> dict[str, bytes]:
    """What is made of an object for an outside peer when redaction finds nothing; the coder and builders are real."""
    stream = BytesIO()
    with config.disable_value_validation():
        dcmwrite(stream, ds, enforce_file_format=True)
    chosen = fakes.route(("sr", "sc", "deidentified"), ("partner",))
    instance = header(stream, instance_id="x", location="x", node_id=NODE.node_id)
    return {o.kind: written(o) for o in process(instance, stream, fakes.kit(chosen)).outputs}


@pytest.mark.parametrize(("keyword", "vr", "value"), ODD, ids=[f"{keyword}-{vr}" for keyword, vr, _ in ODD])
def test_text_in_places_of_numbers_and_terms_does_not_leave(keyword: str, vr: str, value: Any) -> None:
    """A name in an attribute that the allow-list takes, in its own VR or another, is in no object for outside."""
    ds = radiograph()
    ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", 2
    with config.disable_value_validation():
        ds.add(DataElement(tag_for_keyword(keyword) or 0, vr, value, already_converted=True))
    made = outside(ds)
    assert made.keys() == {"sr", "sc", "deidentified"}
    assert [kind for kind, data in made.items() if HIDDEN[:10].encode() in data] == []


def encapsulated(frames: list[bytes], syntax: str, bits: int) -> Dataset:
    """A radiograph of one frame with these fragments."""
    ds = radiograph()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (8, 8, 7) if bits == 8 else (16, 12, 11)
    ds.PixelData = encapsulate([b"".join(frames)]) if len(frames) == 1 else encapsulate(frames, has_bot=False)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return ds


def rle(values: NDArray[Any]) -> bytes:
    """A frame of 16 bits in RLE."""
    options: dict[str, Any] = {"rows": 96, "columns": 96, "number_of_frames": 1, "samples_per_pixel": 1, "bits_allocated": 16,
               "bits_stored": 16, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2"}  # fmt: skip
    return bytes(get_encoder(RLELossless).encode(values.astype("<u2").tobytes(), **options))


def test_a_comment_in_a_code_stream_does_not_leave() -> None:
    """A name in a comment of a JPEG, or behind its end, is in no object for outside; the picture is the same."""
    values = (radiograph().pixel_array >> 4).astype(np.uint8)
    stream = cv2.imencode(".jpg", values)[1].tobytes()
    comment = b"\xff\xfe" + struct.pack(">H", len(HIDDEN) + 2) + HIDDEN.encode()
    ds = encapsulated([stream[:2] + comment + stream[2:] + HIDDEN.encode()], JPEGBaseline8Bit, 8)
    made = outside(ds)
    assert [kind for kind, data in made.items() if HIDDEN[:10].encode() in data] == []
    assert np.array_equal(dcmread(BytesIO(made["deidentified"])).pixel_array, ds.pixel_array)


def test_bits_and_fragments_that_nobody_looked_at_do_not_leave() -> None:
    """A text in the unused bits of an RLE frame leaves with no object; a second fragment holds the outputs of pixels."""
    values = radiograph().pixel_array
    mask = np.zeros(values.shape, np.uint8)
    cv2.putText(mask, "QUORVEXLEY", (2, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1, 1)
    made = outside(encapsulated([rle(values | mask.astype(np.uint16) << 15)], RLELossless, 16))
    ds = dcmread(BytesIO(made["deidentified"]))
    ds.BitsStored, ds.HighBit = 16, 15
    assert np.array_equal(ds.pixel_array, values)
    assert outside(encapsulated([rle(values), HIDDEN.encode()], RLELossless, 16)).keys() == {"sr"}


def _read(path: Path) -> str:
    """What Tesseract reads in the pixels of an object, in lower case; ``""`` for an SR."""
    ds = dcmread(path)
    if "PixelData" not in ds:
        return ""
    pixels = ds.pixel_array
    if pixels.ndim == 2:
        pixels = apply_voi_lut(pixels, ds).astype(float)
        pixels = np.uint8(255 * (pixels - pixels.min()) / max(1.0, float(np.ptp(pixels))))
    big = cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    return str(pytesseract.image_to_string(255 - big, config="--psm 11")).lower()

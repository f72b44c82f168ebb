"""A marked patient goes through everything and is found nowhere but where results keep the identity."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytesseract
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import apply_voi_lut
from pydicom.sequence import Sequence

from tests.acceptance.harness import Node, wait_for
from tests.acceptance.peers import STORESCP, storescp
from tests.acceptance.samples import radiograph, write

pytestmark = pytest.mark.skipif(not shutil.which(STORESCP), reason="DCMTK is not installed (apt: dcmtk)")

#: (SpecificCharacterSet, name); every other marked value is ASCII.
PEOPLE = {
    "latin-1": ("ISO_IR 100", "Quörvexleyß^Zämbrindelle"),
    "utf-8": ("ISO_IR 192", "Квёрвекслей^Замбринделль=王小東"),
    "iso-2022-jp": (["", "ISO 2022 IR 87"], "Zambrindelle^Quorvexley=山田薇^太郎璃"),
    "iso-2022-kr": (["", "ISO 2022 IR 149"], "Zambrindelle^Quorvexley=洪吉洞薇"),
}
MARKS = {"PatientID": "QZX-7741902", "AccessionNumber": "ACQZX55819", "PatientBirthDate": "19570823"}
BURNED = "QUORVEXLEY 23.08.1957"


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


def test_a_marked_patient_reaches_no_log_queue_name_or_outside_peer(tmp_path: Path) -> None:
    """Name, ID, birth date, accession in four character sets, nested, private, burned in: nothing of it outside."""
    sources = [marked(charset, name, seed) for seed, (charset, name) in enumerate(PEOPLE.values())]
    with storescp(tmp_path / "inside", "INSIDE") as inside, storescp(tmp_path / "outside", "OUTSIDE") as outside:
        node = Node(tmp_path, forward=(inside.forward,))
        node.append("peers/partner.toml", f'ae_title = "OUTSIDE"\nhost = "127.0.0.1"\nport = {outside.port}\n')
        routes = node.config / "routes.toml"
        routes.write_text(routes.read_text().replace(
            'outputs = ["sr", "sc"]\ndestinations = ["inside"]',
            'outputs = ["sr", "sc", "deidentified"]\ndestinations = ["inside", "partner"]',
        ))
        node.edit("node.toml", 'level = "info"', 'level = "debug"')
        with node.running():
            paths = [write(ds, tmp_path / "sources") for ds in sources]
            line = ["/usr/bin/storescu", "-aec", "DICOMNODE", "127.0.0.1", str(node.port), *map(str, paths)]
            subprocess.run(line, check=True, env={**os.environ, "TCP_NODELAY": "1"}, timeout=60)
            # deidentified is one object for both peers
            for archive in (outside, inside):
                arrived = lambda archive=archive: len(list(archive.folder.iterdir())) == 3 * len(sources)  # noqa: E731
                wait_for(arrived, 120, lambda: f"results arrive; {node.counts()} {node.tail()}")
            table = node.command("queue", "list").stdout + node.command("queue").stdout
            shown = node.command("queue", "show", str(sources[0].SOPInstanceUID)).stdout
        found = breaches(node.log_path.read_bytes(), "the log")
        found += breaches(table.encode() + shown.encode(), "dicomnode queue")
        for path in node.state.glob("queue.sqlite*"):
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

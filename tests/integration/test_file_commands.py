"""`route`, `redact` and `run` through the real command line: the contracts of DESIGN.md section 6, and what never leaves."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset

from dicomnode import cli
from dicomnode.commands.redact import _Redactor
from dicomnode.errors import StageFailed
from dicomnode.records import BODY_PARTS, UNCERTAIN
from dicomnode.repository import models_dir
from dicomnode.settings import WorkSettings
from dicomnode.stages.encode import Encode
from tests.acceptance.harness import DICOMNODE
from tests.acceptance.samples import MARKED_NAME, radiograph, write

needs_models = pytest.mark.skipif(
    not list(models_dir(WorkSettings()).glob("bodypart-router/*/model.onnx")), reason="the router's model is not in models/",
)
needs_tesseract = pytest.mark.skipif(shutil.which("tesseract") is None, reason="the program tesseract is not installed")

ROUTE_KEYS = ["path", "body_part", "probability", "probabilities", "source", "rule", "model", "models", "destinations",
              "picture", "picture_probability", "tag", "agreement", "doubt", "trust", "uncertain", "hold", "device"]
#: What `--pixels-only` writes beside the pixels.
SAID = ("DeidentificationMethod", "DeidentificationMethodCodeSequence", "DerivationCodeSequence", "BurnedInAnnotation")
REGION_KEYS = {"frame", "x", "y", "w", "h", "reason"}
REASONS = {"header-match", "date", "number", "unknown-text", "overlay"}
FAMILY, PATIENT_ID = MARKED_NAME.split("^", maxsplit=1)[0], "QZX7741902"
#: Every form in which the marked patient might be found.
MARKS = [FAMILY.lower().encode(), MARKED_NAME.split("^")[1].lower().encode(), PATIENT_ID.lower().encode()]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one command."""
    line = [*DICOMNODE, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def objects(text: str) -> list[dict[str, Any]]:
    """The lines of --json or of a report."""
    return [json.loads(line) for line in text.splitlines()]


def pydicom_file(name: str) -> Path:
    """A file that comes with pydicom; nothing is downloaded."""
    return Path(str(get_testdata_file(name, download=False)))


def marked(seed: int = 1, text: str = FAMILY.upper()) -> FileDataset:
    """A radiograph of the marked patient, whose name is burned into the pixels."""
    ds = radiograph(rows=384, cols=384, seed=seed, name=MARKED_NAME, patient_id=PATIENT_ID)
    ink = np.zeros((ds.Rows, ds.Columns), np.uint8)
    cv2.putText(ink, text, (12, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 255, 2, cv2.LINE_8)
    ds.PixelData = np.where(ink > 0, 4095, ds.pixel_array).astype("<u2").tobytes()
    return ds


def undecodable(ds: FileDataset) -> FileDataset:
    """The header is sound, the pixel data end too early."""
    ds.PixelData = ds.PixelData[:1000]
    return ds


def no_marks(data: bytes) -> bool:
    """Nothing of the marked patient stands there, in any case of letters."""
    return not any(mark in data.lower() for mark in MARKS)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration as `init` writes it, with a peer that gets results."""
    root = tmp_path_factory.mktemp("node")
    done = command("init", root / "config", "--state-dir", root / "state", "--forward", "PACS@127.0.0.1:11119")
    assert done.returncode == 0, done.stderr
    return root / "config"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Sources in two levels, named after the patient as users do: two sound ones, and one whose pixels do not decode."""
    src = tmp_path / "src"
    (src / "ward b").mkdir(parents=True)
    marked(1).save_as(src / f"{FAMILY}.dcm", enforce_file_format=True)
    marked(2).save_as(src / "ward b" / f"{FAMILY} 2", enforce_file_format=True)
    undecodable(marked(3)).save_as(src / "broken.dcm", enforce_file_format=True)
    yield src
    assert not [path for path in tmp_path.rglob("*.part*")], "a draft was left behind"  # noqa: C416 - shown when it fails


# -- route
@needs_models
def test_route_of_a_radiograph_is_the_models(tmp_path: Path) -> None:
    """The contract's keys and no other; five probabilities that sum to 1, and the best of them is the answer."""
    path = write(radiograph(rows=256, cols=256), tmp_path)
    done = command("route", path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = objects(done.stdout)
    assert list(found) == ROUTE_KEYS
    assert found["path"] == str(path)
    assert found["source"] == "model"
    assert set(found["probabilities"]) == set(BODY_PARTS)
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    best = max(found["probabilities"], key=found["probabilities"].get)
    assert found["probability"] == found["probabilities"][best]
    assert found["body_part"] in (best, UNCERTAIN)
    assert (found["model"], found["destinations"]) == (None, [])


@needs_models
def test_route_of_a_ct_is_the_headers(config: Path) -> None:
    """A modality that no classifier was taught is judged by its header; the configuration's rule and peers are named."""
    done = command("route", pydicom_file("CT_small.dcm"), "-c", config, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = objects(done.stdout)
    assert list(found) == ROUTE_KEYS
    assert (found["source"], found["probabilities"]) == ("header", {})
    assert found["body_part"] in {*BODY_PARTS, UNCERTAIN}
    assert found["probability"] in {0.0, 1.0}
    assert (found["rule"], found["destinations"]) == ("everything-else", ["pacs"])


@needs_models
def test_route_goes_on_after_a_file_that_is_none(tmp_path: Path) -> None:
    """A bad file is named on stderr, the rest is answered, and the exit code says that something failed."""
    bad = tmp_path / "a.txt"
    bad.write_text("no DICOM file")
    good = write(radiograph(), tmp_path / "more")
    done = command("route", bad, good.parent, "--json")
    assert done.returncode == 1
    assert [one["path"] for one in objects(done.stdout)] == [str(good)]
    assert done.stderr == f"dicomnode: {bad}: undecodable\n"


@needs_models
def test_route_without_json_is_for_people(tmp_path: Path) -> None:
    """One line a file that starts with its path."""
    path = write(radiograph(), tmp_path)
    done = command("route", path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{path}: ")
    assert done.stdout.count("\n") == 1


# -- redact
@needs_tesseract
def test_redact_of_a_folder_keeps_names_and_finishes_the_rest(folder: Path, tmp_path: Path) -> None:
    """The same relative names; what is held is not written, its line says why, and the others are done all the same."""
    out, report = tmp_path / "out", tmp_path / "report.jsonl"
    done = command("redact", folder, out, "--report", report)
    assert done.returncode == 1
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {f"{FAMILY}.dcm", f"ward b/{FAMILY} 2"}
    lines = {line["path"]: line for line in objects(report.read_text())}
    assert set(lines) == {str(path) for path in folder.rglob("*") if path.is_file()}
    assert lines[str(folder / "broken.dcm")] == {"path": str(folder / "broken.dcm"), "regions": [], "held": "undecodable"}
    assert f"dicomnode: {folder / 'broken.dcm'}: undecodable" in done.stderr
    for name in names:
        line = lines[str(folder / name)]
        assert set(line) == {"path", "regions", "certificate"}
        assert command("redact", "verify", folder / name, out / name, report).returncode == 0
        assert line["regions"]
        assert all(set(region) == REGION_KEYS and region["reason"] in REASONS for region in line["regions"])
        assert no_marks((out / name).read_bytes())
    # The text itself stands nowhere but in paths, which are the user's own words.
    assert no_marks(report.read_text().replace(FAMILY, "").encode())
    assert no_marks(done.stdout.encode())


@needs_tesseract
def test_redact_of_a_file_blanks_what_it_reports(tmp_path: Path) -> None:
    """Inside the reported rectangles everything is black, outside every pixel is as it was; the name is inside."""
    ds = marked()
    source, target, report = write(ds, tmp_path / "src"), tmp_path / "new folder" / "x.dcm", tmp_path / "r"
    assert command("redact", source, target, "--report", report).returncode == 0
    (line,) = objects(report.read_text())
    before, after = ds.pixel_array, dcmread(target).pixel_array
    mask = mask_of(line["regions"], before.shape)
    assert (after[mask] == 0).all()
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert mask[before == 4095].mean() > 0.98
    assert mask.mean() < 0.3


def mask_of(regions: list[dict[str, Any]], shape: tuple[int, ...]) -> Any:
    """The pixels that a report calls blanked."""
    mask = np.zeros(shape, bool)
    for r in regions:
        mask[r["y"]:r["y"] + r["h"], r["x"]:r["x"] + r["w"]] = True
    return mask


@needs_tesseract
def test_pixels_only_keeps_the_header(tmp_path: Path) -> None:
    """Every element but the pixel data, and what says what became of them, is as it was, name and UIDs of the patient too."""
    ds = marked()
    block = ds.private_block(0x0099, "QZX PRIVATE", create=True)
    block.add_new(0x01, "LO", "kept")
    source, target, report = write(ds, tmp_path / "src"), tmp_path / "x.dcm", tmp_path / "r"
    assert command("redact", source, target, "--pixels-only", "--report", report).returncode == 0
    before, after = dcmread(source), dcmread(target)
    mask = mask_of(objects(report.read_text())[0]["regions"], ds.pixel_array.shape)
    assert mask.any()
    np.testing.assert_array_equal(after.pixel_array[~mask], before.pixel_array[~mask])
    assert (after.pixel_array[mask] == 0).all()
    assert (after.ImageType[0], before.get("ImageType")) == ("DERIVED", None)
    for keyword in ("PixelData", "ImageType", *SAID):
        for ds in (before, after):
            ds.pop(keyword, None)
    assert after == before
    assert after.PatientName == MARKED_NAME
    assert after.file_meta.MediaStorageSOPInstanceUID == before.SOPInstanceUID


@needs_tesseract
def test_header_mode_leaves_text_that_nobody_knows(tmp_path: Path) -> None:
    """In strict mode a strange name is blanked, in header mode it stays and what the header says still goes."""
    source = write(marked(text="HOLGERSSON"), tmp_path / "src")
    own = write(marked(), tmp_path / "src")
    found = {}
    for mode in ("strict", "header"):
        report = tmp_path / mode
        done = command("redact", tmp_path / "src", tmp_path / f"out {mode}", "--mode", mode, "--report", report)
        assert done.returncode == 0, done.stderr
        lines = objects(report.read_text())
        found[mode] = {Path(line["path"]): {region["reason"] for region in line["regions"]} for line in lines}
    assert found["strict"][source] == {"unknown-text"}
    assert found["header"][source] == set()
    assert "header-match" in found["strict"][own] & found["header"][own]


@needs_tesseract
def test_redact_leaves_an_older_target_of_a_held_file_alone(tmp_path: Path) -> None:
    """A file that is held neither overwrites nor removes what stands under its name."""
    source = write(undecodable(marked()), tmp_path / "src")
    target = tmp_path / "x.dcm"
    target.write_bytes(b"older")
    assert command("redact", source, target).returncode == 1
    assert target.read_bytes() == b"older"


@needs_tesseract
def test_redact_leaves_no_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that fails while it is written leaves neither target nor draft."""

    def fail() -> Iterator[bytes]:
        yield b"\0" * 100
        raise StageFailed("x")

    redactor = _Redactor("strict", pixels_only=True)
    monkeypatch.setattr(redactor, "_encode", lambda redacted: dataclasses.replace(Encode()(redacted), make=fail))
    with pytest.raises(StageFailed):
        redactor.work(write(marked(), tmp_path / "src"), tmp_path / "out" / "x.dcm")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("what", ["same file", "same folder", "folder for a file", "file for a folder", "report", "mode"])
def test_redact_refuses_what_cannot_be_meant(tmp_path: Path, what: str) -> None:
    """Usage faults end with 2 before anything is touched, and name the argument."""
    source = write(radiograph(), tmp_path / "src")
    (tmp_path / "folder").mkdir()
    before = source.read_bytes()
    arguments: dict[str, tuple[list[object], str]] = {
        "same file": ([source, source.parent / ".." / "src" / source.name], "DST"),
        "same folder": ([source.parent, source.parent], "DST"),
        "folder for a file": ([source, tmp_path / "folder"], "DST"),
        "file for a folder": ([source.parent, source], "DST"),
        "report": ([source, tmp_path / "x.dcm", "--report", tmp_path / "no" / "folder"], "--report"),
        "mode": ([source, tmp_path / "x.dcm", "--mode", "loose"], "--mode"),
    }
    line, named = arguments[what]
    done = command("redact", *line)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert source.read_bytes() == before
    assert not (tmp_path / "x.dcm").exists()
    assert not list((tmp_path / "folder").iterdir())


# -- run
@needs_models
@needs_tesseract
def test_run_writes_nothing_that_identifies(folder: Path, tmp_path: Path, config: Path) -> None:
    """SR, SC and image of each source are safe for outside: no mark in bytes or names; held pixels hold pixels alone."""
    out = tmp_path / "out"
    done = command("run", folder, "--out", out, "-c", config, "--json")
    assert done.returncode == 1
    told = {Path(one["path"]).name: one for one in objects(done.stdout)}
    assert len(told) == 3
    assert {kind["kind"]: kind["reason"] for kind in told["broken.dcm"]["held"]} == {
        "sc": "undecodable", "deidentified": "undecodable",
    }
    assert told[f"{FAMILY}.dcm"]["held"] == []
    names = sorted(path.name for path in out.rglob("*"))
    assert names == sorted(name for one in told.values() for name in one["outputs"])
    assert [sum(name.startswith(f"{kind}-2.25.") for name in names) for kind in ("sr", "sc", "deidentified")] == [3, 2, 2]
    originals = {str(dcmread(path).SOPInstanceUID) for path in folder.rglob("*") if path.is_file()}
    for path in out.iterdir():
        data = path.read_bytes()
        assert no_marks(data), path.name
        assert no_marks(path.name.encode())
        assert not any(uid.encode() in data for uid in originals), path.name
        ds = dcmread(path)
        assert path.name.endswith(f"-{ds.SOPInstanceUID}.dcm")
        assert ds.PatientIdentityRemoved == "YES"
    assert "held (undecodable)" in done.stderr


@needs_models
@needs_tesseract
def test_run_of_one_sound_file_ends_with_0_and_can_be_repeated(tmp_path: Path, config: Path) -> None:
    """Twice gives the same files with the same bytes, though the results stand below the sources."""
    source = write(marked(), tmp_path / "src")
    out = tmp_path / "src" / "out"
    done = command("run", source, "--out", out, "-c", config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 worked, 0 failed, 0 outputs held")
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(first) == 3
    assert command("run", source, "--out", out, "-c", config).returncode == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


@needs_models
@needs_tesseract
def test_run_goes_on_after_a_file_that_is_none(tmp_path: Path, config: Path) -> None:
    """One that is no DICOM file fails by name; the rest is worked."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a note.txt").write_text("no DICOM file")
    write(radiograph(), tmp_path / "src")
    done = command("run", tmp_path / "src", "--out", tmp_path / "out", "-c", config)
    assert done.returncode == 1
    assert done.stdout.startswith("1 worked, 1 failed, 0 outputs held")
    assert f"dicomnode: {tmp_path / 'src' / 'a note.txt'}: undecodable" in done.stderr


@needs_models
@needs_tesseract
def test_run_refuses_a_target_that_is_a_file(tmp_path: Path, config: Path) -> None:
    """A usage fault names the option."""
    source = write(radiograph(), tmp_path / "src")
    done = command("run", source, "--out", source, "-c", config)
    assert done.returncode == 2
    assert "--out" in done.stderr


# -- every command
def test_a_missing_source_is_a_failure(tmp_path: Path, config: Path) -> None:
    """Exit 1, and the message names the path."""
    none, target = tmp_path / "none", tmp_path / "x"
    for line in (("redact", none, target), ("run", none, "--out", target, "-c", config)):
        done = command(*line)
        assert done.returncode == 1
        assert str(none) in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "line",
    [("run", "--out", "out"), ("run", "src"), ("route",), ("redact", "src"), ("echo",), ("init",), ("serve", "more"),
     ("nothing",), ("route", "--nothing", "x"), ("queue", "nothing")],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(line: tuple[str, ...]) -> None:
    """Usage faults are told from failures."""
    done = command(*line)
    assert done.returncode == 2
    assert "Usage" in done.stderr


@pytest.mark.parametrize(
    "line",
    [("run", "src", "--out", "out"), ("route", "src"), ("check",), ("serve",), ("work",), ("echo", "pacs"), ("queue", "list")],
    ids=" ".join,
)
def test_a_missing_configuration_ends_with_78(line: tuple[str, ...], tmp_path: Path) -> None:
    """The message names the file that is not there."""
    done = command(*line, "-c", tmp_path)
    assert done.returncode == 78
    assert str(tmp_path / "node.toml") in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_every_command_has_help(name: str) -> None:
    """Help ends with 0 and says how the command is used."""
    done = command(*name.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout
    assert len(done.stdout.splitlines()) > 5
    if not name:
        assert all(one in done.stdout for one in cli.COMMANDS)

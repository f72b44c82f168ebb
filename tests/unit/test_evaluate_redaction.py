"""Evaluation of redaction: what counts as removed, kept and collateral, on files made by hand; the generator; the command."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from typer.testing import CliRunner

from dicomnode.commands import evaluate_redaction
from dicomnode.commands.evaluate import app
from dicomnode.errors import BadSetting, RedactionUncertain
from dicomnode.evaluation import measure
from dicomnode.evaluation.compare import compare
from dicomnode.evaluation.manifest import Case, Text, read
from dicomnode.evaluation.synthetic import Drawing, draw_set
from dicomnode.evaluation.synthetic.fonts import faces
from dicomnode.evaluation.synthetic.objects import FORMS, Form, write
from dicomnode.evaluation.synthetic.words import identity
from dicomnode.evaluation.trial import try_file
from dicomnode.image import Image, Redacted
from dicomnode.records import Region
from dicomnode.stages.redact.blank import black

ROWS, COLUMNS = 60, 200


def write_file(path: Path, frames: NDArray[np.uint8]) -> Path:
    """Write frames as they are."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.7"
    ds.Manufacturer, ds.ManufacturerModelName = "Acme", "One"
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = frames.tobytes()
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def stripe(folder: Path, *, frames: int = 1, ground: int = 200, tone: int = 255, **more: Any) -> Case:
    """A file with one string: 100 columns of ink, 20 rows high, from (30, 20); by mask, so that every pixel of it counts."""
    pictures = np.full((frames, ROWS, COLUMNS), ground, np.uint8)
    pictures[:, 20:40, 30:130] = tone
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[20:40, 30:130] = 255
    cv2.imwrite(str(folder / "ink.png"), mask)
    text = Text(2, more.pop("identifying", True), 30, 20, 129, 39, ink=folder / "ink.png", **more)
    return Case("a.dcm", write_file(folder / "a.dcm", pictures), (text,))


class Blanks:
    """A redactor that blanks given rectangles, as `Redactor` has it."""

    def __init__(self, *boxes: tuple[int, int, int, int], frames: Sequence[int] = (0,)) -> None:
        self._boxes, self._frames = boxes, frames

    def __call__(self, image: Image) -> Redacted:
        """Blank them in the frames that were named."""
        regions = tuple(Region(frame, *box, "date") for frame in self._frames for box in self._boxes)
        return Redacted(image=image, regions=regions, method="by hand", black=black(image), strict=True)


@pytest.mark.parametrize(("columns", "removed"), [(97, False), (98, True), (100, True)])
def test_a_string_is_removed_from_98_percent_of_its_ink_on(tmp_path: Path, columns: int, removed: bool) -> None:
    """97 of 100 columns are not enough, 98 are."""
    tried = try_file(stripe(tmp_path), Blanks((30, 20, columns, 20)))
    assert [one.good for one in tried.judged] == [removed]
    assert tried.judged[0].share == pytest.approx(columns / 100)


@pytest.mark.parametrize(("columns", "kept"), [(0, True), (9, True), (10, False)])
def test_a_harmless_string_is_lost_from_10_percent_of_its_ink_on(tmp_path: Path, columns: int, kept: bool) -> None:
    """9 of 100 columns may go."""
    boxes = [(30, 20, columns, 20)] if columns else []
    tried = try_file(stripe(tmp_path, identifying=False), Blanks(*boxes))
    assert [one.good for one in tried.judged] == [kept]


def test_one_frame_of_three_that_still_has_it_is_a_miss(tmp_path: Path) -> None:
    """A string must go in every frame, and a harmless one stay in every frame; the frame is named."""
    box = (24, 14, 112, 32)
    assert try_file(stripe(tmp_path, frames=3), Blanks(box, frames=(0, 1, 2))).judged[0].good
    tried = try_file(stripe(tmp_path, frames=3), Blanks(box, frames=(0, 2)))
    assert (tried.judged[0].good, tried.judged[0].frame) == (False, 1)
    tried = try_file(stripe(tmp_path, frames=3, identifying=False), Blanks(box, frames=(1,)))
    assert (tried.judged[0].good, tried.judged[0].frame) == (False, 1)


def test_a_string_of_one_frame_counts_there_alone(tmp_path: Path) -> None:
    """What stands in frame 1 must go there; where it does not stand, changes at its place are collateral."""
    box = (30, 20, 100, 20)
    assert try_file(stripe(tmp_path, frames=2, frame=1), Blanks(box, frames=(1,))).judged[0].good
    assert not try_file(stripe(tmp_path, frames=2, frame=1), Blanks(box, frames=(0,))).judged[0].good
    assert try_file(stripe(tmp_path, frames=2, frame=1), Blanks(box, frames=(0, 1))).far_changed == 2000


def test_black_text_in_a_blanked_field_is_gone(tmp_path: Path) -> None:
    """Its own values do not change, but nothing stands out any more; blanking the strokes alone would show them still."""
    assert try_file(stripe(tmp_path, tone=0), Blanks((30, 20, 100, 20))).judged[0].good
    before = np.full((20, 20), 200, np.uint8)
    before[5:15, 5:15] = 0
    assert not compare(before, before, []).gone.any()


def test_a_region_that_is_not_even_removes_nothing(tmp_path: Path) -> None:
    """A report alone is no proof: what is still there is not gone."""
    before = np.random.default_rng(0).integers(0, 255, (20, 20), np.uint8)
    found = compare(before, before.copy(), [Region(0, 2, 2, 10, 10, "date")])
    assert found.reported.sum() == 100
    assert not found.gone.any()


def test_the_margin_is_not_collateral(tmp_path: Path) -> None:
    """Six pixels each way belong to the text, the seventh does not."""
    assert try_file(stripe(tmp_path), Blanks((24, 14, 112, 32))).far_changed == 0
    assert try_file(stripe(tmp_path), Blanks((23, 14, 113, 32))).far_changed == 32
    assert try_file(stripe(tmp_path), Blanks((24, 14, 112, 33))).far_changed == 112


def test_a_change_outside_the_regions_is_seen() -> None:
    """A single pixel is."""
    before = np.zeros((20, 20, 3), np.uint8)
    after = before.copy()
    after[3, 4, 1] = 1
    found = compare(before, after, [Region(0, 8, 8, 4, 4, "date")])
    assert (found.changed & ~found.reported).sum() == 1


def test_what_cannot_be_seen_is_in_no_share_and_no_collateral(tmp_path: Path) -> None:
    """A string that is not visible is not judged, and blanking its place harms nothing."""
    tried = try_file(stripe(tmp_path, visible=False), Blanks((30, 20, 100, 20)))
    assert tried.judged == []
    assert tried.far_changed == 0


def test_a_held_file_is_neither_removed_nor_kept(tmp_path: Path) -> None:
    """Its identifying strings do not leave, its harmless ones are not there either."""
    for name in ("phi", "word"):
        (tmp_path / name).mkdir()

    def held(image: Image) -> Redacted:
        raise RedactionUncertain("for the test")

    cases = [stripe(tmp_path / "phi"), stripe(tmp_path / "word", identifying=False)]
    found = measure(cases, {"strict": held}, draws=100)["modes"]["strict"]
    assert found["held"] == {RedactionUncertain.code: 2}
    assert (found["identifying"]["strings"], found["harmless"]["strings"]) == (0, 0)
    assert found["identifying"]["share_of_all"]["value"] == 1
    assert found["harmless"]["share_of_all"]["value"] == 0
    assert found["misses"] == []


def test_every_miss_has_a_line_and_a_picture(tmp_path: Path) -> None:
    """A leak and a loss: files, frames, boxes, and no text; growth and regions beside them."""
    (tmp_path / "phi").mkdir()
    (tmp_path / "word").mkdir()
    cases = [stripe(tmp_path / "phi"), stripe(tmp_path / "word", identifying=False)]
    report = measure(cases, {"strict": Blanks((30, 20, 50, 20))}, pictures=tmp_path / "misses", draws=100)
    found = report["modes"]["strict"]
    assert [one["kind"] for one in found["misses"]] == ["identifying", "harmless"]
    for one in found["misses"]:
        assert one["gone"] == 0.5
        assert one["box"] == [30, 20, 129, 39]
        picture = cv2.imread(str(tmp_path / "misses" / "strict" / one["picture"]))
        assert picture is not None
        assert picture.shape[1] > COLUMNS / 2
    assert found["by"]["device"]["Acme One"]["identifying"]["strings"] == 1
    assert found["outside_regions"] == 0
    assert 0.5 < found["growth"]["median"] < 2


def manifest(folder: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Write a manifest."""
    with (folder / "TEXT_BOXES.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder / "TEXT_BOXES.csv"


ROW: dict[str, object] = {"path": "a.dcm", "kind": "value", "text": "Any", "x0": 1, "y0": 2, "x1": 30, "y1": 9, "visible": 1}


def test_manifest_below_its_data(tmp_path: Path) -> None:
    """Paths may begin at a folder above; a folder stands for its list, and so does a list of pictures that names one."""
    inner = tmp_path / "dicom" / "burned_in"
    inner.mkdir(parents=True)
    stripe(inner)
    rows = [ROW | {"path": "dicom/burned_in/a.dcm"}, ROW | {"path": "dicom/burned_in/a.dcm", "kind": "key", "visible": 0}]
    manifest(inner, rows)
    (case,) = read(inner)
    assert case.path.samefile(inner / "a.dcm")
    assert [(text.line, text.identifying, text.visible) for text in case.texts] == [(2, True, True), (3, False, False)]
    (tmp_path / "MANIFEST.csv").write_text("path,class\ndicom/burned_in/TEXT_BOXES.csv,\ndicom/burned_in/a.dcm,\n")
    assert read(tmp_path / "MANIFEST.csv") == [case]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"kind": "name"}, "line 2: kind"), ({"x0": "left"}, "line 2: x0"), ({"x1": 0}, "line 2: the box"),
     ({"path": "no.dcm"}, "no.dcm"), ({"frame": "last"}, "line 2: frame")],
)  # fmt: skip
def test_manifest_that_cannot_be_used(tmp_path: Path, change: dict[str, object], says: str) -> None:
    """The fault is named by its line and column, and the text stays unsaid."""
    stripe(tmp_path)
    with pytest.raises(BadSetting, match=says) as caught:
        read(manifest(tmp_path, [ROW | change]))
    assert "Any" not in str(caught.value)


def test_a_box_outside_the_frame_is_a_fault(tmp_path: Path) -> None:
    """A manifest of other files would give figures of nothing, and says so before any work; what reaches over is cut."""
    stripe(tmp_path)
    cases = read(manifest(tmp_path, [ROW | {"x1": COLUMNS + 9}]))
    assert try_file(cases[0], Blanks((0, 0, COLUMNS, 12))).judged[0].good
    for change in ({"x0": COLUMNS, "x1": COLUMNS + 3}, {"frame": 1}):
        with pytest.raises(BadSetting, match="line 2"):
            measure(read(manifest(tmp_path, [ROW | change])), {"strict": Blanks()}, draws=100)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.photometric} {form.bits} {form.syntax}")
def test_every_form_can_be_read(tmp_path: Path, form: Form) -> None:
    """What is drawn can be seen in each form, and the file decodes."""
    random = np.random.default_rng(3)
    frame = np.full((48, 64), 70, np.uint8)
    frame[20:28, 16:48] = 255
    frames = [np.dstack([frame] * 3) if form.colour else frame] * 2
    write(tmp_path / "a.dcm", frames, form, identity(random, in_header=True), "console", random)
    with (tmp_path / "a.dcm").open("rb") as stream:
        image = Image.open(stream)
        assert (image.frames, image.photometric, image.transfer_syntax_uid) == (2, form.photometric, form.syntax)
        shown = image.picture(1).reshape(48, 64, -1).max(axis=2)
    assert shown[22:26, 18:46].min() > shown[2:14, 2:60].max() + 60


def test_generator_is_deterministic(tmp_path: Path) -> None:
    """One seed, the same files; another one, others. A manifest of it can be read, and its boxes hold the strokes."""
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        draw_set(tmp_path / name, Drawing(2, seed))
    files = {name: [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*"))] for name in "abc"}
    assert files["a"] == files["b"] != files["c"]
    cases = read(tmp_path / "a")
    assert len(cases) == 2
    kinds = {text.identifying for case in cases for text in case.texts}
    assert kinds == {True, False}
    for case in cases:
        for text in case.texts:
            strokes = cv2.imread(str(text.ink), cv2.IMREAD_GRAYSCALE)[text.y0 : text.y1 + 1, text.x0 : text.x1 + 1] > 0
            assert strokes.any(axis=1)[[0, -1]].all()
            assert strokes.any(axis=0)[[0, -1]].all()


def test_generator_draws_into_an_empty_folder_alone(tmp_path: Path) -> None:
    """What lies there is not mixed with what is drawn."""
    (tmp_path / "a.txt").touch()
    with pytest.raises(BadSetting, match="empty"):
        draw_set(tmp_path, Drawing(1))


def test_no_face_of_training_is_used() -> None:
    """The faces that the networks learn from would flatter the figures."""
    names = " ".join(face.name for family in faces().values() for face in family)
    assert "Pillow" in names
    for learned in ("DejaVu Sans", "Liberation", "Simplex", "Duplex", "Plain"):
        assert learned not in names


def test_command_measures_drawn_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From drawing to report; with a redactor that finds nothing every visible name is a miss, and every word is kept."""
    monkeypatch.setattr(evaluate_redaction, "Redact", lambda **_: Blanks())
    asked = ["redaction", "--synthetic", "2", "--seed", "4", "--out", str(tmp_path / "out"), "--draws", "100", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["modes"]["strict"]
    assert found["written"] == 2
    assert found["identifying"]["good"] == 0
    assert found["harmless"]["good"] == found["harmless"]["strings"] > 0
    assert len(list((tmp_path / "out" / "misses" / "strict").glob("*.png"))) == found["identifying"]["strings"] > 0
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["modes"]["strict"] == found
    assert "identifying strings removed" in (tmp_path / "out" / "evaluation.md").read_text()


def test_command_wants_something_to_measure(tmp_path: Path) -> None:
    """Neither manifest nor drawing is a usage error, and so is a manifest that is none."""
    assert CliRunner().invoke(app, ["redaction"]).exit_code == 2
    (tmp_path / "other.csv").write_text("name,value\na,b\n")
    assert CliRunner().invoke(app, ["redaction", "--manifest", str(tmp_path / "other.csv")]).exit_code == 2


def test_the_whole_way_with_the_node_s_own_redaction(tmp_path: Path) -> None:
    """A date in plain letters goes, the picture beside it stays."""
    picture = np.full((1, 96, 320), 30, np.uint8)
    cv2.putText(picture[0], "12.03.1961", (40, 56), cv2.FONT_HERSHEY_TRIPLEX, 1.0, 255, 1, cv2.LINE_AA)
    ys, xs = np.nonzero(picture[0] > 128)
    write_file(tmp_path / "a.dcm", picture)
    box = {"x0": int(xs.min()), "y0": int(ys.min()), "x1": int(xs.max()), "y1": int(ys.max())}
    place = manifest(tmp_path, [ROW | box | {"text": "12.03.1961"}])
    done = CliRunner().invoke(app, ["redaction", "--manifest", str(place), "--json", "--draws", "100"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["modes"]["strict"]
    assert (found["identifying"]["good"], found["outside_regions"]) == (1, 0)
    assert found["collateral"]["lossless"]["changed"]["most"] < 0.03

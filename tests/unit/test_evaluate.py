"""`dicomnode evaluate` on models of three lines: what it says, what it writes, and what it does with strange pictures."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from dicomnode.carding import write_card
from dicomnode.cards import Card, ModelFolder, load_card
from dicomnode.commands.evaluate import app
from dicomnode.errors import BadSetting
from dicomnode.records import Placement
from dicomnode.stages.infer import Model
from dicomnode.training.datasets import BREAST, PNEUMONIA, read_picture
from dicomnode.training.evaluate import Asking, as_markdown, evaluate_model, measure_model, parse_merge, saliency
from dicomnode.training.evaluate.compare import names_of, side_by_side
from dicomnode.training.evaluate.groups import selections_for
from dicomnode.training.evaluate.saliency import shares
from dicomnode.training.evaluate.sheet import sheet
from tests.unit.pictures import native

onnx = pytest.importorskip("onnx", reason="the extra `train` is not installed: onnx makes the models of these tests")
pytest.importorskip("matplotlib", reason="the extra `train` is not installed")

from dicomnode.training.evaluate import plots  # noqa: E402 - needs matplotlib

SIZE = 24
LABELS = ("abdomen", "adult_chest", "pediatric_chest")
ASKING = Asking(draws=200)
RUN = CliRunner()


def graph(sure, weights, cam):
    """ONNX bytes: three logits that rise with dark, middle and bright of the picture's weighted mean."""
    helper, kinds, array = onnx.helper, onnx.TensorProto, onnx.numpy_helper.from_array
    slopes = np.array([[-2.0, 0.0, 2.0]], dtype=np.float32) * sure
    offsets = np.array([0.7, 0.0, -1.3], dtype=np.float32) * sure
    nodes = [
        helper.make_node("Mul", ["image", "mask"], ["seen"]),
        helper.make_node("GlobalAveragePool", ["seen"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "slopes", "offsets"], ["logits"]),
        helper.make_node("Expand", ["seen", "three"], ["cam"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", kinds.FLOAT, ["n", 3])]
    if cam:
        outputs.append(helper.make_tensor_value_info("cam", kinds.FLOAT, ["n", 3, SIZE, SIZE]))
    made = helper.make_graph(
        nodes if cam else nodes[:-1], "brightness", [helper.make_tensor_value_info("image", kinds.FLOAT, ["n", 1, SIZE, SIZE])],
        outputs,
        [
            array((weights / weights.mean()).astype(np.float32)[None, None], "mask"), array(slopes, "slopes"),
            array(offsets, "offsets"), array(np.array([1, 3, 1, 1]), "three"),
        ],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.fixture
def make(tmp_path):
    """Make a model folder; labels and card may be changed."""

    def model(name="brightness", version="1.0.0", labels=LABELS, sure=12.0, weights=None, cam=False, **changes):
        folder = tmp_path / "models" / name / version
        folder.mkdir(parents=True)
        content = graph(sure, np.ones((SIZE, SIZE)) if weights is None else weights, cam)
        (folder / "model.onnx").write_bytes(content)
        cv2.imwrite(str(folder / "sample.png"), np.zeros((SIZE, SIZE), np.uint8))
        steps = [{"step": "resize", "parameters": {"rows": SIZE, "cols": SIZE, "keep_aspect": True}}, {"step": "add_channel"}]
        base = {
            "name": name, "version": version, "task": "router", "file": "model.onnx",
            "sha256": hashlib.sha256(content).hexdigest(), "body_parts": list(labels), "intended_use": "tests",
            "licence": {"identifier": "CC0-1.0", "reason": "made by a test"},
            "training_data": [{"source": "none", "licence": "CC0-1.0", "pictures": 1}],
            "algorithm": {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
            "input": {"name": "image", "shape": [1, SIZE, SIZE], "dtype": "float32", "preprocess": steps},
            "output": {"name": "logits", "activation": "softmax", "temperature": 2.0, "certain_from": 0.6},
            "labels": [
                {"key": key, "meaning": key, "concept": {"value": "1", "scheme": "99T", "meaning": key}} for key in labels
            ],
            "sample": {"file": "sample.png", "probabilities": dict.fromkeys(labels, 0.3), "tolerance": 0.01},
            "maps": [{"output": "cam", "kind": "heat", "labels": list(labels)}] if cam else [],
        }  # fmt: skip
        write_card(Card.model_validate(base | changes), folder)
        return folder

    return model


def draw(path, label, random):
    """A picture whose mean says the label, mostly: black and white pixels, so that nothing is stretched."""
    share = {"abdomen": 0.2, "adult_chest": 0.5, "pediatric_chest": 0.8}.get(label, 0.5) + random.normal(0, 0.12)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.where(random.random((SIZE, SIZE)) < share, 255, 0).astype(np.uint8))


@pytest.fixture
def manifest(tmp_path):
    """Write a manifest of three classes, two sources and persons with two pictures each."""
    random, path = np.random.default_rng(3), tmp_path / "data" / "MANIFEST.csv"
    path.parent.mkdir()
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "class", "split", "source_repo", "note"])
        for number in range(90):
            label, split = LABELS[number % 3], "val" if number < 66 else "test"
            draw(path.parent / f"{number}.png", label, random)
            note = f"patient=p{number // 6 * 3 + number % 3}; seen" if number % 2 else ""
            writer.writerow([f"{number}.png", label, split, f"house/{number % 2}", note])
    return path


def test_command(make, manifest, tmp_path):
    """One call writes JSON, Markdown and plots, and prints the Markdown."""
    folder, out = make(), tmp_path / "out"
    done = RUN.invoke(app, [
        "router", "--manifest", str(manifest), "--model", str(folder), "--split", "val", "--out", str(out), "--draws", "200",
        "--batch", "7", "--threads", "2", "--saliency", "2",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    group = report["groups"]["val"]
    assert (group["pictures"], group["persons"], group["unreadable"]) == (66, 33, 0)
    assert group["drawn"] == {"unit": "person", "units": 66}
    assert set(group["milliseconds_per_picture"]) == {"decode", "prepare", "network", "prepare_and_network"}
    plots = {"confusion", "per_class", "sources", "reliability", "risk_coverage", "saliency"}
    assert {path.stem for path in out.glob("*.png")} == plots
    assert all(cv2.imread(str(path)).shape[0] > 100 for path in out.glob("*.png"))
    text = (out / "evaluation.md").read_text(encoding="utf-8")
    assert text.strip() in done.output
    for part in ("| macro | 66 |", "adult_chest + pediatric_chest = chest", "the card's certain_from", "occlusion", "AURC"):
        assert part in text


def test_figures_are_those_of_the_answers(make, manifest):
    """Answers in batches and threads are the node's own, and the figures count them."""
    folder = make()
    found = measure_model(folder, [manifest], "val", Asking(draws=200, batch=5, threads=3))
    judged, model = found.judged["val"], Model(load_folder(folder))
    for example, row in zip(judged.examples, judged.probabilities, strict=True):
        assert list(model.probabilities(read_picture(example.path)).values()) == pytest.approx(row.tolist(), abs=1e-6)
    group = found.report["groups"]["val"]
    right = [LABELS[answer] == example.label for example, answer in zip(judged.examples, judged.answer, strict=True)]
    assert 0.5 < np.mean(right) < 1
    assert group["macro"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert np.sum(group["confusion"]) == sum(row["pictures"] for row in group["per_source"]) == 66
    assert group["macro"]["f1"]["low"] < group["macro"]["f1"]["value"] < group["macro"]["f1"]["high"]
    assert group["merged"]["macro"]["f1"]["value"] > group["macro"]["f1"]["value"]
    assert group["calibration"]["temperature"] == 2
    sure = judged.probabilities.max(axis=1) >= 0.6
    certain = group["coverage"]["certain_from"]
    assert (certain["coverage"], certain["by_card"]) == (pytest.approx(sure.mean()), True)
    assert certain["accuracy"]["value"] == pytest.approx(np.mean(np.array(right)[sure]))
    assert [round(point["coverage"], 2) for point in group["coverage"]["points"]] == [1.0, 1.0, 0.95, 0.91, 0.8]


def load_folder(folder):
    """The folder with its card."""
    return ModelFolder(load_card(folder / "card.toml"), folder)


def test_the_same_again(make, manifest):
    """Two runs say the same, but for the time."""
    folder = make()
    first, again = (evaluate_model(model=folder, data=manifest, split="val", draws=150) for _ in range(2))
    for report in (first, again):
        del report["groups"]["val"]["milliseconds_per_picture"]
    assert first == again


def test_labels_that_the_model_does_not_know(make, manifest):
    """They are no error: the share called uncertain is told, and what the others were called; other figures stay."""
    folder = make(labels=("abdomen", "adult_chest", "other"))
    group = evaluate_model(model=folder, data=manifest, split="val", draws=150)["groups"]["val"]
    unknown = group["unknown"]["pediatric_chest"]
    assert (group["pictures"], unknown["pictures"]) == (44, 22)
    assert unknown["called"]["other"] > 10
    assert sum(unknown["called"].values()) == round(22 * (1 - unknown["uncertain"]["value"]))
    assert set(group["per_class"]) == {"abdomen", "adult_chest"}
    assert group["merged"] is None


def test_nothing_known(make, manifest):
    """A model that knows none of the labels cannot be measured; one for findings must know all."""
    folder = make("strange", labels=("knee", "elbow", "toe"))
    with pytest.raises(BadSetting, match="pediatric_chest"):
        evaluate_model(model=folder, data=manifest, split="val", draws=100)
    findings = make("findings", labels=("abdomen", "adult_chest", "other"), task="findings", output={
        "name": "logits", "activation": "softmax", "temperature": 1.0,
    })  # fmt: skip
    with pytest.raises(BadSetting, match="pediatric_chest"):
        evaluate_model(model=findings, data=manifest, split="val", draws=100)


def test_a_class_that_is_never_answered_and_a_single_picture(make, tmp_path):
    """Nothing is divided by nothing, and evaluation.json stays JSON."""
    draw(tmp_path / "one" / "adult_chest" / "1.png", "pediatric_chest", np.random.default_rng(0))
    report = evaluate_model(model=make(), data=tmp_path / "one", split=None, draws=100)
    json.dumps(report, allow_nan=False)
    group = report["groups"]["one"]
    assert group["per_class"]["adult_chest"]["precision"] == {"value": 0, "low": 0, "high": 1}
    assert group["macro"]["f1"]["value"] == 0


def test_withheld_altogether(make, manifest):
    """Where nothing is certain, nothing is right or wrong."""
    folder = make(output={"name": "logits", "activation": "softmax", "temperature": 4.0, "certain_from": 1.0})
    report = evaluate_model(model=folder, data=manifest, split="val", draws=100)
    certain = report["groups"]["val"]["coverage"]["certain_from"]
    assert (certain["coverage"], certain["f1"], certain["accuracy"]) == (0, None, None)
    json.dumps(report, allow_nan=False)
    assert "| 0.0 %: the card's certain_from | 1.000 | - | - |" in as_markdown(report)


def test_wrong_command(make, manifest):
    """A router is not measured as a findings model."""
    done = RUN.invoke(app, ["findings", "--manifest", str(manifest), "--model", str(make())])
    assert isinstance(done.exception, BadSetting)
    assert "evaluate router" in str(done.exception)


def test_findings(make, manifest, tmp_path):
    """An abnormal label has AUROC, sensitivity and specificity, and a ROC plot."""
    labels = [
        {"key": key, "meaning": key, "concept": {"value": "1", "scheme": "99T", "meaning": key}} for key in LABELS[:2]
    ]
    labels.append({**labels[0], "key": LABELS[2], "abnormal": True, "threshold": 0.5})
    folder = make("bright", task="findings", output={"name": "logits", "activation": "softmax", "temperature": 1.0})
    card = load_card(folder / "card.toml")
    write_card(Card.model_validate(card.model_dump(mode="json", exclude_none=True) | {"labels": labels}), folder)
    out = tmp_path / "out"
    done = RUN.invoke(app, [
        "findings", "--manifest", str(manifest), "--model", str(folder), "--split", "val", "--out", str(out), "--draws", "200",
        "--json",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)["groups"]["val"]["abnormal"]["pediatric_chest"]
    assert row["auroc"]["low"] < row["auroc"]["value"] < row["auroc"]["high"] <= 1
    assert 0.5 < row["sensitivity"]["value"] <= 1
    assert row["roc"][0] == [0, 0]
    assert (out / "roc.png").exists()


def test_folders_and_several_sets(make, manifest, tmp_path):
    """A folder LABEL/PICTURE needs no split; each set is a group; a file that is no picture is counted."""
    random, root, model = np.random.default_rng(8), tmp_path / "clinic", make()
    for label in LABELS[:2]:
        for number in range(20):
            draw(root / label / f"{number}.png", label, random)
    (root / "abdomen" / "broken.png").write_bytes(b"no picture")
    report = evaluate_model(model=model, data=[manifest, root], split=None, draws=150, out=tmp_path / "out")
    assert {name: (group["pictures"], group["unreadable"]) for name, group in report["groups"].items()} == {
        "test": (24, 0), "clinic": (40, 1),
    }  # fmt: skip
    assert report["groups"]["clinic"]["drawn"]["unit"] == "picture"
    assert (tmp_path / "out" / "evaluation.md").read_text(encoding="utf-8").count("No splits are stated") == 1
    # What training keeps back of such a folder is a part of it, and then that alone is measured.
    kept = evaluate_model(model=model, data=root, split="test", draws=150)["groups"]
    assert list(kept) == ["test"]
    assert 0 < kept["test"]["pictures"] < 20
    again = evaluate_model(model=model, data=[manifest, manifest], split="val", draws=150)
    assert list(again["groups"]) == ["val", "data_val"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadSetting, match="no picture"):
        evaluate_model(model=model, data=empty)


def test_dicom_pictures(make, tmp_path):
    """The same pictures as PNG and as DICOM, of either polarity, get the same answers; the persons are those of the files."""
    random, model = np.random.default_rng(8), make()
    for label in LABELS[:2]:
        for number in range(8):
            path = tmp_path / "png" / label / f"{number}.png"
            draw(path, label, random)
            values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            turned = number % 2
            data = native(255 - values if turned else values, f"MONOCHROME{2 - turned}", PatientID=f"{label}{number // 2}")
            target = tmp_path / "dicom" / label / str(number)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    found = [measure_model(model, [tmp_path / kind], None, ASKING) for kind in ("png", "dicom")]
    plain, coded = (one.judged[kind].probabilities for one, kind in zip(found, ("png", "dicom"), strict=True))
    np.testing.assert_allclose(plain, coded, atol=1e-6)
    assert found[1].report["groups"]["dicom"]["persons"] == 8


def test_labels_of_our_manifest_say_which_rows(make):
    """A findings model is measured on the rows of its labels; one of a site's own has none in our manifest."""
    card = load_card(make() / "card.toml")
    assert set(selections_for(card)) == {"test", "outside"}
    for labels, expected in (
        (("normal", "pneumonia"), {"test": PNEUMONIA}), (("malignant", "benign"), {"test": BREAST}), (("knee", "toe"), {}),
    ):  # fmt: skip
        keys = tuple(card.labels[0].model_copy(update={"key": key}) for key in labels)
        assert selections_for(card.model_copy(update={"task": "findings", "labels": keys})) == expected


def test_our_manifest_has_two_groups(make, tmp_path):
    """What may only be looked at stands apart, with the classes that it has; both plots get a panel for each."""
    random, path = np.random.default_rng(3), tmp_path / "MANIFEST.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "class", "split"])
        for number in range(30):
            label = LABELS[number % (3 if number < 20 else 2)]
            name = f"{'' if number < 20 else 'nc/'}radiographs/{label}/{number}.png"
            draw(tmp_path / name, label, random)
            writer.writerow([name, label, "test"])
        writer.writerow(["dicom/elsewhere.dcm", "dicom:syntaxes", "any"])
    out = tmp_path / "out"
    done = RUN.invoke(app, [
        "router", "--manifest", str(path), "--model", str(make()), "--out", str(out), "--draws", "150", "--saliency", "1",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    groups = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["groups"]
    assert {name: group["pictures"] for name, group in groups.items()} == {"test": 20, "outside": 10}
    assert list(groups["outside"]["per_class"]) == list(LABELS[:2])
    assert groups["outside"]["merged"]["macro"]["f1"]["value"] >= groups["outside"]["macro"]["f1"]["value"]
    assert {path.name for path in out.glob("saliency*.png")} == {"saliency.png", "saliency_outside.png"}


def test_side_by_side(make, manifest, tmp_path, monkeypatch):
    """Differences are paired: a model does not differ from itself, and a worse one has less."""
    drawn = []
    monkeypatch.setattr(plots, "draw", lambda report, folder: drawn.append((report["model"], folder.name)))
    dull = np.zeros((SIZE, SIZE))
    dull[:2, :2] = 1  # sees 4 pixels
    folders = [make(), make("again"), make("dull", weights=dull), make("open", labels=("abdomen", "adult_chest", "other"))]
    arguments = [argument for folder in folders for argument in ("--model", str(folder))]
    out = tmp_path / "out"
    done = RUN.invoke(
        app, ["router", "--manifest", str(manifest), "--split", "val", "--draws", "200", "--out", str(out), *arguments]
    )
    assert done.exit_code == 0, done.output
    found = json.loads((out / "side_by_side.json").read_text(encoding="utf-8"))["groups"]["val"]
    assert (found["pictures"], found["left_out"]) == (44, 22)
    first, again, worse, opened = found["models"]
    assert first["difference"] is None
    assert again["difference"] == {"value": 0, "low": 0, "high": 0}
    assert worse["difference"]["high"] < 0
    assert worse["difference"]["value"] == pytest.approx(worse["f1"]["value"] - first["f1"]["value"])
    assert (opened["merged_f1"] is None, opened["name"]) == (False, "open 1.0.0")
    assert (out / "side_by_side.png").exists()
    assert drawn[2:] == [("dull", "dull_1.0.0"), ("open", "open_1.0.0")]
    assert (out / "dull_1.0.0" / "evaluation.md").exists()
    text = (out / "side_by_side.md").read_text(encoding="utf-8")
    assert "22 pictures that not every model knows" in text
    assert text.strip() in done.output


def test_side_by_side_without_common_pictures(make, manifest):
    """Models that know no label in common cannot stand side by side."""
    other = ("abdomen", "hand", "foot")
    folders = make(), make("other", labels=("hand", "foot", "pediatric_chest")), make("third", labels=other)
    one, two, three = (measure_model(folder, [manifest], None, ASKING) for folder in folders)
    assert side_by_side([one, two], ASKING)["groups"]["test"]["left_out"] > 0
    with pytest.raises(BadSetting, match="every model knows"):
        side_by_side([two, three], ASKING)


def test_names_are_told_apart(make, manifest):
    """Two runs of one name and version are two models."""
    measured = [measure_model(make(), [manifest], "val", ASKING)] * 3
    names = names_of(measured)
    assert len(set(names)) == 3
    assert len(side_by_side(measured, ASKING)["groups"]["val"]["models"]) == 3


def test_by_picture(make, manifest):
    """`--by picture` draws every picture for itself."""
    report = measure_model(make(), [manifest], "val", Asking(draws=150, by_person=False)).report
    assert report["groups"]["val"]["drawn"] == {"unit": "picture", "units": 66}


@pytest.mark.parametrize("text", ["a+b", "a=b", "+b=c", "a+b="])
def test_merge_that_cannot_be_read(text):
    """A merge names two labels or more and what they become."""
    assert parse_merge("a + b=c") == {"a": "c", "b": "c"}
    with pytest.raises(BadSetting, match="LABEL"):
        parse_merge(text)


def test_without_matplotlib_and_torch(make, manifest, tmp_path):
    """Everything but the plots is there, and one line says how to get them."""
    program = (
        "import sys; sys.modules['matplotlib'] = sys.modules['torch'] = None\n"
        "from dicomnode.cli import main; sys.argv[0] = 'dicomnode'; main()"
    )
    command = [
        sys.executable, "-c", program, "evaluate", "router", "--manifest", str(manifest), "--model", str(make()),
        "--split", "val", "--draws", "100", "--saliency", "1", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["dicomnode: no plots, for they need matplotlib: pip install 'dicomnode[train]'"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"evaluation.json", "evaluation.md", "saliency.png"}


def test_where_evidence_lies_by_hand():
    """Middle, border of the picture and padding; the placement says which is which."""
    evidence = np.zeros((100, 100))
    evidence[50, 50], evidence[50, 2], evidence[2, 50] = 2, 1, 1
    found = shares(evidence, Placement(0, 0, 40, 40), 40, 40)
    assert (found.padding, found.border, found.even) == pytest.approx((0, 0.5, 0.36))
    # The picture is as high as the tensor and half as wide: what is at the left edge of the tensor is padding.
    found = shares(evidence, Placement(0, -20, 80, 80), 80, 40)
    assert (found.padding, found.border, found.even) == pytest.approx((0.25, 1 / 3, 0.36))
    assert np.isnan(shares(np.zeros((4, 4)), Placement(0, 0, 4, 4), 4, 4).border)


@pytest.mark.parametrize("cam", [True, False])
def test_evidence_is_found_where_the_model_looks(make, manifest, cam):
    """A model that sees only the middle has its evidence there, one that sees the edge at the border."""
    middle, edge = np.zeros((SIZE, SIZE)), np.ones((SIZE, SIZE))
    middle[8:16, 8:16], edge[4:20, 4:20] = 1, 0
    found = {}
    for name, weights in (("middle", middle), ("edge", edge)):
        folder = make(name, weights=weights, cam=cam)
        judged = measure_model(folder, [manifest], "val", ASKING).judged["val"]
        model = Model(load_folder(folder))
        seen = saliency.look_into(model, judged, 4)
        assert len(seen) == 12
        found[name] = np.nanmean([one.shares.border for one in seen])
        told = saliency.summary(model, seen)
        assert told["method"] == ("class activation map" if cam else "occlusion")
        assert [row["source"] for row in told["per_source"]] == ["house/0", "house/1"]
        picture = sheet(seen, 4)
        assert picture.shape == (3 * (160 + 18 + 22), 4 * 324, 3)
    assert found["middle"] < 0.1
    assert found["edge"] > 0.5


def test_pictures_looked_into_come_from_all_sources(make, manifest):
    """The same ones every time, half from each of two sources."""
    judged = measure_model(make(), [manifest], "val", ASKING).judged["val"]
    first, again = (list(saliency.chosen(judged, 6)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 18
    assert sorted(judged.sources[first].tolist()) == ["house/0"] * 9 + ["house/1"] * 9

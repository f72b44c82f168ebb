"""`dicomnode models`: what lies in the folder is listed, checked and asked; a foreign ONNX file becomes a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dicomnode.cards import digest_of_file, load_card
from dicomnode.commands.repository import app
from dicomnode.errors import BadCard, ConfigError, MissingModel
from dicomnode.onnx_file import look_into
from dicomnode.repository import models_dir, resolve
from dicomnode.settings import WorkSettings
from dicomnode.stages.infer import Model
from tests.acceptance.samples import radiograph, write
from tests.unit.spooled import configured

onnx = pytest.importorskip("onnx", reason="the extra `train` is not installed: onnx makes the models of these tests")

from tests.unit.test_infer import FOREIGN, foreign, one_label, two_labels  # noqa: E402 - needs onnx

SHIPPED = models_dir(WorkSettings())
ANSWERS = ("--name", "seen", "--label", "normal,fracture=A broken bone", "--body-part", "spine,hand", "--licence", "CC0-1.0")


def run(*words: object, answers: str | None = None) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, [str(word) for word in words], input=answers)


def told(*words: object) -> list[dict[str, Any]]:
    """Run the command with --json and give its objects."""
    done = run(*words, "--json")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return [json.loads(line) for line in done.stdout.splitlines()]


def file(folder: Path, **changes: Any) -> Path:
    """A foreign ONNX file."""
    foreign(folder, **changes)
    return folder / "model.onnx"


def without(option: str) -> tuple[str, ...]:
    """The answers but for one."""
    place = ANSWERS.index(option) if option in ANSWERS else len(ANSWERS)
    return (*ANSWERS[:place], *ANSWERS[place + 2 :])


# -- list, check, test
def test_list_says_who_uses_what(tmp_path: Path) -> None:
    """Each version with task, size, licence and the rules that mean it."""
    settings = configured(tmp_path)
    (settings.directory / "routes.toml").write_text(
        '[[rule]]\nname = "chests"\nmodality = ["DX"]\nmodels = ["pneumonia-pediatric"]\n[[rule]]\nname = "rest"\n',
    )
    found = {one["name"]: one for one in told("list", "-c", settings.directory) if one["newest"]}
    assert found["bodypart-router"]["used_by"] == ["router"]
    assert found["pneumonia-pediatric"]["used_by"] == ["rule chests"]
    assert found["pneumonia-pediatric"]["task"] == "findings"
    assert found["pneumonia-pediatric"]["bytes"] > 1_000_000
    assert "CC-BY-NC-SA-4.0" in run("list").stdout


def test_list_shows_versions_and_faults(tmp_path: Path) -> None:
    """Older versions stand below; a card that does not hold hides no other."""
    run("add", file(tmp_path / "a"), "--models", tmp_path / "m", *ANSWERS)
    run("add", file(tmp_path / "a"), "--models", tmp_path / "m", *ANSWERS)
    (tmp_path / "m" / "seen" / "1.1.0" / "model.onnx").write_bytes(b"")
    found = told("list", "--models", tmp_path / "m")
    assert [(one["version"], one["newest"], one["fault"] is None) for one in found] == [
        ("1.1.0", True, False), ("1.0.0", False, True),
    ]
    assert "does not hold" in run("list", "--models", tmp_path / "m").stdout


def test_check_prints_terms_use_and_figures() -> None:
    """Every shipped model holds; who reads it knows the licence, the intended use and the figures."""
    done = run("check")
    assert done.exit_code == 0, done.output
    for words in ("CC-BY-NC-SA-4.0", "Not a medical device; not for diagnostic use.", "macro_f1"):
        assert words in done.stdout
    for one in told("check"):
        assert one["outcome"] == "ok"
        assert one["sample_off"] < 0.01


FAULTS = {
    "sample": ("probabilities = {normal = 0", "probabilities = {normal = 0.9, fracture = 0.1} #", "sample"),
    "digest": ('sha256 = "', f'sha256 = "{"0" * 64}" #', "digest"),
    "step": ('step = "add_channel"', 'step = "guess"', "guess"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_check_finds_what_does_not_hold(tmp_path: Path, name: str) -> None:
    """It ends with 78, names the fault, and looks at the others too."""
    run("add", file(tmp_path / "a"), "--models", tmp_path / "m", *ANSWERS)
    shutil.copytree(SHIPPED / "pneumonia-pediatric", tmp_path / "m" / "pneumonia-pediatric")
    card = tmp_path / "m" / "seen" / "1.0.0" / "card.toml"
    old, new, words = FAULTS[name]
    assert old in card.read_text()
    card.write_text(card.read_text().replace(old, new, 1))
    done = run("check", "--models", tmp_path / "m")
    assert done.exit_code == 78
    assert words in done.stdout
    assert "ok pneumonia-pediatric" in done.stdout
    assert run("check", "--models", tmp_path / "m", "pneumonia-pediatric").exit_code == 0
    assert run("test", "--models", tmp_path / "m").exit_code == 78


def test_names_that_are_nowhere() -> None:
    """A name that no folder has is an error that names what there is."""
    assert isinstance(run("check", "gone").exception, MissingModel)
    assert isinstance(run("test", "bodypart-router@0.0.1").exception, MissingModel)
    assert isinstance(run("list", "--models", "/no/such/folder").exception, MissingModel)


def test_test_asks_about_pictures(tmp_path: Path) -> None:
    """DICOM and PNG, more than a batch; what is no picture is named and ends with 1."""
    for seed in range(17):
        write(radiograph(rows=32, cols=32, seed=seed), tmp_path / "p")
    cv2.imwrite(str(tmp_path / "p" / "x.png"), np.eye(40, dtype=np.uint8) * 255)
    lines = told("test", "pneumonia-pediatric", "--pictures", tmp_path / "p")
    assert lines[0]["sample_off"] < 0.01
    assert lines[0]["ms"] > 0
    assert len(lines) == 19
    assert all(set(one["probabilities"]) == {"normal", "pneumonia"} for one in lines[1:])
    (tmp_path / "p" / "note.txt").write_text("no picture")
    done = run("test", "pneumonia-pediatric", "--pictures", tmp_path / "p")
    assert done.exit_code == 1
    assert "note.txt: stage_failed" in done.stderr


# -- add
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_added_by_one_command(tmp_path: Path, name: str) -> None:
    """Layout, type, batch, and what its output is, are read from the file; the node then asks it as its maker does."""
    given = FOREIGN[name]
    one = given.get("labels") == 1
    words = ("--name", "seen", "--label", "bright" if one else "dark,bright", "--body-part", "spine", "--licence", "CC0-1.0")
    # Values of ImageNet are what is suggested for three channels; these graphs were made for 0..1.
    ranged = () if given.get("dtype") == "uint8" else ("--values", "unit")
    done = run("add", file(tmp_path / "a", **given), "--models", tmp_path / "m", *words, *ranged)
    assert done.exit_code == 0, (done.output, done.exception)
    card = resolve(tmp_path / "m", "seen").card
    assert card.output.activation == given.get("activation", "softmax")
    assert (card.input.shape, card.input.dtype) == (given.get("shape", (1, 8, 8)), given.get("dtype", "float32"))
    cv2.imwrite(str(tmp_path / "p.png"), np.repeat(np.array([[0, 255]], np.uint8), 8, axis=0))
    answer = told("test", "--models", tmp_path / "m", "--pictures", tmp_path / "p.png")[1]["probabilities"]
    assert answer == pytest.approx((one_label if one else two_labels)(0.5), abs=5e-3)
    assert list((tmp_path / "m").glob(".*")) == []


def test_labels_get_codes_and_thresholds(tmp_path: Path) -> None:
    """Words that are known get public codes, others private ones; what is not normal is abnormal from 0.5."""
    done = run("add", file(tmp_path / "a"), "--models", tmp_path / "m", *ANSWERS)
    labels = resolve(tmp_path / "m", "seen").card.labels
    assert [(one.concept.value, one.concept.scheme) for one in labels] == [("17621005", "SCT"), ("FRACTURE", "99DICOMNODE")]
    assert [(one.meaning, one.abnormal, one.threshold) for one in labels] == [
        ("Normal", False, None), ("A broken bone", True, 0.5),
    ]
    assert "private codes, which other systems do not know: fracture" in done.stdout
    more = ("--concept", "fracture=125605004^SCT^Fracture of bone", "--abnormal", "fracture=0.3")
    run("add", file(tmp_path / "a"), "--models", tmp_path / "m", *ANSWERS, *more)
    newest = resolve(tmp_path / "m", "seen").card
    assert newest.version == "1.1.0"
    assert (newest.labels[1].concept.meaning, newest.labels[1].threshold) == ("Fracture of bone", 0.3)


def test_a_router_of_a_site(tmp_path: Path) -> None:
    """Its labels are its body parts; none of them is abnormal."""
    words = ("--task", "router", "--label", "hand,foot", "--licence", "MIT", "--certain-from", "0.7")
    done = run("add", file(tmp_path / "hands"), "--models", tmp_path / "m", *words)
    assert done.exit_code == 0, done.output
    card = resolve(tmp_path / "m", "hands").card
    assert (card.task, card.body_parts, card.output.certain_from) == ("router", ("hand", "foot"), 0.7)
    assert not any(one.abnormal for one in card.labels)
    assert 'router = "hands"' in done.stdout


def test_answers_may_be_asked_for(tmp_path: Path) -> None:
    """On a terminal an empty line takes what is suggested."""
    lines = ["seen", "findings", "normal,pneumonia", "", "", "", "pediatric_chest", "", "", "", "CC0-1.0", "", "", ""]
    words = ("--models", tmp_path / "m", "--ask", "--output", "scores")
    done = run("add", file(tmp_path / "a"), *words, answers="\n".join(lines) + "\n")
    assert done.exit_code == 0, done.output
    card = resolve(tmp_path / "m", "seen").card
    assert card.body_parts == ("pediatric_chest",)
    assert card.labels[1].concept.value == "233604007"
    assert "not for diagnostic use" in card.intended_use


@pytest.mark.parametrize("option", ["--label", "--body-part", "--licence"])
def test_what_nobody_can_know_is_asked_for_by_option(tmp_path: Path, option: str) -> None:
    """Without a terminal the command ends with 2, names the option and writes nothing."""
    done = run("add", file(tmp_path / "a"), "--models", tmp_path / "m", "--no-ask", *without(option))
    assert done.exit_code == 2
    assert option in done.stderr
    assert not (tmp_path / "m").exists()


WRONG = {
    "too few labels": ("--label", "normal", "2 numbers"),
    "no word": ("--label", "Normal,x", "a-z"),
    "body part": ("--body-part", "", "body_parts"),
    "abnormal of another": ("--abnormal", "bent", "bent"),
    "threshold": ("--abnormal", "fracture=high", "no probability"),
    "concept": ("--concept", "normal=x", "no answer"),
    "concept of another": ("--concept", "bent=1^SCT^Bent", "bent"),
    "map": ("--map", "cam=heat", "such outputs: none"),
    "name": ("--name", "Not A Name", "no answer"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers(tmp_path: Path, name: str) -> None:
    """An answer that cannot be is refused with its option, or its key in the card, and nothing is written."""
    option, answer, message = WRONG[name]
    done = run("add", file(tmp_path / "a"), "--models", tmp_path / "m", *without(option), option, answer)
    assert not (tmp_path / "m").exists()
    if isinstance(done.exception, BadCard):
        assert message in str(done.exception)
        return
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.replace("│", " ").split())


def graph(path: Path, inputs: list[Any], outputs: list[Any]) -> Path:
    """A file whose outputs are its first input, for refusals that come before any run."""
    helper = onnx.helper
    nodes = [helper.make_node("Identity", [inputs[0].name], [one.name]) for one in outputs]
    made = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def value(name: str, shape: list[Any], kind: str = "FLOAT") -> Any:
    """A port."""
    return onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)


PICTURE = ["n", 1, 8, 8]
UNFIT = {
    "two inputs": ([value("image", PICTURE), value("age", ["n", 1])], [value("y", PICTURE)], "nothing else"),
    "integers": ([value("image", PICTURE, "INT64")], [value("y", PICTURE, "INT64")], "float32, float16 or uint8"),
    "three dimensions": ([value("image", ["n", 8, 8])], [value("y", ["n", 8, 8])], "four dimensions"),
    "four channels": ([value("image", ["n", 4, 8, 8])], [value("y", ["n", 4, 8, 8])], "one channel"),
    "channels unknown": ([value("image", ["n", "c", "h", "w"])], [value("y", ["n", "c", "h", "w"])], "how many channels"),
    "no answer": ([value("image", PICTURE)], [value("all", ["n", 1, 8])], "one number for each label"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_graphs_that_no_node_can_ask(tmp_path: Path, name: str) -> None:
    """They are refused with what they are and what would do; nothing is written."""
    inputs, outputs, words = UNFIT[name]
    done = run("add", graph(tmp_path / "a.onnx", inputs, outputs), "--models", tmp_path / "m", *ANSWERS)
    assert isinstance(done.exception, BadCard)
    assert words in str(done.exception)
    assert not (tmp_path / "m").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    """A text, an empty file, a missing one, a graph that is too new."""
    (tmp_path / "a.onnx").write_text("hello")
    (tmp_path / "b.onnx").write_bytes(b"")
    for name, words in (("a", "no ONNX"), ("b", "no ONNX"), ("c", "cannot be read")):
        done = run("add", tmp_path / f"{name}.onnx", "--models", tmp_path / "m", *ANSWERS)
        assert isinstance(done.exception, ConfigError), done.output
        assert words in str(done.exception)
    done = run("add", file(tmp_path / "new", opset=99), "--models", tmp_path / "m", *ANSWERS)
    assert "opset 18" in str(done.exception)


def test_weights_in_several_files(tmp_path: Path) -> None:
    """They come along, each with its digest; one that is missing is named."""
    source = file(tmp_path / "a", external=True)
    assert look_into(source).external == ("weights.bin",)
    assert run("add", source, "--models", tmp_path / "m", *ANSWERS).exit_code == 0
    assert (tmp_path / "m" / "seen" / "1.0.0" / "weights.bin").is_file()
    (tmp_path / "m" / "seen" / "1.0.0" / "weights.bin").write_bytes(b"")
    assert run("check", "--models", tmp_path / "m").exit_code == 78
    shutil.copyfile(source.with_name("weights.bin"), tmp_path / "m" / "seen" / "1.0.0" / "weights.bin")
    assert run("check", "--models", tmp_path / "m").exit_code == 0
    card = tmp_path / "m" / "seen" / "1.0.0" / "card.toml"
    card.write_text(card.read_text().replace('file = "weights.bin"', 'file = "sample.png"').replace(
        digest_of_file(source.with_name("weights.bin")), digest_of_file(card.with_name("sample.png")),
    ))  # fmt: skip
    done = run("check", "--models", tmp_path / "m")  # weights that no digest vouches for are not read
    assert done.exit_code == 78
    assert "weights.bin" in done.stdout
    (tmp_path / "a" / "weights.bin").unlink()
    done = run("add", source, "--models", tmp_path / "m", *ANSWERS)
    assert "weights.bin" in str(done.exception)


def test_maps_are_taken_when_named(tmp_path: Path) -> None:
    """An output that says where becomes a part of the card."""
    source = file(tmp_path / "a", maps=({"output": "cam", "kind": "heat", "labels": ["dark", "bright"]},))
    done = run("add", source, "--models", tmp_path / "m", *ANSWERS, "--map", "cam=mask:fracture,normal")
    assert done.exit_code == 0, (done.output, done.exception)
    (spec,) = resolve(tmp_path / "m", "seen").card.maps
    assert (spec.output, spec.kind, spec.labels, spec.threshold) == ("cam", "mask", ("fracture", "normal"), 0.5)
    done = run("add", source, "--models", tmp_path / "m", *ANSWERS, "--map", "cam=heat:fracture")
    assert "2 channels" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(("times", "activation"), [(1.0, "none"), (6.0, "sigmoid")])
def test_a_model_of_masks_alone(tmp_path: Path, times: float, activation: str) -> None:
    """Its masks are maps, and the largest pixel of each is the probability of its label."""
    helper, unit = onnx.helper, onnx.numpy_helper.from_array(np.full(1, times, np.float32), "times")
    node = helper.make_node("Mul", ["image", "times"], ["lung"])
    made = helper.make_graph([node], "g", [value("image", PICTURE)], [value("lung", PICTURE)], [unit])
    onnx.save_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "lung.onnx")
    words = ("--label", "fracture", "--body-part", "spine", "--licence", "MIT", "--values", "unit")
    done = run("add", tmp_path / "lung.onnx", "--models", tmp_path / "m", *words)
    assert done.exit_code == 0, (done.output, done.exception)
    card = resolve(tmp_path / "m", "lung").card
    assert (card.output.pool, card.output.activation) == ("max", "none")
    (spec,) = card.maps
    assert (spec.output, spec.kind, spec.labels, spec.activation) == ("lung", "mask", ("fracture",), activation)
    model = Model(resolve(tmp_path / "m", "lung"))
    picture = np.zeros((8, 8), np.float32)
    picture[2, 3] = 0.5
    answer = model.answer(picture)
    right = 0.5 if activation == "none" else 1 / (1 + np.exp(-3))
    assert answer.probabilities["fracture"] == pytest.approx(right, abs=1e-3)
    assert answer.maps[0].values.max() == pytest.approx(right, abs=1e-3)
    assert model.logits(picture[np.newaxis, np.newaxis])[0, 0] == pytest.approx(right, abs=1e-3)


@pytest.mark.parametrize(
    ("ends", "activation"),
    [
        (["Sigmoid", "Identity"], "none"),  # several labels may hold: their sum is not 1
        (["Softmax", "Cast"], "none"),
        (["Add"], "softmax"),  # logits, which lie in 0..1 by chance
        (["Sqrt"], "none"),  # nobody knows; outside of 0..1 it would fail, not err
    ],
)
def test_what_makes_the_answers_probabilities(tmp_path: Path, ends: list[str], activation: str) -> None:
    """The operator at the end of the graph tells; the sum of the answers does not."""
    helper, given = onnx.helper, {"w": [[[[0.7]]], [[[0.9]]]], "o": 0}
    weights = [onnx.numpy_helper.from_array(np.array(one, np.float32), name) for name, one in given.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["wide"]),
        helper.make_node("GlobalAveragePool", ["wide"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["t0"]),
    ]
    more: dict[str, dict[str, Any]] = {"Cast": {"to": onnx.TensorProto.FLOAT}, "Softmax": {"axis": 1}}
    for place, operator in enumerate(ends):
        read = [f"t{place}", "o"] if operator == "Add" else [f"t{place}"]
        nodes.append(helper.make_node(operator, read, [f"t{place + 1}"], **more.get(operator, {})))
    out = helper.make_tensor_value_info(f"t{len(ends)}", onnx.TensorProto.FLOAT, ["n", 2])
    made = helper.make_graph(nodes, "g", [value("image", PICTURE)], [out], weights)
    onnx.save_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "a.onnx")
    assert look_into(tmp_path / "a.onnx").operator(out.name) == ends[0]
    done = run("add", tmp_path / "a.onnx", "--models", tmp_path / "m", *ANSWERS, "--values", "unit", "--no-ask")
    assert done.exit_code == 0, (done.output, done.exception)
    assert resolve(tmp_path / "m", "seen").card.output.activation == activation


def test_any_size(tmp_path: Path) -> None:
    """A file that takes any size is used at the size that is asked for."""
    source = file(tmp_path / "a", shape=(3, "h", "w"), steps=[{"step": "three_channels"}], check=False)
    done = run("add", source, "--models", tmp_path / "m", *ANSWERS, "--size", "16x24", "--fit", "crop")
    assert done.exit_code == 0, (done.output, done.exception)
    card = resolve(tmp_path / "m", "seen").card
    assert card.input.shape == (3, 16, 24)
    assert [one.step for one in card.input.preprocess] == ["resize_short", "crop_centre", "three_channels", "imagenet"]


def test_a_version_never_changes(tmp_path: Path) -> None:
    """What is there already stays, and no draft is left."""
    words = ("--models", tmp_path / "m", *ANSWERS, "--model-version", "2.0.0")
    assert run("add", file(tmp_path / "a"), *words).exit_code == 0
    before = (tmp_path / "m" / "seen" / "2.0.0" / "card.toml").read_bytes()
    done = run("add", file(tmp_path / "b", batch=1), *words)
    assert "--model-version" in str(done.exception)
    assert (tmp_path / "m" / "seen" / "2.0.0" / "card.toml").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["seen"]


def test_a_second_version_from_the_card_of_the_first(tmp_path: Path) -> None:
    """Nothing is asked; figures and temperature of the old weights are not those of the new ones."""
    assert run("add", file(tmp_path / "a"), "--models", tmp_path / "m", *ANSWERS).exit_code == 0
    card = tmp_path / "m" / "seen" / "1.0.0" / "card.toml"
    card.write_text(card.read_text().replace("[figures]", "[figures.test]\nmacro_f1 = 0.9"))
    done = run("add", file(tmp_path / "b", ends="wide"), "--models", tmp_path / "m", "--from-card", "seen", "--no-ask")
    assert done.exit_code == 0, (done.output, done.exception)
    new = resolve(tmp_path / "m", "seen").card
    assert (new.version, new.figures, [one.key for one in new.labels]) == ("1.1.0", {}, ["normal", "fracture"])
    done = run("add", file(tmp_path / "c", dtype="float16"), "--models", tmp_path / "m", "--from-card", "seen")
    assert "float16" in str(done.exception)


def test_new_weights_of_a_router_are_not_believed_from_the_old_probability(tmp_path: Path) -> None:
    """From which probability a router counts was chosen with its temperature, and goes with it."""
    old = resolve(SHIPPED, "bodypart-router")
    assert old.card.output.certain_from
    assert run("add", old.path, "--models", tmp_path / "m").exit_code == 0
    words = ("--models", tmp_path / "m", "--from-card", "bodypart-router", "--no-ask")
    done = run("add", old.path / "model.onnx", *words)
    assert done.exit_code == 0, (done.output, done.exception)
    new = resolve(tmp_path / "m", "bodypart-router").card.output
    assert (new.certain_from, new.temperature) == (None, 1.0)


def test_a_model_that_has_a_card_is_copied(tmp_path: Path) -> None:
    """What `train` made, or what comes with the node, goes into the site's folder as it is."""
    source = resolve(SHIPPED, "pneumonia-pediatric")
    assert run("add", source.path, "--models", tmp_path / "m").exit_code == 0
    copied = resolve(tmp_path / "m", "pneumonia-pediatric")
    assert load_card(copied.path / "card.toml") == source.card
    assert (copied.path / "MODEL_CARD.md").is_file()


def test_where_to(tmp_path: Path) -> None:
    """Into the folder of the configuration; the one that comes with the node is left alone."""
    settings = configured(tmp_path)
    done = run("add", file(tmp_path / "a"), "-c", settings.directory, *ANSWERS)
    assert done.exit_code == 2
    assert "work.models_dir" in " ".join(done.stderr.split())
    node = settings.directory / "node.toml"
    node.write_text(f'{node.read_text()}[work]\nmodels_dir = "{tmp_path / "mine"}"\n')
    assert run("add", file(tmp_path / "a"), "-c", settings.directory, *ANSWERS).exit_code == 0
    assert (tmp_path / "mine" / "seen" / "1.0.0" / "card.toml").is_file()

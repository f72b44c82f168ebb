"""Model cards are strict, agree with themselves, their folder and their file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import BaseModel

from dicomnode import cards
from dicomnode.cards import find_models, load_card
from dicomnode.errors import BadCard, DigestMismatch, MissingModel

SHIPPED = Path(__file__).parents[2] / "models"
CONTENT = b"a model"
CARD = f"""
name = "seen"
version = "1.0.0"
task = "findings"
file = "model.onnx"
sha256 = "{hashlib.sha256(CONTENT).hexdigest()}"
body_parts = ["spine"]
intended_use = "Not a medical device; not for diagnostic use."

[licence]
identifier = "CC0-1.0"
reason = "made by a test"

[[training_data]]
source = "nothing"
licence = "CC0-1.0"
pictures = 1

[algorithm]
value = "123110"
scheme = "DCM"
meaning = "Artificial Intelligence"

[input]
name = "image"
shape = [1, 8, 8]
dtype = "float32"
[[input.preprocess]]
step = "resize"
parameters = {{rows = 8, cols = 8}}

[output]
name = "logits"
activation = "softmax"
temperature = 1.5

[[labels]]
key = "normal"
meaning = "Nothing seen"
concept = {{value = "17621005", scheme = "SCT", meaning = "Normal"}}

[[labels]]
key = "broken"
meaning = "A fracture"
concept = {{value = "125605004", scheme = "SCT", meaning = "Fracture"}}
abnormal = true
threshold = 0.4

[figures.test]
macro_f1 = 0.9

[sample]
file = "sample.png"
probabilities = {{normal = 0.25, broken = 0.75}}
tolerance = 0.01
"""

HEAT = """
[[maps]]
output = "cam"
kind = "heat"
labels = ["normal", "broken"]
"""


def lay(root, text=CARD, name="seen", version="1.0.0", content=CONTENT):
    """Write a model folder; gives its card's path."""
    folder = root / name / version
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "sample.png").write_bytes(b"")
    (folder / "card.toml").write_text(text, encoding="utf-8")
    return folder / "card.toml"


def test_load(tmp_path):
    """A good card is read as it stands and cannot be changed."""
    card = load_card(lay(tmp_path))
    assert (card.name, card.input.shape, card.output.temperature) == ("seen", (1, 8, 8), 1.5)
    assert [label.threshold for label in card.labels] == [None, 0.4]
    assert card.labels[1].concept.code().meaning == "Fracture"
    with pytest.raises(ValueError, match="frozen"):
        card.name = "other"


def test_router_of_any_classes(tmp_path):
    """A router's labels are a site's own words, one or many may hold; what is below certain_from is uncertain."""
    text = CARD.replace('task = "findings"', 'task = "router"').replace('"softmax"', '"sigmoid"\ncertain_from = 0.6')
    card = load_card(lay(tmp_path, text))
    assert ([label.key for label in card.labels], card.output.certain_from) == (["normal", "broken"], 0.6)
    text = text.replace('key = "broken"', 'key = "uncertain"').replace("broken = 0", "uncertain = 0")
    with pytest.raises(BadCard, match="uncertain"):
        load_card(lay(tmp_path / "other", text))


def test_maps_and_network(tmp_path):
    """What says where, and how the network was built, are parts of a card."""
    mask = HEAT.replace("cam", "lung").replace("heat", "mask").replace('"normal", ', "") + "threshold = 0.5\n"
    network = '[network]\narch = "mobilenet-v1"\nwidth = 0.5\n'
    card = load_card(lay(tmp_path, CARD + HEAT + mask + network))
    assert [(spec.output, spec.kind, spec.labels, spec.threshold) for spec in card.maps] == [
        ("cam", "heat", ("normal", "broken"), None), ("lung", "mask", ("broken",), 0.5),
    ]
    assert card.network is not None
    assert (card.network.arch, card.network.width) == ("mobilenet-v1", 0.5)


def test_data_of_an_unknown_number(tmp_path):
    """Of a model made elsewhere the number of pictures may be unknown."""
    assert load_card(lay(tmp_path, CARD.replace("pictures = 1\n", ""))).training_data[0].pictures is None


FAULTS = {
    "unknown key": ('name = "seen"', 'name = "seen"\ncolour = "red"', "colour"),
    "missing key": ('intended_use = "Not a medical device; not for diagnostic use."', "", "intended_use"),
    "unknown key deep": ("pictures = 1", "pictures = 1\nowner = 2", r"training_data\.0\.owner"),
    "task": ('task = "findings"', 'task = "guess"', "task"),
    "digest form": ('sha256 = "', 'sha256 = "X', "sha256"),
    "path as file": ('file = "model.onnx"', 'file = "../model.onnx"', "file"),
    "body part": ('body_parts = ["spine"]', 'body_parts = ["The Spine"]', "body_parts"),
    "label": ('key = "broken"', 'key = "Broken bone"', r"labels\.1\.key"),
    "threshold without abnormal": ("abnormal = true\n", "", "threshold"),
    "label twice": ('key = "broken"', 'key = "normal"', "twice"),
    "sample without label": ("{normal = 0.25, broken = 0.75}", "{normal = 0.25}", "sample.probabilities"),
    "probability": ("broken = 0.75", "broken = 1.75", "sample.probabilities"),
    "temperature": ("temperature = 1.5", "temperature = 0", "temperature"),
    "type": ('dtype = "float32"', 'dtype = "int64"', "dtype"),
    "size": ("shape = [1, 8, 8]", "shape = [1, 0, 8]", r"input\.shape\.1"),
    "temperature of probabilities": ('activation = "softmax"', 'activation = "none"', "temperature"),
    "certain_from of findings": ("temperature = 1.5", "temperature = 1.5\ncertain_from = 0.6", "certain_from"),
    "network": ("[figures.test]", "[network]\nwidth = 1.0\n[figures.test]", r"network\.arch"),
    "map of an unknown label": ("[figures.test]", f"{HEAT.replace('broken', 'bent')}\n[figures.test]", "bent"),
    "map label twice": ("[figures.test]", f"{HEAT.replace('broken', 'normal')}\n[figures.test]", "twice"),
    "heat with threshold": ("[figures.test]", f"{HEAT}\nthreshold = 0.5\n[figures.test]", "threshold"),
    "mask without threshold": ("[figures.test]", f"{HEAT.replace('heat', 'mask')}\n[figures.test]", "threshold"),
    "heat with activation": ("[figures.test]", f'{HEAT}\nactivation = "sigmoid"\n[figures.test]', "activation"),
    "pool without mask": ("temperature = 1.5", 'temperature = 1.5\npool = "max"', r"output\.pool"),
    "map output twice": ("[figures.test]", f"{HEAT}\n{HEAT}\n[figures.test]", "twice"),
    "not TOML": ("[licence]", "[licence", "line"),
    "other name": ('name = "seen"', 'name = "unseen"', "name"),
    "other version": ('version = "1.0.0"', 'version = "1.0.1"', "version"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_card(tmp_path, name):
    """A fault is refused, and the message names file and key."""
    old, new, named = FAULTS[name]
    path = lay(tmp_path, CARD.replace(old, new, 1))
    with pytest.raises(BadCard, match=named) as caught:
        load_card(path)
    assert str(path) in str(caught.value)


def test_digest(tmp_path):
    """A changed ONNX file is not opened."""
    with pytest.raises(DigestMismatch, match="sha256"):
        load_card(lay(tmp_path, content=b"another model"))


@pytest.mark.parametrize("missing", ["card.toml", "model.onnx", "sample.png"])
def test_missing_file(tmp_path, missing):
    """A file that is not there is named."""
    path = lay(tmp_path)
    (path.parent / missing).unlink()
    with pytest.raises(MissingModel, match=missing):
        load_card(path)


def test_find_models(tmp_path):
    """The newest version by number wins; folders that are no version are left alone."""
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        lay(tmp_path, CARD.replace('version = "1.0.0"', f'version = "{version}"'), version=version)
    lay(tmp_path, "no card at all", version="old")
    found = find_models(tmp_path)
    assert {name: folder.card.version for name, folder in found.items()} == {"seen": "1.10.0"}
    assert found["seen"].onnx.read_bytes() == CONTENT


def test_find_models_checks(tmp_path):
    """One model that does not hold fails the search: a node does not start with it."""
    lay(tmp_path, content=b"another model")
    with pytest.raises(DigestMismatch):
        find_models(tmp_path)


def test_find_models_without_folder(tmp_path):
    """A folder that is not there is an error, not an empty answer."""
    with pytest.raises(MissingModel):
        find_models(tmp_path / "models")


def test_every_field_is_described():
    """Each key of a card says what it is."""
    models = [
        m for m in vars(cards).values() if isinstance(m, type) and issubclass(m, BaseModel) and m is not BaseModel
    ]
    silent = [f"{m.__name__}.{name}" for m in models for name, f in m.model_fields.items() if not f.description]
    assert len(models) > 8
    assert silent == []


def test_shipped_models():
    """The models that come with the node hold, are small, and say that they are no medical device."""
    found = find_models(SHIPPED)
    assert {folder.card.task for folder in found.values()} == {"router", "findings"}
    for folder in found.values():
        assert folder.onnx.stat().st_size <= 8_000_000
        assert "Not a medical device; not for diagnostic use." in folder.card.intended_use
        assert folder.card.figures["test"]["pictures"] > 0
        assert (folder.path / "MODEL_CARD.md").is_file()


def test_shipped_licence():
    """Weights that learned from CC BY-NC-SA pictures say so in both cards."""
    for folder in find_models(SHIPPED).values():
        bound = any("BY-NC-SA" in data.licence for data in folder.card.training_data)
        assert bound == (folder.card.licence.identifier == "CC-BY-NC-SA-4.0")
        assert folder.card.licence.identifier in (folder.path / "MODEL_CARD.md").read_text(encoding="utf-8")

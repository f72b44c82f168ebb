"""Training learns from train, chooses on val, repeats itself, and leaves a model that the node opens."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace

import cv2
import numpy as np
import pytest

from dicomnode.cards import load_card
from dicomnode.errors import BadSetting
from dicomnode.stages.preprocess import chain
from dicomnode.training import augment, datasets, metrics
from dicomnode.training.datasets import EVERYTHING, Example, Selection, read_examples, read_manifest
from dicomnode.training.drawn import draw_examples

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from dicomnode.training import feed, learn, loop, networks, thresholds, train  # noqa: E402 - need torch
from dicomnode.training.evaluate import evaluate_model  # noqa: E402
from dicomnode.training.export import write_card  # noqa: E402
from dicomnode.training.feed import sampling_weights  # noqa: E402
from dicomnode.training.presets import Plan  # noqa: E402

TINY = Plan("mobilenet_v1", 0.1, epochs=3, batch=8, rate=1e-2, size=32, augmentation="none")
ONE_CORE = learn.Machine("cpu", 1)


def draw(label, random):
    """A bright bar for the spine, a bright disc for anything else; grain on both."""
    picture = random.normal(60, 10, (48, 40))
    if label == "spine":
        picture[:, 16:24] += 120
    else:
        y, x = np.mgrid[:48, :40]
        picture[np.hypot(y - 24, x - 20) < 13] += 120
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture
def manifest(tmp_path):
    """Write a manifest of two classes, two sources and three splits, with its pictures."""
    random = np.random.default_rng(3)
    path = tmp_path / "data" / "MANIFEST.csv"
    path.parent.mkdir()
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "class", "source_repo", "source_path", "licence", "split"])
        for number in range(64):
            label = ("spine", "other")[number % 2]
            split = "train" if number < 40 else ("val", "test")[number % 4 // 2]
            cv2.imwrite(str(path.parent / f"{number}.png"), draw(label, random))
            source = f"house{number % 3}"
            writer.writerow(
                [f"{number}.png", label, source, f"{source}/{label.upper()}/x", "CC BY 4.0 (a test)", split]
            )
    return path


def test_manifest(manifest):
    """Every row becomes an example with path, label, split, source and licence."""
    examples = read_manifest(manifest)
    assert len(examples) == 64
    assert examples[0] == Example(
        manifest.parent / "0.png", "spine", "train", "house0", "CC BY 4.0 (a test)", where=f"{manifest}:2"
    )


def test_manifest_labels_by_pattern(manifest):
    """A label may come from the source path; rows without a match are left out."""
    examples = read_manifest(manifest, Selection(("",), label_patterns={"bar": r"/SPINE/"}))
    assert {example.label for example in examples} == {"bar"}
    assert len(examples) == 32


def test_manifest_of_a_site_is_taken_whole(manifest):
    """A manifest without our folders is not filtered by them."""
    assert len(read_examples(manifest, datasets.ROUTER)) == 64


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("path,split\na.png,train\n", "class"),
        ("path,class,split\na.png,spine,training\n", ":2: the split is not one of"),
        ("path,class,split\na.png,12,train\n", ":2: needs a path, and a class that begins with a letter"),
        (f"path,class,split\na.png,{'a' * 33},train\n", ":2: needs a path, and a class .* of at most 32"),
        ("path,class,split\nDOE, JANE.png,spine,train\n", ":2: has more fields than the header"),
        ("path,class,split\na.png,spine,train\na.png,spine,test\n", ":3: the path stands twice"),
        ("path,class,split\n,spine,train\n", ":2: needs a path"),
    ],
)
def test_bad_manifest(tmp_path, text, named):
    """A manifest that cannot be used is refused, with the line."""
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadSetting, match=named):
        read_manifest(path)


def test_folder(tmp_path):
    """A folder of splits and labels is read; anything else in it is left alone."""
    for name in ("train/spine/a.png", "test/other/b.JPG", "test/other/notes.txt", "attic/other/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [(e.split, e.label, e.path.name) for e in read_examples(tmp_path, EVERYTHING)]
    assert found == [("train", "spine", "a.png"), ("test", "other", "b.JPG")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSetting, match="no pictures"):
        read_examples(tmp_path / "empty", EVERYTHING)


def test_evaluation_pictures_are_never_learned_from(shared_data):
    """No selection that trains gives a picture that is for evaluation only, nor one picture in two splits."""
    for selection in (datasets.ROUTER, datasets.PNEUMONIA):
        examples = read_manifest(shared_data / "MANIFEST.csv", selection)
        assert not [e for e in examples if e.path.is_relative_to(shared_data / "nc")]
        assert len({e.path for e in examples}) == len(examples)
    outside = read_manifest(shared_data / "MANIFEST.csv", datasets.OUTSIDE)
    assert {e.split for e in outside} == {"test"}


def test_persons_stay_in_one_split(shared_data):
    """No person of the pneumonia data stands in two splits."""
    with (shared_data / "MANIFEST.csv").open(newline="", encoding="utf-8") as stream:
        notes = {shared_data / row["path"]: row["note"] for row in csv.DictReader(stream)}
    splits = {}
    for example in read_manifest(shared_data / "MANIFEST.csv", datasets.PNEUMONIA):
        splits.setdefault(notes[example.path].split(";")[0], set()).add(example.split)
    assert len(splits) > 700
    assert [person for person, found in splits.items() if len(found) > 1] == []


def examples_of(**counts):
    """Train examples by class and source, such as spine_a=3."""
    return [
        Example(path=None, label=name[:-2], split="train", source=name[-1])
        for name, n in counts.items()
        for _ in range(n)
    ]


def test_sampling():
    """Power 0 draws classes and sources alike, power 1 draws pictures alike."""
    examples = examples_of(spine_a=2, spine_b=6, other_a=24)
    even, plain = sampling_weights(examples, 0, 0), sampling_weights(examples, 1, 1)
    np.testing.assert_allclose(plain, np.full(32, 1 / 32))
    assert [even[:2].sum(), even[2:8].sum(), even[8:].sum()] == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.parametrize("change", {change for recipe in (augment.ROUTER, augment.FINDINGS) for _, change in recipe.changes})
def test_augmentation(change):
    """Each change gives a picture in 0..1, the same for the same seed, another one than it got, and spares its input."""
    picture = draw("spine", np.random.default_rng(0)).astype(np.float32) / 255
    before = picture.copy()
    once, again = (change(picture, np.random.default_rng(11)) for _ in range(2))
    assert (once.dtype, once.ndim) == (np.float32, 2)
    assert 0 <= once.min() <= once.max() <= 1
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(picture, before)
    changed = [change(picture, np.random.default_rng(seed)) for seed in range(8)]
    if change is not augment.resample:  # this picture is smaller than what it shrinks to
        assert any(c.shape != picture.shape or not np.array_equal(c, picture) for c in changed)


def test_restyle_gives_the_grey_values_of_the_other():
    """The order of grey values stays, their distribution comes from the other picture."""
    random = np.random.default_rng(3)
    picture, other = random.random((40, 50), np.float32) * np.float32(0.3), random.random((30, 30), np.float32) ** 2
    styled = [augment.restyle(picture, other, np.random.default_rng(seed)) for seed in range(20)]
    order = np.argsort(picture, axis=None)
    assert all((np.diff(one.ravel()[order]) >= 0).all() for one in styled)
    assert min(abs(float(np.median(one)) - float(np.median(other))) for one in styled) < 0.02


def test_beside_shows_both():
    """The first picture stands on the left, its mate on the right, both whole."""
    both = augment.beside(np.full((64, 32), 0.2, np.float32), np.full((32, 64), 0.8, np.float32), np.random.default_rng(1))
    assert both.shape[0] == 256
    assert both[:, :128] == pytest.approx(0.2)
    assert both[:, -512:] == pytest.approx(0.8)
    assert both.shape[1] <= 128 + 512 + 8


def test_frozen_layers_stay(tmp_path):
    """Layers that are frozen keep weights and statistics, the others learn."""
    examples = examples_of(spine_a=8, other_a=8)
    random = np.random.default_rng(0)
    pictures = [draw(example.label, random) for example in examples]
    targets = np.array([int(example.label == "spine") for example in examples])
    network = networks.build("mobilenet_v1", 2, 0.25)
    before = deepcopy(network.state_dict())
    prepare = chain(learn.steps_for(32))
    val = feed.ValSet(np.stack([prepare(one.astype(np.float32) / 255) for one in pictures]), targets)
    learned = feed.TrainSet(pictures, targets, sampling_weights(examples, 0, 0))
    plan = Plan("mobilenet_v1", 0.25, epochs=2, batch=8, rate=1e-2, frozen=4)
    after = loop.fit(network, learned, val, plan, prepare, tmp_path, resume=False).state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    assert not any(key.startswith(tuple(f"features.{layer}." for layer in range(4))) for key in moved)


def test_temperature():
    """Logits that are three times too sure get a temperature near three."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4000, 3))
    truth = np.array([random.choice(3, p=p) for p in metrics.softmax(logits)])
    assert metrics.fit_temperature(logits * 3, truth) == pytest.approx(3, rel=0.1)


def test_threshold_of_one_side():
    """Nothing can be chosen where all pictures are of one side."""
    assert thresholds.choose_threshold(np.array([True, True]), np.array([0.9, 0.8])) == 0.5
    assert thresholds.choose_threshold(np.array([False]), np.array([0.9])) == 0.5


def test_threshold():
    """The threshold parts the two sides, in the middle where several do."""
    truth = np.array([False] * 5 + [True] * 5)
    assert thresholds.choose_threshold(truth, np.array([0.1] * 5 + [0.9] * 5)) == 0.5
    assert thresholds.choose_threshold(truth, np.array([0.1] * 5 + [0.3] * 5)) == 0.3


def test_network_shape():
    """Width scales the network; half width has a quarter of the weights, and MobileNet-V1 has its 3.2 million."""
    count = {w: sum(p.numel() for p in networks.build("mobilenet_v1", 5, w).features.parameters()) for w in (0.5, 1.0)}
    assert count[1.0] == pytest.approx(3.2e6, rel=0.01)
    assert count[0.5] == pytest.approx(count[1.0] / 4, rel=0.05)
    with pytest.raises(BadSetting, match="mobilenet_v1"):
        networks.build("alexnet", 5)


def run_router(manifest, root, *, selection=EVERYTHING, resume=False, **numbers):
    """Train the tiny router; gives its model folder."""
    task = replace(train.ROUTERS["full"], name="tiny-router", selection=selection)
    order = train.Order(manifest, root / "models", root / "runs", "0.1.0", resume=resume)
    return train.train_model(task, order, replace(TINY, **numbers), ONE_CORE)


def test_router_from_end_to_end(manifest, tmp_path):
    """Training ends in a model that holds, that knows bars from discs, and whose cards have the figures of test."""
    folder = run_router(manifest, tmp_path, epochs=20)
    card = load_card(folder / "card.toml")
    assert [label.key for label in card.labels] == ["spine", "other"]
    assert card.licence.identifier == "CC-BY-4.0"
    assert sum(data.pictures for data in card.training_data) == 40
    assert card.figures["test"]["pictures"] == 12
    assert card.figures["test"]["macro_f1"] > 0.8
    assert {"ece", "ece_low", "macro_f1_at_95_percent_coverage"} <= set(card.figures["test"])
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "not for diagnostic use" in text
    assert "spine: 20 training pictures from 3 source(s); few" in text
    assert b".py" not in (folder / "model.onnx").read_bytes()  # the exporter's stack traces
    report = evaluate_model(model=folder, data=manifest, out=tmp_path / "report", draws=200)
    assert report == json.loads((tmp_path / "report" / "evaluation.json").read_text(encoding="utf-8"))
    assert report["groups"]["test"]["macro"]["f1"]["value"] == pytest.approx(card.figures["test"]["macro_f1"], abs=1e-4)
    assert np.sum(report["groups"]["test"]["confusion"]) == 12
    assert sum(row["pictures"] for row in report["groups"]["test"]["per_source"]) == 12
    assert "| macro | 12 |" in (tmp_path / "report" / "evaluation.md").read_text(encoding="utf-8")


def test_a_source_left_out_is_measured_and_not_learned_from(manifest, tmp_path):
    """What is left out is in neither training data nor test, and has figures of its own, on its train pictures."""
    rows = read_manifest(manifest)
    source = min(example.source for example in rows)
    left = [example for example in rows if example.source == source and example.split == "train"]
    order = train.Order(manifest, tmp_path / "models", tmp_path / "runs", leave_out=source)
    task = replace(train.ROUTERS["full"], name="tiny-router", selection=EVERYTHING)
    card = load_card(train.train_model(task, order, replace(TINY, epochs=1), ONE_CORE) / "card.toml")
    assert source not in {data.source for data in card.training_data}
    assert card.figures["left_out"]["pictures"] == len(left)
    assert card.figures["test"]["pictures"] == sum(e.split == "test" and e.source != source for e in rows)
    with pytest.raises(BadSetting, match=rf"--leave-out nobody: no train picture has this source; there are: .*{source}"):
        train.train_model(task, replace(order, leave_out="nobody", version="2.0.0"), TINY, ONE_CORE)


def test_drawn_mammograms(tmp_path):
    """They are the same for the same seed, no two alike, dark where no breast is, and say whose they are."""
    examples = draw_examples(tmp_path / "a", 6, "other", seed=3)
    again = draw_examples(tmp_path / "b", 6, "other", seed=3)
    pixels = [example.path.read_bytes() for example in examples]
    assert pixels == [example.path.read_bytes() for example in again]
    assert len(set(pixels)) == 6
    assert {(e.label, e.split, e.licence) for e in examples} == {("other", "train", "CC0-1.0")}
    for example in examples:
        picture = datasets.read_picture(example.path)
        assert np.median(picture[:, -8:]) < 0.15 < picture[:, :8].mean()


def test_certain_from_leaves_the_share_answered():
    """The threshold is the highest hundredth that leaves the share of val answered."""
    highest = np.linspace(0.5, 1, 101)
    certain = thresholds.choose_certain_from(np.stack([highest, 1 - highest], axis=1), answered=0.9)
    assert certain == pytest.approx(0.55)
    assert (highest >= certain).mean() >= 0.9
    assert thresholds.choose_certain_from(np.full((5, 2), 0.5), 0.98) == 0.5
    assert thresholds.choose_certain_from(np.array([[0.999, 0.001]] * 5), 0.98) == 0.99


def test_findings_from_end_to_end(manifest, tmp_path):
    """A findings model gets a threshold for its abnormal label, and figures at it."""
    selection = Selection(("",), label_patterns={"normal": r"/SPINE/", "pneumonia": r"/OTHER/"})
    order = train.Order(manifest, tmp_path / "models", tmp_path / "runs")
    folder = train.train_model(replace(train.FINDINGS["pneumonia"], selection=selection), order, TINY, ONE_CORE)
    card = load_card(folder / "card.toml")
    assert [(label.key, label.abnormal) for label in card.labels] == [("normal", False), ("pneumonia", True)]
    assert 0.05 <= card.labels[1].threshold <= 0.95


def test_test_split_is_not_touched_by_learning(manifest, tmp_path, monkeypatch):
    """Learning reads no picture of test."""
    read = []
    real = datasets.read_picture
    monkeypatch.setattr(feed, "read_picture", lambda path, where: read.append(path) or real(path, where))
    monkeypatch.setattr(train, "export_model", lambda *_: pytest.fail("far enough", pytrace=False))
    examples = read_manifest(manifest)
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        run_router(manifest, tmp_path, epochs=1)
    assert {e.split for e in examples if e.path in read} == {"train", "val"}
    assert len(read) == 52


def learn_epochs(manifest, out, stop_after=None, resume=False, **numbers):
    """Learn three epochs, or be stopped after some; gives the averaged weights."""
    examples = read_manifest(manifest)
    train_part, val = ([e for e in examples if e.split == split] for split in ("train", "val"))
    plan = replace(TINY, rate=5e-3, augmentation="router", **numbers)
    real, judged = loop._judge, []

    def judge(average, val):
        judged.append(1)
        if stop_after is not None and len(judged) > stop_after:
            raise KeyboardInterrupt
        return real(average, val)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_judge", judge)
        taught = learn.learn(train_part, val, ["spine", "other"], plan, out, resume=resume, machine=ONE_CORE)
    return taught.network.state_dict()


def test_resumed_run_equals_one_that_never_stopped(manifest, tmp_path):
    """A run that was stopped in its second epoch and resumed ends with the same weights; so does a second run."""
    whole = learn_epochs(manifest, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        learn_epochs(manifest, tmp_path / "parts", stop_after=1)
    parts = learn_epochs(manifest, tmp_path / "parts", resume=True)
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    history = json.loads((tmp_path / "parts" / "history.json").read_text(encoding="utf-8"))
    assert [row["epoch"] for row in history] == [1, 2, 3]


def test_empty_split(manifest, tmp_path):
    """Without pictures to report on nothing is learned."""
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(",test\n", ",val\n"), encoding="utf-8")
    with pytest.raises(BadSetting, match="'test' is empty"):
        run_router(manifest, tmp_path)


def test_card_survives_strange_words(manifest, tmp_path):
    """Names of groups and texts of licences with quotes, spaces and other alphabets come back from the card as they were."""
    folder = run_router(manifest, tmp_path, epochs=1)
    card = load_card(folder / "card.toml")
    licence = card.licence.model_copy(update={"reason": 'says "free"\\ \n für alle'})
    changed = card.model_copy(update={"figures": {"test of 2026": {"a.b": 1.5, "note": "x = [1]"}}, "licence": licence})
    assert write_card(changed, folder) == changed
    assert write_card(card.model_copy(update={"figures": {}}), folder).figures == {}


def test_resume_refuses_another_plan(manifest, tmp_path):
    """A checkpoint of other settings is not mixed in."""
    run_router(manifest, tmp_path, epochs=1)
    shutil.rmtree(tmp_path / "models")
    with pytest.raises(BadSetting, match="another plan"):
        run_router(manifest, tmp_path, epochs=4, resume=True)
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    manifest.write_text("".join(lines[:1] + lines[2:]), encoding="utf-8")
    with pytest.raises(BadSetting, match="other pictures"):
        run_router(manifest, tmp_path, epochs=1, resume=True)


def test_training_prepares_as_the_card_says(manifest, tmp_path):
    """The card names the very steps that val was prepared with: one code path from lesson to work."""
    card = load_card(run_router(manifest, tmp_path, epochs=1) / "card.toml")
    steps = [(step.step, step.parameters) for step in card.input.preprocess]
    picture = datasets.read_picture(manifest.parent / "0.png")
    np.testing.assert_array_equal(chain(steps)(picture), chain(learn.steps_for(32))(picture))


def test_evaluation_needs_no_torch():
    """Evaluation imports onnxruntime and no torch."""
    program = "import sys, dicomnode.training.evaluate; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]

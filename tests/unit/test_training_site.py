"""Pictures as a site has them: folders, manifests, DICOM, classes of its own, nobody's splits; and presets of the teaching."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from dicomnode.cards import Concept, Input, load_card
from dicomnode.errors import BadSetting
from dicomnode.training import datasets, labels, splits
from dicomnode.training.datasets import EVERYTHING, read_examples, read_manifest, read_picture, word

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from dicomnode.commands.train import train as command  # noqa: E402 - need torch
from dicomnode.training import describe, folds, learn, loop, networks, presets, train  # noqa: E402
from dicomnode.training.presets import Plan, plan_for  # noqa: E402
from dicomnode.training.start import open_start  # noqa: E402

ARCHS = tuple(networks.BUILDERS)
ONE_CORE = learn.Machine("cpu", 1)
TINY = Plan("mobilenet_v1", 0.1, epochs=2, batch=8, rate=1e-2, size=32, augmentation="none")
SECRET = "Mustermann"  # noqa: S105 - a name


def draw(label, random):
    """A bright bar or a bright disc, with grain."""
    picture = random.normal(60, 10, (40, 40))
    if label in {"bar", "Left Knee"}:
        picture[:, 16:24] += 120
    else:
        y, x = np.mgrid[:40, :40]
        picture[np.hypot(y - 20, x - 20) < 13] += 120
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_manifest(root, rows, columns=("path", "class", "split", "patient")):
    """Write pictures and a manifest; rows are (class, split, patient)."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    with (root / "m.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        for number, (label, split, patient) in enumerate(rows):
            cv2.imwrite(str(root / f"{SECRET}_{number}.png"), draw(label, random))
            writer.writerow({"path": f"{SECRET}_{number}.png", "class": label, "split": split, "patient": patient})
    return root / "m.csv"


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    """Intervals are not what these tests are about."""
    monkeypatch.setattr(train, "evaluate_model", partial(train.evaluate_model, draws=100))


@pytest.fixture
def manifest(tmp_path):
    """Write a manifest of two classes with splits."""
    kinds = [(label, split, "") for split in ("train",) * 12 + ("val",) * 4 + ("test",) * 4 for label in ("bar", "disc")]
    return write_manifest(tmp_path / "data", kinds)


def order_of(manifest, root, **changes):
    """Make an order into folders below `root`."""
    return train.Order(manifest, root / "models", root / "runs", **changes)


@pytest.mark.parametrize("arch", ARCHS)
def test_each_network_learns(arch, tmp_path):
    """The loss on a handful of pictures falls well below where it began."""
    random = np.random.default_rng(0)
    drawn = np.stack([draw(label, random) for label in ("bar", "disc") * 4])
    pictures = torch.from_numpy(drawn / np.float32(128) - 1)[:, None]
    targets = torch.tensor([0, 1] * 4)
    torch.manual_seed(0)
    network = networks.build(arch, 2, 0.25, 0.0).train()
    optimiser, losses = torch.optim.AdamW(network.parameters(), lr=5e-3), []
    for _ in range(12):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(pictures.float()), targets)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-4:]) < 0.6 * losses[0]


def test_fine_tuning_in_one_command(manifest, tmp_path):
    """From a model of ours to one with another class: weights, labels, preparation and terms come along."""
    task = replace(train.ROUTERS["full"], selection=EVERYTHING, concepts=("bar=1:99X:A bar",))
    base = train.train_model(task, order_of(manifest, tmp_path), TINY, ONE_CORE)
    assert load_card(base / "card.toml").output.certain_from is not None
    kinds = [(one, split, "") for split in ("train",) * 8 + ("val", "test") for one in ("bar", "Left Knee")]
    site = write_manifest(tmp_path / "site", kinds)
    arguments = ["router", "--manifest", site, "--start", base, "--name", "site-router", "--models", tmp_path / "models"]
    arguments += ["--runs", tmp_path / "own", "--epochs", 1, "--batch", 8, "--concept", "Left Knee=72696002^SCT^Knee"]
    done = CliRunner().invoke(command, [*map(str, arguments), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    card = load_card(tmp_path / "models" / "site-router" / "1.0.0" / "card.toml")
    assert [(label.key, label.concept.value) for label in card.labels] == [("bar", "1"), ("left_knee", "72696002")]
    assert (card.network.arch, card.network.width, card.input.shape) == ("mobilenet_v1", 0.1, (1, 32, 32))
    assert [item.source for item in card.training_data[1:]] == [
        "bodypart-router 1.0.0 (start weights)", "through bodypart-router 1.0.0: not stated",
    ]  # fmt: skip
    assert SECRET not in done.output


def test_terms_of_the_start_hold_on():
    """Weights that began with CC BY-NC-SA ones are not free because the new pictures are."""
    free = [datasets.Example(None, "a", "train", licence="CC BY 4.0 (a house)")]
    bound = open_start_with("CC-BY-NC-SA-4.0")
    assert describe.terms(free, None).identifier == "CC-BY-4.0"
    assert describe.terms(free, open_start_with("Apache-2.0")).identifier == "CC-BY-4.0"
    assert describe.terms(free, bound).identifier == "CC-BY-NC-SA-4.0"
    alike = [*free, replace(free[0], licence="CC BY-SA 4.0 (hands)"), replace(free[0], licence="CC0-1.0")]
    assert describe.terms(alike, None).identifier == "CC-BY-SA-4.0"
    assert describe.terms([replace(free[0], licence="")], bound).identifier == "CC-BY-NC-SA-4.0"
    assert "old 1.0.0" in describe.terms(free, bound).reason
    unclear = describe.terms([replace(free[0], licence="")], open_start_with("LicenseRef-x"))
    assert unclear.identifier == "LicenseRef-training-data"


def open_start_with(licence):
    """Make start weights under some terms."""
    from dicomnode.cards import Licence
    from dicomnode.training.start import Start

    return Start("old 1.0.0", "mobilenet_v1", 1.0, {}, Licence(identifier=licence, reason="of old"), ())


def test_curves_mark_the_epoch_that_is_kept(tmp_path, monkeypatch):
    """The last one, or the best on val."""
    from matplotlib.axes import Axes

    from dicomnode.training.curves import draw_curves

    marked, line = [], Axes.axvline
    monkeypatch.setattr(Axes, "axvline", lambda self, x, **how: (marked.append(x), line(self, x, **how)))
    history = [{"epoch": n, "loss": 1, "val_macro_f1": 1 / n, "val_log_loss": 1, "rate": 1e-3} for n in (1, 2)]
    for last in (False, True):
        draw_curves(history, tmp_path / "curves.png", keeps_last=last)
    assert set(marked[:4]) == {1}
    assert set(marked[4:]) == {2}


def test_presets(tmp_path):
    """The paper's preset has the paper's numbers, single options replace single ones, what cannot be begun with is not."""
    paper = plan_for("router", "paper", arch="resnet34", epochs=3)
    assert (paper.arch, paper.width, paper.size, paper.rate, paper.epochs) == ("resnet34", 1, 512, 1e-4, 3)
    assert (paper.optimiser, paper.schedule, paper.smoothing, paper.ema, paper.start) == ("adam", "restarts", 0, 0, "none")
    ours = plan_for("router")
    assert (ours.arch, ours.size, ours.start) == ("efficientnet_lite0", 192, "imagenet")
    assert plan_for("findings", arch="efficientnet_b0").start == "imagenet"
    assert plan_for("router", arch="resnet18").start == "none"
    # Layers that nothing taught are not kept as they are; what is asked for is done.
    begun = ({"arch": "resnet18"}, {"start": "none"}, {"start": "none", "frozen": 2}, {"start": "models/a/1.0.0"}, {})
    assert [plan_for("router", **one).frozen > 0 for one in begun] == [False, False, True, True, True]
    assert plan_for("router", width=0.5).start == "none"
    assert plan_for("router", arch="resnet18", start="imagenet").start == "imagenet"  # refused where it is opened
    model = plan_for("router", start="models/x/1.0.0", size=64)
    assert (model.arch, model.width, model.size) == ("", 0, 64)
    assert all(plan.augmentation in presets.RECIPES for task in presets.PLANS.values() for plan in task.values())


def test_learning_rates_of_both_schedules():
    """Half a cosine after a warm-up, or cosines that begin anew after 10 and 30 epochs."""
    rates = {}
    for kind in ("cosine", "restarts"):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = loop._schedule(optimiser, replace(TINY, epochs=40, schedule=kind), steps=2)
        rates[kind] = []
        for _ in range(80):
            rates[kind].append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
    assert rates["cosine"][:4] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.01)
    assert rates["cosine"][-1] < 0.01
    assert [step for step, rate in enumerate(rates["restarts"]) if rate == 1] == [0, 20, 60]


def test_paper_preset_and_bfloat16_run(manifest, tmp_path):
    """The paper's recipe, smaller, and in bfloat16, ends in a model; resumed when done it gives the same file."""
    plan = replace(plan_for("router", "paper"), width=0.1, size=32, epochs=2, batch=8, precision="bf16")
    task = replace(train.ROUTERS["open"], selection=EVERYTHING)
    once = (train.train_model(task, order_of(manifest, tmp_path), plan, ONE_CORE) / "model.onnx").read_bytes()
    assert (tmp_path / "runs" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    history = json.loads((tmp_path / "runs" / "history.json").read_text(encoding="utf-8"))
    assert [row["rate"] for row in history] == [1e-4, pytest.approx(9.755e-5)]
    with pytest.raises(BadSetting, match="is there already"):
        train.train_model(task, order_of(manifest, tmp_path), plan, ONE_CORE)
    again = train.train_model(task, order_of(manifest, tmp_path, resume=True, replace=True), plan, ONE_CORE)
    assert (again / "model.onnx").read_bytes() == once


def test_loss_that_is_no_number(manifest, tmp_path):
    """A rate that blows up the weights ends the run with what to do."""
    examples = read_manifest(manifest)
    part = [[e for e in examples if e.split == split] for split in ("train", "val")]
    with pytest.raises(BadSetting, match="smaller --rate"):
        learn.learn(*part, ["bar", "disc"], replace(TINY, rate=1e30), tmp_path, resume=False, machine=ONE_CORE)


def test_device_that_is_not_here(monkeypatch):
    """A device that cannot be had is refused by name; auto takes what there is."""
    with pytest.raises(BadSetting, match="knows no such device"):
        learn.Machine("abacus").torch_device()
    assert learn.Machine().torch_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadSetting, match="no GPU is here"):
        learn.Machine("cuda").torch_device()


def test_words():
    """Classes of a site become words; what has no letter at its beginning does not."""
    assert [word(text) for text in ("Left Knee", "Übersicht-Abdomen", "L1/L2", "12", "胸", " x ")] == [
        "left_knee", "ubersicht_abdomen", "l1_l2", None, None, "x",
    ]  # fmt: skip


def test_folder_without_splits(tmp_path):
    """Pictures of <label>/ at any depth get a split by hash, and keep it when others come."""
    random = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / ("Left Knee", "disc")[number % 2] / f"{number % 3}" / f"{SECRET}{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), draw("disc", random))
    before = {e.path: e.split for e in read_examples(tmp_path, EVERYTHING)}
    assert Counter(e.label for e in read_examples(tmp_path, EVERYTHING)) == {"left_knee": 30, "disc": 30}
    assert 35 <= Counter(before.values())["train"] <= 50
    shutil.copy(next(iter(before)), tmp_path / "disc" / "new.png")
    assert before.items() <= {e.path: e.split for e in read_examples(tmp_path, EVERYTHING)}.items()
    assert "nobody said whose" in describe.about_splits(read_examples(tmp_path, EVERYTHING))


def test_manifest_without_splits_keeps_persons_together(tmp_path):
    """With the column patient no person stands in two splits; stated splits that part one are told."""
    rows = [("bar", "", f"p{number // 4}") for number in range(80)]
    examples = read_manifest(write_manifest(tmp_path, rows, ("path", "class", "patient")))
    found = defaultdict(set)
    for example in examples:
        found[example.person].add(example.split)
    assert len(found) == 20
    assert {len(one) for one in found.values()} == {1}
    assert set.union(*found.values()) == set(datasets.SPLITS)
    stated = [replace(one, split=split, drawn=False) for one, split in zip(examples[:2], ("train", "test"), strict=True)]
    assert "1 person(s)" in describe.about_splits(stated)
    assert describe.about_splits(stated[:1]) is None


def test_a_person_at_two_devices_is_one(tmp_path):
    """A pseudonym in the column patient holds whatever the source, so that no film of a train person stands in test."""
    text = "path,class,source_repo,patient\n" + "".join(f"{n}.png,bar,device {n % 2},p{n // 2}\n" for n in range(40))
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    examples = read_manifest(tmp_path / "m.csv")
    assert all(one.split == two.split for one, two in zip(examples[::2], examples[1::2], strict=True))
    assert len({one.person for one in examples}) == 20


def test_a_class_without_pictures_is_told(tmp_path):
    """A class whose files are of another kind is not left out silently."""
    for name in ("disc/a.png", "Left Knee/a.tif"):
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), draw("disc", np.random.default_rng(0)))
    with pytest.raises(BadSetting, match="Left Knee: no PNG, JPEG or DICOM file"):
        read_examples(tmp_path, EVERYTHING)


def dicom(path, patient, bits=16):
    """Copy a small DICOM file for another patient."""
    ds = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    ds.PatientID, ds.PatientName, ds.BitsAllocated = patient, SECRET, bits
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)


def test_dicom_folder(tmp_path):
    """DICOM files, with and without a suffix, are read as the node reads them, and their Patient ID keeps persons together."""
    for number in range(12):
        dicom(tmp_path / "head" / (f"{number}.dcm" if number % 2 else f"IM{number}"), f"id{number // 4}")
    (tmp_path / "head" / "DICOMDIR.txt").write_text("no picture", encoding="utf-8")
    examples = read_examples(tmp_path, EVERYTHING)
    assert len(examples) == 12
    assert len({example.person for example in examples}) == 3
    assert all(len({e.split for e in examples if e.person == one}) == 1 for one in {e.person for e in examples})
    assert not [example for example in examples if "id" in example.person]
    picture = read_picture(examples[0].path)
    assert (picture.dtype, picture.ndim, float(picture.max())) == (np.float32, 2, 1.0)


def test_errors_name_the_row_and_no_file(tmp_path):
    """A picture that cannot be read is named by its line or number, never by its file, which may hold a name."""
    path = write_manifest(tmp_path / "a", [("bar", "train", ""), ("disc", "train", "")])
    (tmp_path / "a" / f"{SECRET}_1.png").write_bytes(b"no picture")
    dicom(tmp_path / "b" / "head" / f"{SECRET}.dcm", SECRET, bits=7)
    (tmp_path / "c" / "head").mkdir(parents=True)
    (tmp_path / "c" / "head" / f"{SECRET}.png").write_bytes(b"")
    gone = replace(read_manifest(path)[0], path=tmp_path / "gone.png")
    for example, named in (
        (read_manifest(path)[1], "m.csv:3: cannot be decoded"),
        (gone, "m.csv:2: the picture cannot be opened"),
        (read_examples(tmp_path / "b", EVERYTHING)[0], "head, picture 1 in the order of names: the pixels cannot be read"),
        (read_examples(tmp_path / "c", EVERYTHING)[0], "head, picture 1 in the order of names: cannot be decoded"),
    ):
        with pytest.raises(BadSetting) as caught:
            read_picture(example.path, example.where)
        assert named in str(caught.value)
        assert "mends or removes it" in str(caught.value)
        assert SECRET not in str(caught.value)


def test_labels_of_a_site():
    """Known labels keep their concept, given ones win, others get a private code that says so; wrong ones are named."""
    found = {"spine", "tail", "a_very_long_word_for_a_part"}
    made = labels.make_labels(found, labels.ROUTER_LABELS, ["tail=1:99X:Tail: the last part"])
    assert [label.key for label in made] == ["spine", "a_very_long_word_for_a_part", "tail"]
    assert made[0].concept.scheme == "SCT"
    assert made[2].concept == Concept(value="1", scheme="99X", meaning="Tail: the last part")
    assert made[1].concept.scheme == "99DICOMNODE"
    assert len(made[1].concept.value) == 16
    marked = labels.make_labels({"Normal".lower(), "crack"}, labels.PNEUMONIA_LABELS, abnormal=["Crack"])
    assert [(label.key, label.abnormal) for label in marked] == [("normal", False), ("crack", True)]
    for texts in (["tail"], ["tail=1:99X"], ["tail=12345678901234567:SCT:x"], ["12=1:SCT:x"]):
        with pytest.raises(BadSetting, match="at most 16, 16 and 64 characters"):
            labels.make_labels(found, (), texts)
    with pytest.raises(BadSetting, match="no label of the data: toe"):
        labels.make_labels(found, (), ["toe=1:SCT:x"])


def test_refused_before_anything_is_learned(manifest, tmp_path, monkeypatch):
    """What cannot end in a model is found out before a network learns."""
    monkeypatch.setattr(train, "learn", lambda *_, **__: pytest.fail("learned"))
    own = train.Task("findings", "site-findings")
    order = order_of(manifest, tmp_path)
    for task, plan, said in (
        (own, TINY, "need --body-part"),
        (replace(own, body_parts=("hand",)), TINY, "--abnormal"),
        (replace(own, body_parts=("Left Hand",), abnormal=("bar",)), TINY, "body_parts"),
        (replace(own, body_parts=("hand",), abnormal=("bar",), name="Wrong Name"), TINY, "no card can be made"),
        (train.ROUTERS["full"], replace(TINY, arch="alexnet"), "there are: mobilenet_v1"),
        (train.ROUTERS["full"], replace(TINY, start="nowhere"), "neither none nor imagenet"),
        (replace(train.ROUTERS["full"], concepts=("toe=1:SCT:Toe",)), TINY, "no label of the data"),
    ):
        with pytest.raises(BadSetting, match=said):
            train.train_model(task, order, plan, ONE_CORE)


def test_sets_that_cannot_be_chosen_or_reported_on(tmp_path):
    """One class, no val picture of what is to be pointed out, all pictures under one Patient ID: refused before learning."""
    findings = replace(train.FINDINGS["pneumonia"], selection=EVERYTHING, labels=(), abnormal=("disc",))
    three = [(label, split, "") for label in ("bar", "disc") for split in ("train", "train", "val", "test")]
    unseen = [one for one in three if one[:2] != ("disc", "val")]
    splitless = write_manifest(tmp_path / "c", [("bar", "", "anonymous")] * 9, ("path", "class", "patient"))
    for task, data, named in (
        (findings, write_manifest(tmp_path / "a", unseen), "needs pictures of disc"),
        (train.ROUTERS["full"], write_manifest(tmp_path / "b", three[:4]), "all pictures are of one class"),
        (train.ROUTERS["full"], splitless, "'test' is empty; .* persons are 1"),
    ):
        with pytest.raises(BadSetting, match=named):
            train.train_model(task, order_of(data, tmp_path), TINY, ONE_CORE)


def test_preparation_of_the_start_at_another_size():
    """Ranks of grey values stay what the start learned from, whatever the size."""

    def started(ranks):
        steps = [{"step": step, "parameters": parameters} for step, parameters in learn.steps_for(32, ranks=ranks)]
        taken = Input(name="image", shape=(1, 32, 32), dtype="float32", preprocess=steps)
        return replace(open_start_with("CC0-1.0"), input=taken)

    for ranks in (True, False):
        plan = train._from(replace(TINY, size=64, ranks=not ranks), started(ranks))
        assert (plan.ranks, plan.size) == (ranks, 64)


def test_label_without_train_pictures(manifest):
    """A label that stands in val alone is named."""
    examples = [e for e in read_manifest(manifest) if e.split != "train" or e.label == "bar"]
    part = [[e for e in examples if e.split == split] for split in ("train", "val")]
    with pytest.raises(BadSetting, match="no picture of disc in the split 'train'"):
        learn.learn(*part, ["bar", "disc"], TINY, manifest.parent, resume=False, machine=ONE_CORE)


def test_folds_share_labels_and_keep_persons():
    """Every fold has its share of each label, and no person stands in two."""
    groups = [f"p{number // 3}" for number in range(90)]
    kinds = ["rare" if number < 15 else "common" for number in range(90)]
    dealt = splits.deal_folds(groups, kinds, 5)
    assert Counter(fold for fold, kind in zip(dealt, kinds, strict=True) if kind == "rare") == dict.fromkeys(range(5), 3)
    assert {len({fold for fold, group in zip(dealt, groups, strict=True) if group == one}) for one in groups} == {1}


def test_cross_validation(manifest, tmp_path):
    """Each picture of train and val is answered once, by a network taught without its fold; test is never shown."""
    examples, shown = read_manifest(manifest), []

    def answers(some, _=1):
        return np.array([[0.9, 0.1] if e.label == "bar" else [0.4, 0.6] for e in some]) - [[0, 0.001 * len(shown)]]

    def teach(part, val, out):
        shown.append(({e.path for e in part}, {e.path for e in val}))
        truth = np.array([int(e.label == "disc") for e in val])
        return SimpleNamespace(probabilities=answers, val_targets=truth, val_probabilities=answers(val))

    pooled = folds.cross_validate(examples, ["bar", "disc"], 4, teach, tmp_path, ONE_CORE)
    everything = {e.path for e in examples if e.split != "test"}
    left = [everything - part - val for part, val in shown]
    assert set.union(*left) == everything
    assert sum(map(len, left)) == len(everything) == len(pooled.examples)
    assert [number for number, (part, val) in enumerate(shown) if part & val] == []
    assert sorted(set(np.round(pooled.probabilities.sum(axis=1), 3))) == [0.996, 0.997, 0.998, 0.999]
    table = folds.fold_figures(pooled, labels.make_labels({"bar", "disc"}, (), abnormal=["disc"]), draws=200)
    assert (table["pictures"], table["folds"]) == (32, 4)
    for name in ("macro_f1", "auroc_disc", "sensitivity_disc", "specificity_disc"):
        assert 0 <= table[f"{name}_low"] <= table[name] <= table[f"{name}_high"] <= 1
    assert (table["auroc_disc"], table["macro_f1"], table["sensitivity_disc"]) == (1, 1, 1)
    for many in (2, 17):
        with pytest.raises(BadSetting, match="at most 16"):
            folds.cross_validate(examples, ["bar", "disc"], many, teach, tmp_path, ONE_CORE)


def test_taught_with_names_every_number():
    """The card for people has all that a run is repeated with."""
    assert all(f"{key} " in describe.taught_with(TINY) for key in asdict(TINY))


def test_start_reads_the_model_that_training_wrote(manifest, tmp_path):
    """What training wrote, training can go on from, with the preparation of that model."""
    task = replace(train.ROUTERS["full"], selection=EVERYTHING)
    folder = train.train_model(task, order_of(manifest, tmp_path), replace(TINY, epochs=1), ONE_CORE)
    start = open_start(str(folder), None, None)
    assert train._steps(TINY, start) == [(name, dict(values)) for name, values in learn.steps_for(32)]
    assert train._steps(replace(TINY, size=64), start) == learn.steps_for(64)

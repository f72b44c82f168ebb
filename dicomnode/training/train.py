"""Train a model of one task and put it into the model repository: what ``dicomnode train router`` and ``dicomnode
train findings`` call.

**Way** Examples are read, the card is made as far as it is known, a network learns on train, temperature and thresholds
are chosen on val, the network is exported, and the finished model is measured once on test with `evaluate_model`; the figures
go into its cards. With folds the recipe is cross-validated first.

**Fails** `BadSetting` for data or settings that cannot be used, before anything is learned; `BadCard` when the exported model
does not hold.

**Limits** Labels exclude each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dicomnode import cards
from dicomnode.errors import BadSetting
from dicomnode.training import datasets, describe
from dicomnode.training.datasets import SPLITS, Example, Selection
from dicomnode.training.drawn import draw_examples
from dicomnode.training.evaluate import as_markdown, evaluate_model
from dicomnode.training.export import export_model, figures_of, write_card, write_model_card
from dicomnode.training.folds import cross_validate, fold_figures
from dicomnode.training.labels import BREAST_LABELS, PNEUMONIA_LABELS, ROUTER_LABELS, make_labels
from dicomnode.training.learn import Machine, Steps, Taught, learn, steps_for
from dicomnode.training.networks import build
from dicomnode.training.presets import Plan
from dicomnode.training.start import Start, open_start
from dicomnode.training.thresholds import choose_certain_from, choose_threshold


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is to answer, and from which rows of our own manifest; another manifest is taken whole."""

    kind: Literal["router", "findings"]
    name: str
    selection: Selection = datasets.EVERYTHING
    #: Meanings and concepts that are known, in order.
    labels: tuple[cards.Label, ...] = ()
    #: Words; a router is for what it answers.
    body_parts: tuple[str, ...] = ()
    #: Labels to be reported abnormal; empty: as they are known.
    abnormal: tuple[str, ...] = ()
    #: ``LABEL=CODE^SCHEME^MEANING``.
    concepts: tuple[str, ...] = ()
    #: Share of val that a router answers; on the rest it is uncertain.
    answered: float = 0.98
    #: Mammograms drawn by program that are learned from as well, as `other`.
    drawn: int = 0


#: The routers that come with the node: with the CC BY-NC-SA pictures, and with open licences alone.
ROUTERS: Mapping[str, Task] = {
    "full": Task("router", "bodypart-router", datasets.ROUTER, ROUTER_LABELS, drawn=80),
    # It meets films of what it never saw: of the unsure ones it is to leave more.
    "open": Task("router", "bodypart-router-open", datasets.OPEN, ROUTER_LABELS, answered=0.95),
}
#: The findings models that come with the node.
FINDINGS: Mapping[str, Task] = {
    "pneumonia": Task("findings", "pneumonia-pediatric", datasets.PNEUMONIA, PNEUMONIA_LABELS, ("pediatric_chest",)),
    "breast-ultrasound": Task("findings", "breast-ultrasound", datasets.BREAST, BREAST_LABELS, ("breast",)),
}


@dataclass(frozen=True, slots=True)
class Order:
    """One training: the pictures, and where things go."""

    #: Manifest or folder.
    data: Path
    #: The model repository.
    models: Path
    #: Folder for checkpoints, history and curves.
    runs: Path
    version: str = "1.0.0"
    #: Go on from the checkpoint under `runs`.
    resume: bool = False
    #: Write over a model of this name and version.
    replace: bool = False
    #: Cross-validate with so many folds first; 0 for not.
    folds: int = 0
    #: A source not to learn from and to be measured on instead: shows what is known of sources never seen.
    leave_out: str = ""


def train_model(
    task: Task, order: Order, plan: Plan, machine: Machine, tell: Callable[[str], object] = lambda _: None
) -> Path:
    """Train a model and write ``<models>/<name>/<version>/``; gives that folder.

    `plan` may leave architecture, width and size open (empty, 0) where its start is a model. `tell` gets what a person has
    to know.

    Raises
    ------
    BadSetting
        As the module says.
    """
    folder = order.models / task.name / order.version
    if (folder / "card.toml").exists() and not order.replace:
        raise BadSetting(f"{folder}: is there already; another --model-version or --name, or --replace to write over it")
    selection = _selection(task, order)
    examples = datasets.read_examples(order.data, replace(selection, not_source=order.leave_out))
    if task.drawn and selection != datasets.EVERYTHING:  # ours, not a site's own pictures
        examples = (*examples, *draw_examples(order.runs / "drawn", task.drawn, "other", plan.seed))
    start = open_start(plan.start, plan.arch or None, plan.width or None)
    if start is not None:
        plan = _from(plan, start)
    build(plan.arch, 1, plan.width)  # says now that there is no such architecture
    found = {example.label for example in examples}
    labels = make_labels(found, (*(() if start is None else start.card_labels), *task.labels), task.concepts, task.abnormal)
    steps = _steps(plan, start)
    split = {name: [example for example in examples if example.split == name] for name in SPLITS}
    _check(order.data, labels, split)
    basis = describe.basis(task.name, order.version, plan, steps, labels, split["train"], start)
    card = _card(task, order.version, labels, basis)
    if note := describe.about_splits(examples):
        tell(note)
    keys = [label.key for label in labels]

    def teach(train: Sequence[Example], val: Sequence[Example], out: Path) -> Taught:
        return learn(train, val, keys, plan, out, resume=order.resume, machine=machine, start=start, steps=steps)

    figures: dict[str, dict[str, int | float | str]] = {}
    if order.folds:
        pooled = cross_validate(examples, keys, order.folds, teach, order.runs, machine, tell)
        figures["cross_validation"] = fold_figures(pooled, labels)
    taught = teach(split["train"], split["val"], order.runs)
    card = export_model(taught.network, _choose(card, taught, task.answered), folder)
    reports = _reports(task, order, selection, folder, machine)
    for report in reports:
        figures |= figures_of(report)
    card = write_card(card.model_copy(update={"figures": figures}), folder)
    notes = f"{describe.shortcomings(split['train'], examples)}\n\nTaught with: {describe.taught_with(plan)}."
    write_model_card(card, folder, "\n".join(map(as_markdown, reports[1:])), notes)
    return folder


def _reports(
    task: Task, order: Order, selection: Selection, folder: Path, machine: Machine
) -> list[dict[str, Any]]:
    """Val, then test with what was never learned from, then the source that was left out."""
    rows = replace(selection, not_source=order.leave_out)
    groups: dict[str, dict[str, Selection]] = {name: {"test": rows} for name in ("val", "test")}
    if task.kind == "router":
        groups["test"]["outside"] = datasets.OUTSIDE
    if order.leave_out:
        groups["train"] = {"left_out": replace(selection, source=order.leave_out)}
    return [
        evaluate_model(model=folder, data=order.data, split=name, selections=group, threads=machine.threads)
        for name, group in groups.items()
    ]


def _from(plan: Plan, start: Start) -> Plan:
    """The plan with what the weights to go on from decide."""
    plan = replace(plan, arch=start.arch, width=start.width, start=start.name)
    if start.input is None:
        return plan
    ranks = any(step.step == "equalise" for step in start.input.preprocess)
    return replace(plan, size=plan.size or start.input.shape[1], ranks=ranks)


def _check(data: Path, labels: Sequence[cards.Label], split: Mapping[str, Sequence[Example]]) -> None:
    """Refuse what could be learned but not chosen on or reported on."""
    if not split["test"]:
        examples = [example for part in split.values() for example in part]
        persons = len({example.person for example in examples})
        drawn = f"; splits were drawn by person, and persons are {persons}" if examples[0].drawn else ""
        raise BadSetting(f"{data}: the split 'test' is empty; it is needed to report on{drawn}")
    if len(labels) < 2:
        raise BadSetting(f"{data}: all pictures are of one class; at least two are needed")
    for label in labels:
        if label.abnormal and len({example.label == label.key for example in split["val"]}) < 2:
            raise BadSetting(f"the split 'val' needs pictures of {label.key} and of others, to choose the threshold on")


def _selection(task: Task, order: Order) -> Selection:
    """Which rows the task is about: a manifest that has none of them is a site's own, and taken whole.

    Raises
    ------
    BadSetting
        No train picture is of the source to leave out, which is measured on these.
    """
    if order.data.is_dir() or not datasets.read_manifest(order.data, task.selection):
        task = replace(task, selection=datasets.EVERYTHING)
    if order.leave_out:
        examples = datasets.read_examples(order.data, task.selection)
        sources = sorted({example.source for example in examples if example.split == "train" and example.source})
        if order.leave_out not in sources:
            raise BadSetting(f"--leave-out {order.leave_out}: no train picture has this source; there are: {sources}")
    return task.selection


def _steps(plan: Plan, start: Start | None) -> Steps:
    """The preparation: that of the model to go on from, where the size is the same."""
    if start is not None and start.input is not None and start.input.shape == (1, plan.size, plan.size):
        return [(step.step, step.parameters) for step in start.input.preprocess]
    return steps_for(plan.size, ranks=plan.ranks)


def _card(task: Task, version: str, labels: Sequence[cards.Label], basis: Mapping[str, object]) -> cards.Card:
    """The card as far as it is known before learning: what cannot hold is found out now."""
    keys = [label.key for label in labels]
    if task.kind == "router":
        use, parts = "Says the body part of a picture, so that a node can route it.", tuple(keys)
    else:
        parts = task.body_parts
        use = f"Research: tells {' from '.join(keys)} in {', '.join(parts)}."
        if not any(label.abnormal for label in labels) or not parts:
            raise BadSetting("findings need --body-part, what they are looked for in, and --abnormal, what to point out")
    try:
        return cards.Card.model_validate(
            {
                **basis, "task": task.kind, "body_parts": parts, "intended_use": f"{use} {describe.NOT_A_DEVICE}",
                "output": {"name": "logits", "activation": "softmax"},
            }
        )  # fmt: skip
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors())
        raise BadSetting(f"no card can be made for {task.name} {version}: {faults}") from error


def _choose(card: cards.Card, taught: Taught, answered: float) -> cards.Card:
    """The card with what val chose: temperature, thresholds, from when a router is believed."""
    labels = [
        label.model_copy(
            update={"threshold": choose_threshold(taught.val_targets == index, taught.val_probabilities[:, index])}
        )
        if label.abnormal
        else label
        for index, label in enumerate(card.labels)
    ]
    certain = choose_certain_from(taught.val_probabilities, answered) if card.task == "router" else None
    output = card.output.model_copy(update={"temperature": taught.temperature, "certain_from": certain})
    return card.model_copy(update={"labels": tuple(labels), "output": output})

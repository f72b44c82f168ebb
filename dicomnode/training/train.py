"""Train a model of one task and put it into the model repository: what ``dicomnode train router`` and ``dicomnode
train findings`` call.

**Way** Examples are read, a network learns on train, epoch, temperature and thresholds are chosen on val, the network
is exported, and the finished model is measured once on test with `evaluate_model`; the figures go into its cards.

**Fails** `BadSetting` for data or settings that cannot be used, `BadCard` when the exported model does not hold.

**Limits** Labels of a router are among the five body parts; every findings label needs its coded concept from the
caller.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode import cards
from dicomnode.errors import BadSetting
from dicomnode.records import BODY_PARTS
from dicomnode.training import augment, datasets
from dicomnode.training.augment import Recipe
from dicomnode.training.datasets import Example, Selection
from dicomnode.training.evaluate import GROUPS, as_markdown, evaluate_model
from dicomnode.training.export import export_model, figures_of, write_card, write_model_card
from dicomnode.training.learn import Taught, learn, steps_for
from dicomnode.training.loop import Plan
from dicomnode.training.start import Start, open_start

_NOT_A_DEVICE = "Not a medical device; not for diagnostic use."
_ARTIFICIAL_INTELLIGENCE = cards.Concept(value="123110", scheme="DCM", meaning="Artificial Intelligence")
#: Terms of start weights that ask for no more than naming them.
_FREE = frozenset({"Apache-2.0", "CC-BY-4.0"})
_FEW = 100  # pictures of a class; below, a card says so


def _label(key: str, meaning: str, code: tuple[str, str], threshold: float | None = None) -> cards.Label:
    concept = cards.Concept(value=code[0], scheme="SCT", meaning=code[1])
    return cards.Label(key=key, meaning=meaning, concept=concept, abnormal=threshold is not None, threshold=threshold)


#: The body parts; adult and paediatric chest share the concept, the key tells them apart.
ROUTER_LABELS = (
    _label("abdomen", "Radiograph of the abdomen", ("818981001", "Abdomen")),
    _label("adult_chest", "Radiograph of an adult's chest", ("816094009", "Chest")),
    _label("pediatric_chest", "Radiograph of a child's chest", ("816094009", "Chest")),
    _label("spine", "Radiograph of the spine or a part of it", ("421060004", "Spine")),
    _label("other", "Any other radiograph", ("74964007", "Other")),
)
#: The threshold is replaced by the one chosen on val.
PNEUMONIA_LABELS = (
    _label("normal", "No signs of pneumonia", ("17621005", "Normal")),
    _label("pneumonia", "Signs of pneumonia", ("233604007", "Pneumonia"), 0.5),
)


def choose_threshold(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Choose among 0.05, 0.10 ... 0.95 what has the highest sensitivity + specificity; of equals the nearest to 0.5."""

    def worth(threshold: float) -> tuple[float, float]:
        called = score >= threshold
        return float(called[truth].mean() + (~called[~truth]).mean()), -abs(threshold - 0.5)

    return max((round(step / 20, 2) for step in range(1, 20)), key=worth)


def _terms(examples: Sequence[Example], start: Start | None) -> cards.Licence:
    """The terms of weights that learned from these pictures, and from what they began with: the stricter hold."""
    stated = {example.licence for example in examples}
    bound = sorted(text for text in stated if "BY-NC-SA" in text)
    if bound:
        reason = f"Learned from pictures under {'; '.join(bound)}, among others; the weights carry that licence."
        return cards.Licence(identifier="CC-BY-NC-SA-4.0", reason=reason)
    open_terms = all(text.startswith("CC BY 4.0") for text in stated)
    if start is not None and start.licence.identifier not in _FREE:
        reason = f"Began with the weights of {start.name}, whose terms hold on: {start.licence.reason}"
        if open_terms or "NC" in start.licence.identifier:
            return cards.Licence(identifier=start.licence.identifier, reason=reason)
        return cards.Licence(identifier="LicenseRef-training-data", reason=f"{reason} And those of the training data.")
    if open_terms:
        return cards.Licence(identifier="CC-BY-4.0", reason="Learned only from pictures under CC BY 4.0, named below.")
    return cards.Licence(
        identifier="LicenseRef-training-data", reason="No one licence covers the pictures; see training data."
    )


def _sources(examples: Sequence[Example], start: Start | None) -> tuple[cards.TrainingData, ...]:
    counted = Counter((example.source or "not stated", example.licence or "not stated") for example in examples)
    learned = (cards.TrainingData(source=s, licence=t, pictures=n) for (s, t), n in sorted(counted.items()))
    return (*learned, *(() if start is None else start.data))


def shortcomings(examples: Sequence[Example]) -> str:
    """Say what the train pictures cannot support, class by class, as a Markdown list."""
    sources, pictures = defaultdict[str, set[str]](set), Counter(example.label for example in examples)
    for example in examples:
        sources[example.label].add(example.source)
    lines = []
    for label, count in sorted(pictures.items()):
        line = f"- {label}: {count} training pictures from {len(sources[label])} source(s)"
        if count < _FEW:
            line += "; few: expect errors on films of other hospitals"
        if len(sources[label]) == 1:
            line += "; what the pictures of this one source share besides the anatomy may have been learned"
        lines.append(line + ".")
    lines += [
        "- A picture that belongs to no class still gets one of them.",
        "- Pictures were 8 bit, a few hundred pixels wide.",
    ]
    return "\n".join(lines)


def _card(
    task: str, name: str, version: str, size: int, labels: Sequence[cards.Label], learned: Sequence[Example], plan: Plan,
    start: Start | None,
) -> dict[str, object]:  # fmt: skip
    """What every card of ours says before the network is known."""
    preprocess = [{"step": step, "parameters": dict(parameters)} for step, parameters in steps_for(size)]
    return {
        "name": name,
        "version": version,
        "task": task,
        "file": "model.onnx",
        "sha256": "0" * 64,
        "licence": _terms(learned, start),
        "training_data": _sources(learned, start),
        "network": {"arch": plan.arch, "width": plan.width},
        "algorithm": _ARTIFICIAL_INTELLIGENCE,
        "input": {"name": "image", "shape": (1, size, size), "dtype": "float32", "preprocess": preprocess},
        "labels": labels,
        "sample": {"file": "sample.png", "probabilities": {label.key: 0.0 for label in labels}, "tolerance": 0.01},
    }


def _finish(taught: Taught, card: cards.Card, folder: Path, data: Path, groups: Mapping[str, Selection]) -> None:
    """Export, look once at test, and write both cards."""
    card = export_model(taught.network, card, folder)
    reports = [evaluate_model(model=folder, data=data, split=split, selections=groups) for split in ("val", "test")]
    figures = figures_of(reports[0]) | figures_of(reports[1])
    card = write_card(card.model_copy(update={"figures": figures}), folder)
    write_model_card(card, folder, as_markdown(reports[1]), shortcomings(taught.learned))


def _begin(start: str, plan: Plan) -> tuple[Start | None, Plan]:
    """Open the start weights; an architecture or width that the plan leaves open is theirs, or a small one."""
    begun = open_start(start, plan.arch or None, plan.width or None)
    arch, width = ("mobilenet_v1", 0.5) if begun is None else (begun.arch, begun.width)
    return begun, replace(plan, arch=plan.arch or arch, width=plan.width or width, start=start if begun is None else begun.name)


def train_router(
    *,
    data: Path,
    models: Path,
    runs: Path,
    name: str = "bodypart-router",
    version: str = "1.0.0",
    arch: str | None = None,
    width: float | None = None,
    start: str = "none",
    size: int = 192,
    epochs: int = 30,
    batch: int = 32,
    rate: float = 2e-3,
    seed: int = 7,
    threads: int = 1,
    device: str = "cpu",
    resume: bool = False,
    selection: Selection = datasets.ROUTER,
    recipe: Recipe = augment.ROUTER,
) -> Path:
    """Train a body-part router and write ``<models>/<name>/<version>/``.

    Parameters
    ----------
    data
        Manifest (rows as ``selection`` says; a manifest without such rows is taken whole) or folder
        ``<split>/<label>/<picture>``.
    models
        The model repository.
    runs
        Folder for checkpoints and history.json; ``resume`` goes on from there.
    size
        Rows and columns of the input, pixels.
    start
        Weights to begin with: "none", "imagenet" or the folder of a model, whose architecture and width then hold.
    threads
        Cores for torch.

    Returns
    -------
    The model's folder.

    Raises
    ------
    BadSetting
        Labels are not body parts, a split is empty, the architecture does not exist, or ``resume`` meets another run.
    """
    examples = datasets.read_examples(data, selection)
    strange = {example.label for example in examples} - set(BODY_PARTS)
    if strange:
        raise BadSetting(f"{data}: not a body part: {', '.join(sorted(strange))}; there are: {', '.join(BODY_PARTS)}")
    labels = [label for label in ROUTER_LABELS if any(example.label == label.key for example in examples)]
    begun, plan = _begin(start, Plan(arch or "", width or 0, epochs, batch, rate, seed=seed))
    keys = [label.key for label in labels]
    taught = learn(examples, keys, size, plan, recipe, runs, resume=resume, threads=threads, device=device, start=begun)
    card = cards.Card.model_validate(
        _card("router", name, version, size, labels, taught.learned, plan, begun)
        | {
            "body_parts": keys,
            "intended_use": f"Says the body part of a radiograph, so that a node can route it. {_NOT_A_DEVICE}",
            "output": {"name": "logits", "activation": "softmax", "temperature": taught.temperature},
        }
    )
    groups = GROUPS["router"] if selection is datasets.ROUTER else {"test": selection}
    _finish(taught, card, models / name / version, data, groups)
    return models / name / version


def train_findings(
    *,
    data: Path,
    models: Path,
    runs: Path,
    name: str = "pneumonia-pediatric",
    version: str = "1.0.0",
    labels: Sequence[cards.Label] = PNEUMONIA_LABELS,
    body_parts: Sequence[str] = ("pediatric_chest",),
    arch: str | None = None,
    width: float | None = None,
    start: str = "none",
    size: int = 192,
    epochs: int = 24,
    batch: int = 32,
    rate: float = 2e-3,
    seed: int = 7,
    threads: int = 1,
    device: str = "cpu",
    resume: bool = False,
    selection: Selection = datasets.PNEUMONIA,
    recipe: Recipe = augment.FINDINGS,
) -> Path:
    """Train a findings model whose labels exclude each other, and write ``<models>/<name>/<version>/``.

    Parameters
    ----------
    labels
        The answers; thresholds of abnormal ones are replaced by those chosen on val.
    body_parts
        What the model is for.

    The others are as in `train_router`, as are what is returned and raised.
    """
    examples = datasets.read_examples(data, selection)
    # Few pictures, so few steps an epoch: the average must follow faster than the router's.
    begun, plan = _begin(start, Plan(arch or "", width or 0, epochs, batch, rate, ema=0.98, seed=seed))
    keys = [label.key for label in labels]
    taught = learn(examples, keys, size, plan, recipe, runs, resume=resume, threads=threads, device=device, start=begun)
    chosen = [
        label.model_copy(
            update={"threshold": choose_threshold(taught.val_targets == index, taught.val_probabilities[:, index])}
        )
        if label.abnormal
        else label
        for index, label in enumerate(labels)
    ]
    card = cards.Card.model_validate(
        _card("findings", name, version, size, chosen, taught.learned, plan, begun)
        | {
            "body_parts": tuple(body_parts),
            "intended_use": f"Research: tells {' from '.join(keys)} in {', '.join(body_parts)}. {_NOT_A_DEVICE}",
            "output": {"name": "logits", "activation": "softmax", "temperature": taught.temperature},
        }
    )
    _finish(taught, card, models / name / version, data, {"test": selection})
    return models / name / version

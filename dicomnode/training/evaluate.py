"""Measure a model of the repository on labelled pictures, with the code that the node runs.

**Way** The card is loaded, pictures go through `to_unit` and `Model.probabilities`, as in a worker; figures with 95 %
bootstrap intervals (10,000 draws), per class and per source, come out as a dictionary, `evaluation.json` and
`evaluation.md`. No torch.

**Fails** `BadSetting` for data that cannot be used, and what `load_card` and `Model` raise.

**Limits** One true label per picture, the most probable label is the answer; see `metrics` for what the intervals do
not cover.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.cards import Card, ModelFolder, load_card
from dicomnode.errors import BadSetting
from dicomnode.stages.infer import Model, Provider
from dicomnode.training import metrics
from dicomnode.training.datasets import (
    EVERYTHING,
    OUTSIDE,
    PNEUMONIA,
    ROUTER,
    Example,
    Selection,
    read_folder,
    read_manifest,
    read_picture,
)
from dicomnode.training.metrics import Figure, Indices, Numbers

#: What is measured of our own manifest, by the task of the model; groups stay apart in the report.
GROUPS: Mapping[str, Mapping[str, Selection]] = {
    "router": {"test": ROUTER, "outside": OUTSIDE},
    "findings": {"test": PNEUMONIA},
}


def _groups(data: Path, selections: Mapping[str, Selection], split: str) -> dict[str, list[Example]]:
    """The pictures of one split by group; a folder or a manifest that is not ours is one group."""
    if data.is_dir():
        found = {"test": read_folder(data)}
    else:
        found = {name: read_manifest(data, selection) for name, selection in selections.items()}
        if not any(found.values()):
            found = {"test": read_manifest(data, EVERYTHING)}
    groups = {
        split if name == "test" else name: [example for example in part if example.split == split]
        for name, part in found.items()
    }
    groups = {name: part for name, part in groups.items() if part}
    if not groups:
        raise BadSetting(f"{data}: no picture of the split {split!r}")
    return groups


def _macro(confusion: Indices, drawn: Indices) -> dict[str, Figure]:
    """Macro precision, recall and F1, and accuracy."""
    figures = {
        name: metrics.interval(float(metrics.macro(of(confusion), confusion)), metrics.macro(of(drawn), drawn))
        for name, of in (("precision", metrics.precision), ("recall", metrics.recall), ("f1", metrics.f1))
    }
    right = np.trace(drawn, axis1=1, axis2=2) / drawn.sum(axis=(1, 2))
    return {**figures, "accuracy": metrics.interval(float(np.trace(confusion) / confusion.sum()), right)}


def _per_class(confusion: Indices, drawn: Indices, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each class that has pictures."""
    functions = {"precision": metrics.precision, "recall": metrics.recall, "f1": metrics.f1}
    once, often = ({name: of(matrix) for name, of in functions.items()} for matrix in (confusion, drawn))
    return {
        key: {
            "pictures": int(confusion[index].sum()),
            **{name: asdict(metrics.interval(float(once[name][index]), often[name][:, index])) for name in functions},
        }
        for index, key in enumerate(keys)
        if confusion[index].sum()
    }


def _per_source(examples: Sequence[Example], right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """How many pictures of each source and class were answered right."""
    table: dict[tuple[str, str], list[bool]] = {}
    for example, hit in zip(examples, right, strict=True):
        table.setdefault((example.source, example.label), []).append(bool(hit))
    return [
        {"source": source or "not stated", "label": label, "pictures": len(hits), "right": sum(hits)}
        for (source, label), hits in sorted(table.items())
    ]


def _area(positive: NDArray[np.bool_], score: Numbers, drawn: Indices) -> float:
    """AUROC of the pictures with the numbers in ``drawn``."""
    return metrics.auroc(positive[drawn], score[drawn])


def _abnormal(card: Card, truth: Indices, probabilities: Numbers, draws: int) -> dict[str, dict[str, Any]]:
    """AUROC, and sensitivity and specificity at the card's threshold, of each abnormal label."""
    found = {}
    for index, label in enumerate(card.labels):
        if label.threshold is None or not (truth == index).any() or (truth == index).all():
            continue
        positive, score = truth == index, probabilities[:, index]
        called = score >= label.threshold
        cells = metrics.confusion_matrix(positive.astype(np.int64), called.astype(np.int64), 2)
        once, often = metrics.recall(cells), metrics.recall(metrics.bootstrap_confusions(cells, draws))
        area = metrics.bootstrap(partial(_area, positive, score), truth.size, draws)
        found[label.key] = {
            "threshold": label.threshold,
            "auroc": asdict(area),
            "sensitivity": asdict(metrics.interval(float(once[1]), often[:, 1])),
            "specificity": asdict(metrics.interval(float(once[0]), often[:, 0])),
        }
    return found


def _measure(model: Model, examples: Sequence[Example], draws: int) -> dict[str, Any]:
    keys = [label.key for label in model.card.labels]
    strange = {example.label for example in examples} - set(keys)
    if strange:
        raise BadSetting(f"the model {model.card.name} does not know the labels {', '.join(sorted(strange))}")
    truth = np.array([keys.index(example.label) for example in examples], dtype=np.int64)
    answers, spent = [], 0.0
    for example in examples:
        picture = read_picture(example.path)
        began = time.perf_counter()
        answers.append(list(model.probabilities(picture).values()))
        spent += time.perf_counter() - began
    probabilities = np.array(answers)
    answer = probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(truth, answer, len(keys))
    drawn = metrics.bootstrap_confusions(confusion, draws)
    return {
        "pictures": len(examples),
        "macro": {name: asdict(figure) for name, figure in _macro(confusion, drawn).items()},
        "per_class": _per_class(confusion, drawn, keys),
        "abnormal": _abnormal(model.card, truth, probabilities, draws),
        "labels": keys,
        "confusion": confusion.tolist(),
        "per_source": _per_source(examples, truth == answer),
        "milliseconds_per_picture": round(spent / len(examples) * 1000, 2),
    }


def _shown(figure: Mapping[str, float]) -> str:
    return str(Figure(**figure))


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report of `evaluate_model` as Markdown tables."""
    lines = [f"# {report['model']} {report['version']}: evaluation", ""]
    lines += [
        f"ONNX SHA-256 `{report['sha256']}`, {report['provider']}, {report['draws']} bootstrap draws, 95 % intervals.",
        "",
    ]
    for name, group in report["groups"].items():
        lines += [
            f"## {name}: {group['pictures']} pictures",
            "",
            "| class | pictures | precision | recall | F1 |",
            "|---|---|---|---|---|",
        ]
        rows = [*group["per_class"].items(), ("macro", {"pictures": group["pictures"], **group["macro"]})]
        lines += [
            f"| {key} | {row['pictures']} | {_shown(row['precision'])} | {_shown(row['recall'])} | {_shown(row['f1'])} |"
            for key, row in rows
        ]
        lines += ["", f"Accuracy {_shown(group['macro']['accuracy'])}.", ""]
        for key, row in group["abnormal"].items():
            shown = ", ".join(f"{what} {_shown(row[what])}" for what in ("auroc", "sensitivity", "specificity"))
            lines += [f"{key} (threshold {row['threshold']}): {shown}.", ""]
        labels = group["labels"]
        lines += [
            "Rows: true class; columns: answer.",
            "",
            f"| | {' | '.join(labels)} |",
            "|---" * (len(labels) + 1) + "|",
        ]
        lines += [
            f"| {key} | {' | '.join(map(str, row))} |" for key, row in zip(labels, group["confusion"], strict=True)
        ]
        lines += ["", "| source | class | pictures | right |", "|---|---|---|---|"]
        lines += [f"| {r['source']} | {r['label']} | {r['pictures']} | {r['right']} |" for r in group["per_source"]]
        lines += [""]
    return "\n".join(lines)


def evaluate_model(
    *,
    model: Path,
    data: Path,
    out: Path | None = None,
    split: str = "test",
    selections: Mapping[str, Selection] | None = None,
    draws: int = 10_000,
    provider: Provider = "cpu",
    threads: int = 1,
) -> dict[str, Any]:
    """Measure one model on one split of a manifest or folder.

    Parameters
    ----------
    model
        The model's folder, ``models/<name>/<version>``.
    data
        A manifest (of ours: the groups of `GROUPS` are reported apart; of a site: all rows) or a folder
        ``<split>/<label>/<picture>``.
    selections
        Which rows of a manifest make which group; None: `GROUPS` for the model's task.
    out
        Folder for evaluation.json and evaluation.md; None writes nothing.

    Returns ------- What evaluation.json holds: model, version, sha256, provider, draws, and per group pictures,
    macro, per_class, abnormal, labels, confusion (rows: truth), per_source, milliseconds_per_picture (preparation and
    network, without decoding).

    Raises
    ------
    BadSetting
        There is no such picture, or one has a label that the model does not know.
    ConfigError
        The model does not hold.
    """
    card = load_card(model / "card.toml")
    opened = Model(ModelFolder(card, model), provider=provider, threads=threads)
    groups = _groups(data, GROUPS[card.task] if selections is None else selections, split)
    report: dict[str, Any] = {
        "model": card.name,
        "version": card.version,
        "sha256": card.sha256,
        "provider": opened.provider,
        "draws": draws,
        "groups": {name: _measure(opened, examples, draws) for name, examples in groups.items()},
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (out / "evaluation.md").write_text(as_markdown(report), encoding="utf-8")
    return report

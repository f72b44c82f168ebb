"""Measure models of the repository on labelled pictures, with the code that the node runs.

**Way** The card is loaded, pictures go through the card's preparation and `Model`, as in a worker; figures with 95 %
bootstrap intervals (10,000 draws) come out as a dictionary, evaluation.json, evaluation.md and plots. Several models are
measured on the same pictures with the same draws and stand side by side. No torch; matplotlib only for the plots.

**Fails** `BadSetting` for data that cannot be used, and what `load_card` and `Model` raise.

**Limits** One true label per picture; see `bootstrap` for what the intervals do not cover, and docs/evaluation.md for what
each figure means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.cards import Card, ModelFolder, load_card
from dicomnode.errors import BadSetting
from dicomnode.stages.infer import Model, Provider
from dicomnode.training.datasets import Selection
from dicomnode.training.evaluate.asking import Tell, ask
from dicomnode.training.evaluate.groups import MERGES, groups_of, parse_merge
from dicomnode.training.evaluate.judged import Judged, judge
from dicomnode.training.evaluate.measure import measure
from dicomnode.training.evaluate.report import as_markdown
from dicomnode.training.evaluate.saliency import look_into, summary
from dicomnode.training.evaluate.sheet import sheet

__all__ = ["MERGES", "Asking", "Measured", "as_markdown", "evaluate_model", "measure_model", "parse_merge", "write"]


@dataclass(frozen=True, slots=True)
class Asking:
    """How to measure."""

    draws: int = 10_000
    #: Draw persons where the manifest names them, not pictures.
    by_person: bool = True
    #: Label to the name of what it also counts as.
    merge: Mapping[str, str] = field(default_factory=lambda: dict(MERGES))
    provider: Provider = "cpu"
    threads: int = 1
    #: What the model must be for.
    task: str | None = None
    #: Pictures of each class whose evidence is looked for.
    saliency: int = 0
    #: Pictures that are prepared and asked about at a time.
    batch: int = 16
    tell: Tell | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A model with its figures, and the answers that they come from."""

    card: Card
    folder: Path
    #: What evaluation.json holds.
    report: dict[str, Any]
    judged: Mapping[str, Judged]
    #: Contact sheets with the evidence, as OpenCV holds pictures.
    sheets: Mapping[str, NDArray[np.uint8]]


def measure_model(
    model: Path, data: Sequence[Path], split: str | None, asking: Asking, selections: Mapping[str, Selection] | None = None
) -> Measured:
    """Measure one model on one split of some data; raises as `evaluate_model`."""
    card = load_card(model / "card.toml")
    if asking.task not in {None, card.task}:
        raise BadSetting(f"{model}: is a model of the task {card.task}; see `dicomnode evaluate {card.task}`")
    opened = Model(ModelFolder(card, model), provider=asking.provider, threads=asking.threads)
    report: dict[str, Any] = {
        "model": card.name,
        "version": card.version,
        "sha256": card.sha256,
        "arch": card.network.arch if card.network else None,
        "input": list(card.input.shape),
        "bytes": (model / card.file).stat().st_size,
        "provider": opened.provider,
        "threads": asking.threads,
        "draws": asking.draws,
        "groups": {},
    }
    found: dict[str, Judged] = {}
    sheets: dict[str, NDArray[np.uint8]] = {}
    for name, part in groups_of(data, card, split, selections).items():
        asked = ask(opened, part, batch=asking.batch, threads=asking.threads, tell=asking.tell)
        judged, unknown = judge(card, asked)
        report["groups"][name] = {
            **measure(judged, card, asking.draws, by_person=asking.by_person, merge=asking.merge),
            "unknown": unknown,
            "unreadable": asked.unreadable,
            "every_split": split is None and any(example.drawn for example in part),
            "milliseconds_per_picture": asked.milliseconds,
        }
        found[name] = judged
        if asking.saliency:
            seen = look_into(opened, judged, asking.saliency)
            report["groups"][name]["saliency"] = summary(opened, seen)
            sheets[name] = sheet(seen, asking.saliency)
    return Measured(card, model, report, found, sheets)


def write(measured: Measured, out: Path) -> None:
    """Write evaluation.json, evaluation.md and contact sheets."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps(measured.report, indent=1) + "\n", encoding="utf-8")
    (out / "evaluation.md").write_text(as_markdown(measured.report), encoding="utf-8")
    for number, (name, picture) in enumerate(measured.sheets.items()):
        cv2.imwrite(str(out / (f"saliency_{name}.png" if number else "saliency.png")), picture)


def evaluate_model(
    *,
    model: Path,
    data: Path | Sequence[Path],
    out: Path | None = None,
    split: str | None = "test",
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
        Manifests (of ours: what was never learned from is reported apart; of a site: all rows) or folders
        ``<split>/<label>/<picture>`` or ``<label>/<picture>``.
    split
        None: test where splits are stated, every picture where none are.
    selections
        Which rows of a manifest make which group; None: `groups.selections_for` the model.
    out
        Folder for evaluation.json and evaluation.md; None writes nothing.

    Returns
    -------
    What evaluation.json holds: model, version, sha256, arch, input, bytes, provider, threads, draws, and by group the
    figures of `measure`, unknown (labels that the model does not have), unreadable, milliseconds_per_picture.

    Raises
    ------
    BadSetting
        There is no such picture, or the model knows none of the labels.
    ConfigError
        The model does not hold.
    """
    places = [data] if isinstance(data, Path) else list(data)
    if not places:
        raise BadSetting("nothing to measure on: no manifest and no folder")
    asking = Asking(draws=draws, provider=provider, threads=threads)
    measured = measure_model(model, places, split, asking, selections)
    if out is not None:
        write(measured, out)
    return measured.report

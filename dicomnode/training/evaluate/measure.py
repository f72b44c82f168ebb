"""The figures of one group of pictures, as a dictionary that evaluation.json holds.

**Way** Every figure is a statistic of weights (`bootstrap`), drawn together, so that all intervals come from the same draws.
Precision, recall, sensitivity and specificity that are exactly 0 or 1 get Wilson's interval, since draws cannot move them.

**Limits** The most probable label is the answer; `sureness` judges how sure it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.cards import Card
from dicomnode.training import metrics
from dicomnode.training.bootstrap import Bootstrap, Statistic, confusions, interval
from dicomnode.training.evaluate import sureness
from dicomnode.training.evaluate.judged import FIGURES, Judged, averages
from dicomnode.training.metrics import Confusion, Figure, Numbers


def measure(judged: Judged, card: Card, draws: int, *, by_person: bool, merge: Mapping[str, str]) -> dict[str, Any]:
    """Figures of the pictures whose label the model knows.

    Parameters
    ----------
    merge
        Label to the name of what it counts as in ``merged``.
    """
    persons = judged.persons if by_person else [""] * judged.truth.size
    bootstrap = Bootstrap(persons, draws)
    statistics: dict[str, Statistic] = {
        "confusion": confusions(judged.truth, judged.answer, len(judged.keys)),
        **sureness.statistics_of(judged, card),
    }
    source_of, whole = judged.sources, statistics["confusion"]
    sources = sorted(set(source_of.tolist()))
    statistics |= {f"source {source}": partial(_inside, whole, source_of == source) for source in sources}
    drawn = bootstrap.draw(statistics)
    once, often = drawn["confusion"]
    return {
        "pictures": int(judged.truth.size),
        "persons": bootstrap.named,
        "drawn": {"unit": "person" if bootstrap.named else "picture", "units": bootstrap.units},
        "macro": averages(once, often),
        "per_class": _per_class(once, often, judged.keys),
        "merged": _merged(once, often, judged.keys, merge),
        "labels": list(judged.keys),
        "confusion": once.astype(int).tolist(),
        "sources": [{"source": source, **_source(*drawn[f"source {source}"])} for source in sources],
        "per_source": _per_source(judged),
        "calibration": sureness.calibration_of(judged, card, drawn),
        "coverage": sureness.coverage_of(judged, card, drawn),
        "abnormal": _abnormal(judged, card, bootstrap),
    }


def _inside(statistic: Statistic, mask: NDArray[np.bool_], weights: Numbers) -> Numbers:
    return statistic(weights * mask)


def _firm(value: float, drawn: Numbers, below: float) -> Figure:
    """The interval of a proportion of ``below`` pictures."""
    if not below:  # a class that is never answered: its precision counts as 0 and could be anything
        return Figure(value, 0.0, 1.0)
    return metrics.wilson(round(value * below), round(below)) if value in {0.0, 1.0} else interval(value, drawn)


def _per_class(once: Confusion, often: Confusion, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each class that has pictures."""
    values = {name: (of(once), of(often)) for name, of in FIGURES.items()}
    below = {"precision": once.sum(axis=0), "recall": once.sum(axis=1)}
    found: dict[str, dict[str, Any]] = {}
    for index, key in enumerate(keys):
        if not once[index].sum():
            continue
        found[key] = {"pictures": int(once[index].sum())}
        for name, (value, drawn) in values.items():
            one, draws = float(value[index]), drawn[:, index]
            figure = _firm(one, draws, float(below[name][index])) if name in below else interval(one, draws)
            found[key][name] = asdict(figure)
    return found


def _merged(once: Confusion, often: Confusion, keys: Sequence[str], merge: Mapping[str, str]) -> dict[str, Any] | None:
    """The same with some classes counted as one; None where there is nothing to merge."""
    names = Counter(merge[key] for key in keys if key in merge)
    if not any(count > 1 for count in names.values()):
        return None
    matrix, labels = metrics.merged(once, keys, merge)
    drawn, _ = metrics.merged(often, keys, merge)
    parts = {name: [key for key in keys if merge.get(key) == name] for name in names}
    return {
        "parts": parts, "labels": labels, "macro": averages(matrix, drawn), "per_class": _per_class(matrix, drawn, labels),
        "confusion": matrix.astype(int).tolist(),
    }  # fmt: skip


def _source(once: Confusion, often: Confusion) -> dict[str, Any]:
    """One source: macro-F1 where it has several classes, and accuracy."""
    pictures, right = int(once.sum()), int(np.trace(once))
    classes = int((once.sum(axis=1) > 0).sum())
    figure = interval(float(metrics.macro(metrics.f1(once), once)), metrics.macro(metrics.f1(often), often))
    return {
        "pictures": pictures, "classes": classes, "accuracy": asdict(metrics.wilson(right, pictures)),
        "f1": asdict(figure) if classes > 1 else None,
    }  # fmt: skip


def _per_source(judged: Judged) -> list[dict[str, Any]]:
    """How many pictures of each source and class were answered right, with Wilson's interval."""
    right = judged.truth == judged.answer
    table: dict[tuple[str, str], list[bool]] = {}
    for source, label, hit in zip(judged.sources.tolist(), judged.truth, right, strict=True):
        table.setdefault((source, judged.keys[label]), []).append(bool(hit))
    return [
        {"source": source, "label": label, "pictures": len(hits), "right": sum(hits),
         "share": asdict(metrics.wilson(sum(hits), len(hits)))}
        for (source, label), hits in sorted(table.items())
    ]  # fmt: skip


def _abnormal(judged: Judged, card: Card, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """AUROC, and sensitivity and specificity at the card's threshold, of each abnormal label."""
    found = {}
    for index, label in enumerate(card.labels):
        positive, score = judged.truth == index, judged.probabilities[:, index]
        if label.threshold is None or not positive.any() or positive.all():
            continue
        called = (score >= label.threshold).astype(np.int64)
        drawn = bootstrap.draw({
            "auroc": partial(metrics.weighted_auroc, positive, score),
            "cells": confusions(positive.astype(np.int64), called, 2),
        })
        once, often = drawn["cells"]
        rates, drawn_rates = metrics.recall(once), metrics.recall(often)
        false, true = metrics.roc_curve(positive, score)
        found[label.key] = {
            "threshold": label.threshold,
            "auroc": asdict(interval(float(drawn["auroc"][0]), drawn["auroc"][1])),
            "sensitivity": asdict(_firm(float(rates[1]), drawn_rates[:, 1], float(positive.sum()))),
            "specificity": asdict(_firm(float(rates[0]), drawn_rates[:, 0], float((~positive).sum()))),
            "roc": [[round(float(x), 4), round(float(y), 4)] for x, y in zip(false, true, strict=True)],
        }
    return found

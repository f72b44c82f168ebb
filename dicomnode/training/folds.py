"""Cross-validation for small sets: every picture of train and val is once judged by a network that never saw it.

**Way** Pictures are dealt into folds, those of one person into the same. For each fold a network is taught by the plan of the
model itself: what that chooses on val (temperature, thresholds) is chosen on the next fold, it learns from the others, and
answers for the fold that is left. The answers of all folds together give the figures. The test split stays untouched.

**Fails** `BadSetting` for fewer than three folds, or more than a label has persons.

**Limits** Each network learns from fewer pictures than the model that ships, so figures are rather too low. Intervals are those
of drawing persons (pictures, where nobody is known); that networks differ by seed is not in them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode import cards
from dicomnode.errors import BadSetting
from dicomnode.training import metrics
from dicomnode.training.bootstrap import Bootstrap, Statistic, confusions, interval, proportion
from dicomnode.training.datasets import Example
from dicomnode.training.learn import Machine, Taught, targets_of
from dicomnode.training.metrics import Numbers
from dicomnode.training.splits import deal_folds
from dicomnode.training.thresholds import choose_threshold

_LEAST = 3  # one to judge, one to choose on, one to learn from

Teach = Callable[[Sequence[Example], Sequence[Example], Path], Taught]


@dataclass(frozen=True, slots=True)
class Pooled:
    """Answers for every picture, each by a network that did not learn from its fold."""

    examples: Sequence[Example]
    fold: NDArray[np.int64]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    #: (pictures, labels): whether the label was called, by the threshold chosen on the fold beside.
    called: NDArray[np.bool_]


def _groups(examples: Sequence[Example]) -> list[str]:
    return [example.person or str(example.path) for example in examples]


def cross_validate(
    examples: Sequence[Example], labels: Sequence[str], folds: int, teach: Teach, out: Path, machine: Machine,
    tell: Callable[[str], object] = lambda _: None,
) -> Pooled:  # fmt: skip
    """Answer for every picture of train and val; `teach` is given train, val and a folder for each fold.

    Raises
    ------
    BadSetting
        Too few folds, or too few persons for so many.
    """
    part = [example for example in examples if example.split != "test"]
    persons = defaultdict[str, set[str]](set)
    for example, group in zip(part, _groups(part), strict=True):
        persons[example.label].add(group)
    fewest = min((len(persons[label]) for label in labels), default=0)
    if not _LEAST <= folds <= fewest:
        raise BadSetting(
            f"--folds {folds}: needs at least {_LEAST}, and at most {fewest}, the persons (or pictures) of the rarest label"
        )
    fold = np.array(deal_folds(_groups(part), [example.label for example in part], folds), dtype=np.int64)
    truth = targets_of(part, labels)
    probabilities, called = np.zeros((len(part), len(labels))), np.zeros((len(part), len(labels)), dtype=np.bool_)
    for judged in range(folds):
        chosen_on = (judged + 1) % folds
        tell(f"fold {judged + 1} of {folds}")
        learned = [e for e, number in zip(part, fold, strict=True) if number not in {judged, chosen_on}]
        beside = [e for e, number in zip(part, fold, strict=True) if number == chosen_on]
        taught = teach(learned, beside, out / f"fold-{judged + 1}")
        left = np.flatnonzero(fold == judged)
        probabilities[left] = taught.probabilities([part[number] for number in left], machine.threads)
        for index in range(len(labels)):
            threshold = choose_threshold(taught.val_targets == index, taught.val_probabilities[:, index])
            called[left, index] = probabilities[left, index] >= threshold
    return Pooled(part, fold, truth, probabilities, called)


def fold_figures(pooled: Pooled, labels: Sequence[cards.Label], draws: int = 10_000) -> dict[str, int | float | str]:
    """The table ``[figures.cross_validation]``: macro-F1 and, for each abnormal label, AUROC, sensitivity and specificity."""
    answer, folds = np.asarray(pooled.probabilities.argmax(axis=1), dtype=np.int64), range(int(pooled.fold.max()) + 1)
    table: dict[str, int | float | str] = {"pictures": len(answer), "folds": len(folds)}
    statistics: dict[str, Statistic] = {"macro_f1": partial(_macro_f1, confusions(pooled.truth, answer, len(labels)))}
    for index, label in enumerate(labels):
        if label.abnormal:
            positive, score, called = pooled.truth == index, pooled.probabilities[:, index], pooled.called[:, index]
            statistics[f"auroc_{label.key}"] = partial(metrics.weighted_auroc, positive, score)
            statistics[f"sensitivity_{label.key}"] = partial(_among, positive, called)
            statistics[f"specificity_{label.key}"] = partial(_among, ~positive, ~called)
            each = [metrics.auroc(positive[pooled.fold == one], score[pooled.fold == one]) for one in folds]
            table[f"auroc_{label.key}_mean_of_folds"] = round(float(np.nanmean(each)), 4)
    drawn = Bootstrap([example.person for example in pooled.examples], draws).draw(statistics)
    for name, (once, often) in drawn.items():
        found = interval(float(once), often)
        table |= {name: round(found.value, 4), f"{name}_low": round(found.low, 4), f"{name}_high": round(found.high, 4)}
    return table


def _macro_f1(count: Statistic, weights: Numbers) -> Numbers:
    confusion = count(weights)
    return metrics.macro(metrics.f1(confusion), confusion)


def _among(side: NDArray[np.bool_], right: NDArray[np.bool_], weights: Numbers) -> Numbers:
    """The share of right answers on one side, for each row of weights."""
    return proportion(right.astype(np.float64))(weights * side)

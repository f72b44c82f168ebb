"""Figures of a classifier from what was true and what was answered.

**Way** Class indices in, numbers out; numpy only, so that training and evaluation count in one way. Counts may be weights
(how often a draw of the bootstrap took a picture), so that one definition serves the figure and its interval.

**Standard** Precision, recall and F1 of each class against all others; macro is their plain mean over classes (macro-F1 is
the mean of F1, not the F1 of means; Opitz and Burst 2019, "Macro F1 and Macro F1"). AUROC is the Mann-Whitney statistic
(Hanley and McNeil 1982). The interval of a single proportion is Wilson's (1927).

**Limits** One true label per picture. What the intervals do not cover is said in `bootstrap`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
#: Confusion matrices (..., classes, classes), row = true class, column = answered class; counted, or weighted.
Confusion: TypeAlias = NDArray[np.int64] | NDArray[np.float64]

#: 97.5th percentile of the normal distribution: two-sided 95 %.
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def confusion_matrix(truth: Indices, answer: Indices, classes: int) -> Indices:
    """Count pictures as (classes, classes): row = true class, column = answered class."""
    return np.bincount(truth * classes + answer, minlength=classes * classes).reshape(classes, classes)


def _diagonal(confusion: Confusion) -> Numbers:
    return np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)


def _ratio(above: Numbers, below: Confusion) -> Numbers:
    """A quotient that is 0 where there is nothing to divide by; weights may be below 1."""
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=np.asarray(below) > 0), dtype=np.float64)


def precision(confusion: Confusion) -> Numbers:
    """(..., classes, classes) to (..., classes): right of those answered so; a class never answered has 0."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-2))


def recall(confusion: Confusion) -> Numbers:
    """(..., classes, classes) to (..., classes): right of those that are so; a class without pictures has 0."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-1))


def f1(confusion: Confusion) -> Numbers:
    """(..., classes, classes) to (..., classes): the harmonic mean of precision and recall."""
    return _ratio(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def macro(values: Numbers, confusion: Confusion) -> Numbers:
    """Mean over the classes that have pictures."""
    present = confusion.sum(axis=-1) > 0
    return np.asarray((values * present).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1), dtype=np.float64)


def accuracy(confusion: Confusion) -> Numbers:
    """(..., classes, classes) to (...): right of all."""
    return _ratio(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def merged(confusion: Confusion, labels: Sequence[str], merge: Mapping[str, str]) -> tuple[Numbers, list[str]]:
    """Add up rows and columns of classes that are to count as one.

    Parameters
    ----------
    merge
        Label to the name of what it becomes a part of; labels that are not in it stay.

    Returns
    -------
    The smaller matrix, and the names of its classes in the order of their first label.
    """
    called = [merge.get(label, label) for label in labels]
    names = list(dict.fromkeys(called))
    member = np.array([[name == one for name in names] for one in called], dtype=np.float64)
    return np.asarray(member.T @ confusion.astype(np.float64) @ member, dtype=np.float64), names


def wilson(right: int, total: int) -> Figure:
    """A proportion with Wilson's score interval, which is sound for few pictures and for 0 and 1."""
    if total == 0:
        return Figure(float("nan"), 0.0, 1.0)
    share, square = right / total, _Z * _Z
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = _Z / (1 + square / total) * np.sqrt(share * (1 - share) / total + square / (4 * total * total))
    return Figure(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def auroc(positive: NDArray[np.bool_], score: Numbers) -> float:
    """Area under the receiver operating characteristic, ties counted half; NaN when one side is empty."""
    return float(weighted_auroc(positive, score, np.ones((1, positive.size)))[0])


def weighted_auroc(positive: NDArray[np.bool_], score: Numbers, weights: Numbers) -> Numbers:
    """AUROC for each row of weights (draws, pictures); NaN where one side is empty."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))  # of runs of equal scores
    ordered, side = weights[:, order], positive[order]
    above = np.add.reduceat(ordered * side, starts, axis=1)
    below = np.add.reduceat(ordered * ~side, starts, axis=1)
    beaten = np.cumsum(below, axis=1) - below / 2
    pairs = above.sum(axis=1) * below.sum(axis=1)
    won = (above * beaten).sum(axis=1)
    return np.asarray(np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0), dtype=np.float64)


def roc_curve(positive: NDArray[np.bool_], score: Numbers) -> tuple[Numbers, Numbers]:
    """False and true positive rate from the strictest threshold to the mildest, beginning at (0, 0)."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))
    hits, alarms = np.cumsum(positive[order])[ends], np.cumsum(~positive[order])[ends]
    true, false = hits / max(1, int(positive.sum())), alarms / max(1, int((~positive).sum()))
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def log_loss(truth: Indices, probabilities: Numbers) -> float:
    """Mean of minus the natural logarithm of the true class's probability."""
    return float(-np.log(np.maximum(probabilities[np.arange(truth.size), truth], 1e-12)).mean())


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> Numbers:
    """Probabilities along the last axis of logits divided by `temperature`."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    raised = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float64)


def fit_temperature(logits: NDArray[np.floating], truth: Indices) -> float:
    """Temperature between 0.2 and 5 with the least log loss."""
    candidates = np.exp(np.linspace(np.log(0.2), np.log(5.0), 200))
    losses = [log_loss(truth, softmax(logits, float(candidate))) for candidate in candidates]
    return round(float(candidates[int(np.argmin(losses))]), 4)

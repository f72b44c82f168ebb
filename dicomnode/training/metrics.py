"""Figures of a classifier from what was true and what was answered.

**Way** Class indices in, numbers out; numpy only, so that training and evaluation count in one way.

**Limits** One label per picture. Intervals are percentile bootstrap intervals over pictures; pictures of one person are
not independent, so true intervals are somewhat wider; a figure of exactly 1 gets no width at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]


def confusion_matrix(truth: Indices, answer: Indices, classes: int) -> Indices:
    """Count pictures as (classes, classes): row = true class, column = answered class."""
    return np.bincount(truth * classes + answer, minlength=classes * classes).reshape(classes, classes)


def precision(confusion: NDArray[np.int64]) -> Numbers:
    """(..., classes, classes) to (..., classes); a class never answered has 0."""
    return np.asarray(_diagonal(confusion) / np.maximum(confusion.sum(axis=-2), 1), dtype=np.float64)


def recall(confusion: NDArray[np.int64]) -> Numbers:
    """(..., classes, classes) to (..., classes); a class without pictures has 0."""
    return np.asarray(_diagonal(confusion) / np.maximum(confusion.sum(axis=-1), 1), dtype=np.float64)


def f1(confusion: NDArray[np.int64]) -> Numbers:
    """(..., classes, classes) to (..., classes): the harmonic mean of precision and recall."""
    sides = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return np.asarray(2 * _diagonal(confusion) / np.maximum(sides, 1), dtype=np.float64)


def _diagonal(confusion: NDArray[np.int64]) -> Numbers:
    return np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)


def macro(values: Numbers, confusion: NDArray[np.int64]) -> Numbers:
    """Mean over the classes that have pictures."""
    present = confusion.sum(axis=-1) > 0
    return np.asarray((values * present).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1), dtype=np.float64)


def auroc(positive: NDArray[np.bool_], score: Numbers) -> float:
    """Area under the receiver operating characteristic, ties counted half; NaN when one side is empty."""
    above = int(positive.sum())
    below = positive.size - above
    if not above or not below:
        return float("nan")
    ordered = np.sort(score)
    rank = (np.searchsorted(ordered, score, "left") + np.searchsorted(ordered, score, "right") + 1) / 2
    return float((rank[positive].sum() - above * (above + 1) / 2) / (above * below))


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


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap_confusions(confusion: Indices, draws: int, seed: int = 0) -> Indices:
    """(draws, classes, classes): confusion matrices of resampled pictures.

    Drawing pictures with replacement and counting them is drawing the cells from a multinomial distribution, so no
    picture need be touched.
    """
    total = int(confusion.sum())
    cells = np.random.default_rng(seed).multinomial(total, confusion.ravel() / total, size=draws)
    return cells.reshape(draws, *confusion.shape)


def interval(value: float, drawn: Numbers) -> Figure:
    """The value with the 2.5th and 97.5th percentile of its draws."""
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Figure(float(value), float(low), float(high))


def bootstrap(statistic: Callable[[Indices], float], count: int, draws: int, seed: int = 0) -> Figure:
    """Figure of any statistic of picture numbers (its argument: indices into the pictures)."""
    random = np.random.default_rng(seed)
    drawn = np.array([statistic(random.integers(0, count, count)) for _ in range(draws)])
    return interval(statistic(np.arange(count)), drawn)

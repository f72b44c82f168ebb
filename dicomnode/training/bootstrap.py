"""Intervals by drawing pictures again and again: how far a figure would move with other pictures of the same kind.

**Way** A draw takes as many units as there are, with replacement; what it took of each picture is a weight, and every
statistic is a function of weights, so that thousands of draws are a few products of matrices. A unit is a person, or a
picture where nobody says whose it is. The same seed gives the same draws to every statistic and every model: differences
are paired.

**Standard** Percentile bootstrap (Efron and Tibshirani 1993, chapter 13), 2.5th to 97.5th percentile; drawing whole persons
is the cluster bootstrap (Davison and Hinkley 1997, section 3.8).

**Limits** The interval says nothing of pictures of another kind: another hospital, device or time. A figure of exactly 1
gets no width. Differences of models are intervals, not tests corrected for how many were compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from dicomnode.training.metrics import Figure, Indices, Numbers

#: Weights (draws, pictures) to one number a draw, or an array of them: (draws, ...).
Statistic: TypeAlias = Callable[[Numbers], Numbers]

# Weights of one round: 4 million numbers are 32 MB.
_ROUND = 4_000_000


class Bootstrap:
    """The draws for one set of pictures."""

    def __init__(self, persons: Sequence[str], draws: int = 10_000, seed: int = 0) -> None:
        """Take the pictures.

        Parameters
        ----------
        persons
            Whose each picture is; "" is nobody known, and then the picture is a unit of its own. Where all are of one person
            (or anonymised under one name) nothing could be drawn, and pictures are drawn instead.
        """
        if len(set(persons)) == 1:
            persons = [""] * len(persons)
        names = [person or f"\0{number}" for number, person in enumerate(persons)]
        _, self._unit = np.unique(np.array(names), return_inverse=True)
        self.units = int(self._unit.max()) + 1
        self.named = len({person for person in persons if person})
        self._draws, self._seed = draws, seed

    def weights(self) -> Iterator[Numbers]:
        """How often each draw took each picture, (some draws, pictures) at a time."""
        random = np.random.default_rng(self._seed)
        left, most = self._draws, max(1, _ROUND // self._unit.size)
        while left:
            count = min(left, most)
            taken = random.integers(0, self.units, (count, self.units)) + np.arange(count)[:, np.newaxis] * self.units
            times = np.bincount(taken.ravel(), minlength=count * self.units).reshape(count, self.units)
            yield times[:, self._unit].astype(np.float64)
            left -= count

    def draw(self, statistics: Mapping[str, Statistic]) -> dict[str, tuple[Numbers, Numbers]]:
        """Give each statistic of the pictures themselves, (...), and of every draw, (draws, ...)."""
        parts: dict[str, list[Numbers]] = {name: [] for name in statistics}
        for weights in self.weights():
            for name, statistic in statistics.items():
                parts[name].append(statistic(weights))
        once = np.ones((1, self._unit.size))
        return {name: (statistic(once)[0], np.concatenate(parts[name])) for name, statistic in statistics.items()}

    def figure(self, statistic: Statistic) -> Figure:
        """One number with its interval."""
        once, drawn = self.draw({"": statistic})[""]
        return interval(float(once), drawn)


def interval(value: float, drawn: Numbers) -> Figure:
    """The value with the 2.5th and 97.5th percentile of its draws; draws that have no such number are left out."""
    sound = drawn[np.isfinite(drawn)]
    low, high = np.percentile(sound, [2.5, 97.5]) if sound.size else (np.nan, np.nan)
    return Figure(float(value), float(low), float(high))


def confusions(truth: Indices, answer: Indices, classes: int) -> Statistic:
    """The statistic that is the confusion matrix: weights (draws, pictures) to (draws, classes, classes)."""
    cell = truth * classes + answer
    used = np.unique(cell)
    column = np.searchsorted(used, cell)
    indicator = np.zeros((truth.size, used.size))
    indicator[np.arange(truth.size), column] = 1

    def count(weights: Numbers) -> Numbers:
        cells = np.zeros((len(weights), classes * classes))
        cells[:, used] = weights @ indicator
        return cells.reshape(-1, classes, classes)

    return count


def proportion(of: Numbers) -> Statistic:
    """The statistic that is the weighted mean of one number a picture; NaN in a draw without pictures."""

    def mean(weights: Numbers) -> Numbers:
        total = weights.sum(axis=1)
        return np.asarray(np.divide(weights @ of, total, out=np.full(len(weights), np.nan), where=total > 0))

    return mean

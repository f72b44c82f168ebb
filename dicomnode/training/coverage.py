"""What is gained by leaving the least certain pictures unanswered: risk against coverage.

**Way** Pictures are ordered by the top label's probability; answering only the first share of them (coverage) leaves a risk,
the share of wrong answers among the answered. AURC is the mean of that risk over all coverages.

**Standard** Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks"; AURC as in Geifman, Uziel and
El-Yaniv 2019, with the empirical risk after each picture.

**Limits** A macro-F1 at a coverage is over the classes that still have pictures: `kept` says how many of each class there
are, for a class that is always left unanswered would go unseen. Pictures of equal probability stand in the order of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dicomnode.training import metrics
from dicomnode.training.bootstrap import Statistic, confusions
from dicomnode.training.metrics import Indices, Numbers

#: Shares of the pictures that are answered, as reported.
COVERAGES = (1.0, 0.99, 0.95, 0.9, 0.8)


@dataclass(frozen=True, slots=True)
class Selective:
    """Answers that may be withheld."""

    truth: Indices
    answer: Indices
    #: Probability of the answer.
    confidence: Numbers
    classes: int

    @property
    def order(self) -> Indices:
        """Pictures from the most certain to the least."""
        return np.argsort(-self.confidence, kind="stable")

    def aurc(self) -> Statistic:
        """The statistic that is the area under risk against coverage."""
        order = self.order
        wrong = (self.truth != self.answer)[order].astype(np.float64)

        def area(weights: Numbers) -> Numbers:
            ordered = weights[:, order]
            answered = np.cumsum(ordered, axis=1)
            risk = np.cumsum(ordered * wrong, axis=1) / np.maximum(answered, 1e-12)
            return np.asarray((ordered * risk).sum(axis=1) / answered[:, -1], dtype=np.float64)

        return area

    def at_coverage(self, share: float) -> Statistic:
        """The statistic that is the confusion matrix of the most certain ``share`` of the pictures."""
        order = self.order
        count = confusions(self.truth[order], self.answer[order], self.classes)

        def kept(weights: Numbers) -> Numbers:
            ordered = weights[:, order]
            before = np.cumsum(ordered, axis=1) - ordered
            most = np.ceil(share * ordered.sum(axis=1, keepdims=True) - 1e-9)
            return count(np.clip(most - before, 0, ordered))

        return kept

    def at_threshold(self, certain_from: float) -> Statistic:
        """The statistic that is the confusion matrix of the pictures whose probability is at least ``certain_from``."""
        sure = (self.confidence >= certain_from).astype(np.float64)
        count = confusions(self.truth, self.answer, self.classes)

        def kept(weights: Numbers) -> Numbers:
            return count(weights * sure)

        return kept

    def threshold_of(self, share: float) -> float:
        """The lowest probability that is still answered at this coverage."""
        last = max(1, int(np.ceil(share * self.truth.size - 1e-9))) - 1
        return float(self.confidence[self.order][last])

    def curve(self, points: Sequence[float] = tuple(np.linspace(0.02, 1, 99))) -> list[dict[str, float]]:
        """Risk and macro-F1 at many coverages, for the plot."""
        once = np.ones((1, self.truth.size))
        found = []
        for share in points:
            confusion = self.at_coverage(share)(once)[0]
            found.append({
                "coverage": round(float(share), 4),
                "risk": 1 - float(metrics.accuracy(confusion)),
                "f1": float(metrics.macro(metrics.f1(confusion), confusion)),
            })
        return found

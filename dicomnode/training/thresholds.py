"""From which probability an answer counts, chosen on val.

**Way** One threshold for each abnormal label of a findings model; for a router the probability from which it is believed.

**Limits** Val also chose the epoch, so what is promised here holds a little less on pictures never seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: A router answers wrong at most this often where it answers, and is uncertain at most that often.
_WRONG, _UNCERTAIN = 0.01, 0.05


def choose_threshold(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Choose among 0.05, 0.10 ... 0.95 what has the highest sensitivity + specificity; of equals the nearest to 0.5."""

    def worth(threshold: float) -> tuple[float, float]:
        called = score >= threshold
        return float(called[truth].mean() + (~called[~truth]).mean()), -abs(threshold - 0.5)

    return max((round(step / 20, 2) for step in range(1, 20)), key=worth)


def choose_certain_from(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Choose the lowest of 0.30, 0.31 ... 0.95 above which at most 1 % of the answers are wrong.

    Where that would leave more than 5 % of the pictures unanswered, the highest that does not.
    """
    highest, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    chosen = 0.30
    for step in range(30, 96):
        answered = highest >= step / 100
        if answered.mean() < 1 - _UNCERTAIN:
            break
        chosen = step / 100
        if (~right[answered]).mean() <= _WRONG:
            break
    return chosen

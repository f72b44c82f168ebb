"""From which probability an answer counts, chosen on val.

**Way** One threshold for each abnormal label of a findings model; for a router the probability from which it is believed.

**Limits** Val also chose the temperature, and the epoch where a plan keeps the best; what is promised here holds a little less
on pictures never seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def choose_threshold(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Choose among 0.05, 0.10 ... 0.95 what has the highest sensitivity + specificity; of equals the nearest to 0.5.

    Where all pictures are of one side there is nothing to choose by, and it is 0.5.
    """
    if truth.all() or not truth.any():
        return 0.5

    def worth(threshold: float) -> tuple[float, float]:
        called = score >= threshold
        return float(called[truth].mean() + (~called[~truth]).mean()), -abs(threshold - 0.5)

    return max((round(step / 20, 2) for step in range(1, 20)), key=worth)


def choose_certain_from(probabilities: NDArray[np.float64], answered: float) -> float:
    """Choose the probability, in hundredths from 0.30 to 0.99, that leaves at least the share `answered` of val answered.

    Pictures of what the model never saw get lower probabilities than those of val, so that far more of them fall below.
    """
    highest = probabilities.max(axis=1)
    return float(np.clip(np.floor(np.quantile(highest, 1 - answered) * 100) / 100, 0.30, 0.99))

"""How honest probabilities are: of what is answered with 90 %, nine of ten should be right.

**Way** Of each picture the top label's probability and whether that label was right go into 15 bins of equal width; ECE is
the mean distance between the two, weighted by pictures. Brier and log loss judge all probabilities, not only the highest.

**Standard** ECE: Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", equation 3, M = 15, bins
((m-1)/M, m/M]; temperature scaling is that paper's section 4.2. Brier 1950, in its form for several classes: the sum of
squared differences over the labels, 0 to 2.

**Limits** ECE of few pictures is biased upwards (chance fills the bins unevenly), and its bootstrap interval more so: it
may not even contain the figure. Bins of equal width are mostly empty for a router that is nearly always sure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomnode.training.bootstrap import Statistic
from dicomnode.training.metrics import Indices, Numbers, softmax

BINS = 15


def activate(logits: NDArray[np.floating], activation: str, temperature: float = 1.0) -> Numbers:
    """Probabilities (pictures, labels) as the node makes them from what a graph gave.

    Parameters
    ----------
    activation
        As the card says: softmax, sigmoid, or none where the graph gives probabilities itself.
    """
    if activation == "softmax":
        return softmax(logits, temperature)
    raw = np.asarray(logits, dtype=np.float64)
    if activation == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * raw / temperature)), dtype=np.float64)
    return np.clip(raw, 0, 1)


def bins_of(confidence: Numbers) -> Indices:
    """Number of the bin of each probability, 0..14; the upper edge belongs to a bin."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def ece(confidence: Numbers, right: NDArray[np.bool_]) -> Statistic:
    """The statistic that is the expected calibration error of the top label."""
    gap = np.zeros((confidence.size, BINS))
    gap[np.arange(confidence.size), bins_of(confidence)] = right - confidence

    def error(weights: Numbers) -> Numbers:
        return np.asarray(np.abs(weights @ gap).sum(axis=1) / weights.sum(axis=1), dtype=np.float64)

    return error


def reliability(confidence: Numbers, right: NDArray[np.bool_]) -> list[dict[str, float]]:
    """The bins that have pictures: edges, pictures, mean probability, share right."""
    found = []
    numbers = bins_of(confidence)
    for number in np.unique(numbers):
        inside = numbers == number
        found.append({
            "from": round(float(number) / BINS, 4),
            "to": round(float(number + 1) / BINS, 4),
            "pictures": int(inside.sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
        })
    return found


def brier(probabilities: Numbers, truth: Indices) -> Numbers:
    """Of each picture the sum over labels of the squared distance between probability and truth."""
    wanted = np.zeros_like(probabilities)
    wanted[np.arange(truth.size), truth] = 1
    return np.asarray(((probabilities - wanted) ** 2).sum(axis=1), dtype=np.float64)


def log_losses(probabilities: Numbers, truth: Indices) -> Numbers:
    """Of each picture minus the natural logarithm of the true label's probability."""
    return np.asarray(-np.log(np.maximum(probabilities[np.arange(truth.size), truth], 1e-12)), dtype=np.float64)

"""How far a model's probabilities can be trusted: calibration, and what is gained by withholding the least certain answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dicomnode.cards import Card
from dicomnode.training import calibration
from dicomnode.training.bootstrap import Statistic, interval, proportion
from dicomnode.training.coverage import COVERAGES
from dicomnode.training.evaluate.judged import Judged, averages, certain_from
from dicomnode.training.metrics import Numbers


def statistics_of(judged: Judged, card: Card) -> dict[str, Statistic]:
    """What is to be drawn for `calibration_of` and `coverage_of`."""
    right, plain_right = judged.truth == judged.answer, judged.truth == judged.plain.argmax(axis=1)
    selective = judged.selective
    return {
        "ece": calibration.ece(selective.confidence, right),
        "ece_without_temperature": calibration.ece(judged.plain.max(axis=1), plain_right),
        "brier": proportion(calibration.brier(judged.probabilities, judged.truth)),
        "log_loss": proportion(calibration.log_losses(judged.probabilities, judged.truth)),
        "aurc": selective.aurc(),
        **{f"coverage {share}": selective.at_coverage(share) for share in COVERAGES},
        "certain": selective.at_threshold(certain_from(card)),
    }


def calibration_of(judged: Judged, card: Card, drawn: Mapping[str, tuple[Numbers, Numbers]]) -> dict[str, Any]:
    """ECE with and without the temperature of the card, Brier, log loss and the bins of the reliability plot."""
    names = ("ece", "ece_without_temperature", "brier", "log_loss")
    return {
        "temperature": card.output.temperature,
        "definition": "top label, 15 bins of equal width, Guo et al. 2017",
        **{name: asdict(interval(float(drawn[name][0]), drawn[name][1])) for name in names},
        "bins": calibration.reliability(judged.selective.confidence, judged.truth == judged.answer),
    }


def coverage_of(judged: Judged, card: Card, drawn: Mapping[str, tuple[Numbers, Numbers]]) -> dict[str, Any]:
    """Risk against coverage, figures at some coverages, and at the probability from which the node stands by an answer."""
    selective, rows = judged.selective, []
    for wanted in (*COVERAGES, None):
        once, often = drawn["certain" if wanted is None else f"coverage {wanted}"]
        rows.append({
            "share": wanted,  # what was asked for; pictures are whole
            "coverage": float(once.sum() / judged.truth.size),
            "from": certain_from(card) if wanted is None else selective.threshold_of(wanted),
            "kept": {key: int(once[index].sum()) for index, key in enumerate(judged.keys)},
            # Where nothing is answered nothing is right or wrong.
            **{figure: averages(once, often)[figure] if once.sum() else None for figure in ("f1", "accuracy")},
        })
    aurc, often = drawn["aurc"]
    return {
        "aurc": asdict(interval(float(aurc), often)),
        "points": rows[:-1],
        "certain_from": {**rows[-1], "by_card": card.output.certain_from is not None},
        "curve": selective.curve(),
    }

"""Answers beside the truth: which pictures a model can be judged on, and what it made of the others.

**Way** A picture whose label the model does not know can only be answered wrong or called uncertain; such pictures are in no
figure of the known ones, and `judge` says what was made of them.

**Fails** `BadSetting` when a model knows none of the labels, or a findings model does not know one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.cards import Card
from dicomnode.errors import BadSetting
from dicomnode.training import calibration, metrics
from dicomnode.training.bootstrap import interval
from dicomnode.training.coverage import Selective
from dicomnode.training.datasets import Example
from dicomnode.training.evaluate.asking import Asked
from dicomnode.training.metrics import Confusion, Indices, Numbers

#: Below this probability the node calls a router's answer uncertain where the card says nothing.
CERTAIN_FROM = 0.5
#: What is said of each class.
FIGURES = {"precision": metrics.precision, "recall": metrics.recall, "f1": metrics.f1}


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers to pictures whose label the model knows, with the probabilities that the node would report."""

    keys: Sequence[str]
    truth: Indices
    probabilities: Numbers
    #: Without the card's temperature.
    plain: Numbers
    examples: Sequence[Example]

    @property
    def sources(self) -> NDArray[np.str_]:
        """Where each picture comes from."""
        return np.array([example.source or "not stated" for example in self.examples])

    @property
    def persons(self) -> list[str]:
        """Whose each picture is, "" where nobody says."""
        return [example.person for example in self.examples]

    @property
    def answer(self) -> Indices:
        """The most probable label."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def selective(self) -> Selective:
        """The answers as ones that may be withheld."""
        return Selective(self.truth, self.answer, self.probabilities.max(axis=1), len(self.keys))


def judge(card: Card, asked: Asked) -> tuple[Judged, dict[str, dict[str, Any]]]:
    """Part what the model knows from what it does not; of the latter, say what was made of it.

    Raises
    ------
    BadSetting
        The model knows none of the labels, or one is strange to a findings model.
    """
    keys = [label.key for label in card.labels]
    labels = [example.label for example in asked.examples]
    strange = sorted(set(labels) - set(keys))
    if strange and (card.task != "router" or not set(labels) & set(keys)):
        raise BadSetting(f"the model {card.name} does not know the labels {', '.join(strange)}")
    probabilities = calibration.activate(asked.logits, card.output.activation, card.output.temperature)
    plain = calibration.activate(asked.logits, card.output.activation)
    unknown = {}
    for label in strange:
        rows = probabilities[[given == label for given in labels]]
        sure = rows.max(axis=1) >= certain_from(card)
        called = Counter(keys[index] for index in rows.argmax(axis=1)[sure])
        share = asdict(metrics.wilson(int((~sure).sum()), len(rows)))
        unknown[label] = {"pictures": len(rows), "uncertain": share, "called": dict(called.most_common())}
    known = np.array([label in keys for label in labels])
    examples = [example for example, one in zip(asked.examples, known, strict=True) if one]
    return Judged(
        keys,
        np.array([keys.index(example.label) for example in examples], dtype=np.int64),
        probabilities[known],
        plain[known],
        examples,
    ), unknown


def certain_from(card: Card) -> float:
    """The probability from which the node stands by an answer."""
    return CERTAIN_FROM if card.output.certain_from is None else card.output.certain_from


def averages(once: Confusion, often: Confusion) -> dict[str, dict[str, float]]:
    """Macro precision, recall and F1, and accuracy."""
    figures = {
        name: interval(float(metrics.macro(of(once), once)), metrics.macro(of(often), often)) for name, of in FIGURES.items()
    }
    figures["accuracy"] = interval(float(metrics.accuracy(once)), metrics.accuracy(often))
    return {name: asdict(figure) for name, figure in figures.items()}

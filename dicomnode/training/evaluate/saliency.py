"""Where a model looks: a contact sheet, and how much of its evidence lies at the border of the pictures.

**Way** The class activation map of the answered label, when the card names a heat map; else occlusion: a grey patch moves over
the network's input, and where it lowers the answer's log-odds there was evidence. The border is the outer 10 % of the picture
on each side: letters, collimation and frames are there, anatomy seldom. A model that has more of its evidence there than the
border has area looks at the wrong thing; sources that differ in it are told apart by their look. Evidence in the padding
beside the picture is counted apart: some spills over from its edge.

**Standard** Zhou et al. 2016, "Learning Deep Features for Discriminative Localization"; Zeiler and Fergus 2014,
"Visualizing and Understanding Convolutional Networks" (occlusion).

**Limits** A hint, no proof: evidence in the middle can be a cheat too. A class activation map is as coarse as the last layer,
a sixth of the side or so. The sheet shows pictures of patients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.records import Placement
from dicomnode.stages.infer import Model
from dicomnode.stages.preprocess import Array
from dicomnode.training.datasets import Example, read_picture
from dicomnode.training.evaluate.asking import preparation
from dicomnode.training.evaluate.judged import Judged
from dicomnode.training.metrics import Numbers

_BORDER = 0.1  # of each side
_GRID = 64  # rows and columns of evidence
_STEPS = 12  # places of the patch along a side; it is two steps wide
_SEED = 7


@dataclass(frozen=True, slots=True)
class Shares:
    """Where evidence lies; NaN where there is none."""

    #: Of all evidence, that beside the picture.
    padding: float
    #: Of the evidence on the picture, that at its border.
    border: float
    #: What the border would have if evidence were even: its share of what the network saw of the picture.
    even: float


@dataclass(frozen=True, slots=True)
class Seen:
    """One picture with the evidence for the answer."""

    example: Example
    answer: str
    probability: float
    #: (rows, cols) in 0..1, what the network read, where the card's steps leave one grey channel first.
    shown: Array
    #: (_GRID, _GRID), 0 and above, over the area of the network's input.
    evidence: Numbers
    shares: Shares


def chosen(judged: Judged, count: int) -> Iterator[int]:
    """Numbers of ``count`` pictures of each class, drawn with a fixed seed, from all sources of the class in turn."""
    random, source_of = np.random.default_rng(_SEED), judged.sources
    for label in range(len(judged.keys)):
        queues = [
            random.permutation(np.flatnonzero((judged.truth == label) & (source_of == source))).tolist()
            for source in sorted(set(source_of.tolist()))
        ]
        turns = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
        yield from turns[:count]


def look_into(model: Model, judged: Judged, count: int) -> list[Seen]:
    """Find the evidence in some pictures of each class."""
    return [_see(model, judged, number) for number in chosen(judged, count)]


def _see(model: Model, judged: Judged, number: int) -> Seen:
    picture = read_picture(judged.examples[number].path)
    answer = int(judged.answer[number])
    key = judged.keys[answer]
    tensor, place = preparation(model).placed(picture)
    evidence = _activation(model, picture, key)
    if evidence is None:
        evidence = _occlusion(model, tensor, answer)
    plane = tensor[0] if tensor.shape[0] in {1, 3} else tensor[..., 0]
    shown = (plane - plane.min()) / max(float(np.ptp(plane)), 1e-6)
    probability = float(judged.probabilities[number, answer])
    return Seen(judged.examples[number], key, probability, shown, evidence, shares(evidence, place, *picture.shape))


def _activation(model: Model, picture: Array, key: str) -> Numbers | None:
    """The heat map of a label; None where the model has none."""
    if not any(spec.kind == "heat" and key in spec.labels for spec in model.card.maps):
        return None
    heat = next(one for one in model.answer(picture).maps if one.spec.kind == "heat" and key in one.spec.labels)
    return _spread(np.maximum(heat.values[heat.spec.labels.index(key)], 0))


def _spread(values: NDArray[Any]) -> Numbers:
    grown = cv2.resize(values.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown, dtype=np.float64)


def _occlusion(model: Model, tensor: Array, answer: int) -> Numbers:
    """By how much a patch of the tensor's mean at each place lowers the log-odds of the answer."""
    axes = (1, 2) if tensor.shape[0] in {1, 3} else (0, 1)  # rows and columns
    rows, cols = (tensor.shape[axis] for axis in axes)
    mean = tensor.mean(axis=axes, keepdims=True)
    top, left = (np.linspace(0, size, _STEPS + 1).round().astype(int) for size in (rows, cols))
    places = [(r, c) for r in range(_STEPS - 1) for c in range(_STEPS - 1)]
    hidden = np.repeat(tensor[np.newaxis], len(places) + 1, axis=0)
    for number, (r, c) in enumerate(places):
        window = [slice(None)] * 3
        window[axes[0]], window[axes[1]] = slice(top[r], top[r + 2]), slice(left[c], left[c + 2])
        hidden[number][tuple(window)] = mean
    odds = _log_odds(model, model.logits(hidden).astype(np.float64), answer)
    drops, times = np.zeros((_STEPS, _STEPS)), np.zeros((_STEPS, _STEPS))
    for (r, c), drop in zip(places, np.maximum(odds[-1] - odds[:-1], 0), strict=True):
        drops[r : r + 2, c : c + 2] += drop
        times[r : r + 2, c : c + 2] += 1
    return _spread(drops / times)


def _log_odds(model: Model, logits: Numbers, answer: int) -> Numbers:
    """Log-odds of one label against all others."""
    mine = logits[:, answer]
    if model.card.output.activation == "softmax" and logits.shape[1] > 1:
        others = np.delete(logits, answer, axis=1)
        return np.asarray(mine - np.logaddexp.reduce(others, axis=1), dtype=np.float64)
    if model.card.output.activation == "none":
        sure = np.clip(mine, 1e-6, 1 - 1e-6)
        return np.asarray(np.log(sure / (1 - sure)), dtype=np.float64)
    return mine


def shares(evidence: Numbers, place: Placement, rows: int, cols: int) -> Shares:
    """Say where the evidence lies.

    Parameters
    ----------
    evidence
        Over the rectangle ``place`` of a picture of (rows, cols), beyond which lies padding.
    """
    down, across = ((np.arange(size) + 0.5) / size for size in evidence.shape)
    y, x = (place.top + down * place.height) / rows, (place.left + across * place.width) / cols
    inside = np.outer((y >= 0) & (y < 1), (x >= 0) & (x < 1))
    middle = np.outer((y >= _BORDER) & (y < 1 - _BORDER), (x >= _BORDER) & (x < 1 - _BORDER))
    total, on_picture = float(evidence.sum()), float(evidence[inside].sum())
    return Shares(
        padding=1 - on_picture / total if total > 0 else float("nan"),
        border=1 - float(evidence[middle].sum()) / on_picture if on_picture > 0 else float("nan"),
        even=1 - float(middle.sum() / max(1, inside.sum())),
    )


def summary(model: Model, seen: Sequence[Seen]) -> dict[str, Any]:
    """Numbers for the report: by source, how much evidence lies at the border against the border's area."""
    table: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        if np.isfinite(one.shares.border):
            table[one.example.source or "not stated"].append(one)
    heat = any(spec.kind == "heat" for spec in model.card.maps)
    return {
        "method": "class activation map" if heat else "occlusion",
        "pictures": len(seen),
        "per_source": [
            {
                "source": source,
                "pictures": len(part),
                "border": float(np.mean([one.shares.border for one in part])),
                "even": float(np.mean([one.shares.even for one in part])),
                "most": float(np.max([one.shares.border for one in part])),
                "padding": float(np.mean([one.shares.padding for one in part])),
            }
            for source, part in sorted(table.items())
        ],
    }

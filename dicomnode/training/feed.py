"""Pictures on their way to the network: held small in memory, drawn by class and source, changed, prepared.

**Way** Train pictures are decoded once and held as 8 bit. Each epoch draws as many as there are; a picture is changed by the
recipe and prepared by the card's steps, in threads beside the learning. Every draw comes from (seed, epoch, position), so
that an epoch is the same however many threads there are.

**Fails** `BadSetting` for a picture that cannot be decoded.

**Limits** All train pictures are in memory: 4,000 at 256 x 256 pixels take 260 MB, at 683 x 683 1.9 GB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicomnode.stages.preprocess import Array, Step
from dicomnode.training.augment import Mates, Recipe, augment
from dicomnode.training.datasets import Example, read_picture


@dataclass(frozen=True, slots=True)
class TrainSet:
    """What is learned from: 8-bit pictures of any size, class indices, probability of each to be drawn."""

    pictures: Sequence[NDArray[np.uint8]]
    targets: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ValSet:
    """What is chosen on: tensors (n, 1, rows, cols) float32 as the node would prepare them, and class indices."""

    tensors: NDArray[np.float32]
    targets: NDArray[np.int64]


def load_small(examples: Sequence[Example], longest: int, threads: int = 1) -> list[NDArray[np.uint8]]:
    """Hold pictures for training: 8-bit, longest side at most `longest` pixels."""

    def load(example: Example) -> NDArray[np.uint8]:
        picture = read_picture(example.path, example.where)
        scale = longest / max(picture.shape)
        if scale < 1:
            size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
        return np.round(picture * 255).astype(np.uint8)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(load, examples))


def tensors_of(examples: Sequence[Example], prepare: Step, threads: int = 1) -> NDArray[np.float32]:
    """Prepare pictures exactly as the node would: (n, 1, rows, cols)."""
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(lambda example: prepare(read_picture(example.path, example.where)), examples)))


def sampling_weights(examples: Sequence[Example], class_power: float, source_power: float) -> NDArray[np.float64]:
    """Probability of drawing each example: classes by their size to `class_power`, sources inside a class by theirs
    to `source_power`.

    0 makes all equal, 1 keeps the sizes as they are.
    """
    classes = Counter(example.label for example in examples)
    groups = Counter((example.label, example.source) for example in examples)
    inside = {label: sum(n**source_power for (other, _), n in groups.items() if other == label) for label in classes}
    weights = np.array(
        [
            classes[e.label] ** class_power * groups[e.label, e.source] ** (source_power - 1) / inside[e.label]
            for e in examples
        ]
    )
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def batches(
    train: TrainSet, size: int, seed: int, epoch: int, prepare: Step, recipe: Recipe, threads: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in batches of `size`, prepared by `threads` threads ahead of the learning.

    Where all pictures are equally likely, each comes once; else as many are drawn as there are, some of them again.
    """
    random, count = np.random.default_rng([seed, epoch]), len(train.pictures)
    even = bool(np.allclose(train.weights, 1 / count))
    chosen = random.permutation(count) if even else random.choice(count, count, p=train.weights)
    starts = list(range(0, count - size + 1, size)) or [0]

    of_class = {target: np.flatnonzero(train.targets == target) for target in np.unique(train.targets)}

    def unit(number: int) -> Array:
        return train.pictures[number].astype(np.float32) / np.float32(255)

    def mates(number: int) -> Mates:
        return Mates(
            alike=lambda random: unit(random.choice(of_class[train.targets[number]])),
            other=lambda random: unit(random.choice(count, p=train.weights)),
        )

    def make(start: int) -> tuple[Tensor, Tensor]:
        numbers = chosen[start : start + size]
        tensors = []
        for position, number in enumerate(numbers, start):
            draws = np.random.default_rng([seed, epoch, position])
            tensors.append(prepare(augment(unit(number), recipe, draws, mates(number))))
        return torch.from_numpy(np.stack(tensors)), torch.from_numpy(train.targets[numbers])

    with ThreadPoolExecutor(threads) as pool:
        ahead = [pool.submit(make, start) for start in starts[: threads + 1]]
        for start in starts[threads + 1 :]:
            ready = ahead.pop(0).result()
            ahead.append(pool.submit(make, start))
            yield ready
        for last in ahead:
            yield last.result()

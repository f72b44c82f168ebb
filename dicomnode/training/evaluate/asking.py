"""Ask a model about many pictures, with the code that the node runs, and take the time.

**Way** Pictures are read and prepared by the card's own steps, in threads, and go through the node's `Model` in batches. The
time of one picture is taken afterwards on some of them, one at a time, reading, preparation and network apart: in a batch
nothing of it could be told.

**Fails** A picture that cannot be read is counted and left out; `BadSetting` when none can be. `StageFailed` as `Model`
raises it.

**Limits** Only the logits are kept, so the number of pictures is bounded by time, not by memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dicomnode.errors import BadSetting, DicomNodeError
from dicomnode.stages.infer import Model
from dicomnode.stages.preprocess import Array, Chain, chain
from dicomnode.training.datasets import Example, read_picture
from dicomnode.training.metrics import Numbers

#: Takes how many pictures are done, of how many.
Tell = Callable[[int, int], None]

# Pictures whose time is taken.
_TIMED = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """Pictures, and what a model answered."""

    #: Those that could be read.
    examples: Sequence[Example]
    #: (pictures, labels), before temperature and activation.
    logits: Numbers
    unreadable: int
    #: Median and 95th percentile in milliseconds of one picture, by step: decode, prepare, network.
    milliseconds: dict[str, dict[str, float]]


def preparation(model: Model) -> Chain:
    """The card's steps from a picture to the tensor."""
    return chain([(step.step, step.parameters) for step in model.card.input.preprocess])


def ask(model: Model, examples: Sequence[Example], *, batch: int, threads: int, tell: Tell | None = None) -> Asked:
    """Ask about each picture.

    Raises
    ------
    BadSetting
        No picture can be read.
    """
    prepare = preparation(model)
    read: list[Example] = []
    logits: list[Array] = []
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(examples), batch):
            part = examples[first : first + batch]
            tensors = list(pool.map(lambda example: _tensor(example, prepare), part))
            sound = [(example, tensor) for example, tensor in zip(part, tensors, strict=True) if tensor is not None]
            if sound:
                read += [example for example, _ in sound]
                logits.append(model.logits(np.stack([tensor for _, tensor in sound])))
            if tell is not None:
                tell(min(first + batch, len(examples)), len(examples))
    if not read:
        raise BadSetting(f"none of {len(examples)} files can be read as a picture; the first is {examples[0].where}")
    answers = np.concatenate(logits).astype(np.float64)
    return Asked(read, answers, len(examples) - len(read), _take_time(model, prepare, read))


def _tensor(example: Example, prepare: Chain) -> Array | None:
    try:
        return prepare(read_picture(example.path))
    except DicomNodeError:
        return None


def _take_time(model: Model, prepare: Chain, examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Time some pictures from all over the data, one at a time."""
    spent = []
    for index in np.unique(np.linspace(0, len(examples) - 1, min(len(examples), _TIMED)).astype(int)):
        clock = [time.perf_counter()]
        picture = read_picture(examples[index].path)
        clock.append(time.perf_counter())
        tensor = prepare(picture)
        clock.append(time.perf_counter())
        model.logits(tensor[np.newaxis])
        clock.append(time.perf_counter())
        spent.append(np.diff(clock) * 1000)
    table = np.array(spent)
    steps = {"decode": table[:, 0], "prepare": table[:, 1], "network": table[:, 2]}
    steps["prepare_and_network"] = table[:, 1] + table[:, 2]
    return {
        step: {"median": round(float(np.median(times)), 2), "p95": round(float(np.percentile(times, 95)), 2)}
        for step, times in steps.items()
    }

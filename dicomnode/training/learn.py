"""From examples to a taught network: what the router and the findings models share.

**Way** Examples with their splits come in; train pictures are held as 8 bit, val pictures are prepared exactly as the
node would; `loop.fit` teaches; the temperature that makes probabilities honest is fitted on val. The test split never
passes here.

**Fails** `BadSetting` when a split is empty or a label of train or val is not in the list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.errors import BadSetting
from dicomnode.stages.preprocess import chain
from dicomnode.training import metrics
from dicomnode.training.augment import Recipe
from dicomnode.training.datasets import SPLITS, Example, load_small, read_picture, sampling_weights
from dicomnode.training.graph import round_weights
from dicomnode.training.loop import Plan, TrainSet, ValSet, fit, predict
from dicomnode.training.networks import Classifier, build
from dicomnode.training.start import Start

Steps: TypeAlias = Sequence[tuple[str, Mapping[str, Any]]]

# Longest side of held train pictures against the network's: room for crops to keep their sharpness.
_HELD_SHARE = 4 / 3


@dataclass(frozen=True, slots=True)
class Taught:
    """A network with what val says of it."""

    network: Classifier
    temperature: float
    #: The examples of train.
    learned: Sequence[Example]
    #: Class indices and probabilities (n, classes) of val, to choose thresholds on.
    val_targets: NDArray[np.int64]
    val_probabilities: NDArray[np.float64]


def steps_for(size: int) -> Steps:
    """The preparation that our own models are trained with: (1, size, size), standardised, even margins cut."""
    return (
        ("crop_margins", {"contrast": 0.04, "at_most": 0.35}),
        ("percentile_window", {"low": 1.0, "high": 99.0}),
        ("resize", {"rows": size, "cols": size, "keep_aspect": True}),
        ("standardise", {}),
        ("add_channel", {}),
    )


def _targets(examples: Sequence[Example], labels: Sequence[str]) -> NDArray[np.int64]:
    strange = {example.label for example in examples} - set(labels)
    if strange:
        raise BadSetting(f"labels not in the list {', '.join(labels)}: {', '.join(sorted(strange))}")
    return np.array([labels.index(example.label) for example in examples], dtype=np.int64)


def learn(
    examples: Sequence[Example],
    labels: Sequence[str],
    size: int,
    plan: Plan,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool,
    threads: int,
    device: str,
    start: Start | None = None,
) -> Taught:
    """Teach a network to tell `labels` apart; checkpoints and history go to `out`.

    Parameters
    ----------
    size
        Rows and columns of the network's input, pixels.
    threads
        Cores that torch may use.
    device
        "cpu" or a torch device such as "cuda".
    start
        Weights to begin with.

    Raises
    ------
    BadSetting
        A split is empty, a label is unknown, or `resume` meets another run's checkpoint.
    """
    split = {name: [example for example in examples if example.split == name] for name in SPLITS}
    for name, purpose in (("train", "learn from"), ("val", "choose on"), ("test", "report on")):
        if not split[name]:
            raise BadSetting(f"the split {name!r} is empty; it is needed to {purpose}")
    torch.set_num_threads(threads)
    torch.manual_seed(plan.seed)
    prepare = chain(steps_for(size))
    train = TrainSet(
        load_small(split["train"], round(size * _HELD_SHARE)),
        _targets(split["train"], labels),
        sampling_weights(split["train"], plan.class_power, plan.source_power),
    )
    val_targets = _targets(split["val"], labels)
    val = ValSet(np.stack([prepare(read_picture(example.path)) for example in split["val"]]), val_targets)
    network = build(plan.arch, len(labels), plan.width, plan.dropout)
    if start is not None:
        start.fill(network, labels)
    best = fit(network.to(device), train, val, plan, prepare, recipe, out, resume).to("cpu")
    round_weights(best)
    logits = predict(best, val.tensors)
    temperature = metrics.fit_temperature(logits, val_targets)
    return Taught(best, temperature, split["train"], val_targets, metrics.softmax(logits, temperature))

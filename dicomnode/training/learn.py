"""From examples to a taught network: what the router and the findings models share.

**Way** Examples with their splits come in; train pictures are held as 8 bit, val pictures are prepared exactly as the
node would; `loop.fit` teaches; the temperature that makes probabilities honest is fitted on val. The test split never
passes here.

**Fails** `BadSetting` when a split is empty, a label has no train picture, or one of train or val is not in the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.errors import BadSetting
from dicomnode.stages.preprocess import Step, chain
from dicomnode.training import metrics
from dicomnode.training.datasets import Example
from dicomnode.training.feed import TrainSet, ValSet, load_small, sampling_weights, tensors_of
from dicomnode.training.graph import round_weights
from dicomnode.training.loop import fit, predict
from dicomnode.training.networks import Classifier, build
from dicomnode.training.presets import Plan
from dicomnode.training.start import Start

Steps: TypeAlias = Sequence[tuple[str, Mapping[str, Any]]]

# Longest side of held train pictures against the network's: room for crops to keep their sharpness.
_HELD_SHARE = 4 / 3


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to learn: "auto" is the GPU when there is one, "cpu" or a torch device; cores to use."""

    device: str = "auto"
    threads: int = 1

    def torch_device(self) -> torch.device:
        """The device; raises `BadSetting` for one that is not here."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise BadSetting(f"--device {self.device}: torch knows no such device") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise BadSetting(f"--device {self.device}: no GPU is here, or torch was installed without CUDA")
        try:
            torch.zeros(1, device=device).cpu()
        except (RuntimeError, NotImplementedError) as error:
            raise BadSetting(f"--device {self.device}: cannot be used here") from error
        return device


@dataclass(frozen=True, slots=True)
class Taught:
    """A network with what val says of it."""

    network: Classifier
    prepare: Step
    temperature: float
    #: The examples of train.
    learned: Sequence[Example]
    #: Class indices and probabilities (n, classes) of val, to choose thresholds on.
    val_targets: NDArray[np.int64]
    val_probabilities: NDArray[np.float64]

    def probabilities(self, examples: Sequence[Example], threads: int = 1) -> NDArray[np.float64]:
        """(n, classes) for other pictures."""
        return metrics.softmax(predict(self.network, tensors_of(examples, self.prepare, threads)), self.temperature)


def steps_for(size: int, *, ranks: bool = False) -> Steps:
    """The preparation that our own models are trained with: (1, size, size), standardised, even margins cut."""
    grey: Steps = (("fit", {"rows": size, "cols": size}), ("equalise", {})) if ranks else (
        ("percentile_window", {"low": 1.0, "high": 99.0}),
    )  # fmt: skip
    return (
        ("crop_margins", {"contrast": 0.04, "at_most": 0.35}),
        *grey,
        ("resize", {"rows": size, "cols": size, "keep_aspect": True}),
        ("standardise", {}),
        ("add_channel", {}),
    )


def targets_of(examples: Sequence[Example], labels: Sequence[str]) -> NDArray[np.int64]:
    """The index of each example's label; raises `BadSetting` for one that is not in the list."""
    strange = {example.label for example in examples} - set(labels)
    if strange:
        raise BadSetting(f"labels not in the list {', '.join(labels)}: {', '.join(sorted(strange))}")
    return np.array([labels.index(example.label) for example in examples], dtype=np.int64)


def learn(
    train: Sequence[Example], val: Sequence[Example], labels: Sequence[str], plan: Plan, out: Path, *, resume: bool,
    machine: Machine, start: Start | None = None, steps: Steps | None = None,
) -> Taught:  # fmt: skip
    """Teach a network to tell `labels` apart; checkpoints, history and curves go to `out`.

    Parameters
    ----------
    start
        Weights to begin with.
    steps
        The preparation; default: `steps_for` the plan's size.

    Raises
    ------
    BadSetting
        A split is empty, a label is unknown or has no picture in train, or `resume` meets another run's checkpoint.
    """
    for split, purpose, part in (("train", "learn from", train), ("val", "choose on", val)):
        if not part:
            raise BadSetting(f"the split {split!r} is empty; it is needed to {purpose}")
    if missing := sorted(set(labels) - {example.label for example in train}):
        raise BadSetting(f"no picture of {', '.join(missing)} in the split 'train'; nothing can be learned of it")
    device = machine.torch_device()
    torch.set_num_threads(machine.threads)
    torch.manual_seed(plan.seed)
    torch.backends.cudnn.deterministic = True
    prepare = chain(steps or steps_for(plan.size, ranks=plan.ranks))
    learned = TrainSet(
        load_small(train, round(plan.size * _HELD_SHARE), machine.threads),
        targets_of(train, labels),
        sampling_weights(train, plan.class_power, plan.source_power),
    )
    chosen_on = ValSet(tensors_of(val, prepare, machine.threads), targets_of(val, labels))
    network = build(plan.arch, len(labels), plan.width, plan.dropout)
    if start is not None:
        start.fill(network, labels)
    best = fit(network.to(device), learned, chosen_on, plan, prepare, out, resume=resume, threads=machine.threads).to("cpu")
    round_weights(best)
    logits = predict(best, chosen_on.tensors)
    temperature = metrics.fit_temperature(logits, chosen_on.targets)
    return Taught(best, prepare, temperature, train, chosen_on.targets, metrics.softmax(logits, temperature))

"""Teach a network, epoch by epoch, and keep the weights that were best on val.

**Way** Examples held in memory are drawn by class and source, augmented, prepared by the card's steps and learned from
with AdamW, a cosine schedule with warm-up and label smoothing; a slow average of the weights (EMA) is what val judges
and what is kept. Every draw comes from (seed, epoch, position), so that a run repeats, and one resumed from `last.pt`
goes on as if never stopped.

**Fails** `BadSetting` when a checkpoint belongs to another run.

**Limits** One device, CPU or one GPU; single precision. Sums on a GPU or with another thread count may differ in the
last bits.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from dicomnode.errors import BadSetting
from dicomnode.stages.preprocess import Array, Step
from dicomnode.training import metrics
from dicomnode.training.augment import Mates, Recipe, augment
from dicomnode.training.networks import Classifier


@dataclass(frozen=True, slots=True)
class Plan:
    """How to teach; the numbers that a run is repeated with."""

    arch: str
    width: float
    epochs: int
    #: Pictures per step.
    batch: int
    #: Highest learning rate.
    rate: float
    #: Weight decay of AdamW.
    decay: float = 0.02
    smoothing: float = 0.1
    dropout: float = 0.2
    #: Share of the old average kept at each step.
    ema: float = 0.995
    #: "none", "imagenet" or the folder of a model.
    start: str = "none"
    seed: int = 7
    #: Exponents of `datasets.sampling_weights`.
    class_power: float = 0.3
    source_power: float = 0.35
    #: Leading layers of the features that keep the weights they came with: half the time, and less to forget.
    frozen: int = 0


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


def _batches(train: TrainSet, plan: Plan, epoch: int, prepare: Step, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of as many draws as there are examples, prepared in a thread beside the learning."""
    chosen = np.random.default_rng([plan.seed, epoch]).choice(len(train.pictures), len(train.pictures), p=train.weights)
    starts = range(0, len(chosen) - plan.batch + 1, plan.batch) or [0]
    of_class = {target: np.flatnonzero(train.targets == target) for target in np.unique(train.targets)}

    def unit(number: int) -> Array:
        return train.pictures[number].astype(np.float32) / np.float32(255)

    def mates(number: int) -> Mates:
        return Mates(
            alike=lambda random: unit(random.choice(of_class[train.targets[number]])),
            other=lambda random: unit(random.choice(len(train.pictures), p=train.weights)),
        )

    def make(start: int) -> tuple[Tensor, Tensor]:
        numbers = chosen[start : start + plan.batch]
        tensors = []
        for position, number in enumerate(numbers, start):
            random = np.random.default_rng([plan.seed, epoch, position])
            tensors.append(prepare(augment(unit(number), recipe, random, mates(number))))
        return torch.from_numpy(np.stack(tensors)), torch.from_numpy(train.targets[numbers])

    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(make, start) for start in starts[:2]]
        for start in starts[2:]:
            ready = ahead.pop(0).result()
            ahead.append(pool.submit(make, start))
            yield ready
        for last in ahead:
            yield last.result()


def predict(network: nn.Module, tensors: NDArray[np.float32], batch: int = 32) -> NDArray[np.float32]:
    """Logits (n, classes) of tensors (n, 1, rows, cols), the network in evaluation mode."""
    device = next(network.parameters()).device
    network.eval()
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(tensors[start : start + batch]).to(device)).cpu().numpy()
            for start in range(0, len(tensors), batch)
        ]
    return np.concatenate(parts)


def _follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Move the averaged weights and statistics a little towards the network's."""
    with torch.no_grad():
        for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if slow.is_floating_point():
                slow.lerp_(fast, 1 - keep)
            else:
                slow.copy_(fast)


def _judge(average: nn.Module, val: ValSet) -> tuple[float, float]:
    """Macro-F1 and minus log loss on val: higher is better."""
    logits = predict(average, val.tensors)
    confusion = metrics.confusion_matrix(val.targets, logits.argmax(axis=1), logits.shape[1])
    return float(metrics.macro(metrics.f1(confusion), confusion)), -metrics.log_loss(
        val.targets, metrics.softmax(logits)
    )


def _save(path: Path, content: dict[str, Any]) -> None:
    """Write beside and rename, so that a kill leaves the old checkpoint whole."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def fit(
    network: Classifier, train: TrainSet, val: ValSet, plan: Plan, prepare: Step, recipe: Recipe, out: Path, resume: bool
) -> Classifier:
    """Teach `network` and return it with the averaged weights of the epoch that was best on val.

    Best is the highest macro-F1, between equals the lowest log loss. Writes `last.pt` (to resume), `best.pt` and
    `history.json` into `out`. The network stays on the device it came on.

    Raises
    ------
    BadSetting
        `resume` is asked for and `last.pt` was made with another plan.
    """
    out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)  # the pictures are small; OpenCV's own threads would fight with torch for the cores
    device = next(network.parameters()).device
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU
    average = deepcopy(network).eval()
    network.features[: plan.frozen].requires_grad_(False)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=plan.rate, weight_decay=plan.decay)
    steps_per_epoch = max(1, len(train.pictures) // plan.batch)
    total, warm = plan.epochs * steps_per_epoch, 2 * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))) + 1e-3)
    )
    first, best, history = 0, (-1.0, 0.0), list[dict[str, float]]()
    if resume and (out / "last.pt").exists():
        held = torch.load(out / "last.pt", map_location=device, weights_only=True)
        if held["plan"] != asdict(plan):
            raise BadSetting(
                f"{out / 'last.pt'}: made with another plan; train into another folder or with the same settings"
            )
        network.load_state_dict(held["network"])
        average.load_state_dict(held["average"])
        optimiser.load_state_dict(held["optimiser"])
        schedule.load_state_dict(held["schedule"])
        first, best, history = held["epoch"] + 1, tuple(held["best"]), held["history"]
    loss_of = nn.CrossEntropyLoss(label_smoothing=plan.smoothing)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("learning", total=total, completed=first * steps_per_epoch)
        for epoch in range(first, plan.epochs):
            torch.manual_seed(plan.seed * 100_003 + epoch)  # dropout
            began, losses = time.monotonic(), []
            network.train()
            network.features[: plan.frozen].eval()
            for pictures, targets in _batches(train, plan, epoch, prepare, recipe):
                optimiser.zero_grad()
                inputs = pictures.to(device, memory_format=torch.channels_last)
                loss = loss_of(network(inputs), targets.to(device))
                loss.backward()
                optimiser.step()
                schedule.step()
                _follow(average, network, min(plan.ema, (schedule.last_epoch + 1) / (schedule.last_epoch + 10)))
                losses.append(float(loss.detach()))
                progress.advance(bar)
            score = _judge(average, val)
            if score > best:
                best = score
                _save(out / "best.pt", {"average": average.state_dict(), "epoch": epoch})
            history.append(
                {
                    "epoch": epoch + 1,
                    "loss": round(float(np.mean(losses)), 4),
                    "val_macro_f1": round(score[0], 4),
                    "val_log_loss": round(-score[1], 4),
                    "seconds": round(time.monotonic() - began, 1),
                }
            )
            _save(
                out / "last.pt",
                {
                    "plan": asdict(plan),
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "epoch": epoch,
                    "best": list(best),
                    "history": history,
                },
            )
            (out / "history.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
            console.print(" ".join(f"{key}={value}" for key, value in history[-1].items()), highlight=False)
    kept = torch.load(out / "best.pt", map_location=device, weights_only=True)
    average.load_state_dict(kept["average"])
    return average.eval()

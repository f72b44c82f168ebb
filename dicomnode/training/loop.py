"""Teach a network, epoch by epoch, and keep the weights of the last, or those that were best on val.

**Way** Batches come from `feed`; what the plan says is done: Adam or AdamW, a cosine with warm-up or with warm restarts, label
smoothing. A slow average of the weights (EMA), where the plan wants one, is what val judges and what is kept. With bfloat16
(autocast) layers compute in it while weights, sums and val stay float32. A run repeats, and one resumed from `last.pt` goes on
as if never stopped.

**Fails** `BadSetting` when a checkpoint belongs to another run, and when the loss is no number any more.

**Limits** One device, CPU or one GPU. Sums on a GPU or with another thread count may differ in the last bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler

from dicomnode.errors import BadSetting
from dicomnode.stages.preprocess import Step
from dicomnode.training import metrics
from dicomnode.training.curves import draw_curves
from dicomnode.training.feed import TrainSet, ValSet, batches
from dicomnode.training.networks import Classifier
from dicomnode.training.presets import RECIPES, Plan

# Epochs of warm-up, and of the first cosine before a restart.
_WARM, _FIRST_RESTART = 2, 10
# Epochs between two drawings of the curves; they are drawn at the end, too.
_DRAWN = 5


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


def wants_bf16(plan: Plan, device: torch.device) -> bool:
    """Whether to compute in bfloat16: what the plan says, or where it is faster.

    Measured: a CPU with AMX runs MobileNets and ResNets faster in it, EfficientNets slower.
    """
    if plan.precision != "auto":
        return plan.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return plan.arch.startswith(("mobilenet", "resnet")) and _has_amx()


def _has_amx() -> bool:
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _optimiser(network: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if plan.optimiser == "adamw" else torch.optim.Adam
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return kind(learning, lr=plan.rate, weight_decay=plan.decay)


def _schedule(optimiser: torch.optim.Optimizer, plan: Plan, steps: int) -> LRScheduler:
    """The learning rate by step, `steps` of them an epoch."""
    if plan.schedule == "restarts":
        return CosineAnnealingWarmRestarts(optimiser, T_0=_FIRST_RESTART * steps, T_mult=2)
    total, warm = plan.epochs * steps, _WARM * steps
    return LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))) + 1e-3)
    )


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


def _data_digest(train: TrainSet, val: ValSet) -> str:
    """Tells the pictures of one run from those of another."""
    digest = hashlib.sha256(train.targets.tobytes() + train.weights.tobytes() + val.targets.tobytes())
    for picture in train.pictures:
        digest.update(picture.tobytes())
    return digest.hexdigest()


class _Run:
    """All that changes while a network learns, and how it is kept and taken up again."""

    def __init__(self, network: Classifier, plan: Plan, data: str, steps: int, out: Path) -> None:
        self.network: Classifier = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU
        self.average: Classifier = deepcopy(self.network)
        self.network.features[: plan.frozen].requires_grad_(False)
        self.optimiser = _optimiser(self.network, plan)
        self.schedule = _schedule(self.optimiser, plan, steps)
        self.first, self.best, self.history = 0, (-1.0, 0.0), list[dict[str, float]]()
        self._identity = {"plan": asdict(plan), "data": data}
        self._stateful = {
            "network": self.network, "average": self.average, "optimiser": self.optimiser, "schedule": self.schedule,
        }  # fmt: skip
        self._out, self._keeps_last = out, plan.keeps_last

    def resume(self) -> None:
        """Take up `last.pt`, if it is there and of this run."""
        path = self._out / "last.pt"
        if not path.exists():
            return
        held = torch.load(path, map_location=next(self.network.parameters()).device, weights_only=True)
        for key, what in (("plan", "with another plan"), ("data", "from other pictures")):
            if held.get(key) != self._identity[key]:
                raise BadSetting(f"{path}: made {what}; train into another folder or with the same settings and pictures")
        for key, owner in self._stateful.items():
            owner.load_state_dict(held[key])
        self.first, self.best, self.history = held["epoch"] + 1, tuple(held["best"]), held["history"]

    def keep(self, epoch: int, score: tuple[float, float], row: dict[str, float]) -> None:
        """Write what an epoch came to."""
        if score > self.best:
            self.best = score
            _save(self._out / "best.pt", {"average": self.average.state_dict(), "epoch": epoch})
        self.history.append(row)
        states = {key: owner.state_dict() for key, owner in self._stateful.items()}
        _save(
            self._out / "last.pt",
            self._identity | states | {"epoch": epoch, "best": list(self.best), "history": self.history},
        )
        (self._out / "history.json").write_text(json.dumps(self.history, indent=1) + "\n", encoding="utf-8")
        if (epoch + 1) % _DRAWN == 0:
            draw_curves(self.history, self._out / "curves.png", keeps_last=self._keeps_last)

    def chosen(self) -> Classifier:
        """The averaged weights of the last epoch, or of the best."""
        if self.history:
            draw_curves(self.history, self._out / "curves.png", keeps_last=self._keeps_last)
        if self._keeps_last:
            return self.average.eval()
        kept = torch.load(self._out / "best.pt", map_location=next(self.network.parameters()).device, weights_only=True)
        self.average.load_state_dict(kept["average"])
        self.average.eval()
        return self.average


def fit(
    network: Classifier, train: TrainSet, val: ValSet, plan: Plan, prepare: Step, out: Path, *, resume: bool, threads: int = 1
) -> Classifier:
    """Teach `network` and return it with the averaged weights of the last epoch, where the plan keeps it, or of the best.

    Best is the highest macro-F1 on val, between equals the lowest log loss. Writes `last.pt` (to resume), `best.pt`,
    `history.json` and `curves.png` into `out`. The network stays on the device it came on; `threads` prepare pictures.

    Raises
    ------
    BadSetting
        `resume` is asked for and `last.pt` was made with another plan or other pictures, or the loss is no number.
    """
    out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)  # the pictures are small; OpenCV's own threads would fight with torch for the cores
    device = next(network.parameters()).device
    steps = max(1, len(train.pictures) // plan.batch)
    run = _Run(network, plan, _data_digest(train, val), steps, out)
    if resume:
        run.resume()
    loss_of, bf16 = nn.CrossEntropyLoss(label_smoothing=plan.smoothing), wants_bf16(plan, device)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("learning", total=plan.epochs * steps, completed=run.first * steps)
        for epoch in range(run.first, plan.epochs):
            torch.manual_seed(plan.seed * 100_003 + epoch)  # dropout and stochastic depth
            began, losses, rate = time.monotonic(), [], run.optimiser.param_groups[0]["lr"]
            run.network.train()
            run.network.features[: plan.frozen].eval()
            for pictures, targets in batches(train, plan.batch, plan.seed, epoch, prepare, RECIPES[plan.augmentation], threads):
                run.optimiser.zero_grad()
                inputs = pictures.to(device, memory_format=torch.channels_last)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                    loss = loss_of(run.network(inputs), targets.to(device))
                loss.backward()
                run.optimiser.step()
                run.schedule.step()
                done = run.schedule.last_epoch
                _follow(run.average, run.network, min(plan.ema, (done + 1) / (done + 10)))
                losses.append(loss.detach())
                progress.advance(bar)
            mean = float(torch.stack(losses).float().mean())
            if not math.isfinite(mean):
                raise BadSetting(f"epoch {epoch + 1}: the loss is no number; try a smaller --rate or --precision fp32")
            score = _judge(run.average, val)
            run.keep(epoch, score, {
                "epoch": epoch + 1, "loss": round(mean, 4), "val_macro_f1": round(score[0], 4),
                "val_log_loss": round(-score[1], 4), "rate": float(f"{rate:.4g}"),
                "seconds": round(time.monotonic() - began, 1),
            })  # fmt: skip
            line = " ".join(f"{key}={value}" for key, value in run.history[-1].items())
            console.print(line, highlight=False, soft_wrap=True)
    return run.chosen()

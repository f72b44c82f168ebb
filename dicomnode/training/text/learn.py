"""Teach gate and detector together on the same pieces, and keep what was best on val.

**Way** Processes draw pieces (`pieces`), seeded by number, so that a run repeats and one that is resumed from ``last.pt`` goes
on where it was. The detector learns cores by weighted cross entropy and Dice, the threshold by its band, and both by the steep
binary map; the gate learns cells, text counting for more. Averages of the weights (EMA) are what val judges and what is kept.

**Fails** `BadSetting` when a checkpoint belongs to another run, and when the loss is no number.

**Limits** One device. On a GPU the last bits may differ.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dicomnode.errors import BadSetting
from dicomnode.training.text.doubt import doubts, load_doubts, save_doubts
from dicomnode.training.text.fonts import Face, Typecase
from dicomnode.training.text.grounds import Grounds
from dicomnode.training.text.network import STEEP, Detector, Gate
from dicomnode.training.text.scene import make_scene
from dicomnode.training.text.targets import make_targets
from dicomnode.training.text.trial import Figures, judge

#: Cells of text among all: what they count for.
_TEXT_WEIGHT = 6.0
_KEEP = 0.998
_WARM = 300


@dataclass(frozen=True, slots=True)
class TextPlan:
    """How long and on what; all of it is part of what a checkpoint belongs to."""

    steps: int = 7500
    batch: int = 16
    side: int = 320
    rate: float = 2e-3
    decay: float = 1e-4
    seed: int = 20261121
    #: Steps between two looks at val.
    every: int = 250
    #: Pieces of val.
    val: int = 192
    #: Step from which on nothing is learned where the grounds may hold text of their own (`doubt`).
    doubt_at: int = 4000


Piece = tuple[Tensor, ...]


class Pieces(Dataset[Piece]):
    """Pieces by number; each is drawn from its own seed."""

    def __init__(self, grounds: Grounds, faces: list[Face], side: int, seed: int, first: int, count: int) -> None:
        self._grounds, self._faces, self._side = grounds, Typecase(faces), side
        self._seed, self._first, self._count = seed, first, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Piece:
        """Draw one: views uint8 (3, side, side), then the arrays of `Targets`."""
        cv2.setNumThreads(1)
        scene = make_scene(self._grounds, self._faces, self._side, np.random.default_rng((self._seed, self._first + number)))
        made = make_targets(scene)
        arrays = (made.core, made.core_weight, made.threshold, made.threshold_weight, made.cell, made.cell_weight)
        views = torch.from_numpy(np.ascontiguousarray(scene.views.transpose(2, 0, 1)))
        return views, *(torch.from_numpy(array)[None] for array in arrays)


def to_unit(views: Tensor, device: torch.device) -> Tensor:
    """Bring views to 0..1 on the device."""
    return views.to(device, memory_format=torch.channels_last, dtype=torch.float32) / 255


def detector_loss(answer: Tensor, core: Tensor, weight: Tensor, threshold: Tensor, band: Tensor) -> Tensor:
    """Sum the losses of cores, thresholds and the binary map."""
    said, level = answer[:, :1], torch.sigmoid(answer[:, 1:])
    heavy = weight * (1 + 3 * core)
    entropy = _entropy(said, core, heavy)
    probable = torch.sigmoid(said)
    steep = torch.sigmoid(STEEP * (probable - level))
    level_loss = ((level - threshold).abs() * band).sum() / band.sum().clamp(min=1)
    return 4 * entropy + _dice(probable, core, weight) + _dice(steep, core, weight) + 2 * level_loss


def _dice(said: Tensor, core: Tensor, weight: Tensor) -> Tensor:
    both = (said * core * weight).sum()
    return 1 - (2 * both + 1) / ((said * weight).sum() + (core * weight).sum() + 1)


def gate_loss(answer: Tensor, cell: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy over cells; one with text counts for more."""
    heavy = weight * (1 + (_TEXT_WEIGHT - 1) * cell)
    return _entropy(answer, cell, heavy)


def _entropy(said: Tensor, wanted: Tensor, heavy: Tensor) -> Tensor:
    each = functional.binary_cross_entropy_with_logits(said, wanted, reduction="none")
    return (each * heavy).sum() / heavy.sum().clamp(min=1)


class TextRun:
    """All that changes while the two learn."""

    def __init__(self, plan: TextPlan, out: Path, device: torch.device) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self._out, self._device = plan, out, device
        self.networks: dict[str, Any] = {"detector": Detector(), "gate": Gate()}
        for network in self.networks.values():
            network.to(device, memory_format=torch.channels_last)
        self.averages: dict[str, Any] = deepcopy(self.networks)
        parameters = [p for network in self.networks.values() for p in network.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=plan.rate, weight_decay=plan.decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.step, self.best, self.history = 0, -math.inf, list[dict[str, float]]()

    def _rate(self, step: int) -> float:
        return min((step + 1) / _WARM, 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.plan.steps))) + 5e-3)

    def _owners(self) -> dict[str, Any]:
        named = {f"{name}": owner for name, owner in self.networks.items()}
        named |= {f"average-{name}": owner for name, owner in self.averages.items()}
        return named | {"optimiser": self.optimiser, "schedule": self.schedule}

    def resume(self) -> None:
        """Take up ``last.pt`` where it is there."""
        path = self._out / "last.pt"
        if not path.exists():
            return
        held = torch.load(path, map_location=self._device, weights_only=True)
        if held["plan"] != asdict(self.plan):
            raise BadSetting(f"{path}: made with another plan; train into another folder or with the same settings")
        for name, owner in self._owners().items():
            owner.load_state_dict(held[name])
        self.step, self.best, self.history = held["step"], held["best"], held["history"]

    def batches(self, grounds: Grounds, faces: list[Face], workers: int) -> Iterator[Piece]:
        """Give the batches that are left: first from the grounds as they are, then with their doubts."""
        if self.step < self.plan.doubt_at:
            yield from pieces(grounds, faces, self.plan, self.step, min(self.plan.doubt_at, self.plan.steps), workers)
        if self.step < self.plan.steps:
            path = self._out / "doubts.npz"
            if not path.exists():
                save_doubts(path, doubts(self.averages["detector"], list(grounds), self._device))
            yield from pieces(load_doubts(path, grounds), faces, self.plan, self.step, self.plan.steps, workers)

    def learn(self, piece: Piece) -> tuple[float, float]:
        """Take one step; gives both losses."""
        views, core, weight, threshold, band, cell, cell_weight = (tensor.to(self._device) for tensor in piece)
        inputs = to_unit(views, self._device)
        for network in self.networks.values():
            network.train()
        self.optimiser.zero_grad()
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            found, gated = self.networks["detector"](inputs), self.networks["gate"](inputs)
        first = detector_loss(found.float(), core, weight, threshold, band)
        second = gate_loss(gated.float(), cell, cell_weight)
        (first + second).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        with torch.no_grad():
            keep = min(_KEEP, (self.step + 1) / (self.step + 10))
            for name, network in self.networks.items():
                for slow, fast in zip(self.averages[name].state_dict().values(), network.state_dict().values(), strict=True):
                    if slow.is_floating_point():
                        slow.lerp_(fast, 1 - keep)
                    else:
                        slow.copy_(fast)
        return float(first.detach()), float(second.detach())

    def keep(self, figures: Figures, losses: tuple[float, float], seconds: float) -> None:
        """Write what the run came to."""
        row = {"step": self.step, "detector_loss": losses[0], "gate_loss": losses[1], **asdict(figures), "seconds": seconds}
        self.history.append({key: round(float(value), 5) for key, value in row.items()})
        if figures.score > self.best:
            self.best = figures.score
            kept = {name: owner.state_dict() for name, owner in self.averages.items()}
            _save(self._out / "best.pt", kept | {"step": self.step})
        states = {name: owner.state_dict() for name, owner in self._owners().items()}
        _save(self._out / "last.pt", states | {
            "plan": asdict(self.plan), "step": self.step, "best": self.best, "history": self.history,
        })
        (self._out / "history.json").write_text(json.dumps(self.history, indent=1) + "\n", encoding="utf-8")


def _save(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def pieces(grounds: Grounds, faces: list[Face], plan: TextPlan, first: int, last: int, workers: int) -> Iterator[Piece]:
    """Give the batches of steps ``first`` to ``last``, drawn by ``workers`` processes."""
    left = (last - first) * plan.batch
    drawn = Pieces(grounds, faces, plan.side, plan.seed, first * plan.batch, left)
    yield from DataLoader(drawn, batch_size=plan.batch, num_workers=workers, prefetch_factor=4 if workers else None)


def teach(
    train: tuple[Grounds, list[Face]], val: tuple[Grounds, list[Face]], plan: TextPlan, out: Path, *,
    resume: bool, device: torch.device, workers: int = 1,
) -> tuple[Detector, Gate]:
    """Teach both networks; gives detector and gate with the averaged weights of the best look at val.

    Parameters
    ----------
    train, val
        Grounds and faces; those of val are never learned from.

    Raises
    ------
    BadSetting
        A checkpoint of another plan, or a loss that is no number.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = TextRun(plan, out, device)
    if resume:
        run.resume()
    tried = list(DataLoader(Pieces(*val, plan.side, plan.seed + 1, 0, plan.val), batch_size=plan.batch))
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("learning", total=plan.steps, completed=run.step)
        began, losses = time.monotonic(), list[tuple[float, float]]()
        for piece in run.batches(*train, workers):
            losses.append(run.learn(piece))
            progress.advance(bar)
            if run.step % plan.every and run.step != plan.steps:
                continue
            mean = (float(np.mean([a for a, _ in losses])), float(np.mean([b for _, b in losses])))
            if not all(map(math.isfinite, mean)):
                raise BadSetting(f"step {run.step}: the loss is no number; try a smaller --rate")
            run.keep(judge(run.averages["detector"], run.averages["gate"], tried, device), mean, time.monotonic() - began)
            row = " ".join(f"{key}={value:g}" for key, value in run.history[-1].items())
            console.print(row, highlight=False, soft_wrap=True)
            began, losses = time.monotonic(), []
    return load_best(out, device)


def load_best(out: Path, device: torch.device) -> tuple[Detector, Gate]:
    """Load the averaged weights of the best look at val of a run."""
    kept = torch.load(out / "best.pt", map_location=device, weights_only=True)
    detector, gate = Detector().to(device), Gate().to(device)
    detector.load_state_dict(kept["detector"])
    gate.load_state_dict(kept["gate"])
    return detector.eval(), gate.eval()

"""What runs that teach networks of redaction have in common: averaged weights, looks at val, checkpoints, going on.

**Way** A course learns batch by batch. Every so many steps it looks at val with averages of its weights (EMA), writes a row of
its history, keeps the averages when they were best (``best.pt``) and all that it needs to go on (``last.pt``).

**Fails** `BadSetting` when a checkpoint belongs to another plan, and when the loss is no number.

**Limits** One device. Whatever is random in a step comes from its number, so that a run that is resumed goes on as if it had
not stopped; on a GPU the last bits may differ.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from dicomnode.errors import BadSetting

_KEEP = 0.998
_WARM = 300

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and on what; all of it is part of what a checkpoint belongs to."""

    steps: int = 4000
    batch: int = 64
    rate: float = 3e-3
    decay: float = 1e-4
    seed: int = 20261122
    #: Steps between two looks at val.
    every: int = 250
    #: Pieces, or lines, of val.
    val: int = 640


class Course(ABC, Generic[Batch]):
    """All that changes while networks learn."""

    #: What `learn` gives, as the history calls it.
    losses: Sequence[str] = ("loss",)
    #: Longest step that the gradients of all weights may make together, where there is one.
    clip: float | None = None

    def __init__(self, make: Callable[[], Mapping[str, nn.Module]], plan: Plan, out: Path, device: torch.device) -> None:
        torch.manual_seed(plan.seed)
        self._plan, self._out, self._device = plan, out, device
        self.networks: dict[str, Any] = dict(make())
        for network in self.networks.values():
            network.to(device, memory_format=torch.channels_last)
        self.averages: dict[str, Any] = deepcopy(self.networks)
        self._parameters = [p for network in self.networks.values() for p in network.parameters()]
        self.optimiser = torch.optim.AdamW(self._parameters, lr=plan.rate, weight_decay=plan.decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.step, self.best, self.history = 0, -math.inf, list[dict[str, float]]()

    @abstractmethod
    def learn(self, batch: Batch) -> tuple[float, ...]:
        """Take one step; gives the losses."""

    @abstractmethod
    def look(self, tried: Sequence[Batch]) -> tuple[Mapping[str, float], float]:
        """Judge the averages on val; gives figures, and one number of which more is better."""

    def _rate(self, step: int) -> float:
        return min((step + 1) / _WARM, 0.5 * (1 + math.cos(math.pi * min(1.0, step / self._plan.steps))) + 5e-3)

    def _owners(self) -> dict[str, Any]:
        named = self.networks | {f"average-{name}": owner for name, owner in self.averages.items()}
        return named | {"optimiser": self.optimiser, "schedule": self.schedule}

    def resume(self) -> None:
        """Take up ``last.pt`` where it is there."""
        path = self._out / "last.pt"
        if not path.exists():
            return
        held = torch.load(path, map_location=self._device, weights_only=True)
        if held["plan"] != asdict(self._plan):
            raise BadSetting(f"{path}: made with another plan; train into another folder or with the same settings")
        for name, owner in self._owners().items():
            owner.load_state_dict(held[name])
        self.step, self.best, self.history = held["step"], held["best"], held["history"]

    def begin(self) -> None:
        """Make ready for the losses of one step."""
        torch.manual_seed(self._plan.seed + self.step)  # for dropout
        for network in self.networks.values():
            network.train()
        self.optimiser.zero_grad()

    def follow(self, loss: Tensor) -> None:
        """Change the weights by a loss, and the averages by them."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.clip)
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

    def go(self, batches: Iterable[Batch], tried: Sequence[Batch]) -> None:
        """Learn from batches to the end of the plan, looking at val now and then."""
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("learning", total=self._plan.steps, completed=self.step)
            began, losses = time.monotonic(), list[tuple[float, ...]]()
            for batch in batches:
                losses.append(self.learn(batch))
                progress.advance(bar)
                if self.step % self._plan.every and self.step != self._plan.steps:
                    continue
                mean = dict(zip(self.losses, np.mean(losses, axis=0).tolist(), strict=True))
                if not all(map(math.isfinite, mean.values())):
                    raise BadSetting(f"step {self.step}: the loss is no number; try a smaller --rate")
                figures, score = self.look(tried)
                self.keep({"step": self.step, **mean, **figures, "seconds": time.monotonic() - began}, score)
                row = " ".join(f"{key}={value:g}" for key, value in self.history[-1].items())
                console.print(row, highlight=False, soft_wrap=True)
                began, losses = time.monotonic(), []

    def keep(self, row: Mapping[str, float], score: float) -> None:
        """Write what the run came to."""
        self.history.append({key: round(float(value), 5) for key, value in row.items()})
        if score > self.best:
            self.best = score
            kept = {name: owner.state_dict() for name, owner in self.averages.items()}
            _save(self._out / "best.pt", kept | {"step": self.step})
        states = {name: owner.state_dict() for name, owner in self._owners().items()}
        _save(self._out / "last.pt", states | {
            "plan": asdict(self._plan), "step": self.step, "best": self.best, "history": self.history,
        })
        (self._out / "history.json").write_text(json.dumps(self.history, indent=1) + "\n", encoding="utf-8")


def _save(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def best_step(out: Path) -> int:
    """Give the step whose weights a run has kept."""
    return int(torch.load(out / "best.pt", map_location="cpu", weights_only=True)["step"])


def load_best(out: Path, device: torch.device, **networks: nn.Module) -> None:
    """Load the averaged weights of the best look at val of a run into networks, by their names in the course."""
    kept = torch.load(out / "best.pt", map_location=device, weights_only=True)
    for name, network in networks.items():
        network.to(device).load_state_dict(kept[name])
        network.eval()

"""Teach gate and detector together on the same pieces, and keep what was best on val.

**Way** Processes draw pieces (`pieces`), seeded by number, so that a run repeats and one that is resumed from ``last.pt`` goes
on where it was. The detector learns cores by weighted cross entropy and Dice, the threshold by its band, and both by the steep
binary map; the gate learns cells, text counting for more.

**Fails**, **Limits** As `course`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dicomnode.training.text.course import Course, Plan, load_best
from dicomnode.training.text.doubt import doubts, load_doubts, save_doubts
from dicomnode.training.text.fonts import Face, Typecase
from dicomnode.training.text.grounds import Grounds
from dicomnode.training.text.network import STEEP, Detector, Gate
from dicomnode.training.text.scene import make_scene
from dicomnode.training.text.targets import make_targets
from dicomnode.training.text.trial import judge

#: Cells of text among all: what they count for.
_TEXT_WEIGHT = 6.0


@dataclass(frozen=True, slots=True)
class TextPlan(Plan):
    """How long and on what gate and detector learn."""

    steps: int = 7500
    batch: int = 16
    rate: float = 2e-3
    seed: int = 20261121
    val: int = 192
    #: Rows and columns of a piece.
    side: int = 320
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


class TextRun(Course[Piece]):
    """All that changes while the two learn."""

    losses = ("detector_loss", "gate_loss")

    def __init__(self, plan: TextPlan, out: Path, device: torch.device) -> None:
        super().__init__(lambda: {"detector": Detector(), "gate": Gate()}, plan, out, device)
        self.plan = plan

    def batches(self, grounds: Grounds, faces: list[Face], workers: int) -> Iterator[Piece]:
        """Give the batches that are left: first from the grounds as they are, then with their doubts."""
        if self.step < self.plan.doubt_at:
            yield from pieces(grounds, faces, self.plan, self.step, min(self.plan.doubt_at, self.plan.steps), workers)
        if self.step < self.plan.steps:
            path = self._out / "doubts.npz"
            if not path.exists():
                save_doubts(path, doubts(self.averages["detector"], list(grounds), self._device))
            yield from pieces(load_doubts(path, grounds), faces, self.plan, self.step, self.plan.steps, workers)

    def learn(self, batch: Piece) -> tuple[float, float]:
        """Take one step; gives both losses."""
        views, core, weight, threshold, band, cell, cell_weight = (tensor.to(self._device) for tensor in batch)
        inputs = to_unit(views, self._device)
        self.begin()
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            found, gated = self.networks["detector"](inputs), self.networks["gate"](inputs)
        first = detector_loss(found.float(), core, weight, threshold, band)
        second = gate_loss(gated.float(), cell, cell_weight)
        self.follow(first + second)
        return float(first.detach()), float(second.detach())

    def look(self, tried: Sequence[Piece]) -> tuple[Mapping[str, float], float]:
        """Judge both."""
        figures = judge(self.averages["detector"], self.averages["gate"], tried, self._device)
        return asdict(figures), figures.score


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
    run.go(run.batches(*train, workers), tried)
    detector, gate = Detector(), Gate()
    load_best(out, device, detector=detector, gate=gate)
    return detector, gate

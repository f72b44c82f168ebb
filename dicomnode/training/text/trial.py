"""Judge the two networks on pieces of val: lines found, places that are none, and what the gate lets pass.

**Way** `judge` asks both for every piece. A line is found when at least 90 % of its core lies in what is said to be core;
what is said to be core and lies in no line is wrong, a share of all that is no text. The gate's recall is of lines whose every
cell is below its threshold.

**Limits** Pieces, not frames: `dicomnode evaluate redaction` judges the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

#: From where a core is one, and from where a cell goes to the detector.
CORE_FROM, CELL_FROM = 0.3, 0.1
_COVERED = 0.9
#: What wrong places cost beside lines that are not found.
_COST = 20.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares, 0 to 1."""

    lines: float
    found: float
    wrong: float
    gate_found: float
    gate_open: float

    @property
    def score(self) -> float:
        """Higher is better."""
        return self.found + self.gate_found - _COST * self.wrong - 0.1 * self.gate_open


def judge(detector: nn.Module, gate: nn.Module, tried: Sequence[tuple[Tensor, ...]], device: torch.device) -> Figures:
    """Judge on batches as `learn.Pieces` gives them."""
    detector.eval()
    gate.eval()
    lines, found, gate_found = 0, 0, 0
    wrong, ground, opened, cells = 0.0, 0.0, 0.0, 0.0
    for views, core, weight, _, band, cell, cell_weight in tried:
        with torch.inference_mode():
            inputs = views.to(device, dtype=torch.float32, memory_format=torch.channels_last) / 255
            said = torch.sigmoid(detector(inputs)[:, :1]).float().cpu().numpy() >= CORE_FROM
            open_ = torch.sigmoid(gate(inputs)).float().cpu().numpy() >= CELL_FROM
        none = (band.numpy() == 0) & (core.numpy() == 0) & (weight.numpy() > 0)
        wrong += float((said & none).sum())
        ground += float(none.sum())
        free = (cell.numpy() == 0) & (cell_weight.numpy() > 0)
        opened += float((open_ & free).sum())
        cells += float(free.sum())
        for n in range(len(views)):
            count, labels = cv2.connectedComponents(core[n, 0].numpy().astype(np.uint8), connectivity=8)
            opening = cv2.dilate(open_[n, 0].astype(np.uint8), np.ones((3, 3), np.uint8))
            near = np.asarray(cv2.resize(opening, labels.shape[::-1], interpolation=cv2.INTER_NEAREST)) > 0
            for label in range(1, count):
                own = labels == label
                lines += 1
                found += bool(said[n, 0][own].mean() >= _COVERED)
                gate_found += bool(near[own].mean() >= _COVERED)
    most = max(lines, 1)
    return Figures(float(lines), found / most, wrong / max(ground, 1), gate_found / most, opened / max(cells, 1))

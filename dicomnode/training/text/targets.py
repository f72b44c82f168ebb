"""What the networks shall say of a piece: cores of lines for the detector, cells with text for the gate.

**Way** A core is the box of a line shrunk on all sides by a quarter of its thickness, so that lines that touch stay apart
(differentiable binarisation shrinks polygons alike: Liao et al., AAAI 2020); `Targets.border` is the band around it where the
threshold map learns. A cell of the gate holds text, or is beside some, where nothing is learned.

**Limits** Boxes have upright sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomnode.training.text.scene import Box, Scene

#: Pixels for one value of the detector's answer, and of the gate's.
CORE_STEP, CELL = 2, 16
Flat = NDArray[np.float32]
#: Highest and lowest value that the threshold map learns.
_THRESHOLD = (0.3, 0.7)


@dataclass(slots=True)
class Targets:
    """Arrays of one piece, each (rows, cols) float32 but the weights, which are 0 where nothing is learned."""

    core: Flat
    core_weight: Flat
    threshold: Flat
    threshold_weight: Flat
    cell: Flat
    cell_weight: Flat


def core_of(box: Box) -> tuple[float, float, float, float]:
    """Shrink the box of a line to its core."""
    cut = min(box[2] - box[0], box[3] - box[1]) / 4
    return box[0] + cut, box[1] + cut, box[2] - cut, box[3] - cut


def make_targets(scene: Scene) -> Targets:
    """Make the targets of one piece."""
    side = scene.views.shape[0]
    small = side // CORE_STEP
    core, threshold, band = (np.zeros((small, small), np.float32) for _ in range(3))
    weight = np.ones((small, small), np.float32)
    for box in scene.lines:
        _threshold(threshold, band, box)
    for box in scene.lines:
        left, top, right, bottom = core_of(box)
        core[_span(top, bottom, small), _span(left, right, small)] = 1
    weight[scene.doubt[::CORE_STEP, ::CORE_STEP]] = 0
    cells = side // CELL
    cell, cell_weight = np.zeros((cells, cells), np.float32), np.ones((cells, cells), np.float32)
    for left, top, right, bottom in scene.lines:
        near = slice(max(0, top // CELL - 1), bottom // CELL + 2), slice(max(0, left // CELL - 1), right // CELL + 2)
        cell_weight[near] = 0
    for left, top, right, bottom in scene.lines:
        # What ink fills at least a little of.
        own = slice((top + 2) // CELL, (bottom - 3) // CELL + 1), slice((left + 2) // CELL, (right - 3) // CELL + 1)
        cell[own] = cell_weight[own] = 1
    doubtful = scene.doubt.reshape(cells, CELL, cells, CELL).any(axis=(1, 3))
    cell_weight[doubtful] = 0
    return Targets(core, weight, threshold, band * weight, cell, cell_weight)


def _span(first: float, last: float, most: int) -> slice:
    """Values whose middles lie in a core, at least one."""
    start = int(np.ceil(first / CORE_STEP - 0.5))
    end = int(np.floor(last / CORE_STEP - 0.5)) + 1
    if end <= start:
        start = int((first + last) / 2 / CORE_STEP)
        end = start + 1
    return slice(max(0, min(start, most - 1)), max(1, min(end, most)))


def _threshold(threshold: Flat, band: Flat, box: Box) -> None:
    """Raise the threshold towards the edge of the core, in a band as wide as was cut off."""
    most = threshold.shape[0]
    left, top, right, bottom = core_of(box)
    reach = max(1.0, min(box[2] - box[0], box[3] - box[1]) / 4)
    x0, x1 = max(0, int((left - reach) / CORE_STEP)), min(most, int((right + reach) / CORE_STEP) + 1)
    y0, y1 = max(0, int((top - reach) / CORE_STEP)), min(most, int((bottom + reach) / CORE_STEP) + 1)
    if x1 <= x0 or y1 <= y0:
        return
    xs = (np.arange(x0, x1, dtype=np.float32) + 0.5) * CORE_STEP
    ys = (np.arange(y0, y1, dtype=np.float32) + 0.5) * CORE_STEP
    across = np.maximum(np.maximum(left - xs, xs - right), 0)
    down = np.maximum(np.maximum(top - ys, ys - bottom), 0)
    inside = np.minimum(np.minimum(xs - left, right - xs)[None, :], np.minimum(ys - top, bottom - ys)[:, None])
    apart = np.where(inside > 0, inside, np.hypot(across[None, :], down[:, None]))
    near = np.clip(1 - apart / reach, 0, 1)
    low, high = _THRESHOLD
    where = (slice(y0, y1), slice(x0, x1))
    threshold[where] = np.maximum(threshold[where], low + (high - low) * near)
    band[where] = np.maximum(band[where], near > 0)

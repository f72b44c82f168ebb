"""Cuts a line of text out of the views of a frame, as the network reads it: one height, full contrast.

**Way** `slip` takes the box of a line and a margin around it, stretches each view over the scale and makes it `HEIGHT` pixels
high.

**Fails** Nothing.

**Limits** A line longer than `LONGEST` times its height is squeezed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, STEP, LONGEST = 32, 4, 60
#: Share of the thickness of a line that is shown around it.
MARGIN = 0.2
_LOW, _HIGH = 2, 98
_LEAST = 8


@dataclass(frozen=True, slots=True)
class Slip:
    """One line as the network reads it, and where its columns lie."""

    #: (HEIGHT, cols, 3) uint8, cols a multiple of STEP.
    picture: NDArray[np.uint8]
    #: Column of the views, turned, at which the slip begins, and how many of them one of its columns is.
    left: float
    scale: float


def slip(views: NDArray[np.uint8], box: tuple[float, float, float, float]) -> Slip:
    """Cut one line out of the views, (rows, cols, 3), in which it runs from left to right; ``box`` is left, top, right,
    bottom.
    """
    left, top, right, bottom = box
    margin = MARGIN * min(right - left, bottom - top) + 1
    rows, cols = views.shape[:2]
    y0, y1 = max(0, int(top - margin)), min(rows, int(np.ceil(bottom + margin)))
    x0, x1 = max(0, int(left - margin)), min(cols, int(np.ceil(right + margin)))
    part = views[y0:y1, x0:x1].astype(np.float32)
    low, high = np.percentile(part, (_LOW, _HIGH), axis=(0, 1))
    part = (part - low) * (255 / np.maximum(high - low, _LEAST))
    height, width = part.shape[:2]
    wide = min(max(2, round(width * HEIGHT / height / STEP)), LONGEST * HEIGHT // STEP) * STEP
    how = cv2.INTER_AREA if height > HEIGHT else cv2.INTER_LINEAR
    picture = cv2.resize(np.clip(part, 0, 255), (wide, HEIGHT), interpolation=how)
    return Slip(np.asarray(np.clip(picture, 0, 255), np.uint8), x0, width / wide)

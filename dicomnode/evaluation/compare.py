"""Compares a frame before and after redaction: what changed, what is gone, and where.

**Way** A pixel changed when any of its samples did. It is gone when it changed, or lies in a reported region that is even
afterwards: blanking to black does not change what was black, but a stroke in an even field cannot be read.

**Limits** A region counts as even when its values lie within `EVEN` of the range of the frame, which leaves room for what a
JPEG makes of one grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.evaluation.ink import Mask, unlike
from dicomnode.evaluation.manifest import Text
from dicomnode.records import Region

#: Pixels around a text that may change with it.
MARGIN_PX = 6
#: Spread of the values of an even region, as a share of the range of the frame before.
EVEN = 0.03


@dataclass(frozen=True, slots=True)
class Compared:
    """One frame, (rows, cols) each."""

    changed: Mask
    gone: Mask
    reported: Mask

    def far(self, texts: Sequence[Text], number: int) -> Mask:
        """Say of every pixel whether it lies further than `MARGIN_PX` from any text of frame ``number``."""
        far = np.ones(self.changed.shape, bool)
        for text in texts:
            if text.stands_in(number) and (text.x1 or text.y1):
                top, left = max(0, text.y0 - MARGIN_PX), max(0, text.x0 - MARGIN_PX)
                far[top : text.y1 + MARGIN_PX + 1, left : text.x1 + MARGIN_PX + 1] = False
        return far


def compare(before: NDArray[Any], after: NDArray[Any], regions: Sequence[Region]) -> Compared:
    """Compare stored values of one frame; ``regions`` are those reported for it."""
    changed = unlike(before, after)
    gone, reported = changed.copy(), np.zeros(changed.shape, bool)
    room = (float(before.max()) - float(before.min())) * EVEN
    for r in regions:
        box = (slice(r.y, r.y + r.h), slice(r.x, r.x + r.w))
        reported[box] = True
        if _even(after[box], room):
            gone[box] = True
    return Compared(changed, gone, reported)


def _even(values: NDArray[Any], room: float) -> bool:
    if not values.size:
        return False
    flat = values.reshape(-1, values.shape[2]) if values.ndim == 3 else values.reshape(-1, 1)
    return bool(((flat.max(axis=0).astype(np.float64) - flat.min(axis=0)) <= room).all())

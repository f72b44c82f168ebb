"""Which pixels of a string's box are its strokes, and how plain they are.

**Way** `ink` takes the mask of the manifest, or what differs from the clean file; without either it takes the rarer end of
the range of the box's values, for burned-in text has one value on a ground that varies. `plainness` says how far strokes
stand from their ground on display.

**Fails** `BadSetting` for a mask or clean file that has another size.

**Limits** Without mask and clean file, smoothed edges count as ground, and text as bright as the picture beside it is
taken together with that.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadSetting
from dicomnode.evaluation.manifest import Text
from dicomnode.image import Image

Mask = NDArray[np.bool_]
#: Part of a box's range that belongs to its end, and the least range that has ends.
_END, _LEAST = 8, 8


def ink(text: Text, number: int, frame: NDArray[Any]) -> Mask:
    """Give the strokes of a string, (rows, cols) of its box, True in them.

    Parameters
    ----------
    number, frame
        The frame and its stored values.
    """
    box = (slice(text.y0, text.y1 + 1), slice(text.x0, text.x1 + 1))
    if text.ink is not None:
        mask = _masks(text.ink)
        if mask.shape != frame.shape[:2]:
            raise BadSetting(f"{text.ink}: has another size than the frame")
        return mask[box]
    values = frame[box]
    if text.clean is not None:
        with text.clean.open("rb") as stream:
            clean = Image.open(stream).frame(number)
        if clean.shape != frame.shape:
            raise BadSetting(f"{text.clean}: has another size than the file with the text")
        return unlike(values, clean[box])
    return _rarer(values)


def unlike(one: NDArray[Any], other: NDArray[Any]) -> Mask:
    """Say of every pixel whether any of its samples differs."""
    apart = one != other
    return np.asarray(apart.any(axis=2) if apart.ndim == 3 else apart)


@lru_cache(maxsize=4)
def _masks(path: Path) -> Mask:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise BadSetting(f"{path}: is no picture")
    return np.asarray(picture > 0)


def _rarer(values: NDArray[Any]) -> Mask:
    """The pixels at one end of the range of a box, the rarer ones; all where there are no two ends."""
    if values.ndim == 3:
        spread = values.reshape(-1, values.shape[2]).astype(np.int64)
        values = values[..., int(np.argmax(spread.max(axis=0) - spread.min(axis=0)))]
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if high - low < _LEAST:
        return np.ones(values.shape, bool)
    bright, dark = values >= high - (high - low) / _END, values <= low + (high - low) / _END
    return np.asarray(bright if bright.sum() < dark.sum() else dark)


def plainness(text: Text, strokes: Mask, shown: NDArray[np.uint8]) -> int:
    """Grey levels, as displayed, by which strokes are brighter than their ground; below 0: darker."""
    part = shown[text.y0 : text.y1 + 1, text.x0 : text.x1 + 1]
    grey = part if part.ndim == 2 else part.max(axis=2)
    # The smoothed edges of strokes are neither.
    ground = cv2.dilate(strokes.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    if not strokes.any() or not ground.any():
        return 0
    return round(float(np.median(grey[strokes])) - float(np.median(grey[ground])))

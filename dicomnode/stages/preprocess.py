"""Turn the unit picture of an image into the tensor that a network reads, by named functions.

**Way** A card names the steps of `STEPS` that make the tensor from what `unit.to_unit` gives; `chain` makes one function of
them, and its `Chain.placed` says which part of the frame the tensor covers. A step is a function from a picture to a
picture; one that cuts, pads or moves gives the `Placement` of the new picture on the old one beside it.
`dicomnode.training` calls the same functions, so a model never meets a picture at work that was prepared in another way
than those it learned from.

**Fails** `BadCard` for a step or parameter that does not exist, `StageFailed` for steps that do not follow each other.

**Limits** A step that moves the picture does so by scaling and shifting: no turns.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadCard, StageFailed
from dicomnode.records import Placement
from dicomnode.stages.unit import Array, between, percentiles, to_unit

__all__ = ["STEPS", "Array", "Chain", "Placed", "Step", "chain", "to_unit"]

#: From a picture to what a network reads: what `chain` gives.
Step: TypeAlias = Callable[[Array], Array]
#: What a step gives that moves the picture: the new one, and the rectangle of the old one that it covers.
Placed: TypeAlias = tuple[Array, Placement]

# Grey values that `equalise` tells apart.
_LEVELS = 1 << 16
# Of red, green and blue in 0..1 over ImageNet, as torchvision's networks were taught.
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32).reshape(3, 1, 1)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32).reshape(3, 1, 1)


def crop_margins(picture: Array, contrast: float = 0.04, at_most: float = 0.35) -> Placed:
    """Cut even margins (collimation, padding): outer rows and columns whose spread stays under `contrast`.

    Never cuts more than the share `at_most` from any side, so that a dark but wanted region stays.
    """
    rows, cols = picture.shape
    small = cv2.resize(picture, (min(cols, 128), min(rows, 128)), interpolation=cv2.INTER_AREA)

    def span(spread: NDArray[np.float32], length: int) -> tuple[int, int]:
        live = np.flatnonzero(spread > contrast)
        if live.size == 0:
            return 0, length
        first = min(live[0] / spread.size, at_most)
        last = max((live[-1] + 1) / spread.size, 1 - at_most)
        return round(first * length), round(last * length)

    top, bottom = span(small.std(axis=1), rows)
    left, right = span(small.std(axis=0), cols)
    return picture[top:bottom, left:right], Placement(top, left, bottom - top, right - left)


def percentile_window(picture: Array, low: float = 1.0, high: float = 99.0) -> Array:
    """Stretch the percentiles `low`..`high` (0..100) of this picture to 0..1 and clip."""
    return between(picture, *percentiles(picture, low, high))


def equalise(picture: Array) -> Array:
    """Replace each grey value by its rank in this picture, 0..1: what window, gamma and bit depth do to it is undone.

    Equal values share the mean of their ranks, so that turned polarity gives 1 - x. Values are told apart by 16 bits.
    """
    cells = (np.clip(picture, 0, 1) * np.float32(_LEVELS - 1) + np.float32(0.5)).astype(np.intp)
    counts = np.bincount(cells.ravel(), minlength=_LEVELS)
    # The table is longer than the picture of a network, so only what is wanted of it is scaled.
    ranks = np.cumsum(counts).take(cells) - 0.5 * counts.take(cells)
    return np.asarray(ranks * (1 / cells.size), dtype=np.float32)


def _resample(picture: Array, rows: int, cols: int) -> Array:
    """Area averaging when shrinking, which hides the resolution of the source; linear when growing."""
    shrinks = rows * cols < picture.size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (cols, rows), interpolation=method), dtype=np.float32)


def fit(picture: Array, rows: int, cols: int) -> Array:
    """Resample, ratio kept, to the size that fits into (rows, cols): for steps that must not see the padding of `resize`."""
    height, width = picture.shape
    scale = min(rows / height, cols / width)
    return _resample(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def resize(picture: Array, rows: int, cols: int, keep_aspect: bool = True) -> Placed:
    """Resample to (rows, cols) pixels: with `keep_aspect` centred on a dark ground, else stretched.

    Area averaging when shrinking, which hides the resolution of the source; linear when growing.
    """
    height, width = picture.shape
    inner = fit(picture, rows, cols) if keep_aspect else _resample(picture, rows, cols)
    inner_rows, inner_cols = inner.shape
    if inner.shape == (rows, cols):
        return inner, Placement(0, 0, height, width)
    outer = np.zeros((rows, cols), dtype=np.float32)
    top, left = (rows - inner_rows) // 2, (cols - inner_cols) // 2
    outer[top : top + inner_rows, left : left + inner_cols] = inner
    down, across = height / inner_rows, width / inner_cols
    return outer, Placement(-top * down, -left * across, rows * down, cols * across)


def standardise(picture: Array) -> Array:
    """Subtract the mean and divide by the standard deviation of this picture; a constant picture gives zeros."""
    deviation = float(picture.std())
    if deviation < 1e-6:
        return np.zeros_like(picture)
    return np.asarray((picture - picture.mean()) / np.float32(deviation), dtype=np.float32)


def add_channel(picture: Array) -> Array:
    """(rows, cols) to (1, rows, cols), as networks want it."""
    return picture[np.newaxis]


def resize_short(picture: Array, size: int) -> Array:
    """Resample, ratio kept, so that the shorter side has `size` pixels: what torchvision calls Resize(size)."""
    height, width = picture.shape
    scale = size / min(height, width)
    return _resample(picture, max(size, round(height * scale)), max(size, round(width * scale)))


def crop_centre(picture: Array, rows: int, cols: int) -> Placed:
    """Cut (rows, cols) out of the middle; where the picture is smaller, its ground is dark."""
    height, width = picture.shape
    top, left = (height - rows) // 2, (width - cols) // 2
    made = np.zeros((rows, cols), dtype=np.float32)
    part = picture[max(0, top) : top + rows, max(0, left) : left + cols]
    made[max(0, -top) :, max(0, -left) :][: part.shape[0], : part.shape[1]] = part
    return made, Placement(top, left, rows, cols)


def scale(picture: Array, factor: float = 1.0, offset: float = 0.0) -> Array:
    """Multiply, then add: factor 255 gives 0..255, factor 2 and offset -1 give -1..1."""
    return np.asarray(picture * np.float32(factor) + np.float32(offset), dtype=np.float32)


def three_channels(picture: Array) -> Array:
    """Make (rows, cols) or (1, rows, cols) into three channels of the same grey."""
    return np.repeat(picture.reshape(1, *picture.shape[-2:]), 3, axis=0)


def imagenet(picture: Array) -> Array:
    """Subtract the means of ImageNet's three channels and divide by their deviations: (3, rows, cols) in 0..1."""
    if picture.shape[0] != len(_IMAGENET_MEAN):
        raise StageFailed(f"the step imagenet wants three channels, not {picture.shape[0]}; put three_channels before it")
    return np.asarray((picture - _IMAGENET_MEAN) / _IMAGENET_STD, dtype=np.float32)


def channels_last(picture: Array) -> Array:
    """Make (channels, rows, cols) into (rows, cols, channels), as TensorFlow has it."""
    return np.ascontiguousarray(np.moveaxis(picture, 0, -1))


#: Every name that a card may use in `[[input.preprocess]]`.
STEPS: Mapping[str, Callable[..., Array | Placed]] = MappingProxyType(
    {
        "crop_margins": crop_margins,
        "percentile_window": percentile_window,
        "equalise": equalise,
        "fit": fit,
        "resize": resize,
        "standardise": standardise,
        "add_channel": add_channel,
        "resize_short": resize_short,
        "crop_centre": crop_centre,
        "scale": scale,
        "three_channels": three_channels,
        "imagenet": imagenet,
        "channels_last": channels_last,
    }
)


class Chain:
    """Named steps in a row: from a picture to the tensor of a network."""

    def __init__(self, functions: Sequence[Callable[[Array], Array | Placed]]) -> None:
        self._functions = tuple(functions)

    def __call__(self, picture: Array) -> Array:
        """Give the tensor (channels, rows, cols) float32 of a (rows, cols) float32 picture in 0..1."""
        return self.placed(picture)[0]

    def placed(self, picture: Array, frame: tuple[int, int] | None = None) -> Placed:
        """Give the tensor and the rectangle that its whole area covers.

        Parameters
        ----------
        frame
            Rows and columns of the frame that ``picture`` shows, of whatever size it is itself. The rectangle is in
            pixels of the frame; without one in pixels of ``picture``.
        """
        rows, cols = picture.shape if frame is None else frame
        place = Placement(0, 0, rows, cols)
        for function in self._functions:
            rows, cols = picture.shape[-2:]
            made = function(picture)
            if isinstance(made, tuple):
                picture, inner = made
                place = place.of(inner, rows, cols)
            else:
                picture = made
        return np.ascontiguousarray(picture, dtype=np.float32), place


def chain(steps: Sequence[tuple[str, Mapping[str, Any]]]) -> Chain:
    """Make one function from named steps with their parameters.

    Raises
    ------
    BadCard
        A step is not in `STEPS`, or does not know a parameter or misses one.
    """
    functions: list[Callable[[Array], Array | Placed]] = []
    for name, parameters in steps:
        if name not in STEPS:
            raise BadCard(f"preprocess step {name!r} does not exist; there are: {', '.join(STEPS)}")
        try:
            inspect.signature(STEPS[name]).bind(None, **parameters)
        except TypeError as error:
            raise BadCard(f"preprocess step {name!r}: {error}") from error
        functions.append(partial(STEPS[name], **parameters))
    return Chain(functions)

"""Turn stored pixel values into the tensor that a network reads, by the same named functions in training and in the
running node.

**Way** `to_unit` takes one decoded frame and gives a float32 picture in 0..1 with MONOCHROME1 turned over; a card names
the steps of `STEPS` that make the tensor from it, and `Chain.placed` says which part of the frame the tensor covers.
A step is a function from a picture to a picture; one that cuts, pads or moves gives the `Placement` of the new picture on
the old one beside it. `dicomnode.training` calls the same functions, so a model never meets a picture at work that was
prepared in another way than those it learned from.

**Fails** `BadCard` for a step or parameter that does not exist, `StageFailed` for a frame that is no picture (no pixels,
wrong number of dimensions).

**Standard** PS3.3 C.7.6.3.1.2 (Photometric Interpretation), C.11.2.1.2 (windows, linear function).

**Limits** A palette must be resolved to RGB and YBR converted before; only one frame at a time; no VOI LUT, only
windows. A step that moves the picture does so by scaling and shifting: no turns.
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

Array: TypeAlias = NDArray[np.float32]
#: From a picture to what a network reads: what `chain` gives.
Step: TypeAlias = Callable[[Array], Array]
#: What a step gives that moves the picture: the new one, and the rectangle of the old one that it covers.
Placed: TypeAlias = tuple[Array, Placement]

# Percentiles need no more than this many pixels; a 2500x2048 frame then costs 2 ms instead of 60.
_SAMPLED_PIXELS = 250_000
# Grey values that `equalise` tells apart.
_LEVELS = 1 << 16
# ITU-R BT.601 weights, as PS3.3 C.7.6.3.1.2 has them for the Y of YBR_FULL.
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# Of red, green and blue in 0..1 over ImageNet, as torchvision's networks were taught.
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32).reshape(3, 1, 1)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32).reshape(3, 1, 1)


def _percentiles(picture: NDArray[Any], low: float, high: float) -> tuple[float, float]:
    """Two percentiles from a regular grid of pixels: the same grid whatever the bit depth or polarity."""
    stride = max(1, int(np.sqrt(picture.size / _SAMPLED_PIXELS)))
    bottom, top = np.percentile(picture[::stride, ::stride], [low, high])
    return float(bottom), float(top)


def _between(picture: NDArray[Any], bottom: float, top: float) -> Array:
    """Map bottom..top onto 0..1 and clip; a range without extent gives zeros, for a constant picture says nothing."""
    if not top > bottom:
        return np.zeros(picture.shape, dtype=np.float32)
    scaled = np.asarray(picture, dtype=np.float32)
    return np.asarray(
        np.clip((scaled - np.float32(bottom)) * np.float32(1.0 / (top - bottom)), 0.0, 1.0), dtype=np.float32
    )


def to_unit(
    frame: NDArray[Any],
    photometric_interpretation: str = "MONOCHROME2",
    window: tuple[float, float] | None = None,
) -> Array:
    """Scale one frame to 0..1 with low values dark.

    Parameters
    ----------
    frame
        (rows, cols) of any integer or float type, signed or not; or (rows, cols, 3) in RGB order, made grey by
        luminance.
    photometric_interpretation
        Value of (0028,0004); "MONOCHROME1" is turned over, every other value is taken as low = dark.
    window
        (Window Center, Window Width) in the units of `frame`. Without it the 0.5th and 99.5th percentiles become 0
        and 1.

    Returns
    -------
    (rows, cols) float32 in 0..1; a constant frame gives zeros.

    Raises
    ------
    StageFailed
        The array is empty or is no single grey or RGB frame.
    """
    if frame.size == 0 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        raise StageFailed(f"a frame of shape {frame.shape} is neither (rows, cols) nor (rows, cols, 3)")
    grey = frame if frame.ndim == 2 else frame.astype(np.float32) @ _LUMINANCE
    if not np.isfinite(grey).all():
        raise StageFailed("the frame holds values that are not finite")
    if window is None:
        bottom, top = _percentiles(grey, 0.5, 99.5)
        if not top > bottom:  # a small subject on an even ground: more than 99 % of one value
            bottom, top = float(grey.min()), float(grey.max())
    else:
        centre, width = window
        # The linear function of PS3.3 C.11.2.1.2.1: the half pixel at both ends belongs to it.
        bottom, top = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    unit = _between(grey, bottom, top)
    constant = not top > bottom
    return unit if constant or photometric_interpretation.strip() != "MONOCHROME1" else np.float32(1.0) - unit


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
    return np.ascontiguousarray(picture[top:bottom, left:right]), Placement(top, left, bottom - top, right - left)


def percentile_window(picture: Array, low: float = 1.0, high: float = 99.0) -> Array:
    """Stretch the percentiles `low`..`high` (0..100) of this picture to 0..1 and clip."""
    return _between(picture, *_percentiles(picture, low, high))


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

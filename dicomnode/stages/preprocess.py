"""Turn stored pixel values into the tensor that a network reads, by the same named functions in training and in the
running node.

**Way** `to_unit` takes one decoded frame and gives a float32 picture in 0..1 with MONOCHROME1 turned over; a card names
the steps of `STEPS` that make the tensor from it. `dicomnode.training` calls the same two functions, so a model never
meets a picture at work that was prepared in another way than those it learned from.

**Fails** `BadCard` for a step or parameter that does not exist, `StageFailed` for a frame that is no picture (no pixels,
wrong number of dimensions).

**Standard** PS3.3 C.7.6.3.1.2 (Photometric Interpretation), C.11.2.1.2 (windows, linear function).

**Limits** A palette must be resolved to RGB and YBR converted before; only one frame at a time; no VOI LUT, only windows.
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

Array: TypeAlias = NDArray[np.float32]
Step: TypeAlias = Callable[[Array], Array]

# Percentiles need no more than this many pixels; a 2500x2048 frame then costs 2 ms instead of 60.
_SAMPLED_PIXELS = 250_000
# ITU-R BT.601 weights, as PS3.3 C.7.6.3.1.2 has them for the Y of YBR_FULL.
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


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


def crop_margins(picture: Array, contrast: float = 0.04, at_most: float = 0.35) -> Array:
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
    return np.ascontiguousarray(picture[top:bottom, left:right])


def percentile_window(picture: Array, low: float = 1.0, high: float = 99.0) -> Array:
    """Stretch the percentiles `low`..`high` (0..100) of this picture to 0..1 and clip."""
    return _between(picture, *_percentiles(picture, low, high))


def resize(picture: Array, rows: int, cols: int, keep_aspect: bool = True) -> Array:
    """Resample to (rows, cols) pixels: with `keep_aspect` centred on a dark ground, else stretched.

    Area averaging when shrinking, which hides the resolution of the source; linear when growing.
    """
    height, width = picture.shape
    scale = min(rows / height, cols / width)
    inner_rows, inner_cols = (
        (max(1, round(height * scale)), max(1, round(width * scale))) if keep_aspect else (rows, cols)
    )
    shrinks = inner_rows * inner_cols < height * width
    inner = cv2.resize(picture, (inner_cols, inner_rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if (inner_rows, inner_cols) == (rows, cols):
        return np.asarray(inner, dtype=np.float32)
    outer = np.zeros((rows, cols), dtype=np.float32)
    top, left = (rows - inner_rows) // 2, (cols - inner_cols) // 2
    outer[top : top + inner_rows, left : left + inner_cols] = inner
    return outer


def standardise(picture: Array) -> Array:
    """Subtract the mean and divide by the standard deviation of this picture; a constant picture gives zeros."""
    deviation = float(picture.std())
    if deviation < 1e-6:
        return np.zeros_like(picture)
    return np.asarray((picture - picture.mean()) / np.float32(deviation), dtype=np.float32)


def add_channel(picture: Array) -> Array:
    """(rows, cols) to (1, rows, cols), as networks want it."""
    return picture[np.newaxis]


#: Every name that a card may use in `[[input.preprocess]]`.
STEPS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "crop_margins": crop_margins,
        "percentile_window": percentile_window,
        "resize": resize,
        "standardise": standardise,
        "add_channel": add_channel,
    }
)


def chain(steps: Sequence[tuple[str, Mapping[str, Any]]]) -> Step:
    """Make one function from named steps with their parameters.

    Returns a function from a (rows, cols) float32 picture in 0..1 to the network's tensor (channels, rows, cols),
    float32.

    Raises
    ------
    BadCard
        A step is not in `STEPS`, or does not know a parameter or misses one.
    """
    functions: list[Step] = []
    for name, parameters in steps:
        if name not in STEPS:
            raise BadCard(f"preprocess step {name!r} does not exist; there are: {', '.join(STEPS)}")
        try:
            inspect.signature(STEPS[name]).bind(None, **parameters)
        except TypeError as error:
            raise BadCard(f"preprocess step {name!r}: {error}") from error
        functions.append(partial(STEPS[name], **parameters))

    def run(picture: Array) -> Array:
        for function in functions:
            picture = function(picture)
        return np.ascontiguousarray(picture, dtype=np.float32)

    return run

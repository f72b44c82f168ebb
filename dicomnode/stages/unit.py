"""Turn the stored values of one frame into the picture that the models share: float32 in 0..1, low values dark.

**Way** `to_unit` brings the values to whole numbers from 0 upwards, in which polarity, sign and offset are gone, shrinks what
is large by averaging whole blocks of pixels, and stretches the 0.5th to the 99.5th percentile. All that is done to every
pixel of a frame is done on its stored integers; floats are made of the small picture. Training and the running node call
this same function.

**Fails** `StageFailed` for a frame that is no picture (no pixels, wrong number of dimensions, values that are not finite).

**Standard** PS3.3 C.7.6.3.1.2 (Photometric Interpretation), C.7.5.1.1.2 (Pixel Padding Value), C.11.2.1.2 (windows, linear
function).

**Limits** A palette must be resolved to RGB and YBR converted before; only one frame at a time; no VOI LUT, only windows.
A picture of `LONGEST` pixels or more a side has no detail for networks of more than about half of that. Of a frame that is
shrunk by n, at most n - 1 rows and columns at the bottom and right are left out (`shown`).
"""

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import StageFailed

Array: TypeAlias = NDArray[np.float32]

#: A frame is shrunk by the largest whole number that leaves this many pixels on its longer side.
LONGEST = 1024
# Percentiles need no more than this many pixels.
_SAMPLED_PIXELS = 250_000
# ITU-R BT.601 weights, as PS3.3 C.7.6.3.1.2 has them for the Y of YBR_FULL.
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_LEVELS = 1 << 16
# Fewer grey values than this are spread before they are averaged, so that the mean of four is not rounded away.
_FINE_LEVELS = 1 << 10


def shrinking(rows: int, cols: int) -> int:
    """Say by which whole number `to_unit` shrinks a frame of this size."""
    return max(1, min(max(rows, cols) // LONGEST, rows, cols))


def shown(rows: int, cols: int) -> tuple[int, int]:
    """Give the rows and columns of the frame, from the top left, that its unit picture shows."""
    by = shrinking(rows, cols)
    return rows // by * by, cols // by * by


def percentiles(
    picture: NDArray[Any], low: float, high: float, left_out: NDArray[np.bool_] | None = None,
) -> tuple[float, float]:
    """Two percentiles from a regular grid of pixels: the same grid whatever the bit depth or polarity.

    Pixels that are ``left_out`` do not count, unless there are no others.
    """
    stride = max(1, int(np.sqrt(picture.size / _SAMPLED_PIXELS)))
    sampled = picture[::stride, ::stride]
    if left_out is not None:
        counted = sampled[~left_out[::stride, ::stride]]
        sampled = counted if counted.size else sampled
    values = sampled.flatten()
    # `np.percentile` looks for more than is wanted here and takes three times as long.
    places = [share / 100 * (values.size - 1) for share in (low, high)]
    ends = [_value_at(values, place, start) for place, start in zip(places, (0, int(places[0])), strict=True)]
    return ends[0], ends[1]


def _value_at(values: NDArray[Any], place: float, start: int) -> float:
    """Give the value at a place between two of the sorted ones, by straight line; those before ``start`` are lower."""
    part, index = values[start:], int(place) - start
    part.partition(index)
    below = float(part[index])
    above = float(part[index + 1 :].min()) if place > int(place) else below
    return below + (above - below) * (place - int(place))


def between(picture: NDArray[Any], bottom: float, top: float) -> Array:
    """Map bottom..top onto 0..1 and clip; a range without extent gives zeros, for a constant picture says nothing."""
    if not top > bottom:
        return np.zeros(picture.shape, dtype=np.float32)
    scaled = np.subtract(picture, np.float32(bottom), dtype=np.float32)
    scaled *= np.float32(1.0 / (top - bottom))
    return np.asarray(np.clip(scaled, 0.0, 1.0, out=scaled), dtype=np.float32)


def to_unit(
    frame: NDArray[Any],
    photometric_interpretation: str = "MONOCHROME2",
    window: tuple[float, float] | None = None,
    padding: tuple[int, int] | None = None,
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
    padding
        First and last of the values that are no picture (Pixel Padding Value and Range Limit): black, and not counted
        in the percentiles.

    Returns
    -------
    (rows, cols) float32 in 0..1, of `shown` divided by `shrinking`; a constant frame gives zeros.

    Raises
    ------
    StageFailed
        The array is empty or is no single grey or RGB frame.
    """
    if frame.size == 0 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        raise StageFailed(f"a frame of shape {frame.shape} is neither (rows, cols) nor (rows, cols, 3)")
    grey = frame if frame.ndim == 2 else _luminance(frame)
    turned = photometric_interpretation.strip() == "MONOCHROME1"
    padded = _padded(grey, padding)
    picture = grey if padded is None else grey[~padded]
    lowest, highest = picture.min(), picture.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):  # what is not a number is the lowest and the highest
        raise StageFailed("the frame holds values that are not finite")
    if padded is not None:
        grey = np.where(padded, highest if turned else lowest, grey)
    by = shrinking(*grey.shape)
    cells, levels = _cells(grey, lowest, highest, turned=turned, spread=by > 1)
    cells = _shrunk(cells, by)
    if window is None:
        left_out = None if padded is None else _shrunk(padded.astype(np.float32), by) > 0
        bottom, top = percentiles(cells, 0.5, 99.5, left_out)
        if not top > bottom:  # a small subject on an even ground: more than 99 % of one value
            bottom, top = float(cells.min()), float(cells.max())
    else:
        centre, width = window
        # The linear function of PS3.3 C.11.2.1.2.1: the half pixel at both ends belongs to it.
        ends = (centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)
        bottom, top = sorted(levels * (float(highest) - end if turned else end - float(lowest)) for end in ends)
    return between(cells, bottom, top)


def _luminance(frame: NDArray[Any]) -> NDArray[Any]:
    """Grey of RGB; of integers whole numbers, so that a grey picture in colours is that very picture."""
    if frame.dtype in (np.uint8, np.uint16):
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY))
    return np.asarray(frame.astype(np.float32) @ _LUMINANCE)


def _padded(grey: NDArray[Any], padding: tuple[int, int] | None) -> NDArray[np.bool_] | None:
    """Which pixels are padding; None when none is or all are."""
    if padding is None:
        return None
    low, high = min(padding), max(padding)
    found = grey == low if low == high else (grey >= low) & (grey <= high)
    return np.asarray(found) if found.any() and not found.all() else None


def _cells(grey: NDArray[Any], lowest: Any, highest: Any, *, turned: bool, spread: bool) -> tuple[NDArray[Any], float]:
    """Give the values from 0 upwards, low dark, in 16 bits where their range allows, and how many of them a grey level is."""
    span = highest.item() - lowest.item()
    if grey.dtype.kind not in "iu" or span >= _LEVELS:
        wide = np.float64 if grey.dtype.itemsize > 2 else np.float32
        base = (highest if turned else lowest).astype(wide)
        real = base - grey.astype(wide) if turned else grey.astype(wide) - base
        return np.asarray(real, dtype=np.float32), 1.0
    if grey.dtype.itemsize != 2:
        grey = (grey - lowest).view(f"u{grey.dtype.itemsize}").astype(np.uint16)
        lowest, highest = np.uint16(0), np.uint16(span)
    # Arithmetic modulo 2^16, and the like of it above, gives the right difference of signed values too.
    cells, low, high = (part.view(np.uint16) for part in (grey, lowest, highest))
    if turned:
        cells = high - cells
    elif low:
        cells = cells - low
    levels = (_LEVELS - 1) // max(1, span) if spread and span < _FINE_LEVELS else 1
    return (cells * np.uint16(levels) if levels > 1 else cells), float(levels)


def _shrunk(cells: NDArray[Any], by: int) -> NDArray[Any]:
    """Average blocks of ``by`` times ``by`` pixels."""
    if by == 1:
        return cells
    rows, cols = cells.shape[0] // by, cells.shape[1] // by
    whole = cells[: rows * by, : cols * by]
    return np.asarray(cv2.resize(whole, (cols, rows), interpolation=cv2.INTER_AREA))

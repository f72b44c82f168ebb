"""Prepares pictures for reading: what is drawn comes out dark on white, what is anatomy goes away.

**Way** `pages` makes of one picture several `Page`: thin bright strokes and thin dark ones (top-hat and bottom-hat), and the
parts that lie at the very ends of the scale, where burned-in text usually lies; enlarged for small text, reduced for large.

**Fails** `RedactionUncertain` for a picture that is too large to be read.

**Limits** Strokes are found up to 9 pixels wide at full size and 27 at the reduced one; contrast below 10 % of the scale
is anatomy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import RedactionUncertain

Grey = NDArray[np.uint8]
#: Pixels of a frame that will still be read.
MAX_PIXELS = 80_000_000
#: Longest side that small text is enlarged to, and by how much at most.
_FINE_SIDE, _FINE_SCALE = 1700, 5.0
_STROKE = 9
_CONTRAST = 26
_ENDS = 3


@dataclass(frozen=True, slots=True)
class Page:
    """One rendering: what tesseract reads, and which pixels of the frame are ink in it."""

    #: (rows * scale, cols * scale) uint8, dark on white.
    picture: Grey
    scale: float
    #: (rows, cols) bool.
    ink: NDArray[np.bool_]
    #: (rows, cols) uint8, the frame itself.
    grey: Grey


def pages(picture: Grey) -> list[Page]:
    """Render a frame for reading.

    Parameters
    ----------
    picture
        (rows, cols) grey or (rows, cols, 3) RGB, uint8.
    """
    if picture.shape[0] * picture.shape[1] > MAX_PIXELS:
        raise RedactionUncertain("a frame is too large to be read")
    bright, dark = (picture, picture) if picture.ndim == 2 else (picture.max(axis=2), picture.min(axis=2))
    longest = max(bright.shape)
    fine = min(_FINE_SCALE, max(1.0, _FINE_SIDE / longest))
    made = [
        _strokes(bright, fine, cv2.MORPH_TOPHAT),
        _strokes(dark, fine, cv2.MORPH_BLACKHAT),
        _ends(bright, fine, lambda grey: grey >= 255 - _ENDS),
        _ends(dark, fine, lambda grey: grey <= _ENDS),
    ]
    if longest >= 400:
        coarse = fine / 3
        made += [_large(bright, coarse, cv2.MORPH_TOPHAT), _large(dark, coarse, cv2.MORPH_BLACKHAT)]
    return [page for page in made if page is not None]


def _strokes(grey: Grey, scale: float, operation: int) -> Page | None:
    """Thin strokes, with soft edges."""
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (_STROKE, _STROKE))
    hat = np.asarray(cv2.morphologyEx(grey, operation, kernel), np.uint8)
    ink = _glyphs(hat > max(_CONTRAST, float(np.percentile(hat, 90)) * 1.3))
    if not ink.any():
        return None
    soft = np.where(cv2.dilate(ink.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0, hat, 0).astype(np.float32)
    top = float(np.percentile(soft[soft > 0], 95))
    return Page(_resize(255 - np.clip(soft * (255 / top), 0, 255).astype(np.uint8), scale), scale, ink, grey)


def _ends(grey: Grey, scale: float, at_end: Callable[[Grey], NDArray[np.bool_]]) -> Page | None:
    """Shapes of the size of glyphs that lie at one end of the scale."""
    ink = _glyphs(at_end(grey), hollow=True)
    return Page(_resize(np.where(ink, 0, 255).astype(np.uint8), scale), scale, ink, grey) if ink.any() else None


def _large(grey: Grey, scale: float, operation: int) -> Page | None:
    """Strokes of large text, in the reduced picture."""
    third = np.asarray(cv2.resize(grey, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA), np.uint8)
    page = _strokes(third, scale * 3, operation)
    if page is None:
        return None
    ink = cv2.resize(page.ink.astype(np.uint8), grey.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return Page(page.picture, page.picture.shape[1] / grey.shape[1], ink, grey)


def _glyphs(mask: NDArray[np.bool_], *, hollow: bool = False) -> NDArray[np.bool_]:
    """Keep connected parts of the size of glyphs, or of words that touch."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    width, height, area = stats[:, 2], stats[:, 3], stats[:, 4]
    keep = (area >= 3) & (height >= 3) & (height <= 90) & (width <= 300)
    if hollow:
        keep &= (area < 0.9 * width * height) | (area < 60)
    keep[0] = False
    return np.asarray(keep[labels])


def _resize(grey: Any, scale: float) -> Grey:
    if scale == 1:
        return np.asarray(grey, np.uint8)
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=method), np.uint8)

"""Scale a picture and set lines of text below it, never over it.

**Way** An 8-bit picture, grey or RGB, and lines of ASCII come in; one array with a black band under the picture goes out.
Same input, same pixels: nothing here depends on a screen, a font file or the clock.

**Limits** cv2's vector letters are ASCII only and plain.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

#: Longest side of the picture, pixels.
LONGEST = 1024
#: A smaller picture is enlarged to this longest side, but at most four times, pixels.
SHORT, AT_MOST = 512, 4.0
#: The caption is legible from this width on; a narrower picture stands in the middle of it, pixels.
NARROWEST = 384
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MARGIN = 8


def scale(picture: Picture, aspect: float = 1.0) -> Picture:
    """Bring a picture to the size of a capture.

    Parameters
    ----------
    aspect
        Height of a pixel divided by its width; pixels come out square.
    """
    rows, cols = picture.shape[:2]
    height, width = (rows * aspect, float(cols)) if aspect >= 1 else (float(rows), cols / aspect)
    longest = max(height, width)
    factor = LONGEST / longest if longest > LONGEST else min(AT_MOST, max(1.0, SHORT / longest))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size == (cols, rows):
        return picture
    shrinks = size[0] * size[1] < rows * cols
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(scaled, dtype=np.uint8)


def below(picture: Picture, lines: Sequence[str]) -> Picture:
    """Set the lines in a band under the picture; the picture's own pixels stay as they are."""
    rows, cols = picture.shape[:2]
    width = max(cols, NARROWEST)
    size = _font_scale(lines, width)
    thickness = max(1, round(size * 1.5))
    step = round(36 * size) + 2
    canvas: Picture = np.zeros((rows + step * len(lines) + 2 * _MARGIN, width, *picture.shape[2:]), dtype=np.uint8)
    left = (width - cols) // 2
    canvas[:rows, left : left + cols] = picture
    # A band of its own, so that no letter can reach into the picture.
    band = np.zeros((canvas.shape[0] - rows, width), dtype=np.uint8)
    for number, line in enumerate(lines, start=1):
        foot = _MARGIN + number * step - round(10 * size)
        cv2.putText(band, line, (_MARGIN, foot), _FONT, size, 255, thickness, cv2.LINE_AA)
    canvas[rows:] = band if picture.ndim == 2 else band[..., np.newaxis]
    return canvas


def _font_scale(lines: Sequence[str], width: int) -> float:
    """Largest letters, up to a fixed share of the width, with which every line fits."""
    wanted = width / 1024 * 0.9
    needed = max((cv2.getTextSize(line, _FONT, 1.0, 2)[0][0] for line in lines), default=1)
    return min(max(wanted, 0.45), (width - 2 * _MARGIN) / max(needed, 1))

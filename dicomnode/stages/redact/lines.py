"""Puts the words of all pages of a frame together into lines of text, and drops what is anatomy.

**Way** Words that are surely text are seeds; uncertain ones count when they stand in line with a seed or when they say
something of the header. `lines` gives the lines of each page; boxes are those of the frame, grown to the edge of the glyphs.

**Fails** Nothing.

**Limits** A single uncertain word far from any other is taken for anatomy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.stages.redact.ocr import Word
from dicomnode.stages.redact.pages import Page

#: Score from which a word is text (`_sure`).
_SURE = 6.2
_SMALL_PX = 20


@dataclass(frozen=True, slots=True, repr=False)
class Box:
    """A word in the frame; no repr, so that its text reaches no log."""

    x: int
    y: int
    w: int
    h: int
    confidence: float
    text: str

    def shared(self, other: Box) -> int:
        """Pixels that both boxes hold."""
        width = min(self.right, other.right) - max(self.x, other.x)
        height = min(self.bottom, other.bottom) - max(self.y, other.y)
        return max(0, width) * max(0, height)

    @property
    def letters(self) -> int:
        """Number of letters and digits."""
        return len(re.sub(r"[\W_]", "", self.text))

    @property
    def right(self) -> int:
        """First column behind the box."""
        return self.x + self.w

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.y + self.h


def lines(pages: Sequence[Page], words: Sequence[Word], telling: Callable[[str], bool]) -> list[list[Box]]:
    """Give the lines of text of a frame, page after page, words from left to right.

    Parameters
    ----------
    telling
        Says whether a text is something that identifies; such a word is text however uncertain it is.
    """
    found: list[list[Box]] = []
    for number, page in enumerate(pages):
        own = [word for word in words if word.page == number and word.confidence >= 0]
        if not own:
            continue
        glyphs = _glyphs(page.ink)
        boxes = [_grow(_scaled(word, page), glyphs) for word in own]
        boxes = [box for box in boxes if box.letters and 4 <= box.h <= 120]
        seeds = {i for i, box in enumerate(boxes) if _sure(box, page) or (box.confidence >= 20 and telling(box.text))}
        found += [[boxes[i] for i in row] for row in _rows(boxes) if seeds & set(row)]
    return found


def _sure(box: Box, page: Page) -> bool:
    """Say whether a word is text by itself: read with confidence, long, drawn in contrast, with the ink of glyphs.

    The weights are a rounded logistic regression over the words that tesseract read in the trial data.
    """
    # Glyphs are not ten times as wide as they are high, nor the other way round.
    shape = box.w / box.h / box.letters
    score = 3 * box.confidence / 100 + 3 * min(box.letters, 5) / 5
    place = (slice(box.y, box.bottom), slice(box.x, box.right))
    ink, grey = page.ink[place], page.grey[place]
    if ink.any() and not ink.all():
        contrast = abs(float(grey[ink].mean()) - float(grey[~ink].mean())) / 255
        score += 6 * min(contrast, 0.5) + 6.25 * min(float(ink.mean()), 0.4)
    # Anatomy makes large false words, people burn in small ones: a large one must be read well.
    score -= min(2.0, max(0, box.h - _SMALL_PX) / _SMALL_PX)
    return score >= _SURE and 0.15 <= shape <= 2.5


def _scaled(word: Word, page: Page) -> Box:
    left, top = int(word.x / page.scale), int(word.y / page.scale)
    right = int(np.ceil((word.x + word.w) / page.scale))
    bottom = int(np.ceil((word.y + word.h) / page.scale))
    rows, cols = page.ink.shape
    left, top, right, bottom = max(0, left), max(0, top), min(cols, right), min(rows, bottom)
    return Box(left, top, max(1, right - left), max(1, bottom - top), word.confidence, word.text)


def _glyphs(ink: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(n, 4) of left, top, right, bottom of every connected part."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    stats = np.asarray(stats[1:], np.int32)
    return np.column_stack((stats[:, 0], stats[:, 1], stats[:, 0] + stats[:, 2], stats[:, 1] + stats[:, 3])).astype(np.int32)


def _grow(box: Box, glyphs: NDArray[np.int32]) -> Box:
    """Grow a box over the glyphs that it cuts."""
    left, top, right, bottom = box.x, box.y, box.right, box.bottom
    height = bottom - top
    x0, y0, x1, y1 = glyphs.T
    cut = (x0 < right) & (x1 > left) & (y0 < bottom) & (y1 > top)
    cut &= (y1 - y0 <= 1.8 * height) & (x1 - x0 <= max(box.w, 3 * height)) & (x0 >= left - height) & (x1 <= right + height)
    if cut.any():
        left, right = min(left, int(x0[cut].min())), max(right, int(x1[cut].max()))
        top = max(top - height // 4 - 1, min(top, int(y0[cut].min())))
        bottom = min(bottom + height // 4 + 1, max(bottom, int(y1[cut].max())))
    return Box(left, top, right - left, bottom - top, box.confidence, box.text)


def _rows(boxes: Sequence[Box]) -> list[list[int]]:
    """Group words that stand side by side: same height within a factor of 2, overlapping rows, a gap of 2.5 heights."""
    order = sorted(range(len(boxes)), key=lambda i: boxes[i].x)
    rows: list[list[int]] = []
    for i in order:
        for row in rows:
            if _beside(boxes[row[-1]], boxes[i]):
                row.append(i)
                break
        else:
            rows.append([i])
    return rows


def _beside(a: Box, b: Box) -> bool:
    overlap = min(a.bottom, b.bottom) - max(a.y, b.y)
    low, high = sorted((a.h, b.h))
    return overlap >= 0.5 * low and high <= 2.2 * low and -0.5 * high <= b.x - a.right <= 2.5 * high

"""One line of text cut out of a frame: turned upright, freed of its ground, and where its ink lies.

**Way** `cut` takes the line with a margin out of the views. `Strip.page` and `Strip.other_page` render it dark on white: the
departure from the median around it (even where the contrast is low) and the likeness to the tone of the ink (even where anatomy
lies behind it). `Strip.ink` says which pixels are ink, `Strip.place` where a rectangle of the strip lies in the frame.

**Fails** Nothing.

**Limits** Ink is what departs from the median of its surroundings in one direction: of letters whose tone is that of the
ground, only the outline is ink.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.stages.redact.line import Line, Place

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]
#: Margin around a line, as a share of its thickness, and at least so many pixels.
_MARGIN, _MARGIN_PX = 0.5, 3
#: Side of the surroundings whose median is the ground, in thicknesses.
_GROUND = 1.5
#: Thickness of a line on its page, and the white around it: of 28 to 56 px, 36 were read best.
TARGET_PX, BORDER_PX = 36, 12
#: Percentile of the departures within a line that is black on its page.
_BLACK = 97.0
#: Least departure, in grey levels, that is black: less is noise.
_LEAST = 4.0


@dataclass(frozen=True, eq=False)
class Strip:
    """The pixels of one line, text running from left to right."""

    line: Line
    #: (rows, cols, 3) uint8, of the line and ``margin`` pixels on each side.
    views: NDArray[np.uint8]
    margin: int
    #: Quarter turns by which the views were turned: 1 counter-clockwise, -1 clockwise, for text that runs upwards.
    turns: int
    #: The views are red, green and blue.
    colour: bool
    _made: dict[int, tuple[NDArray[np.int16], bool]] = field(default_factory=dict, init=False, repr=False)

    @property
    def thickness(self) -> int:
        """Height of the line in pixels."""
        return int(self.views.shape[0]) - 2 * self.margin

    def _inner(self, array: NDArray[Any]) -> NDArray[Any]:
        return array[self.margin : -self.margin, self.margin : -self.margin]

    def _departs(self, plane: int) -> tuple[NDArray[np.int16], bool]:
        """Departure from the ground, and whether the ink is brighter than it."""
        if plane not in self._made:
            grey = np.ascontiguousarray(self.views[..., plane])
            side = min(255, max(5, int(self.thickness * _GROUND) | 1))
            apart = grey.astype(np.int16) - cv2.medianBlur(grey, side).astype(np.int16)
            # Glyphs cover less than half of their line, so what departs furthest is ink.
            third = self._inner(apart).astype(np.float32) ** 3
            self._made[plane] = apart, bool(third.mean() >= 0)
        return self._made[plane]

    def _ink(self, plane: int) -> Grey:
        """How far each pixel departs in the direction of the ink."""
        apart, bright = self._departs(plane)
        return np.asarray(np.clip(apart if bright else -apart, 0, 255), np.uint8)

    @cached_property
    def _planes(self) -> tuple[int, int]:
        """The plane of the even contrast and that of the true tones: of a colour frame, the one in which most can be told."""
        if not self.colour:
            return 2, 0
        best = max(range(3), key=lambda plane: _split(self._inner(self._ink(plane)))[1])
        return best, best

    @property
    def page(self) -> Grey:
        """Render for reading, (rows, cols) uint8, dark on white: what departs from its ground."""
        return self._page(self._white(self._ink(self._planes[0])))

    @property
    def other_page(self) -> Grey:
        """Render otherwise: what has the tone of the ink, whatever lies behind it."""
        return self._page(self._tones(self._planes[1]))

    def _white(self, ink: Grey) -> Grey:
        black = max(_LEAST, float(np.percentile(self._inner(ink), _BLACK)))
        return np.asarray(255 - np.clip(ink * np.float32(255 / black), 0, 255), np.uint8)

    def _tones(self, plane: int) -> Grey:
        """Dark what has the tone of the ink, whatever lies behind it."""
        grey, ink = self.views[..., plane].astype(np.float32), self._ink(plane)
        inner, values = self._inner(ink), self._inner(grey)
        split, _ = _split(inner)
        is_ink = inner > max(split, float(np.percentile(inner, _BLACK)) / 2)
        if is_ink.sum() < 4 or is_ink.all():
            return self._white(ink)
        tone, ground = float(np.median(values[is_ink])), float(np.median(values[~is_ink]))
        reach = max(8.0, abs(tone - ground)) * 0.6
        return np.asarray(np.clip(np.abs(grey - tone) * (255 / reach), 0, 255), np.uint8)

    def _page(self, grey: Grey) -> Grey:
        scale = self.scale
        method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        big = np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=method), np.uint8)
        edges = (BORDER_PX, BORDER_PX, BORDER_PX, BORDER_PX)
        return np.asarray(cv2.copyMakeBorder(big, *edges, cv2.BORDER_CONSTANT, value=255), np.uint8)

    @property
    def scale(self) -> float:
        """Pixels of a page for one of the strip."""
        return TARGET_PX / self.thickness

    @cached_property
    def ink(self) -> Mask:
        """Which pixels are ink."""
        ink = self._ink(self._planes[0])
        split, _ = _split(self._inner(ink))
        return np.asarray(ink > max(_LEAST, 0.8 * split, 0.35 * float(np.percentile(self._inner(ink), _BLACK))))

    def place(self, left: int, top: int, right: int, bottom: int) -> Place:
        """Give the place in the frame of a rectangle of the strip, by its edges."""
        rows, cols = self.views.shape[:2]
        if self.turns == -1:
            left, top, right, bottom = top, cols - right, bottom, cols - left
        elif self.turns == 1:
            left, top, right, bottom = rows - bottom, left, rows - top, right
        return Place(left + self.line.x - self.margin, top + self.line.y - self.margin, right - left, bottom - top)


def margin_of(line: Line) -> int:
    """Pixels around a line that are cut out with it."""
    return max(_MARGIN_PX, int(line.thickness * _MARGIN))


def cut(views: NDArray[np.uint8], line: Line, *, colour: bool) -> list[Strip]:
    """Cut a line out of the views of its frame; one that is vertical in both directions in which it may be read."""
    rows, cols = views.shape[:2]
    margin = margin_of(line)
    wide = line.grown(margin)
    part = views[max(0, wide.y) : max(0, wide.bottom), max(0, wide.x) : max(0, wide.right)]
    edges = (max(0, -wide.y), max(0, wide.bottom - rows), max(0, -wide.x), max(0, wide.right - cols))
    part = np.asarray(cv2.copyMakeBorder(part, *edges, cv2.BORDER_REPLICATE), np.uint8)
    # Of what is not much higher than wide, a single letter, nobody knows which way it runs.
    turned: tuple[int, ...] = (0,) if not line.vertical else (-1, 1) if line.h > 3 * line.w else (0, -1, 1)
    return [Strip(line, np.ascontiguousarray(np.rot90(part, turns)), margin, turns, colour) for turns in turned]


def _split(ink: NDArray[Any]) -> tuple[int, float]:
    """Divide grey levels in two (Otsu): the level, and how far the two lie apart."""
    counts = np.bincount(ink.ravel(), minlength=256).astype(np.float64)
    share = counts / counts.sum()
    below, mean = np.cumsum(share), np.cumsum(share * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num((mean[-1] * below - mean) ** 2 / (below * (1 - below)))
    level = int(between.argmax())
    return level, float(np.sqrt(between[level]))

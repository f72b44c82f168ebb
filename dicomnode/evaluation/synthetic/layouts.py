"""Where text stands on a frame: the layouts of consoles, as strings with their boxes and strokes.

**Way** `lay` chooses a layout, a face and a size and puts lines on a `Sheet`, which keeps colour and cover of what is drawn,
so that one sheet lies over every frame of a loop. Strings never touch each other.

**Limits** A string that finds no room is left out, so that a small frame has fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.evaluation.synthetic.fonts import Cover, Face
from dicomnode.evaluation.synthetic.scenes import Grey
from dicomnode.evaluation.synthetic.words import Identity, Part, harmless, identifying

_COLOURS = ((255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 176, 64))
#: Grey levels by which faint text stands out, and from which mean on a ground is bright.
_FAINT, _BRIGHT = (26, 60), 150
#: Pixels that stay free between strings.
_FREE_PX = 3


@dataclass(frozen=True, slots=True)
class Style:
    """How a block of lines is drawn."""

    face: Face
    size: int
    #: plain, outline (with a rim of the other polarity), box (on a ground of its own), faint.
    kind: str
    colour: tuple[int, int, int]
    #: Quarter turns against the clock.
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """A string on the sheet."""

    part: Part
    x0: int
    y0: int
    x1: int
    y1: int
    style: Style
    polarity: str


class Sheet:
    """What is drawn over a frame."""

    def __init__(self, ground: Grey) -> None:
        self.ground = ground
        self.cover = np.zeros(ground.shape, np.float32)
        self.tone = np.zeros((*ground.shape, 3), np.uint8)
        self.strokes = np.zeros(ground.shape, bool)
        self._taken = np.zeros(ground.shape, bool)
        self.placed: list[Placed] = []

    def over(self, frame: Grey, *, colour: bool) -> NDArray[np.uint8]:
        """Lay it over a frame, grey or RGB."""
        tone = self.tone if colour else self.tone.max(axis=2, keepdims=True)
        cover = self.cover[..., None]
        mixed = np.rint(frame[..., None] * (1 - cover) + tone * cover).astype(np.uint8)
        return mixed if colour else mixed[..., 0]

    def put(self, line: Sequence[Part], style: Style, x: int, y: int, *, right: bool = False, low: bool = False) -> int:
        """Draw a line with a corner at (x, y): its left or right, its top or bottom; gives how high it is, 0 without room."""
        strip, boxes = _strip(line, style)
        height, width = map(int, strip.shape)
        rows, columns = self.ground.shape
        left, top = x - width * right, y - height * low
        if not height or min(left, top) < 2 or left + width > columns - 2 or top + height > rows - 2:
            return 0
        around = (
            slice(max(0, top - _FREE_PX), top + height + _FREE_PX),
            slice(max(0, left - _FREE_PX), left + width + _FREE_PX),
        )
        if self._taken[around].any():
            return 0
        self._taken[top : top + height, left : left + width] = True
        polarity = self._draw(strip, style, left, top)
        for part, x0, y0, x1, y1 in boxes:
            self.placed.append(Placed(part, left + x0, top + y0, left + x1, top + y1, style, polarity))
        return height

    def _draw(self, strip: Cover, style: Style, left: int, top: int) -> str:
        """Mix a strip in; gives its polarity."""
        place = (slice(top, top + strip.shape[0]), slice(left, left + strip.shape[1]))
        ground = float(self.ground[place][strip > 0.5].mean())
        bright = ground < _BRIGHT
        if style.kind == "box":
            bright = style.size % 2 == 0
            grown = (slice(max(0, top - 2), top + strip.shape[0] + 2), slice(max(0, left - 3), left + strip.shape[1] + 3))
            self._mix(grown, np.ones_like(self.cover[grown]), (0, 0, 0) if bright else (255, 255, 255))
        elif style.kind == "outline":
            bright = style.size % 3 > 0
            rim = cv2.dilate(strip, np.ones((3, 3), np.uint8))
            self._mix(place, np.asarray(rim, np.float32), (0, 0, 0) if bright else (255, 255, 255))
        tone = style.colour if bright else (0, 0, 0)
        if style.kind == "faint":
            apart = _FAINT[0] + (style.size * 7) % (_FAINT[1] - _FAINT[0])
            level = int(np.clip(ground + (apart if bright else -apart), 0, 255))
            tone = (level, level, level)
        self._mix(place, strip, tone)
        self.strokes[place] |= strip > 0.5
        return "bright on dark" if bright else "dark on bright"

    def _mix(self, place: tuple[slice, slice], cover: Cover, tone: tuple[int, int, int]) -> None:
        """Lay a colour over what is there; where both cover, the sheet's own colour is mixed."""
        old, new = self.cover[place], cover
        both = new + old * (1 - new)
        share = np.divide(new, both, out=np.zeros_like(new), where=both > 0)[..., None]
        self.tone[place] = np.rint(self.tone[place] * (1 - share) + np.array(tone, np.float32) * share).astype(np.uint8)
        self.cover[place] = both


def _strip(line: Sequence[Part], style: Style) -> tuple[Cover, list[tuple[Part, int, int, int, int]]]:
    """A line as one picture, turned as it will stand, and the boxes of its strings in it."""
    drawn = [(part, style.face.draw(part.text, style.size)) for part in line]
    drawn = [(part, cover) for part, cover in drawn if cover.size]
    gap = max(4, round(style.size * 0.55))
    height = max((cover.shape[0] for _, cover in drawn), default=0)
    strip = np.zeros((height, sum(cover.shape[1] + gap for _, cover in drawn) - gap * bool(drawn)), np.float32)
    labels, x = np.zeros(strip.shape, np.uint8), 0
    for number, (_, cover) in enumerate(drawn, 1):
        place = (slice(0, cover.shape[0]), slice(x, x + cover.shape[1]))
        strip[place], labels[place] = cover, np.where(cover > 0.5, number, 0)
        x += cover.shape[1] + gap
    rows = np.flatnonzero(labels.any(axis=1))
    if not rows.size:
        return np.zeros((0, 0), np.float32), []
    cut = slice(rows[0], rows[-1] + 1)
    strip, labels = (np.ascontiguousarray(np.rot90(a[cut], style.turns)) for a in (strip, labels))
    boxes = []
    for number, (part, _) in enumerate(drawn, 1):
        ys, xs = np.nonzero(labels == number)
        boxes.append((part, int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())))
    return strip, boxes


Lay = Callable[[Sheet, np.random.Generator, list[list[Part]], list[Part], Style], None]


def _block(
    sheet: Sheet, lines: Sequence[Sequence[Part]], style: Style, corner: tuple[int, int], *, right: bool, low: bool
) -> None:
    x, y = corner
    step = -1 if low else 1
    for line in reversed(lines) if low else lines:
        height = sheet.put(line, style, x, y, right=right, low=low)
        y += step * (max(height, style.size) + max(3, style.size // 3))


def _corners(sheet: Sheet, random: np.random.Generator, said: list[list[Part]], words: list[Part], style: Style) -> None:
    """Demographics and technique in the four corners: X-ray, CT, MR."""
    rows, columns = sheet.ground.shape
    edge = 6 + int(random.integers(0, 10))
    spots = [((edge, edge), False, False), ((columns - edge, edge), True, False), ((edge, rows - edge), False, True),
             ((columns - edge, rows - edge), True, True)]  # fmt: skip
    blocks = [said[:4], said[4:8], [[word] for word in words[:4]], [*said[8:], *([word] for word in words[4:7])]]
    for which, (corner, right, low) in zip(random.permutation(4), spots, strict=True):
        _block(sheet, blocks[int(which)], style, corner, right=right, low=low)


def _banner(sheet: Sheet, random: np.random.Generator, said: list[list[Part]], words: list[Part], style: Style) -> None:
    """Ultrasound: a band with person and place, technique down one side."""
    x, y = 8, 8
    for line in said[: int(random.integers(4, 9))]:
        before = len(sheet.placed)
        if not sheet.put(line, style, x, y):
            x, y = 8, y + 2 * style.size
            sheet.put(line, style, x, y)
        if len(sheet.placed) > before:
            x = sheet.placed[-1].x1 + 2 * style.size
    right = bool(random.integers(0, 2))
    _block(
        sheet,
        [[word] for word in words],
        style,
        (sheet.ground.shape[1] - 8 if right else 8, y + 3 * style.size),
        right=right,
        low=False,
    )


def _label(sheet: Sheet, random: np.random.Generator, said: list[list[Part]], words: list[Part], style: Style) -> None:
    """Mammography and film: a label somewhere, a view mark beside it."""
    rows, columns = sheet.ground.shape
    for block in (said[:4], [[words[0]]], said[4:7], [[word] for word in words[1:3]]):
        _block(
            sheet,
            block,
            style,
            (int(random.integers(4, columns)), int(random.integers(4, rows))),
            right=bool(random.integers(0, 2)),
            low=False,
        )


def _ticker(sheet: Sheet, random: np.random.Generator, said: list[list[Part]], words: list[Part], style: Style) -> None:
    """One line along an edge with everything in it."""
    y = 5 if random.random() < 0.5 else sheet.ground.shape[0] - 5 - 2 * style.size
    for start in range(0, len(said), 3):
        sheet.put([part for line in said[start : start + 3] for part in line] + words[start // 3 : start // 3 + 1], style, 6, y)
        y += (2 * style.size + 2) * (1 if y < sheet.ground.shape[0] / 2 else -1)


def _over(sheet: Sheet, random: np.random.Generator, said: list[list[Part]], words: list[Part], style: Style) -> None:
    """Lines anywhere, over what is shown."""
    rows, columns = sheet.ground.shape
    for line in [*said, *([word] for word in words)]:
        for _ in range(4):
            if sheet.put(line, style, int(random.integers(4, columns)), int(random.integers(4, rows))):
                break


LAYOUTS: dict[str, Lay] = {"corners": _corners, "banner": _banner, "label": _label, "ticker": _ticker, "over": _over}
_KINDS = ("plain", "plain", "plain", "plain", "outline", "box", "faint")


def lay(
    sheet: Sheet,
    random: np.random.Generator,
    who: Identity,
    faces: dict[str, list[Face]],
    *,
    colour: bool,
) -> str:
    """Fill a sheet; gives the name of the layout."""
    name = str(random.choice(list(LAYOUTS)))
    family = faces[str(random.choice(list(faces)))]
    face = family[int(random.integers(0, len(family)))]
    # Small sizes are the common ones.
    size = int(np.clip(np.exp(random.uniform(np.log(8), np.log(60))), face.least(), sheet.ground.shape[0] / 14))
    turns = int(random.choice((0, 0, 0, 0, 0, 0, 1, 3)))
    chosen = _COLOURS[int(random.integers(0, len(_COLOURS)))] if colour else _COLOURS[0]
    style = Style(face, max(size, face.least()), str(random.choice(_KINDS)), chosen, turns)
    said = identifying(random, who)
    order = random.permutation(len(said))
    LAYOUTS[name](sheet, random, [said[int(n)] for n in order], harmless(random, 8), style)
    return name

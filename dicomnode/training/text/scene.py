"""One piece to learn from: a part of a picture with text drawn into it, as stored values, rendered as the node renders them.

**Way** `make_scene` cuts a ground, draws clutter, then blocks of text: typeface, size, polarity, contrast, outlines, boxes and
turns by 90 degrees as they come; some words are blanked again, for what redaction leaves behind is no text. The picture becomes
stored values of 8 to 16 bits, or colour, and goes through `stages.redact.views`.

**Limits** Text at other angles than multiples of 90 degrees is not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.stages.redact.views import stack
from dicomnode.training.text.clutter import blank, draw_clutter
from dicomnode.training.text.fonts import Face, Ink, Typecase
from dicomnode.training.text.grounds import Grounds
from dicomnode.training.text.phrases import phrase

Random = np.random.Generator
#: left, top, right, bottom.
Box = tuple[int, int, int, int]
#: Font sizes in pixels, drawn evenly in their logarithm.
SIZES = (7.0, 84.0)
#: Least difference from the ground: as a share of the scale, and in standard deviations of the ground under it.
_CONTRAST, _ABOVE = 0.045, 1.2
_BITS = (8, 8, 8, 10, 12, 12, 14, 16)


@dataclass(slots=True)
class Scene:
    """What the network sees, and what it shall say."""

    #: (side, side, 3) uint8.
    views: NDArray[np.uint8]
    #: Lines of text, the ink's own box.
    lines: list[Box]
    #: (side, side) bool: nobody knows whether this is text.
    doubt: NDArray[np.bool_]


@dataclass(slots=True)
class Canvas:
    """A picture under way."""

    picture: NDArray[np.float32]
    doubt: NDArray[np.bool_]
    lines: list[Box] = field(default_factory=list)

    @property
    def side(self) -> int:
        """Rows of the picture, and columns where it is a piece."""
        return int(self.picture.shape[0])

    def free(self, box: Box, gap: int) -> bool:
        """Say whether nothing is written within ``gap`` pixels."""
        return not any(
            box[0] - gap < o[2] and o[0] < box[2] + gap and box[1] - gap < o[3] and o[1] < box[3] + gap for o in self.lines
        )


@dataclass(frozen=True, slots=True)
class Style:
    """How one block of text looks."""

    face: Face
    size: int
    stroke: int
    hard: bool
    outline: int
    backed: int
    shadow: bool
    extreme: bool
    stretch: float
    alpha: float


def make_scene(grounds: Grounds, faces: Typecase, side: int, random: Random) -> Scene:
    """Make one piece of (side, side) pixels; ``side`` is a multiple of 32."""
    ground, doubt = grounds.cut(side, random)
    colour = random.random() < 0.2
    if random.random() < 0.5:
        # Text above all that the tube gave, as burned in by a console.
        ground = ground * np.float32(random.uniform(0.25, 1.0))
    if colour:
        tint = random.uniform(0.6, 1.0, 3) if random.random() < 0.4 else np.ones(3)
        ground = ground[:, :, None] * tint.astype(np.float32)
    canvas = Canvas(np.ascontiguousarray(ground, np.float32), doubt)
    draw_clutter(canvas.picture, random, lambda: _any_tone(random, colour=colour))
    if random.random() > 0.15:
        for _ in range(int(random.integers(1, 6))):
            _block(canvas, faces, random)
    _unwrite(canvas, random)
    return Scene(render(soften(canvas.picture, random), random), canvas.lines, canvas.doubt)


def _any_tone(random: Random, *, colour: bool) -> tuple[float, ...]:
    if colour:
        return tuple(float(v) for v in random.random(3))
    return (float(random.choice([0.0, 1.0, random.random()])),)


def draw_style(faces: Typecase, random: Random) -> Style:
    """Choose how a block of text looks."""
    face = faces.draw(random)
    size = int(np.exp(random.uniform(*np.log(SIZES))))
    return Style(
        face=face,
        size=size,
        stroke=int(random.integers(1, 2 + size // 14)),
        hard=random.random() < 0.35,
        outline=int(random.integers(1, 3)) if random.random() < 0.12 else 0,
        backed=int(random.integers(1, 9)) if random.random() < 0.15 else 0,
        shadow=random.random() < 0.07,
        extreme=random.random() < 0.6,
        stretch=float(random.uniform(0.75, 1.5)) if random.random() < 0.15 else 1.0,
        alpha=float(random.uniform(0.6, 1.0)) if random.random() < 0.2 else 1.0,
    )


def _block(canvas: Canvas, faces: Typecase, random: Random) -> None:
    """Write some lines below each other."""
    style = draw_style(faces, random)
    inks = [ink for _ in range(_how_many(style.size, random)) if (ink := ink_of(phrase(random), style)) is not None]
    if not inks:
        return
    step = max(3, round(max(ink.shape[0] for ink in inks) * random.uniform(1.1, 1.9)))
    turns = int(random.choice([0, 1, 3, 2], p=[0.78, 0.1, 0.1, 0.02]))
    inks = [np.rot90(ink, turns) for ink in inks]
    extent = canvas.side
    x0, y0 = (int(random.integers(-extent // 8, extent)) for _ in range(2))
    if random.random() < 0.5:
        # At an edge, as consoles have it.
        x0 = int(random.choice([random.integers(0, 12), extent - max(i.shape[1] for i in inks) - random.integers(0, 12)]))
    align = random.random()
    for number, ink in enumerate(inks):
        rows, cols = ink.shape
        widest, highest = max(i.shape[1] for i in inks), max(i.shape[0] for i in inks)
        if turns % 2:
            x, y = x0 + number * step, y0 + (0 if align < 0.6 else highest - rows)
        else:
            x, y = x0 + (0 if align < 0.6 else (widest - cols) // (1 if align < 0.85 else 2)), y0 + number * step
        write(canvas, ink, x, y, style, random)


def _how_many(size: int, random: Random) -> int:
    return int(random.integers(1, max(2, min(9, 150 // size))))


def ink_of(text: str, style: Style) -> Ink | None:
    """Draw a text; None where the typeface lacks its letters, or too little of it is left."""
    ink = style.face.draw(text, style.size, stroke=style.stroke)
    if ink is None or ink.shape[0] < 4 or ink.shape[1] < 2:
        return None
    if style.stretch != 1.0:
        how = cv2.INTER_NEAREST if style.hard else cv2.INTER_LINEAR
        size = max(2, round(ink.shape[1] * style.stretch)), max(4, round(ink.shape[0] * style.stretch))
        ink = np.asarray(cv2.resize(ink, size, interpolation=how), np.uint8)
    return np.where(ink > 110, 255, 0).astype(np.uint8) if style.hard else ink


def write(canvas: Canvas, ink: Ink, x: int, y: int, style: Style, random: Random) -> None:
    """Paint one line where there is room for it, and note its box."""
    rows, cols = ink.shape
    high, wide = canvas.picture.shape[:2]
    left, top, right, bottom = max(0, x), max(0, y), min(wide, x + cols), min(high, y + rows)
    if right - left < min(cols, 5) or bottom - top < 0.7 * rows:
        return
    margin = style.outline + style.backed
    gap = max(2, margin + 1)
    if not canvas.free((left, top, right, bottom), gap):
        return
    shown = ink[top - y : bottom - y, left - x : right - x]
    if not (shown > 64).any():
        return
    where = (slice(top, bottom), slice(left, right))
    tone = _tone(canvas.picture[where], style, random)
    if style.backed:
        paper = _opposite(tone, random)
        b = style.backed
        canvas.picture[max(0, top - b) : bottom + b, max(0, left - b) : right + b] = paper
    if style.outline or style.shadow:
        _paint_under(canvas.picture, shown, (left, top), style, _opposite(tone, random))
    cover = shown.astype(np.float32) / 255 * style.alpha
    if canvas.picture.ndim == 3:
        cover = cover[..., None]
    part = canvas.picture[where]
    canvas.picture[where] = part * (1 - cover) + np.float32(tone) * cover
    canvas.lines.append((left, top, right, bottom))


def _paint_under(picture: NDArray[np.float32], ink: Ink, at: tuple[int, int], style: Style, tone: NDArray[np.float32]) -> None:
    grow = max(1, style.outline)
    wide = cv2.copyMakeBorder(ink, grow, grow, grow, grow, cv2.BORDER_CONSTANT, value=0)
    if style.outline:
        wide = cv2.dilate(wide, np.ones((2 * grow + 1,) * 2, np.uint8))
    shift = 1 if style.shadow and not style.outline else 0
    x, y = at[0] - grow + shift, at[1] - grow + shift
    left, top = max(0, x), max(0, y)
    right, bottom = min(picture.shape[1], x + wide.shape[1]), min(picture.shape[0], y + wide.shape[0])
    cover = wide[top - y : bottom - y, left - x : right - x].astype(np.float32) / 255
    if picture.ndim == 3:
        cover = cover[..., None]
    picture[top:bottom, left:right] = picture[top:bottom, left:right] * (1 - cover) + tone * cover


def _tone(under: NDArray[np.float32], style: Style, random: Random) -> NDArray[np.float32]:
    """Choose a tone that can be seen on what is under it."""
    flat = under.reshape(-1, under.shape[2]) if under.ndim == 3 else under.reshape(-1, 1)
    mean, spread = flat.mean(axis=0), float(flat.std(axis=0).max())
    least = _CONTRAST + _ABOVE * spread
    if style.backed or style.outline:
        return np.asarray(random.choice([0.0, 1.0, random.random()]) * np.ones(flat.shape[1]), np.float32)
    if flat.shape[1] == 3 and random.random() < 0.6:
        for _ in range(8):
            pure = random.random() < 0.5
            colour = random.random(3)
            if pure:
                colour = np.round(colour * random.choice([1.0, 1.4])).clip(0, 1)
            if float(np.abs(colour - mean).max()) > max(0.15, least):
                return np.asarray(colour, np.float32)
    middle = float(mean.mean())
    if style.extreme or least > 0.45:
        tone = float(random.choice([0.0, 1.0], p=[0.3, 0.7]))
        if abs(tone - middle) < max(least, 0.08):
            tone = 1.0 - round(middle)
    else:
        step = least + (random.random() ** 2) * 0.5
        up = middle + step <= 1 and (random.random() < 0.6 or middle - step < 0)
        tone = float(np.clip(middle + step if up else middle - step, 0, 1))
    return np.full(flat.shape[1], tone, np.float32)


def _opposite(tone: NDArray[np.float32], random: Random) -> NDArray[np.float32]:
    """Give a tone at least a third of the scale away."""
    away = random.uniform(0.35, 1.0, tone.shape)
    return np.asarray(np.clip(np.where(tone > 0.5, tone - away, tone + away), 0, 1), np.float32)


def _unwrite(canvas: Canvas, random: Random) -> None:
    """Blank some lines or their ends again, and some places where nothing was."""
    if random.random() > 0.35:
        return
    value, pad = float(random.choice([0.0, 0.0, 0.0, 1.0])), int(random.integers(1, 9))
    kept: list[Box] = []
    for box in canvas.lines:
        across = box[2] - box[0] > box[3] - box[1]
        whole = random.random() < 0.4
        if whole or (across and random.random() < 0.3):
            cut = box[0] if whole else int(box[0] + (box[2] - box[0]) * random.uniform(0.3, 0.8))
            filled = blank(canvas.picture, (cut + (0 if whole else pad), box[1], box[2], box[3]), value, pad)
            if not whole and filled[0] - box[0] >= 6:
                # The rest of the line stands; a letter may be cut there.
                kept.append((box[0], box[1], filled[0], box[3]))
        else:
            kept.append(box)
    canvas.lines = kept


def soften(picture: NDArray[np.float32], random: Random) -> NDArray[np.float32]:
    """Blur, and add noise, as some pictures have them."""
    if random.random() < 0.15:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(random.uniform(0.3, 0.8))), np.float32)
    if random.random() < 0.4:
        picture = picture + random.normal(0, random.uniform(0.002, 0.025), picture.shape).astype(np.float32)
    return np.asarray(np.clip(picture, 0, 1), np.float32)


def _jpeg(picture: NDArray[np.uint8], random: Random) -> NDArray[np.uint8]:
    done, packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(45, 96))])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_UNCHANGED), np.uint8) if done else picture


def render(picture: NDArray[np.float32], random: Random) -> NDArray[np.uint8]:
    """Make the views of a picture, as if a device had stored it."""
    bits = int(random.choice(_BITS)) if picture.ndim == 2 else 8
    values = np.rint(picture * ((1 << bits) - 1)).astype(np.uint16)
    if bits == 8 and random.random() < 0.3:
        values = _jpeg(values.astype(np.uint8), random).astype(np.uint16)
    if values.ndim == 3:
        return values.astype(np.uint8)
    low, high = 0.0, float((1 << bits) - 1)
    if random.random() < 0.4:
        ends = np.sort(np.percentile(values[::4, ::4], random.uniform(0, 100, 2)))
        if ends[1] - ends[0] > 4:
            low, high = float(ends[0]), float(ends[1])
    shown = np.clip((values.astype(np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    falls = random.random() < 0.05
    made = stack(values, 255 - shown if falls else shown, falls=falls)
    if random.random() < 0.1:
        # Other renderings of other nodes: any view may stand for all.
        made[..., 1] = made[..., int(random.choice([0, 2]))]
    return made

"""One line of text to read: drawn as `scene` draws it, on a narrow piece of a picture, with its text.

**Way** `make_slip` writes one line in the middle of a canvas as large as it needs, sometimes with others close above and below,
and cuts it out with a box that is as inexact as a detector's. `encode` gives the classes of a text.

**Fails** `BadSetting` when no typeface draws any line.

**Limits** As `scene`. Blanks at the ends of a line and several in a row are not taught.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadSetting
from dicomnode.stages.redact.letters import ALPHABET
from dicomnode.stages.redact.slip import slip
from dicomnode.training.text.fonts import Ink, Typecase
from dicomnode.training.text.grounds import Grounds
from dicomnode.training.text.phrases import line
from dicomnode.training.text.scene import Canvas, Style, draw_style, ink_of, render, soften, write

Random = np.random.Generator
#: Columns of the longest line that is taught; longer ones are drawn anew.
WIDEST = 512
#: Pixels around a line, letters of one, and how often one is tried.
_AROUND, _LONGEST, _TRIES = 20, 44, 60
#: The strokes of Hershey know no letter beyond.
_ASCII = 126


def encode(text: str) -> list[int] | None:
    """Give the classes of a text, in order; None when it holds a letter that is not known."""
    places = [ALPHABET.find(letter) for letter in text]
    return None if -1 in places else [place + 1 for place in places]


def make_slip(grounds: Grounds, faces: Typecase, random: Random) -> tuple[NDArray[np.uint8], str]:
    """Make one line; (HEIGHT, cols, 3) uint8, at most `WIDEST` columns, and what it says."""
    for _ in range(_TRIES):
        style, text = draw_style(faces, random), " ".join(line(random)[:_LONGEST].split())
        strange = style.face.kind == "hershey" and any(ord(letter) > _ASCII for letter in text)
        if not text or encode(text) is None or strange:
            continue
        ink = ink_of(text, style)
        made = None if ink is None else _made(grounds, ink, style, random)
        if made is not None and made.shape[1] <= WIDEST:
            return made, text
    raise BadSetting("no typeface draws a line that can be taught")


def _made(grounds: Grounds, ink: Ink, style: Style, random: Random) -> NDArray[np.uint8] | None:
    """Write a line, and perhaps others above and below it, and cut it out; None where it cannot be seen."""
    rows, cols = ink.shape
    height, width = rows + 2 * _AROUND, cols + 2 * _AROUND
    canvas = Canvas(_ground(grounds, height, width, random), np.zeros((height, width), bool))
    write(canvas, ink, _AROUND, _AROUND, style, random)
    if not canvas.lines:
        return None
    if random.random() < 0.5:
        step = round(rows * random.uniform(1.15, 1.9))
        for way in (-1, 1):
            other = ink_of(line(random)[:_LONGEST], style)
            if other is not None and random.random() < 0.7:
                write(canvas, other, _AROUND + int(random.integers(-10, 10)), _AROUND + way * step, style, random)
    off = _inexact(min(rows, cols), random)
    box = (_AROUND + off[0], _AROUND + off[1], _AROUND + cols + off[2], _AROUND + rows + off[3])
    return slip(render(soften(canvas.picture, random), random), box).picture


def _ground(grounds: Grounds, height: int, width: int, random: Random) -> NDArray[np.float32]:
    """Cut a ground, as `scene.make_scene` does: sometimes darker than text, sometimes in colour."""
    ground = grounds.patch(height, width, random)
    if random.random() < 0.5:
        ground = ground * np.float32(random.uniform(0.25, 1.0))
    if random.random() < 0.2:
        tint = random.uniform(0.6, 1.0, 3) if random.random() < 0.4 else np.ones(3)
        ground = ground[:, :, None] * tint.astype(np.float32)
    return np.ascontiguousarray(ground, np.float32)


def _inexact(thick: int, random: Random) -> tuple[float, float, float, float]:
    """Move the sides of a box as a detector does: all a little, outwards more, and no letter cut off at the ends."""
    off = random.normal(0, 0.06, 4) + random.choice([0.0, 0.05, 0.15]) * np.array([-1, -1, 1, 1])
    off[[0, 2]] += random.normal(0, 0.1, 2)
    left, top, right, bottom = (float(side) for side in off * thick)
    return min(left, 0.5), top, max(right, -0.5), bottom

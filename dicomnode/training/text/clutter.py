"""What looks like drawing and is no text: rulers, frames, curves, grids, wires, blanked rectangles.

**Way** `draw_clutter` draws some of it into a picture of floats, before the text is drawn; `blank` draws filled rectangles, as
redaction leaves them, afterwards.

**Limits** Nothing that holds a letter or digit.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
Random = np.random.Generator


def draw_clutter(picture: Picture, random: Random, tone: Callable[[], tuple[float, ...]]) -> None:
    """Draw none to four things into ``picture``, (rows, cols) or (rows, cols, 3), in place."""
    for _ in range(random.integers(0, 5)):
        _THINGS[random.integers(len(_THINGS))](picture, random, tone())


def _at(picture: Picture, random: Random) -> tuple[int, int]:
    return int(random.integers(0, picture.shape[1])), int(random.integers(0, picture.shape[0]))


def _line(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    start, end = _at(picture, random), _at(picture, random)
    if random.random() < 0.5:
        end = (end[0], start[1]) if random.random() < 0.5 else (start[0], end[1])
    cv2.line(picture, start, end, tone, int(random.integers(1, 4)), cv2.LINE_AA)


def _dashes(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    (x, y), step, width = _at(picture, random), int(random.integers(4, 20)), int(random.integers(1, 3))
    for n in range(int(random.integers(4, 30))):
        cv2.line(picture, (x + n * step, y), (x + n * step + step // 2, y), tone, width)


def _ruler(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    (x, y), step, across = _at(picture, random), int(random.integers(4, 30)), random.random() < 0.5
    for n in range(int(random.integers(5, 40))):
        long = int(random.integers(3, 5)) * (2 if n % 5 == 0 else 1)
        a = (x + n * step, y) if across else (x, y + n * step)
        b = (a[0], a[1] + long) if across else (a[0] + long, a[1])
        cv2.line(picture, a, b, tone, 1)
    if random.random() < 0.5:
        cv2.line(picture, (x, y), (x + 400, y) if across else (x, y + 400), tone, 1)


def _frame(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    x, y = _at(picture, random)
    w, h = int(random.integers(6, 200)), int(random.integers(6, 120))
    cv2.rectangle(picture, (x, y), (x + w, y + h), tone, int(random.integers(1, 4)))


def _full(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    x, y = _at(picture, random)
    w, h = int(random.integers(4, 160)), int(random.integers(4, 60))
    cv2.rectangle(picture, (x, y), (x + w, y + h), tone, -1)


def _ellipse(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    axes = (int(random.integers(2, 90)), int(random.integers(2, 90)))
    sweep = float(random.choice([360, random.uniform(20, 300)]))
    width = int(random.choice([-1, 1, 1, 2]))
    cv2.ellipse(picture, _at(picture, random), axes, float(random.uniform(0, 180)), 0, sweep, tone, width, cv2.LINE_AA)


def _curve(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    x0, y0 = _at(picture, random)
    xs = np.arange(0, 300, 2)
    steps = random.normal(0, random.uniform(0.3, 4), xs.size).cumsum()
    if random.random() < 0.5:
        steps = random.uniform(2, 30) * np.sin(xs / random.uniform(2, 20)) + random.normal(0, 1, xs.size)
    points = np.stack((x0 - 150 + xs, y0 + steps), axis=1).astype(np.int32)
    cv2.polylines(picture, [points], isClosed=False, color=tone, thickness=int(random.integers(1, 4)), lineType=cv2.LINE_AA)


def _cross(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    kind = int(random.choice([cv2.MARKER_CROSS, cv2.MARKER_TILTED_CROSS, cv2.MARKER_DIAMOND, cv2.MARKER_TRIANGLE_UP]))
    cv2.drawMarker(picture, _at(picture, random), tone, kind, int(random.integers(4, 30)), 1)


def _arrow(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    x, y = _at(picture, random)
    end = (x + int(random.integers(-60, 60)), y + int(random.integers(-60, 60)))
    cv2.arrowedLine(picture, (x, y), end, tone, int(random.integers(1, 4)), cv2.LINE_AA, 0, 0.3)


def _grid(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    (x, y), step = _at(picture, random), int(random.integers(3, 25))
    for n in range(int(random.integers(3, 12))):
        cv2.line(picture, (x + n * step, y), (x + n * step, y + 10 * step), tone, 1)
        cv2.line(picture, (x, y + n * step), (x + 10 * step, y + n * step), tone, 1)


def _wedge(picture: Picture, random: Random, _: tuple[float, ...]) -> None:
    """Draw a bar of greys, as consoles show beside the picture, in steps or smooth."""
    x, y = _at(picture, random)
    length, width = int(random.integers(30, 200)), int(random.integers(4, 20))
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    if random.random() < 0.5:
        ramp = np.asarray(np.floor(ramp * 8) / 8, np.float32)
    part = picture[y : y + length, x : x + width]
    if part.size:
        shown = ramp[: part.shape[0], None] if picture.ndim == 2 else ramp[: part.shape[0], None, None]
        part[:] = np.broadcast_to(shown, part.shape)


def _speckle(picture: Picture, random: Random, tone: tuple[float, ...]) -> None:
    x, y = _at(picture, random)
    for _ in range(int(random.integers(3, 40))):
        spot = (x + int(random.normal(0, 30)), y + int(random.normal(0, 30)))
        cv2.circle(picture, spot, int(random.integers(1, 5)), tone, -1)


_THINGS = (
    _line, _line, _dashes, _ruler, _ruler, _frame, _full, _ellipse, _ellipse, _curve, _curve, _cross, _arrow, _grid, _wedge,
    _speckle,
)


def blank(picture: Picture, box: tuple[int, int, int, int], value: float, pad: int) -> tuple[int, int, int, int]:
    """Fill a box (left, top, right, bottom) and ``pad`` pixels around it; gives what was filled."""
    left, top = max(0, box[0] - pad), max(0, box[1] - pad)
    right, bottom = min(picture.shape[1], box[2] + pad), min(picture.shape[0], box[3] + pad)
    picture[top:bottom, left:right] = value
    return left, top, right, bottom

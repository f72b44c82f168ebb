"""Draws pictures that look like radiographs of a chest from afar, and writes text into them as a device would.

**Limits** Nobody's image, and no anatomy: what a model says of these pictures means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint16]
_LARGEST = 4095


@dataclass(frozen=True, slots=True)
class Shape:
    """Proportions of a drawn chest, as parts of width and height."""

    rows: int
    columns: int
    #: Half width and half height of the trunk.
    trunk: tuple[float, float]
    #: Half width and half height of a lung, and the height of its middle.
    lung: tuple[float, float, float]
    #: Place and size.
    heart: tuple[float, float]
    ribs: int
    shoulder: float
    neck: float


ADULT = Shape(
    rows=1024, columns=896, trunk=(0.47, 0.62), lung=(0.15, 0.3, 0.52), heart=(0.56, 0.13), ribs=8, shoulder=0.1, neck=0.09,
)
CHILD = Shape(
    rows=408, columns=640, trunk=(0.343, 0.851), lung=(0.129, 0.359, 0.555), heart=(0.431, 0.276), ribs=10, shoulder=0.093,
    neck=0.138,
)


def chest(shape: Shape, seed: int) -> Picture:
    """Draw a chest, 12 bits, bright is dense."""
    rows, columns = shape.rows, shape.columns
    canvas = np.zeros((rows, columns), np.float32)

    def oval(x: float, y: float, w: float, h: float, value: float, angle: float = 0) -> None:
        layer = np.zeros_like(canvas)
        centre, axes = (int(x * columns), int(y * rows)), (int(w * columns), int(h * rows))
        cv2.ellipse(layer, centre, axes, angle, 0, 360, 1.0, -1)
        canvas[:] += value * cv2.GaussianBlur(layer, (0, 0), 5)

    width, height, middle = shape.lung
    place, heart = shape.heart
    oval(0.5, 0.6, *shape.trunk, 1500)
    for side in (-1, 1):
        oval(0.5 + side * 0.36, 0.12, shape.shoulder, 0.12, 700, side * 20)
        oval(0.5 + side * width * 1.25, middle, width, height, -900, side * 6)
        for rib in range(shape.ribs):
            line = np.zeros_like(canvas)
            centre = (int((0.5 + side * 0.2) * columns), int((middle - height + rib * 2 * height / shape.ribs) * rows))
            cv2.ellipse(line, centre, (int(0.2 * columns), int(0.06 * rows)), side * 10, 180, 360, 1.0, 8)
            canvas += 220 * cv2.GaussianBlur(line, (0, 0), 3)
    oval(0.5, 0.6, 0.045, 0.6, 700)
    oval(place, middle + 0.15, heart, heart * columns / rows * 0.9, 800, 35)
    oval(0.5, 1.02, 0.5, 0.2, 900)
    oval(0.5, 0, shape.neck, 0.2, 900)
    noise = np.random.default_rng(seed).normal(0, 25, canvas.shape)
    return np.clip(cv2.GaussianBlur(canvas, (0, 0), 2) + noise + 120, 0, _LARGEST).astype(np.uint16)


def screen(rows: int, columns: int) -> Picture:
    """Draw an empty dark screen."""
    return np.full((rows, columns), 300, np.uint16)


def burn(picture: Picture, lines: list[str]) -> Picture:
    """Write lines of text into the upper left corner."""
    text = np.zeros(picture.shape, np.uint8)
    for number, line in enumerate(lines):
        cv2.putText(text, line, (24, 44 + 40 * number), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2, cv2.LINE_AA)
    return np.maximum(picture, (text.astype(np.uint32) * _LARGEST) // 255).astype(np.uint16)

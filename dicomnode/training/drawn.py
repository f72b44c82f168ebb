"""Pictures drawn by program that stand for what no collection at hand has.

**Way** A breast as a mammogram shows it, half an ellipse with a textured inside on a black ground, with the pectoral muscle in
the corner. Without any, a router takes mammograms, the one common radiograph without bones, for whatever fills a film evenly.
They are written as PNG below the folder of the run, so that whoever trains can look at them.

**Limits** Nobody's image and no model of a breast: no microcalcification, no mass, no compression plate. What a router learns
from them shows on real mammograms alone.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dicomnode.stages.preprocess import Array
from dicomnode.training.datasets import Example

_SOURCE, _LICENCE = "dicomnode: mammograms drawn by program", "CC0-1.0"
_ROWS = 320


def _texture(rows: int, cols: int, random: Generator) -> Array:
    """Noise whose spectrum falls as a power of the frequency, as tissue's does, 0..1."""
    down, across = np.meshgrid(np.fft.fftfreq(rows), np.fft.rfftfreq(cols), indexing="ij")
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(random.standard_normal((rows, cols))) / frequency ** random.uniform(1.1, 2.0)
    grain = np.fft.irfft2(spectrum, s=(rows, cols))
    low, high = np.percentile(grain, (1, 99))
    return np.asarray(np.clip((grain - low) / (high - low), 0, 1), dtype=np.float32)


def draw_breast(random: Generator) -> NDArray[np.uint8]:
    """Draw one view, chest wall on the left: (320, cols), 8 bit."""
    rows, cols = _ROWS, int(_ROWS * random.uniform(0.55, 1.0))
    y, x = np.mgrid[:rows, :cols].astype(np.float32)
    middle, height = rows * random.uniform(0.4, 0.62), rows * random.uniform(0.3, 0.55)
    width = cols * random.uniform(0.4, 0.95)
    # The lower half is fuller than the upper.
    reach = np.where(y > middle, height * random.uniform(0.6, 1.0), height * random.uniform(0.9, 1.5))
    distance = ((np.abs(y - middle) / reach) ** random.uniform(1.8, 2.6) + (x / width) ** random.uniform(1.7, 2.5)).clip(0, 4)
    thick = np.clip(1 - distance, 0, 1) ** random.uniform(0.15, 0.6)
    texture, fine = _texture(rows, cols, random), _texture(rows, cols, random)
    centre = width * random.uniform(0.3, 0.6), middle + rows * random.uniform(-0.08, 0.08)
    spread = rows * random.uniform(0.1, 0.22)
    dense = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * spread**2)) * random.uniform(0.1, 0.9)
    picture = thick * (random.uniform(0.2, 0.5) + 0.25 * fine + dense * texture)
    if random.random() < 0.75:  # oblique view
        slope, foot = random.uniform(0.25, 0.7), rows * random.uniform(0.3, 0.75)
        muscle = np.clip((foot - y - x / slope * random.uniform(0.6, 1.2)) / 12, 0, 1)
        picture = np.maximum(picture, muscle * (random.uniform(0.55, 0.95) + 0.1 * fine))
    top = float(picture.max()) or 1.0
    picture = picture / top + random.uniform(0, 0.06) + random.standard_normal((rows, cols)) * random.uniform(0, 0.02)
    shown: NDArray[np.uint8] = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    if random.random() < 0.5:  # the view's letters, on the side of the air
        view, place = str(random.choice(["RMLO", "L MLO", "R-CC", "LCC"])), (int(cols * 0.7), int(rows * 0.15))
        cv2.putText(shown, view, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA)
    return shown


def draw_examples(folder: Path, count: int, label: str, seed: int) -> list[Example]:
    """Write `count` drawn pictures, the same for the same seed, and give them as train examples of `label`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        path = folder / f"{number:04}.png"
        cv2.imwrite(str(path), draw_breast(np.random.default_rng([seed, number])))
        found.append(Example(path, label, "train", _SOURCE, _LICENCE))
    return found

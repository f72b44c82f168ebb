"""Change pictures at random, so that a network learns anatomy and not the look of a source.

**Way** Each class comes from few sources that differ in padding, contrast, resolution, borders and burned-in letters;
every one of these gets a function here that blurs the difference. A recipe is a table of probability and function;
all take and give (rows, cols) float32 in 0..1 and a random generator, so that a seed repeats the same picture.

**Limits** Grey pictures only; nothing here changes anatomy (no warps, no blending of pictures).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.random import Generator

from dicomnode.stages.preprocess import Array

Change: TypeAlias = Callable[[Array, Generator], Array]

_LETTERS = np.array(list("LRABCDEFHKMNPSTUVX0123456789-:/"))


def invert(picture: Array, _: Generator) -> Array:
    """Turn polarity over, as a capture with a wrong Photometric Interpretation shows it."""
    return np.float32(1.0) - picture


def mirror(picture: Array, _: Generator) -> Array:
    """Swap left and right."""
    return np.ascontiguousarray(picture[:, ::-1])


def quarter_turn(picture: Array, random: Generator) -> Array:
    """Turn by 90, 180 or 270 degrees."""
    return np.ascontiguousarray(np.rot90(picture, int(random.integers(1, 4))))


def gamma(picture: Array, random: Generator) -> Array:
    """Bend the grey scale as another detector or presentation would."""
    return np.asarray(picture ** np.float32(np.exp(random.uniform(-0.6, 0.6))), dtype=np.float32)


def window(picture: Array, random: Generator) -> Array:
    """Show a narrower or wider part of the grey scale, with saturation."""
    bottom, top = random.uniform(-0.25, 0.2), random.uniform(0.75, 1.3)
    return np.asarray(np.clip((picture - bottom) / (top - bottom), 0, 1), dtype=np.float32)


def crop(picture: Array, random: Generator) -> Array:
    """Keep 55 to 100 % of the area anywhere."""
    rows, cols = picture.shape
    share = np.sqrt(random.uniform(0.55, 1.0))
    stretch = np.exp(random.uniform(-0.15, 0.15))
    height, width = (max(8, min(side, round(side * share * s))) for side, s in ((rows, stretch), (cols, 1 / stretch)))
    top, left = int(random.integers(0, max(1, rows - height + 1))), int(random.integers(0, max(1, cols - width + 1)))
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def stretch(picture: Array, random: Generator) -> Array:
    """Change the ratio of height to width by up to a quarter."""
    rows, cols = picture.shape
    factor = np.exp(random.uniform(-0.22, 0.22))
    return np.asarray(
        cv2.resize(picture, (max(8, round(cols * factor)), rows), interpolation=cv2.INTER_LINEAR), np.float32
    )


def rotate(picture: Array, random: Generator) -> Array:
    """Turn by up to 15 degrees on a ground that is dark, bright or the edge drawn out."""
    rows, cols = picture.shape
    matrix = cv2.getRotationMatrix2D((cols / 2, rows / 2), random.uniform(-15, 15), random.uniform(0.9, 1.1))
    mode = cv2.BORDER_REPLICATE if random.random() < 0.3 else cv2.BORDER_CONSTANT
    ground = 0.0 if random.random() < 0.85 else 1.0
    turned = cv2.warpAffine(picture, matrix, (cols, rows), flags=cv2.INTER_LINEAR, borderMode=mode, borderValue=ground)
    return np.asarray(turned, dtype=np.float32)


def resample(picture: Array, random: Generator) -> Array:
    """Lose resolution, down to about 64 pixels, and come back."""
    rows, cols = picture.shape
    scale = random.uniform(64, 200) / max(rows, cols)
    if scale >= 1:
        return picture
    small = cv2.resize(
        picture, (max(8, round(cols * scale)), max(8, round(rows * scale))), interpolation=cv2.INTER_AREA
    )
    kind = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[int(random.choice(3, p=(0.6, 0.3, 0.1)))]
    return np.asarray(np.clip(cv2.resize(small, (cols, rows), interpolation=kind), 0, 1), dtype=np.float32)


def blur(picture: Array, random: Generator) -> Array:
    """Soften with a Gaussian of 0.4 to 1.6 pixels."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), random.uniform(0.4, 1.6)), dtype=np.float32)


def noise(picture: Array, random: Generator) -> Array:
    """Add grain of 1 to 5 % of the grey scale."""
    grain = random.standard_normal(picture.shape, dtype=np.float32) * np.float32(random.uniform(0.01, 0.05))
    return np.asarray(np.clip(picture + grain, 0, 1), dtype=np.float32)


def jpeg(picture: Array, random: Generator) -> Array:
    """Compress as JPEG of quality 20 to 80 and decode."""
    quality = int(random.integers(20, 81))
    _, data = cv2.imencode(".jpg", np.round(picture * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), dtype=np.float32) / np.float32(255)


def clahe(picture: Array, random: Generator) -> Array:
    """Equalise contrast locally, as some sources come."""
    equalise = cv2.createCLAHE(clipLimit=random.uniform(1.5, 5.0), tileGridSize=(8, 8))
    return np.asarray(equalise.apply(np.round(picture * 255).astype(np.uint8)), dtype=np.float32) / np.float32(255)


def border(picture: Array, random: Generator) -> Array:
    """Put even margins of up to a quarter around, dark or bright, not the same on every side."""
    rows, cols = picture.shape
    top, bottom, left, right = (
        round(side * random.uniform(0, 0.25)) * int(random.random() < 0.6) for side in (rows, rows, cols, cols)
    )
    ground = float(random.choice((0.0, 0.05, 1.0), p=(0.7, 0.2, 0.1)))
    bordered = cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_CONSTANT, value=ground)
    return np.asarray(bordered, dtype=np.float32)


def collimate(picture: Array, random: Generator) -> Array:
    """Darken outer strips of up to 15 % as a collimator does, the picture keeping its size."""
    rows, cols = picture.shape
    top, bottom = (round(rows * random.uniform(0, 0.15)) for _ in range(2))
    left, right = (round(cols * random.uniform(0, 0.15)) for _ in range(2))
    changed = np.full_like(picture, np.float32(random.uniform(0, 0.1)))
    changed[top : rows - bottom, left : cols - right] = picture[top : rows - bottom, left : cols - right]
    return changed


def letters(picture: Array, random: Generator) -> Array:
    """Burn in one to four short texts, bright or dark, some on a box."""
    changed = np.round(picture * 255).astype(np.uint8)  # OpenCV draws text on 8 bits only
    rows, cols = changed.shape
    for _ in range(int(random.integers(1, 5))):
        text = "".join(random.choice(_LETTERS, int(random.choice((1, 2, 6, 12), p=(0.5, 0.15, 0.2, 0.15)))))
        size, thick = max(rows, cols) / 256 * random.uniform(0.3, 1.0), int(random.integers(1, 3))
        (width, height), _baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
        x, y = int(random.integers(0, max(1, cols - width))), int(random.integers(height, max(height + 1, rows)))
        ink = 255 if random.random() < 0.85 else 0
        if random.random() < 0.25:
            cv2.rectangle(changed, (x - 2, y - height - 2), (x + width + 2, y + 3), 255 - ink, -1)
        cv2.putText(changed, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, ink, thick, cv2.LINE_AA)
    return changed.astype(np.float32) / np.float32(255)


def restyle(picture: Array, other: Array, random: Generator) -> Array:
    """Give the picture wholly or partly the grey values of another, so that contrast no longer tells the source.

    The grey scale is bent until its distribution is the other's (histogram matching); what is brighter stays brighter.
    """
    levels = np.linspace(0, 1, 65, dtype=np.float32)
    own, wanted = np.quantile(picture[::2, ::2], levels), np.quantile(other[::2, ::2], levels)
    # Even grounds make steps; a slope of its own keeps both scales strictly rising.
    own, wanted = own + levels * np.float32(1e-4), wanted + levels * np.float32(1e-4)
    share = np.float32(random.uniform(0.5, 1.0))
    bent = np.interp(picture, own, wanted).astype(np.float32)
    return np.clip(picture + share * (bent - picture), 0, 1)


def beside(picture: Array, other: Array, random: Generator) -> Array:
    """Put another picture of the same class beside it or below, with or without a bar between, as two views on one film."""
    height = 256
    left, right = (
        np.asarray(cv2.resize(one, (max(8, round(one.shape[1] * height / one.shape[0])), height)), np.float32)
        for one in (picture, other)
    )
    bar = np.full((height, int(random.integers(0, 9))), random.choice((0.0, 0.5, 1.0)), dtype=np.float32)
    return np.ascontiguousarray(np.hstack([left, bar, right]))


@dataclass(frozen=True, slots=True)
class Recipe:
    """What may happen to a picture, each with its probability."""

    #: In this order.
    changes: tuple[tuple[float, Change], ...] = ()
    #: Of `restyle` with a picture of any class, before the changes.
    restyled: float = 0.0
    #: Of `beside` with a picture of the same class, before the changes.
    doubled: float = 0.0


@dataclass(frozen=True, slots=True)
class Mates:
    """Pictures for changes that need a second one."""

    #: One of the same class.
    alike: Callable[[Generator], Array]
    #: One of any class and source.
    other: Callable[[Generator], Array]


#: For body parts: everything that a source or a device may change and the body part does not.
ROUTER = Recipe(
    changes=(
        (0.5, mirror),
        (0.15, quarter_turn),
        (0.25, clahe),
        (0.5, gamma),
        (0.4, window),
        (0.7, crop),
        (0.5, stretch),
        (0.5, rotate),
        (0.45, resample),
        (0.15, blur),
        (0.2, noise),
        (0.3, collimate),
        (0.3, letters),
        (0.3, border),
        (0.2, invert),
        (0.3, jpeg),
    ),
    restyled=0.4,
    doubled=0.08,
)

#: For findings in a known body part: milder, since small densities are what is looked for, and films stand upright.
FINDINGS = Recipe(
    changes=(
        (0.5, mirror),
        (0.15, clahe),
        (0.5, gamma),
        (0.4, window),
        (0.5, crop),
        (0.4, stretch),
        (0.5, rotate),
        (0.2, resample),
        (0.2, noise),
        (0.3, collimate),
        (0.3, letters),
        (0.2, border),
        (0.2, jpeg),
    )
)


def augment(picture: Array, recipe: Recipe, random: Generator, mates: Mates | None = None) -> Array:
    """Apply each change of the recipe with its probability; without mates those that need a second picture are left out."""
    if mates is not None:
        if random.random() < recipe.doubled:
            picture = beside(picture, mates.alike(random), random)
        if random.random() < recipe.restyled:
            picture = restyle(picture, mates.other(random), random)
    for probability, change in recipe.changes:
        if random.random() < probability:
            picture = change(picture, random)
    return picture

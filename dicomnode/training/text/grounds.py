"""Pictures to draw text upon: parts of radiographs, ultrasound and CT, at any scale, or nothing but a plain ground.

**Way** `Grounds` holds the pictures of split ``train``; `Grounds.cut` gives one part as floats, with a mask of what may be text
of its own (`Ground.doubt`), where nothing is learned.

**Fails** `BadSetting` when there is no picture.

**Limits** The pictures are small; enlarged ones are soft, so noise is added elsewhere.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadSetting
from dicomnode.image import Image

Grey = NDArray[np.uint8]
Random = np.random.Generator
#: Longest side that is kept of a picture.
_MOST = 2200
_SCALES = (0.5, 4.0)


@dataclass(frozen=True, slots=True)
class Ground:
    """One picture, (rows, cols) uint8, and where it may hold text of its own (rows, cols) bool, None for nowhere."""

    picture: Grey
    doubt: NDArray[np.bool_] | None = None


def ground_paths(manifest: Path, split: str, *, licences: Sequence[str] = ("nc_sa/", "nc/")) -> list[Path]:
    """List the pictures of a split, none of folders under narrower terms; a large copy belongs to the split of its twin."""
    rows = {row["path"]: row for row in csv.DictReader(manifest.read_text(encoding="utf-8").splitlines())}
    found = []
    for path, row in rows.items():
        if path.startswith(tuple(licences)) or not path.endswith((".png", ".jpg", ".jpeg", ".dcm")):
            continue
        twin = row["note"].partition("same picture as ")[2].split(";")[0].strip()
        own = rows.get(twin, row)["split"]
        if path.startswith("dicom/"):
            own = "train" if path.startswith("dicom/ct_series/") else ""
        if own == split and (manifest.parent / path).is_file():
            found.append(manifest.parent / path)
    return found


def read_ground(path: Path) -> Grey | None:
    """Read a picture or DICOM file as grey; None when it shows nothing."""
    read: NDArray[Any] | None
    if path.suffix == ".dcm":
        with path.open("rb") as stream:
            image = Image.open(stream)
            read = image.picture(0) if image.has_pixels else None
    else:
        read = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if read is None or read.ndim != 2 or int(read.max()) - int(read.min()) < 8:
        return None
    picture = np.asarray(read, np.uint8)
    scale = min(1.0, _MOST / max(picture.shape))
    if scale < 1:
        picture = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    return picture


class Grounds:
    """The pictures, and how parts are cut from them."""

    def __init__(self, grounds: Sequence[Ground]) -> None:
        if not grounds:
            raise BadSetting("there is no picture to draw text upon")
        self._grounds = tuple(grounds)

    @classmethod
    def read(cls, paths: Sequence[Path], most: int, seed: int) -> Grounds:
        """Read at most ``most`` of the files."""
        chosen = np.random.default_rng(seed).permutation(len(paths))[:most]
        pictures = (read_ground(paths[i]) for i in sorted(chosen))
        return cls([Ground(picture) for picture in pictures if picture is not None])

    def __iter__(self) -> Iterator[Ground]:
        return iter(self._grounds)

    def __len__(self) -> int:
        return len(self._grounds)

    def cut(self, side: int, random: Random) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Give (side, side) float32 in 0..1 and the mask of doubt."""
        if random.random() < 0.08:
            return _plain(side, random), np.zeros((side, side), bool)
        ground = self._grounds[random.integers(len(self._grounds))]
        doubt = ground.doubt if ground.doubt is not None else np.zeros(ground.picture.shape, bool)
        scale = float(np.exp(random.uniform(*np.log(_SCALES))))
        need = round(side / scale) + 2
        canvas, mask = _window(ground.picture, doubt, need, random)
        method = cv2.INTER_AREA if scale < 1 else int(random.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
        picture = np.asarray(cv2.resize(canvas, (side, side), interpolation=method), np.float32) / 255
        away = cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST) > 0
        turns, flip = int(random.integers(4)), random.random() < 0.5
        picture, away = np.rot90(picture, turns), np.rot90(away, turns)
        if flip:
            picture, away = picture[:, ::-1], away[:, ::-1]
        picture = np.ascontiguousarray(picture) ** np.float32(np.exp(random.uniform(-0.5, 0.5)))
        if random.random() < 0.15:
            picture = 1 - picture
        return np.asarray(np.clip(picture, 0, 1), np.float32), np.ascontiguousarray(away)


def _window(picture: Grey, doubt: NDArray[np.bool_], need: int, random: Random) -> tuple[Grey, NDArray[np.bool_]]:
    """Cut (need, need); a picture may lie on a plain ground, as on the screen of a console."""
    rows, cols = picture.shape
    beyond = 0 if random.random() < 0.6 else need // 2
    top = int(random.integers(-beyond, max(1, rows - need + beyond) if rows - need + beyond > -beyond else -beyond + 1))
    left = int(random.integers(-beyond, max(1, cols - need + beyond) if cols - need + beyond > -beyond else -beyond + 1))
    fill = int(random.choice([0, 0, 0, 255, int(picture[0, 0]), int(random.integers(256))]))
    canvas = np.full((need, need), fill, np.uint8)
    mask = np.zeros((need, need), bool)
    y0, x0, y1, x1 = max(0, top), max(0, left), min(rows, top + need), min(cols, left + need)
    if y1 > y0 and x1 > x0:
        canvas[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
        mask[y0 - top : y1 - top, x0 - left : x1 - left] = doubt[y0:y1, x0:x1]
    return canvas, mask


def _plain(side: int, random: Random) -> NDArray[np.float32]:
    """Give one value, a slope, or noise."""
    first, last = random.random(2) if random.random() < 0.5 else [random.choice([0.0, 1.0, random.random()])] * 2
    ramp = np.linspace(first, last, side, dtype=np.float32)
    picture = np.tile(ramp, (side, 1))
    noise = random.normal(0, random.choice([0, 0.01, 0.05, 0.15]), (side, side)).astype(np.float32)
    return np.asarray(np.clip(picture + noise, 0, 1), np.float32)

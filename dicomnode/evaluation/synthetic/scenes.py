"""What text is drawn on: pictures of a folder, or a drawn one, grey in 0 to 255.

**Way** A picture is fitted into a frame of a common size, black around it, or fills it. Without a folder smooth noise in an
ellipse is drawn, which looks a little like anatomy.

**Limits** Letters that a picture already has (side marks) are not in the manifest.
"""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadSetting

Grey = NDArray[np.uint8]
_SIZES = ((512, 512), (512, 512), (480, 640), (600, 800), (768, 1024), (1024, 1024), (1024, 1024), (1200, 960), (1536, 1280))
_ENDINGS = frozenset((".png", ".jpg", ".jpeg"))


def pictures(folder: Path | None, split: str | None) -> list[Path]:
    """The pictures of a folder, or of one split of its MANIFEST.csv.

    Raises
    ------
    BadSetting
        There is none.
    """
    if folder is None:
        return []
    if split is None:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
    else:
        found = _of_split(folder, split)
    if not found:
        raise BadSetting(f"{folder}: has no picture{f' of split {split}' if split else ''}")
    return found


def _of_split(folder: Path, split: str) -> list[Path]:
    """Paths of a manifest begin at its folder, which may be above the one that was named."""
    above = [folder.absolute(), *folder.absolute().parents]
    place = next((one / "MANIFEST.csv" for one in above if (one / "MANIFEST.csv").is_file()), None)
    if place is None:
        raise BadSetting(f"{folder}: there is no MANIFEST.csv that states splits")
    with place.open(newline="", encoding="utf-8-sig") as stream:
        paths = [place.parent / row.get("path", "") for row in csv.DictReader(stream) if row.get("split") == split]
    inside = folder.absolute()
    return sorted(path for path in paths if path.is_relative_to(inside) and path.suffix.lower() in _ENDINGS and path.is_file())


def scene(random: np.random.Generator, found: list[Path]) -> Grey:
    """One frame, rows and columns even."""
    rows, columns = _SIZES[int(random.integers(0, len(_SIZES)))]
    picture = cv2.imread(str(found[int(random.integers(0, len(found)))]), cv2.IMREAD_GRAYSCALE) if found else None
    if picture is None:
        picture = _drawn(random, rows, columns)
    style = random.random()
    if style < 0.45:
        return np.asarray(cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    share = 0.95 if style < 0.75 else 0.7
    times = min(rows * share / picture.shape[0], columns * share / picture.shape[1])
    height, width = (max(1, int(side * times)) for side in picture.shape)
    frame = np.zeros((rows, columns), np.uint8)
    top, left = (rows - height) // 2, (columns - width) // 2
    frame[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return frame


def _drawn(random: np.random.Generator, rows: int, columns: int) -> Grey:
    total = np.zeros((rows, columns), np.float32)
    for cells in (4, 9, 24, 80):
        noise = random.random((cells, cells)).astype(np.float32)
        total += cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_CUBIC) / np.float32(cells**0.6)
    total = (total - total.min()) / max(float(total.max() - total.min()), 1e-6) * 200
    mask = np.zeros((rows, columns), np.float32)
    cv2.ellipse(mask, (columns // 2, rows // 2), (int(columns * 0.42), int(rows * 0.45)), 0, 0, 360, 1.0, -1)
    soft = cv2.GaussianBlur(mask, (0, 0), 9)
    grain = random.normal(0, 3, (rows, columns)).astype(np.float32)
    return np.asarray(np.clip(total * soft + grain, 0, 255), np.uint8)

"""Pictures to draw text upon: parts of radiographs, ultrasound and CT, at any scale, or nothing but a plain ground.

**Way** `find_pictures` lists what a manifest or a folder has, `Grounds` holds what was read of it; `Grounds.cut` gives one part
as floats, with a mask of what may be text of its own (`Ground.doubt`), where nothing is learned.

**Fails** `BadSetting` when there is no picture.

**Limits** Of a multi-frame file the first frame. Splits that are drawn do not keep persons apart: val is about drawn text.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadSetting, DicomNodeError
from dicomnode.image import Image
from dicomnode.training.datasets import Example, pictures_in
from dicomnode.training.splits import draw_split

Grey = NDArray[np.uint8]
Random = np.random.Generator
#: Longest side that is kept of a picture.
_MOST = 2200
_SCALES = (0.5, 4.0)
#: Of grounds for a single line: how many are plain, and how many of the others have their tones turned over.
_PLAIN_SHARE, _TURNED_SHARE = 0.25, 0.2
_SEED = 1
_LABEL = "ground"
_PLAIN = (".png", ".jpg", ".jpeg")
_SUFFIXES = (*_PLAIN, ".dcm")
#: Folders of our own manifest: pictures under narrower terms, and the DICOM files that nothing is evaluated on.
_NARROWER, _SERIES = ("nc_sa/", "nc/"), "dicom/ct_series/"


@dataclass(frozen=True, slots=True)
class Ground:
    """One picture, (rows, cols) uint8, and where it may hold text of its own (rows, cols) bool, None for nowhere."""

    picture: Grey
    doubt: NDArray[np.bool_] | None = None


def find_pictures(data: Path) -> list[Example]:
    """List the pictures of a manifest (columns path and split) or of a folder, whose splits are drawn.

    Of our own manifest those under narrower terms are left out, a large copy belongs to the split of its twin, and of the DICOM
    files only the CT series is learned from, for evaluation is on the others.

    Raises
    ------
    BadSetting
        It cannot be read, or a column is missing.
    """
    if data.is_dir():
        names = [(path, path.relative_to(data).as_posix()) for path in pictures_in(data)]
        return [Example(path, _LABEL, draw_split(name), drawn=True) for path, name in names]
    try:
        rows = {row["path"]: row for row in csv.DictReader(data.read_text(encoding="utf-8-sig").splitlines())}
        found = [Example(
            data.parent / path, _LABEL, _split(row, rows), row.get("source_repo") or "", row.get("licence") or "",
        ) for path, row in rows.items() if not path.startswith(_NARROWER) and path.endswith(_SUFFIXES)]  # fmt: skip
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadSetting(f"{data}: cannot be read: {error}") from error
    except KeyError as error:
        raise BadSetting(f"{data}: has no column {error}; a manifest has path and split") from None
    return [example for example in found if example.path.is_file()]


def _split(row: Mapping[str, str], rows: Mapping[str, Mapping[str, str]]) -> str:
    if row["path"].startswith(_SERIES):
        return "train"
    twin = (row.get("note") or "").partition("same picture as ")[2].split(";")[0].strip()
    return rows.get(twin, row)["split"]


def choose(examples: Sequence[Example], split: str, most: int) -> list[Example]:
    """Choose at most ``most`` of a split, always the same."""
    own = [example for example in examples if example.split == split]
    return [own[i] for i in sorted(np.random.default_rng(_SEED).permutation(len(own))[:most])]


def read_ground(path: Path) -> Grey | None:
    """Read a picture or DICOM file as grey; None when it shows nothing, or cannot be read."""
    read: NDArray[Any] | None
    if path.suffix.lower() in _PLAIN:
        read = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    else:
        read = None
        with path.open("rb") as stream, suppress(DicomNodeError):
            image = Image.open(stream)
            read = image.picture(0) if image.has_pixels else None
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
    def read(cls, examples: Sequence[Example]) -> Grounds:
        """Read the files; those that show nothing are passed over."""
        pictures = (read_ground(example.path) for example in examples)
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
        made = _harsh(np.asarray(picture, np.float32), random)
        return np.asarray(np.clip(made, 0, 1), np.float32), np.ascontiguousarray(away)


    def patch(self, rows: int, cols: int, random: Random) -> NDArray[np.float32]:
        """Give (rows, cols) float32 in 0..1, cut from one picture at any scale, or a plain ground."""
        if random.random() < _PLAIN_SHARE:
            return _plain(max(rows, cols), random)[:rows, :cols]
        picture = self._grounds[random.integers(len(self._grounds))].picture
        shrunk = 1 / float(np.exp(random.uniform(*np.log(_SCALES))))
        scale = min(shrunk, picture.shape[0] / rows, picture.shape[1] / cols)
        high, wide = max(2, int(rows * scale)), max(2, int(cols * scale))
        top, left = int(random.integers(0, picture.shape[0] - high + 1)), int(random.integers(0, picture.shape[1] - wide + 1))
        made = cv2.resize(picture[top : top + high, left : left + wide], (cols, rows), interpolation=cv2.INTER_LINEAR)
        shown = np.asarray(made, np.float32) / np.float32(255)
        shown = np.asarray(1 - shown if random.random() < _TURNED_SHARE else shown, np.float32)
        return np.asarray(np.clip(_harsh(shown, random), 0, 1), np.float32)


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


def _harsh(picture: NDArray[np.float32], random: Random) -> NDArray[np.float32]:
    """Make some as careless hands leave them: clipped, in few steps, wrapped around as by a lost high byte, or speckled."""
    kind = random.random()
    if kind < 0.08:
        low, high = np.sort(random.random(2))
        return np.asarray((picture - low) / max(high - low, 0.05), np.float32)
    if kind < 0.11:
        steps = float(random.integers(3, 24))
        return np.asarray(np.floor(picture * steps) / steps, np.float32)
    if kind < 0.17:
        return np.asarray((picture * random.uniform(1.5, 16)) % 1, np.float32)
    if kind < 0.25:
        grain = random.normal(1, random.uniform(0.1, 0.5), picture.shape)
        soft = np.asarray(cv2.GaussianBlur(grain, (0, 0), float(random.uniform(0.4, 1.5))))
        return np.asarray(picture * soft, np.float32)
    return picture


def _plain(side: int, random: Random) -> NDArray[np.float32]:
    """Give one value, a slope, or noise."""
    first, last = random.random(2) if random.random() < 0.5 else [random.choice([0.0, 1.0, random.random()])] * 2
    ramp = np.linspace(first, last, side, dtype=np.float32)
    picture = np.tile(ramp, (side, 1))
    noise = random.normal(0, random.choice([0, 0.01, 0.05, 0.15]), (side, side)).astype(np.float32)
    return np.asarray(np.clip(picture + noise, 0, 1), np.float32)

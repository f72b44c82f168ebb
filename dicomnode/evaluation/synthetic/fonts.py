"""The faces that text is drawn in: vectors of OpenCV, fonts of the installation, fonts of a folder, pixel fonts.

**Way** `faces` collects them by family; `Face.draw` gives the coverage of a string, 0 to 1. Fonts without
outlines are drawn in their own size and enlarged by a whole number, as old consoles do.

**Limits** Training draws in DejaVu Sans, Liberation, X11's bitmap fonts and OpenCV's SIMPLEX, DUPLEX, PLAIN and COMPLEX, so
none of these is here; what ``--fonts`` brings is for who gives it to keep apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

Cover = NDArray[np.float32]
_HERSHEY = {
    "Hershey Triplex": cv2.FONT_HERSHEY_TRIPLEX, "Hershey Complex Small": cv2.FONT_HERSHEY_COMPLEX_SMALL,
    "Hershey Script": cv2.FONT_HERSHEY_SCRIPT_COMPLEX, "Hershey Italic": cv2.FONT_HERSHEY_TRIPLEX | cv2.FONT_ITALIC,
}  # fmt: skip
#: Below this size they cannot be read.
_LEAST_SCRIPT_PX = 22
_ENDINGS = frozenset((".ttf", ".otf", ".otb", ".gz", ".pcf"))
#: Of a family of many scripts the faces that have Latin letters.
_NOTO = frozenset(("Noto Sans", "Noto Serif", "Noto Mono", "Noto Sans Mono", "Noto Sans Display", "Noto Serif Display"))


@dataclass(frozen=True, slots=True)
class Face:
    """One way to draw letters."""

    name: str
    #: A number of OpenCV, a file, or None for the face that Pillow brings.
    source: int | Path | None

    def least(self) -> int:
        """The smallest size in pixels that can be read."""
        return _LEAST_SCRIPT_PX if "Script" in self.name else 8

    def draw(self, text: str, size: int) -> Cover:
        """Give the coverage of a string: as high as a line of this face, as wide as the ink."""
        if isinstance(self.source, int):
            return _cut(_hershey(self.source, text, size))
        font, times = _font(self.source, size)
        left, _, right, _ = font.getbbox(text)
        canvas = PIL.Image.new("L", (int(right - left) + 4, sum(font.getmetrics()) + 4))
        PIL.ImageDraw.Draw(canvas).text((2 - left, 2), text, fill=255, font=font)
        cover = np.asarray(canvas).astype(np.float32) / np.float32(255)
        return _cut(np.repeat(np.repeat(cover, times, axis=0), times, axis=1))


def _cut(cover: Cover) -> Cover:
    columns = np.flatnonzero((cover > 0.5).any(axis=0))
    return np.ascontiguousarray(cover[:, columns[0] : columns[-1] + 1]) if columns.size else np.zeros((0, 0), np.float32)


def _hershey(face: int, text: str, size: int) -> Cover:
    scale = size / 30 if face != cv2.FONT_HERSHEY_COMPLEX_SMALL else size / 24
    thick = max(1, round(size / 22))
    (width, height), below = cv2.getTextSize(text, face, scale, thick)
    canvas = np.zeros((height + below + 4 * thick + 6, width + 4 * thick + 8), np.uint8)
    cv2.putText(canvas, text, (2 * thick + 2, height + 2 * thick + 2), face, scale, 255, thick, cv2.LINE_AA)
    return canvas.astype(np.float32) / np.float32(255)


@lru_cache(maxsize=256)
def _font(source: Path | None, size: int) -> tuple[PIL.ImageFont.FreeTypeFont, int]:
    """A font, and how many times it is to be enlarged."""
    if source is None:
        return cast("PIL.ImageFont.FreeTypeFont", PIL.ImageFont.load_default(size)), 1
    try:
        return PIL.ImageFont.truetype(str(source), size), 1
    except OSError:
        own = _own_size(source)
        return PIL.ImageFont.truetype(str(source), own), max(1, round(size / own))


@lru_cache(maxsize=256)
def _own_size(source: Path) -> int:
    """The one size of a font without outlines; 0 when it has none."""
    for size in range(6, 41):
        try:
            PIL.ImageFont.truetype(str(source), size)
        except OSError:
            continue
        return size
    return 0


def faces(folder: Path | None = None) -> dict[str, list[Face]]:
    """Collect faces by family, in the order of their names."""
    found = {name: [Face(name, number)] for name, number in _HERSHEY.items()} | {"Pillow": [Face("Pillow", None)]}
    serif = _serif()
    if serif is not None:
        found["DejaVu Serif"] = [Face("DejaVu Serif", serif)]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS) if folder is not None else []
    for path in paths:
        name = _latin(path)
        if name is not None:
            found.setdefault(name.split()[0], []).append(Face(name, path))
    return dict(sorted(found.items()))


def _latin(path: Path) -> str | None:
    """The name of a font that has Latin letters and digits; None for any other file."""
    try:
        font = PIL.ImageFont.truetype(str(path), _own_size(path) or 16)
        name = " ".join(str(part) for part in font.getname() if part)
        shapes = {bytes(font.getmask(letter)) for letter in "AgK47"}
        missing = bytes(font.getmask("\U0010ffff"))
    except (OSError, ValueError):
        return None
    if name.startswith("Noto") and name.rsplit(" ", 1)[0] not in _NOTO:
        return None
    return name if len(shapes) == 5 and missing not in shapes else None


def _serif() -> Path | None:
    """DejaVu Serif, which matplotlib brings."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - need not be there
    except ImportError:
        return None
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif.ttf"
    return path if path.is_file() else None

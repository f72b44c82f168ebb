"""Typefaces for drawn text: outlines, bitmaps of old screens, and the strokes of Hershey.

**Way** `find_faces` lists what the machine has; `Face.draw` gives the ink of a text. Families of `HELD_BACK` are never given:
evaluation draws with those.

**Fails** `BadSetting` when there is no typeface at all. A face that cannot draw a text gives None.

**Limits** Latin letters. Symbol faces are told by their names.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicomnode.errors import BadSetting

Ink = NDArray[np.uint8]
FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
#: Families that evaluation draws with, and what has no Latin letters.
HELD_BACK = re.compile(
    r"dejavuserif|noto|freefont|free(sans|serif|mono)|terminus|^ter-|roboto|ubuntu|spleen|inconsolata|unifont|hack|aileron",
    re.IGNORECASE,
)
_SYMBOLS = re.compile(
    r"symbol|dingbat|d050000l|standardsymbols|cursor|olgl|olcursor|decw|math|k14|nil2|jis|ksc|gb\d|hang|arab|mona|wenquanyi|dec\d|"
    r"iso8859-[5678]\b|iso8859-11|koi8|pt154|heb|deccurs|micro|kana|wqy|dseg.*weather|18x18|^cu|symb|tech|decsess|^[a-z1]\.pcf|"
    r"12x13ja|3270g",
    re.IGNORECASE,
)
_HERSHEY = (
    cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX,
)  # fmt: skip
_BITMAP_MOST = 64
#: How often strokes of Hershey, bitmaps and outlines are drawn.
_KINDS = {"hershey": 0.2, "bitmap": 0.35, "outline": 0.45}


@dataclass(frozen=True, slots=True)
class Face:
    """One typeface: a file, or a number of OpenCV's Hershey faces."""

    family: str
    file: str = ""
    hershey: int = -1

    @property
    def bitmap(self) -> bool:
        """Whether it has one size only."""
        return self.file.endswith((".pcf", ".pcf.gz", ".bdf"))

    @property
    def kind(self) -> str:
        """Of what it is made: hershey, bitmap or outline."""
        return "hershey" if self.hershey >= 0 else "bitmap" if self.bitmap else "outline"

    def draw(self, text: str, size: int, *, stroke: int = 1) -> Ink | None:
        """Draw a line of text.

        Parameters
        ----------
        size
            Of the font in pixels; a bitmap has its own, enlarged by whole numbers.
        stroke
            Width of Hershey strokes.

        Returns
        -------
        (rows, cols) uint8, 255 is ink, cut to the ink; None when there is none.
        """
        if self.hershey >= 0:
            ink = _hershey(text, self.hershey, size, stroke)
        else:
            try:
                ink = _file(self.file, text, size, bitmap=self.bitmap)
            except (OSError, ValueError, UnicodeEncodeError):
                return None
        return _cut(ink)


class Typecase:
    """Faces by kind and family, to draw from."""

    def __init__(self, faces: Sequence[Face]) -> None:
        self._kinds: list[list[list[Face]]] = []
        shares = []
        for kind, share in _KINDS.items():
            families: dict[str, list[Face]] = {}
            for face in faces:
                if face.kind == kind:
                    families.setdefault(face.family, []).append(face)
            if families:
                self._kinds.append([families[name] for name in sorted(families)])
                shares.append(share)
        self._shares = np.array(shares) / sum(shares)

    def draw(self, random: np.random.Generator) -> Face:
        """Choose among kinds first, then families, then files: there are many more bitmaps than people use."""
        families = self._kinds[random.choice(len(self._kinds), p=self._shares)]
        family = families[random.integers(len(families))]
        return family[random.integers(len(family))]


def find_faces(folders: Sequence[Path] = FOLDERS) -> list[Face]:
    """List the typefaces of this machine, each family under one name; OpenCV's are always there."""
    faces = [Face(f"hershey{number}", hershey=number) for number in _HERSHEY]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            name = path.name
            if not name.lower().endswith((".ttf", ".otf", ".t1", ".pfb", ".pcf.gz", ".pcf", ".bdf")):
                continue
            if HELD_BACK.search(name) or _SYMBOLS.search(name):
                continue
            face = Face(family_of(name), str(path))
            if _speaks(face):
                faces.append(face)
    if not faces:
        raise BadSetting("there is no typeface to draw with: install some, such as fonts-liberation and xfonts-base")
    return faces


def split_faces(faces: Sequence[Face]) -> tuple[list[Face], list[Face]]:
    """Part the faces to learn from and those that val is drawn with, a tenth of the families; of too few, val has the same."""
    own = [face for face in faces if not _for_val(face)]
    held = [face for face in faces if _for_val(face)]
    return (own, held) if own and held else (list(faces), list(faces))


def _for_val(face: Face) -> bool:
    return zlib.crc32(face.family.encode()) % 10 == 0


def _speaks(face: Face) -> bool:
    """Say whether it has Latin letters and digits: what it lacks it draws as one and the same box."""
    drawn = [face.draw(letter, 16) for letter in "AgR58"]
    return len({ink.tobytes() if ink is not None else b"" for ink in drawn}) == len(drawn)


def family_of(name: str) -> str:
    """Name the family of a font file, without weight, slant and size."""
    stem = re.sub(r"\.(ttf|otf|t1|pfb|pcf\.gz|pcf|bdf)$", "", name, flags=re.IGNORECASE)
    stem = re.sub(r"(-?ISO.*|[-_]?(Bold|Italic|Oblique|Regular|Medium|Light|Thin|Black|Hairline|Condensed|2[xy]).*)$", "", stem)
    return re.sub(r"[\d_]+.*$", "", stem).rstrip("-").lower() or stem.lower()


def _hershey(text: str, number: int, size: int, stroke: int) -> Ink:
    scale = cv2.getFontScaleFromHeight(number, max(4, round(0.7 * size)), stroke)
    (width, height), below = cv2.getTextSize(text, number, scale, stroke)
    pad = size + 4 * stroke
    ink = np.zeros((height + below + 2 * pad, width + 2 * pad), np.uint8)
    cv2.putText(ink, text, (pad, pad + height), number, scale, 255, stroke, cv2.LINE_AA if size % 2 else cv2.LINE_8)
    return ink


@lru_cache(maxsize=512)
def _load(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@lru_cache(maxsize=2048)
def _strike(file: str) -> int:
    """The size of a bitmap face: the first that loads."""
    for size in range(4, _BITMAP_MOST):
        try:
            ImageFont.truetype(file, size)
        except OSError:
            continue
        return size
    raise OSError(file)


def _file(file: str, text: str, size: int, *, bitmap: bool) -> Ink:
    own = _strike(file) if bitmap else size
    font = _load(file, own)
    left, top, right, bottom = font.getbbox(text)
    pad = 2
    canvas = Image.new("L", (int(right - left) + 2 * pad, int(bottom - top) + 2 * pad))
    ImageDraw.Draw(canvas).text((pad - left, pad - top), text, fill=255, font=font)
    ink = np.asarray(canvas, np.uint8)
    times = round(size / own) if bitmap else 1
    return np.asarray(np.kron(ink, np.ones((times, times), np.uint8)), np.uint8) if times > 1 else ink


def _cut(ink: Ink) -> Ink | None:
    dark = ink > 64
    rows, cols = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    if not rows.size:
        return None
    return ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]

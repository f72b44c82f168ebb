"""Learns where a device puts text: rectangles in which text that must go was found in several of its pictures.

**Way** `Learner.add` takes what redaction has found in one picture; boxes that lie on one line of text, over all pictures of a
device and size, grow together, but never into a block of several lines. `Learner.devices` gives their rectangles with how many
pictures had text there, `toml` writes them as a file for redaction/, `heat` draws them.

**Fails** Nothing; a picture whose header names no device is not counted, and `add` says so.

**Limits** Only what redaction has found is learned. Nothing of a picture is kept but rectangles, and nothing of a header but
manufacturer, model, first software version and modality.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.image import Image
from dicomnode.places import folded
from dicomnode.records import Region

#: What rules and overlays say is no sight of text in the pixels.
_SEEN = frozenset((
    "header-match", "date", "number", "phone", "address", "institution", "person", "unknown-text", "unreadable", "model",
))
#: Boxes of one line of text are at most so many pixels apart, and share this part of the lower one's height; what they make is
#: at most so many times as thick as the thinnest of them, or text that wanders over a picture would make all of it one line.
_APART, _SHARED, _THICKER = 16, 0.5, 2
#: A box is of a line that is turned by 90 degrees when it is so many times as high as wide.
_TALL = 2
_GROUND, _HOT, _EDGE = (48, 48, 48), (0, 128, 255), (96, 224, 96)

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, order=True)
class Device:
    """What a rule is for, as the header spells it."""

    manufacturer: str
    model: str
    #: ``""`` where none is named, or any is meant.
    software: str
    modality: str
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Spot:
    """A rectangle, x, y, width, height, and the number of pictures with text in it."""

    box: Box
    seen: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned of one device."""

    device: Device
    pictures: int
    #: Seen often enough, from the top to the bottom; and seen less often.
    spots: tuple[Spot, ...]
    rare: tuple[Spot, ...]


@dataclass(slots=True)
class _Line:
    """Boxes that grew together, the pictures that they are of, and how thick the thinnest of them is."""

    box: Box
    pictures: set[int]
    thin: int


@dataclass(slots=True)
class _Pictures:
    count: int = 0
    lines: list[_Line] = field(default_factory=list)

    def add(self, boxes: Iterable[Box]) -> None:
        for box in boxes:
            self._join(_Line(box, {self.count}, min(box[2:]) if _tall(box) else box[3]))
        self.count += 1

    def _join(self, new: _Line) -> None:
        """Put a line to those that it continues, which may then continue each other."""
        while joined := next((line for line in self.lines if _one_line(line, new)), None):
            self.lines.remove(joined)
            new = _Line(_around(joined.box, new.box), joined.pictures | new.pictures, min(joined.thin, new.thin))
        self.lines.append(new)


class Learner:
    """Gathers what was found, by device."""

    def __init__(self, *, any_software: bool = False) -> None:
        self._any_software = any_software
        self._found: dict[Device, _Pictures] = {}
        self._spelled: dict[tuple[object, ...], Device] = {}

    def add(self, image: Image, regions: Iterable[Region]) -> bool:
        """Take one picture; False when its header names no device."""
        device = self._device(image)
        if device is None:
            return False
        # Of a cine each frame has the same text: a picture counts once.
        boxes = dict.fromkeys((one.x, one.y, one.w, one.h) for one in regions if one.reason in _SEEN)
        self._found.setdefault(device, _Pictures()).add(boxes)
        return True

    def devices(self, least: int, share: float) -> list[Learned]:
        """Give what was learned, by device.

        Parameters
        ----------
        least
            A device needs so many pictures; of one with fewer nothing is learned.
        share
            Of the pictures of a device, that have text where a rectangle is made; never fewer than two.
        """
        learned = []
        for device, pictures in sorted(self._found.items()):
            lines = pictures.lines if pictures.count >= least else []
            spots = sorted((Spot(line.box, len(line.pictures)) for line in lines), key=lambda spot: (spot.box[1], spot.box[0]))
            enough = max(2, math.ceil(share * pictures.count))
            often = _outermost(spot for spot in spots if spot.seen >= enough)
            rare = [spot for spot in spots if spot.seen < enough and not any(_holds(one.box, spot.box) for one in often)]
            learned.append(Learned(device, pictures.count, tuple(often), tuple(rare)))
        return learned

    def _device(self, image: Image) -> Device | None:
        manufacturer, model = (_text(image, keyword) for keyword in ("Manufacturer", "ManufacturerModelName"))
        if not manufacturer or not model:
            return None
        software = "" if self._any_software else _text(image, "SoftwareVersions")
        named = Device(manufacturer, model, software, _text(image, "Modality"), image.spec.rows, image.spec.columns)
        # Spelled in two ways it is one device to a rule.
        key = (*map(folded, (manufacturer, model, software, named.modality)), named.rows, named.columns)
        return self._spelled.setdefault(key, named)


def _text(image: Image, keyword: str) -> str:
    """Give the first value of an attribute on one line."""
    value: Any = image.dataset.get(keyword)
    if value is not None and not isinstance(value, str) and hasattr(value, "__iter__"):
        value = next((one for one in value if str(one).strip()), None)
    plain = "" if value is None else str(value)
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


def _one_line(line: _Line, new: _Line) -> bool:
    if _tall(line.box) != _tall(new.box):
        return False
    one, other = (_turned(line.box), _turned(new.box)) if _tall(new.box) else (line.box, new.box)
    shared = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    apart = max(one[0], other[0]) - min(one[0] + one[2], other[0] + other[2])
    return (
        shared >= _SHARED * min(one[3], other[3]) and apart <= _APART
        and _around(one, other)[3] <= _THICKER * min(line.thin, new.thin)
    )


def _tall(box: Box) -> bool:
    return box[3] >= _TALL * box[2]


def _turned(box: Box) -> Box:
    x, y, w, h = box
    return y, x, h, w


def _around(one: Box, other: Box) -> Box:
    x, y = min(one[0], other[0]), min(one[1], other[1])
    return x, y, max(one[0] + one[2], other[0] + other[2]) - x, max(one[1] + one[3], other[1] + other[3]) - y


def _outermost(spots: Iterable[Spot]) -> list[Spot]:
    """Drop what lies within another one; what is joined is never the same box twice."""
    found = list(spots)
    return [one for one in found if not any(_holds(other.box, one.box) for other in found if other.box != one.box)]


def _holds(outer: Box, inner: Box) -> bool:
    return _around(outer, inner) == outer


def toml(learned: Sequence[Learned]) -> str:
    """Write what was learned as a file for redaction/; what was seen rarely stands there as a comment."""
    return "\n".join(_place(one) for one in learned if one.spots)


def _place(one: Learned) -> str:
    device = one.device
    lines = [f"    {_rectangle(spot)},  # seen in {spot.seen} of {one.pictures} files" for spot in one.spots]
    if one.rare:
        lines.append("    # Seen in fewer files; look before you take the sign away:")
        lines += [f"    # {_rectangle(spot)},  # {spot.seen} of {one.pictures}" for spot in one.rare]
    conditions = {"manufacturer": device.manufacturer, "model": device.model, "software": device.software}
    # A * at the end of a version would be a pattern: then it is one, for versions that begin so.
    head = [f"{key} = {json.dumps(text, ensure_ascii=False)}" for key, text in conditions.items() if text]
    if device.modality:
        head.append(f"modality = {json.dumps([device.modality])}")
    head += [f"rows = {device.rows}", f"columns = {device.columns}"]
    return "\n".join(["[[place]]", *head, "rectangles = [", *lines, "]", ""])


def _rectangle(spot: Spot) -> str:
    x, y, w, h = spot.box
    return f"{{ x = {x}, y = {y}, w = {w}, h = {h} }}"


def heat(one: Learned) -> NDArray[np.uint8]:
    """Draw where text was seen, the brighter the more often, and the rectangles; no pixel of any picture is in it.

    Returns
    -------
    (rows, columns, 3) BGR.
    """
    drawn = np.full((one.device.rows, one.device.columns, 3), _GROUND, np.uint8)
    for spot in sorted((*one.spots, *one.rare), key=lambda spot: spot.seen):
        x, y, w, h = spot.box
        part = spot.seen / one.pictures
        colour = [round(ground + (hot - ground) * part) for ground, hot in zip(_GROUND, _HOT, strict=True)]
        drawn[y : y + h, x : x + w] = colour
    for spot in one.spots:
        x, y, w, h = spot.box
        cv2.rectangle(drawn, (x, y), (x + w - 1, y + h - 1), _EDGE, 1)
    return drawn

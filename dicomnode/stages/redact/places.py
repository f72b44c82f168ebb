"""Rectangles by device: what the configuration says must go from pictures of one device and size.

**Way** `Places.regions` compares manufacturer, model, software, modality, colours and the size of the picture with each rule
and gives the rectangles of all that hold, for every frame. They are added to what is found in the pixels; nothing is looked
for less because of them.

**Fails** `BadSetting` for files that cannot be read. An image whose header does not name its device has none of these regions.

**Standard** PS3.3 C.7.5.1 (General Equipment), C.7.6.3 (Image Pixel).

**Limits** Rows and Columns must be those of the rule, exactly; with ``scale`` the shape must be, to within half a pixel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dicomnode.image import Image
from dicomnode.places import Place, folded
from dicomnode.records import Region
from dicomnode.settings import read_places

_REASON = "rule"


class Places:
    """The rules of all devices."""

    def __init__(self, rules: Sequence[Place] = ()) -> None:
        self._rules = tuple(rules)
        #: SHA-256 over the rules as they are read, without notes; ``""`` when there are none.
        self.digest = _digest(self._rules)

    @classmethod
    def load(cls, folder: Path) -> Places:
        """Read every ``*.toml`` of a folder; raises `BadSetting`, naming file and key."""
        return cls(read_places(folder))

    def regions(self, image: Image, frames: Iterable[int] | None = None) -> list[Region]:
        """Give what must go from this image, sorted by frame.

        Parameters
        ----------
        frames
            Those that are shown; None for all.
        """
        spec = image.spec
        boxes = [box for rule in self._rules if _holds(rule, image) for box in _boxes(rule, spec.rows, spec.columns)]
        if not boxes:
            return []
        numbers = range(spec.frames) if frames is None else sorted(set(frames))
        return [Region(number, *box, _REASON) for number in numbers for box in boxes]


def _digest(rules: tuple[Place, ...]) -> str:
    if not rules:
        return ""
    made = hashlib.sha256()
    for rule in rules:
        kept = rule.model_dump_json(exclude={"note": True, "rectangles": {"__all__": {"note"}}})
        made.update(f"{len(kept)}:{kept}".encode())
    return made.hexdigest()


def _holds(rule: Place, image: Image) -> bool:
    """Say whether a rule is for this image; sizes first, for they cost nothing."""
    spec = image.spec
    if not _fits(rule, spec.rows, spec.columns):
        return False
    if rule.photometric is not None and folded(rule.photometric) != folded(spec.photometric):
        return False
    if rule.modality and not set(map(folded, rule.modality)) & set(_texts(image, "Modality")):
        return False
    return (
        folded(rule.manufacturer) in _texts(image, "Manufacturer")
        and folded(rule.model) in _texts(image, "ManufacturerModelName")
        and (rule.software is None or _is_one_of(rule.software, _texts(image, "SoftwareVersions")))
    )


def _fits(rule: Place, rows: int, columns: int) -> bool:
    if (rule.rows, rule.columns) == (rows, columns):
        return True
    # The shape is the same when the height is what the width makes it, rounded.
    return rule.scale and abs(rule.rows * columns / rule.columns - rows) <= 0.5


def _is_one_of(wanted: str, versions: list[str]) -> bool:
    if wanted.endswith("*"):
        return any(version.startswith(folded(wanted.removesuffix("*"))) for version in versions)
    return folded(wanted) in versions


def _texts(image: Image, keyword: str) -> list[str]:
    """Give the values of an attribute, folded."""
    value: Any = image.dataset.get(keyword)
    if value is None:
        return []
    many = value if isinstance(value, list | tuple) or (not isinstance(value, str) and hasattr(value, "__iter__")) else [value]
    return [text for text in (folded(str(one).strip("\0")) for one in many) if text]


def _boxes(rule: Place, rows: int, columns: int) -> list[tuple[int, int, int, int]]:
    """Give the rectangles of a rule for a picture of this size, rounded outwards."""
    found = []
    for one in rule.rectangles:
        left, right = one.x * columns // rule.columns, -(-(one.x + one.w) * columns // rule.columns)
        top, bottom = one.y * rows // rule.rows, -(-(one.y + one.h) * rows // rule.rows)
        found.append((left, top, right - left, bottom - top))
    return found

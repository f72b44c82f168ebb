"""Decides which overlay planes may stay in the header, and says what of its graphics goes.

**Way** `overlays` looks at each overlay group (60xx). In strict mode a plane with any ink goes; in header mode it goes when
something that identifies is read in it. What cannot be unpacked, and what lies in the unused bits of the pixels, goes too.
Curves (50xx) and graphic annotations always go; where their text and figures stood is reported as ``graphic``.

**Fails** `RedactionUncertain` as `ocr.Tesseract.read`.

**Standard** PS3.3 C.9.2 (Overlay Plane Module), C.10.2 (curves, retired), C.10.5 (Graphic Annotation Module), PS3.5 section
8.1.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.errors import Undecodable
from dicomnode.image import Image
from dicomnode.image.file import guard
from dicomnode.records import Region

Plane = NDArray[np.uint8]
_MAX_PIXELS = 1 << 28


@dataclass(frozen=True, slots=True)
class Dropped:
    """Groups that must not leave, and where their ink lies."""

    groups: tuple[int, ...]
    regions: tuple[Region, ...]


def overlays(image: Image, *, strict: bool, identifies: Callable[[Plane], bool]) -> Dropped:
    """Find the overlay groups that must not leave.

    Parameters
    ----------
    identifies
        Reads a plane, (rows, cols) uint8, ink white, and says whether something in it identifies.
    """
    present = sorted({int(tag) >> 16 for tag in image.dataset.keys() if int(tag) >> 24 == 0x60})  # noqa: SIM118
    groups: list[int] = []
    found: list[Region] = []
    for group in present:
        try:
            for frame, plane in enumerate(_planes(image, group)):
                if plane.any() and (strict or identifies(plane * np.uint8(255))):
                    groups.append(group)
                    found.append(_region(image, group, frame, plane))
                    break
        except Undecodable:
            groups.append(group)
            found.append(_everywhere(image, "overlay"))
    curves = sorted({int(tag) >> 16 for tag in image.dataset.keys() if int(tag) >> 24 == 0x50})  # noqa: SIM118
    # A curve says in units of its own where it stands.
    found += [_everywhere(image, "graphic") for _ in curves]
    return Dropped((*dict.fromkeys(groups), *curves), (*found, *_graphics(image)))


def _planes(image: Image, group: int) -> Iterator[Plane]:
    """Unpack a group plane by plane, (rows, cols) of 0 and 1; none when it holds no overlay data."""
    ds = image.dataset
    with guard("an overlay cannot be unpacked"):
        if group << 16 | 0x3000 in image.left_out:
            raise Undecodable("an overlay is too large to be read")
        if (group, 0x3000) not in ds:
            if (group, 0x0100) in ds or (group, 0x0102) in ds:
                raise Undecodable("an overlay lies in the bits of the pixels")
            return
        rows, cols = int(ds[group, 0x0010].value), int(ds[group, 0x0011].value)
        frames = int(ds[group, 0x0015].value or 1) if (group, 0x0015) in ds else 1
        each = rows * cols
        if not (rows > 0 and cols > 0 and 0 < each * frames <= _MAX_PIXELS):
            raise Undecodable("an overlay has no sensible size")
        raw = np.frombuffer(ds[group, 0x3000].value, np.uint8)
        if raw.size * 8 < each * frames:
            raise Undecodable("an overlay is too short")
    for first in range(0, each * frames, each):
        # Planes run on without padding between them (PS3.5 section 8.1.2).
        skip = first % 8
        bits = np.unpackbits(raw[first // 8 : -(-(first + each) // 8)], bitorder="little")
        yield bits[skip : skip + each].reshape(rows, cols)


def _region(image: Image, group: int, frame: int, plane: Plane) -> Region:
    """Where the ink lies in the picture, clipped to it."""
    ds = image.dataset
    top, left, first = 0, 0, 1
    try:
        with guard("the origin of an overlay cannot be read"):
            if (group, 0x0050) in ds:
                top, left = (int(v) - 1 for v in ds[group, 0x0050].value)
            if (group, 0x0051) in ds:
                first = int(ds[group, 0x0051].value or 1)
    except Undecodable:
        pass
    ys, xs = np.nonzero(plane)
    y0, y1 = (min(max(int(v) + top, 0), image.rows) for v in (ys.min(), ys.max() + 1))
    x0, x1 = (min(max(int(v) + left, 0), image.columns) for v in (xs.min(), xs.max() + 1))
    return Region(min(max(first - 1 + frame, 0), image.frames - 1), x0, y0, x1 - x0, y1 - y0, "overlay")


def _everywhere(image: Image, reason: str) -> Region:
    return Region(0, 0, 0, image.columns, image.rows, reason)


def _graphics(image: Image) -> Iterator[Region]:
    """Say where the text and figures of graphic annotations stand; of those that do not say so in pixels, everywhere."""
    try:
        with guard("graphic annotations cannot be read"):
            places = [
                place
                for annotation in image.dataset.get("GraphicAnnotationSequence") or []
                for name in ("TextObjectSequence", "GraphicObjectSequence", "CompoundGraphicSequence")
                for drawn in annotation.get(name) or []
                for place in [_place(image, drawn)]
            ]
    except Undecodable:
        places = [_everywhere(image, "graphic")]
    yield from dict.fromkeys(places)


def _place(image: Image, drawn: Dataset) -> Region:
    """The rectangle of one text or figure, clipped to the picture; points are column and row and count from 1."""
    units = {"BoundingBoxAnnotationUnits", "AnchorPointAnnotationUnits", "GraphicAnnotationUnits", "CompoundGraphicUnits"}
    points = [
        float(value)
        for name in ("BoundingBoxTopLeftHandCorner", "BoundingBoxBottomRightHandCorner", "AnchorPoint", "GraphicData")
        for value in (drawn.get(name) or [])
    ]
    in_pixels = {str(drawn.get(name)) for name in units if name in drawn} == {"PIXEL"}
    if not in_pixels or not points or not all(map(math.isfinite, points)):
        return _everywhere(image, "graphic")
    left, top = (min(max(math.floor(min(points[i::2])) - 1, 0), most) for i, most in ((0, image.columns), (1, image.rows)))
    right, bottom = (min(max(math.ceil(max(points[i::2])), 0), most) for i, most in ((0, image.columns), (1, image.rows)))
    return Region(0, left, top, right - left, bottom - top, "graphic")

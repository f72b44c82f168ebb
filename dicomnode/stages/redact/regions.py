"""Turns what is marked in a frame into rectangles: grown beyond the glyphs, but not over neighbours that stay.

**Way** A place that goes grows by `PAD_PX` on each side, towards a place that stays no further than half the way. What goes in
one line and stands side by side meets. At the end every rectangle is made of whole cells (`Image.fit`).

**Fails** As `Image.fit`.

**Standard** PS3.5 section 8.1.1 (cells).

**Limits** A cell of a JPEG goes as a whole, also where a neighbour reaches into it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.image import Image
from dicomnode.records import Region
from dicomnode.stages.redact.line import Place
from dicomnode.stages.redact.marks import Mark

#: Rows and columns around the glyphs that go with them.
PAD_PX = 6
#: Two words of a line are side by side when their rows share so much of the lower one.
_BESIDE = 0.5


def regions(lines: Sequence[Sequence[Mark]], image: Image, frame: int) -> list[Region]:
    """Make the rectangles of one frame, in reading order.

    Parameters
    ----------
    lines
        What is marked in each line.
    """
    stays = [mark.place for marks in lines for mark in marks if mark.reason is None and mark.read]
    found: list[Region] = []
    for marks in lines:
        goes = [mark for mark in marks if mark.reason is not None]
        for mark in goes:
            place = _grown(_met(mark.place, [other.place for other in goes if other is not mark], stays), stays)
            found.append(Region(frame, *image.fit(frame, (place.x, place.y, place.w, place.h)), mark.reason or ""))
    return without_inner(found)


def _met(place: Place, beside: Sequence[Place], stays: Sequence[Place]) -> Place:
    """Let a word reach to the next one of its line that goes, when nothing that stays lies between."""
    left, top, right, bottom = place.x, place.y, place.right, place.bottom
    nearest = [other for other in beside if other.x >= right and _level(place, other)]
    if nearest:
        other = min(nearest, key=lambda one: one.x)
        between = Place(right, top, other.x - right, bottom - top)
        if between.w <= 3 * place.h and not any(between.shared(one) for one in stays):
            right = other.x
    return Place(left, top, right - left, bottom - top)


def _level(one: Place, other: Place) -> bool:
    return min(one.bottom, other.bottom) - max(one.y, other.y) >= _BESIDE * min(one.h, other.h)


def _grown(place: Place, stays: Sequence[Place]) -> Place:
    """Grow on each side, and stop half way to what stays."""
    wide = place.grown(PAD_PX)
    left, top, right, bottom = wide.x, wide.y, wide.right, wide.bottom
    for other in stays:
        if not wide.shared(other):
            continue
        # On the side on which the two lie furthest apart; what overlaps in both directions does not stop it.
        apart = {
            "right": other.x - place.right, "left": place.x - other.right,
            "bottom": other.y - place.bottom, "top": place.y - other.bottom,
        }
        side = max(apart, key=lambda name: apart[name])
        half = apart[side] // 2
        if apart[side] < 0:
            continue
        if side == "right":
            right = min(right, place.right + half)
        elif side == "left":
            left = max(left, place.x - half)
        elif side == "bottom":
            bottom = min(bottom, place.bottom + half)
        else:
            top = max(top, place.y - half)
    return Place(left, top, right - left, bottom - top)


def without_inner(made: Sequence[Region]) -> list[Region]:
    """Drop rectangles that are empty or lie within another one."""
    kept: list[Region] = []
    for r in sorted(set(made), key=lambda r: -r.w * r.h):
        inside = any(k.x <= r.x and k.y <= r.y and r.x + r.w <= k.x + k.w and r.y + r.h <= k.y + k.h for k in kept)
        if r.w > 0 and r.h > 0 and not inside:
            kept.append(r)
    return sorted(kept, key=lambda r: (r.y, r.x))

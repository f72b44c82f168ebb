"""The second look: how a blanked frame is seen, and what of it was judged before.

**Way** `blanked` paints the regions into the views of a frame; `news` drops the lines that lie in what is blanked, and those
that stand where something was read and stays. What is left is read and judged as at the first look.

**Fails** Nothing.

**Limits** The views are those of the frame as it was, painted: what blanking changes in the range of a frame's values is not
seen, and changes nothing outside the regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.records import Region
from dicomnode.stages.redact.line import Line, Place

#: What an even black place is in the views of a grey frame (`views.local` gives its mean), and of a colour one.
_GREY, _COLOUR = (0, 0, 128), (0, 0, 0)
#: Share of a line from which it lies in what is blanked, or in what is known.
_COVERED = 0.6
#: How far glyphs reach beyond the place of a word, as a share of its height.
_AROUND = 0.35


def blanked(views: NDArray[np.uint8], regions: Sequence[Region], *, colour: bool) -> NDArray[np.uint8]:
    """Paint the regions of a frame into a copy of its views."""
    return painted(views, regions, _COLOUR if colour else _GREY)


def painted(array: NDArray[Any], regions: Sequence[Region], value: Any) -> NDArray[Any]:
    """Give a copy in which the regions have one value."""
    copy = array.copy()
    for r in regions:
        copy[r.y : r.y + r.h, r.x : r.x + r.w] = value
    return copy


def news(lines: Sequence[Line], regions: Sequence[Region], known: Sequence[Place]) -> list[Line]:
    """Keep the lines that were not judged before.

    Parameters
    ----------
    known
        Places of what was judged and stays.
    """
    settled = [Place(r.x, r.y, r.w, r.h) for r in regions]
    settled += [place.grown(2 + int(_AROUND * min(place.w, place.h))) for place in known]
    return [line for line in lines if _covered(line, settled) < _COVERED]


def _covered(line: Line, places: Sequence[Place]) -> float:
    """Share of a line that lies under places, each pixel counted once."""
    under = np.zeros((line.h, line.w), bool)
    for place in places:
        if line.shared(place):
            top, left = max(0, place.y - line.y), max(0, place.x - line.x)
            under[top : place.bottom - line.y, left : place.right - line.x] = True
    return float(under.mean())

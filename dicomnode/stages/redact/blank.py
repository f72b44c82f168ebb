"""Turns judged words into rectangles of the frame, and says which stored value shows as black.

**Way** `regions` merges what the pages have found at one place: what the surest reading calls harmless stays, unless any
reading is something of the header. `black` gives the value.

**Fails** `Undecodable` when a palette cannot be read.

**Standard** PS3.3 C.7.6.3.1.2 (photometric interpretations), PS3.5 section 8.1.1 (cells).

**Limits** Rescaling by a negative slope turns black into white; the pixels are gone all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.pixels.processing import apply_color_lut

from dicomnode.image import Image, codecs
from dicomnode.image.file import guard
from dicomnode.records import Region
from dicomnode.stages.redact.lines import Box

#: Rows and columns around the glyphs that go with them, at least, and at most twice as many.
PAD_PX = 2
#: A reading this sure may call a place harmless.
_SURE = 60.0
#: What an unknown reading may be ahead in confidence, and how much of its place must be read as harmless.
_LEAD, _COVER = 15.0, 0.6
_STRONG = frozenset(("header-match", "date", "number"))
#: From where a reading is clear, and up to where it is poor.
_CLEAR, _POOR = 85.0, 60.0
#: How much of a poor reading's place must be clear: with less, a name beside a technical word would stay.
_MOST = 0.5
Judged = tuple[Box, str | None]


def regions(judged: Sequence[Judged], frame: int, rows: int, cols: int, *, even: bool = False) -> list[Region]:
    """Make the rectangles of one frame.

    Parameters
    ----------
    judged
        Words with their reason, None for harmless ones, of all pages.
    even
        Let columns begin and end at even numbers, for YBR_FULL_422.
    """
    harmless = [box for box, reason in judged if reason is None and box.confidence >= _SURE]
    clear = [box for box, _ in judged if box.confidence >= _CLEAR and box.letters > 1]
    made: list[Region] = []
    for box, reason in judged:
        if reason is None or (reason not in _STRONG and (_outvoted(box, harmless) or _overread(box, clear))):
            continue
        pad = min(2 * PAD_PX, max(PAD_PX, box.h // 3))
        left, top = max(0, box.x - pad), max(0, box.y - pad)
        right, bottom = min(cols, box.right + pad), min(rows, box.bottom + pad)
        if even:
            left, right = left // 2 * 2, -(-right // 2) * 2
        made.append(Region(frame, left, top, right - left, bottom - top, reason))
    return _without_inner(made)


def _outvoted(box: Box, harmless: Sequence[Box]) -> bool:
    """Say whether other pages have read harmless words, of at least half the letters, over most of this one's place."""
    others = [other for other in harmless if box.shared(other) and other.confidence + _LEAD > box.confidence]
    letters = max((other.letters for other in others), default=0)
    return 2 * letters >= box.letters and _covered(box, others) >= _COVER


def _overread(box: Box, clear: Sequence[Box]) -> bool:
    """Say whether a poor reading lies where clear words were read; those have been judged."""
    return box.confidence < _POOR and _covered(box, clear) >= _MOST


def _covered(box: Box, others: Sequence[Box]) -> float:
    """Share of a box that lies under others, each place counted once however many pages have read it."""
    place = np.zeros((box.h, box.w), bool)
    for other in others:
        if box.shared(other):
            place[max(0, other.y - box.y) : other.bottom - box.y, max(0, other.x - box.x) : other.right - box.x] = True
    return float(place.mean())


def _without_inner(made: Sequence[Region]) -> list[Region]:
    """Drop rectangles that lie within another one, in reading order."""
    by_size = sorted(set(made), key=lambda r: -r.w * r.h)
    kept: list[Region] = []
    for r in by_size:
        if not any(k.x <= r.x and k.y <= r.y and r.x + r.w <= k.x + k.w and r.y + r.h <= k.y + k.h for k in kept):
            kept.append(r)
    return sorted(kept, key=lambda r: (r.y, r.x))


def black(image: Image) -> tuple[float, ...]:
    """Give the stored value that shows as black, one for each sample."""
    spec, photometric = image.spec, image.decoded_photometric()
    if photometric == "PALETTE COLOR":
        return (_darkest(image),)
    if spec.real:
        values = image.frame(0)
        finite = values[np.isfinite(values)]
        return (float(finite.min()) if finite.size else 0.0,)
    return codecs.black(spec, photometric)


def _darkest(image: Image) -> int:
    """Index of the darkest entry of the palette."""
    with guard("the palette cannot be read"):
        count, first, _ = (int(v) for v in image.dataset.RedPaletteColorLookupTableDescriptor)
        last = min(first + (count or 65536), 1 << image.spec.bits_stored)
        indices = np.arange(first, last).astype(image.frame(0).dtype)
        colours = np.asarray(apply_color_lut(indices[None, :], image.dataset), np.int64)[0, :, :3]
        return int(indices[int(colours.sum(axis=1).argmin())])

"""Makes DCT JPEG frames that can leave: rebuilt of what a decoder needs, or with places made black, never coded anew.

**Way** `rebuilt` writes the parts of a code stream again (`jpeg_parts`), the scans of a sequential one code by code (`blocks`),
so that nothing else is in it, and with the blocks of some places black; the bits of all others are as they were. `is_whole`
proves by decoding that the picture is the same outside the places, and that blocks that reach over the edge go on as the edge
does. Of a progressive stream the last bytes of each scan must change the picture.

**Fails** Nothing: a stream that cannot be vouched for gives None or False, and its decoded values are stored instead.

**Standard** ISO/IEC 10918-1 Annex B; PS3.5 Annex A.4.1 and 8.2.1.

**Limits** Places in progressive streams are not made black, nor are those with restart intervals rebuilt. Up to three bytes
behind the last block of a progressive scan, and symbols of a Huffman table that no block uses, go unseen.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import imagecodecs
import numpy as np

from dicomnode.errors import Undecodable, UnsupportedTransferSyntax
from dicomnode.image import codecs
from dicomnode.image.blocks import Blocks
from dicomnode.image.file import guard
from dicomnode.image.huffman import NotKnown
from dicomnode.image.jpeg_parts import Parts, join, parts
from dicomnode.image.spec import Spec

#: JPEG Baseline, Extended, and the retired Spectral Selection and Full Progression: what `rebuilt` takes.
SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55))
#: What is cut from a progressive scan to see whether it is needed, bytes.
_TAIL = 4
#: How far blocks over the edge may differ from the edge, as a share of the scale.
_EDGE = 0.35


def taken(raw: bytes, spec: Spec) -> Blocks | None:
    """Take a sequential code stream apart block by block; None for what is none or is not understood."""
    try:
        return Blocks(parts(raw, spec), spec)
    except NotKnown:
        return None


def rebuilt(raw: bytes, spec: Spec, mask: codecs.Array | None = None) -> bytes | None:
    """Write a code stream again, from what is needed; None when it has parts that are not understood.

    Parameters
    ----------
    mask
        (rows, columns) of the places to be made black, as `Blocks.fit` gives them.
    """
    try:
        given = parts(raw, spec)
        if not given.sequential:
            return join(given) if mask is None else None
        return Blocks(given, spec).blanked(np.zeros((spec.rows, spec.columns), bool) if mask is None else mask)
    except NotKnown:
        return None


def is_whole(raw: bytes, spec: Spec, mask: codecs.Array | None = None) -> bool:
    """Say whether `rebuilt` gives the same values, black in the places, and holds nothing that the picture does not show."""
    clean = rebuilt(raw, spec, mask)
    if clean is None:
        return False
    try:
        before, photometric = codecs.decode(raw, spec)
        after, _ = codecs.decode(clean, spec)
        if mask is None:
            same = np.array_equal(before, after)
        else:
            same = np.array_equal(before[~mask], after[~mask]) and _is_black(after, Blocks(parts(clean, spec), spec), mask, (
                codecs.black(spec, photometric)
            ))
        return same and _shows_all(clean, spec)
    except (NotKnown, Undecodable, UnsupportedTransferSyntax):
        return False


def _is_black(values: codecs.Array, blocks: Blocks, mask: codecs.Array, black: tuple[float, ...]) -> bool:
    """Say whether a mask is black in a decoded frame, but for what colour neighbours draw into its edge."""
    core = blocks.core(mask)
    first = values[core].reshape(-1, len(black))[:, 0]
    return bool((first == black[0]).all() and (values[blocks.core(core)] == np.array(black, values.dtype)).all())


def _plain(raw: bytes) -> codecs.Array | None:
    """Decode with every bit that the stream has; None when it does not decode."""
    try:
        with guard("a frame does not decode"):
            return np.asarray(imagecodecs.jpeg_decode(raw))
    except Undecodable:
        return None


def _shows_all(clean: bytes, spec: Spec) -> bool:
    """Say whether the picture shows whatever is in a stream that is rebuilt."""
    given, whole = parts(clean, spec), _plain(clean)
    if whole is None or int(whole.max()) >> spec.bits_stored:
        return False
    if not given.sequential:
        for number, scan in enumerate(given.scans):
            cut = [*given.scans]
            cut[number] = replace(scan, data=scan.data[:-_TAIL].removesuffix(b"\xff"))
            short = _plain(join(replace(given, scans=cut)))
            if short is not None and np.array_equal(whole, short):
                return False
    return _edge_goes_on(given, spec)


def _edge_goes_on(given: Parts, spec: Spec) -> bool:
    """Say whether the blocks that reach over the edge show what the edge shows: a cropped picture may hold more."""
    frame, components = given.frame, given.components
    several = len(components) > 1
    across, down = (8 * max(sides) if several else 8 for sides in zip(*((c.across, c.down) for c in components), strict=True))
    rows, columns = -(-spec.rows // down) * down, -(-spec.columns // across) * across
    if (rows, columns) == (spec.rows, spec.columns):
        return True
    enlarged = frame[:1] + struct.pack(">HH", rows, columns) + frame[5:]
    whole = _plain(join(replace(given, frame=enlarged)))
    if whole is None or whole.shape[:2] != (rows, columns):
        return False
    values = whole.astype(np.int64)
    inside = values[: spec.rows, : spec.columns]
    pad = ((0, rows - spec.rows), (0, columns - spec.columns), *(((0, 0),) if values.ndim == 3 else ()))
    apart = np.abs(values - np.pad(inside, pad, mode="edge"))
    return bool(apart.max() <= _EDGE * (1 << spec.bits_stored))

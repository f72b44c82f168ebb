"""Presentation contexts: which SOP Classes we store, in which transfer syntaxes, and which of the proposed ones we take.

**Way** `answer` looks at what a requestor proposes for one SOP Class and gives our transfer syntaxes in the order in which
the acceptor takes the first that was proposed: lossless compression as the sender has it, then Explicit VR Little Endian,
Deflated, Explicit VR Big Endian, and Implicit VR Little Endian last. Lossy compression goes before these when no context
names an uncompressed syntax ahead of it: the sender's own order shows what its objects are, and nobody is to compress them
lossily for us.

**Standard** PS3.4 Annexes B.5 and GG.3 (SOP Classes), PS3.5 Annex A (transfer syntaxes), PS3.8 7.1.1.13.

**Limits** Private SOP Classes, private and video transfer syntaxes are refused by context. SOP Classes without pixel data
are taken uncompressed or deflated only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from pydicom import uid
from pydicom._uid_dict import UID_dictionary

#: Compressed without loss; the node has a decoder for each.
LOSSLESS = tuple(map(str, (
    uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLossless, uid.JPEGLSLossless, uid.JPEG2000Lossless,
    uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL,
)))
#: Compressed, perhaps with loss.
LOSSY = tuple(map(str, (
    uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K,
)))
EXPLICIT, IMPLICIT = str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)
DEFLATED, BIG_ENDIAN = str(uid.DeflatedExplicitVRLittleEndian), str(uid.ExplicitVRBigEndian)
#: Every element readable without a codec, in our order.
PLAIN = (EXPLICIT, DEFLATED, BIG_ENDIAN, IMPLICIT)

VERIFICATION = "1.2.840.10008.1.1"
#: Beside the SOP Classes whose name says Image: these carry Pixel Data too.
_PIXEL_NAMES = ("Image", "Segmentation Storage", "Parametric Map", "RT Dose", "US Volume", "Map Storage")
#: Storage in the name, but nothing that C-STORE carries.
_NO_STORAGE = ("Commitment", "Directory", "Print", "Hardcopy")


@cache
def storage_classes() -> frozenset[str]:
    """Every Storage SOP Class of the standard, retired and non-patient ones included."""
    return frozenset(
        uid_ for uid_, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and not any(word in name for word in _NO_STORAGE)
    )


@cache
def has_pixels(sop_class_uid: str) -> bool:
    """Say whether instances of a SOP Class carry Pixel Data, so that compressed transfer syntaxes make sense."""
    name = UID_dictionary.get(sop_class_uid, ("",))[0]
    return any(word in name for word in _PIXEL_NAMES)


def is_image(sop_class_uid: str) -> bool:
    """Say whether a SOP Class is one of the standard's image classes: RT Dose has pixels and is none, a private one may be
    anything.
    """
    return "Image Storage" in UID_dictionary.get(sop_class_uid, ("",))[0]


def answer(sop_class_uid: str, proposed: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Give our transfer syntaxes for a SOP Class in order of preference; empty when we do not store it.

    Parameters
    ----------
    proposed
        Transfer syntaxes of each presentation context that names this SOP Class.
    """
    if sop_class_uid == VERIFICATION:
        return (IMPLICIT, EXPLICIT, BIG_ENDIAN)
    if sop_class_uid not in storage_classes():
        return ()
    if not has_pixels(sop_class_uid):
        return PLAIN
    contexts = [tuple(syntaxes) for syntaxes in proposed]
    wanted = sorted(LOSSY, key=lambda syntax: min((c.index(syntax) for c in contexts if syntax in c), default=0))
    if any(_plain_first(context) for context in contexts):
        return (*LOSSLESS, *PLAIN, *wanted)
    return (*LOSSLESS, *wanted, *PLAIN)


def _plain_first(context: tuple[str, ...]) -> bool:
    """True when a context proposes lossy compression, and something uncompressed ahead of it."""
    lossy = [place for place, syntax in enumerate(context) if syntax in LOSSY]
    plain = [place for place, syntax in enumerate(context) if syntax in PLAIN]
    return bool(lossy and plain) and min(plain) < min(lossy)

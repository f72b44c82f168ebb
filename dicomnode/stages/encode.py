"""The plain lossless coder: from redacted frames to the bytes of pixel data.

**Way** Values are never changed beyond what redaction blanked, and no stored code stream leaves as it came: it may carry
comments, further streams or bits that nobody looked at. Native pixel data keep their syntax and layout. Lossless syntaxes are
coded anew from the values (RLE, JPEG Lossless, JPEG-LS, JPEG 2000, High-Throughput JPEG 2000) and decoded for proof. A DCT
JPEG is written again of what its decoder needs, the blocks of blanked places black (`image.jpeg`), and stays what it is. Where
that cannot be proved, and for all other lossy syntaxes, the decoded values are stored in the lossless syntax of the same
family, or where that cannot hold them, as native Explicit VR Little Endian. Frames are made one at a time, while they are
written.

**Fails** `StageFailed` when an encoded frame does not decode to the values that went in, or a frame was not looked at;
`Undecodable` as `Image.frame` has it. Both may come while the frames are made.

**Standard** PS3.5 section 8 and Annex A; PS3.3 C.7.6.3.

**Limits** A lossy source that is stored without loss grows by a factor of about five; nothing further is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.errors import StageFailed, Undecodable, UnsupportedTransferSyntax
from dicomnode.image import Coded, Image, Redacted, codecs, jpeg
from dicomnode.image.spec import Spec

_FLOATS = {32: "OF", 64: "OD"}
#: Derivation Description (0008,2111) of what a place was blanked in, and of values that are stored in another syntax.
_IN_COEFFICIENTS = "Blanked in the coefficients of the JPEG, nothing coded anew"
_DECODED = "Decoded from lossy compression and stored without further loss"


class Encode:
    """The stage: built once, keeps nothing of an instance."""

    name = "encode"

    def __call__(self, redacted: Redacted) -> Coded:
        """Choose the syntax; the frames follow when they are asked for.

        Raises
        ------
        Undecodable, UnsupportedTransferSyntax
            The first frame of an image that was blanked does not decode.
        """
        image = redacted.image
        described, syntax = image.spec, image.transfer_syntax_uid
        stored: dict[str, str | int] = {"PhotometricInterpretation": image.photometric}
        if redacted.seen is not None:
            # Some frames only, for a capture: it takes them from `redacted`, and no image can be made of the rest.
            return _coded(redacted, str(ExplicitVRLittleEndian), stored, partial(_native, redacted))
        if not described.encapsulated:
            return _coded(redacted, syntax, stored, partial(_native, redacted))
        if syntax in jpeg.SYNTAXES and _are_whole(redacted):
            derivation = _IN_COEFFICIENTS if redacted.touched else ""
            return _coded(redacted, syntax, stored, partial(_streams, redacted), derivation)
        attributes: dict[str, str | int] = {
            "PhotometricInterpretation": image.decoded_photometric(), "HighBit": described.bits_stored - 1,
        }
        if described.samples > 1:
            attributes["PlanarConfiguration"] = 0
        if syntax in codecs.LOSSY:
            attributes["LossyImageCompression"] = "01"
        whole = 8 <= described.bits_allocated <= 32
        if whole and syntax in codecs.LOSSLESS:
            return _coded(redacted, syntax, attributes, partial(_lossless, redacted, described))
        exact = replace(described, transfer_syntax_uid=codecs.LOSSLESS_OF.get(syntax, ""))
        if whole and exact.transfer_syntax_uid and _holds(image, exact):
            return _coded(redacted, exact.transfer_syntax_uid, attributes, partial(_lossless, redacted, exact), _DECODED)
        derivation = _DECODED if exact.transfer_syntax_uid else ""
        return _coded(redacted, str(ExplicitVRLittleEndian), attributes, partial(_native, redacted), derivation)


def _coded(
    redacted: Redacted, syntax: str, attributes: dict[str, str | int], make: Callable[[], Iterator[bytes]],
    derivation: str = "",
) -> Coded:
    described = redacted.image.spec
    encapsulated = described.encapsulated and syntax != ExplicitVRLittleEndian
    # OB also where the source said OW: cells of 8 bits are then in order in Big Endian too.
    vr = "OB" if encapsulated or described.bits_allocated <= 8 else "OW"
    if described.real:
        vr = _FLOATS[described.bits_allocated]
    photometric = str(attributes["PhotometricInterpretation"])
    return Coded(redacted, syntax, photometric, encapsulated, vr, attributes, make, derivation)


def _are_whole(redacted: Redacted) -> bool:
    """Prove that every frame can stay a JPEG, with its blanked places black."""
    image = redacted.image
    return all(jpeg.is_whole(image.raw_frame(n), image.spec, _mask(redacted, n)) for n in range(image.frames))


def _streams(redacted: Redacted) -> Iterator[bytes]:
    image = redacted.image
    for number in range(image.frames):
        stream = jpeg.rebuilt(image.raw_frame(number), image.spec, _mask(redacted, number))
        if stream is None:
            raise StageFailed("encode: a code stream cannot be written again")
        yield stream


def _mask(redacted: Redacted, number: int) -> NDArray[np.bool_] | None:
    regions = redacted.regions_of(number)
    if not regions:
        return None
    mask = np.zeros((redacted.image.rows, redacted.image.columns), bool)
    for r in regions:
        mask[r.y : r.y + r.h, r.x : r.x + r.w] = True
    return mask


def _native(redacted: Redacted) -> Iterator[bytes]:
    """Native frames: as stored where nothing was changed, else packed in the source's layout."""
    image, described = redacted.image, redacted.image.spec
    if described.bits_allocated == 1:
        yield from _single_bits(redacted)
        return
    for number in range(image.frames):
        redacted.need(number)
        stored = not redacted.regions_of(number) and not described.encapsulated
        if stored and not image.has_strays(number):
            yield image.raw_frame(number)
        else:
            yield codecs.pack(redacted.frame(number), described)


def _single_bits(redacted: Redacted) -> Iterator[bytes]:
    """Cells of 1 bit run on from frame to frame (PS3.5 section 8.1.1): bits that fill no byte wait for the next frame."""
    rest = np.zeros(0, np.uint8)
    for number in range(redacted.image.frames):
        cells = np.concatenate((rest, redacted.frame(number).reshape(-1)))
        whole = cells.size // 8 * 8
        yield np.packbits(cells[:whole], bitorder="little").tobytes()
        rest = cells[whole:]
    if rest.size:
        yield np.packbits(rest, bitorder="little").tobytes()


def _lossless(redacted: Redacted, described: Spec) -> Iterator[bytes]:
    """Frames encoded from their values in the syntax of ``described``, and decoded again for proof."""
    for number in range(redacted.image.frames):
        stream = _exact(redacted.frame(number), described, redacted.image.decoded_photometric(number))
        if stream is None:
            raise StageFailed("encode: a frame does not decode to the values that went in")
        yield stream


def _exact(values: NDArray[Any], described: Spec, photometric: str) -> bytes | None:
    """Encode a frame without loss; None when it cannot be, or does not decode to the values that went in."""
    try:
        stream = codecs.encode(values, described, photometric)
        again, _ = codecs.decode(stream, described)
    except (Undecodable, UnsupportedTransferSyntax):
        return None
    return stream if np.array_equal(again, values) else None


def _holds(image: Image, described: Spec) -> bool:
    """Say whether a syntax can hold the values of an image, by its first frame."""
    return _exact(image.frame(0), described, image.decoded_photometric()) is not None

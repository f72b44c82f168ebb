"""The plain lossless coder: from redacted frames to the bytes of pixel data.

**Way** Values are never changed beyond what redaction blanked, and no stored code stream leaves as it came: it may carry
comments, further streams or bits that nobody looked at. Lossless syntaxes are coded anew from the values (RLE, JPEG Lossless,
JPEG-LS, JPEG 2000, High-Throughput JPEG 2000) and decoded for proof; a lossy JPEG in which nothing was blanked is rebuilt of
what its decoder needs (`image.jpeg`); the decoded values of all else become native Explicit VR Little Endian. Native pixel
data keep their syntax when nothing was blanked. Frames are made one at a time, while they are written.

**Fails** `StageFailed` when an encoded frame does not decode to the values that went in, or a frame was not looked at;
`Undecodable` as `Image.frame` has it. Both may come while the frames are made.

**Standard** PS3.5 section 8 and Annex A; PS3.3 C.7.6.3.

**Limits** A lossy source that becomes native grows: its decoded values are stored, which loses nothing further.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.errors import StageFailed, Undecodable
from dicomnode.image import Coded, Redacted, codecs, jpeg
from dicomnode.image.spec import Spec

_FLOATS = {32: "OF", 64: "OD"}


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
        described = image.spec
        stored: dict[str, str | int] = {"PhotometricInterpretation": image.photometric}
        if redacted.seen is not None:
            # Some frames only, for a capture: it takes them from `redacted`, and no image can be made of the rest.
            return _coded(redacted, str(ExplicitVRLittleEndian), image.photometric, stored, partial(_native, redacted))
        if not described.encapsulated and not redacted.touched:
            return _coded(redacted, image.transfer_syntax_uid, image.photometric, stored, partial(_native, redacted))
        if not redacted.touched and _can_be_rebuilt(redacted):
            return _coded(redacted, image.transfer_syntax_uid, image.photometric, stored, partial(_rebuilt, redacted))
        photometric = image.decoded_photometric()
        attributes: dict[str, str | int] = {"PhotometricInterpretation": photometric}
        if described.samples > 1:
            attributes["PlanarConfiguration"] = 0 if described.encapsulated else described.planar
        if image.transfer_syntax_uid in codecs.LOSSY:
            attributes["LossyImageCompression"] = "01"
        if described.encapsulated:
            attributes["HighBit"] = described.bits_stored - 1
        if described.encapsulated and image.transfer_syntax_uid in codecs.LOSSLESS and 8 <= described.bits_allocated <= 32:
            return _coded(redacted, image.transfer_syntax_uid, photometric, attributes, partial(_lossless, redacted))
        if described.subsampled:
            photometric = attributes["PhotometricInterpretation"] = described.photometric
        return _coded(redacted, str(ExplicitVRLittleEndian), photometric, attributes, partial(_native, redacted, little=True))


def _coded(
    redacted: Redacted, syntax: str, photometric: str, attributes: dict[str, str | int], make: partial[Iterator[bytes]]
) -> Coded:
    described = redacted.image.spec
    encapsulated = described.encapsulated and syntax != ExplicitVRLittleEndian
    # OB also where the source said OW: cells of 8 bits are then in order in Big Endian too.
    vr = "OB" if encapsulated or described.bits_allocated <= 8 else "OW"
    if described.real:
        vr = _FLOATS[described.bits_allocated]
    return Coded(redacted, syntax, photometric, encapsulated, vr, attributes, make)


def _can_be_rebuilt(redacted: Redacted) -> bool:
    """Say whether every frame is a JPEG that holds what it shows and nothing else, once it is rebuilt."""
    image = redacted.image
    if image.transfer_syntax_uid not in jpeg.SYNTAXES:
        return False
    return all(jpeg.is_whole(image.raw_frame(number), image.spec) for number in range(image.frames))


def _rebuilt(redacted: Redacted) -> Iterator[bytes]:
    image = redacted.image
    for number in range(image.frames):
        stream = jpeg.rebuilt(image.raw_frame(number), image.spec)
        if stream is None:
            raise StageFailed("encode: a code stream cannot be rebuilt")
        yield stream


def _native(redacted: Redacted, *, little: bool = False) -> Iterator[bytes]:
    """Native frames: as stored where nothing was changed, else packed in the source's layout."""
    image, described = redacted.image, redacted.image.spec
    if described.bits_allocated == 1:
        yield from _single_bits(redacted)
        return
    layout = _little_endian(described) if little else described
    for number in range(image.frames):
        redacted.need(number)
        stored = not redacted.regions_of(number) and layout is described and not described.encapsulated
        if stored and not image.has_strays(number):
            yield image.raw_frame(number)
        else:
            yield codecs.pack(redacted.frame(number), layout)


def _little_endian(described: Spec) -> Spec:
    """The same layout in Little Endian."""
    if described.little:
        return described
    return Spec(**{name: getattr(described, name) for name in Spec.__slots__} | {"little": True})


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


def _lossless(redacted: Redacted) -> Iterator[bytes]:
    """Frames encoded from their values, and decoded again for proof."""
    image, described = redacted.image, redacted.image.spec
    for number in range(image.frames):
        values = redacted.frame(number)
        photometric = image.decoded_photometric(number)
        try:
            stream = codecs.encode(values, described, photometric)
            again, _ = codecs.decode(stream, described, number)
        except Undecodable:
            raise StageFailed("encode: a frame cannot be encoded in its own syntax") from None
        if not np.array_equal(again, values):
            raise StageFailed("encode: a frame does not decode to the values that went in")
        yield stream

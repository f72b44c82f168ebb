"""Decodes single frames into stored values, and encodes them again without loss.

**Way** `decode` takes the bytes of one frame and gives its values and the photometric interpretation that they are in:
JPEG 2000 undoes its own colour transform, nothing else is converted. `encode` makes one frame in one of the syntaxes of
`LOSSLESS`; `pack` makes native bytes. pydicom chooses among its codecs; what it has none for (12-bit and progressive
JPEG, High-Throughput JPEG 2000, deflated frames, RLE of single bits) is decoded here.

**Fails** `Undecodable` and `UnsupportedTransferSyntax`, never with the text of a codec.

**Standard** PS3.5 section 8.1 (cells, high bit), 8.2 and Annexes A and G.

**Limits** Bits outside Bits Stored are not values: they come out as zero or sign.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import gdcm
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.errors import Undecodable, UnsupportedTransferSyntax
from dicomnode.image.file import guard
from dicomnode.image.spec import FRAME_MAX_BYTES, Spec

Array = NDArray[Any]

_JPEG_LOSSLESS = frozenset(map(str, (JPEGLossless, JPEGLosslessSV1)))
#: Syntaxes that are written again as they came.
LOSSLESS = _JPEG_LOSSLESS | set(
    map(str, (JPEGLSLossless, JPEG2000Lossless, RLELossless, HTJ2KLossless, HTJ2KLosslessRPCL)),
)
#: Syntaxes that may lose, and the one of the same family that does not.
LOSSLESS_OF = {f"1.2.840.10008.1.2.4.{lossy}": f"1.2.840.10008.1.2.4.{exact}" for lossy, exact in (
    (50, 70), (51, 70), (53, 70), (55, 70), (81, 80), (91, 90), (203, 201),
)}
#: Syntaxes that always lose; JPEG 2000 may, its header says.
LOSSY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 81))
#: Where pydicom repeats what its codecs say.
_TALKERS = ("", ".encaps", ".pixels.decoders.base", ".pixels.encoders.base", ".pixels.utils")
_LOGGERS = [logging.getLogger(f"pydicom{name}") for name in _TALKERS]
# gdcm writes to standard error by itself.
for _off in (gdcm.Trace.ErrorOff, gdcm.Trace.WarningOff, gdcm.Trace.DebugOff):
    _off()
_HTJ2K = frozenset(map(str, (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)))
#: Deflated Image Frame Compression (PS3.5 Annex A.4.13), which pydicom 3.0 does not know.
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
#: Sequential and progressive JPEG of 8 or 12 bits: Extended, Spectral Selection, Full Progression.
_JPEG = frozenset((str(JPEGExtended12Bit), "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"))


def dtype(spec: Spec) -> np.dtype[Any]:
    """Type of the decoded values, native byte order."""
    size = max(8, spec.bits_allocated) // 8
    return np.dtype(f"{'f' if spec.real else 'i' if spec.signed else 'u'}{size}")


def decode(raw: bytes, spec: Spec, frame: int = 0) -> tuple[Array, str]:
    """Decode one frame.

    Parameters
    ----------
    raw
        As `frames.Frames.raw` gives it.
    frame
        Its index, which says where it begins when cells of 1 bit do not fill bytes.

    Returns
    -------
    array, photometric
        (rows, cols) or (rows, cols, 3) of `dtype`, and the interpretation that the values are in.

    Raises
    ------
    Undecodable
        The bytes are no such frame.
    UnsupportedTransferSyntax
        There is no decoder.
    """
    if not spec.encapsulated:
        with guard("native pixel data cannot be decoded"):
            return _settle(_native(raw, spec, frame), spec), "YBR_FULL" if spec.subsampled else spec.photometric
    if spec.rows * spec.columns * spec.samples * dtype(spec).itemsize > FRAME_MAX_BYTES:
        raise Undecodable("a frame is too large to be looked at")
    with guard("a frame does not decode"), _quiet():
        array, photometric = _encapsulated(raw, spec)
        if array.shape != _shape(spec):
            raise Undecodable("a frame has another size than the header says")
        # Its values are at full size, however they were stored.
        return _settle(array, spec), "YBR_FULL" if photometric == "YBR_FULL_422" else photometric


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pydicom from logging what its codecs say."""
    before = [logger.disabled for logger in _LOGGERS]
    for logger in _LOGGERS:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(_LOGGERS, before, strict=True):
            logger.disabled = disabled


def _shape(spec: Spec) -> tuple[int, ...]:
    return (spec.rows, spec.columns) if spec.samples == 1 else (spec.rows, spec.columns, spec.samples)


def _native(raw: bytes, spec: Spec, frame: int) -> Array:
    if spec.bits_allocated == 1:
        return _bits(raw, spec, frame * spec.bits % 8)
    kind = dtype(spec).newbyteorder("<" if spec.little else ">")
    cells = np.frombuffer(raw, kind).astype(dtype(spec), copy=False)
    if spec.subsampled:
        # Y1 Y2 Cb Cr for each two columns (PS3.3 C.7.6.3.1.2).
        pairs = cells.reshape(spec.rows, spec.columns // 2, 4)
        luma = pairs[..., :2].reshape(spec.rows, spec.columns)
        chroma = np.repeat(pairs[..., 2:], 2, axis=1)
        return np.dstack((luma, chroma))
    if spec.samples > 1 and spec.planar == 1:
        return np.moveaxis(cells.reshape(spec.samples, spec.rows, spec.columns), 0, -1).copy()
    return cells.reshape(_shape(spec))


def _bits(raw: bytes, spec: Spec, skip: int) -> Array:
    cells = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    return cells[skip : skip + spec.rows * spec.columns].reshape(spec.rows, spec.columns)


def _encapsulated(raw: bytes, spec: Spec) -> tuple[Array, str]:
    own = _own(raw, spec)
    if own is not None:
        return own, spec.photometric
    try:
        decoder = get_decoder(spec.transfer_syntax_uid)
        available = decoder.is_available
    except NotImplementedError:
        available = False
    if not available or not decoder.is_encapsulated:
        raise UnsupportedTransferSyntax(f"no decoder for transfer syntax {_named(spec.transfer_syntax_uid)}")
    options = _options(spec, spec.photometric) | {"planar_configuration": spec.planar, "pixel_keyword": "PixelData"}
    array, found = decoder.as_array(encapsulate([raw], has_bot=False), index=0, raw=True, **options)
    return array, str(found["photometric_interpretation"])


def _options(spec: Spec, photometric: str) -> dict[str, Any]:
    """What pydicom wants to know of one frame."""
    return {
        "rows": spec.rows,
        "columns": spec.columns,
        "number_of_frames": 1,
        "samples_per_pixel": spec.samples,
        "bits_allocated": spec.bits_allocated,
        "bits_stored": spec.bits_stored,
        "pixel_representation": int(spec.signed),
        "photometric_interpretation": photometric,
        "planar_configuration": 0,
    }


def _named(uid: str) -> str:
    """The UID when it is one of the standard's; else nothing of it, for it came from a peer."""
    return uid if UID(uid).is_transfer_syntax and not UID(uid).is_private else "that is unknown"


def _own(raw: bytes, spec: Spec) -> Array | None:
    """Decode what pydicom has no codec for; None for everything else."""
    syntax = spec.transfer_syntax_uid
    if syntax in _JPEG and spec.samples == 1:
        return np.asarray(imagecodecs.jpeg_decode(raw)).astype(dtype(spec))
    if syntax in _JPEG_LOSSLESS and spec.bits_stored < 8:
        # The other codec ends the process when the stream has more bits than the header says.
        return np.asarray(imagecodecs.jpeg_decode(raw, colorspace="RGB", outcolorspace="RGB") if spec.samples == 3 else (
            imagecodecs.jpeg_decode(raw)
        )).astype(dtype(spec))
    if syntax in _HTJ2K:
        return np.asarray(imagecodecs.jpeg2k_decode(raw)).astype(dtype(spec))
    if syntax == DEFLATED_FRAME:
        room = -(-spec.bits // 8) + 1
        return _native(zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, room)[: -(-spec.bits // 8)], spec, 0)
    if syntax == RLELossless and spec.bits_allocated == 1:
        return _bits(bytes(imagecodecs.packbits_decode(raw[64:])), spec, 0)
    return None


def _settle(array: Array, spec: Spec) -> Array:
    """Clear what lies outside Bits Stored, or extend the sign over it; the values stay where they are.

    Most frames have nothing there: looking costs a tenth of making them anew.
    """
    if spec.real or spec.bits_allocated in (spec.bits_stored, 1):
        return array
    low = 0 if spec.encapsulated else spec.high_bit + 1 - spec.bits_stored
    above = array.dtype.itemsize * 8 - spec.bits_stored - low
    if not low and array.size:
        first, last = (-1 << spec.bits_stored - 1, 1 << spec.bits_stored - 1) if spec.signed else (0, 1 << spec.bits_stored)
        if array.max() < last and (first == 0 or array.min() >= first):
            return array
    settled = (array << above) >> above
    return settled >> low << low if low else settled


def black(spec: Spec, photometric: str) -> tuple[float, ...]:
    """Give the value that shows as black, one for each sample, of integers that are no index of a palette.

    ``photometric`` is that of the values.
    """
    low = 0 if spec.encapsulated else spec.high_bit + 1 - spec.bits_stored
    least = -(1 << (spec.bits_stored - 1)) if spec.signed else 0
    most = least + (1 << spec.bits_stored) - 1
    if spec.samples == 1:
        return ((most if photometric == "MONOCHROME1" else least) << low,)
    half = 1 << (spec.bits_stored - 1)
    if photometric.startswith("YBR_PARTIAL"):
        return (16 << (spec.bits_stored - 8), half, half)
    return (0, half, half) if photometric.startswith("YBR") else (0, 0, 0)


def may_stray(spec: Spec) -> bool:
    """Say whether cells have bits outside Bits Stored, where old overlays hide (PS3.5 8.1.1, retired)."""
    return not (spec.encapsulated or spec.real or spec.bits_allocated in (spec.bits_stored, 1))


def strays(raw: bytes, spec: Spec, frame: int, settled: Array) -> bool:
    """Say whether a native frame, of cells that `may_stray`, does carry such bits."""
    return not np.array_equal(_native(raw, spec, frame), settled)


def pack(array: Array, spec: Spec) -> bytes:
    """Make native bytes of a frame in the source's own layout; cells of 1 bit begin at a byte."""
    if spec.bits_allocated == 1:
        return np.packbits(array.reshape(-1), bitorder="little").tobytes()
    if spec.subsampled and not spec.encapsulated:
        pairs = np.empty((spec.rows, spec.columns // 2, 4), array.dtype)
        pairs[..., :2] = array[..., 0].reshape(spec.rows, -1, 2)
        pairs[..., 2:] = array[:, ::2, 1:]
        array = pairs
    elif spec.samples > 1 and spec.planar == 1 and not spec.encapsulated:
        array = np.moveaxis(array, -1, 0)
    little = spec.little or spec.encapsulated
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<" if little else ">"), copy=False).tobytes()


def encode(array: Array, spec: Spec, photometric: str) -> bytes:
    """Encode one frame without loss in the source's syntax, one of `LOSSLESS`.

    ``photometric`` is that of the values. Raises `Undecodable` when the codec fails.
    """
    syntax = spec.transfer_syntax_uid
    with guard("a frame does not encode"), _quiet():
        if syntax in _HTJ2K:
            return cast("bytes", imagecodecs.htj2k_encode(array, reversible=True, rgb=False if array.ndim == 3 else None))
        if syntax in _JPEG_LOSSLESS:
            stream = _jpeg_lossless(array, spec)
            return _nameless(stream) if array.ndim == 3 and photometric != "RGB" else stream
        if syntax == JPEG2000Lossless:
            # Without a colour transform: the values are stored as they are, whatever space they are in.
            return bytes(encode_array(np.ascontiguousarray(array), bits_stored=spec.bits_stored, use_mct=False))
        return get_encoder(syntax).encode(
            np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes(),
            index=0,
            # Its table of what a syntax may hold is narrower than its codecs; the caller decodes for proof.
            validate=False,
            **_options(spec, photometric),
        )


def _jpeg_lossless(array: Array, spec: Spec) -> bytes:
    """Process 14 with the first predictor; signed values as their bits."""
    bits = max(2, spec.bits_stored) if array.dtype.itemsize == 2 and spec.bits_stored > 8 else 8 * array.dtype.itemsize
    cells = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}") & ((1 << bits) - 1)
    kind = "RGB" if array.ndim == 3 else None
    # RGB here names no colours: it keeps the codec from turning them.
    return cast("bytes", imagecodecs.jpeg_encode(
        cells.astype(f"u{array.dtype.itemsize}"), lossless=True, predictor=1, bitspersample=bits, colorspace=kind,
        outcolorspace=kind,
    ))


def _nameless(stream: bytes) -> bytes:
    """Take from a lossless JPEG of three components what calls them red, green and blue: readers believe it over the header."""
    at = stream.index(b"\xff\xee")
    made = bytearray(stream[:at] + stream[at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big") :])
    frame, scan = made.index(b"\xff\xc3"), made.index(b"\xff\xda")
    made[frame + 10 : frame + 19 : 3] = made[scan + 5 : scan + 11 : 2] = b"\x01\x02\x03"
    return bytes(made)

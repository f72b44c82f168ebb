"""What the header says of the pixels: size, cells, colours (`Spec`).

**Way** `spec` reads the Image Pixel Module; every other module of pixels takes the `Spec` and not the data set.

**Fails** `Undecodable` when the description makes no sense.

**Standard** PS3.3 C.7.6.3, PS3.5 section 8.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from dicomnode.errors import Undecodable
from dicomnode.image.file import UNDEFINED, Parsed, PixelElement

#: A frame above this is refused before memory is asked for.
FRAME_MAX_BYTES = 1 << 30
#: More frames than this are not looked at: going through them costs time, however small they are.
FRAMES_MAX = 1 << 20
#: Interpretations of the standard (PS3.3 C.7.6.3.1.2), retired ones of three samples too; it goes into outputs.
PHOTOMETRIC = frozenset((
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "XYB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422",
    "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT",
))


@dataclass(frozen=True, slots=True)
class Spec:
    """What the Image Pixel Module says of one frame (PS3.3 C.7.6.3)."""

    transfer_syntax_uid: str
    encapsulated: bool
    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: int
    photometric: str
    little: bool
    vr: str
    #: Float or Double Float Pixel Data.
    real: bool
    #: Native YBR_FULL_422: two columns share one pair of chrominance values.
    subsampled: bool

    @property
    def bits(self) -> int:
        """Bits of one native frame."""
        cells = self.rows * self.columns
        return cells * 16 if self.subsampled else cells * self.samples * self.bits_allocated


def spec(parsed: Parsed, pixels: PixelElement) -> Spec:
    """Read the Image Pixel Module; raises `Undecodable` when it makes no sense."""
    ds = parsed.dataset
    real = pixels.tag != 0x7FE00010
    bits_allocated = number(ds, "BitsAllocated")
    bits_stored = bits_allocated if real else number(ds, "BitsStored", bits_allocated)
    photometric = text(ds, "PhotometricInterpretation").upper()
    rows, columns, samples = number(ds, "Rows"), number(ds, "Columns"), number(ds, "SamplesPerPixel", 1)
    encapsulated = pixels.length == UNDEFINED
    frames = number(ds, "NumberOfFrames", 1) or 1
    full = rows * columns * 3 * frames
    sane = (
        1 <= rows <= 65535
        and 1 <= columns <= 65535
        and samples in (1, 3)
        and (bits_allocated in ((32, 64) if real else (1, 8, 16, 32, 64)))
        and 1 <= bits_stored <= bits_allocated
        and 1 <= frames <= FRAMES_MAX
        and photometric in PHOTOMETRIC
    )
    if not sane:
        raise Undecodable("the description of the pixels makes no sense")
    high_bit = bits_stored - 1 if real else number(ds, "HighBit", bits_stored - 1)
    if not bits_stored - 1 <= high_bit < bits_allocated:
        raise Undecodable("High Bit (0028,0102) does not fit Bits Stored and Bits Allocated")
    return Spec(
        transfer_syntax_uid=parsed.transfer_syntax_uid,
        encapsulated=encapsulated,
        rows=rows,
        columns=columns,
        samples=samples,
        frames=frames,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=high_bit,
        signed=number(ds, "PixelRepresentation", 0) == 1 and not real,
        planar=number(ds, "PlanarConfiguration", 0) if samples > 1 else 0,
        photometric=photometric,
        little=parsed.little,
        vr=pixels.vr,
        real=real,
        # Some writers label full-size data as subsampled; the length tells.
        subsampled=photometric == "YBR_FULL_422" and not encapsulated and bits_allocated == 8 and pixels.length < full,
    )


def number(ds: Dataset, keyword: str, default: int = 0) -> int:
    """Give an integer of the data set, ``default`` when it is absent or empty."""
    value: Any = ds.get(keyword)
    if value is None or value == "":
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise Undecodable(f"{keyword} is no number") from None


def text(ds: Dataset, keyword: str) -> str:
    """Give a string of the data set, without padding; ``""`` when it is absent."""
    value: Any = ds.get(keyword)
    return "" if value is None else str(value).strip(" \0")

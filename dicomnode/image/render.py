"""Makes display pictures of stored values: modality LUT, window or VOI LUT, palettes and colour spaces.

**Way** `grey` and `colour` turn one decoded frame into uint8. Values of at most 16 bits go through a table. Enhanced objects
have their window and rescale in functional groups: `attributes` gathers what holds for one frame. `falls` and `padding` tell
those who read stored values which way up they are, and which of them are no picture.

**Fails** Nothing: a header that asks for the impossible is ignored, then the picture spans the frame's own range.

**Standard** PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.11.6 (Presentation LUT Shape), C.7.5.1.1.2 (Pixel Padding Value),
C.7.6.3.1 (palettes, colour spaces), C.7.6.16.2.9 and .10.

**Limits** Presentation states, ICC profiles and supplemental palettes are not applied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from dicomnode.errors import Undecodable
from dicomnode.image.file import guard
from dicomnode.image.spec import Spec, text

Array = NDArray[Any]
Picture = NDArray[np.uint8]
_KEYWORDS = (
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "VOILUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit", "SOPClassUID",
)  # fmt: skip


def attributes(ds: Dataset, frame: int) -> Dataset:
    """Gather the attributes of display that hold for one frame, functional groups before the top level."""
    found = Dataset()
    with guard("functional groups cannot be read"):
        places = [ds]
        for keyword, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
            groups = ds.get(keyword) or []
            if index < len(groups):
                for inner in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                    places += list(groups[index].get(inner) or [])[:1]
        for place in places:
            for keyword in _KEYWORDS:
                if keyword in place:
                    found[keyword] = place[keyword]
    return found


def grey(array: Array, spec: Spec, ds: Dataset, frame: int) -> Picture:
    """Render a frame of one sample, (rows, cols) uint8, 0 is black."""
    low = 0 if spec.encapsulated else spec.high_bit + 1 - spec.bits_stored
    values = array if spec.real or not low else array >> low
    try:
        here = attributes(ds, frame)
    except Undecodable:
        here = Dataset()
    if spec.real or spec.bits_stored > 16:
        picture = _curve(np.asarray(values, np.float64), values, here)
    else:
        first = int(values.min())
        domain = np.arange(first, int(values.max()) + 1)
        kind = values.dtype
        table = _curve(domain.astype(kind), values, here)
        picture = table[values.astype(np.int64) - first]
    return 255 - picture if _inverse(spec, ds) else picture


def _inverse(spec: Spec, ds: Dataset) -> bool:
    """Say whether what comes out of the VOI LUT is turned over: the two ways to say so are one in a DX image (C.8.11.3)."""
    return spec.photometric == "MONOCHROME1" or text(ds, "PresentationLUTShape").upper() == "INVERSE"


def falls(spec: Spec, ds: Dataset, frame: int) -> bool:
    """Say whether low stored values of a frame of one sample are shown bright.

    So they are by MONOCHROME1, Presentation LUT Shape INVERSE, a falling Modality or VOI LUT, or a negative slope; two
    turn each other back.
    """
    half = 1 << spec.bits_stored - 1
    ends = [-half, half - 1] if spec.signed else [0, 2 * half - 1]
    kind = f"{'i' if spec.signed else 'u'}{max(1, spec.bits_allocated // 8)}"
    # What values the frame holds makes no difference to which way a LUT goes, so they are not looked for.
    domain = np.array([0.0, 1.0]) if spec.real else np.array(ends, kind)
    try:
        with guard("display attributes cannot be applied"):
            first, last = _by_header(domain, domain, attributes(ds, frame))
    except Undecodable:
        first, last = 0, 255
    return bool(first > last) != _inverse(spec, ds)


def padding(spec: Spec, ds: Dataset, frame: int) -> tuple[int, int] | None:
    """Give the first and the last stored value that fill up and are no picture, None without such."""
    try:
        here = attributes(ds, frame)
        first = _stored(here.get("PixelPaddingValue"), spec)
        last = _stored(here.get("PixelPaddingRangeLimit"), spec)
    except Undecodable:
        return None
    return None if first is None or spec.real else (first, first if last is None else last)


def _stored(value: Any, spec: Spec) -> int | None:
    """Read a number that has the sign of the pixels, by whichever VR it came."""
    if isinstance(value, bytes) and value:
        value = int.from_bytes(value, "little" if spec.little else "big")
    if not isinstance(value, int):
        return None
    cells = 1 << spec.bits_allocated
    stored = int(value) % cells
    return stored - cells if spec.signed and stored >= cells // 2 else stored


def _curve(domain: Array, values: Array, here: Dataset) -> Picture:
    """Map stored values to grey levels as the header says, or over the range of ``values``."""
    try:
        with guard("display attributes cannot be applied"):
            return _by_header(domain, values, here)
    except Undecodable:
        return _span(np.asarray(domain, np.float64), np.asarray(values, np.float64))


def _by_header(domain: Array, values: Array, here: Dataset) -> Picture:
    modality = np.asarray(apply_modality_lut(domain, here), np.float64)
    if here.get("WindowWidth") not in (None, "") and here.get("WindowCenter") not in (None, ""):
        window = _window(modality, here)
        if window is not None:
            return window
    if here.get("VOILUTSequence"):
        looked = np.asarray(apply_voi(np.rint(modality).astype(np.int64), here), np.float64)
        return _span(looked, np.array([0.0, max(1.0, float(looked.max()))]))
    padding = here.get("PixelPaddingValue")
    span = np.unique(values) if values.dtype.itemsize <= 2 else values
    if isinstance(padding, int) and (span != padding).any():
        span = span[span != padding]
    return _span(modality, np.asarray(apply_modality_lut(span, here), np.float64))


def _window(values: Array, here: Dataset) -> Picture | None:
    """Apply the first window; None when it is none (PS3.3 C.11.2.1.2)."""
    centre, width = (np.ravel(np.asarray(here[k].value, np.float64))[0] for k in ("WindowCenter", "WindowWidth"))
    function = text(here, "VOILUTFunction") or "LINEAR"
    if not np.isfinite([centre, width]).all() or width <= 0:
        return None
    if function == "SIGMOID":
        unit = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))
    elif function == "LINEAR_EXACT":
        unit = (values - centre) / width + 0.5
    elif width <= 1:
        unit = (values > centre - 0.5).astype(np.float64)
    else:
        unit = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.asarray(np.rint(np.clip(unit, 0, 1) * 255), np.uint8)


def _span(domain: Array, values: Array) -> Picture:
    finite = values[np.isfinite(values)]
    first, last = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    unit = (np.nan_to_num(domain, nan=first) - first) / max(last - first, 1e-12)
    return np.asarray(np.rint(np.clip(unit, 0, 1) * 255), np.uint8)


def colour(array: Array, spec: Spec, ds: Dataset, photometric: str) -> Picture:
    """Render a frame of colours, (rows, cols, 3) uint8 of RGB."""
    if photometric == "PALETTE COLOR":
        values = np.asarray(apply_color_lut(array, ds))
        return _bytes(values, 8 * values.dtype.itemsize)
    values = _bytes(array, spec.bits_stored)
    if photometric.startswith("YBR"):
        return rgb(values, partial=photometric.startswith("YBR_PARTIAL"))
    return values


def _bytes(values: Array, bits: int) -> Picture:
    if bits <= 8:
        return np.asarray(values << (8 - bits) if bits > 1 else values * 255).astype(np.uint8)
    return (values.astype(np.uint64) >> np.uint64(bits - 8)).astype(np.uint8)


def rgb(ybr: Picture, *, partial: bool = False) -> Picture:
    """Turn YCbCr of 8 bits into RGB (PS3.3 C.7.6.3.1.2, ITU-R BT.601)."""
    luma, blue, red = (ybr[..., i].astype(np.float32) for i in range(3))
    if partial:
        luma, scale = (luma - 16) * np.float32(255 / 219), np.float32(255 / 224)
    else:
        scale = np.float32(1)
    blue, red = (blue - 128) * scale, (red - 128) * scale
    planes = (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue)
    return np.asarray(np.rint(np.clip(np.dstack(planes), 0, 255)), np.uint8)

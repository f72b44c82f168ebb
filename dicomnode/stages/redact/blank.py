"""Says which stored value shows as black.

**Way** `black` gives it for each sample.

**Fails** `Undecodable` when a palette cannot be read.

**Standard** PS3.3 C.7.6.3.1.2 (photometric interpretations), PS3.5 section 8.1.1 (cells).

**Limits** Rescaling by a negative slope turns black into white; the pixels are gone all the same.
"""

from __future__ import annotations

import numpy as np
from pydicom.pixels.processing import apply_color_lut

from dicomnode.image import Image, codecs
from dicomnode.image.file import guard


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

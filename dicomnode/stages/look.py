"""The picture of an instance as the models see it.

**Way** The middle frame of an image becomes a unit frame by `preprocess.to_unit`, once for all models (`Image.once`); colour
goes by way of the display picture, which has palettes and YBR resolved.

**Fails** `Undecodable` and `UnsupportedTransferSyntax` as `Image.frame` raises them.

**Limits** One frame speaks for a multi-frame object. Windows of the header are not applied: the models were trained on
percentiles of the whole picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomnode.image import Image
from dicomnode.stages.preprocess import to_unit

_GREY = ("MONOCHROME1", "MONOCHROME2")


def look(image: Image) -> NDArray[np.float32]:
    """Give the frame that stands for the image, (rows, cols) float32 in 0..1, low values dark."""
    return image.once(_look)


def _look(image: Image) -> NDArray[np.float32]:
    if image.photometric in _GREY:
        return to_unit(image.frame(image.shown), image.photometric)
    return to_unit(image.picture(image.shown), "RGB")

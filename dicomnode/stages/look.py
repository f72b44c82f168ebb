"""The picture of an instance as the models see it.

**Way** The middle frame of an image becomes a unit picture by `unit.to_unit`, once for all models (`Image.once`); colour
goes by way of the display picture, which has palettes and YBR resolved. Of what the header says of display only the polarity
counts, and which values are padding.

**Fails** `Undecodable` and `UnsupportedTransferSyntax` as `Image.frame` raises them.

**Limits** One frame speaks for a multi-frame object. Windows of the header are not applied: the models were trained on
percentiles of the whole picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomnode.image import Image
from dicomnode.stages.unit import to_unit

_GREY = ("MONOCHROME1", "MONOCHROME2")


def look(image: Image) -> NDArray[np.float32]:
    """Give the frame that stands for the image, float32 in 0..1, low values dark.

    (rows, cols) of the frame, or what `unit.shown` leaves of them divided by `unit.shrinking`.
    """
    return image.once(_look)


def _look(image: Image) -> NDArray[np.float32]:
    if image.photometric in _GREY:
        frame, falls, padding = image.stored(image.shown)
        return to_unit(frame, "MONOCHROME1" if falls else "MONOCHROME2", padding=padding)
    return to_unit(image.picture(image.shown), "RGB")

"""Three renderings of a frame for the network that looks for text: what one of them hides, another one shows.

**Way** `views` gives of a grey frame the full range of its stored values, the frame as it is displayed, and `local`, in which
every neighbourhood has the same contrast; of a colour frame its red, green and blue. Low values are dark in all of them.

**Fails** As `Image.frame` and `Image.picture`.

**Limits** What differs from its ground by less than about 1 % of the spread of a frame's values is noise to `local`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.image import Image

Grey = NDArray[np.uint8]
#: Side of a neighbourhood in pixels, and the share of the frame's spread that counts as noise.
_SIDE, _NOISE = 33, 0.01
#: Grey levels for one standard deviation.
_GAIN = 40.0
#: Of how many pixels each way one is looked at for the spread.
_STEP = 4


def views(image: Image, number: int) -> NDArray[np.uint8]:
    """Render frame ``number``.

    Returns
    -------
    (rows, cols, 3) uint8.
    """
    shown = image.picture(number)
    if shown.ndim == 3:
        return shown
    values, falls, _ = image.stored(number)
    return stack(values, shown, falls=falls)


def stack(values: NDArray[Any], shown: Grey, *, falls: bool) -> NDArray[np.uint8]:
    """Put the renderings of a grey frame together.

    Parameters
    ----------
    values
        (rows, cols) stored values.
    shown
        (rows, cols) as displayed.
    falls
        Low values are displayed bright.
    """
    plain = np.nan_to_num(values.astype(np.float32))
    if falls:
        plain = -plain
    return np.dstack((full_range(plain), shown, local(plain)))


def full_range(values: NDArray[np.float32]) -> Grey:
    """Stretch all values over the scale: text usually lies at its ends."""
    first, last = float(values.min()), float(values.max())
    scale = 255 / max(last - first, 1e-12)
    return np.asarray(cv2.convertScaleAbs(values, alpha=scale, beta=-first * scale), np.uint8)


def local(values: NDArray[np.float32]) -> Grey:
    """Give every neighbourhood the mean 128 and the same spread, so that faint text is as plain as any."""
    side = (_SIDE, _SIDE)
    mean = cv2.blur(values, side)
    apart = values - mean
    spread = np.sqrt(np.maximum(cv2.blur(apart * apart, side), 0))
    few = values[::_STEP, ::_STEP]
    low, high = np.percentile(few, (1, 99))
    floor = max(float(high - low), float(few.max() - few.min()) * 0.05, 1e-12) * _NOISE
    return np.asarray(np.clip(128 + _GAIN * apart / (spread + floor), 0, 255), np.uint8)

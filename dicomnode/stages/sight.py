"""What the picture alone shows: the router's answer, or why the picture cannot be judged.

**Way** `see` looks for reasons not to ask, the cheap ones first: an image without pixels, raw detector data, a picture that is
too small, one that does not decode, one that is constant or nearly so. Else the classifier answers, and an answer below the
threshold is no answer either.

**Fails** `StageFailed` when the classifier answers something else than probabilities. A picture that cannot be judged fails
nothing: what is done with it says the rule.

**Standard** PS3.3 C.8.11.1.1 (Presentation Intent Type): images FOR PROCESSING are raw detector data, which no classifier was
taught.

**Limits** Nearly constant is what has no form left in `_GRID` by `_GRID` cells, whatever its grey values are: noise, an empty
field, a mark on an even ground. A field with a gradient passes, and it is for the classifier to be uncertain of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import Permanent, StageFailed
from dicomnode.image import Image
from dicomnode.records import UNCERTAIN, Doubt

#: Takes one frame, (rows, cols) float32 in 0..1 with low values dark; gives a probability per body part.
Classify = Callable[[NDArray[np.float32]], Mapping[str, float]]
#: Gives that frame of an image.
Look = Callable[[Image], NDArray[np.float32]]

#: Shortest side of a picture that can be judged, pixels.
MIN_SIDE = 32
#: Cells that a picture is averaged to, and the deviation between them below which it is nearly constant. Of 2,500 pictures of
#: the project's data one has 0.05, all others more than 0.11; noise of 200 pixels a side or more has at most 0.033.
_GRID, _MIN_DEVIATION = 16, 0.04
#: Pixels a side that this is asked of; a 2500x2048 frame then costs a tenth of a millisecond.
_SAMPLED = 256


@dataclass(frozen=True, slots=True)
class Sight:
    """What the picture says by itself."""

    #: A label of the router, or `UNCERTAIN`.
    part: str
    #: Of the best guess, 0 when the classifier was not asked.
    probability: float
    probabilities: Mapping[str, float]
    doubt: Doubt = ""


def see(image: Image, classify: Classify, look: Look, certain_from: float) -> Sight:
    """Ask the classifier about the frame that stands for the image."""
    if doubt := _beforehand(image):
        return Sight(UNCERTAIN, 0.0, {}, doubt)
    try:
        frame = look(image)
    except Permanent:
        # Not decodable, or no picture: values that are not finite.
        return Sight(UNCERTAIN, 0.0, {}, "undecodable")
    if is_even(frame):
        return Sight(UNCERTAIN, 0.0, {}, "constant")
    answer = {str(part): float(probability) for part, probability in classify(frame).items()}
    if not answer or not all(math.isfinite(p) and 0 <= p <= 1 for p in answer.values()):
        raise StageFailed("route: the classifier answers no probabilities")
    part = max(answer, key=lambda one: answer[one])
    if answer[part] < certain_from:
        return Sight(UNCERTAIN, answer[part], answer, "low_probability")
    return Sight(part, answer[part], answer)


def _beforehand(image: Image) -> Doubt:
    """Why the classifier is not asked, as far as the header tells."""
    if not image.has_pixels:
        return "no_pixels"
    if str(image.dataset.get("PresentationIntentType") or "").strip().upper() == "FOR PROCESSING":
        return "for_processing"
    return "too_small" if min(image.rows, image.columns) < MIN_SIDE else ""


def is_even(frame: NDArray[np.float32]) -> bool:
    """Say whether a frame in 0..1 is constant, or so nearly that no form is left of it."""
    down, across = (max(1, side // _SAMPLED) for side in frame.shape)
    cells = cv2.resize(np.ascontiguousarray(frame[::down, ::across]), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    return float(cells.std()) < _MIN_DEVIATION

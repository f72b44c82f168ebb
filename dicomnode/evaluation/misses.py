"""A picture of every string that is not as it should be: before and after, side by side.

**Way** The string's box with its neighbourhood, as displayed, enlarged until strokes are plain; a frame of colour around the
box. Files are named by a number, their list is in evaluation.json.

**Limits** The pictures show what identifies patients. They are made for who may see the files anyway;
``--no-pictures`` makes none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.evaluation.trial import Judged, Tried
from dicomnode.image import Image

_AROUND_PX, _LEAST_PX, _MOST_TIMES = 40, 480, 6
#: Vermilion for what leaked, blue for what was lost; as OpenCV orders them.
_LEAKED, _LOST = (0, 94, 213), (178, 114, 0)


class Misses:
    """Collects misses; draws them when it has a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        #: What evaluation.json lists.
        self.found: list[dict[str, Any]] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, tried: Tried, judged: Judged, before: Image, after: Image) -> None:
        """Take one."""
        text = judged.text
        entry: dict[str, Any] = {
            "path": tried.name,
            "line": text.line,
            "kind": "identifying" if text.identifying else "harmless",
            "frame": judged.frame,
            "box": [text.x0, text.y0, text.x1, text.y1],
            "gone": round(judged.share, 4),
            "contrast": judged.contrast,
            **(text.groups or {}),
        }
        if self._folder is not None:
            name = f"{len(self.found) + 1:05}-{entry['kind']}.png"
            cv2.imwrite(str(self._folder / name), _drawn(judged, before, after))
            entry["picture"] = name
        self.found.append(entry)


def _drawn(judged: Judged, before: Image, after: Image) -> NDArray[np.uint8]:
    text = judged.text
    top, left = max(0, text.y0 - _AROUND_PX), max(0, text.x0 - _AROUND_PX)
    times = min(_MOST_TIMES, max(1, _LEAST_PX // (text.x1 - text.x0 + 2 * _AROUND_PX)))
    colour = _LEAKED if text.identifying else _LOST
    halves = []
    for image in (before, after):
        part = image.picture(judged.frame)[top : text.y1 + _AROUND_PX, left : text.x1 + _AROUND_PX]
        shown = cv2.cvtColor(part, cv2.COLOR_GRAY2BGR if part.ndim == 2 else cv2.COLOR_RGB2BGR)
        shown = cv2.resize(shown, None, fx=times, fy=times, interpolation=cv2.INTER_NEAREST)
        corner = ((text.x0 - left) * times - 2, (text.y0 - top) * times - 2)
        cv2.rectangle(shown, corner, ((text.x1 + 1 - left) * times + 1, (text.y1 + 1 - top) * times + 1), colour, 1)
        halves.append(shown)
    # Beside each other where they are high, below where they are wide.
    across = halves[0].shape[0] > halves[0].shape[1]
    edge = np.full((halves[0].shape[0], 4, 3) if across else (4, halves[0].shape[1], 3), 255, np.uint8)
    return np.asarray(np.concatenate((halves[0], edge, halves[1]), axis=1 if across else 0))

"""The contact sheet of `saliency`: a row for each class, each picture beside the evidence in it. Drawn by OpenCV alone."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.training.evaluate.saliency import Seen

_TILE = 160
_TEXT = 18


def sheet(seen: Sequence[Seen], columns: int) -> NDArray[np.uint8]:
    """Lay the pictures out, true classes in rows; gives (rows, cols, 3) in OpenCV's BGR."""
    labels = list(dict.fromkeys(one.example.label for one in seen))
    rows = []
    for label in labels:
        tiles = [_tile(one) for one in seen if one.example.label == label]
        empty = np.zeros((_TILE + _TEXT, 2 * _TILE + 4, 3), dtype=np.uint8)
        rows += [_heading(label, columns), np.hstack([*tiles, *[empty] * (columns - len(tiles))])]
    return np.asarray(np.vstack(rows), dtype=np.uint8)


def _heading(label: str, columns: int) -> NDArray[np.uint8]:
    line = np.full((_TEXT + 4, columns * (2 * _TILE + 4), 3), 60, dtype=np.uint8)
    return _write(line, f"true: {label}")


def _write(line: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    cv2.putText(line, text, (3, line.shape[0] - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return line


def _tile(one: Seen) -> NDArray[np.uint8]:
    """The picture, the same with the evidence over it, and the answer below; a wrong one says so in words."""
    grey = np.round(cv2.resize(one.shown, (_TILE, _TILE), interpolation=cv2.INTER_AREA) * 255).astype(np.uint8)
    plain = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    evidence = one.evidence / max(float(one.evidence.max()), 1e-12)
    strength = np.clip(cv2.resize(evidence, (_TILE, _TILE), interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = cv2.applyColorMap(np.round(strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = 0.65 * strength[..., np.newaxis]
    over = np.round(plain * (1 - share) + colours * share).astype(np.uint8)
    wrong = "" if one.answer == one.example.label else "WRONG: "
    line = _write(np.zeros((_TEXT, 2 * _TILE + 4, 3), dtype=np.uint8), f"{wrong}{one.answer} {one.probability:.2f}")
    gap = np.zeros((_TILE, 2, 3), dtype=np.uint8)
    return np.vstack([np.hstack([plain, gap, over, gap]), line])

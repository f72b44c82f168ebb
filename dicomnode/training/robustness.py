"""The same picture, shown otherwise: how often a router gives the same answer.

**Way** `CHANGES` are what a device, a technician or a capture may do to a picture without changing the body part: turned,
mirrored, shown inverted, collimated, framed, lettered, other grey scales, fewer grey levels, JPEG, lower resolution. `measure`
asks a model about pictures as they are and changed, and says for each change how many answers stay, and how many are right.
What stays the same whatever the network is (encodings, polarity as the header has it, bit depth) is no matter of rates: tests
hold it to be equal.

**Limits** Grey pictures; one degree of each change. A turned or inverted picture is as hard as the training made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.stages.infer import Model
from dicomnode.stages.unit import to_unit
from dicomnode.training import metrics

Bytes: TypeAlias = NDArray[np.uint8]
Change: TypeAlias = Callable[[Bytes], Bytes]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of the answers under one change."""

    change: str
    pictures: int
    #: Share of answers that are those to the unchanged pictures, with the ends of its 95 % interval (Wilson).
    same: float
    same_low: float
    same_high: float
    #: Share of right answers, and macro-F1.
    right: float
    macro_f1: float


def _turned(quarters: int) -> Change:
    return lambda picture: np.ascontiguousarray(np.rot90(picture, quarters))


def _framed(grey: int) -> Change:
    """A border of a seventh of the shorter side all round, as a capture or a film holder has it."""

    def change(picture: Bytes) -> Bytes:
        width = min(picture.shape) // 7
        framed = cv2.copyMakeBorder(picture, width, width, width, width, cv2.BORDER_CONSTANT, value=grey)
        return np.asarray(framed, dtype=np.uint8)

    return change


def _padded(picture: Bytes) -> Bytes:
    """Black at the right and below, to a square half as large again."""
    side = max(picture.shape) * 3 // 2
    made = np.zeros((side, side), dtype=np.uint8)
    made[: picture.shape[0], : picture.shape[1]] = picture
    return made


def _collimated(picture: Bytes) -> Bytes:
    """Black over an eighth of each side, with what lies there lost."""
    rows, cols = (side // 8 for side in picture.shape)
    made = np.zeros_like(picture)
    made[rows:-rows, cols:-cols] = picture[rows:-rows, cols:-cols]
    return made


def _lettered(picture: Bytes) -> Bytes:
    """A black box with white letters in the upper left corner, and a side marker."""
    made, rows, cols = picture.copy(), *picture.shape
    size = cols / 500
    made[: rows // 9, : cols // 2] = 0
    cv2.putText(made, "DOE^JANE 1961", (cols // 50, rows // 14), cv2.FONT_HERSHEY_SIMPLEX, size, 255, max(1, round(2 * size)))
    cv2.putText(made, "L", (cols * 6 // 7, rows // 7), cv2.FONT_HERSHEY_SIMPLEX, 3 * size, 255, max(1, round(5 * size)))
    return made


def _bent(power: float) -> Change:
    return lambda picture: np.asarray(np.rint(255 * (picture / 255.0) ** power), dtype=np.uint8)


def _windowed(low: float, high: float) -> Change:
    """Saturate below and above two percentiles."""

    def change(picture: Bytes) -> Bytes:
        bottom, top = np.percentile(picture, [low, high])
        return np.asarray(np.rint(255 * np.clip((picture - bottom) / max(1.0, top - bottom), 0, 1)), dtype=np.uint8)

    return change


def _jpeg(picture: Bytes) -> Bytes:
    _, stream = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])
    return np.asarray(cv2.imdecode(stream, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


def _small(picture: Bytes) -> Bytes:
    scale = 128 / max(picture.shape)
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _enhanced(picture: Bytes) -> Bytes:
    return np.asarray(cv2.createCLAHE(3.0, (8, 8)).apply(picture), dtype=np.uint8)


#: What is done to a picture, in the order of the table.
CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "turned by 90 degrees": _turned(1),
        "turned by 180 degrees": _turned(2),
        "turned by 270 degrees": _turned(3),
        "mirrored": lambda picture: np.ascontiguousarray(picture[:, ::-1]),
        "shown inverted": lambda picture: np.uint8(255) - picture,
        "black border": _framed(0),
        "grey border": _framed(128),
        "white border": _framed(255),
        "padded to a square": _padded,
        "collimated": _collimated,
        "letters burned in": _lettered,
        "gamma 0.5": _bent(0.5),
        "gamma 2": _bent(2.0),
        "narrow window": _windowed(5, 95),
        "16 grey levels": lambda picture: picture & np.uint8(0xF0),
        "contrast enhanced (CLAHE)": _enhanced,
        "JPEG, quality 40": _jpeg,
        "128 pixels": _small,
    }
)


def measure(model: Model, pictures: Sequence[Bytes], truth: Sequence[str]) -> list[Row]:
    """Ask a router about pictures as they are and under each change.

    Parameters
    ----------
    pictures
        (rows, cols) as they would be stored, low values dark.
    truth
        Their label keys.

    Returns
    -------
    First the row of the unchanged pictures, then one for each of `CHANGES`.
    """
    keys = [label.key for label in model.card.labels]
    targets = np.array([keys.index(label) for label in truth], dtype=np.int64)
    rows: list[Row] = []
    plain: NDArray[np.int64] | None = None
    unchanged: Mapping[str, Change] = {"unchanged": lambda picture: picture}
    for name, change in {**unchanged, **CHANGES}.items():
        told = model.probabilities_of([to_unit(change(picture)) for picture in pictures])
        answers = np.array([keys.index(max(one, key=lambda key: one[key])) for one in told], dtype=np.int64)
        plain = answers if plain is None else plain
        same = metrics.wilson(int((answers == plain).sum()), len(answers))
        confusion = metrics.confusion_matrix(targets, answers, len(keys))
        macro = float(metrics.macro(metrics.f1(confusion), confusion))
        right = float((answers == targets).mean())
        rows.append(Row(name, len(answers), same.value, same.low, same.high, right, macro))
    return rows


def as_markdown(rows: Sequence[Row]) -> str:
    """The table for people."""
    lines = ["| change | same answer | right | macro-F1 |", "|---|---|---|---|"]
    for row in rows:
        same = f"{row.same:.3f} ({row.same_low:.3f} to {row.same_high:.3f})"
        lines.append(f"| {row.change} | {same} | {row.right:.3f} | {row.macro_f1:.3f} |")
    return "\n".join(lines) + "\n"

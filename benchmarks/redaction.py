"""How much identifying text redaction finds, how much harmless text it keeps, and what it costs.

Reads ``dicom/burned_in`` below ``--data``: objects with synthetic text and the boxes of it (``TEXT_BOXES.csv``). A value is
covered when at least 98 % of its ink (what differs from the box's own ground) is blanked; a key is kept when less than 10 %
of its box is. Collateral is the share of pixels that are blanked further than 6 px from any box.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.image import Image, Redacted
from dicomnode.stages.redact import Redact

MARGIN_PX = 6


@dataclass
class Tally:
    """Counts over all objects."""

    value: list[bool] = field(default_factory=list)
    key: list[bool] = field(default_factory=list)
    collateral: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def ink(box: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of a box that are as one end of its range, the rarer one."""
    low, high = int(box.min()), int(box.max())
    if high - low < 8:
        return np.ones(box.shape, bool)
    bright, dark = box >= high - (high - low) // 8, box <= low + (high - low) // 8
    return bright if bright.sum() < dark.sum() else dark


def masked(redacted: Redacted) -> NDArray[np.bool_]:
    """Pixels of the first frame that are blanked."""
    mask = np.zeros((redacted.image.rows, redacted.image.columns), bool)
    for r in redacted.regions_of(0):
        mask[r.y : r.y + r.h, r.x : r.x + r.w] = True
    return mask


def score(path: Path, boxes: list[dict[str, str]], redact: Redact, tally: Tally) -> list[str]:
    """Score one object; gives kinds and places of what was missed, never text."""
    with path.open("rb") as source:
        image = Image.open(source)
        started = time.perf_counter()
        redacted = redact(image)
        tally.seconds.append(time.perf_counter() - started)
        mask, frame = masked(redacted), np.asarray(image.frame(0)).astype(np.int64)
    away = np.ones(mask.shape, bool)
    missed = []
    for box in boxes:
        x0, y0, x1, y1 = (int(box[name]) for name in ("x0", "y0", "x1", "y1"))
        away[max(0, y0 - MARGIN_PX) : y1 + MARGIN_PX + 1, max(0, x0 - MARGIN_PX) : x1 + MARGIN_PX + 1] = False
        if box["visible"] != "1":
            continue
        part = mask[y0 : y1 + 1, x0 : x1 + 1]
        if box["kind"] == "value":
            covered = bool(part[ink(frame[y0 : y1 + 1, x0 : x1 + 1])].mean() >= 0.98)
            tally.value.append(covered)
            if not covered:
                missed.append(f"{path.name[-24:]} at {x0},{y0}: {part.mean():.2f}")
        else:
            tally.key.append(bool(part.mean() < 0.1))
    tally.collateral.append(float((mask & away).sum() / away.size))
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--mode", choices=("strict", "header"), default="strict")
    parser.add_argument("--every", type=int, default=1, help="take every n-th object")
    parser.add_argument("--misses", action="store_true", help="say where values were missed")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (options.data / "dicom" / "burned_in" / "TEXT_BOXES.csv").open(newline="") as table:
        for row in csv.DictReader(table):
            rows[row["path"]].append(row)
    redact, tally = Redact(options.mode), Tally()
    for path in list(rows)[:: options.every]:
        missed = score(options.data / path, rows[path], redact, tally)
        if options.misses and missed:
            print(*missed, sep="\n")
    print(
        json.dumps(
            {
                "objects": len(tally.seconds),
                "values": len(tally.value),
                "values_covered": round(float(np.mean(tally.value)), 4),
                "keys": len(tally.key),
                "keys_kept": round(float(np.mean(tally.key)), 4),
                "collateral_mean": round(float(np.mean(tally.collateral)), 5),
                "collateral_max": round(max(tally.collateral), 5),
                "seconds_median": round(float(np.median(tally.seconds)), 3),
                "seconds_max": round(max(tally.seconds), 3),
            }
        )
    )


if __name__ == "__main__":
    main()

"""How much identifying text redaction finds, how much harmless text it keeps, and what it costs.

Reads ``dicom/burned_in`` below ``--data``: objects with synthetic text and the boxes of it (``TEXT_BOXES.csv``). A value is
covered when at least 98 % of its ink (what differs from the box's own ground) is blanked; a key is kept when less than 10 %
of its box is. Collateral is the share of pixels that are blanked further than 6 px from any box.

The thresholds of the stage were chosen on these very objects, so their figures flatter it. ``--synthetic N`` draws names,
numbers and dates into N radiographs instead, which nothing was tuned on; a string counts when 98 % of its ink is blanked.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

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


FIRST = ("Ottoline", "Bertrand", "Sunniva", "Casimir", "Philippa", "Reinhold")
LAST = ("Vanterpool", "Oduya", "Lindqvist", "Marchetti", "Kowal")


def drawn(picture: NDArray[np.uint8], random: np.random.Generator) -> list[tuple[str, int, NDArray[np.bool_]]]:
    """Draw a name, a number and a date in place; gives kind, font size and ink of each."""
    made: list[tuple[str, int, NDArray[np.bool_]]] = []
    size, tone = int(random.integers(10, 41)), int(random.choice([255, 0]))
    x, y = (int(random.integers(0, max(1, limit))) for limit in (picture.shape[1] - 14 * size, picture.shape[0] - 5 * size))
    number, day = random.integers(10**5, 10**8), (random.integers(1930, 2020), random.integers(1, 13), random.integers(1, 29))
    texts = {
        "name": f"{random.choice(LAST)}, {random.choice(FIRST)}",
        "number": str(number),
        "date": "{2:02d}.{1:02d}.{0}".format(*day),
    }
    for row, (kind, text) in enumerate(texts.items()):
        mask = PIL.Image.new("L", picture.shape[::-1])
        PIL.ImageDraw.Draw(mask).text((x, y + row * size * 3 // 2), text, fill=255, font=PIL.ImageFont.load_default(size))
        cover = np.asarray(mask).astype(np.float32) / 255
        picture[:] = np.rint(picture * (1 - cover) + tone * cover).astype(np.uint8)
        made.append((kind, size, cover > 0.5))
    return made


def part10(picture: NDArray[np.uint8]) -> bytes:
    """A native object of these values, with an empty header: only the pixels tell."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.1"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *picture.shape, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = picture.tobytes() + b"\0" * (picture.size % 2)
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def synthetic(data: Path, count: int, redact: Redact) -> dict[str, Any]:
    """Score strings drawn into radiographs, seed fixed."""
    random = np.random.default_rng(20261120)
    paths = sorted(p for p in (data / "radiographs").rglob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg"})
    found: dict[str, list[bool]] = defaultdict(list)
    collateral = []
    for path in random.choice(np.array(paths, object), count, replace=False):
        picture = np.asarray(PIL.Image.open(path).convert("L")).copy()
        if min(picture.shape) < 400:
            factor = 400 / min(picture.shape)
            picture = np.asarray(PIL.Image.fromarray(picture).resize([int(n * factor) for n in picture.shape[::-1]])).copy()
        strings = drawn(picture, random)
        redacted = redact(Image.open(BytesIO(part10(picture))))
        mask, near = masked(redacted), np.zeros(picture.shape, bool)
        for kind, size, ink_of in strings:
            found[kind].append(bool(mask[ink_of].mean() >= 0.98))
            found["10 to 20 px" if size <= 20 else "21 to 40 px"].append(found[kind][-1])
            ys, xs = np.nonzero(ink_of)
            top, left = max(0, ys.min() - MARGIN_PX), max(0, xs.min() - MARGIN_PX)
            near[top : ys.max() + MARGIN_PX, left : xs.max() + MARGIN_PX] = True
        collateral.append(float((mask & ~near).mean()))
    everything = [hit for kind in ("name", "number", "date") for hit in found[kind]]
    return {
        "images": count,
        "strings": len(everything),
        "covered": round(float(np.mean(everything)), 4),
        "covered_by": {kind: round(float(np.mean(hits)), 4) for kind, hits in found.items()},
        "collateral_mean": round(float(np.mean(collateral)), 5),
        "collateral_max": round(max(collateral), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--mode", choices=("strict", "header"), default="strict")
    parser.add_argument("--every", type=int, default=1, help="take every n-th object")
    parser.add_argument("--misses", action="store_true", help="say where values were missed")
    parser.add_argument("--synthetic", type=int, metavar="N", help="draw text into N radiographs instead")
    options = parser.parse_args()
    if options.synthetic:
        print(json.dumps(synthetic(options.data, options.synthetic, Redact(options.mode))))
        return
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

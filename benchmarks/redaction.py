"""How much identifying text redaction removes, how much harmless text it keeps, and what it costs, beside plain Tesseract.

Strings: each manifest of ``--set`` (a ``TEXT_BOXES.csv`` or the folder of one; default ``dicom/burned_in`` below ``--data``)
is measured by `dicomnode.evaluation`, that is from file to file and by strokes: a string is removed when 98 % of its ink is
gone in every frame, kept while less than 10 % is. The same files go in the same run through plain Tesseract: sparse-text mode
(``--psm 11``), every word that it reads blanked, through the same coder. A set is drawn by ``dicomnode evaluate redaction
--synthetic 100 --seed 1 --set FOLDER --out OUT``.

Speed (``--speed``): a frame of 1024 x 1024 with ten lines, the same without text, and a loop of ``--frames`` frames with a
constant banner; wall and processor seconds, the median of ``--repeat``. Begin it with ``taskset -c 0`` for one core.

Peers that are services or want models from elsewhere (Presidio, Google, AWS) are not run here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.evaluation import measure
from dicomnode.evaluation.manifest import read
from dicomnode.evaluation.synthetic.objects import Form, write
from dicomnode.evaluation.synthetic.words import identity
from dicomnode.image import Image, Redacted
from dicomnode.records import Region
from dicomnode.stages.redact import Redact
from dicomnode.stages.redact.blank import black

LINES = (
    "KOWAL, OTTOLINE", "ID 48213377", "12.03.1961 F", "HAVENBROOK GENERAL", "ACC 7730192", "CHEST PA", "kV 120", "mAs 3.2",
    "W:400 L:40", "Dr. Achterberg",
)  # fmt: skip


class PlainTesseract:
    """Blanks every word that Tesseract reads in its sparse-text mode, in every frame."""

    def __call__(self, image: Image) -> Redacted:
        """Redact one image."""
        regions = tuple(region for number in range(image.frames) for region in self._words(image, number))
        return Redacted(image=image, regions=regions, method="plain Tesseract", black=black(image), strict=True)

    @staticmethod
    def _words(image: Image, number: int) -> list[Region]:
        picture = image.picture(number)
        _, png = cv2.imencode(".png", picture if picture.ndim == 2 else picture[..., ::-1])
        command = ["tesseract", "stdin", "stdout", "--psm", "11", "tsv"]
        environment = os.environ | {"OMP_THREAD_LIMIT": "1"}
        done = subprocess.run(command, input=png.tobytes(), capture_output=True, check=True, env=environment)
        found = []
        for line in done.stdout.decode("utf-8", "replace").splitlines()[1:]:
            fields = line.split("\t")
            if len(fields) == 12 and fields[0] == "5" and fields[11].strip():
                found.append(Region(number, *map(int, fields[6:10]), "unknown-text"))
        return found


def brief(found: dict[str, Any]) -> dict[str, Any]:
    """The figures that are compared."""
    return {
        "files": found["files"],
        "held": sum(found["held"].values()),
        "removed": found["identifying"]["share"]["value"],
        "removed_95": [found["identifying"]["share"][end] for end in ("low", "high")],
        "removed_or_held": found["identifying"]["share_of_all"]["value"],
        "kept": found["harmless"]["share"]["value"],
        "kept_95": [found["harmless"]["share"][end] for end in ("low", "high")],
        "collateral": {kind: one["changed"]["mean_by_file"] for kind, one in found["collateral"].items()},
        "outside_regions": found["outside_regions"],
        "seconds_median": found["seconds"]["redact"]["median"],
        "processor_seconds_median": found["seconds"]["redact_processor"]["median"],
    }


def strings(places: list[Path], every: int, mode: str) -> None:
    """Print a line a set: ours, plain Tesseract, and ratios of what was not as it should be."""
    redactors = {mode: Redact(mode=mode), "tesseract": PlainTesseract()}
    for place in places:
        report = measure(read(place)[::every], redactors, draws=1000)
        ours, plain = (brief(report["modes"][name]) for name in redactors)
        ratios = {
            "missed": ratio(1 - ours["removed"], 1 - plain["removed"]),
            "lost": ratio(1 - ours["kept"], 1 - plain["kept"]),
            "seconds": ratio(ours["processor_seconds_median"], plain["processor_seconds_median"]),
        }
        print(json.dumps({"set": place.name, "mode": mode, "ours": ours, "tesseract": plain, "ours_by_tesseract": ratios}))


def ratio(ours: float, theirs: float) -> float | None:
    return round(ours / theirs, 4) if theirs else None


def frame(side: int, *, text: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth noise, with ten lines or none."""
    random = np.random.default_rng(7)
    coarse = random.integers(20, 150, (side // 32, side // 32), np.uint8)
    picture = np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    for row, line in enumerate(LINES if text else ()):
        cv2.putText(picture, line, (20, 40 + 34 * row), cv2.FONT_HERSHEY_TRIPLEX, 0.8, 255, 1, cv2.LINE_AA)
    return picture


def loop(side: int, count: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Frames that move below a banner that does not."""
    still, made = frame(side, text=False), []
    for step in range(count):
        moved = np.roll(still, (2 * step, 3 * step), (0, 1))
        moved[:48] = 0
        cv2.putText(moved, "  ".join(LINES[:3]), (10, 32), cv2.FONT_HERSHEY_TRIPLEX, 0.7, 255, 1, cv2.LINE_AA)
        made.append(moved)
    return made


def processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(content: bytes, redact: Callable[[Image], Redacted], repeat: int) -> dict[str, float]:
    """Median seconds for one object; the first time is for warming up."""
    walls, processors = [], []
    for _ in range(repeat + 1):
        started, before = time.perf_counter(), processor_s()
        redact(Image.open(BytesIO(content)))
        walls.append(time.perf_counter() - started)
        processors.append(processor_s() - before)
    return {"seconds": round(statistics.median(walls[1:]), 4), "processor_seconds": round(statistics.median(processors[1:]), 4)}


def speed(mode: str, frames: int, repeat: int, *, plain: bool) -> None:
    """Print the bars of speed."""
    random = np.random.default_rng(7)
    shown = {
        "1024x1024, ten lines": [frame(1024, text=True)],
        "1024x1024, no text": [frame(1024, text=False)],
        f"512x512, {frames} frames, constant banner": loop(512, frames),
    }
    redactors: dict[str, Callable[[Image], Redacted]] = {mode: Redact(mode=mode)}
    if plain:
        redactors["tesseract"] = PlainTesseract()
    with TemporaryDirectory() as folder:
        for name, pictures in shown.items():
            path = Path(folder) / "a.dcm"
            who, form = identity(random, in_header=False), Form("MONOCHROME2", ExplicitVRLittleEndian)
            write(path, pictures, form, who, "bench", random)
            content = path.read_bytes()
            found = {who: timed(content, redact, repeat) for who, redact in redactors.items()}
            print(json.dumps({"speed": name, **found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--set", type=Path, action="append", help="TEXT_BOXES.csv, or the folder of one; may repeat")
    parser.add_argument("--mode", choices=("strict", "header"), default="strict")
    parser.add_argument("--every", type=int, default=1, help="take every n-th file")
    parser.add_argument("--speed", action="store_true", help="the bars of speed instead of strings")
    parser.add_argument("--frames", type=int, default=30, help="of the loop")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--without-tesseract", action="store_true", help="with --speed: ours alone")
    options = parser.parse_args()
    if options.speed:
        speed(options.mode, options.frames, options.repeat, plain=not options.without_tesseract)
    else:
        strings(options.set or [options.data / "dicom" / "burned_in"], options.every, options.mode)


if __name__ == "__main__":
    main()

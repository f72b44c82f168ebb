"""From a spooled file to the label of the router on one core, step by step, beside what a short script would do.

Run from the repository root::

    python benchmarks/router.py [--rows 2500] [--columns 2048] [--bits 16] [--rounds 30] [--syntaxes native,RLE]
        [--model bodypart-router] [--json]

A generated radiograph with grain lies as a file, native (Explicit VR Little Endian) and in lossless compressed syntaxes. Each
round opens it, reads the frame, decodes it, makes the picture that the models share (look), sees whether anything is on it
(judge), prepares the tensor of the card and runs the network: the code of the node, in the order of the node, in one process
that may use one core with one thread. The file is in the page cache, as one that has just been received. The peer does in the
same round what a script of ten lines does: pydicom's pixel_array, 0..1 by least and greatest value, Pillow's resize, and the
same network in plain onnxruntime.

The least of all rounds counts, for other programs on the machine only ever add; the median of the processor time of this
process is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import onnxruntime
import pydicom
from PIL import Image as Pillow
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from dicomnode.cards import find_models
from dicomnode.image import Image, codecs
from dicomnode.stages.infer import Model
from dicomnode.stages.look import look
from dicomnode.stages.preprocess import chain
from dicomnode.stages.sight import is_even
from tests.acceptance.samples import radiograph
from tests.unit.pictures import encapsulated, image, part10

#: What "DICOM Imaging Router" reports for one image, MobileNet-V1 of 512 x 512 on a GeForce RTX 2080 Ti; not measured here.
PAPER_MS = 29.5
SYNTAXES = {
    "native": ExplicitVRLittleEndian, "RLE": RLELossless, "JPEG lossless": JPEGLosslessSV1, "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}  # fmt: skip
STEPS = ("read", "decode", "look", "judge", "prepare", "network")


def files(folder: Path, rows: int, columns: int, bits: int, names: list[str]) -> dict[str, Path]:
    """Write the radiograph in each of these syntaxes."""
    ds = radiograph(rows=rows, cols=columns, seed=1)
    values = np.frombuffer(ds.PixelData, np.uint16).reshape(rows, columns)
    grain = np.random.default_rng(2).integers(0, 16, values.shape, dtype=np.uint16)
    values = ((values << 4) + grain) >> (16 - bits)
    ds.BitsStored, ds.HighBit = bits, bits - 1
    found = {}
    for name, syntax in ((name, SYNTAXES[name]) for name in names):
        native = part10(ds, values.tobytes())
        if syntax != ExplicitVRLittleEndian:
            spec = replace(image(native).spec, transfer_syntax_uid=str(syntax), encapsulated=True)
            native = encapsulated(ds, [codecs.encode(values, spec, spec.photometric)], syntax)
        found[name] = folder / f"{name}.dcm"
        found[name].write_bytes(native)
    return found


class Clock:
    """Times of steps, in milliseconds."""

    def __init__(self) -> None:
        self.times: dict[str, list[tuple[float, float]]] = defaultdict(list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step of one round."""
        started, busy = time.perf_counter(), time.process_time()
        yield
        self.times[name].append((time.perf_counter() - started, time.process_time() - busy))

    def least(self, name: str) -> float:
        """The round in which nothing came between."""
        return round(1000 * min(wall for wall, _ in self.times[name]), 2)

    def busy(self, name: str) -> float:
        """Processor time of the usual round."""
        return round(1000 * statistics.median(busy for _, busy in self.times[name]), 2)


def ours(path: Path, model: Model, prepare: Callable[[Any], Any], clock: Clock) -> str:
    """The way of the node, step by step; gives the label."""
    with clock.step("total"), path.open("rb") as stream:
        with clock.step("read"):
            opened = Image.open(stream)
            opened.raw_frame(opened.shown)
        with clock.step("decode"):
            opened.frame(opened.shown)
        with clock.step("look"):
            picture = look(opened)
        with clock.step("judge"):
            is_even(picture)
        with clock.step("prepare"):
            tensor = prepare(picture)[np.newaxis]
        with clock.step("network"):
            logits = model.logits(tensor)[0]
    return model.card.labels[int(logits.argmax())].key


def naive(path: Path, session: Any, clock: Clock, name: str, side: int) -> None:
    """What a short script does with the same file and the same network."""
    with clock.step("script"):
        frame = pydicom.dcmread(path).pixel_array.astype(np.float32)
        unit = (frame - frame.min()) / (frame.max() - frame.min())
        small = np.asarray(Pillow.fromarray((unit * 255).astype(np.uint8)).resize((side, side)), np.float32) / 255
        session.run(["logits"], {name: ((small - small.mean()) / small.std())[np.newaxis, np.newaxis]})


def measure(paths: dict[str, Path], model: Model, rounds: int) -> list[dict[str, Any]]:
    """Time every file."""
    prepare = chain([(step.step, step.parameters) for step in model.card.input.preprocess])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model.folder.onnx), options, providers=["CPUExecutionProvider"])
    rows = []
    for name, path in paths.items():
        clock = Clock()
        for _ in range(rounds):
            label = ours(path, model, prepare, clock)
            naive(path, session, clock, model.card.input.name, model.card.input.shape[-1])
        rows.append({
            "syntax": name,
            "file_mb": round(path.stat().st_size / 1e6, 1),
            "label": label,
            "least_ms": {step: clock.least(step) for step in (*STEPS, "total", "script")},
            "processor_ms": {step: clock.busy(step) for step in (*STEPS, "total", "script")},
            "undecoded_ms": round(clock.least("total") - clock.least("decode"), 2),
            "ratio_to_script": round(clock.least("total") / clock.least("script"), 3),
            "ratio_to_paper_gpu": round(clock.least("total") / PAPER_MS, 3),
        })  # fmt: skip
    return rows


def main() -> None:
    """Measure and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--bits", type=int, default=16, help="Bits Stored, 12 to 16")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--syntaxes", default=",".join(SYNTAXES))
    parser.add_argument("--model", default="bodypart-router")
    parser.add_argument("--models", type=Path, default=Path(__file__).parents[1] / "models")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    folder = find_models(given.models)[given.model]
    model = Model(folder, threads=1)
    with tempfile.TemporaryDirectory() as place:
        paths = files(Path(place), given.rows, given.columns, given.bits, given.syntaxes.split(","))
        rows = measure(paths, model, given.rounds)
    if given.json:
        for row in rows:
            print(json.dumps({"rows": given.rows, "columns": given.columns, "bits": given.bits} | row))
        return
    card = model.card
    print(f"### {given.columns} x {given.rows}, {given.bits} bits, {card.name} {card.version} {card.input.shape}, one core\n")
    print("Least time of each step (median of its processor time), ms:\n")
    heads = ["", "MB", *STEPS, "total", "without decoding", "script", "total : script", f"total : {PAPER_MS} ms (paper, GPU)"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        least, busy = row["least_ms"], row["processor_ms"]
        cells = [row["syntax"], row["file_mb"], *(f"{least[step]} ({busy[step]})" for step in (*STEPS, "total"))]
        cells += [row["undecoded_ms"], f"{least['script']} ({busy['script']})"]
        print("| " + " | ".join(map(str, [*cells, row["ratio_to_script"], row["ratio_to_paper_gpu"]])) + " |")


if __name__ == "__main__":
    main()

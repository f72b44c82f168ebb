"""Which resolution and which numbers the router computes with: time on one core, and macro-F1 on val.

Run from the repository root, with the extra `train` installed::

    python benchmarks/precision.py networks [--networks efficientnet_lite0,mobilenet_v1:0.5] [--sizes 192,224] [--json]
    python benchmarks/precision.py model [--model bodypart-router] [--manifest ../shared/data/MANIFEST.csv] [--sizes 192,224]

`networks` times architectures of random weights, so that a size can be chosen before anything is taught. `model` takes a model
of the repository and measures on the val pictures of a manifest what it answers with weights of float32, of float16 and in
whole numbers of 8 bits (onnxruntime's static quantisation, QDQ, per channel, ranges from pictures of train), and at other
resolutions than it was taught for. Time is the least of many runs with one thread.

Weights of float16 are computed with as float32 (a Cast that onnxruntime folds when it opens the file), so they cost no time;
onnxruntime's CPU kernels for float16 convolutions are slower than those for float32 and are no candidate.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from dicomnode.cards import Card, find_models
from dicomnode.stages.preprocess import chain
from dicomnode.training import metrics
from dicomnode.training.datasets import ROUTER, Example, read_examples, read_picture
from dicomnode.training.graph import write_onnx
from dicomnode.training.networks import build

CALIBRATED_ON = 200
NETWORKS = "mobilenet_v1:0.5,mobilenet_v1,mobilenet_v2,efficientnet_lite0,efficientnet_b0,resnet18"


class Tensors(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives tensors one by one."""

    def __init__(self, name: str, tensors: Iterable[Any]) -> None:
        self._given: Iterator[dict[str, Any]] = ({name: tensor[np.newaxis]} for tensor in tensors)

    def get_next(self) -> dict[str, Any] | None:
        """One batch of one."""
        return next(self._given, None)


def whole_numbers(path: Path, folder: Path, tensors: Iterable[Any], name: str) -> Path:
    """Quantise a graph to 8 bits; gives the new file."""
    folded, made = folder / "folded.onnx", folder / f"int8_{path.name}"
    quant_pre_process(path, folded, skip_symbolic_shape=True)
    quantize_static(
        folded, made, Tensors(name, tensors), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return made


def rounded(path: Path, folder: Path) -> Path:
    """Round large weights to float16 where they are not yet."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))
    onnx.save(model, folder / "float16.onnx")
    return folder / "float16.onnx"


def resized(path: Path, folder: Path, size: int) -> Path:
    """Let a graph take pictures of another size."""
    model = onnx.load(path)
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = size
    for output in model.graph.output:
        for side in output.type.tensor_type.shape.dim[2:]:
            side.ClearField("dim_value")
    model.graph.ClearField("value_info")
    onnx.save(model, folder / f"size{size}.onnx")
    return folder / f"size{size}.onnx"


def opened(path: Path) -> onnxruntime.InferenceSession:
    """One thread, quiet."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def milliseconds(session: onnxruntime.InferenceSession, tensor: Any, runs: int = 60) -> float:
    """The least time of one run."""
    name, spent = session.get_inputs()[0].name, []
    for _ in range(runs):
        started = time.perf_counter()
        session.run(["logits"], {name: tensor[np.newaxis]})
        spent.append(time.perf_counter() - started)
    return round(min(spent) * 1000, 2)


def networks(names: Sequence[str], sizes: Sequence[int], folder: Path) -> Iterator[dict[str, Any]]:
    """Time architectures of random weights."""
    for name in names:
        arch, _, width = name.partition(":")
        for size in sizes:
            path = folder / f"{arch}.onnx"
            write_onnx(build(arch, 5, float(width or 1)).eval(), path, (1, size, size))
            tensors = np.random.default_rng(0).standard_normal((8, 1, size, size), dtype=np.float32)
            small = whole_numbers(path, folder, tensors, "image")
            yield {
                "network": name, "size": size, "float16_mb": _mb(path), "int8_mb": _mb(small),
                "float32_ms": milliseconds(opened(path), tensors[0]), "int8_ms": milliseconds(opened(small), tensors[0]),
            }  # fmt: skip


def _mb(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 2)


def steps_at(card: Card, size: int) -> list[tuple[str, Mapping[str, Any]]]:
    """The steps of a card with another resolution."""
    sides = {"rows": size, "cols": size}
    return [
        (step.step, dict(step.parameters) | (sides if sides.keys() <= step.parameters.keys() else {}))
        for step in card.input.preprocess
    ]


def figures(path: Path, tensors: Any, targets: Any, classes: int) -> dict[str, Any]:
    """Macro-F1 and time of a graph, and its answers."""
    session = opened(path)
    name = session.get_inputs()[0].name
    logits = np.concatenate([session.run(["logits"], {name: tensor[np.newaxis]})[0] for tensor in tensors])
    confusion = metrics.confusion_matrix(targets, logits.argmax(axis=1), classes)
    macro = float(metrics.macro(metrics.f1(confusion), confusion))
    spent = milliseconds(session, tensors[0])
    return {"macro_f1": round(macro, 4), "ms": spent, "mb": _mb(path), "answers": logits.argmax(axis=1)}


def model(card: Card, path: Path, examples: Sequence[Example], sizes: Sequence[int], folder: Path) -> Iterator[dict[str, Any]]:
    """Measure a model of the repository on val, in each kind of numbers and at each size."""
    labels = [label.key for label in card.labels]
    val = [example for example in examples if example.split == "val" and example.label in labels]
    train = [example for example in examples if example.split == "train" and example.label in labels]
    drawn = np.random.default_rng(0).permutation(len(train))[:CALIBRATED_ON]
    pictures = [read_picture(example.path) for example in val]
    seen = [read_picture(train[number].path) for number in drawn]
    targets = np.array([labels.index(example.label) for example in val])
    own = card.input.shape[-1]
    first = None
    for size in dict.fromkeys((own, *sizes)):
        prepare = chain(steps_at(card, size))
        tensors = np.stack([prepare(picture) for picture in pictures])
        graph = path if size == own else resized(path, folder, size)
        kinds = {"as stored": graph}
        if size == own:
            small = whole_numbers(graph, folder, (prepare(picture) for picture in seen), card.input.name)
            kinds |= {"float16": rounded(graph, folder), "int8": small}
        for kind, file in kinds.items():
            found = figures(file, tensors, targets, len(labels))
            answers = found.pop("answers")
            first = answers if first is None else first
            same = round(float((answers == first).mean()), 4)
            yield {"size": size, "numbers": kind, "pictures": len(val), **found, "same_answer": same}


def main() -> None:
    """Measure and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("networks", "model"))
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--sizes", default="192,224")
    parser.add_argument("--model", default="bodypart-router")
    parser.add_argument("--models", type=Path, default=Path(__file__).parents[1] / "models")
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "MANIFEST.csv")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    sizes = [int(size) for size in given.sizes.split(",")]
    with tempfile.TemporaryDirectory() as place:
        if given.what == "networks":
            rows = networks(given.networks.split(","), sizes, Path(place))
        else:
            found = find_models(given.models)[given.model]
            rows = model(found.card, found.onnx, read_examples(given.manifest, ROUTER), sizes, Path(place))
        for number, row in enumerate(rows):
            if given.json:
                print(json.dumps(row), flush=True)
                continue
            if not number:
                print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
            print("| " + " | ".join(map(str, row.values())) + " |", flush=True)


if __name__ == "__main__":
    main()

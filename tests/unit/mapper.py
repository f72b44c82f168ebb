"""A model that says where, made by program: its heat and its mask are the picture itself, so their place can be checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
from onnx import TensorProto, helper, numpy_helper

CARD = """\
name = "lesions"
version = "1.0.0"
task = "findings"
file = "model.onnx"
sha256 = "{digest}"
body_parts = ["abdomen", "adult_chest", "pediatric_chest", "spine", "other"]
intended_use = "tests: what is bright is a lesion"
licence = {{ identifier = "CC0-1.0", reason = "made by a test" }}
training_data = [{{ source = "none", licence = "CC0-1.0" }}]
algorithm = {{ value = "123110", scheme = "DCM", meaning = "Artificial Intelligence" }}
output = {{ name = "logits", activation = "softmax" }}
maps = [
    {{ output = "heat", kind = "heat", labels = ["lesion"] }},
    {{ output = "mask", kind = "mask", labels = ["lesion"], threshold = 0.5 }},
]
sample = {{ file = "sample.png", probabilities = {{ lesion = 0.99966, normal = 0.00034 }}, tolerance = 0.001 }}

[input]
name = "image"
shape = [1, {size}, {size}]
dtype = "float32"
preprocess = [{steps}, {{ step = "add_channel" }}]

[[labels]]
key = "lesion"
meaning = "something bright"
concept = {{ value = "52988006", scheme = "SCT", meaning = "Lesion" }}
abnormal = true
threshold = 0.5

[[labels]]
key = "normal"
meaning = "nothing bright"
concept = {{ value = "17621005", scheme = "SCT", meaning = "Normal" }}
"""
STRETCH = '{{ step = "resize", parameters = {{ rows = {size}, cols = {size}, keep_aspect = false }} }}'
FIT = '{{ step = "resize", parameters = {{ rows = {size}, cols = {size} }} }}'
CROP = '{ step = "crop_margins" }'


def write(models: Path, *, size: int = 64, steps: str = FIT, cell: int = 2) -> Path:
    """Write the model's folder below ``models``; a cell of its maps is the mean of cell x cell pixels of its input."""
    folder = models / "lesions" / "1.0.0"
    folder.mkdir(parents=True)
    nodes = [
        helper.make_node("GlobalMaxPool", ["image"], ["brightest"]),
        helper.make_node("Flatten", ["brightest"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        helper.make_node("AveragePool", ["image"], ["bright"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("Sub", ["bright", "half"], ["heat"]),
        helper.make_node("Clip", ["bright", "zero", "one"], ["mask"]),
    ]
    constants = {
        "weights": np.array([[8, -8]]), "bias": np.array([-4, 4]), "half": np.array([0.5]),
        "zero": np.array(0), "one": np.array(1),
    }
    side = size // cell
    graph = helper.make_graph(
        nodes, "lesions", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, size, size])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, side, side]) for name in ("heat", "mask")),
        ],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    card = CARD.format(digest=digest, size=size, steps=steps.replace("{size}", str(size)).replace("{{", "{").replace("}}", "}"))
    (folder / "card.toml").write_text(card)
    cv2.imwrite(str(folder / "sample.png"), np.pad(np.full((size, size // 2), 255, np.uint8), ((0, 0), (0, size // 2))))
    return folder

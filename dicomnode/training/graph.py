"""A network as an ONNX file, and its weights back out of one.

**Way** The network is traced by torch.fx and each step becomes its ONNX operator. Batch normalisation stays a node of its
own and every tensor keeps the name that torch has for it, so that training can go on from the file; onnxruntime folds the
normalisation when it opens it. Large tensors are stored as float16 behind a Cast and computed with as float32.

**Fails** `BadSetting` for a network with a step that has no operator here, and for a file whose weights do not carry
torch's names.

**Standard** ONNX operator set 18.

**Limits** The layers of `networks` and `text.network`; the float16 storage rounds weights, so `round_weights` comes first and
what is measured afterwards is what is stored.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # comes with onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from dicomnode.errors import BadSetting
from dicomnode.training.networks import Classifier

OPSET, _IR_VERSION = 18, 8
#: Kernels and matrices of at least this many numbers are stored as float16.
_LARGE = 1024
_FLOAT16_MAX = 65504.0
INPUT, LOGITS, MAPS = "image", "logits", "cam"
#: Sides of a tensor; a word is any size.
Sides: TypeAlias = list[str | int]


def round_weights(network: nn.Module) -> None:
    """Round large weights to what float16 can hold, so that the network is the one that the file will store."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1 and weight.numel() >= _LARGE:
                weight.copy_(weight.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half().float())


def _one(number: int | tuple[int, ...]) -> int:
    return number if isinstance(number, int) else number[0]


class _Writer:
    """Nodes and tensors of the graph in the making; methods give the name of the value that they made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def tensor(self, name: str, values: NDArray[Any]) -> str:
        """Store a tensor once; a large one comes out of a Cast."""
        large = values.ndim > 1 and values.size >= _LARGE
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(values.astype(np.float16) if large else values, name)
            if large:
                self.add("Cast", [name], f"{name}.float32", to=TensorProto.FLOAT)
        return f"{name}.float32" if large else name

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Append one node with one output."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}:{name}", **attributes))
        return name

    def module(self, module: nn.Module, target: str, value: str, name: str) -> str:  # noqa: C901, PLR0911 - one for each layer
        """Append a layer of torch whose tensors are called after `target`."""

        def of(what: str) -> str:
            return self.tensor(f"{target}.{what}", getattr(module, what).detach().cpu().contiguous().numpy())

        match module:
            case nn.Conv2d():
                inputs = [value, of("weight"), *([of("bias")] if module.bias is not None else [])]
                rows, cols = (int(side) for side in module.padding)
                return self.add(
                    "Conv", inputs, name, kernel_shape=module.kernel_size, strides=module.stride, group=module.groups,
                    pads=[rows, cols, rows, cols], dilations=module.dilation,
                )  # fmt: skip
            case nn.BatchNorm2d():
                inputs = [value, *map(of, ("weight", "bias", "running_mean", "running_var"))]
                return self.add("BatchNormalization", inputs, name, epsilon=module.eps)
            case nn.Linear():
                return self.add("Gemm", [value, of("weight"), of("bias")], name, transB=1)
            case nn.MaxPool2d():
                kernel, stride, pad = (_one(number) for number in (module.kernel_size, module.stride, module.padding))
                return self.add("MaxPool", [value], name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
            case nn.ReLU6():
                ends = [self.tensor(f"clip.{end}", np.array(end, dtype=np.float32)) for end in (0, 6)]
                return self.add("Clip", [value, *ends], name)
            case nn.ReLU():
                return self.add("Relu", [value], name)
            case nn.PixelShuffle():
                return self.add("DepthToSpace", [value], name, blocksize=module.upscale_factor, mode="CRD")
            case nn.SiLU():
                return self.silu([value], name)
            case nn.Dropout() | nn.Identity():
                return value
        raise BadSetting(f"{target}: a layer {type(module).__name__} has no ONNX operator in training/graph.py")

    def silu(self, inputs: list[str], name: str) -> str:
        """Multiply a value by its own sigmoid."""
        return self.add("Mul", [inputs[0], self.add("Sigmoid", inputs, f"{name}.sigmoid")], name)

    def function(self, node: fx.Node, inputs: list[str]) -> str:
        """Append what `forward` does without a layer."""
        simple: Mapping[Any, str] = {
            operator.add: "Add", operator.mul: "Mul", torch.sigmoid: "Sigmoid", nn.functional.relu: "Relu",
        }  # fmt: skip
        if node.target in simple:
            return self.add(simple[node.target], inputs, node.name)
        if node.target is nn.functional.silu:
            return self.silu(inputs, node.name)
        if node.target is nn.functional.interpolate and node.kwargs["mode"] == "nearest":
            factor = node.kwargs["scale_factor"]
            scales = self.tensor(f"scales.{factor}", np.array([1, 1, factor, factor], dtype=np.float32))
            how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return self.add("Resize", [*inputs, "", scales], node.name, mode="nearest", **how)
        if node.target is torch.softmax and node.args[1:] == (1,):
            return self.add("Softmax", inputs, node.name, axis=1)
        if node.target == "squeeze" and node.args[1:] == (2,):
            axes = self.tensor("squeeze.axes", np.array([2], dtype=np.int64))
            return self.add("Squeeze", [*inputs, axes], node.name)
        if node.target == "mean" and node.args[1:] == ((2, 3),):
            axes = self.tensor("mean.axes", np.array([2, 3], dtype=np.int64))
            return self.add("ReduceMean", [*inputs, axes], node.name, keepdims=int(bool(node.kwargs.get("keepdim", False))))
        raise BadSetting(f"{node.name}: {node.target} has no ONNX operator in training/graph.py")


def write_onnx(network: Classifier, path: Path, shape: tuple[int, int, int]) -> str:
    """Write a network as ONNX with input ``image`` (n, *shape), outputs ``logits`` (n, classes) and ``cam``.

    ``cam`` (n, classes, rows, cols) are the class activation maps: the classifier's weights applied to the features of each
    place, whose mean is the logit without its bias. The middle of what a place sees is the first pixel of its cell, not the
    cell's, for every layer that halves the size pads alike on both sides; so each is averaged with its neighbours to the right
    and below, which moves the map by half a cell to where it belongs.

    Returns
    -------
    SHA-256 of the file.
    """
    writer = _Writer()
    features = _append(network, writer, INPUT, LOGITS)
    classes, channels = network.classifier.weight.shape
    weight = writer.tensor("classifier.weight", network.classifier.weight.detach().cpu().numpy())
    kernel = writer.add("Reshape", [weight, writer.tensor("cam.shape", np.array([classes, channels, 1, 1]))], "cam.kernel")
    places = writer.add("Conv", [features, kernel], "cam.places", kernel_shape=[1, 1])
    beyond = writer.tensor("cam.beyond", np.array([0, 0, 0, 0, 0, 0, 1, 1]))
    padded = writer.add("Pad", [places, beyond], "cam.padded", mode="edge")
    writer.add("AveragePool", [padded], MAPS, kernel_shape=[2, 2], strides=[1, 1])
    return _save(writer, {INPUT: ["n", *shape]}, {LOGITS: ["n", classes], MAPS: ["n", classes, "rows", "cols"]}, path)


def write_graph(network: nn.Module, path: Path, taken: tuple[str, Sides], given: tuple[str, Sides]) -> str:
    """Write a network of one input and one output as ONNX.

    Parameters
    ----------
    taken, given
        Name and sides of the input and of the output; a side that is a word may be of any size.

    Returns
    -------
    SHA-256 of the file.
    """
    writer = _Writer()
    _append(network, writer, taken[0], given[0])
    return _save(writer, dict([taken]), dict([given]), path)


def _append(network: nn.Module, writer: _Writer, entry: str, answer: str) -> str:
    """Append a network from its input to its answer; gives the value that it takes the last mean of, if any."""
    learning = network.training
    traced = fx.symbolic_trace(network.eval())
    network.train(learning)
    names, features = dict[fx.Node, str](), ""
    for node in traced.graph.nodes:
        inputs = [names[argument] for argument in node.all_input_nodes]
        match node.op:
            case "placeholder":
                names[node] = entry
            case "call_module":
                names[node] = writer.module(traced.get_submodule(str(node.target)), str(node.target), inputs[0], node.name)
            case "output":
                writer.add("Identity", inputs, answer)
            case _:
                names[node] = writer.function(node, inputs)
                features = inputs[0] if node.target == "mean" else features  # the last mean is the classifier's
    return features


def _save(writer: _Writer, taken: Mapping[str, Sides], given: Mapping[str, Sides], path: Path) -> str:
    """Check the graph and write it; gives the SHA-256 of the file."""
    entering, leaving = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name, sides in ports.items()]
        for ports in (taken, given)
    )
    graph = helper.make_graph(writer.nodes, "network", entering, leaving, initializer=list(writer.tensors.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file that `write_onnx` wrote, by torch's names, float32.

    Raises
    ------
    BadSetting
        The file is no ONNX, or was written in a way that does not keep layers and names apart.
    """
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise BadSetting(f"{path}: cannot be read as ONNX: {error}") from error
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    if "classifier.weight" not in found or not any(name.endswith(".running_var") for name in found):
        raise BadSetting(f"{path}: holds no weights to go on from; models that `dicomnode train` wrote since 0.2.0 do")
    floats = {name: values.astype(np.float32) for name, values in found.items() if values.dtype.kind == "f"}
    return {name: torch.from_numpy(values) for name, values in floats.items() if not name.startswith("clip.")}

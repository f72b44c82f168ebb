"""Look into an ONNX file without the library `onnx`, which a node has no need of otherwise.

**Way** An ONNX file is a Protocol Buffers message; its fields are walked over, large ones without being read.

**Fails** `BadCard` when the bytes are no such message.

**Standard** onnx.proto3 of ONNX 1.x (ModelProto, GraphProto, TensorProto); Protocol Buffers wire format.

**Limits** Weights of the main graph alone; onnxruntime refuses files that subgraphs name and nobody gave it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dicomnode.errors import BadCard, MissingModel

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Numbers of the fields in onnx.proto3.
_MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_OPSET = 2, 7, 8
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP = 1, 2, 4
_TENSOR_EXTERNAL = 13
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
#: Operators that change type or shape and no value.
_SAME_VALUES = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"})


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What a file says of itself."""

    #: Program that wrote it, such as pytorch; ``""`` when it does not say.
    producer: str
    #: Version of the operators of ONNX itself.
    opset: int
    #: Files that hold weights of it, by their names relative to it.
    external: tuple[str, ...]
    #: By tensor: the operator that made it, and its first input.
    made: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def operator(self, tensor: str) -> str:
        """Give the operator that made the values of a tensor, such as Softmax; ``""`` when the main graph does not say."""
        for _ in range(len(self.made)):
            made, before = self.made.get(tensor, ("", ""))
            if made not in _SAME_VALUES:
                return made
            tensor = before
        return ""


def look_into(path: Path) -> OnnxFile:
    """Read what an ONNX file says of itself.

    Raises
    ------
    MissingModel
        The file cannot be read.
    BadCard
        It is no ONNX file.
    """
    try:
        with path.open("rb") as file:
            return _read(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except OSError as error:
        raise MissingModel(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:  # an empty file cannot be mapped, other bytes make no message
        raise BadCard(f"{path}: is no ONNX file, or not a whole one") from None


def _read(model: memoryview) -> OnnxFile:
    producer, opset, external, made = "", 0, set[str](), dict[str, tuple[str, str]]()
    for number, value in _fields(model):
        if number == _MODEL_PRODUCER:
            producer = _text(value)
        elif number == _MODEL_OPSET:
            parts = dict(_fields(_message(value)))
            if not bytes(_message(parts.get(_OPSET_DOMAIN, memoryview(b"")))) and isinstance(parts.get(_OPSET_VERSION), int):
                opset = int(parts[_OPSET_VERSION])
        elif number == _MODEL_GRAPH:
            for part, inner in _fields(_message(value)):
                if part == _GRAPH_INITIALIZER:
                    external.update(_external(_message(inner)))
                elif part == _GRAPH_NODE:
                    made |= _made(_message(inner))
    return OnnxFile(producer, opset, tuple(sorted(external)), made)


def _made(node: memoryview) -> dict[str, tuple[str, str]]:
    """The outputs of a node, each with the operator and the first input."""
    parts = [(number, _text(value)) for number, value in _fields(node) if number in {_NODE_INPUT, _NODE_OUTPUT, _NODE_OP}]
    first = next((text for number, text in parts if number == _NODE_INPUT), "")
    operator = next((text for number, text in parts if number == _NODE_OP), "")
    return {text: (operator, first) for number, text in parts if number == _NODE_OUTPUT}


def _external(tensor: memoryview) -> Iterator[str]:
    for number, entry in _fields(tensor):
        if number == _TENSOR_EXTERNAL:
            parts = dict(_fields(_message(entry)))
            if _text(parts.get(_ENTRY_KEY, 0)) == "location":
                yield _text(parts.get(_ENTRY_VALUE, 0))


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")  # noqa: TRY004 - of the file, not of the program
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode(errors="replace")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field of a message with its number; raises ValueError where the bytes end too early or make no sense."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in {_FIXED32, _FIXED64}:
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("no such kind of field")
        if number == 0 or place + size > len(data):
            raise ValueError("a field ends behind its message")
        yield number, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        value, place = value | (byte & 0x7F) << shift, place + 1
        if byte < 0x80:
            return value, place
    raise ValueError("a number does not end")

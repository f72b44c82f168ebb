"""Open the graph of an ONNX file and run it: the only place where onnxruntime is imported.

**Way** `Session` holds one onnxruntime session, says what goes in and out of its graph, and runs it. It is thread-safe, so a
process needs one of each graph. The file is read once: what was digested is what is opened.

**Fails** `BadCard` when the file does not open, in words that say what the exporter has to do otherwise; `BadSetting` when
CUDA is asked for and cannot be had; `StageFailed` when a run gives up.

**Limits** Memory of a run is given back after it (no arena): a large batch does not stay with the process. Operators of
custom libraries are not loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from dicomnode.errors import BadCard, BadSetting, DigestMismatch, StageFailed

Provider = Literal["cpu", "cuda"]

# 4 is fatal only: what goes wrong comes as an exception, the rest is talk about GPUs that nobody asked for.
_SEVERITY = 4
ort.set_default_logger_severity(_SEVERITY)

# onnxruntime's exceptions share no base of their own.
_ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotFound,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
#: What onnxruntime says → what a person can do about it.
_REMEDIES = (
    ("opset", "it was exported for a newer opset than the installed onnxruntime reads; export it with opset 18"),
    ("IR version", "it was written by a newer onnx than the installed onnxruntime reads; set ir_version to 10, or export anew"),
    ("not a registered function/op", "it needs operators that are not part of ONNX; export it without them"),
    ("No Op registered", "it needs operators that are not part of ONNX; export it without them"),
    ("External data", "weights that lie in another file are missing, or not named by the card as [[data]]"),
    ("rotobuf", "it is no ONNX file, or not a whole one"),
)


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a graph."""

    name: str
    #: Type of an element, as numpy calls it: float32, float16, uint8.
    dtype: str
    #: The batch comes first; None is free.
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} ({sizes})"


class Session:
    """One open graph; thread-safe, since an onnxruntime session is and nothing else changes."""

    def __init__(
        self, path: Path, *, sha256: str | None = None, data: bool = False, provider: Provider = "cpu", threads: int = 1,
    ) -> None:
        """Open the graph.

        Parameters
        ----------
        sha256
            What the file must be; None takes any.
        data
            Weights may lie in other files of its folder.
        threads
            Cores for one run; workers run beside each other, so one is the rule.

        Raises
        ------
        BadCard
            The file does not open.
        DigestMismatch
            The file is another one.
        BadSetting
            ``provider`` is "cuda" and CUDA cannot be used here.
        """
        self._path = path
        options = ort.SessionOptions()
        options.log_severity_level = _SEVERITY
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # The arena keeps what the largest run needed, rounded up to a power of two, in every worker (docs/performance.md).
        options.enable_cpu_mem_arena = False
        # The file is opened from memory: weights beside it are found here, and below a file there are none.
        beside = path.resolve().parent if data else path.resolve()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(beside))
        wanted = ["CUDAExecutionProvider"] if provider == "cuda" else []
        if not set(wanted) <= set(ort.get_available_providers()):
            raise BadSetting("work.provider: cuda is asked for, but the installed onnxruntime is built without it")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadCard(f"{path}: cannot be read: {error.strerror}") from None
        if sha256 is not None and (digest := hashlib.sha256(content).hexdigest()) != sha256:
            raise DigestMismatch(f"{path}: has the digest {digest}, not that of its card")
        try:
            self._session = ort.InferenceSession(content, options, providers=[*wanted, "CPUExecutionProvider"])
        except _ORT_ERRORS as error:
            raise BadCard(f"{path}: onnxruntime cannot open it: {_said(error)}") from error
        if wanted and self.provider != wanted[0]:  # onnxruntime falls back to the CPU without a word
            raise BadSetting("work.provider: cuda is asked for, but no GPU is here or not all of its libraries are")
        self.inputs = tuple(map(_port, self._session.get_inputs()))
        self.outputs = tuple(map(_port, self._session.get_outputs()))

    @property
    def provider(self) -> str:
        """The execution provider that the session itself reports first."""
        return str(self._session.get_providers()[0])

    def run(self, wanted: Sequence[str], given: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the graph for these outputs; raises `StageFailed` when onnxruntime gives up."""
        try:
            return list(self._session.run(list(wanted), dict(given)))
        except _ORT_ERRORS as error:
            raise StageFailed(f"{self._path.parent.name}/{self._path.name}: onnxruntime gave up") from error


def _port(node: Any) -> Port:
    told = re.fullmatch(r"tensor\((\w+)\)", node.type)
    kind = told[1] if told else node.type
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return Port(node.name, {"float": "float32", "double": "float64"}.get(kind, kind), shape)


def _said(error: Exception) -> str:
    text = str(error)
    return next((f"{remedy} ({_short(text)})" for sign, remedy in _REMEDIES if sign in text), _short(text))


def _short(text: str) -> str:
    """What onnxruntime says, without the places in its own sources."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ .*?\) (?=[A-Z])", "", " ".join(text.split()))
    return text if len(text) <= 300 else text[:300] + " ..."

"""Ask an ONNX model about one picture: the only place where onnxruntime is imported.

**Way** `Model` opens the session that a card describes and answers probabilities for a picture in 0..1; `Infer` is
the stage: it takes such a picture and the name of a model and gives `Findings` with the model's name, version and
digest. Sessions are made once per process and shared; nothing is kept between pictures.

**Fails** At start: `MissingModel` and `BadCard` when the graph is not as its card says, `BadSetting` when CUDA is
asked for and cannot be had. On an instance: `StageFailed`.

**Limits** Of a multi-frame image the caller gives one frame. Batches of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from dicomnode.cards import ModelFolder, find_models
from dicomnode.errors import BadCard, BadSetting, MissingModel, StageFailed
from dicomnode.records import Finding, Findings
from dicomnode.stages.preprocess import Array, chain, to_unit

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
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class Model:
    """One ONNX model with its card; thread-safe, since a session is and nothing else changes."""

    def __init__(self, folder: ModelFolder, *, provider: Provider = "cpu", threads: int = 1) -> None:
        """Open the session.

        Parameters
        ----------
        threads
            Cores for one picture; workers run beside each other, so one is the rule.

        Raises
        ------
        BadCard
            The graph does not open, or its inputs and outputs, or the preprocessing, are not as the card says.
        BadSetting
            ``provider`` is "cuda" and CUDA cannot be used here.
        """
        self.folder = folder
        self.card = folder.card
        self._prepare = chain([(step.step, step.parameters) for step in self.card.input.preprocess])
        options = ort.SessionOptions()
        options.log_severity_level = _SEVERITY
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        wanted = ["CUDAExecutionProvider"] if provider == "cuda" else []
        if not set(wanted) <= set(ort.get_available_providers()):
            raise BadSetting("work.provider: cuda is asked for, but the installed onnxruntime is built without it")
        try:
            self._session = ort.InferenceSession(str(folder.onnx), options, providers=[*wanted, "CPUExecutionProvider"])
        except _ORT_ERRORS as error:
            raise BadCard(f"{folder.onnx}: onnxruntime cannot open it: {error}") from error
        if wanted and self.provider != wanted[0]:  # onnxruntime falls back to the CPU without a word
            raise BadSetting("work.provider: cuda is asked for, but no GPU is here or not all of its libraries are")
        self._check_graph()

    def _check_graph(self) -> None:
        """Compare the graph's only input and its outputs with the card."""
        inputs, outputs, card = self._session.get_inputs(), self._session.get_outputs(), self.card
        found = [(node.name, node.type, tuple(node.shape[1:])) for node in (*inputs, *outputs)]
        # The rows and columns of a map may be free.
        maps = {spec.output: len(spec.labels) for spec in card.maps}
        found = [(*node[:2], node[2][:1]) if node[0] in maps and len(node[2]) == 3 else node for node in found]
        wanted = [
            (card.input.name, "tensor(float)", tuple(card.input.shape)),
            (card.output.name, "tensor(float)", (len(card.labels),)),
            *((name, "tensor(float)", (count,)) for name, count in maps.items()),
        ]
        if found != wanted:
            raise BadCard(f"{self.folder.onnx}: the graph has {found}, the card wants {wanted}")
        made = self._prepare(np.zeros((8, 8), dtype=np.float32)).shape
        if made != tuple(card.input.shape):
            raise BadCard(
                f"{self.folder.path}: input.preprocess makes {made}, input.shape is {tuple(card.input.shape)}"
            )

    @property
    def provider(self) -> str:
        """The execution provider that the session itself reports first."""
        return str(self._session.get_providers()[0])

    def logits(self, tensors: Array) -> Array:
        """Run the graph on tensors (n, channels, rows, cols); gives (n, labels), before temperature and activation.

        Raises
        ------
        StageFailed
            onnxruntime gives up, or answers numbers that are not finite.
        """
        try:
            (answer,) = self._session.run([self.card.output.name], {self.card.input.name: tensors})
        except _ORT_ERRORS as error:
            raise StageFailed(f"model {self.card.name}: onnxruntime gave up") from error
        if not np.isfinite(answer).all():
            raise StageFailed(f"model {self.card.name}: the answer is not finite")
        return np.asarray(answer, dtype=np.float32)

    def probabilities(self, image_unit: Array) -> dict[str, float]:
        """Answer a probability per label key.

        Parameters
        ----------
        image_unit
            (rows, cols) float32 in 0..1 as `preprocess.to_unit` makes it; of a multi-frame image the frame chosen by
            the caller.

        Raises
        ------
        StageFailed
            The array is no such picture, or the model gave up.
        """
        if image_unit.ndim != 2 or image_unit.size == 0:
            raise StageFailed(f"a picture for a model has two dimensions, not the shape {image_unit.shape}")
        output = self.card.output
        scaled = self.logits(self._prepare(image_unit)[np.newaxis])[0].astype(np.float64) / output.temperature
        return dict(zip((label.key for label in self.card.labels), _activate(scaled, output.activation), strict=True))

    def check_sample(self) -> float:
        """Answer the card's sample; gives the largest difference from the expected probabilities.

        Raises
        ------
        BadCard
            The sample cannot be read or the difference is above the card's tolerance.
        """
        stored = cv2.imread(str(self.folder.sample), cv2.IMREAD_UNCHANGED)
        if stored is None or stored.ndim != 2:
            raise BadCard(f"{self.folder.sample}: is no grey picture")
        got, sample = self.probabilities(to_unit(stored)), self.card.sample
        difference = max(abs(got[key] - expected) for key, expected in sample.probabilities.items())
        if difference > sample.tolerance:
            raise BadCard(
                f"{self.folder.path}: the answer to the sample is {difference:.4f} off, more than {sample.tolerance}"
            )
        return difference


def _activate(logits: NDArray[np.float64], activation: str) -> list[float]:
    if activation == "sigmoid":
        return [float(value) for value in 1 / (1 + np.exp(-logits))]
    raised = np.exp(logits - logits.max())
    return [float(value) for value in raised / raised.sum()]


def open_models(root: Path, *, provider: Provider = "cpu", threads: int = 1) -> Mapping[str, Model]:
    """Open the newest version of every model under ``root``; raises what `find_models` and `Model` raise."""
    return {name: Model(folder, provider=provider, threads=threads) for name, folder in find_models(root).items()}


class Infer:
    """The stage: a picture and the name of a model to `Findings`."""

    name = "infer"

    def __init__(self, models: Mapping[str, Model]) -> None:
        """Take the models of this process by name."""
        self._models = dict(models)

    def __call__(self, image_unit: Array, model_name: str) -> Findings:
        """Ask one model about one picture.

        Parameters
        ----------
        image_unit
            As in `Model.probabilities`.

        Returns
        -------
        Every label of the card with its probability, highest first.

        Raises
        ------
        MissingModel
            No model of this name was opened.
        StageFailed
            The model gave up.
        """
        if model_name not in self._models:
            raise MissingModel(
                f"model {model_name!r} is not there; there are: {', '.join(sorted(self._models)) or 'none'}"
            )
        model = self._models[model_name]
        probabilities, card = model.probabilities(image_unit), model.card
        items = tuple(
            Finding(
                label=label.key,
                code=label.concept.code(),
                probability=probabilities[label.key],
                abnormal=label.threshold is not None and probabilities[label.key] >= label.threshold,
            )
            for label in sorted(card.labels, key=lambda label: -probabilities[label.key])
        )
        return Findings(items, card.name, card.version, card.sha256)

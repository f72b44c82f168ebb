"""Ask a model about a picture: what its card says of preparing and reading, around one open graph.

**Way** `Model` opens the graph that a card describes and answers for pictures in 0..1, one or a batch: probabilities by
label, and the maps that the card names. `Infer` is the stage: it takes such a picture and the name of a model and gives
`Findings` with the model's name, version and digest. Models are opened once per process and shared; nothing is kept
between pictures.

**Fails** At start: `MissingModel`, `DigestMismatch` and `BadCard` when the graph is not as its card says or its sample is
answered otherwise, `BadSetting` when CUDA is asked for and cannot be had. On an instance: `StageFailed`.

**Limits** Of a multi-frame image the caller gives one frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.cards import MapSpec, ModelFolder, OutputSpec, find_models
from dicomnode.errors import BadCard, MissingModel, StageFailed
from dicomnode.onnx_file import look_into
from dicomnode.records import Finding, Findings, Map, Placement
from dicomnode.stages.preprocess import Array, Placed, chain, to_unit
from dicomnode.stages.session import Port, Provider, Session

__all__ = ["BATCH", "Answer", "Infer", "LabelMap", "Model", "Provider", "open_models"]

#: Pictures that go through a graph at a time, at most: what a batch needs in memory is bounded.
BATCH = 16
#: Probabilities that a graph makes itself may be this far outside of 0..1.
_ROUNDED = 1e-3


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Where a model sees what: one of the card's ``[[maps]]`` for one picture."""

    spec: MapSpec
    #: (labels, rows, cols) float32 over the area of the network's input.
    values: Array


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says of one picture."""

    #: By label key, in the order of the card.
    probabilities: Mapping[str, float]
    maps: tuple[LabelMap, ...]
    #: What the area of the network's input, and so of each map, covers of the picture or its frame.
    place: Placement


class Model:
    """One ONNX model with its card; thread-safe, since its session is and nothing else changes."""

    def __init__(self, folder: ModelFolder, *, provider: Provider = "cpu", threads: int = 1) -> None:
        """Open the graph.

        Raises
        ------
        BadCard
            The graph does not open, or its inputs and outputs, or the preprocessing, are not as the card says.
        DigestMismatch
            The ONNX file is not the one that the card describes.
        BadSetting
            ``provider`` is "cuda" and CUDA cannot be used here.
        """
        self.folder = folder
        self.card = folder.card
        named = {one.file for one in self.card.data}
        if named and (others := {*look_into(folder.onnx).external} - named):
            raise BadCard(f"{folder.onnx}: weights in {', '.join(sorted(others))}, which are no [[data]] of the card")
        self._prepare = chain([(step.step, step.parameters) for step in self.card.input.preprocess])
        self._session = Session(
            folder.onnx, sha256=self.card.sha256, data=bool(self.card.data), provider=provider, threads=threads,
        )
        self._check_graph()
        self._dtype = np.dtype(self.card.input.dtype)
        #: What the graph takes at a time; None is any number.
        self._batch = self._session.inputs[0].shape[0]

    def _check_graph(self) -> None:
        """Compare what the graph takes and gives with the card."""
        card, where = self.card, self.folder.onnx
        inputs = self._session.inputs
        read = Port(card.input.name, card.input.dtype, (None, *card.input.shape))
        if len(inputs) != 1 or not _fits(inputs[0], read):
            raise BadCard(f"{where}: the graph takes {_list(inputs)}; the card says {read}")
        outputs = {port.name: port for port in self._session.outputs}
        labels = len(card.labels)
        wanted: list[tuple[str, tuple[tuple[int | None, ...], ...]]]
        scores = ((labels,), (labels, 1, 1), *([()] if labels == 1 else []))
        wanted = [] if card.output.pool else [(card.output.name, scores)]
        wanted += [(spec.output, ((len(spec.labels), None, None),)) for spec in card.maps]
        for name, shapes in wanted:
            port = outputs.get(name)
            if port is None or not any(_fits(port, Port(name, "float32", (None, *shape)), floats=True) for shape in shapes):
                said = Port(name, "float32", (None, *shapes[0]))
                raise BadCard(f"{where}: the graph has {_list(self._session.outputs)}; the card wants {said}")
        made = self._prepare(np.zeros((8, 8), dtype=np.float32)).shape
        if made != tuple(card.input.shape):
            raise BadCard(
                f"{self.folder.path}: input.preprocess makes {made}, input.shape is {tuple(card.input.shape)}"
            )

    @property
    def provider(self) -> str:
        """The execution provider that the session itself reports first."""
        return self._session.provider

    def logits(self, tensors: Array) -> Array:
        """Run the graph on tensors (n, channels, rows, cols); gives (n, labels), before temperature and activation.

        Raises
        ------
        StageFailed
            onnxruntime gives up, or answers numbers that are not finite.
        """
        return self._scores(self._found((), tensors))

    def _found(self, maps: Sequence[MapSpec], tensors: Array) -> dict[str, Array]:
        """What the graph gives by the names of its outputs; maps as their card reads them."""
        names = list(dict.fromkeys([self.card.output.name, *(spec.output for spec in maps)]))
        found = dict(zip(names, self._run(names, tensors), strict=True))
        for spec in (one for one in self.card.maps if one.output in found):
            found[spec.output] = self._map(spec, found[spec.output])
        return found

    def _map(self, spec: MapSpec, values: Array) -> Array:
        """One map as the card reads it: a mask is 0..1."""
        if values.ndim != 4 or values.shape[1] != len(spec.labels):
            raise StageFailed(f"model {self.card.name}: the map {spec.output} has the shape {values.shape}")
        if spec.activation == "sigmoid":
            return _sigmoid(values)
        if spec.kind == "heat":
            return values
        if not (values.min() >= -_ROUNDED and values.max() <= 1 + _ROUNDED):
            raise StageFailed(f"model {self.card.name}: the mask {spec.output} is no probability")
        return np.clip(values, 0, 1)

    def _scores(self, found: Mapping[str, Array]) -> Array:
        """One number for each picture and label."""
        answer = found[self.card.output.name]
        pooled = answer.max(axis=(2, 3)) if self.card.output.pool else answer
        return pooled.reshape(len(answer), len(self.card.labels))

    def _run(self, wanted: Sequence[str], tensors: Array) -> list[Array]:
        """Run the graph in the batches that it takes."""
        size = self._batch or BATCH
        made = [self._run_batch(wanted, tensors[first : first + size]) for first in range(0, len(tensors), size)]
        return [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*made, strict=True)]

    def _run_batch(self, wanted: Sequence[str], tensors: Array) -> list[Array]:
        count, given = len(tensors), tensors.astype(np.float32, copy=False)
        if self._batch and count < self._batch:
            given = np.concatenate([given, np.zeros((self._batch - count, *given.shape[1:]), np.float32)])
        if self._dtype.kind == "u":
            given = np.rint(np.clip(given, 0, 255))
        answers = self._session.run(wanted, {self.card.input.name: given.astype(self._dtype, copy=False)})
        found = [np.asarray(answer, dtype=np.float32) for answer in answers]
        if not all(np.isfinite(answer).all() for answer in found):
            raise StageFailed(f"model {self.card.name}: the answer is not finite")
        if any(answer.ndim < 1 or len(answer) != len(given) for answer in found):
            raise StageFailed(f"model {self.card.name}: the answer is not one for each picture")
        return [answer[:count] for answer in found]

    def answers(self, pictures: Sequence[Array], frames: Sequence[tuple[int, int] | None] | None = None) -> list[Answer]:
        """Answer for each of some pictures, which go through the graph in batches.

        Parameters
        ----------
        pictures
            (rows, cols) float32 in 0..1 as `preprocess.to_unit` makes them, of any sizes; of a multi-frame image the
            frame chosen by the caller.
        frames
            Rows and columns of the frame that each picture shows, where it is of another size; places are in its pixels.

        Raises
        ------
        StageFailed
            An array is no such picture, or the model gave up.
        """
        return self._answered(pictures, frames, self.card.maps)

    def _answered(
        self, pictures: Sequence[Array], frames: Sequence[tuple[int, int] | None] | None, maps: Sequence[MapSpec],
    ) -> list[Answer]:
        """Answer with these maps; those that nobody wants cost nothing."""
        for picture in pictures:
            if picture.ndim != 2 or picture.size == 0:
                raise StageFailed(f"a picture for a model has two dimensions, not the shape {picture.shape}")
        size = self._batch or BATCH
        asked = list(zip(pictures, frames or [None] * len(pictures), strict=True))
        made: list[Answer] = []
        for first in range(0, len(asked), size):  # tensors of one batch at a time
            placed = [self._prepare.placed(picture, frame) for picture, frame in asked[first : first + size]]
            made += self._batch_of(placed, maps)
        return made

    def _batch_of(self, placed: Sequence[Placed], maps: Sequence[MapSpec]) -> list[Answer]:
        card, found = self.card, self._found(maps, np.stack([tensor for tensor, _ in placed]))
        probabilities = _activate(self._scores(found).astype(np.float64), card.output)
        if probabilities is None:
            raise StageFailed(f"model {card.name}: the answer is no probability, and the card says activation = none")
        keys = [label.key for label in card.labels]
        return [
            Answer(
                dict(zip(keys, map(float, row), strict=True)),
                tuple(LabelMap(spec, found[spec.output][number]) for spec in maps),
                placed[number][1],
            )
            for number, row in enumerate(probabilities)
        ]

    def answer(self, picture: Array, frame: tuple[int, int] | None = None) -> Answer:
        """Answer for one picture, as `answers` does."""
        return self.answers([picture], [frame])[0]

    def probabilities(self, image_unit: Array) -> dict[str, float]:
        """Answer a probability per label key for one picture, as `answers` does; no maps are made."""
        return self.probabilities_of([image_unit])[0]

    def probabilities_of(self, pictures: Sequence[Array]) -> list[dict[str, float]]:
        """Answer a probability per label key for each of some pictures."""
        return [dict(answer.probabilities) for answer in self._answered(pictures, None, ())]

    def check_sample(self) -> float:
        """Answer the card's sample; gives the largest difference from the expected probabilities.

        The first run of a session is slower than the others: this is it.

        Raises
        ------
        BadCard
            The sample cannot be read, or the answer is none, or further off than the card's tolerance.
        """
        stored = cv2.imread(str(self.folder.sample), cv2.IMREAD_UNCHANGED)
        if stored is None or stored.ndim != 2:
            raise BadCard(f"{self.folder.sample}: is no grey picture")
        try:
            got, sample = self.answer(to_unit(stored)).probabilities, self.card.sample
        except StageFailed as error:
            raise BadCard(f"{self.folder.path}: the sample cannot be answered: {error}") from error
        difference = max(abs(got[key] - expected) for key, expected in sample.probabilities.items())
        if difference > sample.tolerance:
            raise BadCard(
                f"{self.folder.path}: sample: the answer is {difference:.4f} off, more than {sample.tolerance}: preprocessing "
                "or runtime are not those of who made the model, who mends it; routes.toml may name an older version"
            )
        return difference


def _fits(port: Port, wanted: Port, *, floats: bool = False) -> bool:
    """Say whether a graph's port is as wanted; None fits any size."""
    right = port.dtype == wanted.dtype or (floats and port.dtype in {"float32", "float16", "float64"})
    sizes = zip(port.shape[1:], wanted.shape[1:], strict=False)
    same = len(port.shape) == len(wanted.shape) and all(a is None or b is None or a == b for a, b in sizes)
    return port.name == wanted.name and right and same


def _list(ports: Sequence[Port]) -> str:
    return "; ".join(map(str, ports)) or "nothing"


def _sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)), dtype=values.dtype)


def _activate(logits: NDArray[np.float64], output: OutputSpec) -> NDArray[np.float64] | None:
    """Probabilities (n, labels) from what a graph gave; None when it should have given them itself and did not."""
    if output.activation == "none":
        sound = logits.min() >= -_ROUNDED and logits.max() <= 1 + _ROUNDED
        return np.clip(logits, 0, 1) if sound else None
    scaled = logits / output.temperature
    if output.activation == "sigmoid":
        return _sigmoid(scaled)
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)


def open_models(root: Path, *, provider: Provider = "cpu", threads: int = 1) -> Mapping[str, Model]:
    """Open the newest version of every model under ``root``; raises what `find_models` and `Model` raise."""
    return {name: Model(folder, provider=provider, threads=threads) for name, folder in find_models(root).items()}


class Infer:
    """The stage: a picture and the name of a model to `Findings`."""

    name = "infer"

    def __init__(self, models: Mapping[str, Model]) -> None:
        """Take the models of this process by name."""
        self._models = dict(models)

    def __call__(self, image_unit: Array, model_name: str, frame: tuple[int, int] | None = None) -> Findings:
        """Ask one model about one picture.

        Parameters
        ----------
        image_unit, frame
            As in `Model.answers`.

        Returns
        -------
        Every label of the card with its probability, highest first, and the maps that the model gives.

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
        answer, card = model.answer(image_unit, frame), model.card
        probabilities, labels = answer.probabilities, {label.key: label for label in card.labels}
        items = tuple(
            Finding(
                label=label.key,
                code=label.concept.code(),
                probability=probabilities[label.key],
                abnormal=label.threshold is not None and probabilities[label.key] >= label.threshold,
            )
            for label in sorted(card.labels, key=lambda label: -probabilities[label.key])
        )
        maps = tuple(
            Map(
                one.spec.kind, key, labels[key].concept.code(), labels[key].abnormal, values, answer.place, one.spec.threshold,
            )
            for one in answer.maps for key, values in zip(one.spec.labels, one.values, strict=True)
        )
        return Findings(items, card.name, card.version, card.sha256, maps)

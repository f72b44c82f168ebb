"""Bring an ONNX file that somebody else exported into the repository of models.

**Way** `examine` opens the file and says what it takes and gives; `steps_for` and `activation_of` suggest how a picture is
made fit for it and how its answer is read; `put` writes the folder of the model beside the others and moves it to its place
whole, with the phantom as sample and the answer that the graph gave to it.

**Fails** `BadCard` where the graph is nothing that a node can ask about a picture, or the card does not hold; the message says
what the exporter or the person who answers has to do otherwise.

**Limits** One input of one or three channels. Of three equal channels a network that was taught colour sees grey. Whether the
answers are those of the maker's own program is known only with a picture of his: `dicomnode models test --pictures`.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import ValidationError
from pydicom.sr.codedict import codes

from dicomnode.carding import draw_phantom, write_card, write_model_card
from dicomnode.cards import Card, ModelFolder, digest_of_file, faults_of
from dicomnode.errors import BadCard, ConfigError, MissingModel, StageFailed
from dicomnode.onnx_file import OnnxFile, look_into
from dicomnode.repository import resolve, versions
from dicomnode.stages.infer import Model
from dicomnode.stages.preprocess import chain, to_unit
from dicomnode.stages.redact.letters import Letters
from dicomnode.stages.redact.model import TextModel
from dicomnode.stages.session import Port, Session
from dicomnode.text_cards import Folder, ReaderFolder, TextFolder, folder_of, load_any

Fit = Literal["letterbox", "stretch", "crop"]
Range = Literal["unit", "symmetric", "bytes", "imagenet", "standardise"]
Steps = list[dict[str, Any]]

#: Coding Scheme Designator of labels for which nobody named a code; 99 says that it is private (PS3.16 8.2).
PRIVATE_SCHEME = "99DICOMNODE"
_CODE_LENGTH = 16  # of a Code Value (0008,0100)
#: torchvision resizes the shorter side to 256 where it cuts 224 out.
_SHORT_OF = 256 / 224
_ONNX, _SAMPLE = "model.onnx", "sample.png"
_TOLERANCE = 0.01
#: Operators whose values are probabilities, and those that end in logits.
_PROBABILITIES = frozenset({"Softmax", "Sigmoid", "HardSigmoid"})
_LOGITS = frozenset({"Gemm", "MatMul", "Conv", "Add", "LogSoftmax"})


@dataclass(frozen=True, slots=True)
class Graph:
    """What an ONNX file takes and gives, as a node may use it."""

    path: Path
    file: OnnxFile
    session: Session
    port: Port
    channels: int
    channels_last: bool
    #: Rows and columns; None where any will do.
    size: tuple[int | None, int | None]
    #: Outputs that are one number for each label; none where it only says where.
    scores: tuple[Port, ...]
    #: Outputs that say where.
    maps: tuple[Port, ...]

    def labels(self, output: str) -> int | None:
        """How many labels an output is for; None when the graph does not say."""
        port = next(port for port in (*self.scores, *self.maps) if port.name == output)
        return port.shape[1] if len(port.shape) > 1 else 1

    def shape(self, rows: int, cols: int) -> tuple[int, int, int]:
        """The tensor of one picture."""
        return (rows, cols, self.channels) if self.channels_last else (self.channels, rows, cols)


def examine(path: Path) -> Graph:
    """Open an ONNX file and say what it takes and gives.

    Raises
    ------
    MissingModel, BadCard
        It cannot be read, does not open, or takes or gives something that is no picture or no answer to one.
    """
    file = look_into(path)
    for name in file.external:
        if Path(name).name != name or not (path.parent / name).is_file():
            raise MissingModel(
                f"{path}: its weights are in {name}, which does not lie beside it; bring that file too, or export into one",
            )
    session = Session(path, data=bool(file.external))
    if len(session.inputs) != 1:
        taken = "; ".join(map(str, session.inputs)) or "nothing"
        raise BadCard(f"{path}: takes {taken}; a model for a node takes one picture and nothing else")
    port = session.inputs[0]
    if port.dtype not in {"float32", "float16", "uint8"}:
        raise BadCard(f"{path}: takes {port}; export it for float32, float16 or uint8")
    if len(port.shape) != 4:
        raise BadCard(f"{path}: takes {port}; a batch of pictures has four dimensions: export it with them")
    channels, channels_last = _channels(path, port)
    rows, cols = port.shape[1:3] if channels_last else port.shape[2:4]
    scores = tuple(out for out in session.outputs if _is_score(out))
    maps = tuple(out for out in session.outputs if len(out.shape) == 4 and out not in scores)
    if not scores and not maps:
        given = "; ".join(map(str, session.outputs))
        raise BadCard(f"{path}: gives {given}; a node needs one number for each label, or a mask of each")
    return Graph(path, file, session, port, channels, channels_last, (rows, cols), scores, maps)


def _channels(path: Path, port: Port) -> tuple[int, bool]:
    """Number of channels, and whether they come last."""
    first, last = port.shape[1], port.shape[3]
    if first in {1, 3}:
        return int(first), False
    if last in {1, 3}:
        return int(last), True
    if first is None and last is None:
        raise BadCard(f"{path}: takes {port}, which does not say how many channels; export it with one or three")
    raise BadCard(f"{path}: takes {port}; a node has pictures of one channel, or of three equal ones")


def _is_score(port: Port) -> bool:
    tail = port.shape[2:]
    return port.dtype in {"float32", "float16", "float64"} and len(port.shape) in {1, 2, 4} and all(size == 1 for size in tail)


def steps_for(graph: Graph, rows: int, cols: int, fit: Fit, values: Range) -> Steps:
    """The steps from a grey frame in 0..1 to the tensor of this graph."""
    if fit == "crop":
        steps: Steps = [
            {"step": "resize_short", "parameters": {"size": round(max(rows, cols) * _SHORT_OF)}},
            {"step": "crop_centre", "parameters": {"rows": rows, "cols": cols}},
        ]
    else:
        steps = [{"step": "resize", "parameters": {"rows": rows, "cols": cols, "keep_aspect": fit == "letterbox"}}]
    if values == "standardise":
        steps.append({"step": "standardise"})
    steps.append({"step": "three_channels" if graph.channels == 3 else "add_channel"})
    if values == "imagenet":
        if graph.channels != 3:
            raise BadCard("the values of ImageNet are for three channels; this graph takes one")
        steps.append({"step": "imagenet"})
    elif values == "bytes":
        steps.append({"step": "scale", "parameters": {"factor": 255.0}})
    elif values == "symmetric":
        steps.append({"step": "scale", "parameters": {"factor": 2.0, "offset": -1.0}})
    if graph.channels_last:
        steps.append({"step": "channels_last"})
    return steps


def range_of(graph: Graph) -> Range:
    """What a graph's input suggests about the range of its values."""
    return "bytes" if graph.port.dtype == "uint8" else "imagenet" if graph.channels == 3 else "unit"


def activation_of(graph: Graph, output: str, steps: Steps) -> str:
    """Say what makes an output probabilities: ``none`` where it gives such, else the usual one for so many labels.

    The operator that makes the output tells. Where it does not, answers to four pictures that all lie in 0..1 count as
    probabilities, whatever their sum: should they be logits, one day one lies outside, and the model fails instead of erring.

    Raises
    ------
    BadCard
        The graph does not take what the steps make.
    """
    prepare = chain([(step["step"], step.get("parameters", {})) for step in steps])
    random = np.random.default_rng(0)
    pictures = [to_unit(draw_phantom()), *(random.random((96, 96), dtype=np.float32) for _ in range(3))]
    tensors = np.stack([prepare(picture) for picture in pictures])
    if graph.port.dtype == "uint8":
        tensors = np.rint(np.clip(tensors, 0, 255))
    size = graph.port.shape[0] or 1
    answers = []
    try:
        for tensor in tensors.astype(graph.port.dtype):
            (answer,) = graph.session.run([output], {graph.port.name: np.repeat(tensor[np.newaxis], size, axis=0)})
            answers.append(np.asarray(answer, np.float64).reshape(size, -1)[0])
    except StageFailed as error:
        raise BadCard(f"{graph.path}: does not take the tensor {tensors.shape[1:]} that the steps make: {error}") from error
    found = np.stack(answers)
    if not np.isfinite(found).all():
        raise BadCard(f"{graph.path}: its answers are not finite")
    operator = graph.file.operator(output)
    unit = bool(found.min() >= 0 and found.max() <= 1)
    if operator in _PROBABILITIES or (unit and operator not in _LOGITS):
        return "none"
    return "sigmoid" if output in {port.name for port in graph.maps} or found.shape[1] == 1 else "softmax"


def known_concepts(roots: Sequence[Path]) -> dict[str, dict[str, str]]:
    """The codes of labels of the models in these folders, by their words."""
    found: dict[str, dict[str, str]] = {}
    for root in roots:
        for name in versions(root):
            with contextlib.suppress(ConfigError):
                found |= {label.key: label.concept.model_dump() for label in resolve(root, name).card.labels}
    return found


def concept_for(key: str) -> dict[str, str]:
    """A code for a label by its word: that of SNOMED CT as PS3.16 has it, else a private one."""
    wanted = key.replace("_", "").lower()
    name = next((name for name in dir(codes.SCT) if name.lower() == wanted), None)
    if name is None:
        # Words that are alike in what a Code Value can hold stay apart.
        tail = f"_{hashlib.sha256(key.encode()).hexdigest()[:4]}" if len(key) > _CODE_LENGTH else ""
        value = key.upper()[: _CODE_LENGTH - len(tail)] + tail.upper()
        return {"value": value, "scheme": PRIVATE_SCHEME, "meaning": key.replace("_", " ").capitalize()[:64]}
    code = getattr(codes.SCT, name)
    return {"value": code.value, "scheme": code.scheme_designator, "meaning": code.meaning[:64]}


def put(root: Path, graph: Graph, card: Mapping[str, Any], notes: str) -> ModelFolder:
    """Write a model with everything that belongs to it, and move it to its place when it answers its sample.

    Parameters
    ----------
    card
        A card but for ``file``, ``sha256``, ``data`` and ``sample``.
    notes
        What falls short, for people.

    Raises
    ------
    BadCard
        The card does not hold, or there is such a version already.
    """
    data = [{"file": name, "sha256": digest_of_file(graph.path.parent / name)} for name in graph.file.external]
    keys = [label["key"] for label in card["labels"]]
    sample = {"file": _SAMPLE, "probabilities": dict.fromkeys(keys, 0.0), "tolerance": _TOLERANCE}
    found = {"file": _ONNX, "sha256": digest_of_file(graph.path), "data": data, "sample": sample}
    try:
        draft = Card.model_validate({**card, **found})
    except ValidationError as error:
        raise BadCard(f"the card does not hold: {faults_of(error)}") from None
    with _place(root, draft.name, draft.version) as folder:
        for source, name in ((graph.path.name, _ONNX), *((name, name) for name in graph.file.external)):
            shutil.copyfile(graph.path.parent / source, folder / name)
        cv2.imwrite(str(folder / _SAMPLE), draw_phantom())
        answer = Model(ModelFolder(draft, folder)).probabilities(to_unit(draw_phantom()))
        right = draft.sample.model_copy(update={"probabilities": {key: round(value, 4) for key, value in answer.items()}})
        whole = write_card(draft.model_copy(update={"sample": right}), folder)
        write_model_card(whole, folder, "# Figures\n\nNobody has measured it here: `dicomnode evaluate` does.", notes)
        Model(ModelFolder(whole, folder)).check_sample()
    return ModelFolder(whole, root / whole.name / whole.version)


def copy(root: Path, source: Path) -> Folder:
    """Copy a model that has a card, as `dicomnode train` makes it, when it answers its sample; raises as `put` does."""
    card = load_any(source / "card.toml")
    with _place(root, card.name, card.version) as folder:
        for file in sorted(path for path in source.iterdir() if path.is_file()):
            shutil.copyfile(file, folder / file.name)
        copied = folder_of(folder)
        match copied:
            case TextFolder():
                TextModel(copied).check_sample()
            case ReaderFolder():
                Letters(copied).check_sample()
            case _:
                Model(copied).check_sample()
    return replace(copied, path=root / card.name / card.version)


@contextlib.contextmanager
def _place(root: Path, name: str, version: str) -> Iterator[Path]:
    """A folder to write into, out of sight; what stands in it at the end becomes the version at once."""
    target = root / name / version
    if target.exists():
        raise BadCard(f"{target}: is there already, and a version never changes; give it another number by --model-version")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=root) as draft:
        folder = Path(draft) / name / version
        folder.mkdir(parents=True)
        yield folder
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)


def next_version(known: Sequence[str]) -> str:
    """The number of a further version: the minor one counted up from the newest, which stands first."""
    if not known:
        return "1.0.0"
    major, minor, _ = known[0].split(".")
    return f"{major}.{int(minor) + 1}.0"

"""Model cards: what a model in models/<name>/<version>/ reads, answers, may be used for, and proves itself with.

**Way** `load_card` reads one card.toml, checks it against its folder and against the digest of its ONNX file, and
gives a frozen `Card`; `find_models` says which models a folder holds. The node starts with no model whose card does
not hold.

**Fails** `MissingModel` (no card, no ONNX file, no sample), `DigestMismatch`, `BadCard`; each message names the file,
and the key where one is at fault.

**Standard** Labels and algorithm family are coded concepts (PS3.3 8.8; CID 4031, CID 7162 of PS3.16), so that a
report can carry them.

**Limits** A card says which preprocessing steps it wants by name; whether they exist is known where they run
(`stages/infer.py`). Networks that find or read text have cards of another kind (`text_cards`).
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dicomnode.errors import BadCard, DigestMismatch, MissingModel
from dicomnode.records import UNCERTAIN, Code

#: Tasks of networks that find text and that read it; their cards are in `text_cards`, and no route can name them.
TEXT, READING = TEXT_TASKS = ("text", "reading")
# Who mends what is found.
_MAKER = "who made the model mends its card, or goes back to an older version by NAME@VERSION"
_COPY = "copy this version anew from where it came, all of its files"


def _file_name(value: str) -> str:
    if Path(value).name != value or value in {".", ".."}:
        raise ValueError("names a file in the card's own folder, without a path")
    return value


FileName = Annotated[str, AfterValidator(_file_name)]
Probability = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]
#: A label or body part: what routes, logs, rows and commands call it.
Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Concept(_Part):
    """A coded concept (PS3.3 8.8)."""

    value: str = Field(min_length=1, max_length=16, description="Code Value (0008,0100).")
    scheme: str = Field(
        min_length=1, max_length=16, description="Coding Scheme Designator (0008,0102), such as SCT or DCM."
    )
    meaning: str = Field(min_length=1, max_length=64, description="Code Meaning (0008,0104).")

    def code(self) -> Code:
        """The same as a record."""
        return Code(self.value, self.scheme, self.meaning)


class PreprocessStep(_Part):
    """One step from the decoded frame to the tensor."""

    step: str = Field(description="Name in the table STEPS of stages/preprocess.py.")
    parameters: dict[str, bool | int | float] = Field(default_factory=dict, description="Its parameters by name.")


class Input(_Part):
    """``[input]``: what the network reads."""

    name: str = Field(min_length=1, description="Name of the input in the ONNX graph.")
    shape: tuple[Size, Size, Size] = Field(
        description="Channels, rows, columns of one image, or as the last step of preprocess makes it; the batch comes before."
    )
    dtype: Literal["float32", "float16", "uint8"] = Field(description="Type of the tensor; uint8 is rounded to 0..255.")
    preprocess: tuple[PreprocessStep, ...] = Field(
        min_length=1, description="Steps from a grey frame in 0..1 (low = dark) to the tensor, in order."
    )


class OutputSpec(_Part):
    """``[output]``: what the network answers."""

    name: str = Field(min_length=1, description="Name of the output in the ONNX graph: logits, one per label.")
    activation: Literal["softmax", "sigmoid", "none"] = Field(
        description="softmax: exactly one label holds; sigmoid: any number; none: the graph gives probabilities itself."
    )
    temperature: float = Field(
        1.0, gt=0, description="Logits are divided by this first; fitted on the validation split."
    )
    pool: Literal["max"] | None = Field(
        None, description="max: the output is a mask of `[[maps]]`, and its largest pixel is the label's probability."
    )
    certain_from: Probability | None = Field(
        None, description="Router: an answer below this probability is uncertain; chosen on the validation split."
    )

    @model_validator(mode="after")
    def _temperature_needs_logits(self) -> Self:
        if self.activation == "none" and self.temperature != 1:
            raise ValueError("temperature: what the graph gives as probabilities has none")
        return self


class MapSpec(_Part):
    """``[[maps]]``: a second output that says where, over the area of the network's input tensor."""

    output: str = Field(min_length=1, description="Name of the output in the ONNX graph: float32 (n, labels, rows, cols).")
    kind: Literal["heat", "mask"] = Field(
        description="heat: evidence, any number, 0 and below is none; mask: probability of each pixel, 0..1."
    )
    labels: tuple[Word, ...] = Field(min_length=1, description="Keys of the labels that the channels are for, in order.")
    threshold: Probability | None = Field(None, description="mask: a pixel belongs to the label from this probability.")
    activation: Literal["sigmoid", "none"] = Field(
        "none", description="mask: sigmoid where the graph gives logits; none: it gives probabilities."
    )

    @model_validator(mode="after")
    def _threshold_goes_with_mask(self) -> Self:
        if (self.kind == "mask") != (self.threshold is not None):
            raise ValueError("threshold stands exactly where kind = mask")
        if self.kind == "heat" and self.activation != "none":
            raise ValueError("activation: evidence has none; only a mask has")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: a key stands twice")
        return self


class Network(_Part):
    """``[network]``: how training built the network, so that it can go on from these weights."""

    arch: str = Field(min_length=1, description="Architecture, as `dicomnode train --arch` calls it.")
    width: float = Field(1.0, gt=0, description="Width multiplier.")


class Label(_Part):
    """``[[labels]]``: one answer, in the order of the output."""

    key: Word = Field(description="The word that routes, logs and commands use.")
    meaning: str = Field(min_length=1, description="What it means, for people.")
    concept: Concept = Field(description="Coded concept for reports.")
    abnormal: bool = Field(False, description="Whether this label is something that a person should look at.")
    threshold: Probability | None = Field(
        None, description="An abnormal label is reported abnormal from this probability."
    )

    @model_validator(mode="after")
    def _threshold_goes_with_abnormal(self) -> Self:
        if self.abnormal != (self.threshold is not None):
            raise ValueError("threshold stands exactly where abnormal = true")
        return self


class Licence(_Part):
    """``[licence]``: the terms of the weights."""

    identifier: str = Field(min_length=1, description="SPDX identifier, such as CC-BY-4.0.")
    reason: str = Field(min_length=1, description="Why these terms: which data or code bring them.")


class TrainingData(_Part):
    """``[[training_data]]``: one source of pictures."""

    source: str = Field(min_length=1, description="Where the pictures come from.")
    licence: str = Field(min_length=1, description="Terms of the pictures, with whom to name.")
    pictures: int | None = Field(None, ge=1, description="Number learned from; absent where the maker does not say.")


class SampleFile(_Part):
    """``[sample]``: a picture made by program."""

    file: FileName = Field(description="Grey PNG in the card's folder; nobody's image.")
    tolerance: float = Field(gt=0, le=0.1, description="Largest difference that still passes.")


class Sample(SampleFile):
    """``[sample]``: a picture made by program with the answer that this model gave for it."""

    probabilities: dict[str, Probability] = Field(description="Expected probability per label.")


class DataFile(_Part):
    """``[[data]]``: a file beside the ONNX file that holds weights of it (external data)."""

    file: FileName = Field(description="File in the card's folder, as the ONNX file names it.")
    sha256: Digest = Field(description="SHA-256 of the file.")


class AnyCard(_Part):
    """What every card says, whatever its model is for."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="Name that routes use; equals the folder's.")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$", description="Version; equals the folder's.")
    task: str = Field(description="What the model is for; says which keys follow.")
    file: FileName = Field(description="ONNX file in the card's folder.")
    sha256: Digest = Field(description="SHA-256 of the ONNX file.")
    data: tuple[DataFile, ...] = Field((), description="Files beside it that hold its weights, where it is in several.")
    intended_use: str = Field(min_length=1, description="What it may be used for, and what not.")
    licence: Licence = Field(description="Terms of the weights.")
    training_data: tuple[TrainingData, ...] = Field(min_length=1, description="What it learned from.")
    figures: dict[str, dict[str, int | float | str]] = Field(
        default_factory=dict, description="Measured numbers by split, such as [figures.test]."
    )
    sample: SampleFile = Field(description="A picture and the answer to it, checked at start.")

    @property
    def reference(self) -> str:
        """The model as routes may name this very version: ``name@version``."""
        return f"{self.name}@{self.version}"


class Card(AnyCard):
    """The card of a model that answers with labels; one that exists agrees with itself."""

    task: Literal["router", "findings"] = Field(description="router: says the body part; findings: says what is seen.")
    body_parts: tuple[Word, ...] = Field(min_length=1, description="Body parts that the model is for.")
    algorithm: Concept = Field(description="Algorithm family for reports (CID 7162), such as 123110 DCM.")
    input: Input = Field(description="What the network reads.")
    output: OutputSpec = Field(description="What the network answers.")
    labels: tuple[Label, ...] = Field(min_length=1, description="The answers, in the order of the output.")
    maps: tuple[MapSpec, ...] = Field((), description="Outputs that say where: heat maps and masks.")
    network: Network | None = Field(None, description="How training built it; absent for a model made elsewhere.")
    sample: Sample = Field(description="A picture and the answer to it, checked at start.")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        keys = [label.key for label in self.labels]
        if len(set(keys)) != len(keys):
            raise ValueError("labels: a key stands twice")
        if set(self.sample.probabilities) != set(keys):
            raise ValueError("sample.probabilities: needs exactly one number per label")
        if self.task == "router" and UNCERTAIN in keys:
            raise ValueError(f"labels: {UNCERTAIN!r} is what the node says when the router cannot tell; no label is called so")
        if self.task != "router" and self.output.certain_from is not None:
            raise ValueError("output.certain_from: only a router has it; findings have a threshold for each label")
        for spec in self.maps:
            if strange := [key for key in spec.labels if key not in keys]:
                raise ValueError(f"maps: {spec.output}: no label of this card: {', '.join(strange)}")
        outputs = [spec.output for spec in self.maps]
        if self.output.pool:
            own = next((spec for spec in self.maps if spec.output == self.output.name), None)
            if own is None or own.kind != "mask" or list(own.labels) != keys or self.output.activation != "none":
                raise ValueError("output.pool: needs activation = none, and in [[maps]] a mask of this output for all labels")
        else:
            outputs.append(self.output.name)
        if len(set(outputs)) != len(outputs):
            raise ValueError("maps: an output of the graph stands twice")
        return self


#: A kind of card.
AnyKind = TypeVar("AnyKind", bound=AnyCard)


@dataclass(frozen=True, slots=True)
class AnyFolder:
    """A card that holds, and where it lies."""

    card: AnyCard
    path: Path

    @property
    def onnx(self) -> Path:
        """The ONNX file."""
        return self.path / self.card.file

    @property
    def sample(self) -> Path:
        """The sample picture."""
        return self.path / self.card.sample.file


@dataclass(frozen=True, slots=True)
class ModelFolder(AnyFolder):
    """The card of a model that answers with labels, and where it lies."""

    card: Card


def load_card(path: Path) -> Card:
    """Read the card.toml of a model that answers with labels, and check it as `hold` does."""
    table = read_table(path)
    if table.get("task") in TEXT_TASKS:
        does = "finds text in frames" if table["task"] == TEXT else "reads lines of text"
        raise BadCard(f"{path}: task: it {does}; what is asked for here says a body part or a finding")
    return hold(path, table, Card)


def read_table(path: Path) -> Mapping[str, Any]:
    """Read a card.toml as it stands; raises `MissingModel` or `BadCard`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingModel(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadCard(f"{path}: {error}") from error


def hold(path: Path, table: Mapping[str, Any], kind: type[AnyKind]) -> AnyKind:
    """Make a card of its table and check it against its folder and the ONNX file beside it.

    Parameters
    ----------
    path
        ``.../<name>/<version>/card.toml``.

    Raises
    ------
    MissingModel
        The card, the ONNX file or the sample is not there.
    BadCard
        The card is no TOML, has an unknown, missing or contradicting key, or lies in a folder of another name or
        version.
    DigestMismatch
        The ONNX file is not the one that the card describes.
    """
    try:
        card = kind.model_validate(table)
    except ValidationError as error:
        raise BadCard(f"{path}: {faults_of(error)}; {_MAKER}") from error
    folder = path.resolve().parent
    for key, said, is_called in (("name", card.name, folder.parent.name), ("version", card.version, folder.name)):
        if said != is_called:
            raise BadCard(f"{path}: {key}: {said!r}, but the folder is called {is_called!r}; `dicomnode models add` copies it")
    data = [(item.file, item.sha256) for item in card.data]
    for key, file in (("file", card.file), ("sample.file", card.sample.file), *(("data.file", file) for file, _ in data)):
        if not (folder / file).is_file():
            raise MissingModel(f"{path}: {key}: {file} is not in the folder; {_COPY}")
    for key, file, said in (("sha256", card.file, card.sha256), *(("data.sha256", *item) for item in data)):
        if (digest := digest_of_file(folder / file)) != said:
            raise DigestMismatch(f"{path}: {key}: {file} has the digest {digest}; {_COPY}")
    return card


def faults_of(error: ValidationError) -> str:
    """What is wrong with a card, each fault with its key."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors())


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; raises `MissingModel` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MissingModel(f"{path}: cannot be read: {error.strerror}") from None


def find_models(root: Path) -> Mapping[str, ModelFolder]:
    """Load the newest version of every model under ``root`` that answers with labels, by name.

    A folder counts as a version when it is named ``<number>.<number>.<number>`` and holds a card.toml; every one of
    the newest is checked as `load_card` does.

    Raises
    ------
    MissingModel
        ``root`` is no folder.
    ConfigError
        A newest version does not hold.
    """
    if not root.is_dir():
        raise MissingModel(f"{root}: is no folder of models")
    newest: dict[str, tuple[tuple[int, ...], Path]] = {}
    for path in sorted(root.glob("*/*/card.toml")):
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name):
            found = tuple(map(int, path.parent.name.split("."))), path
            name = path.parent.parent.name
            newest[name] = max(newest.get(name, found), found)
    return {
        name: ModelFolder(load_card(path), path.parent)
        for name, (_, path) in newest.items() if read_table(path).get("task") not in TEXT_TASKS
    }

"""Cards of the networks of redaction: one looks quickly for text, one draws the cores of lines, one reads them.

**Way** `load_text_card` reads a card.toml whose task is ``text``, `load_reader_card` one whose task is ``reading``, `load_any`
one of any task; all check it against its folder and its ONNX file as `cards.hold` does. Redaction reads them, routes never do.

**Fails** As `cards.load_card`.

**Limits** Such a network takes the three views of `stages.redact.views`, or a line cut out of them, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from dicomnode.cards import (
    READING,
    TEXT,
    AnyCard,
    AnyFolder,
    Card,
    ModelFolder,
    Probability,
    SampleFile,
    hold,
    load_card,
    read_table,
)
from dicomnode.errors import BadCard

#: Rows and columns of the answer to a sample, as means over equal parts of what the network gave.
GRID = 8
_Row = Annotated[tuple[Probability, ...], Field(min_length=GRID, max_length=GRID)]


class TextSample(SampleFile):
    """``[sample]``: a picture made by program with the answer that this network gave to it."""

    answer: tuple[_Row, ...] = Field(
        min_length=GRID, max_length=GRID, description="Mean answer over each of 8 x 8 equal parts of the picture, by rows."
    )


class TextCard(AnyCard):
    """The card of a network that finds text."""

    task: Literal["text"] = Field(description="text: says where in a frame text is.")
    input: str = Field(min_length=1, description="Input of the graph: float32 (n, 3, rows, columns), views in 0..1.")
    output: str = Field(min_length=1, description="Output of the graph: float32 (n, 1, rows / step, columns / step), 0..1.")
    step: Literal[2, 16] = Field(description="Pixels for one value of the answer: 2 draws cores of lines, 16 is a gate.")
    threshold: Probability = Field(description="A value counts as text from here; the figures of val were measured with it.")
    sample: TextSample = Field(description="A picture and the answer to it, checked at start.")


class ReaderSample(SampleFile):
    """``[sample]``: a line of text made by program with what this network reads in it."""

    text: str = Field(description="What it reads, to the letter.")
    confidence: Probability = Field(description="How sure it is of that: the mean over the words.")


class ReaderCard(AnyCard):
    """The card of a network that reads a line of text."""

    task: Literal["reading"] = Field(description="reading: says what stands in a line that was cut out of a frame.")
    input: str = Field(min_length=1, description="Input of the graph: float32 (n, 3, height, columns), a line in 0..1.")
    output: str = Field(
        min_length=1, description="Output of the graph: float32 (n, 1 + letters, columns / step), 0..1; the first is none."
    )
    height: Literal[32] = Field(description="Rows that a line is brought to.")
    step: Literal[4] = Field(description="Columns for one answer along the line.")
    alphabet: str = Field(min_length=1, description="The letters, in the order of the output.")
    sample: ReaderSample = Field(description="A line and the answer to it, checked at start.")


@dataclass(frozen=True, slots=True)
class TextFolder(AnyFolder):
    """The card of a network that finds text, and where it lies."""

    card: TextCard


@dataclass(frozen=True, slots=True)
class ReaderFolder(AnyFolder):
    """The card of a network that reads lines, and where it lies."""

    card: ReaderCard


def load_text_card(path: Path) -> TextCard:
    """Read the card.toml of a network that finds text, and check it."""
    table = read_table(path)
    if table.get("task") != TEXT:
        raise BadCard(f"{path}: task: it is no network that finds text (task = {TEXT})")
    return hold(path, table, TextCard)


def load_reader_card(path: Path) -> ReaderCard:
    """Read the card.toml of a network that reads lines, and check it."""
    table = read_table(path)
    if table.get("task") != READING:
        raise BadCard(f"{path}: task: it is no network that reads lines (task = {READING})")
    return hold(path, table, ReaderCard)


def load_any(path: Path) -> Card | TextCard | ReaderCard:
    """Read a card.toml of whatever task, and check it."""
    match read_table(path).get("task"):
        case "text":
            return load_text_card(path)
        case "reading":
            return load_reader_card(path)
        case _:
            return load_card(path)


#: A model of whatever task, and where it lies.
Folder: TypeAlias = ModelFolder | TextFolder | ReaderFolder


def folder_of(path: Path) -> Folder:
    """Give the model in a folder, its card checked."""
    match load_any(path / "card.toml"):
        case TextCard() as card:
            return TextFolder(card, path)
        case ReaderCard() as card:
            return ReaderFolder(card, path)
        case card:
            return ModelFolder(card, path)

"""Cards of networks that find text in frames: one that looks quickly, one that draws the cores of lines.

**Way** `load_text_card` reads a card.toml whose task is ``text``, `load_any` one of any task; both check it against its folder
and its ONNX file as `cards.hold` does. Redaction reads them, routes never do.

**Fails** As `cards.load_card`.

**Limits** Such a network takes the three views of `stages.redact.views` and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dicomnode.cards import TEXT, AnyCard, AnyFolder, Card, ModelFolder, Probability, SampleFile, hold, load_card, read_table
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


@dataclass(frozen=True, slots=True)
class TextFolder(AnyFolder):
    """The card of a network that finds text, and where it lies."""

    card: TextCard


def load_text_card(path: Path) -> TextCard:
    """Read the card.toml of a network that finds text, and check it."""
    table = read_table(path)
    if table.get("task") != TEXT:
        raise BadCard(f"{path}: task: it is no network that finds text (task = {TEXT})")
    return hold(path, table, TextCard)


def load_any(path: Path) -> Card | TextCard:
    """Read a card.toml of whatever task, and check it."""
    return load_text_card(path) if read_table(path).get("task") == TEXT else load_card(path)


def folder_of(path: Path) -> ModelFolder | TextFolder:
    """Give the model in a folder, its card checked."""
    card = load_any(path / "card.toml")
    return TextFolder(card, path) if isinstance(card, TextCard) else ModelFolder(card, path)

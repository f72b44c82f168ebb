"""Write a taught detector, gate or reader into the model repository: ONNX, card.toml, MODEL_CARD.md and a sample.

**Way** Weights are rounded to what the file stores, the graph is written, opened by the node's own `TextModel` or `Letters`,
and held against the network on pieces as it has learned from; only then the card is written, with its answer to a sample.

**Fails** `BadCard` when graph and network differ, or the card does not hold.

**Limits** The figures were measured before rounding, which moves single answers in the third place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.carding import (
    draw_line_sample,
    draw_text_sample,
    write_reader_card,
    write_reader_model_card,
    write_text_card,
    write_text_model_card,
)
from dicomnode.cards import READING, TEXT
from dicomnode.errors import BadCard
from dicomnode.stages.redact.letters import ALPHABET, Letters
from dicomnode.stages.redact.model import TextModel
from dicomnode.stages.redact.slip import HEIGHT, STEP
from dicomnode.text_cards import GRID, ReaderCard, ReaderFolder, TextCard, TextFolder
from dicomnode.training.graph import round_weights, write_graph
from dicomnode.training.text.network import Answer, Detector, Gate, Reader, Said
from dicomnode.training.text.targets import CELL, CORE_STEP
from dicomnode.training.text.trial import CELL_FROM, CORE_FROM

_INPUT = "views"
_SLIPS, _LETTERS = "slips", "letters"
#: Largest difference of an answer between the graph and the network.
_AGREE = 1e-3
_TOLERANCE = 0.02


def export_text(network: Detector | Gate, about: Mapping[str, Any], folder: Path, pieces: torch.Tensor, notes: str) -> TextCard:
    """Put a network into its folder with its card; its own weights are rounded.

    Parameters
    ----------
    about
        The keys of the card that are not of the graph or the sample.
    folder
        ``models/<name>/<version>``.
    pieces
        (n, 3, side, side) uint8, views that graph and network are compared on.

    Raises
    ------
    BadCard
        The ONNX file answers otherwise than the network, or the card does not hold.
    """
    round_weights(network)
    asked = Answer(network).eval()
    detects = isinstance(network, Detector)
    output, step, threshold = ("cores", CORE_STEP, CORE_FROM) if detects else ("text", CELL, CELL_FROM)
    folder.mkdir(parents=True, exist_ok=True)
    digest = write_graph(
        asked.cpu(), folder / "model.onnx",
        (_INPUT, ["n", 3, "rows", "columns"]), (output, ["n", 1, f"rows/{step}", f"columns/{step}"]),
    )  # fmt: skip
    cv2.imwrite(str(folder / "sample.png"), draw_text_sample())
    empty = [[0.0] * GRID for _ in range(GRID)]
    card = TextCard.model_validate({
        **about, "name": folder.parent.name, "version": folder.name, "task": TEXT, "file": "model.onnx", "sha256": digest,
        "input": _INPUT, "output": output, "step": step, "threshold": threshold,
        "sample": {"file": "sample.png", "answer": empty, "tolerance": _TOLERANCE},
    })
    model = TextModel(TextFolder(card, folder))
    with torch.inference_mode():
        expected = asked(pieces.float() / 255)[:, 0].numpy()
    for piece, wanted in zip(pieces.numpy(), expected, strict=True):
        off = float(np.abs(model.answer(piece.transpose(1, 2, 0)) - wanted).max())
        if off > _AGREE:
            raise BadCard(f"{folder / card.file}: answers differ from the network's by {off:.5f}")
    answer = [[round(value, 4) for value in row] for row in model.sample_answer()]
    found = {**card.model_dump(), "sample": {**card.sample.model_dump(), "answer": answer}}
    card = write_text_card(TextCard.model_validate(found), folder)
    write_text_model_card(card, folder, notes)
    TextModel(TextFolder(card, folder)).check_sample()
    return card


def export_reader(
    network: Reader, about: Mapping[str, Any], folder: Path, slips: Sequence[NDArray[np.uint8]], notes: str,
) -> ReaderCard:
    """Put a network that reads lines into its folder with its card; else as `export_text`.

    Parameters
    ----------
    slips
        Lines, each (HEIGHT, cols, 3), that graph and network are compared on.
    """
    round_weights(network)
    asked = Said(network).eval().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    digest = write_graph(
        asked, folder / "model.onnx",
        (_SLIPS, ["n", 3, HEIGHT, "columns"]), (_LETTERS, ["n", len(ALPHABET) + 1, f"columns/{STEP}"]),
    )  # fmt: skip
    cv2.imwrite(str(folder / "sample.png"), draw_line_sample())
    card = ReaderCard.model_validate({
        **about, "name": folder.parent.name, "version": folder.name, "task": READING, "file": "model.onnx", "sha256": digest,
        "input": _SLIPS, "output": _LETTERS, "height": HEIGHT, "step": STEP, "alphabet": ALPHABET,
        "sample": {"file": "sample.png", "text": "?", "confidence": 0.0, "tolerance": _TOLERANCE},
    })
    letters = Letters(ReaderFolder(card, folder))
    for line in slips:
        with torch.inference_mode():
            wanted = asked(torch.from_numpy(line.transpose(2, 0, 1)[None].copy()).float() / 255)[0].numpy()
        off = float(np.abs(letters.answer(line) - wanted).max())
        if off > _AGREE:
            raise BadCard(f"{folder / card.file}: answers differ from the network's by {off:.5f}")
    text, sure = letters.sample_answer()
    # One that was hardly taught reads nothing; its card says so.
    found = {**card.model_dump(), "sample": {**card.sample.model_dump(), "text": text, "confidence": round(sure, 4)}}
    card = write_reader_card(ReaderCard.model_validate(found), folder)
    write_reader_model_card(card, folder, notes)
    Letters(ReaderFolder(card, folder)).check_sample()
    return card

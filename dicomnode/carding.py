"""Write what stands in a model's folder beside its ONNX file: card.toml, MODEL_CARD.md and the sample picture.

**Way** `write_card` writes a `Card` as TOML and reads it back, so that what stands there is what was meant; `draw_phantom`
draws the sample, a picture that shows nobody.

**Fails** As `load_card`: what was written does not hold.

**Limits** Comments of a card that was written by hand are not kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.cards import AnyCard, Card, load_card
from dicomnode.text_cards import ReaderCard, TextCard, load_reader_card, load_text_card


def draw_phantom() -> NDArray[np.uint8]:
    """Draw a trunk of ellipses, 224 rows by 192 columns, 8 bit: nobody's image, the same on every machine."""
    picture = np.full((224, 192), 12, dtype=np.uint8)
    cv2.ellipse(picture, (96, 120), (80, 100), 0, 0, 360, 150, -1)
    for side in (-1, 1):
        cv2.ellipse(picture, (96 + side * 38, 104), (26, 62), side * 6, 0, 360, 60, -1)
    for row in range(52, 168, 16):
        cv2.ellipse(picture, (96, row + 10), (66, 16), 0, 200, 340, 110, 3)
    cv2.rectangle(picture, (89, 24), (103, 214), 205, -1)
    cv2.ellipse(picture, (108, 132), (30, 26), 20, 0, 360, 185, -1)
    return np.asarray(cv2.GaussianBlur(picture, (5, 5), 1.2), dtype=np.uint8)


def draw_text_sample() -> NDArray[np.uint8]:
    """Draw the phantom with made-up lines beside and above it, 256 rows by 256 columns, 8 bit."""
    picture = np.full((256, 256), 12, dtype=np.uint8)
    picture[32:, 64:] = draw_phantom()
    lines = (("SAMPLE 0123", (8, 24), 0.7, 255), ("no one", (4, 120), 0.4, 160), ("L", (226, 236), 0.9, 240))
    for text, place, scale, tone in lines:
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, tone, 1, cv2.LINE_AA)
    return picture


def draw_line_sample() -> NDArray[np.uint8]:
    """Draw one made-up line on a ramp, 32 rows by 256 columns, 8 bit."""
    picture = np.tile(np.linspace(20, 90, 256).astype(np.uint8), (32, 1))
    cv2.putText(picture, "SAMPLE 0123, no one", (6, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.75, 230, 1, cv2.LINE_AA)
    return picture


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are the same in both


def _toml(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines of a TOML table: its own values, then its tables and lists of tables."""
    nested = {key: value for key, value in table.items() if _is_table(value, prefix)}
    lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in table.items() if key not in nested]
    for key, value in nested.items():
        many = isinstance(value, list | tuple)
        path = f"{prefix}{_toml_key(key)}"
        head = f"[[{path}]]" if many else f"[{path}]"
        for item in value if many else (value,):
            inner = _toml(item, f"{path}.")
            lines += ["", head, *inner] if many or inner[:1] != [""] else inner  # a table of tables needs no heading
    return lines


def _is_table(value: Any, prefix: str) -> bool:
    """Whether a value gets a heading of its own; small tables inside others stay on one line."""
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Mapping)
    return isinstance(value, Mapping) and prefix in {"", "figures."}


def write_card(card: Card, folder: Path) -> Card:
    """Write card.toml into the model's folder and read it back; raises what `load_card` raises."""
    _write(card, folder)
    return load_card(folder / "card.toml")


def write_text_card(card: TextCard, folder: Path) -> TextCard:
    """Write the card.toml of a network that finds text and read it back; raises what `load_text_card` raises."""
    _write(card, folder)
    return load_text_card(folder / "card.toml")


def write_reader_card(card: ReaderCard, folder: Path) -> ReaderCard:
    """Write the card.toml of a network that reads lines and read it back; raises what `load_reader_card` raises."""
    _write(card, folder)
    return load_reader_card(folder / "card.toml")


def _write(card: AnyCard, folder: Path) -> None:
    lines = _toml(card.model_dump(mode="json", exclude_none=True))
    (folder / "card.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_model_card(card: Card, folder: Path, evaluation: str, notes: str) -> None:
    """Write MODEL_CARD.md, the card for people: use, terms, data, figures (Markdown of `evaluate`) and what falls
    short.
    """
    labels = [
        f"| {label.key} | {label.meaning} | {label.concept.value} {label.concept.scheme} |" for label in card.labels
    ]
    answers = ["| label | meaning | coded concept |", "|---|---|---|", *labels]
    _write_for_people(card, folder, answers, notes, evaluation.replace("\n## ", "\n### ").replace("# ", "## ", 1).rstrip())


def write_text_model_card(card: TextCard, folder: Path, notes: str) -> None:
    """Write MODEL_CARD.md of a network that finds text; the figures are those of the card."""
    answers = [
        f"One number in 0..1 for each {card.step} x {card.step} pixels of a frame, from three renderings of it: the full range",
        f"of its stored values, as displayed, and locally normalised. It counts as text from {card.threshold:g}.",
    ]
    _write_for_people(card, folder, answers, notes, _figures(card))


def write_reader_model_card(card: ReaderCard, folder: Path, notes: str) -> None:
    """Write MODEL_CARD.md of a network that reads lines; the figures are those of the card."""
    answers = [
        f"For each {card.step} columns of a line brought to {card.height} rows: the probability of each of",
        f"{len(card.alphabet)} letters, digits and marks, and of none. Runs of one letter count once (connectionist temporal",
        "classification).",
    ]
    _write_for_people(card, folder, answers, notes, _figures(card))


def _figures(card: AnyCard) -> str:
    found = []
    for name, table in card.figures.items():
        rows = [f"| {key} | {value} |" for key, value in table.items()]
        found += [f"## Figures: {name}", "", "| figure | value |", "|---|---|", *rows, ""]
    return "\n".join(found).rstrip()


def _write_for_people(card: AnyCard, folder: Path, answers: list[str], notes: str, figures: str) -> None:
    data = [f"| {item.source} | {item.pictures or 'not said'} | {item.licence} |" for item in card.training_data]
    text = [
        f"# {card.name} {card.version}", "",
        card.intended_use, "",
        "## Terms of the weights", "", f"{card.licence.identifier}. {card.licence.reason}", "",
        "## Answers", "", *answers, "",
        "## Learned from", "", "| source | pictures | terms and whom to name |", "|---|---|---|", *data, "",
        "## What falls short", "", notes, "",
        figures,
    ]  # fmt: skip
    (folder / "MODEL_CARD.md").write_text("\n".join(text) + "\n", encoding="utf-8")

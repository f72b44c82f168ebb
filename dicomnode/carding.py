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

from dicomnode.cards import Card, load_card


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
    lines = _toml(card.model_dump(mode="json", exclude_none=True))
    (folder / "card.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_card(folder / "card.toml")


def write_model_card(card: Card, folder: Path, evaluation: str, notes: str) -> None:
    """Write MODEL_CARD.md, the card for people: use, terms, data, figures (Markdown of `evaluate`) and what falls
    short.
    """
    data = [f"| {item.source} | {item.pictures or 'not said'} | {item.licence} |" for item in card.training_data]
    labels = [
        f"| {label.key} | {label.meaning} | {label.concept.value} {label.concept.scheme} |" for label in card.labels
    ]
    text = [
        f"# {card.name} {card.version}", "",
        card.intended_use, "",
        "## Terms of the weights", "", f"{card.licence.identifier}. {card.licence.reason}", "",
        "## Answers", "", "| label | meaning | coded concept |", "|---|---|---|", *labels, "",
        "## Learned from", "", "| source | pictures | terms and whom to name |", "|---|---|---|", *data, "",
        "## What falls short", "", notes, "",
        evaluation.replace("\n## ", "\n### ").replace("# ", "## ", 1).rstrip(),
    ]  # fmt: skip
    (folder / "MODEL_CARD.md").write_text("\n".join(text) + "\n", encoding="utf-8")

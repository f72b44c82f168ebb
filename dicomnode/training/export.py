"""Write a taught network into the model repository: ONNX, card.toml, MODEL_CARD.md and a sample.

**Way** The network goes to ONNX, is opened by the node's own `Model`, and its answers are compared with torch's; only
then the card is written, with the answer to a phantom that this module draws. A card read back by `load_card` is the
last step.

**Fails** `BadCard` when ONNX and torch differ, or the card does not hold.

**Limits** One input with one channel, logits and class activation maps out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dicomnode.cards import Card, MapSpec, ModelFolder, Sample, load_card
from dicomnode.errors import BadCard
from dicomnode.stages.infer import Model
from dicomnode.stages.preprocess import to_unit
from dicomnode.training.graph import MAPS, write_onnx
from dicomnode.training.networks import Classifier

_AGREE = 1e-3  # logits; float32 sums in another order differ in the fifth place
_SAMPLE_TOLERANCE = 0.01


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


def export_model(network: Classifier, card: Card, folder: Path) -> Card:
    """Put a network whose weights are rounded into its folder and complete its card with digest, maps and sample.

    Parameters
    ----------
    card
        Everything but ``sha256``, ``maps`` and ``sample``, whose values are replaced.
    folder
        ``models/<name>/<version>``.

    Raises
    ------
    BadCard
        The ONNX file answers otherwise than the network, or the card does not hold.
    """
    digest = write_onnx(network, folder / card.file, card.input.shape)
    cv2.imwrite(str(folder / card.sample.file), draw_phantom())
    maps = MapSpec(output=MAPS, kind="heat", labels=tuple(label.key for label in card.labels), threshold=None)
    card = card.model_copy(update={"sha256": digest, "maps": (maps,)})
    model = Model(ModelFolder(card, folder))
    tensors = np.random.default_rng(0).standard_normal((3, *card.input.shape), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(tensors)).numpy()
    difference = float(np.abs(model.logits(tensors) - expected).max())
    if difference > _AGREE:
        raise BadCard(f"{folder / card.file}: answers differ from the network's by {difference:.5f}")
    probabilities = {key: round(value, 4) for key, value in model.probabilities(to_unit(draw_phantom())).items()}
    sample = Sample(file=card.sample.file, probabilities=probabilities, tolerance=_SAMPLE_TOLERANCE)
    card = write_card(card.model_copy(update={"sample": sample}), folder)
    Model(ModelFolder(card, folder)).check_sample()
    return card


def figures_of(report: Mapping[str, Any]) -> dict[str, dict[str, int | float | str]]:
    """The numbers of `evaluate_model` that stand in a card, by group."""
    figures: dict[str, dict[str, int | float | str]] = {}
    for name, group in report["groups"].items():
        table: dict[str, int | float | str] = {"pictures": group["pictures"]}
        for what in ("precision", "recall", "f1"):
            table |= _rounded(f"macro_{what}", group["macro"][what])
        table |= {f"f1_{key}": round(row["f1"]["value"], 4) for key, row in group["per_class"].items()}
        for key, row in group["abnormal"].items():
            for what in ("auroc", "sensitivity", "specificity"):
                table |= _rounded(f"{what}_{key}", row[what])
        figures[name] = table
    return figures


def _rounded(name: str, figure: Mapping[str, float]) -> dict[str, float]:
    return {
        name: round(figure["value"], 4),
        f"{name}_low": round(figure["low"], 4),
        f"{name}_high": round(figure["high"], 4),
    }


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

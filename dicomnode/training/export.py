"""Write a taught network into the model repository: ONNX, card.toml, MODEL_CARD.md and a sample.

**Way** The network goes to ONNX, is opened by the node's own `Model`, and its answers are compared with torch's; only
then the card is written, with the answer to a phantom (`carding`). A card read back by `load_card` is the
last step.

**Fails** `BadCard` when ONNX and torch differ, or the card does not hold.

**Limits** One input with one channel, logits and class activation maps out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dicomnode.carding import draw_phantom, write_card, write_model_card
from dicomnode.cards import Card, MapSpec, ModelFolder, Sample
from dicomnode.errors import BadCard
from dicomnode.stages.infer import Model
from dicomnode.stages.preprocess import to_unit
from dicomnode.training.graph import MAPS, write_onnx
from dicomnode.training.networks import Classifier

__all__ = ["export_model", "figures_of", "write_card", "write_model_card"]

_AGREE = 1e-3  # logits; float32 sums in another order differ in the fifth place
_SAMPLE_TOLERANCE = 0.01


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

_COVERED = 0.95


def figures_of(report: Mapping[str, Any]) -> dict[str, dict[str, int | float | str]]:
    """The numbers of `evaluate_model` that stand in a card, by group."""
    figures: dict[str, dict[str, int | float | str]] = {}
    for name, group in report["groups"].items():
        table: dict[str, int | float | str] = {"pictures": group["pictures"]}
        for what in ("precision", "recall", "f1"):
            table |= _rounded(f"macro_{what}", group["macro"][what])
        table |= {f"f1_{key}": round(row["f1"]["value"], 4) for key, row in group["per_class"].items()}
        if group["merged"]:
            table |= _rounded("merged_macro_f1", group["merged"]["macro"]["f1"])
        table |= _rounded("ece", group["calibration"]["ece"])
        covered = next(point for point in group["coverage"]["points"] if point["share"] == _COVERED)
        table |= _rounded("macro_f1_at_95_percent_coverage", covered["f1"])
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

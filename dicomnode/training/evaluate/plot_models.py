"""Several models side by side as a picture: macro-F1 with its interval against the time for one picture.

**Fails** Importing this module raises ImportError where matplotlib (the extra ``train``) is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Canvas

from dicomnode.training.evaluate.plots import COLOURS, save


def draw_models(found: Mapping[str, Any], out: Path) -> Path:
    """Write side_by_side.png: a row for each model, a panel for each group; the times stand beside the names."""
    groups = found["groups"]
    models = max(len(group["models"]) for group in groups.values())
    canvas = Canvas(figsize=(7 * len(groups), 1.6 + 0.5 * models), layout="constrained")
    for axes, (name, group) in zip(canvas.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        rows = list(reversed(group["models"]))
        for y, row in enumerate(rows):
            axes.plot([row["f1"]["low"], row["f1"]["high"]], [y, y], color=COLOURS[0], linewidth=1.6)
            axes.plot([row["f1"]["value"]], [y], "o", color=COLOURS[0])
        texts = [f"{row['name']}\n{row['bytes'] / 1e6:.1f} MB, {row['milliseconds']:.1f} ms" for row in rows]
        axes.set_yticks(range(len(rows)), texts, fontsize=8)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_title(f"{name}: {group['pictures']} pictures", fontsize=9)
        axes.set_xlabel("macro-F1 with 95 % interval")
        axes.grid(axis="x", alpha=0.4)
    return save(canvas, out / "side_by_side.png")

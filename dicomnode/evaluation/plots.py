"""The figures of redaction as pictures: what was removed and kept, by each of the groups.

**Fails** Importing this module raises ImportError where matplotlib (the extra ``train``) is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from dicomnode.training.evaluate.plots import COLOURS, save

#: What is drawn; devices, fonts and layouts of a large set would not fit.
_DRAWN = ("size", "contrast", "polarity", "rotation", "what", "in the header", "photometric interpretation", "transfer syntax")
_MOST = 16


def draw(report: Mapping[str, Any], out: Path) -> list[Path]:
    """Write a plot a mode; gives their paths."""
    return [save(_canvas(mode, found), out / f"strings_{mode}.png") for mode, found in report["modes"].items()]


def _canvas(mode: str, found: Mapping[str, Any]) -> Canvas:
    names = [name for name in _DRAWN if found["by"].get(name)]
    heights = [min(_MOST, len(found["by"][name])) + 1 for name in names]
    canvas = Canvas(figsize=(7.5, 0.9 + 0.34 * sum(heights or [1])), layout="constrained")
    canvas.suptitle(f"redaction, {mode}: identifying strings removed (blue), harmless kept (orange)", fontsize=10)
    if names:
        panels = canvas.subplots(len(names), 1, squeeze=False, height_ratios=heights)
        for axes, name in zip(panels[:, 0], names, strict=True):
            _panel(axes, name, dict(list(found["by"][name].items())[:_MOST]))
    return canvas


def _panel(axes: Axes, name: str, groups: Mapping[str, Any]) -> None:
    for shift, colour, mark, kind in ((-0.15, COLOURS[0], "o", "identifying"), (0.15, COLOURS[3], "s", "harmless")):
        for row, one in enumerate(groups.values()):
            share = one[kind]["share"]
            if share is not None:
                reach = [[max(0.0, share["value"] - share["low"])], [max(0.0, share["high"] - share["value"])]]
                axes.errorbar(share["value"], row + shift, xerr=reach, fmt=mark, color=colour, markersize=4, elinewidth=1)
    axes.set_yticks(range(len(groups)), [label[:44] for label in groups], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title(name, fontsize=8, loc="left")
    axes.grid(axis="x", alpha=0.3)

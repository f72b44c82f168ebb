"""The curves of a training run as a picture.

**Way** `draw_curves` reads nothing but the history that `loop.fit` keeps, and writes a PNG: loss, macro-F1 and log loss on val,
learning rate, over epochs; the epoch whose weights are kept is marked: the last, or the best on val.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

#: Key of the history, title, whether the axis is logarithmic.
_PANELS = (
    ("loss", "loss on train", False),
    ("val_macro_f1", "macro-F1 on val", False),
    ("val_log_loss", "log loss on val", False),
    ("rate", "learning rate", True),
)


def draw_curves(history: Sequence[Mapping[str, float]], path: Path, *, keeps_last: bool = False) -> None:
    """Write the curves of a history that has at least one epoch."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    best = max(history, key=lambda row: (row["val_macro_f1"], -row["val_log_loss"]))
    kept = (history[-1] if keeps_last else best)["epoch"]
    for axes, (key, title, logarithmic) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        axes.plot(epochs, [row[key] for row in history], marker="." if len(epochs) < 60 else "", color="C0")
        axes.axvline(kept, color="0.6", linestyle=":", label=f"kept: epoch {kept:g}")
        axes.set(title=title, xlabel="epoch", yscale="log" if logarithmic else "linear")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})

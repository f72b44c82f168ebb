"""The curves of a run that teaches networks of redaction, as a picture.

**Way** `draw_curves` reads nothing but the history that a `course.Course` keeps, and writes a PNG; the step whose weights are
kept is marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

#: Title, whether the axis is logarithmic, and keys of the history with what they are called.
Panels = Sequence[tuple[str, bool, Mapping[str, str]]]
FINDING: Panels = (
    ("loss on train", True, {"detector_loss": "detector", "gate_loss": "gate"}),
    ("lines found on val", False, {"found": "by the detector", "gate_found": "by the gate"}),
    ("ground that the detector takes for text", True, {"wrong": "share of pixels"}),
    ("ground that the gate lets pass", False, {"gate_open": "share of cells"}),
)
READING: Panels = (
    ("loss on train", True, {"loss": "reader"}),
    ("lines read on val", False, {"exact": "to the letter", "loose": "but for case and blanks"}),
)


def draw_curves(history: Sequence[Mapping[str, float]], kept: int, path: Path, panels: Panels) -> None:
    """Write the curves of a history that has at least one row."""
    figure = Figure(figsize=(9, 3 * (len(panels) // 2)), layout="constrained")
    steps = [row["step"] for row in history]
    for axes, (title, logarithmic, lines) in zip(figure.subplots(len(panels) // 2, 2).flat, panels, strict=True):
        for key, called in lines.items():
            axes.plot(steps, [row[key] for row in history], marker="." if len(steps) < 60 else "", label=called)
        axes.axvline(kept, color="0.6", linestyle=":", label=f"kept: step {kept}")
        axes.set(title=title, xlabel="step", yscale="log" if logarithmic else "linear")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})

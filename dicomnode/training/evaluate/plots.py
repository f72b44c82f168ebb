"""The figures of a model as pictures: confusion.png, per_class.png, sources.png, reliability.png, risk_coverage.png, roc.png.

**Way** Everything is drawn from what evaluation.json holds, a panel for each group of pictures. Colours are those of Okabe and
Ito, and cividis for matrices, which people with any colour blindness tell apart; markers and line styles differ as well.

**Fails** Importing this module raises ImportError where matplotlib (the extra ``train``) is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from dicomnode.training import metrics

Group: TypeAlias = Mapping[str, Any]

#: Okabe and Ito 2008: blue, vermilion, green, orange, sky, purple.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
_LINES = ("-", "--", ":", "-.")
_MARKS = ("o", "s", "D", "^", "v", "P")


def draw(report: Mapping[str, Any], out: Path) -> list[Path]:
    """Write every plot that the report has figures for; gives their paths."""
    groups, title = report["groups"], f"{report['model']} {report['version']}"
    made = [
        _panels(out / "confusion.png", title, groups, _confusion, lambda group: 1.2 + 0.75 * len(group["labels"])),
        _panels(out / "per_class.png", title, groups, _per_class, lambda group: 1.4 + 0.6 * len(group["per_class"])),
        _panels(out / "sources.png", title, groups, _sources, lambda group: 1.6 + 0.32 * len(group["per_source"]), width=7.5),
        _panels(out / "reliability.png", title, groups, _reliability, lambda _: 4.6),
        _risk_coverage(out / "risk_coverage.png", title, groups),
    ]
    if any(group["abnormal"] for group in groups.values()):
        made.append(_panels(out / "roc.png", title, groups, _roc, lambda _: 4.6))
    return made


def save(canvas: Canvas, path: Path) -> Path:
    """Write a picture; the metadata that matplotlib would add (its version) is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(canvas)
    canvas.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _panels(
    path: Path, title: str, groups: Mapping[str, Group], fill: Callable[[Axes, Group], None],
    height: Callable[[Group], float], width: float = 5.4,
) -> Path:
    """A panel for each group, beside each other."""
    canvas = Canvas(figsize=(width * len(groups), max(2.6, *map(height, groups.values()))), layout="constrained")
    canvas.suptitle(title, fontsize=10)
    for axes, (name, group) in zip(canvas.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        axes.set_title(f"{name}: {group['pictures']} pictures", fontsize=9)
        fill(axes, group)
    return save(canvas, path)


def _confusion(axes: Axes, group: Group) -> None:
    counts, labels = np.array(group["confusion"]), group["labels"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "black" if shares[row, column] > 0.5 else "white"
            text = f"{count}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")


def _interval(axes: Axes, y: float, figure: Mapping[str, float], number: int, label: str | None) -> None:
    """A dot with its 95 % interval as a line."""
    colour = COLOURS[number]
    axes.plot([figure["low"], figure["high"]], [y, y], color=colour, linewidth=1.4)
    axes.plot([figure["value"]], [y], _MARKS[number], color=colour, markersize=5, label=label)


def _per_class(axes: Axes, group: Group) -> None:
    rows = [("macro", group["macro"]), *reversed(group["per_class"].items())]
    if group["merged"]:
        rows.insert(0, ("macro, merged", group["merged"]["macro"]))
    for y, (_, row) in enumerate(rows):
        for number, what in enumerate(("precision", "recall", "f1")):
            _interval(axes, y + 0.22 * (1 - number), row[what], number, what.replace("f1", "F1") if y == 0 else None)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.set_xlabel("with 95 % interval")
    axes.set_xlim(right=1.01)
    axes.grid(axis="x", alpha=0.4)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _sources(axes: Axes, group: Group) -> None:
    rows = list(reversed(group["per_source"]))
    for y, row in enumerate(rows):
        _interval(axes, y, row["share"], 0, None)
    names = [f"{row['source'].rsplit('/', 1)[-1][:28]}: {row['label']} ({row['pictures']})" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_xlabel("share right, with Wilson's 95 % interval")
    axes.set_xlim(0, 1.02)
    axes.grid(axis="x", alpha=0.4)


def _reliability(axes: Axes, group: Group) -> None:
    found = group["calibration"]
    axes.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1, label="honest")
    for one in found["bins"]:
        pictures = one["pictures"]
        figure = metrics.wilson(round(one["accuracy"] * pictures), pictures)
        axes.plot([one["confidence"]] * 2, [figure.low, figure.high], color=COLOURS[0], linewidth=1.4)
        axes.plot([one["confidence"]], [one["accuracy"]], "o", color=COLOURS[0], markersize=5)
    for one in found["bins"]:
        axes.text((one["from"] + one["to"]) / 2, -0.035, str(one["pictures"]), ha="center", va="center", fontsize=7)
    plain = found["ece_without_temperature"]["value"]
    text = f"ECE {found['ece']['value']:.3f}\nwithout temperature {plain:.3f}\nalong the bottom: pictures in each bin"
    axes.text(0.03, 0.6, text, transform=axes.transAxes, va="top", fontsize=8)
    axes.set_xlabel("probability of the answer")
    axes.set_ylabel("share right, with Wilson's 95 % interval")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.07, 1.02)
    axes.legend(fontsize=8, loc="upper left")


def _risk_coverage(path: Path, title: str, groups: Mapping[str, Group]) -> Path:
    """Risk and macro-F1 of the answered pictures; all groups in both panels."""
    canvas = Canvas(figsize=(10.8, 4.2), layout="constrained")
    canvas.suptitle(title, fontsize=10)
    sides = (("risk", "share of wrong answers among the answered"), ("f1", "macro-F1 of the answered"))
    for axes, (what, label) in zip(canvas.subplots(1, 2), sides, strict=True):
        for number, (name, group) in enumerate(groups.items()):
            curve, certain = group["coverage"]["curve"], group["coverage"]["certain_from"]
            colour, line = COLOURS[number % len(COLOURS)], _LINES[number % len(_LINES)]
            axes.plot([one["coverage"] for one in curve], [one[what] for one in curve], line, color=colour, label=name)
            value = certain["f1"] if what == "f1" else certain["accuracy"]
            if value is not None:
                height = value["value"] if what == "f1" else 1 - value["value"]
                text = f"{name}: certain from {certain['from']:.2f}"
                axes.plot([certain["coverage"]], [height], _MARKS[number % len(_MARKS)], color=colour, label=text)
        axes.set_xlabel("coverage: share of the pictures that are answered")
        axes.set_ylabel(label)
        axes.grid(alpha=0.4)
        axes.legend(fontsize=8)
    return save(canvas, path)


def _roc(axes: Axes, group: Group) -> None:
    axes.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1)
    for number, (key, row) in enumerate(group["abnormal"].items()):
        curve = np.array(row["roc"])
        area, colour = metrics.Figure(**row["auroc"]), COLOURS[number % len(COLOURS)]
        axes.plot(curve[:, 0], curve[:, 1], _LINES[number % len(_LINES)], color=colour, label=f"{key}: AUROC {area}")
        sensitivity, specificity = row["sensitivity"], row["specificity"]
        x, y = 1 - specificity["value"], sensitivity["value"]
        axes.plot([1 - specificity["low"], 1 - specificity["high"]], [y, y], color=colour, linewidth=1)
        axes.plot([x, x], [sensitivity["low"], sensitivity["high"]], color=colour, linewidth=1)
        axes.plot([x], [y], _MARKS[number % len(_MARKS)], color=colour, label=f"threshold {row['threshold']:.2f}")
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.grid(alpha=0.4)
    if group["abnormal"]:
        axes.legend(fontsize=8, loc="lower right")

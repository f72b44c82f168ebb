"""The figures of a model as Markdown, for people and for model cards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dicomnode.training.metrics import Figure


def shown(figure: Mapping[str, float] | None) -> str:
    """A figure with its interval; a dash where there is none."""
    return "-" if figure is None else str(Figure(**figure))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table, and an empty one."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{share * 100:.1f} %"


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report of `evaluate_model` as Markdown tables."""
    about = [f"ONNX SHA-256 `{report['sha256']}`, {report['bytes'] / 1e6:.1f} MB, {report['provider']}"]
    if report["arch"]:
        about.append(f"{report['arch']} at {report['input'][1]} x {report['input'][2]}")
    lines = [f"# {report['model']} {report['version']}: evaluation", "", ", ".join(about) + ".", ""]
    lines += [f"95 % intervals from {report['draws']} bootstrap draws. What the figures mean: docs/evaluation.md.", ""]
    for name, group in report["groups"].items():
        lines += [f"## {name}: {group['pictures']} pictures", "", *_of_group(group)]
    return "\n".join(lines)


def _of_group(group: Mapping[str, Any]) -> list[str]:
    drawn = group["drawn"]
    lines = [f"Drawn by {drawn['unit']}: {drawn['units']} units, {group['persons']} of them named persons."]
    if group["every_split"]:
        lines += ["", "No splits are stated, so every picture counts. If the model learned from this set: `--split test`."]
    if group["unreadable"]:
        lines += ["", f"**{group['unreadable']} files could not be read** and are in no figure."]
    lines += ["", *_classes(group)]
    lines += [f"Accuracy {shown(group['macro']['accuracy'])}.", ""]
    if group["merged"]:
        parts = "; ".join(f"{' + '.join(labels)} = {name}" for name, labels in group["merged"]["parts"].items())
        lines += [f"Counted as one: {parts}.", "", *_classes({**group["merged"], "pictures": group["pictures"]})]
    for key, row in group["abnormal"].items():
        figures = ", ".join(f"{what} {shown(row[what])}" for what in ("auroc", "sensitivity", "specificity"))
        lines += [f"{key} (threshold {row['threshold']}): {figures}.", ""]
    lines += [*_confusion(group), *_unknown(group["unknown"]), *_sources(group), *_calibration(group["calibration"])]
    lines += [*_coverage(group["coverage"]), *_evidence(group.get("saliency")), *_time(group["milliseconds_per_picture"])]
    return lines


def _classes(group: Mapping[str, Any]) -> list[str]:
    rows = [*group["per_class"].items(), ("macro", {"pictures": group["pictures"], **group["macro"]})]
    return table(
        ("class", "pictures", "precision", "recall", "F1"),
        [(key, row["pictures"], *(shown(row[what]) for what in ("precision", "recall", "f1"))) for key, row in rows],
    )


def _confusion(group: Mapping[str, Any]) -> list[str]:
    rows = [(key, *row) for key, row in zip(group["labels"], group["confusion"], strict=True)]
    return ["Rows: true class; columns: answer.", "", *table(("", *group["labels"]), rows)]


def _unknown(unknown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What became of pictures whose label the model does not have."""
    if not unknown:
        return []
    rows = []
    for label, row in unknown.items():
        called = ", ".join(f"{key} {count}" for key, count in row["called"].items()) or "-"
        rows.append((label, row["pictures"], shown(row["uncertain"]), called))
    head = ("label unknown to the model", "pictures", "share called uncertain", "the others were called")
    return ["In none of the figures above:", "", *table(head, rows)]


def _sources(group: Mapping[str, Any]) -> list[str]:
    rows = [
        (row["source"], row["pictures"], row["classes"], shown(row["accuracy"]), shown(row["f1"])) for row in group["sources"]
    ]
    cells = [(row["source"], row["label"], row["pictures"], row["right"], shown(row["share"])) for row in group["per_source"]]
    return [
        *table(("source", "pictures", "classes", "accuracy (Wilson)", "macro-F1"), rows),
        *table(("source", "class", "pictures", "right", "share (Wilson)"), cells),
    ]


def _calibration(found: Mapping[str, Any]) -> list[str]:
    rows = [
        (f"ECE, temperature {found['temperature']:g}", shown(found["ece"])),
        ("ECE without temperature", shown(found["ece_without_temperature"])),
        ("Brier score", shown(found["brier"])),
        ("log loss", shown(found["log_loss"])),
    ]
    return [*table(("calibration", ""), rows), f"ECE: {found['definition']}.", ""]


def _coverage(found: Mapping[str, Any]) -> list[str]:
    certain = found["certain_from"]
    rows = [
        (percent(row["coverage"]), f"{row['from']:.3f}", shown(row["f1"]), shown(row["accuracy"]), _left(row, found))
        for row in (*found["points"], certain)
    ]
    rows[-1] = (f"{rows[-1][0]}: {'the card' if certain['by_card'] else 'the node'}'s certain_from", *rows[-1][1:])
    head = ("answered", "probability from", "macro-F1", "accuracy", "left unanswered")
    return [*table(head, rows), f"Area under risk against coverage (AURC): {shown(found['aurc'])}.", ""]


def _left(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Which classes the unanswered pictures are of."""
    everything = found["points"][0]["kept"]
    left = {key: count - row["kept"][key] for key, count in everything.items()}
    return ", ".join(f"{key} {count} of {everything[key]}" for key, count in left.items() if count) or "-"


def _evidence(found: Mapping[str, Any] | None) -> list[str]:
    """How much of what the answers rest on lies at the border."""
    if found is None:
        return []
    rows = [
        (row["source"], row["pictures"], *(percent(row[what]) for what in ("border", "even", "most", "padding")))
        for row in found["per_source"]
    ]
    head = ("source", "pictures looked into", "evidence at the border", "if it were even", "most in one picture", "in padding")
    return [f"Where the evidence lies ({found['method']}):", "", *table(head, rows)]


def _time(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = [(step.replace("_", " "), f"{row['median']:.1f}", f"{row['p95']:.1f}") for step, row in found.items()]
    return table(("milliseconds, one picture at a time", "median", "95th percentile"), rows)

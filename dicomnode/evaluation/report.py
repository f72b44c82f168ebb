"""The figures of redaction as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicomnode.evaluation.compare import MARGIN_PX
from dicomnode.evaluation.trial import LOST, REMOVED
from dicomnode.training.evaluate.report import table


def percent(figure: Mapping[str, float] | None, digits: int = 2) -> str:
    """A share with its interval, as percentages; a dash where there is none."""
    if figure is None or figure["value"] != figure["value"]:
        return "-"
    value, low, high = (f"{figure[name] * 100:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} % ({low} to {high})"


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report of `measure` as Markdown tables."""
    lines = ["# Redaction: evaluation", "", f"{report['manifest_files']} files. 95 % intervals.", ""]
    removed = f"Removed: {REMOVED:.0%} of the ink of an identifying string is gone in every frame that it stands in."
    lines += [removed, f"Kept: less than {LOST:.0%} of the ink of a harmless one is gone in any.", ""]
    for mode, found in report["modes"].items():
        lines += [f"## {mode}", "", *_mode(found)]
    return "\n".join(lines)


def _mode(found: Mapping[str, Any]) -> list[str]:
    held = ", ".join(f"{code} {count}" for code, count in found["held"].items()) or "none"
    lines = [f"{found['written']} files written, {found['frames']} frames; held: {held}.", ""]
    rows = []
    for name, done in (("identifying", "removed"), ("harmless", "kept")):
        one = found[name]
        rows.append(
            (f"{name} strings {done}", f"{one['good']} of {one['strings']}", percent(one["share"]), percent(one["by_file"]))
        )
        also = "removed or held" if name == "identifying" else "kept, held ones are not"
        total = one["strings"] + one["strings_held"]
        rows.append((f"{name} strings {also}", f"of {total}", percent(one["share_of_all"]), ""))
    lines += table(("strings", "", "share (Wilson)", "share (drawn by file)"), rows)
    lines += _pixels(found)
    seconds = [
        (name.replace("_", " "), *(f"{one[what]:.3f}" for what in ("median", "p95", "most")))
        for name, one in found["seconds"].items()
    ]
    growth = [("bytes written for each of the source", *(f"{found['growth'][what]:.2f}" for what in ("median", "p95", "most")))]
    lines += table(("seconds, and growth", "median", "95th percentile", "most"), seconds + growth)
    for name, groups in found["by"].items():
        lines += _group(name, groups)
    lines += [f"{len(found['misses'])} strings are not as they should be; evaluation.json lists them.", ""]
    return lines


def _pixels(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for kind, one in found["collateral"].items():
        for name, words in (("changed", "changed"), ("in_regions", "in a region")):
            shares = (f"{one[name][what] * 100:.4f} %" for what in ("mean_by_file", "most"))
            rows.append((f"{kind}, {one['files']} files: {words}", percent(one[name]["of_all_pixels"], 4), *shares))
    lines = table(
        (f"pixels further than {MARGIN_PX} px from any text", "of all pixels", "mean of files", "most in a file"), rows
    )
    lines += [f"Pixels that changed outside the reported regions: {found['outside_regions']}.", ""]
    if found["as_displayed"]:
        lines += [f"{found['as_displayed']} files changed their colour space and were compared as they are displayed.", ""]
    return lines


def _group(name: str, groups: Mapping[str, Any]) -> list[str]:
    rows = []
    for label, one in groups.items():
        cells: list[object] = [label.replace("|", "/")]
        for kind in ("identifying", "harmless"):
            part = one[kind]
            cells += [f"{part['good']} of {part['strings']}", percent(part["share"], 1)]
        rows.append(cells)
    return table((name, "removed", "share", "kept", "share"), rows) if rows else []

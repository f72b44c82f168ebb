"""Several models on the same pictures with the same draws: one table, and the difference of each from the first.

**Way** Only pictures count whose label every model knows and that every one could read. Draws are common to all, so that a
difference of macro-F1 has a paired interval: where it does not contain 0, other pictures of this kind would hardly turn it
over.

**Limits** Intervals are not corrected for how many models are compared. Times are those of each model's own run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dicomnode.errors import BadSetting
from dicomnode.training import calibration, metrics
from dicomnode.training.bootstrap import Bootstrap, Statistic, confusions, interval
from dicomnode.training.coverage import Selective
from dicomnode.training.evaluate import Asking, Measured
from dicomnode.training.evaluate.judged import Judged
from dicomnode.training.evaluate.report import shown, table
from dicomnode.training.metrics import Indices, Numbers

#: Share of the pictures answered for the column of that name.
_COVERAGE = 0.95


def names_of(measured: Sequence[Measured]) -> list[str]:
    """A name for each model that no other has."""
    names = [f"{one.card.name} {one.card.version}" for one in measured]
    if len(set(names)) < len(names):
        names = [f"{name} {one.report['arch'] or one.folder}" for name, one in zip(names, measured, strict=True)]
    seen = Counter[str]()
    for number, name in enumerate(names):
        seen[name] += 1
        names[number] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def side_by_side(measured: Sequence[Measured], asking: Asking) -> dict[str, Any]:
    """What side_by_side.json holds: by group, the figures of each model and its difference from the first.

    Raises
    ------
    BadSetting
        In no group is there a picture that every model knows.
    """
    names = names_of(measured)
    groups = {}
    abnormal = set[str].intersection(*({one.key for one in two.card.labels if one.abnormal} for two in measured))
    for group in [group for group in measured[0].judged if all(group in one.judged for one in measured)]:
        judged = [one.judged[group] for one in measured]
        common = set[Path].intersection(*({example.path for example in one.examples} for one in judged))
        if not common:
            continue
        parts = [_only(one, common) for one in judged]
        rows = _rows(parts, asking, sorted(abnormal))
        for name, one, row in zip(names, measured, rows, strict=True):
            spent = one.report["groups"][group]["milliseconds_per_picture"]
            row |= {
                "name": name, "arch": one.report["arch"], "input": one.report["input"], "bytes": one.report["bytes"],
                "milliseconds": spent["prepare_and_network"]["median"],
            }  # fmt: skip
        left_out = max(len(one.judged[group].examples) for one in measured) - len(common)
        groups[group] = {"pictures": len(common), "left_out": left_out, "models": rows}
    if not groups:
        raise BadSetting("there is no picture whose label every model knows; measure them one by one")
    return {"draws": asking.draws, "groups": groups}


def _only(judged: Judged, common: set[Path]) -> Judged:
    """The same pictures of each model, in one order."""
    order = sorted((example.path, number) for number, example in enumerate(judged.examples) if example.path in common)
    numbers = [number for _, number in order]
    return Judged(
        judged.keys, judged.truth[numbers], judged.probabilities[numbers], judged.plain[numbers],
        [judged.examples[number] for number in numbers],
    )  # fmt: skip


def _rows(parts: Sequence[Judged], asking: Asking, abnormal: Sequence[str]) -> list[dict[str, Any]]:
    labels = list(dict.fromkeys(key for part in parts for key in part.keys))
    truth = np.array(parts[0].keys)[parts[0].truth]
    abnormal = [key for key in abnormal if 0 < np.count_nonzero(truth == key) < truth.size]
    persons = parts[0].persons if asking.by_person else [""] * parts[0].truth.size
    bootstrap = Bootstrap(persons, asking.draws)
    statistics: dict[str, Statistic] = {}
    for number, part in enumerate(parts):
        translate: Indices = np.array([labels.index(key) for key in part.keys], dtype=np.int64)
        selective = Selective(translate[part.truth], translate[part.answer], part.selective.confidence, len(labels))
        statistics |= {
            f"{number} confusion": confusions(selective.truth, selective.answer, len(labels)),
            f"{number} ece": calibration.ece(selective.confidence, part.truth == part.answer),
            f"{number} aurc": selective.aurc(),
            f"{number} covered": selective.at_coverage(_COVERAGE),
        }
        for key in abnormal:
            index = list(part.keys).index(key)
            statistics[f"{number} {key}"] = partial(metrics.weighted_auroc, part.truth == index, part.probabilities[:, index])
    drawn = bootstrap.draw(statistics)
    rows = []
    first = _macro_f1(*drawn["0 confusion"])
    for number in range(len(parts)):
        once, often = drawn[f"{number} confusion"]
        f1 = _macro_f1(once, often)
        merged = [metrics.merged(matrix, labels, asking.merge)[0] for matrix in (once, often)]
        rows.append({
            "f1": _figure(*f1),
            "merged_f1": _figure(*_macro_f1(*merged)) if len(merged[0]) < len(labels) else None,
            "accuracy": _figure(metrics.accuracy(once), metrics.accuracy(often)),
            "ece": _figure(*drawn[f"{number} ece"]),
            "aurc": _figure(*drawn[f"{number} aurc"]),
            "f1_at_95": _figure(*_macro_f1(*drawn[f"{number} covered"])),
            "difference": _figure(f1[0] - first[0], f1[1] - first[1]) if number else None,
            "auroc": {key: _figure(*drawn[f"{number} {key}"]) for key in abnormal},
            "auroc_difference": {key: _less(drawn[f"{number} {key}"], drawn[f"0 {key}"]) for key in abnormal if number},
        })
    return rows


def _macro_f1(*confusion: Numbers) -> tuple[Numbers, Numbers]:
    once, often = (metrics.macro(metrics.f1(one), one) for one in confusion)
    return once, often


def _less(one: tuple[Numbers, Numbers], first: tuple[Numbers, Numbers]) -> dict[str, float]:
    return _figure(one[0] - first[0], one[1] - first[1])


def _figure(once: Numbers, often: Numbers) -> dict[str, float]:
    return asdict(interval(float(once), often))


def as_table(found: Mapping[str, Any]) -> str:
    """The models side by side as Markdown."""
    head = (
        "model", "network", "MB", "macro-F1", "merged", "accuracy", "ECE", "AURC", "F1 at 95 %", "ms", "macro-F1 less first's",
    )  # fmt: skip
    lines = [f"# Side by side, {found['draws']} bootstrap draws common to all", ""]
    for name, group in found["groups"].items():
        lines += [f"## {name}: {group['pictures']} pictures known to all", ""]
        if group["left_out"]:
            lines += [f"{group['left_out']} pictures that not every model knows or could read are left out.", ""]
        lines += table(head, [
            (
                row["name"], f"{row['arch'] or '-'}, {row['input'][1]} px", f"{row['bytes'] / 1e6:.1f}",
                *(shown(row[what]) for what in ("f1", "merged_f1", "accuracy", "ece", "aurc", "f1_at_95")),
                f"{row['milliseconds']:.1f}", shown(row["difference"]),
            )
            for row in group["models"]
        ])  # fmt: skip
        rows = [
            (key, row["name"], shown(figure), shown(row["auroc_difference"].get(key)))
            for row in group["models"] for key, figure in row["auroc"].items()
        ]  # fmt: skip
        lines += table(("abnormal", "model", "AUROC", "less the first's"), rows) if rows else []
    return "\n".join([*lines, "ms: preparation and network, one picture at a time, median. See docs/evaluation.md.", ""])


def write_side_by_side(found: Mapping[str, Any], out: Path) -> None:
    """Write side_by_side.json and side_by_side.md."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "side_by_side.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "side_by_side.md").write_text(as_table(found), encoding="utf-8")

"""Sums up what became of files and strings: shares with intervals, by device, syntax, size and more.

**Way** Shares of strings have Wilson's interval, and one from drawing files (10,000 times), for the strings of a file are
removed or missed together; means over files are drawn likewise. A held file leaves nothing: its strings are in no share of
what was written, and stand in two more shares, removed or held of all identifying ones, kept of all harmless ones.

**Standard** Wilson 1927; cluster bootstrap as in `training.bootstrap`.

**Limits** As of `training.bootstrap`: the interval says nothing of devices that the files do not come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydicom.uid import UID

from dicomnode.evaluation.trial import Judged, Tried
from dicomnode.image.codecs import LOSSY
from dicomnode.training.bootstrap import Bootstrap
from dicomnode.training.metrics import Numbers, wilson

Pair = tuple[Tried, Judged]
#: Up to which size in pixels, and which contrast in grey levels, a string belongs to a class.
SIZES, CONTRASTS = (9, 14, 24, 40), (15, 31, 63, 127)


def figures(tried: Sequence[Tried], strings: Sequence[int], draws: int) -> dict[str, Any]:
    """Make the figures of one mode.

    Parameters
    ----------
    strings
        For each file how many identifying and harmless strings it has: flat, two a file; held files have them too.
    draws
        Of the bootstrap.
    """
    written = [one for one in tried if not one.held]
    pairs = [(one, judged) for one in written for judged in one.judged]
    held = [index for index, one in enumerate(tried) if one.held]
    withheld = {True: sum(strings[2 * i] for i in held), False: sum(strings[2 * i + 1] for i in held)}
    return {
        "files": len(tried),
        "written": len(written),
        "held": dict(Counter(one.held for one in tried if one.held)),
        "frames": sum(one.frames for one in written),
        "identifying": _strings(pairs, withheld[True], draws, identifying=True),
        "harmless": _strings(pairs, withheld[False], draws, identifying=False),
        "collateral": {name: _collateral(chosen, draws) for name, chosen in _lossy(written).items()},
        "outside_regions": sum(one.outside for one in written),
        "as_displayed": sum(one.as_displayed for one in written),
        "seconds": _seconds(written),
        "growth": _spread([one.bytes_after / max(1, one.bytes_before) for one in written]),
        "by": {name: _groups(pairs, key) for name, key in _KEYS.items()},
    }


def _strings(pairs: Sequence[Pair], held: int, draws: int, *, identifying: bool) -> dict[str, Any]:
    """Removed of identifying strings, or kept of harmless ones."""
    of = [(tried.name, judged.good) for tried, judged in pairs if judged.text.identifying is identifying]
    good = sum(hit for _, hit in of)
    found = {"strings": len(of), "good": good, "share": asdict(wilson(good, len(of))), "by_file": None, "strings_held": held}
    # What is held is not shown to anybody: neither a leak nor kept.
    found["share_of_all"] = asdict(wilson(good + held * identifying, len(of) + held))
    names = sorted({name for name, _ in of})
    if len(names) > 1:
        hits, total = (Counter[str]() for _ in range(2))
        for name, hit in of:
            total[name] += 1
            hits[name] += hit
        above, below = (np.array([counts[name] for name in names], float) for counts in (hits, total))
        found["by_file"] = asdict(_drawn(len(names), draws, lambda weights: (weights @ above) / (weights @ below)))
    return found


def _drawn(units: int, draws: int, statistic: Callable[[Numbers], Numbers]) -> Any:
    return Bootstrap([""] * units, draws).figure(statistic)


def _lossy(written: Sequence[Tried]) -> dict[str, list[Tried]]:
    """Files whose syntax loses nothing, and others: what may change there is not the same."""
    parts = {
        "lossless": [one for one in written if one.syntax not in LOSSY],
        "lossy": [one for one in written if one.syntax in LOSSY],
    }
    return {name: chosen for name, chosen in parts.items() if chosen}


def _collateral(written: Sequence[Tried], draws: int) -> dict[str, Any]:
    """Share of pixels further than the margin from any text that changed, or lie in a region: of all, and by file."""
    pixels = np.array([one.pixels for one in written], float)
    found: dict[str, Any] = {"files": len(written)}
    for name, count in (
        ("changed", [one.far_changed for one in written]),
        ("in_regions", [one.far_reported for one in written]),
    ):
        far = np.array(count, float)
        shares = far / np.maximum(pixels, 1)
        found[name] = {
            "of_all_pixels": asdict(_drawn(len(written), draws, lambda w, far=far: (w @ far) / (w @ pixels))),  # type: ignore[misc]
            "mean_by_file": float(shares.mean()),
            "most": float(shares.max()),
        }
    return found


def _seconds(written: Sequence[Tried]) -> dict[str, Any]:
    return {
        "redact": _spread([one.redact_s for one in written]),
        "redact_processor": _spread([one.redact_cpu_s for one in written]),
        "redact_a_frame": _spread([one.redact_s / max(1, one.frames) for one in written]),
        "redact_a_megapixel": _spread([one.redact_s * 1e6 / max(1, one.pixels) for one in written]),
        "write": _spread([one.write_s for one in written]),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"median": 0.0, "p95": 0.0, "most": 0.0}
    median, p95, most = np.percentile(values, (50, 95, 100))
    return {"median": float(median), "p95": float(p95), "most": float(most)}


def _groups(pairs: Sequence[Pair], key: Callable[[Tried, Judged], str]) -> dict[str, Any]:
    found: dict[str, list[Judged]] = {}
    for tried, judged in pairs:
        found.setdefault(key(tried, judged), []).append(judged)
    if set(found) <= {""}:
        return {}
    return {name or "not said": _group(found[name]) for name in sorted(found, key=_order)}


def _order(name: str) -> tuple[float, str]:
    """Numbers in their order, then words."""
    first = name.split(" ", maxsplit=1)[0]
    return (float(first) if first.isdigit() else float("inf"), name)


def _group(judged: Iterable[Judged]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, identifying in (("identifying", True), ("harmless", False)):
        of = [one.good for one in judged if one.text.identifying is identifying]
        made[name] = {"strings": len(of), "good": sum(of), "share": asdict(wilson(sum(of), len(of))) if of else None}
    return made


def _class(value: float, ends: Sequence[int], unit: str) -> str:
    first = 0
    for last in ends:
        if value <= last:
            return f"{first} to {last} {unit}"
        first = last + 1
    return f"{first} {unit} and more"


def _said(judged: Judged, name: str) -> str:
    return (judged.text.groups or {}).get(name, "")


def _size(_: Tried, judged: Judged) -> str:
    said, text = _said(judged, "size"), judged.text
    try:
        return _class(float(said), SIZES, "px")
    except ValueError:
        return _class(min(text.x1 - text.x0, text.y1 - text.y0) + 1, SIZES, "px")


def _contrast(_: Tried, judged: Judged) -> str:
    return _said(judged, "contrast") or _class(abs(judged.contrast), CONTRASTS, "grey levels")


def _polarity(_: Tried, judged: Judged) -> str:
    return _said(judged, "polarity") or ("bright on dark" if judged.contrast >= 0 else "dark on bright")


def _rotation(_: Tried, judged: Judged) -> str:
    text = judged.text
    upright = text.y1 - text.y0 > 2 * (text.x1 - text.x0)
    return _said(judged, "rotation") or ("vertical" if upright else "horizontal")


def _frames(tried: Tried, judged: Judged) -> str:
    if tried.frames == 1:
        return "the only one"
    return "every" if judged.text.frame is None else "one"


def _syntax(uid: str) -> str:
    return UID(uid).name if UID(uid).is_transfer_syntax else "unknown"


_KEYS: dict[str, Callable[[Tried, Judged], str]] = {
    "device": lambda tried, judged: _said(judged, "device") or tried.device,
    "transfer syntax": lambda tried, _: _syntax(tried.syntax),
    "photometric interpretation": lambda tried, _: tried.photometric,
    "bits stored": lambda tried, _: f"{tried.bits}",
    "frames": lambda tried, _: "1" if tried.frames == 1 else "2 and more",
    "frames of the string": _frames,
    "size": _size,
    "contrast": _contrast,
    "polarity": _polarity,
    "rotation": _rotation,
    "in the header": lambda _, judged: _said(judged, "in_header"),
    "what": lambda _, judged: _said(judged, "what"),
    "font": lambda _, judged: _said(judged, "font"),
    "layout": lambda _, judged: _said(judged, "layout"),
}

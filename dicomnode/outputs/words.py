"""The sentences in which a result is told, the same in every report and under every picture.

**Way** `Route` and `Findings` come in, lines of printable ASCII go out; nothing of the header passes here, so no line
can hold a name.

**Limits** English only. Letters beyond ASCII in the labels of a card lose their accents, others become ``?``: an inside
result is written in the character set of its source, which need not have them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from dicomnode.header import MANUFACTURER
from dicomnode.records import UNCERTAIN, Finding, Findings, Route

DISCLAIMER = "Not for diagnostic use"


def plain(text: str, length: int = 1024) -> str:
    """Reduce ``text`` to one line of ASCII without the backslash, which parts values; at most ``length`` characters."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in letters).strip()[:length].strip()


def percent(probability: float) -> str:
    """Say a probability, ``0.973`` as ``97.3 %``; only certainty itself is rounded to 100."""
    shown = round(probability * 100, 1)
    if shown >= 100 and probability < 1:
        shown = 99.9
    return f"{shown:.1f} %"


def body_part(route: Route) -> str:
    """Say the body part, how sure the node is, and what told it."""
    name = route.body_part.replace("_", " ")
    if route.body_part == UNCERTAIN:
        return "Body part: uncertain" + f" ({route.doubt.replace('_', ' ')})" * bool(route.doubt)
    if route.source == "header":
        return f"Body part: {name} (header)"
    return f"Body part: {name}, {percent(route.probability)}"


def finding(item: Finding) -> str:
    """Say one finding with its probability."""
    return f"{plain(item.label, 64)}, {percent(item.probability)}"


def models(findings: Sequence[Findings]) -> list[str]:
    """Say which models looked."""
    return [model(one) for one in findings] or ["Model: none applies"]


def model(findings: Findings) -> str:
    """Say which model looked."""
    return f"Model: {plain(findings.model, 48)} {plain(findings.version, 16)}"


def maker(version: str) -> str:
    """Say that this is no diagnosis, and what made it."""
    return f"{DISCLAIMER} - {MANUFACTURER} {plain(version, 16)}"


def reported(findings: Findings) -> tuple[Finding, ...]:
    """Choose what is reported as a finding of its own: the most probable label of a model, and every abnormal one."""
    return tuple(item for place, item in enumerate(findings.items) if place == 0 or item.abnormal)

"""Titles of fields on a line, and the values behind them: what follows ``Name:`` is a name, whatever it looks like.

**Way** `values` finds titles of one word or several (``Ref. Phys``, ``Date of Birth``), and gives each token behind them, until
the next label, the reason of its field.

**Fails** Nothing.

**Standard** PS3.15 Table E.1-1: what the titles name is removed; so is Patient's Age (X), and Patient's Sex (Z) as the value of
its title or beside the person, but a lone letter says nothing.

**Limits** A title without a colon names what is not technical only: ``Patient supine``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dicomnode.stages.redact.misread import distance, listed
from dicomnode.stages.redact.tokens import Context, Token
from dicomnode.stages.redact.words import Words

_REASONS = {
    "field-person": "person", "field-id": "number", "field-date": "date", "field-age": "person", "field-place": "institution",
    "field-contact": "address",
}  # fmt: skip
#: In front of a title they make it one of the machine.
_MACHINE = listed(
    "protocol protokoll series serie sequence probe transducer preset device model coil filter kernel map file scan "
    "image img study exam procedure algorithm program layout organ window exposure echo repetition inversion rotation "
    "fluoro delay rise decay frame acquisition acq trigger flip total cine loop software product application body "
    "region bolus detector grid recon reconstruction elapsed cycle dwell integration relaxation sampling"
)
#: Titles that only the machine's words may turn: a series has a name, an examination a date of the patient.
_TURNED = {
    "name": _MACHINE, "time": _MACHINE - frozenset(("study", "exam", "acquisition", "acq", "series", "image")),
    "times": _MACHINE, "dt": _MACHINE, "type": _MACHINE,
}  # fmt: skip
#: Without a colon they are words of the machine too, unless they stand first.
_END = frozenset(("field-id", "field-date", "field-age"))


def values(line: Sequence[Token], context: Context, words: Words) -> tuple[list[str | None], set[int]]:
    """Give each token the reason of the field whose value it is, and the indices of the titles."""
    reasons: list[str | None] = [None] * len(line)
    titles: set[int] = set()
    i = 0
    while i < len(line):
        kind = _kind(line, i, words)
        if kind is None or (i and _is_turned(line, i)):
            i += 1
            continue
        kinds, end = [kind], i + 1
        while end < len(line) and not line[end - 1].titled:
            further = _kind(line, end, words)
            if further is None and line[end].plain not in words.kinds["field-of"] and line[end].folded:
                break
            kinds += [further] if further else []
            end += 1
        titles.update(range(i, end))
        kind = next((one for one in reversed(kinds) if one != "field-person"), "field-person")
        stop = _value_end(line, end, kind, context, words)
        for j in range(end, stop):
            if line[j].folded and not _is_measure(line, j, kind, context):
                reasons[j] = _REASONS[kind]
        i = max(stop, end)
    return reasons, titles


def _kind(line: Sequence[Token], i: int, words: Words) -> str | None:
    """Give the kind of a title, also of a misread one before a colon."""
    token = line[i]
    found = words.titles.get(token.plain) or words.titles.get(token.text.lower().rstrip(":=;,"))
    if (
        found is None
        and token.titled
        and token.letters
        and len(token.plain) >= 3
        and token.plain not in words.word | words.label
    ):
        found = next((kind for word, kind in words.titles.items() if abs(len(word) - len(token.plain)) <= 1
                      and word[0] == token.plain[0] and distance(word, token.plain) <= 1), None)  # fmt: skip
    if found is None and len(token.plain) >= 6 and token.letters and token.plain not in words:
        found = next((words.titles[word] for word in words.meant(token.plain) if word in words.titles), None)
    return found


def _is_turned(line: Sequence[Token], i: int) -> bool:
    before, own = line[i - 1].plain, line[i].plain
    return not line[i - 1].titled and before in _TURNED.get(own, frozenset())


def _value_end(line: Sequence[Token], start: int, kind: str, context: Context, words: Words) -> int:
    """Find where the value ends: at the next label, without a colon at the next technical word."""
    if not start or start >= len(line):
        return start
    colon, seen = line[start - 1].titled, 0
    for j in range(start, len(line)):
        token = line[j]
        if not token.folded:
            continue
        further = _kind(line, j, words)
        if (token.titled and (further or context.stays[j])) or (
            further and (seen or not colon) and (not colon or further in _END)
        ):
            return j
        # A label with its number behind: kV 120
        if (
            seen
            and token.plain in words.label
            and len(token.plain) > 1
            and j + 1 < len(line)
            and line[j + 1].shape in ("bare", "stays")
        ):
            return j
        technical = context.sure[j] and token.shape is None and (len(token.plain) > 1 or kind == "field-date")
        if technical and (not colon or (seen and kind in ("field-id", "field-date", "field-age"))) and token.plain not in _SEX:
            return j
        if kind == "field-id" and seen and token.shape is None and re.fullmatch(r"[lr]", token.plain):
            return j
        seen += 1
    return len(line)


_SEX = listed(
    "male female man woman mannlich weiblich homme femme masculin feminin hombre mujer masculino femenino uomo donna "
    "maschio femmina yrs years y"
)


def _is_measure(line: Sequence[Token], j: int, kind: str, context: Context) -> bool:
    """A number with its unit is no name, identifier or date."""
    if kind == "field-age" or line[j].shape not in ("bare", "stays"):
        return (
            kind != "field-age"
            and j > 0
            and line[j].shape is None
            and line[j - 1].shape in ("bare", "stays")
            and context.is_unit(line[j])
        )
    behind = line[j + 1] if j + 1 < len(line) else None
    if behind is not None and context.is_unit(behind):
        return True
    return line[j].shape == "stays" and bool(re.search(r"\d[.,]?\d*\s*[a-zµ%°]{1,5}\d?$", line[j].plain)) and kind != "field-id"

"""People, institutions and addresses that no header names: by their titles, and with the words around.

**Way** `around` marks names by what stands before and behind them (Dr., MD, a comma), institutions with the words that belong
to their name, and addresses by number and street.

**Fails** Nothing.

**Standard** PS3.15 Table E.1-1: persons of the staff, institutions, departments and addresses are removed.

**Limits** European languages. A name without any sign of one is left to the judge: it is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dicomnode.stages.redact.misread import alike, fold, listed
from dicomnode.stages.redact.tokens import Context, Token
from dicomnode.stages.redact.words import Words

_MAIL = re.compile(r"\S+@\S+\.\w+|(?:https?://|www\.)\S+|\S+\.(?:com|org|net|edu|gov|de|fr|es|it|uk|ch|at)", re.IGNORECASE)
_INSTITUTION = re.compile(
    r"\w*(?:klinik|klinikum|krankenhaus|spital|hospital|praxis|hospitaal|ziekenhuis|sjukhus|sykehus|sygehus|szpital|institut|"
    r"universitat|clinic|hopital|ospedale)s?e?n?"
)
#: A misread word must have some length to be taken for another one.
_SHORT, _LONG = 2, 6
_READINGS = frozenset(alike(fold(word)) for word in ("hospital", "clinic", "klinik", "klinikum", "university"))
_EASTERN = re.compile(
    "[病醫医]院|クリニック|診療所|诊所|병원|의원|大学|больниц|клиник|поликлиник|госпитал|госпітал|лікарн|νοσοκομ|κλινικ",
    re.IGNORECASE,
)
_CENTRE = listed("center centre centro zentrum centrum health medical imaging group partners service services system systems")
_VENDORS = listed("ge siemens philips toshiba canon hitachi fuji fujifilm samsung agfa varian carestream mindray konica")
#: Words of names of institutions that are technical by themselves.
_SPECIAL = listed(
    "medical general community regional university heart breast spine chest cardiac vascular imaging diagnostic "
    "orthopedic pediatric children women cancer surgical emergency neuro head neck health center centre centro "
    "zentrum advanced united county city state national international north south east west central memorial mobile "
    "ultrasound mri ct pet mammography x-ray knee hand"
)
_STREET = re.compile(r"\w{3,}(?:strasse|str|gasse|weg|platz|allee|ring|damm|straat|laan|gata|gatan|vej|vagen)\.?")
LINKS = listed(
    "of and & the for de del della dei di du des la le les fur am an der des zu im in at d' l' e y et und van el - st "
    "st. saint san santa sankt"
)
_POSTCODES = (
    (re.compile(r"[A-Z]{1,2}\d[A-Z\d]?"), re.compile(r"\d[A-Z]{2}")),
    (re.compile(r"[ABCEGHJ-NPRSTVXY]\d[A-Z]"), re.compile(r"\d[A-Z]\d")),
)
_INITIAL = re.compile(r"[A-Za-zÀ-ÿ]\.?(?:-?[A-Za-zÀ-ÿ]\.)*,?")


def around(line: Sequence[Token], context: Context, words: Words, titles: set[int]) -> list[str | None]:
    """Give each token its reason, or None."""
    reasons: list[str | None] = [None] * len(line)

    def mark(indices: Sequence[int] | range, reason: str) -> None:
        for i in indices:
            if 0 <= i < len(line) and line[i].folded and reasons[i] is None:
                reasons[i] = reason

    for i, token in enumerate(line):
        if _MAIL.fullmatch(token.text.strip(",;()<>")) or "@" in token.text.strip("@"):
            mark([i], "address")
        elif i not in titles or not token.titled:
            _staff(line, i, context, words, mark)
            _address(line, i, context, words, mark)
            if _is_institution(line, i, context, words, titles):
                mark(_name_of(line, i, context, words, titles), "institution")
    _comma(line, context, mark)
    return reasons


_Mark = Callable[[Sequence[int] | range, str], None]


def _free(line: Sequence[Token], i: int, context: Context) -> bool:
    """Say whether a token may be a part of a name: letters that are no word of the machine."""
    return 0 <= i < len(line) and line[i].letters and not (context.sure[i] and len(line[i].plain) > 1) and not line[i].titled


def _staff(line: Sequence[Token], i: int, context: Context, words: Words, mark: _Mark) -> None:
    token, kinds = line[i], words.kinds
    text = token.text.lower().rstrip(",:")
    if (token.plain in kinds["staff"] or text in kinds["staff"]) and not token.titled:
        # 12 ms, DR 60, MR HEAD: no titles
        after_number = i > 0 and line[i - 1].shape in ("bare", "stays")
        end = i + 1
        while end < min(len(line), i + 5) and (
            _free(line, end, context) or line[end].plain in kinds["particle"] or line[end].plain in kinds["staff"]
        ):
            end += 1
        named = any(len(line[j].folded) > 1 or line[j].text[1:2] == "." for j in range(i + 1, end))
        if named and not (after_number and token.text != token.text.capitalize()):
            mark(range(i, end), "person")
    if token.plain in kinds["degree"] or text in kinds["degree"]:
        start = i
        while start > max(0, i - 4) and (
            _free(line, start - 1, context) or line[start - 1].plain in kinds["particle"] | kinds["degree"]
        ):
            start -= 1
        if any(len(line[j].folded) > 1 for j in range(start, i)) or (not context.sure[i] and "(" in token.text):
            mark(range(start, i + 1), "person")
    if "^" in token.text.strip("^") and token.letters:
        mark([i], "person")


def _comma(line: Sequence[Token], context: Context, mark: _Mark) -> None:
    """Mark what is written as a name in a list: Doe, John M."""
    for i in range(len(line) - 1):
        if line[i].text.endswith(",") and _free(line, i, context) and len(line[i].folded) > 1 and not context.stays[i]:
            if _free(line, i + 1, context) and (not context.stays[i + 1] or _INITIAL.fullmatch(line[i + 1].text)):
                end = i + 2
                while end < len(line) and len(line[end].folded) == 1 and line[end].letters:
                    end += 1
                mark(range(i, end), "person")
        elif re.fullmatch(r"[^\W\d]{2,},[^\W\d]{1,}\.?", line[i].text) and not context.stays[i]:
            mark([i], "person")


def _is_institution(line: Sequence[Token], i: int, context: Context, words: Words, titles: set[int]) -> bool:
    token, before = line[i], line[i - 1] if i else None
    if not token.letters or token.titled or _EASTERN.search(token.text):
        return bool(_EASTERN.search(token.text))
    if before is not None and before.plain in _VENDORS:
        return False
    if i in titles:
        # Hospital is a title too; with a name beside it is none.
        inside = _name_of(line, i, context, words, titles)
        return token.plain in words.kinds["institution"] and any(not context.stays[j] and line[j].folded for j in inside)
    special = before is not None and before.letters and not before.titled and len(before.plain) > _SHORT and (
        not context.stays[i - 1] or before.plain in _SPECIAL
    )  # fmt: skip
    return _says_institution(token, words) or (token.plain in _CENTRE and special)


def _says_institution(token: Token, words: Words) -> bool:
    """Say whether a word is one of institutions, also a misread one."""
    known = words.kinds["institution"]
    if (
        token.plain in known
        or _INSTITUTION.fullmatch(token.plain)
        or (len(token.plain) >= _LONG and alike(token.folded) in _READINGS)
    ):
        return True
    return token.plain not in words and any(word in known for word in words.meant(token.plain) if len(word) >= _LONG)


def _name_of(line: Sequence[Token], i: int, context: Context, words: Words, titles: set[int]) -> range:
    """Give the words that belong to the name of an institution."""

    def belongs(j: int, *, link: bool) -> bool:
        token = line[j]
        if token.titled or (token.shape not in (None, "odd")) or (j in titles and token.plain not in LINKS):
            return False
        if not token.folded or token.plain in LINKS:
            return True
        return link or not context.stays[j] or token.plain in _SPECIAL or token.plain in words.kinds["institution"]

    start, end = i, i + 1
    while start > 0 and belongs(start - 1, link=line[start].plain in LINKS and start != i):
        start -= 1
    while end < len(line) and belongs(end, link=line[end - 1].plain in LINKS):
        end += 1
    return range(start, end)


def _address(line: Sequence[Token], i: int, context: Context, words: Words, mark: _Mark) -> None:
    token = line[i]
    if token.letters and (token.plain in words.kinds["street"] or token.text.lower().rstrip(",:") in words.kinds["street"]):
        _street(line, i, context, mark)
    if token.letters and _STREET.fullmatch(token.plain) and not context.sure[i]:
        numbered = i + 1 < len(line) and line[i + 1].plain[:1].isdigit()
        if numbered or "str" in token.plain:
            mark([i, *([i + 1] if numbered else [])], "address")
    if i + 1 == len(line):
        return
    if re.fullmatch(r"p\.?o\.?", token.plain) and line[i + 1].plain == "box":
        mark(range(i, i + 3), "address")
    one, other = token.text.strip(",."), line[i + 1].text.strip(",.")
    if any(a.fullmatch(one) and b.fullmatch(other) for a, b in _POSTCODES) and not (
        token.plain in words or context.measured[i + 1]
    ):
        mark([i, i + 1], "address")


def _street(line: Sequence[Token], i: int, context: Context, mark: _Mark) -> None:
    """Mark a street with its number, in front or behind."""
    token = line[i]
    for j in range(max(0, i - 4), i - 1):
        between = [k for k in range(j + 1, i) if not _free(line, k, context) and line[k].plain not in _SPECIAL]
        if re.fullmatch(r"\d{1,5}[a-z]?", line[j].plain) and not between:
            mark(range(j, i + 1), "address")
    if i + 1 < len(line) and token.plain not in ("dr", "st", "ct", "place", "course", "ring"):
        end = i + 1
        while end < min(len(line), i + 5) and (_free(line, end, context) or line[end].plain in LINKS):
            end += 1
        if i + 1 < end < len(line) and re.fullmatch(r"\d{1,4}[a-z]?,?", line[end].text.lower()):
            mark(range(i, end + 1), "address")
        if i and end > i + 1 and re.fullmatch(r"\d{1,4}[a-z]?", line[i - 1].plain):
            mark(range(i - 1, end), "address")
    if token.plain in ("strasse", "str") and i and _free(line, i - 1, context) and not context.stays[i - 1]:
        mark([i - 1, i, *([i + 1] if i + 1 < len(line) and line[i + 1].shape is not None else [])], "address")

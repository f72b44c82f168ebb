"""Decides which words of a picture identify a person.

**Way** `judge` takes the words of one line and says for each why it must go, or None when it may stay. The order is:
something of the header, a date or time, a long number, the allow-list; what is left is unknown (`UNKNOWN`), and the mode
decides. A short number stays with its label or unit only.

**Fails** Nothing.

**Standard** PS3.15 E.3.1 (Clean Pixel Data).

**Limits** What is unknown is not looked at further: in header mode names that the header does not know stay.
"""

from __future__ import annotations

import re

from dicomnode.stages.redact.known import Known, distance, fold
from dicomnode.stages.redact.words import Words

#: Nobody knows whether such a word identifies: it goes in strict mode, and stays in header mode.
UNKNOWN = frozenset(("unknown-text", "unknown-number"))
#: A number of this many digits may be an identifier in any mode.
LONG_DIGITS = 5
_MONTHS_TEXT = (
    "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC JANUARY FEBRUARY MARCH APRIL JUNE JULY AUGUST SEPT SEPTEMBER OCTOBER "
    "NOVEMBER DECEMBER MAI MARZ MAERZ OKT DEZ JANUAR FEBRUAR JUNI JULI OKTOBER DEZEMBER"
)
_MONTHS = _MONTHS_TEXT.split()
_M = f"(?:{'|'.join(month for month in _MONTHS if len(month) == 3)})[A-Z]*"
_YEAR = r"(?:19|20)\d{2}"
_DATE = re.compile(
    r"(?<!\d)(?:"
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{2,4}"
    rf"|\d{{1,2}}[-/. ]?{_M}[-/., ]?\d{{2,4}}"
    rf"|{_YEAR}[-/. ]?{_M}[-/. ]?\d{{1,2}}"
    rf"|{_YEAR}[01]\d[0-3]\d"
    rf"|{_YEAR}"
    r"|\d{1,2}:\d{2}(?::\d{2})?"
    r")(?!\d)"
)
_NUMBER = re.compile(r"[-+~<>=#(]*\d+([.,/x:-]\d+)*[)%]*")
_MEASURE = re.compile(r"[-+]?\d+([.,]\d+)?([a-z%°/]+\d?)", re.IGNORECASE)
_LABELLED = re.compile(r"([a-z]{1,5})[:=.]?[-+]?\d+([.,/]\d+)?", re.IGNORECASE)


def judge(line: list[str], known: Known, words: Words) -> list[str | None]:
    """Judge the words of one line.

    Returns
    -------
    For each word None when it may stay, a reason of `records.Region` when it identifies in every mode, one of `UNKNOWN` else.
    """
    reasons: list[str | None] = [None] * len(line)
    months = _near_months(line)
    for i, text in enumerate(line):
        if known.matches(text) and not _common(text, known, words):
            reasons[i] = "header-match"
        elif i in months or _DATE.search(text.upper()):
            reasons[i] = "date"
        elif len(re.sub(r"\D", "", text)) >= LONG_DIGITS:
            reasons[i] = "number"
        elif not _allowed(line, i, words):
            reasons[i] = "unknown-number" if _NUMBER.fullmatch(text) else "unknown-text"
    _join_pairs(line, reasons, known)
    _join_dates(line, reasons, known)
    return reasons


def _common(text: str, known: Known, words: Words) -> bool:
    """A technical word stays technical unless the header holds that very word."""
    plain = text.lower().strip(".,:;()[]")
    return plain in words and fold(text) not in known.parts


def _near_months(line: list[str]) -> set[int]:
    """Indices of month names and of the numbers beside them."""
    found: set[int] = set()
    for i, text in enumerate(line):
        if fold(text) not in _MONTHS:
            continue
        beside = [j for j in (i - 2, i - 1, i + 1, i + 2) if 0 <= j < len(line) and line[j].strip(".,")[:1].isdigit()]
        if beside:
            found |= {i, *beside}
    return found


def _allowed(line: list[str], i: int, words: Words) -> bool:
    text = line[i].lower().strip(".,:;()[]{}|'\"")
    if not any(c.isalnum() for c in text):
        # A lone mark says nothing.
        return True
    if text in words or _parts_allowed(text, words) or (line[i].endswith(":") and _misread_title(text, words)):
        return True
    if _NUMBER.fullmatch(text):
        before = line[i - 1].lower().strip(".,:;=()[]") if i else ""
        behind = line[i + 1].lower().strip(".,:;()[]") if i + 1 < len(line) else ""
        return behind in words.unit or before in words.label
    measure, labelled = _MEASURE.fullmatch(text), _LABELLED.fullmatch(text)
    return bool((measure and measure[2].lower() in words.unit) or (labelled and labelled[1].lower() in words.label))


def _misread_title(text: str, words: Words) -> bool:
    """A word before a colon is a title, also when OCR has mistaken one of its letters."""
    return len(text) >= 3 and any(abs(len(word) - len(text)) <= 1 and distance(word, text) <= 1 for word in words.word)


def _parts_allowed(text: str, words: Words) -> bool:
    pieces = [piece for piece in re.split(r"[-/_:.&+]", text) if piece]
    return len(pieces) > 1 and all(piece in words for piece in pieces)


def _join_pairs(line: list[str], reasons: list[str | None], known: Known) -> None:
    """Find values that OCR has cut in two."""
    for i in range(len(line) - 1):
        pair = (i, i + 1)
        if any(reasons[j] is None or reasons[j] in UNKNOWN for j in pair) and fold(line[i] + line[i + 1]) in known.wholes:
            for j in pair:
                reasons[j] = "header-match"


def _join_dates(line: list[str], reasons: list[str | None], known: Known) -> None:
    """Find dates of the header whose day, month and year stand apart."""
    for i in range(len(line) - 1):
        for end in (i + 2, i + 3):
            if end <= len(line) and known.is_date("".join(line[i:end])):
                reasons[i:end] = ["header-match"] * (end - i)

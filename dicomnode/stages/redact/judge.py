"""Decides which words of a picture identify a person.

**Way** `judge` takes the words of one line and says for each why it must go, or None when it may stay. The order is: something
of the header (`known`), a date or time (`dates`), a telephone number or a long number (`numbers`), people, institutions and
addresses (`around`), the value of a title (`fields`), the allow-list and measures (`tokens`, `words`); what is left is unknown
(`UNKNOWN`), and the mode decides. Last, what stands beside a name goes with it: initials, sex, titles.

**Fails** Nothing.

**Standard** PS3.15 E.3.1 (Clean Pixel Data).

**Limits** What is unknown is not looked at further: in header mode names that the header does not know stay, unless something
on their line says that they are names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dicomnode.stages.redact import fields
from dicomnode.stages.redact.around import LINKS, around
from dicomnode.stages.redact.dates import MONTHS, dated, is_year
from dicomnode.stages.redact.known import Known
from dicomnode.stages.redact.misread import fold, listed
from dicomnode.stages.redact.numbers import LONG_DIGITS, digits, telephones
from dicomnode.stages.redact.tokens import Context, Token, tokens
from dicomnode.stages.redact.words import Words

#: Nobody knows whether such a word identifies: it goes in strict mode, and stays in header mode.
UNKNOWN = frozenset(("unknown-text", "unknown-number"))
_SEX = listed("m f w o d male female mann frau mannlich weiblich homme femme hombre mujer masculino femenino uomo donna h")
#: An age as DICOM has it (045Y), and as people write it.
_AGE = re.compile(
    r"\d{3}[ymwd]|\d{1,3}(?:y|yr|yrs|yo|y/o|y\.o|years?|jahre?|j|jr|ans|anos|anni|jaar)(?:[/,]?[mfw])?|[mfw][/,]?\d{1,3}y|\d{1,3}y(?:\d{1,2}m)?"
)
_YEARS = listed("y yr yrs yo y/o y.o year years jahre jahr j ans anos anni jaar old")
#: Marks of side and view: a name of two letters does not take them.
_MARKS = listed("l r f m h a p lt rt ap pa cc lm ml lo la ra lv rv")


def judge(line: list[str], known: Known, words: Words) -> list[str | None]:
    """Judge the words of one line.

    Returns
    -------
    For each word None when it may stay, a reason of `records.Region` when it identifies in every mode, one of `UNKNOWN` else.
    """
    row = tokens(line, words)
    context = Context(row, words, lambda token: known.matches(token.text), aged=any(age.isdigit() for age in known.ages))
    held = _of_header(row, known, context)
    values, titles = fields.values(row, context, words)
    near = around(row, context, words, titles)
    days = dated([token.text for token in row])
    free, dialled = [], False
    for i, token in enumerate(row):
        # +49 41 ...: what stands behind an international code is explained by nothing else
        dialled = token.shape is not None and (dialled or bool(re.fullmatch(r"\+\d{1,3}", token.text)))
        free.append(dialled or (token.shape is not None and not context.measured[i]))
    phones = telephones([token.text for token in row], free)
    reasons: list[str | None] = [None] * len(row)
    for i, token in enumerate(row):
        if held[i]:
            reasons[i] = "header-match"
        elif i in days or (is_year(token.plain) and not context.measured[i]):
            reasons[i] = "date"
        elif i in phones or token.shape in ("phone", "number"):
            reasons[i] = phones.get(i) or token.shape
        elif token.shape == "bare" and digits(token.plain) >= LONG_DIGITS and not context.stays[i]:
            reasons[i] = "number"
        elif _is_age(row, i):
            reasons[i] = "person"
        elif near[i] or values[i]:
            reasons[i] = near[i] or values[i]
        elif (i not in titles and not context.stays[i]) or (len(row) == 1 and token.text.strip("()[].") in ("M", "F", "W")):
            reasons[i] = "unknown-text" if token.shape is None else "unknown-number"
    _companions(row, reasons, known, context, words)
    return _of_words(line, row, reasons)


def _of_words(line: Sequence[str], row: Sequence[Token], reasons: Sequence[str | None]) -> list[str | None]:
    """Give each word the strongest reason of its pieces."""
    found: list[str | None] = [None] * len(line)
    for token, reason in zip(row, reasons, strict=True):
        if reason and (found[token.word] is None or found[token.word] in UNKNOWN):
            found[token.word] = reason
    return found


def _of_header(row: Sequence[Token], known: Known, context: Context) -> list[bool]:
    """Find what the header holds, in single words, in neighbours that OCR has cut apart, and in pieces of a word."""
    found = [_matches(token, i, known, context) for i, token in enumerate(row)]
    for i, token in enumerate(row):
        if not found[i] and not context.sure[i]:
            pieces = [piece for piece in re.split(r"[/,;_()^+&-]", token.text) if len(fold(piece)) >= 2]
            found[i] = len(pieces) > 1 and any(known.holds(piece) and not piece.isdigit() for piece in pieces)
    for i in range(len(row) - 1):
        for end in (i + 2, i + 3):
            window = row[i:end]
            glued = "".join(token.folded for token in window)
            if len(window) == end - i and not all(found[i:end]) and len(glued) >= 4 and all(token.folded for token in window):
                whole = glued in known.wholes or (known.is_date(glued) and not context.measured[i])
                if whole or (
                    len(glued) >= 6 and not any(context.sure[i:end]) and glued in known.people | known.codes | known.places
                ):
                    found[i:end] = [True] * len(window)
    return found


def _matches(token: Token, i: int, known: Known, context: Context) -> bool:
    text = token.folded
    if len(text) < 2 and text.isascii():
        return text in known.ages and (
            len(context.sure) == 1 if text.isalpha() else not context.measured[i] and not context.sure[i]
        )
    if token.shape is not None and digits(text) == len(text) and len(text) < LONG_DIGITS:
        # A short number of the header is a number like any other when a label or unit explains it.
        return (known.holds(text) or known.near(text)) and not context.measured[i]
    if token.shape == "stays" and context.measured[i]:
        return len(text) >= LONG_DIGITS - 1 and (text in known.codes or text in known.wholes)
    if context.meant(token) or context.sure[i]:
        # A technical word stays technical unless the person is called that very word.
        return (known.is_person(text) or (known.is_date(text) and digits(text) >= 4)) and (
            len(text) > 2 or text.lower() not in _MARKS
        )
    return known.matches(token.text)


def _is_age(row: Sequence[Token], i: int) -> bool:
    text = row[i].plain
    if _AGE.fullmatch(text):
        return True
    if text in _YEARS and i and re.fullmatch(r"\d{1,3}", row[i - 1].plain):
        return row[i].text[:1].isupper() or len(text) > 1
    following = row[i + 1] if i + 1 < len(row) else None
    if following is None or not re.fullmatch(r"\d{1,3}", text):
        return False
    return following.plain in _YEARS or bool(re.fullmatch(r"[MFW]", following.text) and i + 2 == len(row))


_NAMED = frozenset(("header-match", "person", "institution", "address"))
_SAINTS = listed("st st. ste sta san santa sao saint sankt la le el al de di da du van von der den of")
#: Titles that are drawn with the number behind them, when no colon parts them.
_CONTACT = listed("tel tel. phone ph telefon telephone fax mobile cell call")


def _companions(row: Sequence[Token], reasons: list[str | None], known: Known, context: Context, words: Words) -> None:
    """Let go what stands beside a name: initials, sex, titles, particles, and unknown words beside a name of the header."""
    for forth in (True, False, True):
        order = range(len(row)) if forth else range(len(row) - 1, -1, -1)
        for i in order:
            if reasons[i] is None or reasons[i] in UNKNOWN:
                beside = [j for j in (i - 1, i + 1) if 0 <= j < len(row)]
                reasons[i] = _drawn(row, i, beside, reasons, known, context, words) or reasons[i]


def _drawn(
    row: Sequence[Token],
    i: int,
    beside: Sequence[int],
    reasons: Sequence[str | None],
    known: Known,
    context: Context,
    words: Words,
) -> str | None:
    """Give the reason that a word takes over from its neighbours."""
    token = row[i]
    if not token.folded or token.titled:
        return None
    if token.letters and any(reasons[j] == "header-match" and not row[j].titled for j in beside) and known.holds(token.text):
        return "header-match"
    return (
        _led(row, i, reasons) or _named(row, i, beside, reasons, known, context, words) or _sexed(row, i, beside, reasons)
        or _loose(row, i, beside, reasons, context)
    )  # fmt: skip


def _led(row: Sequence[Token], i: int, reasons: Sequence[str | None]) -> str | None:
    """Draw particles and titles to what they lead to, and links to what they join."""
    plain, behind = row[i].plain, reasons[i + 1] if i + 1 < len(row) else None
    if behind and len(row[i].folded) <= 3 and row[i].letters and row[i].text[-1:] == "." and row[i + 1].shape in (None, "odd"):
        return behind  # Dr. Or. St.
    dialled = [j for j in (i - 1, i) if j >= 0 and re.fullmatch(r"\+\d{1,3}", row[j].text)]
    if behind and dialled and row[i].shape:
        return behind
    if plain in LINKS and i and behind in _NAMED and reasons[i - 1] in _NAMED:
        return reasons[i - 1]
    if (plain in _SAINTS and behind in _NAMED | UNKNOWN and row[i + 1].letters) or (
        plain in _CONTACT and behind in ("phone", "address", "number")
    ):
        return behind
    return None


def _named(
    row: Sequence[Token],
    i: int,
    beside: Sequence[int],
    reasons: Sequence[str | None],
    known: Known,
    context: Context,
    words: Words,
) -> str | None:
    """Draw what may belong to a person's name."""
    token = row[i]
    if not token.letters or not any(_names(row[j], reasons[j], known) for j in beside):
        return None
    own = "header-match" if known.matches(token.text) else "person"
    if reasons[i] == "unknown-text" or not context.sure[i]:
        return "person"
    if token.plain in words.kinds["particle"] | words.kinds["degree"] | words.kinds["staff"] or own == "header-match":
        return own
    initial = len(token.folded) == 1 or (len(token.folded) == 2 and token.folded in known.people)
    return ("header-match" if token.folded[0] in known.initials else "person") if initial else None


def _sexed(row: Sequence[Token], i: int, beside: Sequence[int], reasons: Sequence[str | None]) -> str | None:
    """Draw the sex to a name or date."""
    if row[i].plain not in _SEX or any(row[j].titled for j in beside):
        return None
    return "person" if any(reasons[j] in ("date", "person", "header-match") for j in beside) else None


def _loose(row: Sequence[Token], i: int, beside: Sequence[int], reasons: Sequence[str | None], context: Context) -> str | None:
    """Draw single letters to unknown words: initials."""
    single = len(row[i].folded) == 1 and row[i].letters and row[i].text.upper() not in ("L", "R") and context.sure[i]
    return "unknown-text" if single and any(reasons[j] == "unknown-text" for j in beside) else None


def _names(token: Token, reason: str | None, known: Known) -> bool:
    """Say whether a word is surely of a person's name."""
    if not token.letters or token.folded in MONTHS:
        return False
    return reason == "person" or (
        reason == "header-match" and (token.folded in known.people or not known.is_date(token.folded))
    )

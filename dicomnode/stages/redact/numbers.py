"""Numbers of a picture by their shape: measures, labelled numbers, ratios and matrices, telephone numbers, identifiers.

**Way** `shape` says what one word with digits is by itself; what a bare number means depends on the words around (`tokens`).
`telephones` finds numbers of many digits in several words.

**Fails** Nothing.

**Standard** PS3.15 Table E.1-1: identifiers and telephone numbers of all kinds.

**Limits** An identifier of up to three digits looks like any number: it goes as unknown, or behind its title.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from dicomnode.stages.redact.misread import plain
from dicomnode.stages.redact.words import Words

#: ``stays`` by itself, ``bare`` needs a label or unit, ``number`` and ``phone`` identify, ``odd`` is letters and digits.
Shape = Literal["stays", "bare", "number", "phone", "odd"]
#: A number of this many digits may be an identifier, whatever stands beside it.
LONG_DIGITS = 5
_N = r"\d+(?:[.,]\d+)*"
_EDGE = "()[]{}<>|\"',;=~#≈*:"
_SIGNS = r"[-+±~≤≥<>]{0,2}"
_COMPOUND = re.compile(rf"{_SIGNS}({_N}(?:(?:[x×*/:–-]|\.\.|\+/-|±)[-+]?{_N})*)([a-zµ°%/²³^*·.\-\d]*)[.)]?")
_LABELLED = re.compile(rf"([a-z%#]+(?:[/.#-][a-z#]+)?\d?)[:=.#-]?{_SIGNS}({_N}(?:[x×*/-]{_N})*)([a-zµ°%/²³^*·-]*\d?)")
#: Transducers (C5-1), kernels (B30f), software (VB20A): short, and with fixed letters in front.
_DEVICE = re.compile(
    r"(?:[clpsvexm]|pa|ml|ca|la|ev|vf|cx|ch|ic|ric|rab|rsp|sp|ln|bp|ec|cb|sl|el|er|l3|d)\d{1,2}(?:-\d{1,2})?-?[a-z]{0,3}"
    r"|(?:b|h|br|bl|hr|hv|hc|ur|tr|qr|ub|bv|sa|i|j|u|t|fc|fl|yb|yc)\d{2}[a-z]?(?:\\\d)?|v[a-e]\d{2}[a-z](?:_\w{1,5})?|\d{1,2}[a-z]\d?-[a-z]{1,3}|[a-z]\d{1,2}|\d{1,2}[lcs]"
)
_PHONE = re.compile(
    r"(?:\+|00)\d[\d\s().\-/]{6,}\d|\(0?\d{2,5}\)\s?[\d\s.\-/]{4,}\d|0\d{1,4}[\s/.-]\d[\d\s/.-]{3,}\d|\d{3}[-.\s]\d{3}[-.\s]\d{4}|\d{3}[-.]\d{4}|(?:\d{2}[\s.]){4}\d{2}"
)
_MISREAD = re.compile(r"([-+]?[\doOlI|SBZ]+(?:[.,][\doOlISBZ]+)?)([a-zA-Zµ%°/²³]*)")
_READ = str.maketrans("oOlI|SBZ", "00111582")


@lru_cache(4096)
def digits(text: str) -> int:
    """Number of digits."""
    return sum(c.isdigit() for c in text)


def shape(text: str, words: Words) -> Shape | None:
    """Say what a word with digits is; None for one without."""
    if not digits(text):
        return None
    bare = plain(text).strip(_EDGE)
    if _PHONE.fullmatch(text.strip("[]{}<>|\"',;=~#*:")) and digits(text) >= 7:
        return "phone"
    if (found := _measured(bare, words)) is not None:
        return found
    if bare in words or _DEVICE.fullmatch(bare):
        return "stays" if digits(bare) < LONG_DIGITS else "number"
    pieces = [piece for piece in re.split(r"[-/_:+,;()=]", bare) if piece]
    if (
        len(pieces) > 1
        and digits(bare) < LONG_DIGITS
        and all(piece in words or shape(piece, words) == "stays" for piece in pieces)
    ):
        return "stays"
    return (
        "number"
        if digits(bare) >= LONG_DIGITS - 1 and (any(c.isalpha() for c in bare) or digits(bare) >= LONG_DIGITS)
        else "odd"
    )


def _measured(bare: str, words: Words) -> Shape | None:
    if match := _COMPOUND.fullmatch(bare):
        number, unit = match[1], match[2].strip(".-")
        if _long(number):
            return "number"
        if not unit:
            return _plain_number(bare, number)
        if unit in words.unit or unit.rstrip("23") in words.unit or unit in ("rn", "rnm", "mrn", "crn", "rnas", "rns"):
            return "stays"
        # 2views, 3plane, 15frames
        if unit.isalpha() and len(unit) >= 3 and unit in words and digits(number) <= 3:
            return "stays"
    match = _LABELLED.fullmatch(bare)
    if match and (match[1] in words.label or match[1].rstrip("#") in words.label) and (not match[3] or match[3] in words.unit):
        # A12-3456 is no range
        joined = len(match[1]) <= 2 and digits(bare) >= LONG_DIGITS and re.fullmatch(r"\d+[-/]\d+", match[2])
        return "number" if joined or _long(match[2]) else "stays"
    return None


def _long(number: str) -> bool:
    """Say whether a number, or one of those that it joins, has the length of an identifier."""
    return any(len(re.split(r"[.,]", piece)[0]) >= LONG_DIGITS or (piece.count(".") > 1 and digits(piece) >= 8)
               for piece in re.split(r"[x×*/:–+±-]|\.\.", number) if piece)  # fmt: skip


def _plain_number(bare: str, number: str) -> Shape:
    """Tell apart what needs no label: one digit, a part of a whole, a short decimal, a matrix, a range."""
    pieces = re.split(r"[x×*/:–-]|\.\.", number)
    if len(pieces) == 1:
        return _single(bare, number)
    if re.fullmatch(r"\d{1,4}(?:[.,]\d+)?(?:[x×*]\d{1,4}(?:[.,]\d+)?){1,2}", number) or re.fullmatch(
        r"1[:/]\d{1,3}|\d[:/]\d", number
    ):
        return "stays"
    leading = any(len(piece) > 1 and piece[0] == "0" and piece.isdigit() for piece in pieces)
    values = [float(piece.replace(",", ".")) for piece in pieces if re.fullmatch(r"\d+([.,]\d+)?", piece)]
    short, ranged = digits(number) <= LONG_DIGITS, len(pieces) == len(values) == 2 and re.search(r"[/–-]", number)
    if not leading and ranged and short and values[0] <= values[1]:
        return "stays"
    return "bare" if digits(number) < LONG_DIGITS or (ranged and not leading) else "number"


def _single(bare: str, number: str) -> Shape:
    """Tell apart single numbers: a digit, a signed one, a percentage and a short decimal need no label."""
    if re.fullmatch(r"\d", number) or re.fullmatch(r"[-+±]\d{1,4}([.,]\d{1,3})?|\d{1,4}%", bare):
        return "stays"
    if match := re.fullmatch(r"(\d{1,3})[.,](\d{1,4})", number):
        # 17.04 may be a day
        return "bare" if re.fullmatch(r"(?:0?[1-9]|[12]\d|3[01])[.,](?:0[1-9])", match[0]) else "stays"
    return "bare"


def repaired(text: str, words: Words, behind: str) -> bool:
    """Say whether letters in a number are digits that OCR has mistaken, and its unit shows that it is one."""
    match = _MISREAD.fullmatch(text.strip(_EDGE))
    if not match or not any(c.isdigit() for c in match[1]) or match[1].isdigit():
        return False
    unit = plain(match[2]) or behind
    return unit in words.unit and len(unit) > 1 and digits(match[1].translate(_READ)) < LONG_DIGITS


def telephones(texts: Sequence[str], free: Sequence[bool]) -> dict[int, Literal["phone", "number"]]:
    """Find numbers of seven digits and more in neighbouring words that are `free` of labels and units."""
    found: dict[int, Literal["phone", "number"]] = {}
    start = 0
    while start < len(texts):
        end = start
        while end < len(texts) and free[end] and re.fullmatch(r"[\d()+./:#-]+", texts[end].strip(",;")):
            end += 1
        run = texts[start:end]
        if len(run) > 1 and digits("".join(run)) >= 7 and not _progress(run) and not all("." in text for text in run):
            joined = " ".join(text.strip(",;:#") for text in run)
            reason: Literal["phone", "number"] = "phone" if _PHONE.fullmatch(joined) else "number"
            found.update(dict.fromkeys(range(start, end), reason))
        start = max(end, start + 1)
    return found


def is_ruler(texts: Sequence[str]) -> bool:
    """Say whether a line is the scale of a ruler: three short numbers or more in equal steps."""
    return len(texts) >= 3 and all(re.fullmatch(r"[-+]?\d{1,3}(?:[.,]\d)?", text) for text in texts) and _progress(texts)


def _progress(run: Sequence[str]) -> bool:
    values = [float(text.replace(",", ".")) for text in run if re.fullmatch(r"[-+]?\d{1,4}(?:[.,]\d+)?", text)]
    steps = {round(b - a, 3) for a, b in pairwise(values)}
    return len(values) == len(run) >= 3 and len(steps) == 1

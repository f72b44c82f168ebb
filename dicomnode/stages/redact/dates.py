"""Dates and times, as people and consoles write them.

**Way** `forms` gives one date in every form, for what the header holds. `dated` finds dates and times of any day among the
words of a line, in one piece or in several.

**Fails** Nothing.

**Standard** PS3.15 Table E.1-1: all dates and times are removed; PS3.5 section 6.2: DA, DT, TM.

**Limits** Months in English, German, French, Spanish, Italian, Portuguese, Dutch and the Nordic languages, and in digits of
China, Japan and Korea. A day and a month in digits alone (17.04.) are a date with both points only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from dicomnode.stages.redact.misread import alike, distance, fold, listed, plain

#: Names of each month, folded.
_MONTHS = (
    "JAN JANUARY JANUAR JANVIER JANV ENERO ENE GENNAIO GENN JANEIRO JANUARI JAENNER JANNER",
    "FEB FEBRUARY FEBRUAR FEVRIER FEVR FEV FEBRERO FEBBRAIO FEVEREIRO FEBRUARI",
    "MAR MARCH MARZ MAERZ MRZ MARS MARZO MARCO MAART",
    "APR APRIL AVR AVRIL ABR ABRIL APRILE",
    "MAY MAI MAYO MAGGIO MAIO MEI MAJ",
    "JUN JUNE JUNI JUIN JUNIO GIUGNO GIU JUNHO",
    "JUL JULY JULI JUIL JUILLET JULIO LUGLIO LUG JULHO",
    "AUG AUGUST AOUT AGOSTO AGO AUGUSTUS AUGUSTI",
    "SEP SEPT SEPTEMBER SEPTEMBRE SEPTIEMBRE SETTEMBRE SETEMBRO",
    "OCT OCTOBER OKT OKTOBER OCTOBRE OCTUBRE OTTOBRE OTT OUTUBRO OKTOBRE",
    "NOV NOVEMBER NOVEMBRE NOVIEMBRE NOVEMBRO",
    "DEC DECEMBER DEZ DEZEMBER DECEMBRE DICIEMBRE DIC DICEMBRE DEZEMBRO DES DESEMBER",
)
MONTHS = {name: number for number, names in enumerate(_MONTHS, 1) for name in names.split()}
_DAYS = listed(
    "mon monday tue tues tuesday wed wednesday thu thur thurs thursday fri friday sat saturday sun sunday montag "
    "dienstag mittwoch donnerstag freitag samstag sonnabend sonntag lundi mardi mercredi jeudi vendredi samedi "
    "dimanche lunes martes miercoles jueves viernes sabado domingo lunedi martedi mercoledi giovedi venerdi sabato "
    "domenica"
)
_M = f"(?:{'|'.join(sorted(MONTHS, key=len, reverse=True))})"
_Y = r"(?:(?:19|20)\d{2}|'?\d{2})"
_D = r"(?:[0-3]?\d)(?:ST|ND|RD|TH)?"
_S = r"[-/., _']{0,2}"
#: With a month as a word.
_WORDED = re.compile(
    rf"{_D}{_S}(?:DE )?{_M}(?:{_S}(?:DE )?{_Y}|[.]?)|{_M}{_S}{_D}{_S}{_Y}|{_M}{_S}(?:{_D}|{_Y})"
    rf"|(?:19|20)\d{{2}}{_S}{_M}{_S}{_D}"
    rf"|(?:19|20)\d{{2}}{_S}{_M}"
)
_DIGITS = re.compile(r"(?<![\d.])(\d{1,4})\s?([-/._,])\s?(\d{1,2})\s?([-/._,])\s?(\d{2,4})(?!\d)")
_WHOLE = re.compile(r"(?<!\d)((?:18|19|20)\d{2})([01]\d)([0-3]\d)(?:T?\d{4,6}(?:[.]\d+)?)?(?!\d)")
_PARTIAL = re.compile(
    r"(?<![\d.,/])(?:(0?[1-9]|1[0-2])[-/.]((?:19|20)\d{2})|((?:19|20)\d{2})[-/.](0[1-9]|1[0-2])|[0-3]?\d[.][01]?\d[.])(?![\d.])"
)
_EAST = re.compile(
    r"\d+\s*[年년]|\d+\s*[月월]\s*\d*|\d+\s*[日일]$|(?:昭和|平成|令和|大正|明治|民國|民国)\s*\d*|^[mtshr]\d{1,2}[./-]\d{1,2}[./-]\d{1,2}$",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"(?<![\d:])(?:[01]?\d|2[0-4])[:;](?:[0-5]\d)(?:[:;.,][0-5]\d)?(?:[.,]\d+)?(?:\s?[ap]\.?m\.?)?(?![\d:])|^(?:[01]?\d|2[0-3])h[0-5]\d$"
    r"|^(?:[01]?\d|2[0-3])[.][0-5]\d[.][0-5]\d$|^\d{1,2}[ap]m$",
    re.IGNORECASE,
)
_YEAR = re.compile(r"'?(?:19|20)\d{2}")
_AFTER_TIME = listed(
    "am pm a.m p.m a.m. p.m. uhr h hrs hours o'clock utc gmt est edt pst pdt cst cdt mst cet cest mez mesz jst"
)
#: What stands before a time that is no time of day, and before a version that is no date.
_LASTING = listed(
    "fluoro fluorotime ft elapsed timer dur duration delay loop clip remaining exposure scan rotation bolus prep hold"
)
_VERSIONS = listed("v ver version vers sw software rel release build firmware fw rev revision syngo")
_READ = str.maketrans("OoQDlI|iSsBZ", "000011115582")
_EDGE = ".,:;()[]{}<>|\"'*#-_/=~"


def forms(year: str, month: str, day: str) -> set[str]:
    """Give a date as people write it, folded: year first, day first, month first, short years, months as words."""
    names = _MONTHS[int(month) - 1].split() if 1 <= int(month) <= 12 else []
    found = set()
    for d, m in product({day, day.lstrip("0")}, {month, month.lstrip("0")}):
        found |= {f"{year}{m}{d}", f"{d}{m}{year}", f"{m}{d}{year}"}
        for name in names:
            found |= {f"{d}{name}{year}", f"{d}{name}{year[2:]}", f"{name}{d}{year}", f"{year}{name}{d}"}
    found |= {f"{year[2:]}{month}{day}", f"{day}{month}{year[2:]}", f"{month}{day}{year[2:]}"}
    # Of a date that is not one, too little is left to be told from other numbers.
    return {form for form in found if len(form) >= 6}


def clock(value: str) -> set[str]:
    """Give a time of the header as consoles write it without marks: with seconds, and on the clock of twelve hours."""
    digits = re.sub(r"\D", "", value.split(".", maxsplit=1)[0])
    if len(digits) < 4 or int(digits[:2]) > 24:
        return set()
    twelve = f"{(int(digits[:2]) - 1) % 12 + 1}{digits[2:4]}"
    return {digits[:4], digits[:6], f"{twelve}AM", f"{twelve}PM"}


def _plausible(a: str, b: str, c: str) -> bool:
    """Say whether three numbers can be a day: month and day in some order, and the year first or last."""
    if len(a) == 4:
        return len(c) <= 2 and 1700 <= int(a) <= 2600 and _day(int(b), int(c))
    return (len(a) <= 2 and len(c) in (2, 4) and _day(int(a), int(b))) or (len(a) == 2 and len(c) == 2 and _day(int(b), int(c)))


def _day(one: int, other: int) -> bool:
    return (1 <= one <= 31 and 1 <= other <= 12) or (1 <= one <= 12 and 1 <= other <= 31)


def is_date(text: str) -> bool:
    """Say whether a text holds a date or a time of day."""
    if not any(c.isdigit() for c in text):
        return False
    if _holds(text):
        return True
    read = text.translate(_READ)
    marks = sum(read.count(mark) for mark in "-/.:")
    return read != text and marks >= 1 and all(c.isdigit() or c in "-/.:" for c in read) and _holds(read)


def _holds(text: str) -> bool:
    upper = plain(text).upper()
    if any(_plausible(a, b, c) for a, s, b, t, c in _DIGITS.findall(upper) if s == t or len(a) == 4 or len(c) == 4):
        return True
    if any(_day(int(month), int(day)) for _, month, day in _WHOLE.findall(upper)):
        return True
    if _TIME.search(text) or _PARTIAL.search(upper) or _EAST.search(text):
        return True
    return any(c.isalpha() for c in upper) and bool(_WORDED.fullmatch(upper.strip(_EDGE)))


def is_year(text: str) -> bool:
    """Say whether a text is a year and nothing else."""
    return bool(_YEAR.fullmatch(text.strip(_EDGE)))


def dated(texts: Sequence[str]) -> set[int]:
    """Give the indices of the words that make dates and times."""
    found: set[int] = set()
    bare = [plain(text).strip(_EDGE) for text in texts]
    for i, text in enumerate(texts):
        if is_date(text) and not _lasting(texts, bare, i):
            found.add(i)
    for i in range(len(texts)):
        if not (fold(bare[i]) in MONTHS or len(bare[i]) == 3 or any(c.isdigit() for c in bare[i])):
            continue
        for size in (2, 3, 4, 5):
            window = range(i, min(i + size, len(texts)))
            if len(window) == size and not found.issuperset(window) and _together([texts[j] for j in window]):
                found.update(window)
    for i, word in enumerate(bare):
        beside = [j for j in (i - 1, i + 1) if 0 <= j < len(texts)]
        if (
            word in _AFTER_TIME and i and bare[i - 1][:1].isdigit() and (i - 1 in found or word not in ("h", "est", "hours"))
        ) or (word in _DAYS and any(j in found for j in beside)):
            found.update({i, i - 1} if word in _AFTER_TIME else {i})
    return found


def _lasting(texts: Sequence[str], bare: Sequence[str], i: int) -> bool:
    """Say whether what looks like a time is a duration, or what looks like a date a version."""
    before = bare[max(0, i - 2) : i]
    if any(word in _LASTING for word in before) and not _DIGITS.search(texts[i]):
        return bool(_TIME.search(texts[i]))
    return bool(before) and before[-1] in _VERSIONS and "." in texts[i] and not re.search(r"(?:19|20)\d{2}", texts[i])


def _together(texts: list[str]) -> bool:
    """Say whether several words make one date."""
    bare = [_mended(text.strip(".,;:()[]")) for text in texts]
    if any(is_year(word) for word in bare):
        bare = [_month(word) for word in bare]
    if any(fold(word) in MONTHS for word in bare):
        return bool(_WORDED.fullmatch(fold_blanks(bare)))
    if not all(c.isdigit() or c in "-/.,:" for text in texts for c in text):
        return False
    glued = "".join(texts)
    if sum(glued.count(mark) for mark in "-/.:") in (1, 2) and len(texts) <= 5 and glued[-1].isdigit():
        return bool(_TIME.fullmatch(glued)) or any(_plausible(a, b, c) for a, _, b, _, c in _DIGITS.findall(glued))
    numbers = [word for word in bare if word.strip("-/")]
    if len(numbers) != 3 or not all(word.isdigit() for word in numbers):
        return False
    a, b, c = (int(word) for word in numbers)
    sizes = [len(word) for word in numbers]
    if 4 in (sizes[0], sizes[2]) and max(sizes[1], min(sizes[0], sizes[2])) <= 2:
        return _plausible(*numbers)
    return sizes == [2, 2, 2] and b - a != c - b and _plausible(*numbers)


def _mended(word: str) -> str:
    """Give a number of a day back its digits."""
    read = word.translate(_READ)
    return read if len(word) in (1, 2, 4) and read.isdigit() and any(c.isdigit() for c in word) else word


def _month(word: str) -> str:
    """Give a misread short month of a date that has its year."""
    short = fold(word)
    if len(short) != 3 or short in MONTHS or short.isdigit():
        return word
    return next((names.split()[0] for names in _MONTHS if distance(alike(short), alike(names[:3])) <= 1), word)


def fold_blanks(words: Sequence[str]) -> str:
    """Join words by blanks, upper case without accents."""
    return " ".join(plain(word).upper() for word in words)

"""What is written on pictures: names, numbers, dates, places, and the technical words of consoles; all of it made up.

**Way** `phrase` makes one line to find, `line` one to read. The words come from a seeded generator, so that a run repeats.

**Limits** Names are strung together from syllables: the network shall learn what text looks like, not what it says.
"""

from __future__ import annotations

import string

import numpy as np

from dicomnode.stages.redact.words import Words

_SYLLABLES = (  # noqa: SIM905 - sixty words are read more easily so
    "an ber cor da el fin gar hol is jo ka lan mor na ol per qui ros sto tan ul ver wil xi yor zan mck o'c sch brun gia "
    "lee ma de vi ra no ti sa ri lo ne to mi le ko shi ha yu chen wei ngu pat sing kum ak bar du ja cz ski sen son"
).split()
_TITLES = (  # noqa: SIM905
    "Name Patient ID DOB Sex Age Acc# Study Date Series Image Inst Hospital Ref Dr. Physician Operator Tech MRN Pat. Geb. Nom "
    "Institution Exam Time Station Protocol Birth"
).split()
_TECHNICAL = (  # noqa: SIM905
    "L|R|AP|PA|LAT|SUPINE|ERECT|PORTABLE|MI 1.1|TIs 0.4|FR 25Hz|RS|2D|71%|C 55|P Low|HPen|120 kV|250 mAs|W:400 L:40|Zoom 120%|"
    "TE 12.3 ms|TR 500|FOV 35 cm|SL 5.0mm|Im: 5/20|Se: 3|R-CC|L MLO|15.0cm|5 MHz|Gain 50|DR 60|Map C|A|P|H|F|S|I|cm|0|5|10|"
    "1|2|3|+|Dist 12.3 mm|HR 72 bpm|kVp 80|mA 200|Thk 1.25|DFOV 36.0cm|C+|NOT FOR DIAGNOSTIC USE|Vol 12 ml|Th: 5|GRID|STANDING|"
    "FREEZE|1.25:1|STD|LEFT|RIGHT|Page 1 of 2|T: 0.5s|PRF 4.0kHz|WF 60Hz|EXP|INSP|[L]|(R)"
).split("|")
_MONTHS = ("Jan", "Feb", "MAR", "Apr", "May", "Jun", "JUL", "Aug", "Sep", "Oct", "NOV", "Dec")
_PLACES = ("Hospital", "Clinic", "MEDICAL CENTER", "Klinikum", "Radiology", "Imaging", "Health", "University", "St.", "General")
_UNITS = ("", "", "mm", "cm", "kV", "mAs", "mA", "ms", "s", "Hz", "MHz", "dB", "%", "°", "fps", "HU", "mGy", "bpm", "cm/s")
_WORDS = Words.load()
#: The allow-list: mistaking one of these blanks what is harmless.
_ALLOWED = sorted(_WORDS.word | _WORDS.label | _WORDS.unit)
#: Letters that are drawn in no order; digits more often than others.
_LETTERS = list(string.ascii_letters + string.digits * 3 + string.punctuation + "°µÄÖÜäöüßéè")


def _name(random: np.random.Generator) -> str:
    made = "".join(random.choice(_SYLLABLES, random.integers(1, 4)))
    return str(random.choice([made.capitalize(), made.upper(), made.capitalize(), made]))


def _digits(random: np.random.Generator, most: int = 10) -> str:
    return "".join(random.choice(list(string.digits), random.integers(1, most)))


def _date(random: np.random.Generator) -> str:
    year, month, day = random.integers(1925, 2027), random.integers(1, 13), random.integers(1, 29)
    forms = (
        f"{year}-{month:02}-{day:02}", f"{day:02}.{month:02}.{year}", f"{month}/{day}/{year}", f"{year}{month:02}{day:02}",
        f"{day:02}-{_MONTHS[month - 1]}-{year}", f"{_MONTHS[month - 1]} {day} {year}", f"{month:02}/{day:02}/{year % 100:02}",
    )
    time = f" {random.integers(0, 24):02}:{random.integers(0, 60):02}:{random.integers(0, 60):02}"
    return str(random.choice(forms)) + (time if random.random() < 0.3 else "")


def _code(random: np.random.Generator) -> str:
    letters = "".join(random.choice(list(string.ascii_uppercase), random.integers(1, 4)))
    return letters + str(random.choice(["", "-", "/", "."])) + _digits(random, 8)


def _person(random: np.random.Generator) -> str:
    first, last = _name(random), _name(random)
    forms = (f"{last}, {first}", f"{first} {last}", f"{last}^{first}", last, f"Dr. {last}", f"{last} {first[0]}.")
    return str(random.choice(forms))


def _place(random: np.random.Generator) -> str:
    return f"{_name(random)} {random.choice(_PLACES)}"


def _noise(random: np.random.Generator) -> str:
    marks = string.ascii_letters + string.digits + "-:./#%+()"
    words = ["".join(random.choice(list(marks), random.integers(1, 9))) for _ in range(random.integers(1, 4))]
    return " ".join(words)


def _value(random: np.random.Generator) -> str:
    makers = (_person, _date, _digits, _code, _place)
    return makers[random.integers(len(makers))](random)


def phrase(random: np.random.Generator) -> str:
    """Make one line of text, 1 to about 40 characters, at least one of them a letter or digit."""
    kind = random.random()
    if kind < 0.40:
        made = _value(random)
    elif kind < 0.60:
        made = f"{random.choice(_TITLES)}{random.choice([':', ': ', ' ', ' : ', '='])}{_value(random)}"
    elif kind < 0.80:
        made = str(random.choice(_TECHNICAL))
    elif kind < 0.90:
        made = _noise(random)
    else:
        made = str(random.choice(list(string.ascii_uppercase + string.digits)))
    return made if any(c.isalnum() for c in made) else "L"


def line(random: np.random.Generator) -> str:
    """Make one line to read: what `phrase` makes, words of the allow-list, or letters in no order, so that none is guessed."""
    kind = random.random()
    if kind < 0.45:
        return phrase(random)
    if kind < 0.70:
        words = [_cased(str(random.choice(_ALLOWED)), random) for _ in range(random.integers(1, 4))]
        return " ".join(f"{word}{_mark(random)}" for word in words)
    return " ".join("".join(random.choice(_LETTERS, random.integers(1, 9))) for _ in range(random.integers(1, 4)))


def _cased(word: str, random: np.random.Generator) -> str:
    return (word.upper, word.capitalize, word.lower)[random.integers(3)]()


def _mark(random: np.random.Generator) -> str:
    """What follows a word: nothing, a colon, a number, one with a unit."""
    kind = random.random()
    if kind < 0.5:
        return ""
    if kind < 0.65:
        return ":"
    number = _digits(random, 4) + (f".{_digits(random, 3)}" if random.random() < 0.4 else "")
    return f"{random.choice([':', ': ', ' ', '=', ''])}{number}{random.choice(['', ' ', ''])}{random.choice(_UNITS)}"

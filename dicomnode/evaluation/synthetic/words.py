"""What is burned in: invented people and what stands beside them.

**Way** `identity` invents a person, a study and a place; `identifying` says it in the ways of consoles, `harmless` gives the
technical words that a device shows. All names are put together from parts, no list of real people is behind them.

**Limits** Latin letters; a few languages of Europe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

_FIRST = (
    "Ottoline", "Bertrand", "Sunniva", "Casimir", "Philippa", "Reinhold", "Ludmila", "Anselm", "Wilhelmine", "Tancred",
    "Isolde", "Eskil", "Rosalind", "Ferdinand", "Ingeborg", "Matteo", "Annelies", "Kazimierz", "Siobhan", "Leopoldine",
    "Tom", "Eva", "Jo",
)  # fmt: skip
_LAST = (
    "Vanterpool", "Oduya", "Lindqvist", "Marchetti", "Kowal", "Achterberg", "Brambilla", "Szewczyk", "Thistlewood",
    "Mbeki-Roux", "O'Dowd", "Quastenberg", "Halvorsen", "Petrenko", "Villanueva", "Ng", "Wu", "Ibarra", "Castellanos",
    "Dunwoody", "Zeller",
)  # fmt: skip
_PLACES = (
    "Havenbrook", "Altmoor", "Santa Belisa", "Kestrelford", "Bruchtal", "Nordvik", "Aldersea", "Montferrand", "Quellheim",
)  # fmt: skip
_KINDS = (
    "{} General Hospital", "Klinikum {}", "{} Medical Center", "St. Aurelia {}", "{} Imaging", "Hospital de {}",
    "{} Univ Hosp",
)  # fmt: skip
_STREETS = ("{} Larkspur Lane", "Weidenweg {}", "{} Quarry Rd", "Rua das Flores {}", "{} Elm Street", "Lindenstr. {}")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HARMLESS = (
    "TE {b}", "THI",  # codespell:ignore te,thi
    "L", "R", "AP", "PA", "LAT", "SUPINE", "ERECT", "PORTABLE", "STANDING", "CHEST PA", "RMLO", "LCC", "R CC", "L MLO",
    "AXIAL", "kV {a}", "{a} kVp", "{b} mAs", "mA {a}", "W:{c} L:{b}", "WW {c} WL {b}", "MI 1.{d}", "TIS 0.{d}", "TIB 0.{d}",
    "Gain {b}", "Gn {b}", "FR {b} Hz", "{b} fps", "Depth {d}.0 cm", "{d} cm", "Zoom 1.{d}x", "Thk {d}.0 mm", "TR {c}",
    "FOV {b} cm", "DFOV {b}.0 cm", "SE: {d}", "IM: {b}", "Dyn R {b} dB", "Persist Med", "2D", "Map {d}",
    "Freq {d}.0 MHz", "Pwr {b} %", "SID {c} cm", "Grid", "EI {c}", "Head First", "Matrix 512x512", "Tilt {d}", "PRF {c} Hz",
    "Abdomen", "Cardiac", "Flip {b}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A string that is drawn: with a box of its own."""

    text: str
    identifying: bool
    what: str
    in_header: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """An invented person in an invented place."""

    first: str
    last: str
    number: str
    accession: str
    birth: tuple[int, int, int]
    study: tuple[int, int, int]
    clock: tuple[int, int, int]
    hospital: str
    street: str
    phone: str
    doctor: str
    #: Whether the header has the same.
    in_header: bool


def identity(random: np.random.Generator, *, in_header: bool) -> Identity:
    """Invent one."""
    digits = "".join(str(n) for n in random.integers(0, 10, int(random.integers(5, 10))))
    number = f"{random.integers(1, 10)}{digits}"
    style = int(random.integers(0, 4))
    if style == 0:
        number = f"{chr(65 + int(random.integers(0, 26)))}{number}"
    elif style == 1:
        number = f"{number[:3]}-{number[3:]}"
    place = str(random.choice(_PLACES))
    phones = (
        f"({random.integers(200, 999)}) 555-01{random.integers(10, 99)}",
        f"+49 {random.integers(30, 99)} {random.integers(10**5, 10**6)}",
        f"Tel {random.integers(100, 999)}-{random.integers(1000, 9999)}",
    )  # fmt: skip
    return Identity(
        str(random.choice(_FIRST)), str(random.choice(_LAST)), number,
        f"{random.choice(('A', 'ACC', 'US', ''))}{random.integers(10**6, 10**8)}",
        _day(random, 1925, 2016), _day(random, 1999, 2025),
        (int(random.integers(7, 20)), int(random.integers(0, 60)), int(random.integers(0, 60))),
        str(random.choice(_KINDS)).format(place), f"{str(random.choice(_STREETS)).format(random.integers(1, 200))}, {place}",
        str(random.choice(np.array(phones, object))), f"Dr. {random.choice(_LAST)}", in_header,
    )  # fmt: skip


def _day(random: np.random.Generator, first: int, last: int) -> tuple[int, int, int]:
    return int(random.integers(first, last)), int(random.integers(1, 13)), int(random.integers(1, 29))


def fill(dataset: Dataset, who: Identity) -> None:
    """Put a person into a header; without ``in_header`` what a de-identified object has there."""
    known = who.in_header
    dataset.PatientName = f"{who.last}^{who.first}" if known else "ANON^0001"
    dataset.PatientID = who.number if known else "ANON0001"
    dataset.PatientBirthDate = "{:04}{:02}{:02}".format(*who.birth) if known else ""
    dataset.StudyDate = "{:04}{:02}{:02}".format(*who.study) if known else "20000101"
    dataset.StudyTime = "{:02}{:02}{:02}".format(*who.clock) if known else ""
    dataset.AccessionNumber = who.accession if known else ""
    if known:
        dataset.InstitutionName = who.hospital
        dataset.InstitutionAddress = who.street
        dataset.ReferringPhysicianName = who.doctor.removeprefix("Dr. ")
        dataset.PatientTelephoneNumbers = who.phone


def identifying(random: np.random.Generator, who: Identity) -> list[list[Part]]:
    """What a console says of a person: lines of parts, those with a label have it as a part of its own."""
    first, last = who.first, who.last
    names = (
        f"{last}, {first}",
        f"{last.upper()}^{first.upper()}",
        f"{first} {last}",
        f"{last.upper()} {first.upper()}",
        f"{last}, {first[0]}.",
    )
    said = [
        ("name", "Name:", str(random.choice(names))), ("number", "ID:", who.number), ("date", "DOB:", date(random, who.birth)),
        ("date", "Date:", date(random, who.study)), ("time", "Time:", "{:02}:{:02}:{:02}".format(*who.clock)),
        ("number", "Acc:", who.accession), ("institution", "", who.hospital), ("address", "", who.street),
        ("phone", "", who.phone),
        ("staff", "Ref:", who.doctor),
    ]  # fmt: skip
    labelled = random.random() < 0.5
    lines = []
    for what, label, text in said:
        value = Part(text, identifying=True, what=what, in_header=who.in_header)
        lines.append([Part(label, identifying=False, what="label"), value] if label and labelled else [value])
    return lines


def date(random: np.random.Generator, day: tuple[int, int, int]) -> str:
    """Write a day in one of the ways of the world."""
    year, month, of = day
    ways = (
        f"{of:02}.{month:02}.{year}", f"{month:02}/{of:02}/{year}", f"{year}-{month:02}-{of:02}",
        f"{of:02}-{_MONTHS[month - 1]}-{year}",
        f"{year}{month:02}{of:02}", f"{of} {_MONTHS[month - 1].upper()} {year}",
    )  # fmt: skip
    return str(random.choice(np.array(ways, object)))


def harmless(random: np.random.Generator, count: int) -> list[Part]:
    """Technical words, none twice."""
    chosen = random.choice(len(_HARMLESS), count, replace=False)
    numbers = {
        "a": random.integers(40, 140),
        "b": random.integers(10, 90),
        "c": random.integers(100, 2000),
        "d": random.integers(1, 9),
    }
    return [Part(_HARMLESS[int(n)].format(**numbers), identifying=False, what="technical") for n in chosen]

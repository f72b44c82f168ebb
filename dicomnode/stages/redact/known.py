"""What the header says about the person: the texts to look for in the pixels.

**Way** `known` walks the data set with all its nested items and gathers names, identifiers, places, dates and ages. `Known`
compares the words of the picture with them, forgiving what OCR confuses, cuts off or glues together.

**Fails** Nothing: elements that cannot be read give nothing to look for.

**Standard** PS3.15 Table E.1-1: the attributes that identify; PS3.5 section 6.2: PN (component groups, prefix and suffix), AS,
DA, DT, TM.

**Limits** Names in ideographs are compared with what OCR reads in their script, and with the Latin group of the same value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dicomnode.stages.redact.dates import clock, forms
from dicomnode.stages.redact.misread import Near, distance, fold, listed, writings

__all__ = ["KEYWORDS", "Known", "distance", "fold", "known"]

_PERSONAL = """
    PatientID OtherPatientIDs IssuerOfPatientID PatientAddress PatientTelephoneNumbers PatientMotherBirthName
    InsurancePlanIdentification MedicalRecordLocator PersonAddress PersonTelephoneNumbers AccessionNumber StudyID AdmissionID
    ServiceEpisodeID RequestedProcedureID ScheduledProcedureStepID PlacerOrderNumberImagingServiceRequest
    FillerOrderNumberImagingServiceRequest PerformedProcedureStepID DeviceSerialNumber ReferringPhysicianAddress
    ReferringPhysicianTelephoneNumbers ClinicalTrialSubjectID ClinicalTrialSubjectReadingID
"""
_PLACES = """
    MilitaryRank BranchOfService RegionOfResidence CountryOfResidence Occupation EthnicGroup PatientComments
    PatientReligiousPreference InstitutionName InstitutionAddress InstitutionalDepartmentName StationName RequestingService
    CurrentPatientLocation PatientInstitutionResidence ResponsibleOrganization ClinicalTrialSiteName
"""
#: Attributes whose text identifies, besides those of VR PN, DA, DT and TM: of the person, and of what is around.
CODES, PLACES = frozenset(_PERSONAL.split()), frozenset(_PLACES.split())
KEYWORDS = CODES | PLACES | {"PatientAge"}
_CHARACTER_SET = 0x00080005
_SMALL = listed(
    "OF AND THE FOR DE DER DEN DES VAN VON ZU LA LE DI DA DEL DU EL AL ST DR MR MRS MS MISS MD PROF JR SR II III IV "
    "PHD RN UND ET FRAU HERR FR HR MME SIR NO NONE UNKNOWN ANONYMOUS"
)
#: Longer texts (comments) say little as a whole, and their end adds nothing.
_LONGEST, _MOST = 64, 60
_OLDEST = 120
_SPLIT = re.compile(r"[\s^=,;:/\\()\[\]]+")


@dataclass(frozen=True, slots=True, repr=False)
class Known:
    """Normalised texts of one header; no repr, for they are what must not be shown."""

    #: Parts of names, of identifiers, and of texts around: upper case, letters and digits only, at least 2.
    people: frozenset[str]
    codes: frozenset[str]
    places: frozenset[str]
    #: Whole values without blanks, at least 4 characters: names also in other orders and with initials.
    wholes: frozenset[str]
    #: Every date and time in the forms in which people write them, folded (`forms`).
    dates: frozenset[str]
    #: Age in years and as it stands, and the sex in one letter.
    ages: frozenset[str]
    #: First letters of the parts of names.
    initials: frozenset[str]
    _near: Near = field(compare=False)
    #: What has been asked: words repeat from frame to frame.
    _asked: dict[str, bool] = field(default_factory=dict, compare=False)

    def matches(self, text: str) -> bool:
        """Say whether a word of the picture is, or contains, something of the header."""
        word = fold(text)
        found = self._asked.get(word)
        if found is None:
            found = self._asked[word] = self.holds(text) or self.near(text)
        return found

    def holds(self, text: str) -> bool:
        """Say whether a word is something of the header, letter by letter."""
        word = fold(text)
        return len(word) >= 2 and (
            word in self.people or word in self.codes or word in self.places or word in self.wholes or word in self.ages
            or self.is_date(word)
        )  # fmt: skip

    def near(self, text: str) -> bool:
        """Say whether a word may be a reading of something of the header, or contains it."""
        word = fold(text)
        if not word.isascii() and any(part in word for part in self.people | self.wholes if not part.isascii()):
            return True
        if word.lstrip("0") in self.codes and len(word.lstrip("0")) >= 3:
            return True
        return self._near.find(word) is not None

    def is_person(self, text: str) -> bool:
        """Say whether a word is a part of a name or an identifier, letter by letter."""
        word = fold(text)
        return word in self.people or word in self.codes

    def is_date(self, text: str) -> bool:
        """Say whether a text is one of the header's dates, with or without separators."""
        word = fold(text)
        # With a time behind it, as in 19610417T1244.
        return word in self.dates or (len(word) > 8 and word[8] == "T" and word[:8] in self.dates)


@dataclass(slots=True)
class _Found:
    """What has been gathered so far."""

    people: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    wholes: set[str] = field(default_factory=set)
    dates: set[str] = field(default_factory=set)
    ages: set[str] = field(default_factory=set)
    initials: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    days: set[str] = field(default_factory=set)


def known(dataset: Dataset) -> Known:
    """Gather what identifies, at the top level and in all items."""
    found = _Found()
    for vr, keyword, value in _values(dataset):
        if vr in ("DA", "DT"):
            _date(found, keyword, value)
        elif vr == "TM":
            found.dates |= clock(value)
        elif vr == "PN":
            _name(found, value)
        elif keyword == "PatientSex":
            found.ages |= {value.upper()[:1]} & {"F", "M"}
        elif keyword == "PatientAge":
            years = value.upper().rstrip("YMWD").lstrip("0")
            found.ages |= {years, fold(value), fold(value).lstrip("0")}
        elif keyword in CODES:
            _code(found, value)
        elif keyword in PLACES:
            _place(found, value)
    found.ages |= _reckoned(found.births, found.days)
    people, ages = _several(found.people), frozenset(age for age in found.ages if age)
    texts = people | found.codes | found.places | found.wholes
    return Known(
        frozenset(people), frozenset(found.codes), frozenset(found.places), frozenset(found.wholes), frozenset(found.dates),
        ages,
        frozenset(found.initials), Near(texts),
    )  # fmt: skip


def _reckoned(births: Iterable[str], days: Iterable[str]) -> set[str]:
    """Give the ages that dates of birth and study give, for consoles reckon them themselves."""
    ages = {int(day[:4]) - int(birth[:4]) - (day[4:] < birth[4:]) for birth in births for day in days}
    return {form for age in ages if 0 < age < _OLDEST for form in (str(age), f"{age}Y", f"{age:03}Y")}


def _several(texts: Iterable[str]) -> set[str]:
    return {text for text in texts if len(text) >= 2 or not text.isascii()}


def _date(found: _Found, keyword: str, value: str) -> None:
    digits = re.sub(r"\D", "", value)[:8]
    if len(digits) != 8:
        return
    found.dates |= forms(digits[:4], digits[4:6], digits[6:])
    (found.births if "Birth" in keyword else found.days).add(digits)


def _name(found: _Found, value: str) -> None:
    """Take a name apart: its groups, its components, and what hyphens and blanks join in them."""
    for group in value.split("="):
        components = [_written(component) for component in group.split("^")[:5]]
        for writing in range(2):
            family, *given = [pieces[writing] for pieces in components]
            loose = [piece for piece in (*family, *(part for parts in given for part in parts)) if piece not in _SMALL]
            found.people.update(loose)
            found.initials.update(piece[0] for piece in loose)
            found.wholes |= _orders("".join(family), ["".join(parts) for parts in given if parts])
            found.wholes |= _orders(family[-1] if family else "", [part for parts in given for part in parts])


def _written(component: str) -> tuple[list[str], list[str]]:
    """Give the folded pieces of one component in two writings: as they are, and with umlauts written out."""
    plain, out = [], []
    for word in _SPLIT.split(component):
        halves = [word, *re.split(r"[-'.’]+", word)] if re.search(r"[-'.’]", word) else [word]
        for piece in halves:
            both = sorted(writings(piece), key=lambda text: (text != fold(piece), text))
            plain.append(both[0])
            out.append(both[-1])
    return [piece for piece in dict.fromkeys(plain) if piece], [piece for piece in dict.fromkeys(out) if piece]


def _orders(family: str, given: list[str]) -> set[str]:
    """Give a name as it is written in one piece: either order, with initials."""
    initials = "".join(part[0] for part in given)
    first = given[0] if given else ""
    found = {
        family + first,
        first + family,
        family + "".join(given),
        "".join(given) + family,
        family + initials,
        initials + family,
    }
    if first:
        found |= {first[0] + family, family + first[0], first + initials[1:] + family, family + first + initials[1:]}
    return {whole for whole in found if len(whole) >= (4 if whole.isascii() else 2)}


def _code(found: _Found, value: str) -> None:
    pieces = [fold(piece) for piece in _SPLIT.split(value)]
    for piece in (*pieces, fold(value)):
        found.codes |= {
            form for form in (piece, piece.lstrip("0")) if len(form) >= 2 and form not in _SMALL and len(form) <= _LONGEST
        }
    whole = fold(value)
    if 4 <= len(whole) <= _LONGEST:
        found.wholes |= {whole}


def _place(found: _Found, value: str) -> None:
    words = [sorted(writings(piece)) for piece in _SPLIT.split(value)][:_MOST]
    found.places.update(piece for both in words for piece in both if len(piece) >= 2 and piece not in _SMALL)
    pieces = [fold(piece) for piece in value.split()][:_MOST]
    found.places.update(piece for piece in pieces if len(piece) >= 2 and piece not in _SMALL)
    found.wholes.update(whole for whole in ("".join(pieces), "".join(pieces[::-1])) if 4 <= len(whole) <= _LONGEST)


def _values(dataset: Dataset) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for tag in list(dataset.keys()):
        try:
            raw: Any = dataset.get_item(tag)
            element = dataset[tag]
            if element.VR == "SQ":
                for item in element.value:
                    found += _values(item)
            elif element.VR in ("PN", "DA", "DT", "TM", "LO", "SH", "LT", "ST", "UT", "UC", "AS", "CS"):
                value: Any = element.value
                many = value if element.VM > 1 else [value]
                found += [(element.VR, element.keyword, str(one)) for one in many if one]
            if isinstance(raw, RawDataElement) and element.VR != "SQ" and tag != _CHARACTER_SET:
                dataset[tag] = raw  # kept converted, the elements of thousands of items would fill the memory
        except Exception:  # noqa: BLE001, S112 - an element that cannot be read gives nothing to look for
            continue
    return found

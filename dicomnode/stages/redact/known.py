"""What the header says about the person: the texts to look for in the pixels.

**Way** `known` walks the data set with all its nested items and gathers names, identifiers, places and dates. `Known.matches`
compares one word of the picture with them, forgiving what OCR confuses.

**Fails** Nothing: elements that cannot be read give nothing to look for.

**Standard** PS3.15 Table E.1-1: the attributes that identify; PS3.5 section 6.2: PN, DA, DT.

**Limits** Names in ideographs are not compared with pixels when OCR reads Latin letters only.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

#: Attributes whose text identifies, besides those of VR PN, DA and DT.
_IDENTIFYING = """
    PatientID OtherPatientIDs IssuerOfPatientID PatientAddress PatientTelephoneNumbers PatientMotherBirthName
    MilitaryRank BranchOfService RegionOfResidence CountryOfResidence Occupation EthnicGroup PatientComments
    InsurancePlanIdentification MedicalRecordLocator PatientReligiousPreference PatientAge
    AccessionNumber StudyID AdmissionID ServiceEpisodeID RequestedProcedureID ScheduledProcedureStepID
    PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest PerformedProcedureStepID
    InstitutionName InstitutionAddress InstitutionalDepartmentName StationName RequestingService CurrentPatientLocation
    PatientInstitutionResidence ResponsibleOrganization DeviceSerialNumber PersonAddress PersonTelephoneNumbers
    ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers
    ClinicalTrialSubjectID ClinicalTrialSiteName ClinicalTrialSubjectReadingID
"""
KEYWORDS = frozenset(_IDENTIFYING.split())
_CHARACTER_SET = 0x00080005
#: Letters and digits that OCR takes for one another.
_ALIKE = str.maketrans("OQDILSBZG", "000115826")
_SMALL = frozenset(("OF", "AND", "THE", "FOR", "DE", "DER", "VAN", "VON", "LA", "LE", "ST", "DR", "MR", "MRS", "MS", "MD"))
#: Names of each month, folded: English, and where they differ German.
_MONTHS = (
    "JAN JANUARY JANUAR", "FEB FEBRUARY FEBRUAR", "MAR MARCH MARZ MAERZ", "APR APRIL", "MAY MAI", "JUN JUNE JUNI",
    "JUL JULY JULI", "AUG AUGUST", "SEP SEPT SEPTEMBER", "OCT OCTOBER OKT OKTOBER", "NOV NOVEMBER", "DEC DECEMBER DEZ DEZEMBER",
)


@dataclass(frozen=True, slots=True)
class Known:
    """Normalised texts of one header."""

    #: Parts of names and other texts, upper case, letters and digits only, at least 2.
    parts: frozenset[str]
    #: Whole values without blanks, at least 4 characters: names also in either order.
    wholes: frozenset[str]
    #: Every date in the forms in which people write dates, folded (`_forms`).
    dates: frozenset[str]

    def matches(self, text: str) -> bool:
        """Say whether a word of the picture is, or contains, something of the header."""
        word = fold(text)
        if len(word) < 2:
            return False
        if self.is_date(word):
            return True
        if word in self.parts or word in self.wholes:
            return True
        if len(word) < 4:
            return False
        return any(_near(word, part) for part in self.parts | self.wholes if len(part) >= 4)

    def is_date(self, text: str) -> bool:
        """Say whether a text is one of the header's dates, with or without separators."""
        word = fold(text)
        # With a time behind it, as in 19610417T1244.
        return word in self.dates or (len(word) > 8 and word[8] == "T" and word[:8] in self.dates)


def fold(text: str) -> str:
    """Upper case without accents, letters and digits only."""
    decomposed = unicodedata.normalize("NFKD", text).upper()
    return "".join(c for c in decomposed if c.isalnum())


def _near(word: str, part: str) -> bool:
    if part in word or (len(word) >= 4 and word in part):
        return True
    if abs(len(word) - len(part)) > 3:
        return False
    a, b = word.translate(_ALIKE), part.translate(_ALIKE)
    longest = max(len(a), len(b))
    return distance(a, b) <= (1 if longest < 6 else 2 if longest < 10 else 3)


def distance(a: str, b: str) -> int:
    """Edit distance (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def known(dataset: Dataset) -> Known:
    """Gather what identifies, at the top level and in all items."""
    parts: set[str] = set()
    wholes: set[str] = set()
    dates: set[str] = set()
    for vr, keyword, value in _values(dataset):
        if vr in ("DA", "DT"):
            digits = re.sub(r"\D", "", value)[:8]
            if len(digits) == 8:
                dates |= _forms(digits[:4], digits[4:6], digits[6:])
        elif vr == "PN" or keyword in KEYWORDS:
            pieces = [fold(piece) for piece in re.split(r"[\s^=,;:/\\()]+", value)]
            pieces = [piece for piece in pieces if len(piece) >= 2]
            parts.update(piece for piece in pieces if piece not in _SMALL)
            parts.update(fold(piece) for piece in value.split() if len(fold(piece)) >= 2 and fold(piece) not in _SMALL)
            if keyword == "PatientAge":
                parts.update(piece.rstrip("YMWD").lstrip("0") for piece in pieces)
            wholes.update("".join(order) for order in (pieces, pieces[::-1]) if len("".join(order)) >= 4)
    return Known(frozenset(filter(None, parts)), frozenset(wholes), frozenset(dates))


def _forms(year: str, month: str, day: str) -> set[str]:
    """Give a date as people write it: year first, day first, month first, short years, months as words."""
    names = _MONTHS[int(month) - 1].split() if 1 <= int(month) <= 12 else []
    found = set()
    for d, m in product({day, day.lstrip("0")}, {month, month.lstrip("0")}):
        found |= {f"{year}{m}{d}", f"{d}{m}{year}", f"{m}{d}{year}"}
        for name in names:
            found |= {f"{d}{name}{year}", f"{d}{name}{year[2:]}", f"{name}{d}{year}", f"{year}{name}{d}"}
    found |= {f"{year[2:]}{month}{day}", f"{day}{month}{year[2:]}", f"{month}{day}{year[2:]}"}
    # Of a date that is not one, too little is left to be told from other numbers.
    return {form for form in found if len(form) >= 6}


def _values(dataset: Dataset) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for tag in list(dataset.keys()):
        try:
            raw: Any = dataset.get_item(tag)
            element = dataset[tag]
            if element.VR == "SQ":
                for item in element.value:
                    found += _values(item)
            elif element.VR in ("PN", "DA", "DT", "LO", "SH", "LT", "ST", "UT", "UC", "AS"):
                value: Any = element.value
                many = value if element.VM > 1 else [value]
                found += [(element.VR, element.keyword, str(one)) for one in many if one]
            if isinstance(raw, RawDataElement) and element.VR != "SQ" and tag != _CHARACTER_SET:
                dataset[tag] = raw  # kept converted, the elements of thousands of items would fill the memory
        except Exception:  # noqa: BLE001, S112 - an element that cannot be read gives nothing to look for
            continue
    return found

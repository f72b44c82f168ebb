from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.stages.redact.judge import UNKNOWN, judge
from dicomnode.stages.redact.known import distance, known
from dicomnode.stages.redact.words import Words

WORDS = Words.load()


def person() -> Dataset:
    """A header that identifies."""
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Quistgaard^Marlène^Li", "ZX-4481907", "19610417"
    ds.InstitutionName, ds.AccessionNumber, ds.PatientAge = "Saint Holger Infirmary", "A99312", "037Y"
    item = Dataset()
    item.ReferringPhysicianName = "Oddworth^Piers"
    ds.ReferencedStudySequence = [item]
    return ds


KNOWN = known(person())


@pytest.mark.parametrize(
    "text",
    ["QUISTGAARD", "Quistgaard,", "quistqaard", "QU1STGAARD", "Marlene", "MARLÈNE", "QuistgaardMarlene", "ZX4481907",
     "zx-448l907", "Infirmary", "HOLGER", "A99312", "Oddworth", "Li", "37"],
)  # fmt: skip
def test_what_the_header_says_is_found_as_ocr_reads_it(text: str) -> None:
    """Names in any order and case, identifiers, institution, nested physicians and the age match, errors of OCR included."""
    assert judge([text], KNOWN, WORDS) == ["header-match"]


@pytest.mark.parametrize(
    "line",
    ["17.04.1961", "1961-04-17", "04/17/61", "19610417", "17-APR-1961", "1961Apr17", "12:44", "12:44:59", "17 Apr 1961",
     "1961 APR 17", "Apr 17, 1961"],
)  # fmt: skip
def test_dates_and_times_go_in_any_form(line: str) -> None:
    """Dates and times identify in every mode, whether the header knows them or not."""
    assert set(judge(line.split(), known(Dataset()), WORDS)) == {"date"}


@pytest.mark.parametrize(
    "line",
    ["17.04.1961", "1961-04-17", "04/17/1961", "04/17/61", "170461", "610417", "17/4/1961", "17APR1961", "17-Apr-61",
     "April 17, 1961", "17. April 1961", "19610417T1244", "17 04 1961", "1961APR17"],
)  # fmt: skip
def test_dates_of_the_header_are_known_as_such(line: str) -> None:
    """Birth date and study date are found in all forms in which people write them, in one piece or in three."""
    assert set(judge(line.split(), KNOWN, WORDS)) == {"header-match"}
    assert "header-match" not in judge(line.split(), known(Dataset()), WORDS)


@pytest.mark.parametrize(
    "line",
    ["PORTABLE AP", "L", "R", "SEMI-UPRIGHT", "120 kV", "kV 120", "120kV", "W: 400 L: 40", "5.0 mm", "MI 1.2", "Zoom 1.5",
     "DOB:", "Patient ID:", "Namo:", "Institution Name:", "12 cm/s", "--", "SE: 3", "T2 FLAIR", "Im: 3/60"],
)  # fmt: skip
def test_technical_text_stays(line: str) -> None:
    """Sides, views, measures with their units, labels with their numbers and titles of fields stay in strict mode."""
    assert judge(line.split(), KNOWN, WORDS) == [None] * len(line.split())


@pytest.mark.parametrize(("text", "reason"), [("4711", "unknown-number"), ("Wilma", "unknown-text"), ("Hr.Ek", "unknown-text")])
def test_what_nobody_knows_is_said_to_be_unknown(text: str, reason: str) -> None:
    """A bare number and an unknown word are left to the mode."""
    assert judge([text], KNOWN, WORDS) == [reason]
    assert reason in UNKNOWN


def test_long_numbers_go_in_both_modes() -> None:
    """A number of five digits or more may be an identifier, with a unit behind it too."""
    assert judge(["12345", "mm"], known(Dataset()), WORDS)[0] == "number"


def test_the_header_overrules_the_allow_list() -> None:
    """A person whose name is a technical word is not left standing."""
    ds = Dataset()
    ds.PatientName = "Portable^Grid"
    assert judge(["PORTABLE"], known(ds), WORDS) == ["header-match"]


def test_values_cut_in_two_are_found() -> None:
    """Two words that make one value of the header together go together."""
    assert judge(["ZX", "4481907"], KNOWN, WORDS) == ["header-match", "header-match"]


@given(st.text(max_size=12), st.text(max_size=12))
def test_distance_is_a_metric(a: str, b: str) -> None:
    """The edit distance is symmetric, zero for equal texts only, and at most the longer length."""
    assert distance(a, b) == distance(b, a) <= max(len(a), len(b))
    assert (distance(a, b) == 0) == (a == b)

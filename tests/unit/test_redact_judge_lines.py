from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from dicomnode.stages.redact.judge import UNKNOWN, judge
from dicomnode.stages.redact.known import known
from dicomnode.stages.redact.words import Words

WORDS = Words.load()
NOBODY = known(Dataset())
_NAMES = """
    Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez Gonzalez Wilson Anderson Thomas
    Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark Ramirez Lewis Robinson Walker Young Allen King
    Wright Scott Torres Nguyen Hill Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter Roberts Phillips
    Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Koch Bauer Richter Klein Wolf Neumann Schwarz
    Rossi Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco Bruno Gallo Conti Costa Giordano Mancini Rizzo
    Dubois Durand Leroy Moreau Simon Laurent Lefebvre Michel Bertrand Roux Fournier Girard Bonnet Dupont Lambert Fontaine
    Silva Santos Oliveira Souza Pereira Lima Carvalho Almeida Ribeiro Novak Kowalski Nowak Horvat Ivanov Petrov Yilmaz Kaya
    Singh Kumar Patel Sharma Khan Ahmed Wang Zhang Chen Yang Huang Tanaka Suzuki Sato Watanabe Kim Park Choi Jung Tran Pham
    James Mary Robert Patricia John Jennifer Michael Linda David Elizabeth William Barbara Richard Susan Joseph Sarah Anna
    Emma Sofia Maria Laura Lukas Felix Jonas Giulia Luca Pierre Camille Hugo Carmen Pablo Lucia Ingrid Lars Astrid Bjorn
"""
NAMES = _NAMES.split()
#: Names that are technical words too, and stay alone: documented in docs/redaction.md.
ALSO_TECHNICAL = {"Lima"}


@pytest.mark.parametrize(
    "line",
    ["Brambilla, S.", "Dr. Ng", "Hospital de Nordvik", "Kestrelford General Hospital", "St. Aurelia Altmoor", "Tel 816-2071",
     "+49 41 722275", "Weidenweg 12, Bruchtal", "12 Quarry Rd, Altmoor", "491-711", "MRN00123", "A12-3456",
     "ottilie@example.org", "2013 Jul 13", "10/03/1961", "07:41:12", "M", "F", "045Y", "QUASTENBERG^EVA"],
)  # fmt: skip
def test_whole_strings_go(line: str) -> None:
    """What identifies goes with all its parts, whether the header knows it or not."""
    assert all(judge(line.split(), NOBODY, WORDS))


@pytest.mark.parametrize(
    ("line", "reason"),
    [("Name: Grid Quuxley", "person"), ("Acc# 4711", "number"), ("Ref Phys: Ibarra", "person"), ("DOB: 17", "date")],
)
def test_the_value_of_a_title_goes_and_the_title_stays(line: str, reason: str) -> None:
    """What stands behind the title of a field is its value, whatever it looks like."""
    reasons = judge(line.split(), NOBODY, WORDS)
    assert reasons[0] is None
    assert reasons[-1] == reason


@pytest.mark.parametrize(
    "line",
    ["2D", "Dyn R 71 dB", "Thk 2.0 mm", "mA 104", "MI 1.2", "Head First", "Persist Med", "Cardiac", "TR 1322", "Time:", "DOB:",
     "Acc:", "Institution Name", "PRF 1200 Hz", "Matrix 512x512", "WW 400 WL 40", "L MLO", "SE: 3", "C5-1"],
)  # fmt: skip
def test_what_consoles_show_stays(line: str) -> None:
    """Technique, measures, views and titles without a value are harmless."""
    assert not any(judge(line.split(), NOBODY, WORDS))


@pytest.mark.parametrize("name", NAMES)
def test_a_common_name_goes_alone_and_beside_technical_words(name: str) -> None:
    """No common name of several countries is harmless."""
    if name in ALSO_TECHNICAL:
        pytest.skip("a technical word too")
    assert judge([name], NOBODY, WORDS)[0]
    assert judge(["CHEST", "PA", name.upper()], NOBODY, WORDS)[2]


def test_the_sex_of_the_header_goes_in_every_mode() -> None:
    """A lone letter says nothing, unless the header says the same; L and R are marks of sides."""
    ds = Dataset()
    ds.PatientSex = "F"
    assert judge(["F"], known(ds), WORDS) == ["header-match"]
    assert set(judge(["M"], known(ds), WORDS)) <= UNKNOWN
    assert judge(["L"], known(ds), WORDS) == [None]

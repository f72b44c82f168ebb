"""Rectangles by device: which pictures they hold for, what is refused, and that they travel with the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicomnode.commands.init import compose
from dicomnode.errors import BadSetting
from dicomnode.image import Image
from dicomnode.places import Place
from dicomnode.records import Region
from dicomnode.settings import load
from dicomnode.snapshot import Snapshot, handed
from dicomnode.stages.redact.places import Places
from tests.unit import pictures

RULE: dict[str, Any] = {
    "manufacturer": "Acme Medical", "model": "Sono 5", "rows": 48, "columns": 64,
    "rectangles": [{"x": 2, "y": 3, "w": 10, "h": 5}, {"x": 40, "y": 0, "w": 24, "h": 8}],
}
BOXES = [(2, 3, 10, 5), (40, 0, 24, 8)]
TEXT = """
[[place]]
manufacturer = "ACME"
model = "Sono 5"
rows = 48
columns = 64
rectangles = [
    # seen in 9 of 10 files
    { x = 2, y = 3, w = 10, h = 5 },
]
"""


def image(rows: int = 48, columns: int = 64, frames: int = 1, **header: Any) -> Image:
    """A picture of the device of `RULE`, unless its header says otherwise."""
    values = np.zeros((frames, rows, columns), np.uint8)
    given = {"Manufacturer": "ACME  medical ", "ManufacturerModelName": "SONO 5", **header}
    return pictures.image(pictures.native(values, frames=frames, **given))


def found(rule: dict[str, Any], picture: Image) -> list[tuple[int, int, int, int]]:
    """The rectangles of one rule for a picture."""
    return [(one.x, one.y, one.w, one.h) for one in Places([Place(**rule)]).regions(picture)]


def test_every_frame_of_the_device_has_every_rectangle() -> None:
    """Names are compared without regard to letter case and blanks; regions say that a rule made them, in all or some frames."""
    places = Places([Place(**RULE)])
    expected = [Region(frame, *box, "rule") for frame in range(3) for box in BOXES]
    assert places.regions(image(frames=3)) == expected
    assert places.regions(image(frames=3), [2]) == expected[4:]


@pytest.mark.parametrize(("rule", "header", "holds"), [
    ({}, {"Manufacturer": "Other"}, False),
    ({}, {"Manufacturer": None}, False),
    ({}, {"ManufacturerModelName": "Sono 50"}, False),
    ({"software": "3.1"}, {}, False),
    ({"software": "3.1"}, {"SoftwareVersions": ["A", "3.1"]}, True),
    ({"software": "3.1"}, {"SoftwareVersions": "3.10"}, False),
    ({"software": "3.1*"}, {"SoftwareVersions": "3.10"}, True),
    ({"software": "3.1*"}, {"SoftwareVersions": ["X", "4.3.1"]}, False),
    ({"modality": ["US", "OT"]}, {}, True),
    ({"modality": ["US"]}, {}, False),
    ({"photometric": "monochrome2"}, {}, True),
    ({"photometric": "RGB"}, {}, False),
])
def test_each_condition_counts(rule: dict[str, Any], header: dict[str, Any], holds: bool) -> None:
    """Another device, software, modality or colour has no rectangle; software compares as a whole, or by its beginning."""
    assert found({**RULE, **rule}, image(**header)) == (BOXES if holds else [])


@pytest.mark.parametrize(("rows", "columns"), [(49, 64), (48, 63), (96, 128), (64, 48), (24, 32)])
def test_another_size_has_no_rectangle(rows: int, columns: int) -> None:
    """Rows and Columns are those of the rule: nothing is scaled by itself, also where the shape is the same."""
    assert found(RULE, image(rows, columns)) == []


def test_scaling_is_asked_for_and_rounds_outwards() -> None:
    """With scale = true the same shape in another size is covered as much at least; another shape is not."""
    rule = {**RULE, "scale": True}
    assert found(rule, image(96, 128)) == [(4, 6, 20, 10), (80, 0, 48, 16)]
    assert found(rule, image(24, 32)) == [(1, 1, 5, 3), (20, 0, 12, 4)]
    # 36 columns: x from 1.125 to 6.75, y from 1.69 to 4.5
    assert found(rule, image(27, 36))[0] == (1, 1, 6, 4)
    assert found(rule, image(96, 130)) == []


def test_digest_is_of_what_counts() -> None:
    """Notes change nothing; a rectangle, a device, and one rule more or fewer do; without rules there is none."""
    one = Place(**RULE)
    noted = one.model_copy(update={"note": "learned", "rectangles": tuple(
        box.model_copy(update={"note": "9 of 10"}) for box in one.rectangles)})
    assert Places().digest == ""
    assert Places([one]).digest == Places([noted]).digest
    moved = Place(**{**RULE, "rectangles": [{"x": 2, "y": 3, "w": 10, "h": 6}]})
    assert len({Places(rules).digest for rules in ([one], [moved], [one, moved], [one, one])}) == 4


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with one file of rectangles."""
    for name, text in compose("NODE", 11112, tmp_path / "state", []).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "redaction").mkdir()
    (tmp_path / "redaction" / "sono.toml").write_text(TEXT)
    return tmp_path


def test_files_travel_with_the_settings(config: Path) -> None:
    """What the master approved is what a child gets; a changed file changes the digest of the configuration."""
    settings = load(config)
    assert [place.model for place in settings.places] == ["Sono 5"]
    assert Places.load(config / "redaction").digest == Places(settings.places).digest
    snapshot = Snapshot(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DICOMNODE_SETTINGS_FD", str(snapshot.descriptor))
        assert handed() == settings
    (config / "redaction" / "sono.toml").write_text(TEXT.replace("x = 2", "x = 1"))
    (config / "redaction" / "notes.txt").write_text("not read")
    assert load(config).digest != settings.digest


@pytest.mark.parametrize(("old", "new", "words"), [
    ("w = 10", "w = 63", "place.0: .*rectangles.0 reaches beyond 64 columns and 48 rows"),
    ("h = 5", "h = 0", r"place\.0\.rectangles\.0\.h"),
    ("x = 2", "x = -1", r"place\.0\.rectangles\.0\.x"),
    ("rows = 48\n", "", r"place\.0\.rows"),
    ('"ACME"', '" "', r"place\.0\.manufacturer.*empty"),
    ("rows = 48", 'rows = 48\nsoftware = "*"', r"place\.0\.software.*empty"),
    ("rows = 48", "row = 48", r"place\.0\.row"),
    ("[[place]]", "[[places]]", r"place"),
    ("[[place]]", "[[place", "not TOML"),
])
def test_faults_are_refused_by_file_and_key(config: Path, old: str, new: str, words: str) -> None:
    """A rectangle outside of its picture, a size that is missing, an unknown key: each names the file and the key."""
    (config / "redaction" / "sono.toml").write_text(TEXT.replace(old, new, 1))
    with pytest.raises(BadSetting, match=rf"sono\.toml: .*{words}"):
        load(config)
    with pytest.raises(BadSetting, match=r"sono\.toml"):
        Places.load(config / "redaction")

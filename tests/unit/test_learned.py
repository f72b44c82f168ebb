"""Learning where devices put text: what grows together, what is often enough, and that nothing of a picture is written."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dicomnode.commands import learn as command
from dicomnode.commands.redact import app
from dicomnode.errors import RedactionUncertain
from dicomnode.image import Image
from dicomnode.places import PlacesFile
from dicomnode.records import Region
from dicomnode.stages.redact.learned import Learner, heat, toml
from dicomnode.stages.redact.places import Places
from tests.unit import pictures

DEVICE = {"Manufacturer": "Acme", "ManufacturerModelName": "Sono 5", "SoftwareVersions": ["3.1", "x"], "Modality": "US"}


def image(rows: int = 100, columns: int = 200, **header: Any) -> Image:
    """A picture of `DEVICE`, unless said otherwise."""
    return pictures.image(data(rows, columns, **header))


def data(rows: int = 100, columns: int = 200, **header: Any) -> bytes:
    """Its bytes."""
    return pictures.native(np.zeros((rows, columns), np.uint8), **{**DEVICE, **header})


def found(*boxes: tuple[int, int, int, int], reason: str = "unknown-text", frame: int = 0) -> list[Region]:
    """Regions of one picture."""
    return [Region(frame, *box, reason) for box in boxes]


def learned(*pictures_: list[Region], least: int = 2, share: float = 0.1) -> Any:
    """What is learned of so many pictures of one device."""
    learner = Learner()
    for regions in pictures_:
        assert learner.add(image(), regions)
    (one,) = learner.devices(least, share)
    return one


def spots(one: Any) -> list[tuple[tuple[int, int, int, int], int]]:
    """The rectangles with how often."""
    return [(spot.box, spot.seen) for spot in one.spots]


def test_a_line_of_varying_length_is_one_rectangle() -> None:
    """Names differ in length, and lie a pixel up or down; the line below stays another one."""
    one = learned(
        found((10, 5, 40, 12), (10, 19, 30, 12)), found((10, 6, 90, 12)), found((12, 4, 20, 12), (44, 5, 30, 12)),
    )
    assert spots(one) == [((10, 4, 90, 14), 3)]
    assert [spot.box for spot in one.rare] == [(10, 19, 30, 12)]


def test_lines_that_a_third_box_bridges_grow_together() -> None:
    """What lies between two parts of a line joins them, whatever comes first."""
    apart = found((10, 5, 20, 10), (90, 5, 20, 10))
    assert len(learned(apart, apart).spots) == 2
    assert spots(learned(apart, apart, found((28, 5, 70, 10)))) == [((10, 5, 100, 10), 3)]


def test_text_that_wanders_makes_no_block() -> None:
    """Labels that lie a little lower each time, and a turned line beside level ones, do not make all of it one place."""
    wandering = [found((10, 5 + 4 * step, 40, 12)) for step in range(15)]
    assert all(box[3] <= 24 for box, _ in spots(learned(*wandering)))
    turned = found((4, 5, 12, 90), (20, 40, 60, 12))
    assert spots(learned(turned, turned)) == [((4, 5, 12, 90), 2), ((20, 40, 60, 12), 2)]


def test_a_turned_line_grows_along_itself() -> None:
    """Names differ in length in a line of 90 degrees as well; the line beside it is another one."""
    one = learned(found((4, 5, 12, 60), (18, 5, 12, 60)), found((5, 5, 12, 30), (5, 45, 12, 50)))
    assert spots(one) == [((4, 5, 13, 90), 2)]
    assert [spot.box for spot in one.rare] == [(18, 5, 12, 60)]


def test_a_picture_counts_once_and_rules_are_no_sight() -> None:
    """Frames of a cine and two words of a line are one sight; rectangles of a rule and overlays are none."""
    cine = found((10, 5, 20, 10)) + found((10, 5, 20, 10), (20, 5, 20, 10), frame=1)
    assert spots(learned(cine, cine, found((50, 50, 9, 9), reason="rule"), found((50, 50, 9, 9), reason="overlay"))) == [
        ((10, 5, 30, 10), 2),
    ]


@pytest.mark.parametrize(("share", "kept"), [(0.1, 2), (0.3, 1), (0.9, 1), (1.0, 0)])
def test_what_is_seen_rarely_is_no_rectangle(share: float, kept: int) -> None:
    """A place needs two pictures at least, and its share; the others are left for a person to judge."""
    often, sometimes, once = (10, 5, 20, 10), (10, 40, 20, 10), (10, 70, 20, 10)
    one = learned(*[found(often)] * 7, found(often, sometimes), found(often, sometimes), found(once), share=share)
    assert len(one.spots) == kept
    assert len(one.spots) + len(one.rare) == 3


def test_devices_are_kept_apart() -> None:
    """Another size, software, modality or device has rules of its own; another spelling has not; few pictures have none."""
    learner = Learner()
    box = found((10, 5, 20, 10))
    same = {"Manufacturer": "ACME ", "ManufacturerModelName": "sono  5"}
    others: list[dict[str, Any]] = [
        {"SoftwareVersions": "4"}, {"Modality": "OT"}, {"ManufacturerModelName": "Sono 6"}, {"rows": 101}, {},
    ]
    for header in (same, *others):
        assert learner.add(image(**header), box)
    assert not learner.add(image(Manufacturer=None), box)
    assert not learner.add(image(ManufacturerModelName=""), box)
    assert sorted(one.pictures for one in learner.devices(2, 0.1)) == [1, 1, 1, 1, 2]
    assert [len(one.spots) for one in learner.devices(2, 0.1) if one.pictures == 2] == [1]
    assert not any(one.spots for one in learner.devices(3, 0.1))
    free = Learner(any_software=True)
    for header in ({}, {"SoftwareVersions": "4"}):
        free.add(image(**header), box)
    assert [(one.device.software, one.pictures) for one in free.devices(2, 0.1)] == [("", 2)]


def test_what_is_written_holds_for_the_device() -> None:
    """The node reads the file, and it gives the pictures of the device the rectangles; names cannot break out of their line."""
    learner = Learner()
    hostile = 'Ac"me\\\n]]\n# x = 1'
    box = (10, 5, 20, 10)
    for _ in range(3):
        learner.add(image(Manufacturer=hostile, Modality='U"'), found(box))
    text = toml(learner.devices(2, 0.1))
    file = PlacesFile.model_validate(tomllib.loads(text))
    assert "seen in 3 of 3 files" in text
    regions = Places(file.place).regions(image(Manufacturer=hostile, Modality='U"'))
    assert [(one.x, one.y, one.w, one.h) for one in regions] == [box]
    assert Places(file.place).regions(image()) == []


def test_the_picture_of_what_was_learned_shows_rectangles_alone() -> None:
    """It has the colours of ground, heat and edge, the hotter the more often."""
    one = learned(*[found((10, 5, 40, 20), (10, 60, 40, 20))] * 2, *[found((10, 5, 40, 20))] * 2, found())
    drawn = heat(one)
    assert drawn.shape == (100, 200, 3)
    assert (drawn[90:, 190:] == drawn[0, 0]).all()
    assert int(drawn[15, 30, 2]) > int(drawn[70, 30, 2]) > int(drawn[0, 0, 2])
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 4


# -- the command
class Found:
    """In place of `Redact`: finds text where the first pixel says, and cannot judge what begins with 255."""

    def __init__(self, mode: str) -> None:
        assert mode == "strict"

    def __call__(self, picture: Image, frames: list[int]) -> Any:
        """A region in row 5, at the column that the picture's first value names."""
        assert frames == sorted({0, picture.shown, picture.frames - 1})
        value = int(picture.frame(0)[0, 0])
        if value == 255:
            raise RedactionUncertain("no")
        return type("Redacted", (), {"regions": found((value, 5, 20, 10))})()


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> Result:
    """Run the command with `Found` in place of redaction."""
    monkeypatch.setattr(command, "Redact", Found)
    return CliRunner().invoke(app, ["learn", str(folder), "--out", str(folder.parent / "sono.toml"), *options])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files of a device with text in two places, one of another device, one without a device, one that cannot be judged."""
    made = tmp_path / "src"
    made.mkdir()
    for number, value in enumerate((3, 3, 3, 100, 100, 100)):
        values = np.full((100, 200), value, np.uint8)
        values[50:, :] = 77
        (made / f"{number}.dcm").write_bytes(pictures.native(values, **DEVICE))
    (made / "other.dcm").write_bytes(data(ManufacturerModelName="Other"))
    (made / "nameless.dcm").write_bytes(data(Manufacturer=None))
    return made


def test_the_command_writes_a_file_that_the_node_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rectangles with comments, a line a device, a heat map without a pixel of any picture, and no second time over it."""
    done = run(monkeypatch, folder, "--preview", str(folder.parent / "maps"))
    assert done.exit_code == 0, done.output
    assert "Acme Sono 5 3.1, 200 x 100: 6 files, 2 rectangles" in done.output
    assert "Acme Other 3.1, 200 x 100: 1 files, needs 5" in done.output
    assert "1 files name no manufacturer" in done.output
    (place,) = Places.load(folder.parent)._rules
    assert [(one.x, one.y, one.w, one.h) for one in place.rectangles] == [(3, 5, 20, 10), (100, 5, 20, 10)]
    assert (folder.parent / "sono.toml").read_text().count("seen in 3 of 6 files") == 2
    (map_,) = (folder.parent / "maps").iterdir()
    drawn = cv2.imread(str(map_))
    assert map_.name == "place-1.png"
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 3
    assert run(monkeypatch, folder).exit_code == 2


def test_json_has_an_object_a_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--json tells of each device whether there were enough files, and its rectangles."""
    done = run(monkeypatch, folder, "--json")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["model"], first["files"], first["enough"], first["rectangles"]) == ("Other", 1, False, [])
    assert (second["model"], second["rows"], second["columns"], second["enough"]) == ("Sono 5", 100, 200, True)
    assert second["rectangles"][0] == {"x": 3, "y": 5, "w": 20, "h": 10, "seen": 3}


def test_nothing_learned_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few files, or a file that cannot be judged, end with 1; what the others taught is written all the same."""
    assert run(monkeypatch, folder, "--least", "7").exit_code == 1
    assert not (folder.parent / "sono.toml").exists()
    (folder / "bad.dcm").write_bytes(pictures.native(np.full((100, 200), 255, np.uint8), **DEVICE))
    done = run(monkeypatch, folder)
    assert done.exit_code == 1
    assert "bad.dcm: redaction_uncertain" in done.output
    assert (folder.parent / "sono.toml").exists()

"""`run` and `route` ask the router about many pictures at once, and say what they would say of each alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from dicomnode.commands import files as commands
from dicomnode.commands.ahead import Ahead
from dicomnode.commands.files import instance_of
from dicomnode.errors import StageFailed
from dicomnode.stages.infer import BATCH
from dicomnode.stages.together import Later, Together
from tests.acceptance.samples import radiograph, write


class Asked:
    """A model that remembers in what batches it was asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.bad: object = None

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[Mapping[str, float]]:
        """The mean of each."""
        self.batches.append(len(pictures))
        if any(picture is self.bad for picture in pictures):
            raise StageFailed("this one")
        return [{"mean": float(picture.mean())} for picture in pictures]


def pictures(count: int) -> list[np.ndarray]:
    """Even pictures, each of its own."""
    return [np.full((2, 2), number, np.float32) for number in range(count)]


def test_questions_are_put_together() -> None:
    """What was noted is asked once, and answered when it is asked again; others are asked alone."""
    asked = Asked()
    together, (one, two, other) = Together(asked), pictures(3)
    with together.collecting():
        for picture in (one, two):
            with pytest.raises(Later):
                together(picture)
    assert [together(picture)["mean"] for picture in (two, one, other)] == [1, 0, 2]
    assert asked.batches == [2, 1]


def test_one_that_fails_fails_alone() -> None:
    """A batch that fails is asked one by one."""
    asked = Asked()
    together, (good, bad) = Together(asked), pictures(2)
    asked.bad = bad
    with together.collecting():
        for picture in (good, bad):
            with pytest.raises(Later):
                together(picture)
    assert together(good) == {"mean": 0}
    with pytest.raises(StageFailed, match="this one"):
        together(bad)


def test_files_are_opened_a_batch_at_a_time(tmp_path: Path) -> None:
    """Each is opened once, asked about with others, and closed after its turn; what is no DICOM has its own turn."""
    made = [write(radiograph(rows=40, cols=40, seed=seed), tmp_path) for seed in range(BATCH + 2)]
    made.insert(3, tmp_path / "note.txt")
    made[3].write_text("no DICOM")
    asked, opened = Asked(), []
    together = Together(asked)

    def read(stream: Any) -> Any:
        opened.append(stream.name)
        return instance_of(stream)

    def picture(image: Any) -> np.ndarray:
        return np.asarray(image.frame(0), np.float32)

    def route(_instance: object, image: Any) -> Mapping[str, float]:
        return together(image.once(picture))

    ahead = Ahead(made, together, read, route)
    streams = []
    for file in made:
        if file.suffix == ".txt":
            with pytest.raises(Exception), ahead.opened(file):  # noqa: B017, PT011 - whatever a text is to pydicom
                pass
            continue
        with ahead.opened(file) as (stream, instance, image):
            streams.append(stream)
            assert route(instance, image)["mean"] > 0
    assert asked.batches == [BATCH - 1, 3]
    assert sorted(opened) == sorted([*map(str, made), str(made[3])])
    assert all(stream.closed for stream in streams)


def test_the_command_says_the_same_of_many_as_of_one(tmp_path: Path) -> None:
    """More files than a batch, one of them broken: the same answers in the same order, and exit code 1."""
    made = [write(radiograph(rows=64, cols=64, seed=seed), tmp_path / "p") for seed in range(BATCH + 1)]
    (tmp_path / "p" / "x.dcm").write_bytes(b"\0" * 200)
    app = typer.Typer()
    app.command()(commands.route)
    done = CliRunner().invoke(app, [str(tmp_path / "p"), "--json"])
    assert done.exit_code == 1
    many = {one["path"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert list(many) == sorted(map(str, made))
    for file in made[:3]:
        (alone,) = map(json.loads, CliRunner().invoke(app, [str(file), "--json"]).stdout.splitlines())
        assert alone.pop("probabilities") == pytest.approx(many[str(file)].pop("probabilities"), abs=1e-5)
        assert alone.pop("probability") == pytest.approx(many[str(file)].pop("probability"), abs=1e-5)
        assert alone == many[str(file)]

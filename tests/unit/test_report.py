"""``dicomnode report tags``: the counts of a period, by device, for people and programs."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner, Result

from dicomnode.cli import COMMANDS
from dicomnode.commands.report import app, wilson
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Agreement
from dicomnode.settings import Settings
from dicomnode.spool import Spool

from .queue_contract import ME, NOW, SAID, claimed, instance
from .spooled import configured

#: device, picture, tag, agreement, how often, days later.
GIVEN: list[tuple[str, str, str, Agreement, int, int]] = [
    ("dev-a", "spine", "spine", "agrees", 6, 0),
    ("dev-a", "spine", "abdomen", "disagrees", 2, 0),
    ("dev-a", "abdomen", "other", "disagrees", 1, 0),
    ("dev-a", "adult_chest", "pediatric_chest", "disagrees", 1, 0),
    ("dev-a", "spine", "absent", "absent", 3, 0),
    ("dev-a", "spine", "several", "not_comparable", 1, 0),
    ("dev-b", "other", "other", "agrees", 2, 1),
    ("", "other", "spine", "disagrees", 1, 40),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node whose queue has counted all that was given."""
    made = configured(tmp_path)
    Spool(made.node.state_dir).identity()
    queue = SqliteQueue(made.node.state_dir / "queue.sqlite")
    number = 0
    for device, picture, tag, agreement, times, days in GIVEN:
        for _ in range(times):
            number += 1
            queue.add(dataclasses.replace(instance(number), received_at=NOW + timedelta(days=days)))
            said = dataclasses.replace(SAID, device=device, picture=picture, tag=tag, agreement=agreement)
            queue.finish(claimed(queue), ME, said, [], [], NOW)
    queue.close()
    return made


def run(settings: Settings, *words: str) -> Result:
    """Run ``dicomnode report tags``."""
    return CliRunner().invoke(app, ["tags", *words, "-c", str(settings.directory)])


def told(settings: Settings, *words: str) -> list[dict[str, object]]:
    """Its JSON lines."""
    done = run(settings, *words, "--json")
    assert done.exit_code == 0, done.exception
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_device_is_summed_up(settings: Settings) -> None:
    """Right, wrong, of another age, absent, not comparable; what is wrong comes with its most frequent confusions."""
    first, second = told(settings, "--since", "2026-03-01", "--until", "2026-03-02")
    assert {key: first[key] for key in ("device", "pictures", "right", "wrong", "age", "absent", "not_comparable")} == {
        "device": "dev-a", "pictures": 14, "right": 6, "wrong": 3, "age": 1, "absent": 3, "not_comparable": 1,
    }
    assert first["wrong_share"] == 0.3
    confusions = first["confusions"]
    assert isinstance(confusions, list)
    assert [(one["tag"], one["picture"], one["count"]) for one in confusions] == [
        ("abdomen", "spine", 2), ("other", "abdomen", 1), ("pediatric_chest", "adult_chest", 1),
    ]
    assert confusions[0]["newest"] == instance(8).instance_id
    assert (second["device"], second["right"], second["wrong"], second["wrong_share"]) == ("dev-b", 2, 0, 0.0)


@pytest.mark.parametrize(("since", "until", "devices"), [
    ("2026-03-01", "2026-03-01", ["dev-a"]), ("2026-03-02", "2026-03-02", ["dev-b"]), ("2026-03-01", "2027-01-01", 3),
    ("2026-03-03", "2026-03-09", []),
])
def test_the_period_has_both_its_days(settings: Settings, since: str, until: str, devices: list[str] | int) -> None:
    """By the day of reception, in UTC."""
    found = [one["device"] for one in told(settings, "--since", since, "--until", until)]
    assert found == devices or len(found) == devices


def test_people_get_a_table(settings: Settings) -> None:
    """With the share of what is wrong, its interval, and an instance to look at."""
    text = run(settings, "--since", "2026-03-01", "--until", "2026-03-02").stdout
    assert "30.0% (10.8% to 60.3%)" in text
    assert f"abdomen is spine: 2 ({instance(8).instance_id})" in text


@pytest.mark.parametrize("words", [["--since", "yesterday"], ["--since", "2026-03-02", "--until", "2026-03-01"]])
def test_days_that_are_none_are_usage(settings: Settings, words: list[str]) -> None:
    """Exit 2, as every mistake on the line."""
    assert run(settings, *words).exit_code == 2


def test_no_queue_is_told(tmp_path: Path) -> None:
    """A node that never ran has counted nothing."""
    assert "there is no queue yet" in str(run(configured(tmp_path)).exception)


def test_nothing_is_made_or_changed(settings: Settings) -> None:
    """It may run beside the node."""
    path = settings.node.state_dir / "queue.sqlite"
    before = path.read_bytes()
    told(settings)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("hits", "of", "low", "high"), [
    (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (15, 100, 0.0931, 0.2328),
])
def test_the_interval_is_wilsons(hits: int, of: int, low: float, high: float) -> None:
    """Against the published formula's values; of nothing there is none."""
    assert wilson(hits, of) == (round(hits / of, 4), (low, high))
    assert wilson(0, 0) == (None, None)


def test_every_agreement_is_counted_somewhere() -> None:
    """A word that is added to the record must be added to the report and to the table."""
    assert set(get_args(Agreement)) == {"", *(agreement for _, _, _, agreement, *_ in GIVEN)}
    assert "report" in COMMANDS

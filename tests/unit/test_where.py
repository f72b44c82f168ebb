"""``dicomnode where``: finds by whatever people have at hand, and tells what happened, by whom, and who must act."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from dicomnode import log
from dicomnode.commands.story import actor
from dicomnode.commands.where import local, where
from dicomnode.errors import NotFound, QueueUnavailable
from dicomnode.gate import accession_token
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Held, Instance, Verdict
from dicomnode.settings import Settings
from dicomnode.spool import Spool

from .queue_contract import LATER, ME, NOW, SUMMARY, claimed, instance, one_delivery, output, worked
from .spooled import configured

ONE = instance(1).instance_id


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node with one archive, ``pacs``, whose AE title is PACS."""
    return configured(tmp_path)


@pytest.fixture
def spool(settings: Settings) -> Spool:
    """The spool of a node that has run."""
    made = Spool(settings.node.state_dir)
    made.identity()
    return made


def run(settings: Settings, *words: str) -> Result:
    """Run ``dicomnode where``."""
    app = typer.Typer()
    app.command()(where)
    return CliRunner().invoke(app, [*words, "-c", str(settings.directory)])


def found(settings: Settings, *words: str) -> list[dict[str, object]]:
    """The JSON lines of a command that found something."""
    result = run(settings, *words, "--json")
    assert result.exit_code == 0, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def asked_for(spool: Spool, number: int = 1, accession: str = "A0123") -> Instance:
    """An instance as the keeper takes it in."""
    token = accession_token(accession, spool.identity().key)
    return dataclasses.replace(
        instance(number), calling_ae="CT 1", accession_token=token, acceptor_pid=4711, series_instance_uid="1.3.7",
    )


def test_a_key_from_standard_input(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """``-`` stands for a KEY that neither sudo nor the shell is to write down."""
    queue.add(asked_for(spool))
    app = typer.Typer()
    app.command()(where)
    result = CliRunner().invoke(app, ["-", "--json", "-c", str(settings.directory)], input=" a0123\n")
    assert [json.loads(line)["matched"] for line in result.stdout.splitlines()] == [["Accession Number"]]


@pytest.mark.parametrize(("key", "names"), [
    (ONE, ["instance id"]), (f" {ONE.lower()} ", ["instance id"]), ("1.2.1", ["SOP Instance UID"]),
    (" 1.2.1\n", ["SOP Instance UID"]), ("'1.2. 1.'", ["SOP Instance UID"]), ("2.25.1", ["result UID"]),
    ("1.3.7", ["Series Instance UID"]), ("1.4", ["Study Instance UID"]), ("A0123", ["Accession Number"]),
    ("a0123 ", ["Accession Number"]), ("\N{NO-BREAK SPACE}A 0123", ["Accession Number"]), ("CT 1", ["calling AE title"]),
    (" ct 1 ", ["calling AE title"]), ("pacs", ["destination"]), ("PACS ", ["destination"]),
])
def test_an_instance_is_found_as_people_paste_its_name(
    settings: Settings, spool: Spool, queue: SqliteQueue, key: str, names: list[str],
) -> None:
    """Spaces, quotes, letter case and a full stop behind it do not count; it is said what the name was taken for."""
    worked(queue, asked_for(spool), [output(1)])
    (one,) = found(settings, key)
    assert (one["instance_id"], one["matched"]) == (ONE, names)
    assert run(settings, key).stdout.startswith(f"As {names[0]}: 1 instance, 1 waiting\n")


def test_a_token_of_the_log_is_found(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """That of a source and that of a result."""
    worked(queue, asked_for(spool), [output(1)])
    for uid, name in (("1.2.1", "SOP Instance UID"), ("2.25.1", "result UID")):
        (one,) = found(settings, log.uid_token(uid, spool.identity().key).upper())
        assert (one["instance_id"], one["matched"]) == (ONE, [name])


def test_a_name_of_several_kinds_is_shown_as_each(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """An Accession Number may be the AE title of a scanner, and the peer that sends may be the one that gets."""
    queue.add(asked_for(spool, 1, "CT7"))
    queue.add(dataclasses.replace(instance(2), calling_ae="CT7"))
    assert [one["matched"] for one in found(settings, "ct7")] == [["Accession Number"], ["calling AE title"]]
    queue.add(dataclasses.replace(asked_for(spool, 3, "CT7"), calling_ae="CT7"))
    assert found(settings, "CT7")[-1]["matched"] == ["Accession Number", "calling AE title"]
    lines = run(settings, "CT7").stdout.splitlines()[:2]
    assert lines == ["As Accession Number: 2 instances, 2 waiting", "As calling AE title: 2 instances, 2 waiting"]


def test_of_many_the_newest_are_told_and_all_are_counted(settings: Settings, queue: SqliteQueue) -> None:
    """A study of a thousand slices is no thousand pages."""
    for number in range(1, 5):
        queue.add(instance(number))
    assert [one["instance_id"] for one in found(settings, "1.4", "--limit", "2")] == [
        instance(3).instance_id, instance(4).instance_id,
    ]
    assert "4 instances, 4 waiting; the newest 2 are shown" in run(settings, "1.4", "--limit", "2").stdout
    assert len(found(settings, "1.4", "--limit", "0")) == 4


@pytest.mark.parametrize("key", ["1.2.99", "A9999", "NOBODY", "uid-000000000000", " ", "acc-1", "%", "' OR 1=1"])
def test_nothing_found_is_told(settings: Settings, spool: Spool, queue: SqliteQueue, key: str) -> None:
    """With exit code 1 by cli.py."""
    queue.add(asked_for(spool))
    assert isinstance(run(settings, key).exception, NotFound)


def test_where_there_is_no_queue_nothing_is_made(settings: Settings) -> None:
    """Who looks leaves no file."""
    assert isinstance(run(settings, "1.2.1").exception, NotFound)
    assert not settings.node.state_dir.exists()


def test_looking_makes_no_file_and_needs_no_right_to_write(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """Beside a running node and after it has stopped."""
    queue.add(asked_for(spool))
    for running in (True, False):
        if not running:
            queue.close()
        (spool.state_dir / "receipts").rmdir() if running else None
        before = sorted(spool.state_dir.rglob("*"))
        assert len(found(settings, "A0123")) == 1
        assert sorted(spool.state_dir.rglob("*")) == before


def test_a_queue_of_an_older_version_says_what_to_do(settings: Settings, queue: SqliteQueue) -> None:
    """It is not brought forward by somebody who looks."""
    queue._connection.execute("PRAGMA user_version = 2")
    assert isinstance(run(settings, "1.2.1").exception, QueueUnavailable)


def events_of(one: dict[str, object]) -> list[tuple[str, str]]:
    """(what, by whom) of a timeline."""
    timeline = one["timeline"]
    assert isinstance(timeline, list)
    return [
        (e["what"], e["by"].get("person") or e["by"].get("calling_ae") or e["by"]["role"]) for e in timeline
    ]


def test_the_whole_way_is_told_in_order(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """From the sender to the archive's status, each with time and author."""
    one = asked_for(spool)
    queue.add(one)
    claimed(queue)
    queue.reclaim(lambda _: False)
    queue.finish(claimed(queue), ME, SUMMARY, [output(1)], [Held("sc", ("pacs",), "redaction_uncertain")], NOW)
    for minute in range(3):
        now = NOW + timedelta(minutes=minute)
        queue.settle(one_delivery(queue, now), ME, Verdict("deferred", "peer_unavailable"), now + timedelta(seconds=1), now)
    queue.settle(one_delivery(queue, LATER), ME, Verdict("delivered", status=0xB000), LATER + timedelta(seconds=1))
    queue.drop(ONE, LATER, "anna as dicomnode")
    (told,) = found(settings, "A0123")
    assert events_of(told) == [
        ("received as DICOMNODE", "CT 1"), ("taken in, waits for a worker", "keeper"), ("claimed to be worked", "worker"),
        ("its process died, taken back", "keeper"), ("worked", "worker"),
        ("made, to be sent", "worker"), ("held before it was made", "worker"), ("claimed to be sent", "sender"),
        ("not taken for now", "sender"), ("claimed to be sent", "sender"), ("delivered", "sender"),
        ("given up", "anna as dicomnode"),
    ]
    timeline = told["timeline"]
    assert isinstance(timeline, list)
    assert timeline[0]["by"] == {"calling_ae": "CT 1", "address": "127.0.0.1", "role": "acceptor", "pid": 4711}
    assert (timeline[8]["times"], timeline[8]["reason"]) == (3, "peer_unavailable")
    sent = timeline[10]
    assert (sent["destination"], sent["ae_title"], sent["status"]) == ("pacs", "PACS", "0xB000")
    assert sent["at"] == (LATER + timedelta(seconds=1)).isoformat()
    assert sent["by"]["pid"] == os.getpid()
    text = run(settings, "A0123").stdout
    assert "A0123" not in text
    for words in ("CT 1 127.0.0.1, acceptor 4711", "sr to pacs (PACS)", "0xB000", "3 times until", local(NOW.isoformat())):
        assert words in text


def now_of(settings: Settings) -> dict[str, object]:
    """The one line of what is now."""
    (one,) = found(settings, ONE)
    now = one["now"]
    assert isinstance(now, list)
    (line,) = now
    return dict(line)


def test_a_closed_window_is_told(settings: Settings, queue: SqliteQueue) -> None:
    """Nobody need act, and who cannot wait is told how not to."""
    assert settings.directory is not None
    soon = datetime.now().astimezone() + timedelta(hours=2)
    window = f"{soon:%H:%M}-{soon + timedelta(hours=1):%H:%M}"
    with (settings.directory / "peers" / "pacs.toml").open("a") as file:
        file.write(f'windows = ["{window}"]\n')
    queue.add(instance(1))
    queue.finish(claimed(queue), ME, SUMMARY, [output(1)], [], NOW)
    waits = now_of(settings)
    assert waits["who"] == "nobody"
    assert window in str(waits["what"])
    assert f"dicomnode queue urgent {ONE}" in str(waits["what"])
    queue.hasten(ONE, NOW)
    assert "what" not in now_of(settings)


@pytest.mark.parametrize(("reason", "act"), [
    ("redaction_uncertain", "release"), ("text_left_after_blanking", "release"), ("undecodable", "retry"),
])
def test_what_lets_a_held_output_go_is_told(settings: Settings, queue: SqliteQueue, reason: str, act: str) -> None:
    """A release waives what redaction is not sure of and nothing else."""
    queue.add(instance(1))
    queue.finish(claimed(queue), ME, SUMMARY, [], [Held("sc", ("pacs",), reason)], NOW)
    assert now_of(settings)["acts"] == f"dicomnode queue {act} {ONE}, or drop"


def test_who_must_act_is_told(settings: Settings, queue: SqliteQueue) -> None:
    """By the reason that stands on the row, with the command that does it."""
    queue.add(instance(1))
    assert now_of(settings)["who"] == "nobody"
    queue.hold(claimed(queue), ME, "pixels_differ")
    held = now_of(settings)
    assert (held["who"], held["acts"]) == ("reviewer", f"dicomnode queue release {ONE}, or drop")
    assert "reviewer" in run(settings, ONE).stdout
    queue.release(ONE, NOW)
    queue.finish(claimed(queue), ME, SUMMARY, [output(1)], [], NOW)
    assert now_of(settings)["who"] == "nobody"
    queue.set_destination("pacs", "blocked", "association_rejected", NOW)
    blocked = now_of(settings)
    assert blocked["who"] == "administrator"
    assert "blocked" in str(blocked["what"])
    assert f"dicomnode queue retry {ONE}" in str(blocked["acts"])
    queue.settle(one_delivery(queue), ME, Verdict("refused", "refused_by_peer", 0xA900), NOW)
    refused = now_of(settings)
    assert (refused["who"], refused["status"], refused["acts"]) == (
        "administrator", "0xA900", f"dicomnode queue retry {ONE}, or drop",
    )
    queue.retry(ONE, NOW)
    queue.settle(one_delivery(queue), ME, Verdict("delivered", status=0), NOW)
    assert (now_of(settings)["who"], now_of(settings)["state"]) == ("nobody", "delivered")


def test_every_reason_has_somebody() -> None:
    """Those of the error tree, and a reviewer for any other."""
    assert (actor("undecodable"), actor("spool_full"), actor("?")) == ("reviewer", "administrator", "reviewer")


def test_times_are_those_of_this_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the zone; JSON has them in UTC."""
    assert local("2026-03-01T12:00:00.123456+00:00").startswith("2026-0")
    assert local("2026-03-01T12:00:00+00:00").split()[-1]

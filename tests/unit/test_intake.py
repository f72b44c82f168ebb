"""Intake: every file gets exactly one row, wherever the process was killed before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import dicomnode.keeper.intake as module
from dicomnode.errors import QueueUnavailable, StoreFailed
from dicomnode.keeper.intake import Intake
from dicomnode.queue.owner import this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.spool import Spool

from .spooled import NOW, an_id, receive, spoil

NODE = "00" * 16
GARBAGE = b"not dicom at all, but long enough to look into " * 10


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool."""
    return Spool(tmp_path / "state")


@pytest.fixture
def queue(spool: Spool) -> Iterator[SqliteQueue]:
    """Its queue."""
    opened = SqliteQueue(spool.queue_path)
    yield opened
    opened.close()


@pytest.fixture
def intake(spool: Spool, queue: SqliteQueue) -> Intake:
    """A fresh intake."""
    return Intake(spool, queue, NODE)


def states(queue: SqliteQueue) -> dict[object, object]:
    """Instance id → state."""
    return {row["instance_id"]: row["state"] for row in queue.rows()}


def test_a_received_file_gets_a_waiting_row_with_its_sender(spool: Spool, queue: SqliteQueue, intake: Intake) -> None:
    """Who sent it and when comes out of the file itself."""
    assert intake.one(receive(spool)) == "waiting"
    (row,) = queue.rows()
    assert (row["instance_id"], row["calling_ae"], row["called_ae"], row["address"], row["received_at"], row["modality"]) == (
        an_id(1), "MODALITY", "DICOMNODE", "127.0.0.1", NOW.isoformat(), "CT",
    )


def test_doing_it_twice_changes_nothing(spool: Spool, queue: SqliteQueue, intake: Intake) -> None:
    """One file, one row, by name or by scan, in this process or the next one."""
    location = receive(spool)
    assert intake.one(location) == "waiting"
    before = queue.rows()
    assert intake.one(location) is None
    assert intake.scan() == intake.scan(full=True) == Intake(spool, queue, NODE).scan(full=True) == 0
    assert queue.rows() == before


def test_a_scan_takes_the_oldest_first_so_that_the_resend_is_the_duplicate(
    spool: Spool, queue: SqliteQueue, intake: Intake,
) -> None:
    """Whatever order the folder lists them in."""
    for number in (3, 1, 2):
        receive(spool, number, uid="1.2.3")
    assert intake.scan(full=True) == 3
    assert states(queue) == {an_id(1): "waiting", an_id(2): "duplicate", an_id(3): "duplicate"}


def test_scans_find_what_came_between_them(spool: Spool, queue: SqliteQueue, intake: Intake) -> None:
    """Also in a folder that a former scan had found complete."""
    receive(spool, 1)
    assert intake.scan(full=True) == 1
    hour = spool.root / "incoming" / "2026030112"
    os.utime(hour, (1, 1))
    assert intake.scan() == 0
    receive(spool, 2)
    assert intake.scan() == 1
    assert intake.scan() == 0
    assert list(states(queue)) == [an_id(1), an_id(2)]


def test_a_scan_reads_no_file_that_has_its_row(
    spool: Spool, queue: SqliteQueue, intake: Intake, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was taken in by name, or in a former life, costs no second reading."""
    intake.one(receive(spool, 1))
    receive(spool, 2)
    Intake(spool, queue, NODE).scan(full=True)

    def read(*_: object, **__: object) -> None:
        raise AssertionError

    intake.scan()
    monkeypatch.setattr(module, "header", read)
    receive(spool, 1)
    assert intake.scan() == Intake(spool, queue, NODE).scan(full=True) == 0


def test_an_unreadable_file_is_set_aside_in_sight(spool: Spool, queue: SqliteQueue, intake: Intake) -> None:
    """File and row both say quarantine, and the row knows when it came."""
    assert intake.one(receive(spool, data=GARBAGE)) == "quarantine"
    (row,) = queue.rows()
    assert (row["state"], row["reason"], row["location"]) == ("quarantine", "undecodable", f"quarantine/{an_id(1)}.dcm")
    assert (row["received_at"], row["size_bytes"]) == ("2026-03-01T12:00:01+00:00", len(GARBAGE))
    assert intake.scan(full=True) == 0


@pytest.mark.parametrize("step", ["before the move", "between move and row"])
def test_a_kill_while_a_file_is_set_aside_is_mended_by_the_next_scan(
    spool: Spool, queue: SqliteQueue, intake: Intake, monkeypatch: pytest.MonkeyPatch, step: str,
) -> None:
    """A file in quarantine without a row is found there."""

    def kill(*_: object) -> None:
        raise Killed

    location = receive(spool, data=GARBAGE)
    with monkeypatch.context() as patched:
        patched.setattr(*((spool, "quarantine") if step == "before the move" else (queue, "add_unreadable")), kill)
        with pytest.raises(Killed):
            intake.one(location)
    assert states(queue) == {}
    assert Intake(spool, queue, NODE).scan(full=True) == 1
    assert states(queue) == {an_id(1): "quarantine"}
    assert [kept.location for kept in spool.quarantined()] == [f"quarantine/{an_id(1)}.dcm"]


def test_a_defect_over_one_file_sets_it_aside_and_the_others_go_on(
    spool: Spool, queue: SqliteQueue, intake: Intake, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error that nobody thought of is no reason to stop the way of all others."""
    real = module.header

    def odd(stream: object, *, instance_id: str, **rest: object) -> object:
        if instance_id == an_id(1):
            raise KeyError
        return real(stream, instance_id=instance_id, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "header", odd)
    receive(spool, 1)
    receive(spool, 2)
    assert intake.scan(full=True) == 2
    assert states(queue) == {an_id(1): "quarantine", an_id(2): "waiting"}
    assert queue.rows()[0]["reason"] == "stage_failed"


@pytest.mark.parametrize("fault", [OSError(5, "Input/output error"), StoreFailed("Input/output error")])
def test_a_disk_error_over_one_file_lets_the_others_through_and_is_told(
    spool: Spool, queue: SqliteQueue, intake: Intake, monkeypatch: pytest.MonkeyPatch, fault: Exception,
) -> None:
    """The file is neither set aside nor forgotten: the next pass tries again."""
    real = spool.open

    def broken(location: str) -> object:
        if an_id(1) in location:
            raise fault
        return real(location)

    receive(spool, 1)
    receive(spool, 2)
    with monkeypatch.context() as patched:
        patched.setattr(spool, "open", broken)
        with pytest.raises(type(fault), match="Input/output"):
            intake.scan(full=True)
    assert states(queue) == {an_id(2): "waiting"}
    assert intake.scan() == 1


def test_a_disk_error_within_a_file_does_not_quarantine_it(
    spool: Spool, queue: SqliteQueue, intake: Intake, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What reads a header hears of it as our own error, not as damage of the file."""
    location = receive(spool)
    with monkeypatch.context() as patched:
        patched.setattr(module, "header", lambda stream, **_: (spoil(stream), stream.read()))
        with pytest.raises(StoreFailed):
            intake.one(location)
    assert states(queue) == {}
    assert intake.scan(full=True) == 1


def test_a_queue_that_cannot_answer_loses_nothing(
    spool: Spool, queue: SqliteQueue, intake: Intake, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pass ends, the next one makes the rows."""

    def locked(_: object) -> None:
        raise QueueUnavailable("locked")

    location = receive(spool)
    with monkeypatch.context() as patched:
        patched.setattr(queue, "add", locked)
        with pytest.raises(QueueUnavailable):
            intake.one(location)
        with pytest.raises(QueueUnavailable):
            intake.scan(full=True)
    assert intake.scan() == 1


def test_a_file_that_is_gone_again_is_no_matter(spool: Spool, intake: Intake) -> None:
    """Removed or moved since it was named."""
    location = receive(spool)
    spool.remove(location)
    assert intake.one(location) is None


def test_the_queue_is_made_anew_from_the_files(spool: Spool, queue: SqliteQueue, intake: Intake) -> None:
    """With the database moved away, every instance and every quarantined file has its row again."""
    receive(spool, 1)
    receive(spool, 2, data=GARBAGE)
    receive(spool, 3, uid="1.2.1")
    intake.scan(full=True)
    before = states(queue)
    assert before == {an_id(1): "waiting", an_id(2): "quarantine", an_id(3): "duplicate"}
    queue.close()
    for path in spool.state_dir.glob("queue.sqlite*"):
        path.rename(path.with_name(f"old-{path.name}"))
    again = SqliteQueue(spool.queue_path)
    assert Intake(spool, again, NODE).scan(full=True) == 3
    assert states(again) == before
    again.close()


def test_a_quarantined_file_that_a_person_retries_is_read_again(
    spool: Spool, queue: SqliteQueue, intake: Intake, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the reader was mended, say: the running keeper's next scan takes it in from where it is."""
    with monkeypatch.context() as patched:
        patched.setattr(module, "header", lambda *_, **__: {}["missing"])
        intake.one(receive(spool))
    assert states(queue) == {an_id(1): "quarantine"}
    queue.retry(an_id(1), NOW)
    assert intake.scan() == 1
    (row,) = queue.rows()
    assert (row["state"], row["location"]) == ("waiting", f"quarantine/{an_id(1)}.dcm")
    claim = queue.claim(this_process(), NOW)
    assert claim is not None
    spool.open(claim.instance.location).close()

"""The keeper: takes in at once, brings back the claims of the dead, removes no file too early, tells what people must know."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode import log
from dicomnode.errors import BadSetting, QueueUnavailable
from dicomnode.keeper import Guard, run_keeper
from dicomnode.keeper.chores import Chores
from dicomnode.keeper.hook import run_hook
from dicomnode.keeper.inotify import Watch
from dicomnode.queue import Owner
from dicomnode.queue.database import scripts
from dicomnode.queue.owner import this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Delivery, Held, Verdict
from dicomnode.settings import Settings
from dicomnode.spool import Spool
from dicomnode.spool.room import held_bytes

from .queue_contract import ME, SAID, SUMMARY, claimed, counted, instance, output, worked
from .spooled import NOW, an_id, configured, receive

DEAD = Owner("an earlier life of this machine", 1, 1)
HOUR = timedelta(hours=1)
#: The hook of the tests writes each JSON line it gets to a file.
_HOOK = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


@pytest.fixture
def told(tmp_path: Path) -> Callable[[], list[dict[str, object]]]:
    """What the hook was told so far."""
    path = tmp_path / "told"
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node with a hook and small limits."""
    hook = json.dumps([sys.executable, "-c", _HOOK, str(tmp_path / "told")])
    keep = f"scan_s = 0.2\nretention_h = 24\nholds_max_bytes = 1500\nhook = {hook}"
    return configured(tmp_path, keep, "min_free_bytes = 1000")


@pytest.fixture
def chores(settings: Settings, spool: Spool, queue: SqliteQueue) -> Chores:
    """Its chores."""
    return Chores(settings, spool, queue)


@pytest.fixture
def lines(settings: Settings) -> Callable[[str], list[dict[str, object]]]:
    """The log lines of an event so far."""
    stream = io.StringIO()
    log.configure(settings.log, "keep", b"k" * 32, stream=stream)
    return lambda event: [line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == event]


Lines = Callable[[str], list[dict[str, object]]]
Told = Callable[[], list[dict[str, object]]]


@pytest.fixture
def running(settings: Settings, spool: Spool) -> Iterator[Callable[[], None]]:
    """Start the keeper in a thread; it is stopped at the end."""
    stop = threading.Event()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_keeper(settings, stop)))
    yield thread.start
    stop.set()
    if thread.ident is not None:
        thread.join(20)
        assert codes == [0]


def until(holds: Callable[[], object], seconds: float = 10) -> bool:
    """Wait for something to hold."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(holds())


def put(spool: Spool, number: int = 1) -> str:
    """A result file."""
    return spool.put(f"2.25.{number}", lambda stream: stream.write(b"result") and None)


def sent(queue: SqliteQueue, now: datetime, destination: str = "pacs") -> Delivery:
    """Deliver the next one."""
    (delivery,) = queue.claim_deliveries(destination, ME, 1, now)
    queue.settle(delivery, ME, Verdict("delivered", status=0), now)
    return delivery


# -- the running keeper
def test_a_keeper_takes_in_what_was_there_and_what_comes(spool: Spool, queue: SqliteQueue, running: Callable[[], None]) -> None:
    """Files from before its start by the full scan, later ones without waiting for a scan."""
    receive(spool, 1)
    running()
    assert until(lambda: queue.known(an_id(1)))
    receive(spool, 2)
    receive(spool, 3, data=b"garbage " * 30)
    assert until(lambda: queue.known(an_id(2)) and queue.known(an_id(3)))
    assert [row["state"] for row in queue.rows()] == ["waiting", "waiting", "quarantine"]


def test_claims_of_the_dead_return_within_5_s_and_of_the_living_stay(
    spool: Spool, queue: SqliteQueue, running: Callable[[], None],
) -> None:
    """Measured with the keeper running, not at its start."""
    running()
    for number in (1, 2):
        receive(spool, number)
    assert until(lambda: queue.known(an_id(1)) and queue.known(an_id(2)))
    time.sleep(0.5)
    claimed(queue, DEAD)
    claimed(queue, this_process())
    started = time.monotonic()
    assert until(lambda: queue.find(an_id(1))[0]["state"] == "waiting")
    assert time.monotonic() - started < 5
    assert queue.find(an_id(2))[0]["state"] == "active"


def test_a_keeper_without_inotify_scans(
    spool: Spool, queue: SqliteQueue, running: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel's limit on watches costs time, never an instance."""

    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("dicomnode.keeper.Watch", none_left)
    running()
    time.sleep(0.3)
    receive(spool)
    assert until(lambda: queue.known(an_id(1)))


def test_a_damaged_queue_does_not_end_the_keeper_and_is_told_once(
    settings: Settings, spool: Spool, running: Callable[[], None], lines: Lines,
) -> None:
    """When the file is moved away, it is made anew from the spool."""
    receive(spool)
    spool.queue_path.write_bytes(b"no database " * 1000)
    running()
    assert until(lambda: lines("store_failed"))
    time.sleep(0.6)
    assert [line["reason"] for line in lines("store_failed")] == ["queue_damaged"]
    spool.queue_path.rename(spool.state_dir / "damaged")
    assert until(lambda: lines("instance_taken"))


def test_a_queue_of_newer_software_ends_the_keeper(settings: Settings, spool: Spool) -> None:
    """That is a fault of the installation: exit 78, not a loop."""
    SqliteQueue(spool.queue_path, versions={**scripts(), len(scripts()) + 1: "CREATE TABLE later (x);"}).close()
    with pytest.raises(BadSetting):
        run_keeper(settings, threading.Event())


def test_files_and_rows_are_compared_once_when_the_first_scan_is_through(
    spool: Spool, queue: SqliteQueue, running: Callable[[], None], lines: Lines,
) -> None:
    """What came while nobody kept has its row by then, what the dead held is back; what is left does not fit."""
    os.utime(spool.path(receive(spool, 1)), (1, 1))
    queue.add(dataclasses.replace(instance(2), location=receive(spool, 2)))
    claimed(queue, DEAD)
    (spool.root / "quarantine" / "note.txt").write_text("")
    running()
    assert until(lambda: lines("audit_done"))
    time.sleep(0.5)
    assert [(line["count"], line["level"]) for line in lines("audit_done")] == [(1, "error")]


def test_a_start_without_a_breach_is_told_too(spool: Spool, running: Callable[[], None], lines: Lines) -> None:
    """Silence would say nothing."""
    running()
    assert until(lambda: lines("audit_done"))
    assert [(line["count"], line["level"]) for line in lines("audit_done")] == [(0, "info")]


# -- passes that fail
def test_a_failure_is_logged_when_its_reason_changes(lines: Lines) -> None:
    """Not each time; and again after it had gone."""
    guard = Guard()

    def fail(error: Exception) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    full, locked = OSError(28, "No space left on device"), QueueUnavailable("locked")
    for work in (fail(full), fail(full), fail(locked), lambda: None, fail(locked), fail(locked)):
        guard.run("scan", work)
    assert [line["reason"] for line in lines("store_failed")] == ["ENOSPC", "queue_unavailable", "queue_unavailable"]
    assert not guard.run("scan", fail(KeyError()))
    assert len(lines("defect")) == 1


# -- inotify
def test_a_watch_names_new_files_and_sends_to_scan_for_a_new_folder(spool: Spool) -> None:
    """A file that came with a new folder is found by the scan, the next ones have a name."""
    watch = Watch(spool.root / "incoming")
    try:
        assert watch.wait(0) == ()
        receive(spool, 1)
        assert watch.wait(5) is None
        location = receive(spool, 2)
        assert watch.wait(5) == (location,)
    finally:
        watch.close()


# -- dead claims
def test_the_third_death_is_told_to_a_person(queue: SqliteQueue, chores: Chores, lines: Lines) -> None:
    """Each taking back has its line, the last one an error."""
    queue.add(instance())
    for _ in range(3):
        claimed(queue, DEAD)
        chores.reclaim(NOW)
    assert [line["state"] for line in lines("lease_reclaimed")] == ["again", "again", "set_aside"]
    assert [line["reason"] for line in lines("instance_quarantined")] == ["died_thrice"]


# -- files
def test_retention_removes_a_source_and_result_after_the_last_delivery_and_its_time(
    spool: Spool, queue: SqliteQueue, chores: Chores, lines: Lines,
) -> None:
    """Not while one of two destinations still waits, not a minute early, and then each once."""
    location, result = receive(spool), put(spool)
    os.utime(spool.path(result), (NOW.timestamp(), NOW.timestamp()))
    worked(queue, dataclasses.replace(instance(), location=location), [output(1, ("pacs", "lab"))])
    sent(queue, NOW)
    chores.retention(NOW + HOUR * 48)
    assert spool.path(location).exists()
    sent(queue, NOW + HOUR, "lab")
    chores.retention(NOW + HOUR * 25)
    assert spool.path(location).exists()
    chores.retention(NOW + HOUR * 25 + timedelta(minutes=1))
    assert not spool.path(location).exists()
    assert not spool.path(result).exists()
    chores.retention(NOW + HOUR * 99)
    assert [line["count"] for line in lines("files_removed")] == [2]


def test_retention_that_was_cut_after_the_files_is_ended_by_the_next(spool: Spool, queue: SqliteQueue, chores: Chores) -> None:
    """A file that is gone already is noted as gone."""
    location = receive(spool)
    worked(queue, dataclasses.replace(instance(), location=location))
    spool.remove(location)
    chores.retention(NOW + HOUR * 99)
    assert queue.locations() == {}


def test_the_file_of_a_duplicate_goes_and_that_of_a_held_one_stays(spool: Spool, queue: SqliteQueue, chores: Chores) -> None:
    """Retention frees what is ended, a person's work is never taken away."""
    ended, held = receive(spool, 2), receive(spool, 3)
    queue.add(instance(1, uid="1.2", sha256="a"))
    queue.add(dataclasses.replace(instance(2, uid="1.2", sha256="a"), location=ended))
    queue.finish(claimed(queue), ME, SUMMARY, [], [], NOW)
    worked(queue, dataclasses.replace(instance(3), location=held), [], [Held("sc", ("pacs",), "redaction_uncertain")])
    chores.retention(datetime.now(UTC) + HOUR * 99)
    assert (spool.path(ended).exists(), spool.path(held).exists()) == (False, True)


def test_leftovers_go_but_no_result_that_a_row_needs(spool: Spool, queue: SqliteQueue, chores: Chores, lines: Lines) -> None:
    """A result without a row goes after a day, one with a row stays, a young one too."""
    wanted, orphan = put(spool, 1), put(spool, 2)
    worked(queue, instance(), [output(1)])
    chores.leftovers(datetime.now(UTC) + HOUR * 23)
    assert spool.path(orphan).exists()
    chores.leftovers(datetime.now(UTC) + HOUR * 25)
    assert (spool.path(wanted).exists(), spool.path(orphan).exists()) == (True, False)
    assert [line["count"] for line in lines("leftovers_removed")] == [1]


def test_a_leftover_that_is_written_anew_meanwhile_stays(
    spool: Spool, queue: SqliteQueue, chores: Chores, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that repeats its work writes over what its predecessor left, while the keeper asks whose it was."""
    orphan, ask = put(spool), queue.results
    os.utime(spool.path(orphan), (1, 1))

    def asked() -> frozenset[str]:
        found = ask()
        put(spool)
        return found

    monkeypatch.setattr(queue, "results", asked)
    chores.leftovers(datetime.now(UTC))
    assert spool.path(orphan).exists()


def test_a_result_that_is_written_anew_meanwhile_stays(
    spool: Spool, queue: SqliteQueue, chores: Chores, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an original is by a rework: its row does not say that it is gone."""
    result, ask = put(spool), queue.removable
    worked(queue, instance(), [output(1)])
    sent(queue, NOW)
    os.utime(spool.path(result), (1, 1))

    def asked(before: datetime) -> tuple[tuple[str, str], ...]:
        found = ask(before)
        put(spool)
        return found

    monkeypatch.setattr(queue, "removable", asked)
    chores.retention(datetime.now(UTC))
    assert spool.path(result).exists()
    assert queue.results() == {result}


def test_rows_are_forgotten_after_their_days(spool: Spool, queue: SqliteQueue, chores: Chores) -> None:
    """A year by default, and only once the files are gone."""
    worked(queue, instance())
    chores.retention(NOW + HOUR * 99)
    chores.forget(NOW + timedelta(days=364))
    assert len(queue.rows()) == 1
    chores.forget(NOW + timedelta(days=366))
    assert queue.rows() == ()


def test_counts_of_tags_go_by_their_own_age(queue: SqliteQueue, chores: Chores) -> None:
    """Three years by default, long after the instances that were counted."""
    queue.add(instance())
    queue.finish(claimed(queue), ME, SAID, [], [], NOW)
    chores.retention(NOW + HOUR * 99)
    chores.forget(NOW + timedelta(days=1095))
    assert (queue.rows(), len(counted(queue))) == ((), 1)
    chores.forget(NOW + timedelta(days=1098))
    assert counted(queue) == []


def test_receipts_go_before_the_rows_of_their_days(spool: Spool, chores: Chores) -> None:
    """So that the account never misses a row that was forgotten in order."""
    for day in (NOW, NOW + timedelta(days=1)):
        (spool.state_dir / "receipts" / f"{day:%Y%m%d}").write_text(f"{an_id(day.day)}\n")
    chores.forget(NOW + timedelta(days=364))
    assert list(spool.receipts()) == [an_id(1), an_id(2)]
    chores.forget(NOW + timedelta(days=365))
    assert list(spool.receipts()) == [an_id(2)]


def test_a_file_is_gone_from_the_disk_before_its_row_says_so(
    spool: Spool, queue: SqliteQueue, chores: Chores, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a cut of power would bring back a patient's image that nobody removes again."""
    location = receive(spool)
    worked(queue, dataclasses.replace(instance(), location=location))
    steps: list[str] = []
    synced, noted = spool.sync_entries, queue.removed
    monkeypatch.setattr(spool, "sync_entries", lambda gone: (steps.append(f"sync {gone}"), synced(gone)))
    monkeypatch.setattr(queue, "removed", lambda gone: (steps.append(f"note {gone}"), noted(gone)))
    chores.retention(NOW + HOUR * 99)
    assert steps == [f"sync {[location]}", f"note {[location]}"]


# -- telling
def test_an_expired_delivery_is_told(queue: SqliteQueue, chores: Chores, lines: Lines) -> None:
    """With the destination that did not take it."""
    worked(queue, instance(), [output()])
    chores.expire(NOW + timedelta(hours=121))
    assert [(line["destination"], line["actor"]) for line in lines("delivery_expired")] == [("pacs", "administrator")]


def test_an_abnormal_finding_is_told_once_without_a_uid(queue: SqliteQueue, chores: Chores, told: Told) -> None:
    """The hook gets the node's own id, the model and the finding."""
    queue.add(instance())
    queue.finish(claimed(queue), ME, dataclasses.replace(SUMMARY, abnormal=True), [], [], NOW)
    chores.findings(NOW)
    chores.findings(NOW)
    assert told() == [{
        "event": "finding_abnormal", "time": "2026-03-01T12:00:00+00:00", "instance_id": instance().instance_id,
        "model": "model 1", "finding": "fracture", "probability": 0.7,
    }]


def test_a_low_disk_is_told_when_it_begins(
    spool: Spool, chores: Chores, lines: Lines, told: Told, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, also while it wavers about the mark, and again after it had recovered."""
    for free in (5000, 999, 998, 1001, 999, 1200, 500):
        # The room for holds, 1500 bytes, is not the intake's.
        monkeypatch.setattr(spool, "free_bytes", lambda free=free: free + 1500)
        chores.alarms(NOW)
    assert [(line["free_bytes"], line["intake_bytes"]) for line in lines("disk_low")] == [(2499, 999), (2000, 500)]
    assert [one["intake_bytes"] for one in told() if one["event"] == "disk_low"] == [999, 500]


def test_growing_holds_are_told(spool: Spool, queue: SqliteQueue, settings: Settings, lines: Lines, told: Told) -> None:
    """Each growth to the hook, the passed limit to the log too."""
    block = spool.disk_bytes([receive(spool, 1)])
    keep = settings.keep.model_copy(update={"holds_max_bytes": 2 * block - 1})
    chores = Chores(settings.model_copy(update={"keep": keep}), spool, queue)
    chores.alarms(NOW)
    for number in (1, 2):
        queue.add(dataclasses.replace(instance(number), location=receive(spool, number)))
        queue.quarantine(claimed(queue), ME, "undecodable")
        chores.alarms(NOW)
        chores.alarms(NOW)
    assert [(one["count"], one["over"]) for one in told() if one["event"] == "holds_grown"] == [(1, False), (2, True)]
    assert [line["bytes"] for line in lines("holds_grown")] == [2 * block]


def test_the_keeper_says_what_held_files_take(spool: Spool, queue: SqliteQueue, chores: Chores) -> None:
    """Sources that wait for a person, results that were refused, files in quarantine; not what is on its way."""
    held, refused = receive(spool, 1), receive(spool, 2)
    receive(spool, 3)
    queue.add(dataclasses.replace(instance(1), location=held))
    queue.hold(claimed(queue), ME, "pixels_differ")
    result = put(spool)
    worked(queue, dataclasses.replace(instance(2), location=refused), [output(1)])
    chores.room(NOW)
    assert held_bytes(spool.state_dir) == spool.disk_bytes([held])
    (delivery,) = queue.claim_deliveries("pacs", ME, 1, NOW)
    queue.settle(delivery, ME, Verdict("refused", "refused_by_peer"), NOW)
    unreadable = spool.quarantine(receive(spool, 4))
    queue.add_unreadable(an_id(4), unreadable, 1, NOW, "undecodable")
    chores.room(NOW)
    assert held_bytes(spool.state_dir) == spool.disk_bytes([held, refused, result, unreadable])
    queue.drop(an_id(4), NOW)
    chores.room(NOW)
    assert held_bytes(spool.state_dir) == spool.disk_bytes([held, refused, result])


def test_a_destination_that_goes_down_is_told_once(queue: SqliteQueue, chores: Chores, told: Told) -> None:
    """And again the next time."""
    for state in ("down", "down", "up", "down", "blocked"):
        queue.set_destination("pacs", state, "peer_unavailable", NOW)  # type: ignore[arg-type]
        chores.alarms(NOW)
    assert [one["state"] for one in told() if one["event"] == "destination_down"] == ["down", "down", "blocked"]


def test_the_line_of_the_day_counts(queue: SqliteQueue, chores: Chores, lines: Lines) -> None:
    """What came, went and waits."""
    worked(queue, instance(), [output(1, ("pacs", "lab"))])
    sent(queue, NOW)
    chores.summary(NOW + HOUR)
    (line,) = lines("daily_summary")
    assert [line[key] for key in ("received", "delivered", "waiting", "held", "quarantined")] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(("argv", "reason"), [
    (["/no/such/program"], "not_started"),
    ([sys.executable, "-c", "raise SystemExit(3)"], "exit_code"),
    ([sys.executable, "-c", "import time; time.sleep(60)"], "timeout"),
])
def test_a_hook_that_fails_is_logged_and_stops_nothing(lines: Lines, argv: list[str], reason: str) -> None:
    """Not started, not successful, not ended in time."""
    started = time.monotonic()
    assert not run_hook(argv, "disk_low", {}, NOW, longest_s=1)
    assert time.monotonic() - started < 10
    assert [line["reason"] for line in lines("hook_failed")] == [reason]

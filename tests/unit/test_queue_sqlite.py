"""The SQLite queue: the contract, the table of states, versions, many processes, damage."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import sqlite3
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from dicomnode.errors import BadSetting, QueueDamaged, QueueUnavailable, Transient
from dicomnode.queue import Owner
from dicomnode.queue.database import from_db, owner_of, owner_text, scripts, to_db
from dicomnode.queue.deliveries import _ANY_DUE, _DUE
from dicomnode.queue.owner import this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.queue.tags import OTHERS
from dicomnode.queue.work import _FIELDS
from dicomnode.records import Held

from .queue_contract import ME, NOW, SAID, SUMMARY, QueueContract, claimed, counted, instance, output, worked

INSTANCE_STATES = ("waiting", "active", "deferred", "done", "hold", "quarantine", "duplicate", "own", "dropped")
DELIVERY_STATES = ("ready", "active", "deferred", "delivered", "hold", "expired", "dropped")
#: Written down a second time on purpose: a change of schema.sql must be meant.
GOOD = {
    "instances": {
        "waiting": {"active", "dropped"},
        "active": {"waiting", "deferred", "done", "hold", "quarantine", "duplicate", "dropped"},
        "deferred": {"active", "waiting", "dropped"},
        "done": {"waiting"},
        "hold": {"waiting", "dropped"},
        "quarantine": {"waiting", "dropped"},
    },
    "deliveries": {
        "ready": {"active", "expired", "dropped"},
        "active": {"ready", "delivered", "deferred", "hold", "dropped"},
        "deferred": {"active", "ready", "expired", "dropped"},
        "hold": {"ready", "dropped"},
        "expired": {"ready", "dropped"},
    },
}
PAIRS = [
    *(("instances", old, new) for old, new in itertools.permutations(INSTANCE_STATES, 2)),
    *(("deliveries", old, new) for old, new in itertools.permutations(DELIVERY_STATES, 2)),
]
NEXT = max(scripts()) + 1
NEWER = {NEXT: "ALTER TABLE instances ADD COLUMN priority INTEGER NOT NULL DEFAULT 7;\n-- the end\n"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the queue is."""
    return tmp_path / "queue.sqlite"


@pytest.fixture
def queue(path: Path) -> Iterator[SqliteQueue]:
    """An empty queue."""
    opened = SqliteQueue(path)
    yield opened
    opened.close()


class TestContract(QueueContract):
    """SQLite keeps the contract."""


# -- the table of states
@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """One instance and one delivery, whose states the tests set at will."""
    opened = SqliteQueue(tmp_path_factory.mktemp("rows") / "queue.sqlite")
    worked(opened, instance(), [output()])
    yield opened._connection
    opened.close()


@pytest.mark.parametrize(("table", "old", "new"), PAIRS)
def test_states_change_only_as_the_table_says(rows: sqlite3.Connection, table: str, old: str, new: str) -> None:
    """The database itself refuses every other change, whatever the code above it does."""
    rows.execute("BEGIN")
    try:
        trigger = rows.execute("SELECT sql FROM sqlite_master WHERE name = ?", (f"{table}_transition",)).fetchone()[0]
        rows.execute(f"DROP TRIGGER {table}_transition")
        _set(rows, table, old)
        rows.execute(trigger)
        if new in GOOD[table].get(old, set()):
            _set(rows, table, new)
        else:
            with pytest.raises(sqlite3.IntegrityError, match="between these states"):
                _set(rows, table, new)
    finally:
        rows.execute("ROLLBACK")


def _set(connection: sqlite3.Connection, table: str, state: str) -> None:
    own = ", own_result = :own" if table == "instances" else ""
    connection.execute(
        f"UPDATE {table} SET state = :state, owner = :owner, due_at = :due {own}",  # noqa: S608 - one of two
        {
            "state": state, "owner": "b:1:1" if state == "active" else None, "due": 1 if state == "deferred" else None,
            "own": int(state == "own"),
        },
    )


@pytest.mark.parametrize("state", ["active", "deferred", "done", "hold", "dropped", "nonsense"])
def test_an_instance_is_not_born_into_the_middle(queue: SqliteQueue, state: str) -> None:
    """Rows begin waiting, in quarantine, as a duplicate or as an own result."""
    with pytest.raises(sqlite3.IntegrityError):
        queue._connection.execute(
            "INSERT INTO instances (instance_id, state, since, location, size_bytes, received_at) "
            "VALUES ('x', ?, 0, 'x', 0, 0)", (state,),
        )


@pytest.mark.parametrize("change", [
    "UPDATE instances SET owner = NULL", "UPDATE instances SET state = 'nonsense'", "UPDATE instances SET due_at = 1",
])
def test_an_active_row_always_has_an_owner(queue: SqliteQueue, change: str) -> None:
    """And a time only when it is deferred, and a state that there is."""
    queue.add(instance())
    claimed(queue)
    with pytest.raises(sqlite3.IntegrityError):
        queue._connection.execute(change)


def test_no_column_is_for_a_person(queue: SqliteQueue) -> None:
    """No name, number or date of a patient, no accession number but its token, no description has a place here."""
    tables = [row[0] for row in queue._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {row[1] for table in tables for row in queue._connection.execute(f"PRAGMA table_info({table})")}
    assert "sop_instance_uid" in columns
    columns.remove("accession_token")
    assert not {c for c in columns for word in ("patient", "birth", "accession", "description", "text") if word in c}


# -- the file
def test_the_file_is_safe_and_closed_to_others(queue: SqliteQueue, path: Path) -> None:
    """WAL, synchronous FULL, foreign keys; nobody outside the group can read it."""
    names = ("journal_mode", "synchronous", "foreign_keys")
    found = [queue._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    assert found == ["wal", 2, 1]
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0
    assert stat.S_IMODE(path.with_name("queue.sqlite-wal").stat().st_mode) & 0o137 == 0


def test_every_change_but_a_claim_is_on_disk_when_it_returns(queue: SqliteQueue) -> None:
    """A claim that a cut of power undoes is free again; an end of a claim that it undid would be work lost."""

    def level() -> object:
        return queue._connection.execute("PRAGMA synchronous").fetchone()[0]

    queue.add(instance())
    claim = claimed(queue)
    assert level() == 1
    queue.finish(claim, ME, SUMMARY, [output()], [], NOW)
    assert level() == 2


def test_a_sender_that_changes_its_name_fills_no_disk(queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the devices of a day all others share a row, and devices that were there before go on having theirs."""
    monkeypatch.setattr("dicomnode.queue.tags.MOST_DEVICES", 3)
    for number in (*range(1, 8), 1):
        one = instance(number + 10 * bool(queue.known(instance(number).instance_id)))
        queue.add(one)
        queue.finish(claimed(queue), ME, dataclasses.replace(SAID, device=f"dev-{number}"), [], [], NOW)
    assert [(row[0], row[-2]) for row in counted(queue)] == [(OTHERS, 4), ("dev-1", 2), ("dev-2", 1), ("dev-3", 1)]


def test_a_second_process_sees_what_the_first_one_wrote(queue: SqliteQueue, path: Path) -> None:
    """Opening again changes nothing."""
    worked(queue, instance(), [output()])
    other = SqliteQueue(path)
    assert other.rows() == queue.rows()
    other.close()


def test_an_old_database_is_brought_forward_with_its_rows(path: Path) -> None:
    """Newer code with one more migration opens a queue with rows and goes on working them."""
    old = SqliteQueue(path)
    worked(old, instance(1), [output()])
    old.add(instance(2))
    old.close()
    new = SqliteQueue(path, versions={**scripts(), **NEWER})
    assert new._version() == NEXT
    assert [row["priority"] for row in new.rows()] == [7, 7]
    assert claimed(new).instance == instance(2)
    new.close()


@pytest.fixture
def first_version(path: Path) -> Path:
    """A queue as version 1 left it: an instance done and one waiting, deliveries ready, deferred, in hand and on hold."""
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(scripts()[1])
    old.execute("PRAGMA user_version = 1")
    for number, state in ((1, "waiting"), (2, "waiting")):
        one, time = instance(number), to_db(NOW)
        values = {name: getattr(one, name) for name in _FIELDS if name not in {"accession_token", "acceptor_pid"}}
        old.execute(
            f"INSERT INTO instances ({', '.join(values)}, state, since, received_at) "  # noqa: S608 - our own columns
            f"VALUES ({', '.join('?' * len(values))}, ?, ?, ?)", (*values.values(), state, time, time),
        )
    old.execute("UPDATE instances SET state = 'active', owner = 'b:1:1' WHERE instance_id = ?", (instance(1).instance_id,))
    old.execute("UPDATE instances SET state = 'done', owner = NULL, made = 4 WHERE state = 'active'")
    for number, state in enumerate(("ready", "deferred", "active", "hold")):
        old.execute(
            "INSERT INTO deliveries (instance_id, generation, kind, destination, state, since, created_at, life_from, "
            "location, sop_class_uid, sop_instance_uid, transfer_syntax_uid, identity) "
            "VALUES (?, 0, 'sr', 'pacs', 'ready', 0, 0, 0, ?, '1.2', ?, '1.2', 'kept')",
            (instance(1).instance_id, f"outgoing/2.25.{number}.dcm", f"2.25.{number}"),
        )
        if state != "ready":
            old.execute("UPDATE deliveries SET state = 'active', owner = 'b:1:1' WHERE delivery_id = last_insert_rowid()")
        if state in ("deferred", "hold"):
            old.execute(
                "UPDATE deliveries SET state = ?, owner = NULL, due_at = ? WHERE delivery_id = last_insert_rowid()",
                (state, 0 if state == "deferred" else None),
            )
    old.execute(
        "INSERT INTO acts (instance_id, at, who, what, rows) VALUES (?, 0, 'anna', 'release', 1)", (instance(1).instance_id,),
    )
    old.close()
    return path


def test_a_filled_first_version_is_brought_forward_and_goes_on(first_version: Path) -> None:
    """Every row is there with its state, nothing is urgent, and claims, deaths and acts go on where they were."""
    queue = SqliteQueue(first_version)
    assert queue._version() == max(scripts())
    assert queue.verify() == ()
    done, waiting = queue.rows()
    assert (done["state"], waiting["state"]) == ("done", "waiting")
    assert [(one["state"], one["urgent"]) for one in done["deliveries"]] == [  # type: ignore[attr-defined]
        ("ready", False), ("deferred", False), ("active", False), ("hold", False),
    ]
    assert [act["who"] for act in done["acts"]] == ["anna"]  # type: ignore[attr-defined]
    assert [taken.kind for taken in queue.reclaim(lambda _: False)] == ["delivery"]
    assert [one.delivery_id for one in queue.claim_deliveries("pacs", ME, 9, NOW)] == [1, 2, 3]
    assert claimed(queue).instance == instance(2)
    queue.close()


def test_the_table_that_is_made_anew_loses_nothing(first_version: Path) -> None:
    """Version 4 makes deliveries anew: every index, trigger and column of before is there, and no number comes twice."""
    old = sqlite3.connect(first_version, isolation_level=None)
    old.create_function("dicomnode_actor", 0, lambda: "test")
    for version in (2, 3):
        old.executescript(scripts()[version])
    old.execute("PRAGMA user_version = 3")
    old.execute("DELETE FROM deliveries WHERE delivery_id = 4")  # the highest number is gone, and must not come again
    names = "SELECT type, name FROM sqlite_master WHERE tbl_name = 'deliveries' OR type = 'view'"
    before, rows = set(old.execute(names)), list(old.execute("SELECT * FROM deliveries"))
    columns = [row[1] for row in old.execute("PRAGMA table_info(deliveries)")]
    events = list(old.execute("SELECT * FROM history"))
    old.close()
    queue = SqliteQueue(first_version)
    new = queue._connection
    assert {tuple(row) for row in new.execute(names)} >= before
    assert [tuple(row) for row in new.execute(f"SELECT {', '.join(columns)} FROM deliveries")] == rows  # noqa: S608
    assert [tuple(row) for row in new.execute("SELECT * FROM history")] == events
    queue.finish(claimed(queue), ME, SUMMARY, [output(9, kind="sc-map"), output(10, kind="seg")], [], NOW)
    assert [row[0] for row in new.execute("SELECT delivery_id FROM deliveries ORDER BY 1")] == [1, 2, 3, 5, 6]
    queue.close()


def test_processes_that_open_a_first_version_together_bring_it_forward_once(first_version: Path) -> None:
    """One migrates, the others wait; each works on what it then finds."""
    _run_four(first_version, "work", expected=1)
    queue = SqliteQueue(first_version)
    assert queue._version() == max(scripts())
    assert [row["state"] for row in queue.rows()] == ["done", "done"]
    queue.close()


def test_a_migration_that_fails_leaves_the_old_version_whole(path: Path) -> None:
    """Statements before the fault are undone too, and the old code still opens it."""
    SqliteQueue(path).close()
    broken = {**scripts(), NEXT: f"{NEWER[NEXT]}DROP TABLE no_such_table;\n"}
    with pytest.raises(QueueUnavailable):
        SqliteQueue(path, versions=broken)
    old = SqliteQueue(path)
    assert old._version() == NEXT - 1
    assert "priority" not in {row[1] for row in old._connection.execute("PRAGMA table_info(instances)")}
    old.close()


def test_a_database_from_the_future_is_refused_with_both_versions_named(path: Path) -> None:
    """Older software does not touch what it does not know."""
    SqliteQueue(path, versions={**scripts(), **NEWER}).close()
    with pytest.raises(BadSetting, match=rf"queue version {NEXT}.*knows {NEXT - 1}"):
        SqliteQueue(path)


def test_migrations_are_numbered_without_a_gap() -> None:
    """Version 1 is schema.sql."""
    assert list(scripts()) == list(range(1, len(scripts()) + 1))


def test_times_and_owners_come_back_exactly() -> None:
    """Microseconds are kept; any zone gives the same instant."""
    for time in (NOW, NOW + timedelta(microseconds=1)):
        assert from_db(to_db(time)) == time
    owner = Owner("a-b:c", 5, 6)
    assert owner_of(owner_text(owner)) == owner


# -- trouble
def test_no_database_is_told_as_damage_with_the_way_out(path: Path) -> None:
    """Clear, transient, and never a ConfigError, which would stop the acceptors too."""
    path.write_bytes(b"This is no database at all. " * 300)
    with pytest.raises(QueueDamaged, match="move this file") as caught:
        SqliteQueue(path)
    assert isinstance(caught.value, Transient)


def test_damage_within_is_told_when_it_is_met(path: Path) -> None:
    """Pages of zeros below a sound first page: no wrong answer, an error."""
    queue = SqliteQueue(path)
    for number in range(1, 60):
        queue.add(instance(number))
    queue.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(QueueDamaged):
        _read_all(path)


def test_a_locked_database_is_told_as_unavailable(path: Path) -> None:
    """After the wait, and the next try works."""
    queue = SqliteQueue(path, busy_s=0.05)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(QueueUnavailable):
        queue.add(instance())
    blocker.execute("ROLLBACK")
    blocker.close()
    assert queue.add(instance()) == "waiting"
    queue.close()


def test_a_full_disk_is_told_and_leaves_the_queue_as_it_was(queue: SqliteQueue) -> None:
    """The transaction is undone whole, and when there is room again the work goes on."""
    queue.add(instance(1))
    pages = queue._connection.execute("PRAGMA page_count").fetchone()[0]
    queue._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Transient) as caught:
        _add_many(queue)
    assert caught.value.code == "spool_full"
    queue._connection.execute("PRAGMA max_page_count = 1000000")
    assert queue.add(instance(60)) == "waiting"
    assert queue.verify() == ()


def test_verify_finds_a_done_instance_that_lost_a_delivery(queue: SqliteQueue) -> None:
    """A row that somebody deleted by hand is missed."""
    worked(queue, instance(), [output(1, ("pacs", "lab"))])
    queue._connection.execute("DELETE FROM deliveries WHERE destination = 'lab'")
    (breach,) = queue.verify()
    assert instance().instance_id in breach


def test_verify_misses_a_delivery_that_was_meant_and_not_made(queue: SqliteQueue) -> None:
    """What is counted is what the worker handed over, not what the database took."""
    queue._connection.execute(
        "CREATE TRIGGER lost BEFORE INSERT ON deliveries WHEN NEW.destination = 'lab' BEGIN SELECT RAISE(IGNORE); END",
    )
    worked(queue, instance(), held=[Held("sc", ("pacs", "lab"), "undecodable")])
    (breach,) = queue.verify()
    assert instance().instance_id in breach


def _read_all(path: Path) -> None:
    opened = SqliteQueue(path)
    try:
        opened.rows()
    finally:
        opened.close()


def _add_many(queue: SqliteQueue) -> None:
    for number in range(2, 60):
        queue.add(instance(number))


def test_nobody_changes_a_row_without_a_trace(queue: SqliteQueue, path: Path) -> None:
    """Another program can look, and the database refuses its writing, for it says not who it is."""
    queue.add(instance())
    other = sqlite3.connect(path, isolation_level=None)
    assert other.execute("SELECT count(*) FROM instances").fetchone()[0] == 1
    for change in ("UPDATE instances SET state = 'dropped'", "DELETE FROM instances", "UPDATE instances SET file_gone = 1"):
        with pytest.raises(sqlite3.OperationalError, match="dicomnode_actor"):
            other.execute(change)
    other.close()
    assert queue.history(instance().instance_id)[0]["who"] == owner_text(this_process())


def test_actors_of_whom_nothing_is_known_any_more_are_forgotten(queue: SqliteQueue) -> None:
    """Names of processes do not pile up over the years."""
    queue.add(instance())
    queue.drop(instance().instance_id, NOW, "anna")
    queue.removed([instance().location])
    queue.forget(NOW + timedelta(days=1))
    assert queue._connection.execute("SELECT count(*) FROM actors").fetchone()[0] == 0


# -- looking only
def test_a_queue_that_is_only_looked_at_is_left_as_it_is(path: Path) -> None:
    """No file is made beside it, nothing in it changes, whether a node runs or not; writing is refused."""
    queue = SqliteQueue(path)
    queue.add(instance())
    for running in (True, False):
        if not running:
            queue.close()
        before = {one.name: one.stat().st_mtime_ns for one in path.parent.iterdir()}
        looking = SqliteQueue(path, read_only=True)
        assert [row["instance_id"] for row in looking.rows()] == [instance().instance_id]
        with pytest.raises(QueueUnavailable):
            looking.drop(instance().instance_id, NOW)
        looking.close()
        after = {one.name: one.stat().st_mtime_ns for one in path.parent.iterdir()}
        assert {name: time for name, time in after.items() if not name.endswith("-shm")} == {
            name: time for name, time in before.items() if not name.endswith("-shm")
        }


def test_a_queue_of_before_is_not_brought_forward_by_looking(first_version: Path) -> None:
    """It says what to do; and where there is none, none is made."""
    with pytest.raises(QueueUnavailable, match=r"older dicomnode \(queue version 1"):
        SqliteQueue(first_version, read_only=True)
    with pytest.raises(QueueUnavailable):
        SqliteQueue(first_version.with_name("nothing.sqlite"), read_only=True)
    assert not first_version.with_name("nothing.sqlite").exists()


@pytest.mark.parametrize("urgent_only", [False, True])
def test_a_claim_looks_at_what_it_takes_and_no_more(queue: SqliteQueue, urgent_only: bool) -> None:
    """Each question of a claim is answered by an index to the end, without sorting or scanning a long queue."""
    values = {"destination": "pacs", "now": 0, "limit": 9, "urgent": int(urgent_only)}
    for sql in (_DUE, _ANY_DUE):
        plan = [row[3] for row in queue._connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        assert not [step for step in plan if step.startswith("SCAN deliveries")], plan
        used = [step for step in plan if step.startswith("SEARCH deliveries")]
        assert len(used) == 2
        assert any("deliveries_by_state (state=? AND destination=? AND urgent" in step for step in used)
        assert any("deliveries_due (destination=? AND urgent=? AND due_at<?" in step for step in used)


# -- many processes
def _open_and_claim(path: Path, name: int, done: multiprocessing.Queue[tuple[int, str]], kind: Literal["work", "send"]) -> None:
    queue = SqliteQueue(path)
    me = Owner(this_process().boot_id, name, 1)
    while True:
        if kind == "work":
            claim = queue.claim(me, NOW)
            if claim is None:
                break
            queue.finish(claim, me, SUMMARY, [output(int(claim.instance.instance_id[-8:], 16))], [], NOW)
            done.put((name, claim.instance.instance_id))
        else:
            deliveries = queue.claim_deliveries("pacs", me, 3, NOW)
            if not deliveries:
                break
            for delivery in deliveries:
                done.put((name, delivery.instance_id))
    queue.close()


@pytest.mark.parametrize("kind", ["work", "send"])
def test_no_row_is_claimed_twice_by_processes_that_run_at_once(path: Path, kind: Literal["work", "send"]) -> None:
    """Four processes share 60 rows out among themselves: each row once, none left."""
    queue = SqliteQueue(path)
    for number in range(60):
        if kind == "work":
            queue.add(instance(number))
        else:
            worked(queue, instance(number), [output(number)])
    _run_four(path, kind, expected=60)
    assert queue.claim(ME, NOW) is None
    assert len(queue.claim_deliveries("pacs", ME, 100, NOW)) == (60 if kind == "work" else 0)
    assert queue.verify() == ()
    queue.close()


def test_processes_that_start_together_make_one_schema(path: Path) -> None:
    """Four first openings of a queue that is not there: all come through."""
    _run_four(path, "work", expected=0)
    queue = SqliteQueue(path)
    assert queue._version() == max(scripts())
    queue.close()


def _run_four(path: Path, kind: Literal["work", "send"], *, expected: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    done: multiprocessing.Queue[tuple[int, str]] = spawn.Queue()
    processes = [spawn.Process(target=_open_and_claim, args=(path, name, done, kind)) for name in range(4)]
    for process in processes:
        process.start()
    found = [done.get(timeout=60) for _ in range(expected)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert done.empty()
    assert len({instance_id for _, instance_id in found}) == expected
    done.close()
    done.join_thread()

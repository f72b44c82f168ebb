"""The SQLite file below the queue: opening, versions, transactions; the table of errors is here, the questions are not.

**Way** `Database` opens ``queue.sqlite`` in WAL mode with synchronous FULL, NORMAL for claims, and brings its schema
forward: version 1 is ``schema.sql``, each later one ``migrations/<NNN>.sql``, all in one transaction under the write lock,
so that of processes that start together one migrates and the others wait. The version stands in ``PRAGMA user_version``.
Every change of a row is written into the table ``history`` by triggers, which ask this connection who it is; a connection
that does not say so (another program's) can read and cannot write. With ``read_only`` nothing is made or changed.

**Fails** `QueueUnavailable` when the file is locked or cannot be reached, `QueueDamaged` when it is no sound database,
`SpoolFull` when the disk is, `BadSetting` when newer software wrote it. What breaks a constraint is a defect and goes through.

**Limits** One host, one local disk. A connection must not be carried over a fork. Threads share one connection and wait for
each other. A damaged file is not repaired: with the node stopped, move ``queue.sqlite``, ``-wal`` and ``-shm`` away and
start; the keeper makes every row anew from the files of the spool. Lost then: what people did, and which results were
delivered already, so these are sent once more under the same UIDs.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from pathlib import Path

from dicomnode.errors import BadSetting, QueueDamaged, QueueUnavailable, Transient
from dicomnode.errors import SpoolFull as DiskFull
from dicomnode.queue import Owner
from dicomnode.queue.owner import this_process

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: Another process's transaction is waited for this long; ours last milliseconds.
BUSY_S = 15.0
#: The write-ahead log is cut back to this after a checkpoint, bytes.
_WAL_BYTES = 64 << 20


def to_db(time_: datetime) -> int:
    """Give microseconds since 1970 in UTC; exact."""
    return (time_ - _EPOCH) // _MICROSECOND


def from_db(value: int) -> datetime:
    """Give the aware UTC time of `to_db`."""
    return _EPOCH + value * _MICROSECOND


def owner_text(owner: Owner) -> str:
    """Give the owner as the column holds it."""
    return f"{owner.boot_id}:{owner.pid}:{owner.start_ticks}"


def owner_of(text: str) -> Owner:
    """Give the owner of `owner_text`."""
    boot_id, pid, start_ticks = text.rsplit(":", 2)
    return Owner(boot_id, int(pid), int(start_ticks))


@cache
def scripts() -> Mapping[int, str]:
    """Give the SQL that leads to each version, in order."""
    here = resources.files("dicomnode.queue")
    later = {
        int(entry.name.removesuffix(".sql")): entry.read_text("utf-8")
        for entry in (here / "migrations").iterdir()
        if entry.name.endswith(".sql")
    } if (here / "migrations").is_dir() else {}
    found = {1: (here / "schema.sql").read_text("utf-8"), **dict(sorted(later.items()))}
    if list(found) != list(range(1, len(found) + 1)):
        raise RuntimeError("the migrations of the queue are not numbered 002, 003, ... without a gap")
    return found


class Database:
    """One process's connection to the queue."""

    def __init__(
        self, path: Path, *, versions: Mapping[int, str] | None = None, busy_s: float = BUSY_S, read_only: bool = False,
    ) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._person = ""
        with _told(path):
            if not read_only:
                _make(path)
            self._connection = sqlite3.connect(
                _uri(path) if read_only else path, uri=read_only, timeout=busy_s, isolation_level=None, check_same_thread=False,
            )
            try:
                self._connection.row_factory = sqlite3.Row
                self._connection.create_function("dicomnode_actor", 0, self._actor)
                if not read_only:
                    self._configure(busy_s)
                self._migrate(versions or scripts(), read_only=read_only)
            except BaseException:
                self._connection.close()
                raise

    def _actor(self) -> str:
        return f"person {self._person}" if self._person else owner_text(this_process())

    def _configure(self, busy_s: float) -> None:
        for pragma in ("foreign_keys = ON", "synchronous = FULL", f"journal_size_limit = {_WAL_BYTES}"):
            self._connection.execute(f"PRAGMA {pragma}")
        deadline = time.monotonic() + busy_s
        while True:  # SQLite does not wait by itself for this one
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _migrate(self, versions: Mapping[int, str], *, read_only: bool) -> None:
        newest = max(versions)
        if self._version() == newest:
            return
        if read_only and self._version() < newest:
            raise QueueUnavailable(
                f"{self.path}: written by an older dicomnode (queue version {self._version()}, this one knows {newest}); "
                "the node brings it forward when it starts",
            )
        with self._transaction() as connection:
            found = self._version()
            if found > newest:
                raise BadSetting(
                    f"{self.path}: written by a newer dicomnode (queue version {found}, this one knows {newest}); "
                    "install that version again or restore a backup",
                )
            for version in range(found + 1, newest + 1):
                for statement in _statements(versions[version]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = True, person: str = "") -> Iterator[sqlite3.Connection]:
        """Hold the write lock; commit at the end, or leave everything as it was.

        Parameters
        ----------
        durable
            False where a cut of power may undo the change without harm, which saves the fsync: a claim that was never
            taken is free again. A killed process undoes nothing either way.
        person
            Account of who asked for the change, if not this process by itself.
        """
        with self._lock, _told(self.path):
            self._person = person
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk may have rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    def _all(self, sql: str, values: tuple[object, ...] | Mapping[str, object] = ()) -> list[sqlite3.Row]:
        """Read outside of a transaction."""
        with self._lock, _told(self.path):
            return self._connection.execute(sql, values).fetchall()

    def close(self) -> None:
        """Close the connection of this process."""
        with self._lock:
            self._connection.close()


def _uri(path: Path) -> str:
    """Name the file for reading alone: without a write-ahead log nobody has it open, and no lock or file is needed."""
    whole = not path.with_name(f"{path.name}-wal").exists()
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' * whole}"


def _make(path: Path) -> None:
    """Make an empty file readable by the group; SQLite's own would follow the umask alone."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))


def _statements(script: str) -> Iterator[str]:
    """Cut a script into statements; executescript would commit our transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if any(line.strip() and not line.lstrip().startswith("--") for line in statement.splitlines()):
        raise RuntimeError("a migration of the queue ends within a statement")


def _is_busy(error: sqlite3.Error) -> bool:
    return (error.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what SQLite says into our errors; its texts hold no values of rows."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except sqlite3.DatabaseError as error:
        raise _translated(path, error) from error
    except OSError as error:
        raise QueueUnavailable(f"{path}: {error.strerror}") from error


def _translated(path: Path, error: sqlite3.DatabaseError) -> Transient:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"{path}: {error}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return QueueDamaged(
            f"{path}: {error}; stop the node, move this file with its -wal and -shm away and start: "
            "the keeper makes a new one from the spool",
        )
    return QueueUnavailable(f"{path}: {error}")

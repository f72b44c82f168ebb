"""The queue's answers to the keeper, in SQL: dead processes, retention, old rows, findings to tell."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal

from dicomnode.errors import DiedThrice
from dicomnode.queue import Owner, Reclaimed
from dicomnode.queue.database import Database, owner_of, owner_text, to_db

#: The death that sets a row aside.
LAST_DEATH = 3
#: Rows changed in one transaction, so that intake never waits long behind keeping.
_BATCH = 500

_OWNERS = """
SELECT owner FROM instances WHERE owner IS NOT NULL UNION SELECT owner FROM deliveries WHERE owner IS NOT NULL
"""
#: Of the deliveries that an owner claimed at one moment, only the first was in hand; the others waited in its batch.
_DEATHS = """
UPDATE deliveries SET deaths = deaths + 1 WHERE delivery_id IN (
    SELECT delivery_id FROM (
        SELECT delivery_id, row_number() OVER (PARTITION BY destination, since ORDER BY turn, delivery_id) AS place
        FROM deliveries WHERE owner = ?)
    WHERE place = 1)
"""
_SOURCES = """
SELECT 'source', location FROM instances AS i INDEXED BY instances_with_file
WHERE i.file_gone = 0 AND i.state IN ('done', 'duplicate', 'own', 'dropped') AND i.since < :before
    AND NOT EXISTS (
        SELECT 1 FROM deliveries AS d
        WHERE d.instance_id = i.instance_id AND (d.state NOT IN ('delivered', 'dropped') OR d.since >= :before))
"""
_RESULTS = """
SELECT 'result', location FROM deliveries INDEXED BY deliveries_with_file
WHERE file_gone = 0 AND location <> ''
GROUP BY location
HAVING sum(state NOT IN ('delivered', 'dropped') OR since >= :before) = 0
"""
_FORGETTABLE = """
SELECT instance_id FROM instances AS i INDEXED BY instances_without_file
WHERE i.file_gone = 1 AND i.since < :before AND i.state IN ('done', 'duplicate', 'own', 'dropped')
    AND NOT EXISTS (
        SELECT 1 FROM deliveries AS d
        WHERE d.instance_id = i.instance_id
            AND (d.state NOT IN ('delivered', 'dropped') OR d.since >= :before OR d.location <> '' AND d.file_gone = 0))
LIMIT :limit
"""
_ASIDE = """
SELECT instance_id, location, file_gone FROM instances WHERE instance_id IN (
    SELECT instance_id FROM instances WHERE state IN ('hold', 'quarantine')
    UNION SELECT instance_id FROM deliveries WHERE state IN ('hold', 'expired'))
"""
_RESULTS_ASIDE = """
SELECT DISTINCT location FROM deliveries WHERE state IN ('hold', 'expired') AND location <> '' AND file_gone = 0
"""
_DAY: Mapping[str, str] = {
    "received": "SELECT count(*) FROM instances WHERE instance_id >= :first AND received_at >= :after",
    "delivered": "SELECT count(*) FROM deliveries WHERE state = 'delivered' AND since >= :after",
    "waiting": """
        SELECT (SELECT count(*) FROM instances WHERE state IN ('waiting', 'active', 'deferred'))
            + (SELECT count(*) FROM deliveries WHERE state IN ('ready', 'active', 'deferred'))""",
    "held": """
        SELECT (SELECT count(*) FROM instances WHERE state = 'hold')
            + (SELECT count(*) FROM deliveries WHERE state IN ('hold', 'expired'))""",
    "quarantined": "SELECT count(*) FROM instances WHERE state = 'quarantine'",
}
#: received_at is the peer's meta or our own clock; an id is older than that by no more than this.
_SLACK = timedelta(days=1)



class Keeping(Database):
    """What the keeper asks beside intake."""

    def reclaim(self, alive: Callable[[Owner], bool]) -> tuple[Reclaimed, ...]:
        """Take back rows of owners that are not alive."""
        dead = [row[0] for row in self._all(_OWNERS) if not alive(owner_of(row[0]))]
        taken: list[Reclaimed] = []
        for owner in dead:
            with self._transaction() as connection:
                connection.execute("UPDATE instances SET deaths = deaths + 1 WHERE owner = ?", (owner,))
                connection.execute(_DEATHS, (owner,))
                taken += _give_back(connection, "instance", owner, "waiting", "quarantine")
                taken += _give_back(connection, "delivery", owner, "ready", "hold")
        return tuple(taken)

    def let_go(self, owner: Owner, destination: str | None = None) -> int:
        """Give back what this owner still holds, uncounted."""
        values = {"owner": owner_text(owner), "destination": destination}
        sql = """
            UPDATE instances SET state = 'waiting', owner = NULL, attempt = attempt - 1 WHERE owner = :owner
        """ if destination is None else """
            UPDATE deliveries SET state = 'ready', owner = NULL, attempt = attempt - 1
            WHERE owner = :owner AND destination = :destination
        """
        with self._transaction() as connection:
            return connection.execute(sql, values).rowcount

    def removable(self, before: datetime) -> tuple[tuple[str, str], ...]:
        """(kind, location) of files whose rows ended before ``before``."""
        values = {"before": to_db(before)}
        return tuple((row[0], row[1]) for sql in (_SOURCES, _RESULTS) for row in self._all(sql, values))

    def removed(self, locations: Iterable[str]) -> None:
        """Note that these files are gone."""
        for batch in _batches(locations):
            values = [(location,) for location in batch]
            with self._transaction() as connection:
                connection.executemany("UPDATE instances SET file_gone = 1 WHERE location = ? AND file_gone = 0", values)
                connection.executemany("UPDATE deliveries SET file_gone = 1 WHERE location = ? AND file_gone = 0", values)

    def forget(self, before: datetime) -> int:
        """Delete rows of instances whose files are gone and that ended before ``before``."""
        forgotten = 0
        while True:
            with self._transaction() as connection:
                rows = connection.execute(_FORGETTABLE, {"before": to_db(before), "limit": _BATCH}).fetchall()
                ids = [(row[0],) for row in rows]
                connection.executemany("DELETE FROM instances WHERE instance_id = ?", ids)  # deliveries go with it
                connection.executemany("DELETE FROM acts WHERE instance_id = ?", ids)
                connection.executemany("DELETE FROM history WHERE instance_id = ?", ids)
            forgotten += len(ids)
            if len(ids) < _BATCH:
                break
        with self._transaction() as connection:
            connection.execute("DELETE FROM actors WHERE actor_id NOT IN (SELECT actor_id FROM history)")
        return forgotten

    def results(self) -> frozenset[str]:
        """Locations of the results that rows still count on."""
        rows = self._all("SELECT DISTINCT location FROM deliveries WHERE file_gone = 0 AND location <> ''")
        return frozenset(row[0] for row in rows)

    def untold(self, limit: int) -> tuple[Mapping[str, object], ...]:
        """Abnormal findings that nobody was told of yet, oldest first."""
        rows = self._all(
            "SELECT instance_id, model, finding, finding_probability AS probability FROM instances "
            "WHERE abnormal = 1 AND told = 0 ORDER BY instance_id LIMIT ?", (limit,),
        )
        return tuple(dict(row) for row in rows)

    def told(self, instance_ids: Iterable[str]) -> None:
        """Note that these findings were told."""
        with self._transaction() as connection:
            connection.executemany("UPDATE instances SET told = 1 WHERE instance_id = ?", [(one,) for one in instance_ids])

    def aside(self) -> tuple[int, tuple[str, ...]]:
        """How many instances wait for a person, and the files that are kept for that."""
        rows = self._all(_ASIDE)
        sources = [row["location"] for row in rows if not row["file_gone"]]
        return len(rows), (*sources, *(row[0] for row in self._all(_RESULTS_ASIDE)))

    def day(self, after: datetime) -> Mapping[str, int]:
        """What came and went since ``after``, and what waits now: received, delivered, waiting, held, quarantined."""
        values = {"first": f"{(after - _SLACK).astimezone(UTC):%Y%m%dT%H}", "after": to_db(after)}
        return {name: self._all(sql, values)[0][0] for name, sql in _DAY.items()}


def _give_back(
    connection: sqlite3.Connection, kind: Literal["instance", "delivery"], owner: str, again: str, aside: str,
) -> list[Reclaimed]:
    table = {"instance": "instances", "delivery": "deliveries"}[kind]
    rows = connection.execute(f"SELECT * FROM {table} WHERE owner = ?", (owner,)).fetchall()  # noqa: S608 - one of two
    connection.execute(
        f"UPDATE {table} SET owner = NULL, since = :now, "  # noqa: S608
        "state = CASE WHEN deaths >= :last THEN :aside ELSE :again END, "
        "reason = CASE WHEN deaths >= :last THEN :reason ELSE '' END WHERE owner = :owner",
        {
            "now": to_db(datetime.now(UTC)), "last": LAST_DEATH, "aside": aside, "again": again, "reason": DiedThrice.code,
            "owner": owner,
        },
    )
    return [Reclaimed(kind, row["instance_id"], row["attempt"], row["deaths"] >= LAST_DEATH) for row in rows]


def _batches(items: Iterable[str]) -> Iterator[tuple[str, ...]]:
    source = iter(items)
    while batch := tuple(islice(source, _BATCH)):
        yield batch

"""The queue's answers to people, in SQL: what is where, retry, release, drop, urgent.

**Limits** Rows are given as plain mappings with times as ISO 8601 text: they are printed, not worked with.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime

from dicomnode.errors import BodyPartUncertain, NotFound, RedactionUncertain, TagDisagrees, TextLeft
from dicomnode.queue.database import Database, from_db, to_db

_TIMES = frozenset({"since", "due_at", "received_at", "created_at", "life_from", "at"})
_FLAGS = frozenset({"waived", "accepted", "file_gone", "own_result", "abnormal", "told", "urgent", "settled"})
#: What a policy of a rule holds, and a person's release settles.
_BY_RULE = frozenset({BodyPartUncertain.code, TagDisagrees.code})
#: What redaction holds, and a person's release waives.
_BY_REDACTION = frozenset({RedactionUncertain.code, TextLeft.code})
_JSON = frozenset({"stage_ms", "findings"})
#: Columns that say nothing to people.
_INNER = frozenset({"turn"})
_FIND = """
SELECT instance_id FROM instances WHERE instance_id = :key OR sop_instance_uid = :key
UNION SELECT instance_id FROM deliveries WHERE sop_instance_uid = :key AND location <> ''
ORDER BY instance_id
"""
_IN_STATES = """
SELECT instance_id FROM instances WHERE state IN (SELECT value FROM json_each(:states))
UNION SELECT instance_id FROM deliveries WHERE state IN (SELECT value FROM json_each(:states))
ORDER BY instance_id LIMIT :limit
"""
_EVERY = "SELECT instance_id FROM instances ORDER BY instance_id LIMIT :limit"
_CERTIFICATES = "SELECT certificate FROM certificates WHERE instance_id = ? ORDER BY generation, sop_instance_uid"
_INSTANCES_AGAIN = """
UPDATE instances SET state = 'waiting', reason = '', due_at = NULL, attempt = 0, deaths = 0, since = :now
"""
_DELIVERIES_AGAIN = """
UPDATE deliveries
SET state = 'ready', reason = '', due_at = NULL, attempt = 0, deaths = 0, since = :now, life_from = :now
WHERE instance_id = :key AND location <> '' AND file_gone = 0
"""


class People(Database):
    """What ``dicomnode queue`` asks."""

    def rows(self, *, states: Sequence[str] = (), limit: int = 0) -> tuple[Mapping[str, object], ...]:
        """Instances with their deliveries, oldest first."""
        values = {"states": json.dumps(list(states)), "limit": limit or -1}
        return self._whole(self._all(_IN_STATES if states else _EVERY, values))

    def find(self, key: str) -> tuple[Mapping[str, object], ...]:
        """Instances by instance_id, source UID or result UID."""
        return tuple(
            {**row, "certificates": [json.loads(one[0]) for one in self._all(_CERTIFICATES, (row["instance_id"],))]}
            for row in self._whole(self._all(_FIND, {"key": key}))
        )

    def _whole(self, ids: Sequence[sqlite3.Row]) -> tuple[Mapping[str, object], ...]:
        found = []
        for (instance_id,) in ids:
            row = self._all("SELECT * FROM instances WHERE instance_id = ?", (instance_id,))
            deliveries = self._all("SELECT * FROM deliveries WHERE instance_id = ? ORDER BY delivery_id", (instance_id,))
            acts = self._all("SELECT at, who, what, rows FROM acts WHERE instance_id = ? ORDER BY act_id", (instance_id,))
            if row:  # forgotten between the two questions
                found.append({
                    **_plain(row[0]), "deliveries": [_plain(one) for one in deliveries], "acts": [_plain(one) for one in acts],
                })
        return tuple(found)

    def counts(self) -> Mapping[str, Mapping[str, Mapping[str, object]]]:
        """Per state how many, how many bytes and how old."""
        counted: dict[str, dict[str, Mapping[str, object]]] = {"instances": {}, "deliveries": {}}
        for row in self._all("SELECT state, count(*), sum(size_bytes), min(received_at) FROM instances GROUP BY state"):
            counted["instances"][row[0]] = {"count": row[1], "bytes": row[2], "oldest": _iso(row[3])}
        for row in self._all("SELECT state, count(*), min(created_at) FROM deliveries GROUP BY state"):
            counted["deliveries"][row[0]] = {"count": row[1], "oldest": _iso(row[2])}
        for row in self._all(
            "SELECT destination, state, count(*), sum(urgent), min(created_at) FROM deliveries "
            "GROUP BY destination, state ORDER BY destination",
        ):
            counted.setdefault(f"to {row[0]}", {})[row[1]] = {"count": row[2], "urgent": row[3], "oldest": _iso(row[4])}
        for row in self._all("SELECT name, state, reason, since FROM destinations ORDER BY name"):
            counted.setdefault(f"to {row[0]}", {})["lane"] = {"state": row[1], "reason": row[2], "since": _iso(row[3])}
        return counted

    # -- acts
    def retry(self, instance_id: str, now: datetime, who: str = "") -> int:
        """Work or send again under the same rules."""
        with self._transaction(person=who) as connection:
            row = _row(connection, instance_id)
            values = {"key": instance_id, "now": to_db(now)}
            changed = 0
            if row["state"] == "quarantine" and not row["sha256"]:
                changed += connection.execute("DELETE FROM instances WHERE instance_id = :key", values).rowcount
            else:
                changed += connection.execute(
                    f"{_INSTANCES_AGAIN} WHERE instance_id = :key AND file_gone = 0 "
                    "AND state IN ('deferred', 'hold', 'quarantine')", values,
                ).rowcount
                changed += _remake(connection, values, waive=False)
                changed += connection.execute(
                    f"{_DELIVERIES_AGAIN} AND state IN ('hold', 'expired', 'deferred')", values,
                ).rowcount
                changed += _rework(connection, values)
            changed += _unblock(connection, values)
            return _note(connection, instance_id, now, who, "retry", changed)

    def release(self, instance_id: str, now: datetime, who: str = "") -> int:
        """A person has looked and takes it upon themselves."""
        with self._transaction(person=who) as connection:
            _row(connection, instance_id)
            values = {"key": instance_id, "now": to_db(now)}
            changed = connection.execute(
                f"{_INSTANCES_AGAIN}, accepted = 1 WHERE instance_id = :key AND state = 'hold'", values,
            ).rowcount
            changed += _remake(connection, values, waive=True)
            changed += connection.execute(f"{_DELIVERIES_AGAIN} AND state = 'hold'", values).rowcount
            changed += _unblock(connection, values)
            return _note(connection, instance_id, now, who, "release", changed)

    def drop(self, instance_id: str, now: datetime, who: str = "") -> int:
        """A person gives up."""
        with self._transaction(person=who) as connection:
            _row(connection, instance_id)
            changed = 0
            for table, states in (
                ("instances", "'waiting', 'active', 'deferred', 'hold', 'quarantine'"),
                ("deliveries", "'ready', 'active', 'deferred', 'hold', 'expired'"),
            ):
                changed += connection.execute(
                    f"UPDATE {table} SET state = 'dropped', owner = NULL, due_at = NULL, since = :now "  # noqa: S608
                    f"WHERE instance_id = :key AND state IN ({states})", {"key": instance_id, "now": to_db(now)},
                ).rowcount
            return _note(connection, instance_id, now, who, "drop", changed)

    def hasten(self, instance_id: str, now: datetime, who: str = "") -> int:
        """A person wants it to go first."""
        with self._transaction(person=who) as connection:
            _row(connection, instance_id)
            changed = connection.execute(
                "UPDATE instances SET urgent = 1 WHERE instance_id = ? AND urgent = 0 "
                "AND state IN ('waiting', 'active', 'deferred', 'hold', 'quarantine')", (instance_id,),
            ).rowcount
            changed += connection.execute(
                "UPDATE deliveries SET urgent = 1 WHERE instance_id = ? AND urgent = 0 "
                "AND state IN ('ready', 'active', 'deferred', 'hold', 'expired')", (instance_id,),
            ).rowcount
            return _note(connection, instance_id, now, who, "urgent", changed)


def _remake(connection: sqlite3.Connection, values: Mapping[str, object], *, waive: bool) -> int:
    """Outputs that were held before they were made: their places go, the next generation of the instance makes them alone."""
    state = connection.execute("SELECT state, file_gone FROM instances WHERE instance_id = :key", values).fetchone()
    places = "instance_id = :key AND state = 'hold' AND location = ''"
    held = connection.execute(f"SELECT kind, destination, reason FROM deliveries WHERE {places}", values).fetchall()  # noqa: S608
    if tuple(state) != ("done", 0) or not held:
        return 0
    reasons = {row["reason"] for row in held}
    connection.execute(f"DELETE FROM deliveries WHERE {places}", values)  # noqa: S608
    return connection.execute(
        f"{_INSTANCES_AGAIN}, generation = generation + 1, waived = max(waived, :waived), settled = max(settled, :settled), "
        "asked = :asked, made = made - :count WHERE instance_id = :key",
        {
            **values, "waived": int(waive and not _BY_REDACTION.isdisjoint(reasons)),
            "settled": int(waive and not _BY_RULE.isdisjoint(reasons)),
            "asked": json.dumps(sorted((row["kind"], row["destination"]) for row in held)), "count": len(held),
        },
    ).rowcount


def _rework(connection: sqlite3.Connection, values: Mapping[str, object]) -> int:
    """Everything has ended and the source is kept: a person wants all of it made anew."""
    return connection.execute(
        f"{_INSTANCES_AGAIN}, generation = generation + 1, asked = '' "  # noqa: S608 - a constant
        "WHERE instance_id = :key AND state = 'done' AND file_gone = 0 AND NOT EXISTS ("
        "SELECT 1 FROM deliveries WHERE instance_id = :key AND state NOT IN ('delivered', 'dropped'))", values,
    ).rowcount


def _row(connection: sqlite3.Connection, instance_id: str) -> sqlite3.Row:
    row = connection.execute("SELECT * FROM instances WHERE instance_id = ?", (instance_id,)).fetchone()
    if not isinstance(row, sqlite3.Row):
        raise NotFound(f"{instance_id}: no such instance in the queue")
    return row


def _unblock(connection: sqlite3.Connection, values: Mapping[str, object]) -> int:
    """Who sends again by hand has mended something: lanes that were blocked are tried at once; gives how many."""
    return connection.execute(
        "UPDATE destinations SET state = 'up', reason = '', since = :now WHERE state = 'blocked' "
        "AND name IN (SELECT destination FROM deliveries WHERE instance_id = :key)", values,
    ).rowcount


def _note(connection: sqlite3.Connection, instance_id: str, now: datetime, who: str, what: str, changed: int) -> int:
    if changed:
        connection.execute(
            "INSERT INTO acts (instance_id, at, who, what, rows) VALUES (?, ?, ?, ?, ?)",
            (instance_id, to_db(now), who, what, changed),
        )
    return changed


def _plain(row: sqlite3.Row) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name in row.keys():  # noqa: SIM118 - a sqlite3.Row iterates over values
        value = row[name]
        if name in _INNER:
            continue
        if name in _TIMES:
            value = _iso(value)
        elif name in _FLAGS:
            value = bool(value)
        elif name in _JSON:
            value = json.loads(value)
        plain[name] = value
    return plain


def _iso(value: int | None) -> str | None:
    return None if value is None else from_db(value).isoformat()

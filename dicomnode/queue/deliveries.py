"""The queue's answers to the sender, in SQL: deliveries and the state of destinations."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from dicomnode.errors import Expired, LeaseLost
from dicomnode.queue import Owner, Settled
from dicomnode.queue.database import Database, from_db, owner_text, to_db
from dicomnode.records import Delivery, Verdict

Lane = Literal["up", "down", "blocked"]

_DUE = """
SELECT * FROM (
    SELECT * FROM (
        SELECT * FROM deliveries WHERE state = 'ready' AND destination = :destination AND urgent = :urgent
        ORDER BY delivery_id LIMIT :limit)
    UNION ALL
    SELECT * FROM (
        SELECT * FROM deliveries
        WHERE state = 'deferred' AND destination = :destination AND urgent = :urgent AND due_at <= :now
        ORDER BY due_at LIMIT :limit)
) ORDER BY delivery_id LIMIT :limit
"""
_ANY_DUE = """
SELECT EXISTS (SELECT 1 FROM deliveries WHERE state = 'ready' AND destination = :destination AND urgent >= :urgent)
    OR EXISTS (
        SELECT 1 FROM deliveries
        WHERE state = 'deferred' AND destination = :destination AND urgent IN (1, :urgent) AND due_at <= :now)
"""
_CLAIM = """
UPDATE deliveries SET state = 'active', owner = :owner, attempt = attempt + 1, due_at = NULL, since = :now, turn = :turn
WHERE delivery_id = :delivery_id
"""
_RUN = """
INSERT INTO turns (destination, urgent_run) VALUES (:destination, :run)
ON CONFLICT (destination) DO UPDATE SET urgent_run = excluded.urgent_run
"""
#: So many urgent ones in succession at most, while ordinary ones are due.
URGENT_RUN = 3
_OLD = "SELECT * FROM deliveries WHERE state IN ('ready', 'deferred') AND life_from < ? ORDER BY delivery_id"
_SETTLE = """
UPDATE deliveries SET state = :state, owner = NULL, reason = :reason, status = :status, due_at = :due, since = :now
WHERE delivery_id = :delivery_id AND state = 'active' AND owner = :owner AND attempt = :attempt
"""
#: A verdict's outcome → the state of its delivery.
_STATE_AFTER = {"delivered": "delivered", "deferred": "deferred", "refused": "hold", "blocked": "ready"}


def delivery_of(row: sqlite3.Row, attempt: int | None = None) -> Delivery:
    """Make the record of a row."""
    return Delivery(
        delivery_id=row["delivery_id"], instance_id=row["instance_id"], kind=row["kind"], destination=row["destination"],
        sop_class_uid=row["sop_class_uid"], sop_instance_uid=row["sop_instance_uid"],
        transfer_syntax_uid=row["transfer_syntax_uid"], identity=row["identity"], location=row["location"],
        attempt=row["attempt"] if attempt is None else attempt, created_at=from_db(row["created_at"]),
        urgent=bool(row["urgent"]),
    )


class Deliveries(Database):
    """What the sender's lanes ask."""

    def claim_deliveries(
        self, destination: str, owner: Owner, limit: int, now: datetime, *, urgent_only: bool = False,
    ) -> tuple[Delivery, ...]:
        """Take up to ``limit`` due deliveries of one destination, urgent ones first, without starving the others."""
        values = {"destination": destination, "now": to_db(now), "limit": limit, "urgent": int(urgent_only)}
        if not self._all(_ANY_DUE, values)[0][0]:  # without the write lock: idle lanes ask often
            return ()
        with self._transaction(durable=False) as connection:
            urgent = connection.execute(_DUE, values | {"urgent": 1}).fetchall()
            ordinary = [] if urgent_only else connection.execute(_DUE, values | {"urgent": 0}).fetchall()
            found = connection.execute("SELECT urgent_run FROM turns WHERE destination = ?", (destination,)).fetchone()
            before = found[0] if found else 0
            rows, run = in_turn(urgent, ordinary, limit, before)
            connection.executemany(_CLAIM, [
                {"owner": owner_text(owner), "now": to_db(now), "turn": turn, "delivery_id": row["delivery_id"]}
                for turn, row in enumerate(rows)
            ])
            if run != before:
                connection.execute(_RUN, {"destination": destination, "run": run})
        return tuple(delivery_of(row, row["attempt"] + 1) for row in rows)

    def settle(
        self, delivery: Delivery, owner: Owner, verdict: Verdict, now: datetime, due: datetime | None = None,
    ) -> None:
        """End the claim on a delivery."""
        if self.settle_all([Settled(delivery, verdict, now, due)], owner):
            raise _lost(delivery)

    def settle_all(self, ends: Sequence[Settled], owner: Owner) -> tuple[Delivery, ...]:
        """End many claims in one transaction."""
        lost = []
        with self._transaction() as connection:
            for end in ends:
                state = _STATE_AFTER[end.verdict.outcome]
                changed = connection.execute(_SETTLE, {
                    "state": state, "reason": end.verdict.reason, "status": end.verdict.status, "now": to_db(end.at),
                    "due": to_db(end.due or end.at) if state == "deferred" else None,
                    "delivery_id": end.delivery.delivery_id, "owner": owner_text(owner), "attempt": end.delivery.attempt,
                }).rowcount
                if changed != 1:
                    lost.append(end.delivery)
        return tuple(lost)

    def unclaim(self, delivery: Delivery, owner: Owner) -> None:
        """Give a claimed delivery back untried."""
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE deliveries SET state = 'ready', owner = NULL, attempt = attempt - 1 "
                "WHERE delivery_id = ? AND state = 'active' AND owner = ? AND attempt = ?",
                (delivery.delivery_id, owner_text(owner), delivery.attempt),
            ).rowcount
        if changed != 1:
            raise _lost(delivery)

    def expire(self, lifetime: timedelta, now: datetime) -> tuple[Delivery, ...]:
        """Set aside deliveries that are older than ``lifetime``."""
        values = (to_db(now - lifetime),)
        if not self._all(_OLD, values):  # without the write lock: all that waits is gone through
            return ()
        with self._transaction() as connection:
            rows = connection.execute(_OLD, values).fetchall()
            connection.executemany(
                "UPDATE deliveries SET state = 'expired', reason = ?, due_at = NULL, since = ? WHERE delivery_id = ?",
                [(Expired.code, to_db(now), row["delivery_id"]) for row in rows],
            )
        return tuple(delivery_of(row) for row in rows)

    def waiting_destinations(self) -> Mapping[str, int]:
        """Destinations with deliveries not yet ended, and how many."""
        rows = self._all(
            "SELECT destination, count(*) FROM deliveries WHERE state IN ('ready', 'active', 'deferred') GROUP BY destination",
        )
        return {row[0]: row[1] for row in rows}

    def destination_state(self, name: str) -> tuple[Lane, str, datetime | None]:
        """State, reason and since when."""
        rows = self._all("SELECT state, reason, since FROM destinations WHERE name = ?", (name,))
        return (rows[0][0], rows[0][1], from_db(rows[0][2])) if rows else ("up", "", None)

    def retried(self, destination: str, after: datetime) -> bool:
        """Say whether a person has mended something."""
        return bool(self._all(
            "SELECT EXISTS (SELECT 1 FROM acts AS a WHERE a.at > :after AND a.what IN ('retry', 'release') AND EXISTS ("
            "SELECT 1 FROM deliveries AS d WHERE d.instance_id = a.instance_id AND d.destination = :destination))",
            {"after": to_db(after), "destination": destination},
        )[0][0])

    def set_destination(self, name: str, state: Lane, reason: str, now: datetime) -> bool:
        """Record the state of a destination; True when state or reason changed."""
        if self.destination_state(name)[:2] == (state, reason):
            return False
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO destinations (name, state, reason, since) VALUES (:name, :state, :reason, :now) "
                "ON CONFLICT (name) DO UPDATE SET reason = excluded.reason, state = excluded.state, "
                "since = CASE state WHEN excluded.state THEN since ELSE excluded.since END",
                {"name": name, "state": state, "reason": reason, "now": to_db(now)},
            )
        return True


def in_turn(
    urgent: Sequence[sqlite3.Row], ordinary: Sequence[sqlite3.Row], limit: int, run: int,
) -> tuple[list[sqlite3.Row], int]:
    """Give the rows of a batch in the order in which they are sent, and the run of urgent ones at its end.

    Parameters
    ----------
    run
        Urgent ones claimed in succession before this batch.
    """
    batch: list[sqlite3.Row] = []
    first, rest = deque(urgent), deque(ordinary)
    # A batch of one leaves the share to the run, or nothing urgent would ever go first.
    owed = -(-limit // (URGENT_RUN + 1)) if limit > 1 else 0
    while len(batch) < limit and (first or rest):
        last_chance = limit - len(batch) <= min(owed, len(rest))
        if rest and (not first or run >= URGENT_RUN or last_chance):
            batch.append(rest.popleft())
            run, owed = 0, owed - 1
        else:
            batch.append(first.popleft())
            run = min(run + 1, URGENT_RUN)
    return batch, run


def _lost(delivery: Delivery) -> LeaseLost:
    return LeaseLost(f"delivery {delivery.delivery_id}: the claim of this process has ended")

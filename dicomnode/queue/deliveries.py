"""The queue's answers to the sender, in SQL: deliveries and the state of destinations."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

from dicomnode.errors import Expired, LeaseLost
from dicomnode.queue import Owner
from dicomnode.queue.database import Database, from_db, owner_text, to_db
from dicomnode.records import Delivery, Verdict

Lane = Literal["up", "down", "blocked"]

_DUE = """
SELECT * FROM (
    SELECT * FROM (
        SELECT * FROM deliveries WHERE state = 'ready' AND destination = :destination ORDER BY delivery_id LIMIT :limit)
    UNION ALL
    SELECT * FROM (
        SELECT * FROM deliveries WHERE state = 'deferred' AND destination = :destination AND due_at <= :now
        ORDER BY delivery_id LIMIT :limit)
) ORDER BY delivery_id LIMIT :limit
"""
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
    )


class Deliveries(Database):
    """What the sender's lanes ask."""

    def claim_deliveries(self, destination: str, owner: Owner, limit: int, now: datetime) -> tuple[Delivery, ...]:
        """Take up to ``limit`` due deliveries of one destination, oldest first."""
        values = {"destination": destination, "now": to_db(now), "limit": limit}
        if not self._all(_DUE, values):  # without the write lock: idle lanes ask often
            return ()
        with self._transaction(durable=False) as connection:
            rows = connection.execute(_DUE, values).fetchall()
            connection.executemany(
                "UPDATE deliveries SET state = 'active', owner = ?, attempt = attempt + 1, due_at = NULL, since = ? "
                "WHERE delivery_id = ?",
                [(owner_text(owner), to_db(now), row["delivery_id"]) for row in rows],
            )
        return tuple(delivery_of(row, row["attempt"] + 1) for row in rows)

    def settle(
        self, delivery: Delivery, owner: Owner, verdict: Verdict, now: datetime, due: datetime | None = None,
    ) -> None:
        """End the claim on a delivery."""
        state = _STATE_AFTER[verdict.outcome]
        with self._transaction() as connection:
            _ended(delivery, connection.execute(_SETTLE, {
                "state": state, "reason": verdict.reason, "status": verdict.status, "now": to_db(now),
                "due": to_db(due or now) if state == "deferred" else None,
                "delivery_id": delivery.delivery_id, "owner": owner_text(owner), "attempt": delivery.attempt,
            }).rowcount)

    def unclaim(self, delivery: Delivery, owner: Owner) -> None:
        """Give a claimed delivery back untried."""
        with self._transaction() as connection:
            _ended(delivery, connection.execute(
                "UPDATE deliveries SET state = 'ready', owner = NULL, attempt = attempt - 1 "
                "WHERE delivery_id = ? AND state = 'active' AND owner = ? AND attempt = ?",
                (delivery.delivery_id, owner_text(owner), delivery.attempt),
            ).rowcount)

    def expire(self, lifetime: timedelta, now: datetime) -> tuple[Delivery, ...]:
        """Set aside deliveries that are older than ``lifetime``."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM deliveries WHERE state IN ('ready', 'deferred') AND life_from < ? ORDER BY delivery_id",
                (to_db(now - lifetime),),
            ).fetchall()
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


def _ended(delivery: Delivery, changed: int) -> None:
    if changed != 1:
        raise LeaseLost(f"delivery {delivery.delivery_id}: the claim of this process has ended")

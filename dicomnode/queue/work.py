"""The queue's answers to intake and worker, in SQL: add, claim, and the five ways to end a claim."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import get_args

from dicomnode.errors import HeaderDiffers, LeaseLost
from dicomnode.queue import Claim, InstanceState, NewOutput, Owner, Sibling, Summary
from dicomnode.queue.database import Database, from_db, owner_text, to_db
from dicomnode.queue.tags import count
from dicomnode.records import Held, Instance

_STATES: Mapping[str, InstanceState] = {state: state for state in get_args(InstanceState)}
_FIELDS = (
    "instance_id", "sop_class_uid", "sop_instance_uid", "series_instance_uid", "study_instance_uid", "transfer_syntax_uid",
    "modality", "calling_ae", "called_ae", "address", "location", "size_bytes", "sha256", "accession_token", "acceptor_pid",
)
_ADD = f"""
INSERT INTO instances ({", ".join(_FIELDS)}, received_at, own_result, state, reason, since)
VALUES ({", ".join(f":{name}" for name in _FIELDS)}, :received_at, :own_result, :state, '', :since)
"""  # noqa: S608 - names of our own columns
#: The row made something, or may yet: not quarantined, not given up by a person, also not in all its deliveries.
_COUNTS = """
(o.state IN ('waiting', 'active', 'deferred', 'hold') OR o.state = 'done' AND (
    o.made = 0 OR EXISTS (SELECT 1 FROM deliveries AS d WHERE d.instance_id = o.instance_id AND d.state <> 'dropped')))
"""
_SAME_BYTES = f"""
SELECT 1 FROM instances AS e
WHERE e.sop_instance_uid = :sop_instance_uid AND e.sha256 = :sha256 AND EXISTS (
    SELECT 1 FROM instances AS o
    WHERE o.sop_instance_uid = e.sop_instance_uid AND {_COUNTS}
        AND (o.instance_id = e.instance_id OR e.state = 'duplicate'))
LIMIT 1
"""  # noqa: S608 - constants
#: Nothing else of this SOP Instance UID is in hand or, earlier than this, to be worked.
_FREE = """
NOT EXISTS (
    SELECT 1 FROM instances AS e
    WHERE e.sop_instance_uid = i.sop_instance_uid AND e.instance_id <> i.instance_id
        AND (e.state = 'active' OR e.state IN ('waiting', 'deferred') AND e.instance_id < i.instance_id))
"""
_NEXT = f"""
SELECT * FROM (
    SELECT * FROM (
        SELECT * FROM instances AS i WHERE i.state = 'waiting' AND {_FREE} ORDER BY i.instance_id LIMIT 1)
    UNION ALL
    SELECT * FROM (
        SELECT * FROM instances AS i
        WHERE i.state = 'deferred' AND i.due_at <= :now AND {_FREE} ORDER BY i.instance_id LIMIT 1)
    UNION ALL
    SELECT * FROM (
        SELECT * FROM instances AS i INDEXED BY instances_urgent
        WHERE i.urgent = 1 AND i.state IN ('waiting', 'deferred') AND coalesce(i.due_at, 0) <= :now AND {_FREE}
        ORDER BY i.instance_id LIMIT 1)
) ORDER BY urgent DESC, instance_id LIMIT 1
"""  # noqa: S608 - constants
_PREDECESSORS = """
SELECT kind, identity, sop_class_uid, sop_instance_uid FROM deliveries AS d
WHERE instance_id = :key AND location <> '' AND kind <> 'original' AND state <> 'dropped' AND generation = (
    SELECT max(f.generation) FROM deliveries AS f
    WHERE f.instance_id = :key AND f.generation < :generation AND f.location <> '' AND f.state <> 'dropped'
        AND f.kind = d.kind AND f.identity = d.identity AND f.sop_class_uid = d.sop_class_uid)
GROUP BY kind, identity, sop_class_uid, sop_instance_uid ORDER BY min(delivery_id)
"""
_SIBLINGS = f"""
SELECT instance_id, state, pixel_digest FROM instances AS o
WHERE o.sop_instance_uid = ? AND o.instance_id < ? AND {_COUNTS}
ORDER BY o.instance_id
"""  # noqa: S608 - constants
_DELIVER = """
INSERT INTO deliveries (
    instance_id, generation, kind, destination, state, since, created_at, life_from,
    location, sop_class_uid, sop_instance_uid, transfer_syntax_uid, identity, urgent)
VALUES (?, ?, ?, ?, 'ready', ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (
    sop_instance_uid, destination, CASE kind WHEN 'original' THEN instance_id || '/' || generation ELSE '' END
) WHERE location <> '' AND state <> 'dropped' DO NOTHING
"""
_CERTIFY = """
INSERT OR REPLACE INTO certificates (instance_id, sop_instance_uid, generation, at, certificate) VALUES (?, ?, ?, ?, ?)
"""
_HELD = """
INSERT INTO deliveries (instance_id, generation, kind, destination, state, reason, since, created_at, life_from, urgent)
VALUES (?, ?, ?, ?, 'hold', ?, ?, ?, ?, ?)
"""


#: Given up by rule in the same breath: nothing begins as dropped, and its history says why.
_DROPPED = """
UPDATE deliveries SET state = 'dropped'
WHERE instance_id = ? AND generation = ? AND kind = ? AND destination = ? AND state = 'hold' AND location = ''
"""


def instance_of(row: sqlite3.Row) -> Instance:
    """Make the record of a row."""
    return Instance(
        **{name: row[name] for name in _FIELDS}, received_at=from_db(row["received_at"]), own_result=bool(row["own_result"]),
    )


class Work(Database):
    """What the keeper's intake and the workers ask."""

    # -- intake
    def add(self, instance: Instance) -> InstanceState | None:
        """Insert a row; None when there is one."""
        values: dict[str, object] = {name: getattr(instance, name) for name in _FIELDS}
        values |= {
            "received_at": to_db(instance.received_at), "own_result": int(instance.own_result),
            "since": to_db(datetime.now(UTC)),
        }
        with self._transaction() as connection:
            if _has_row(connection, instance.instance_id):
                return None
            state = "waiting"
            if instance.own_result:
                state = "own"
            elif connection.execute(_SAME_BYTES, values).fetchone():
                state = "duplicate"
            connection.execute(_ADD, values | {"state": state})
            return _STATES[state]

    def add_unreadable(self, instance_id: str, location: str, size_bytes: int, received_at: datetime, reason: str) -> None:
        """Insert a quarantine row for a file whose header cannot be read."""
        with self._transaction() as connection:
            if not _has_row(connection, instance_id):
                connection.execute(
                    "INSERT INTO instances (instance_id, state, reason, since, location, size_bytes, received_at) "
                    "VALUES (?, 'quarantine', ?, ?, ?, ?, ?)",
                    (instance_id, reason, to_db(datetime.now(UTC)), location, size_bytes, to_db(received_at)),
                )

    def locations(self) -> Mapping[str, str]:
        """Every instance whose file is kept, with its location."""
        return {row[0]: row[1] for row in self._all("SELECT instance_id, location FROM instances WHERE file_gone = 0")}

    def known(self, instance_id: str) -> bool:
        """Say whether this instance has a row."""
        return bool(self._all("SELECT 1 FROM instances WHERE instance_id = ?", (instance_id,)))

    # -- work
    def claim(self, owner: Owner, now: datetime) -> Claim | None:
        """Take the oldest row that may be worked."""
        # Asked first without the write lock: idle workers ask several times a second.
        if not self._all(_NEXT, {"now": to_db(now)}):
            return None
        with self._transaction(durable=False) as connection:
            row = connection.execute(_NEXT, {"now": to_db(now)}).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE instances SET state = 'active', owner = ?, attempt = attempt + 1, due_at = NULL, reason = '', "
                "since = ? WHERE instance_id = ?",
                (owner_text(owner), to_db(now), row["instance_id"]),
            )
            values = {"key": row["instance_id"], "generation": row["generation"]}
            former = connection.execute(_PREDECESSORS, values).fetchall()
        return Claim(
            instance=instance_of(row), attempt=row["attempt"] + 1, generation=row["generation"],
            waived=bool(row["waived"]), accepted=bool(row["accepted"]), settled=bool(row["settled"]),
            predecessors=tuple(tuple(one) for one in former),
            only=frozenset((kind, name) for kind, name in json.loads(row["asked"])) if row["asked"] else None,
        )

    def siblings(self, instance: Instance) -> tuple[Sibling, ...]:
        """Earlier rows of the same SOP Instance UID, oldest first."""
        rows = self._all(_SIBLINGS, (instance.sop_instance_uid, instance.instance_id))
        return tuple(Sibling(row[0], _STATES[row[1]], row[2]) for row in rows)

    def finish(
        self, claim: Claim, owner: Owner, summary: Summary, outputs: Sequence[NewOutput], held: Sequence[Held], now: datetime,
        reason: str = "",
    ) -> None:
        """End the claim as done and make its deliveries."""
        instance_id, time = claim.instance.instance_id, to_db(now)
        facts = _facts(summary, whole=claim.only is None)
        with self._transaction() as connection:
            asked = connection.execute("SELECT urgent FROM instances WHERE instance_id = ?", (instance_id,)).fetchone()
            urgent = int(summary.urgent or bool(asked and asked[0]))
            _end(connection, claim, owner, "done", reason=reason, pixel_digest=summary.pixel_digest, now=now)
            # Counted from what was meant, so that `verify` misses a delivery that is not there for whatever reason.
            made = sum(len(one.destinations) for one in outputs) + sum(len(one.destinations) for one in held)
            for output in outputs:
                if output.certificate is not None:
                    told = json.dumps(output.certificate, separators=(",", ":"))
                    connection.execute(_CERTIFY, (instance_id, output.sop_instance_uid, claim.generation, time, told))
                for destination in output.destinations:
                    written = connection.execute(_DELIVER, (
                        instance_id, claim.generation, output.kind, destination, time, time, time, output.location,
                        output.sop_class_uid, output.sop_instance_uid, output.transfer_syntax_uid, output.identity, urgent,
                    )).rowcount
                    made -= int(written == 0)  # the very same object is delivered there for another row
            for item in held:
                for destination in item.destinations:
                    connection.execute(
                        _HELD, (instance_id, claim.generation, item.kind, destination, item.reason, time, time, time, urgent),
                    )
                    if item.dropped:
                        connection.execute(_DROPPED, (instance_id, claim.generation, item.kind, destination))
            if not claim.generation and not reason:  # of a rework, or of pixels that came before, it was counted then
                count(connection, claim.instance, summary)
            columns = ", ".join(f"{name} = :{name}" for name in facts)
            # Found again, or of pixels that were looked at before, a finding is no news.
            told = "told = :noted OR told AND model = :model AND finding = :finding, " if "model" in facts else ""
            connection.execute(
                f"UPDATE instances SET {told}{columns}, made = made + :made, asked = '' "  # noqa: S608 - our own columns
                "WHERE instance_id = :instance_id",
                {**facts, "noted": reason == HeaderDiffers.code, "made": made, "instance_id": instance_id},
            )

    def defer(self, claim: Claim, owner: Owner, reason: str, due: datetime) -> None:
        """End the claim; due again at ``due``."""
        with self._transaction() as connection:
            _end(connection, claim, owner, "deferred", reason=reason, due=due)

    def hold(self, claim: Claim, owner: Owner, reason: str, pixel_digest: str = "") -> None:
        """End the claim; a person must look."""
        with self._transaction() as connection:
            _end(connection, claim, owner, "hold", reason=reason, pixel_digest=pixel_digest)

    def quarantine(self, claim: Claim, owner: Owner, reason: str) -> None:
        """End the claim; cannot be worked."""
        with self._transaction() as connection:
            _end(connection, claim, owner, "quarantine", reason=reason)

    def duplicate(self, claim: Claim, owner: Owner, pixel_digest: str) -> None:
        """End the claim; the same pixels were worked before."""
        with self._transaction() as connection:
            _end(connection, claim, owner, "duplicate", reason=HeaderDiffers.code, pixel_digest=pixel_digest)


def _facts(summary: Summary, *, whole: bool) -> Mapping[str, object]:
    """The columns that a summary fills; a work on some outputs only says nothing about what it did not do."""
    facts: dict[str, object] = {
        "body_part": summary.body_part, "probability": summary.probability, "rule": summary.rule,
        "stage_ms": json.dumps(dict(summary.stage_ms)), "picture": summary.picture, "tag": summary.tag,
        "agreement": summary.agreement, "doubt": summary.doubt, "device": summary.device,
    }
    if whole or summary.model:
        facts |= {
            "model": summary.model, "finding": summary.finding, "finding_probability": summary.finding_probability,
            "abnormal": int(summary.abnormal), "findings": json.dumps([dict(one) for one in summary.findings]),
        }
    if whole or summary.regions:
        facts["regions"] = summary.regions
    return facts


def _has_row(connection: sqlite3.Connection, instance_id: str) -> bool:
    return connection.execute("SELECT 1 FROM instances WHERE instance_id = ?", (instance_id,)).fetchone() is not None


def _end(
    connection: sqlite3.Connection, claim: Claim, owner: Owner, state: InstanceState, *, reason: str = "",
    due: datetime | None = None, pixel_digest: str = "", now: datetime | None = None,
) -> None:
    """End a claim that is still held; the attempt tells it from a later claim of the same process."""
    changed = connection.execute(
        "UPDATE instances SET state = ?, owner = NULL, reason = ?, due_at = ?, since = ?, "
        "pixel_digest = CASE ? WHEN '' THEN pixel_digest ELSE ? END "
        "WHERE instance_id = ? AND state = 'active' AND owner = ? AND attempt = ?",
        (
            state, reason, None if due is None else to_db(due), to_db(now or datetime.now(UTC)), pixel_digest, pixel_digest,
            claim.instance.instance_id, owner_text(owner), claim.attempt,
        ),
    ).rowcount
    if changed != 1:
        raise LeaseLost(f"{claim.instance.instance_id}: the claim of this process has ended")

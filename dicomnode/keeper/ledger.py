"""What became of everything that was accepted, and where files and rows contradict each other.

**Way** `audit` compares the spool with the queue, both ways, and puts every accepted instance on exactly one side of the
account: delivered, waiting, held, quarantined, duplicate, own or dropped.

**Limits** On a running node files and rows move while they are compared; what is younger than `GRACE` is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from dicomnode.errors import FileMissing
from dicomnode.queue import Queue
from dicomnode.queue.database import owner_of
from dicomnode.queue.owner import alive
from dicomnode.spool import Spool

#: A file may be this old before it must have a row, and a claim before its dead owner must have been noticed.
GRACE = timedelta(seconds=15)
#: Account → the states of an instance that it takes; done is delivered unless a delivery says otherwise.
_ACCOUNTS: Mapping[str, tuple[str, ...]] = {
    "delivered": ("done",),
    "waiting": ("waiting", "active", "deferred"),
    "held": ("hold",),
    "quarantined": ("quarantine",),
    "duplicate": ("duplicate",),
    "own": ("own",),
    "dropped": ("dropped",),
}
#: States of instances and deliveries that have not ended.
_OPEN = ("waiting", "ready", "active", "deferred", "hold", "quarantine", "expired")
_NEEDS_SOURCE = ("waiting", "active", "deferred", "hold", "quarantine")

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Audit:
    """The account and the breaches; sound when there is none."""

    #: Rows, and files that have none yet.
    accepted: int
    accounts: Mapping[str, int]
    breaches: tuple[str, ...]


def audit(spool: Spool, queue: Queue, now: datetime) -> Audit:
    """Compare spool and queue."""
    # Files before rows: a file that gets its row in between is young.
    files = [*spool.incoming(), *spool.quarantined()]
    rows = queue.locations()
    rowless = [kept for kept in files if kept.instance_id not in rows and not queue.known(kept.instance_id)]
    still_open = queue.rows(states=_OPEN)
    accounts = _accounts(queue, still_open)
    accounts["waiting"] += len(rowless)
    breaches = [
        *queue.verify(),
        *(f"{kept.location} has no row" for kept in rowless if now - kept.changed_at > GRACE),
        *(f"{name} is no file of the node" for name in spool.strangers()),
        *(breach for row in still_open for breach in _row_breaches(row, spool, now)),
    ]
    return Audit(accounts.total(), dict(accounts), tuple(breaches))


def _accounts(queue: Queue, still_open: tuple[Row, ...]) -> Counter[str]:
    states = {state: cast("int", facts["count"]) for state, facts in queue.counts()["instances"].items()}
    accounts: Counter[str] = Counter({name: sum(states.get(s, 0) for s in of) for name, of in _ACCOUNTS.items()})
    for row in still_open:
        if row["state"] == "done":
            delivery_states = {delivery["state"] for delivery in deliveries_of(row)}
            accounts["delivered"] -= 1
            accounts["held" if delivery_states & {"hold", "expired"} else "waiting"] += 1
    return accounts


def _row_breaches(row: Row, spool: Spool, now: datetime) -> Iterator[str]:
    unmade = any(one["state"] == "hold" and not one["location"] for one in deliveries_of(row))
    if (row["state"] in _NEEDS_SOURCE or unmade) and not _exists(spool, row["location"]):
        yield f"{row['instance_id']} is {row['state']}, but its file {row['location']} is missing"
    for one in deliveries_of(row):
        if one["state"] in _OPEN and one["location"] and not _exists(spool, one["location"]):
            yield f"{row['instance_id']}: the {one['kind']} for {one['destination']} is {one['state']}, but its file is missing"
    for claimed in (row, *deliveries_of(row)):
        owner, since = claimed["owner"], datetime.fromisoformat(str(claimed["since"]))
        if isinstance(owner, str) and now - since > GRACE and not alive(owner_of(owner)):
            yield f"{row['instance_id']} is claimed by a process that is dead; the keeper takes such claims back when it runs"


def deliveries_of(row: Row) -> tuple[Row, ...]:
    """Give the deliveries of a row of `Queue.rows`."""
    return tuple(cast("list[Row]", row["deliveries"]))


def _exists(spool: Spool, location: object) -> bool:
    try:
        path: Path = spool.path(str(location))
    except FileMissing:
        return False
    return path.is_file()

"""What became of everything that was accepted, and where receipts, files and rows contradict each other.

**Way** `audit` has three witnesses that know nothing of each other: the receipts, which acceptors write before they answer,
the files of the spool, and the rows of the queue. Every receipt must be found as a row or as a file that has none yet; every
instance stands on exactly one side of the account: delivered, waiting, held, quarantined, duplicate, own or dropped; and every
file that a row counts on must be there. A row without a receipt is sound: its answer was not sent, or it is older than the
receipts. Rows are forgotten after their receipts (`Chores.forget`), so whatever has a receipt and is nowhere is a loss.

**Limits** On a running node files and rows move while they are compared: what is younger than `GRACE` is left out, what is
missing is looked for again, and what comes in meanwhile may count as without a receipt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import cast

from dicomnode.errors import FileMissing
from dicomnode.queue import Needed, Queue
from dicomnode.queue.owner import alive
from dicomnode.spool import Spool, hour_of

#: A file may be this old before it must have a row, and a claim before its dead owner must have been noticed.
GRACE = timedelta(seconds=15)
#: The sides of the account.
SIDES = ("delivered", "waiting", "held", "quarantined", "duplicate", "own", "dropped")
#: Receipts that are looked up together.
_BATCH = 5000

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Audit:
    """The account and the breaches; sound when there is none."""

    #: Instances that have a receipt.
    acknowledged: int
    #: Instances that have a row or a file and no receipt.
    unanswered: int
    #: Side → instances; a file that has no row yet is waiting.
    accounts: Mapping[str, int]
    #: Instances that have a receipt and are nowhere.
    gone: int
    breaches: tuple[str, ...]

    @property
    def accepted(self) -> int:
        """All that the node has to answer for."""
        return self.acknowledged + self.unanswered


def audit(spool: Spool, queue: Queue, now: datetime) -> Audit:
    """Compare receipts, files and rows."""
    # Files before rows: a file that gets its row in between is young.
    files = [*spool.incoming(), *spool.quarantined()]
    present = {kept.location for kept in files}
    rowless = {kept.instance_id: kept for kept in files}
    for ids in _batches(iter(list(rowless))):
        for known in set(ids) - set(queue.unknown(ids)):
            del rowless[known]
    acknowledged, gone = _receipts(spool, queue, rowless.keys())
    accounts = Counter(dict.fromkeys(SIDES, 0) | dict(queue.accounts()))
    accounts["waiting"] += len(queue.unknown(list(rowless)))
    breaches = [
        *(f"{one} was acknowledged and is gone: it has neither a row nor a file" for one in gone),
        *queue.verify(),
        *(f"{kept.location} has no row" for kept in rowless.values() if now - kept.changed_at > GRACE),
        *(f"{name} is no file of the node" for name in spool.strangers()),
        *_missing_files(spool, queue, present | {kept.location for kept in spool.results()}),
        *_dead_claims(queue, now),
    ]
    unanswered = max(0, accounts.total() - (acknowledged - len(gone)))
    return Audit(acknowledged, unanswered, dict(accounts), len(gone), tuple(breaches))


def _receipts(spool: Spool, queue: Queue, rowless: AbstractSet[str]) -> tuple[int, list[str]]:
    """Count the receipts, and name those whose instance has neither row nor file."""
    receipts = spool.receipts()
    acknowledged = 0
    gone: set[str] = set()
    while batch := set(islice(receipts, _BATCH)):
        acknowledged += len(batch)
        gone |= {one for one in queue.unknown(sorted(batch)) if one not in rowless and _nowhere(one, spool, queue)}
    if gone:  # a receipt that was removed meanwhile went before its row
        kept = {one for one in spool.receipts() if one in gone}
        acknowledged -= len(gone - kept)
        gone = kept
    return acknowledged, sorted(gone)


def _nowhere(instance_id: str, spool: Spool, queue: Queue) -> bool:
    """Look once more for what was not there a moment ago: a file moves only once, to quarantine, and has a row then or soon."""
    places = (f"incoming/{hour_of(instance_id)}/{instance_id}.dcm", f"quarantine/{instance_id}.dcm")
    return not any(_exists(spool, place) for place in places) and bool(queue.unknown([instance_id]))


def _missing_files(spool: Spool, queue: Queue, present: set[str]) -> Iterator[str]:
    missing = {one for one in queue.needed() if one.location not in present and not _exists(spool, one.location)}
    if not missing:
        return
    # What has ended since it was asked needs its file no more.
    for one in queue.needed():
        if one in missing:
            yield _missing(one)


def _missing(one: Needed) -> str:
    if one.kind:
        return f"{one.instance_id}: the {one.kind} for {one.destination} is {one.state}, but its file is missing"
    return f"{one.instance_id} is {one.state}, but its file {one.location} is missing"


def _dead_claims(queue: Queue, now: datetime) -> Iterator[str]:
    for claimed in queue.claims():
        if now - claimed.since > GRACE and not alive(claimed.owner):
            yield f"{claimed.instance_id} is claimed by a process that is dead; the keeper takes such claims back when it runs"


def _batches(ids: Iterator[str]) -> Iterator[Sequence[str]]:
    while batch := list(islice(ids, _BATCH)):
        yield batch


def deliveries_of(row: Row) -> tuple[Row, ...]:
    """Give the deliveries of a row of `Queue.rows`."""
    return tuple(cast("list[Row]", row["deliveries"]))


def _exists(spool: Spool, location: str) -> bool:
    try:
        path: Path = spool.path(location)
    except FileMissing:
        return False
    return path.is_file()

"""What the keeper does from time to time: dead claims, retention, leftovers, expiry, old rows, audit, alarms, the daily line.

**Way** Each public method of `Chores` is one pass that may be repeated at will; the keeper runs them by the clock. Files
go, and are gone from the disk, before the note that they are gone, so a pass that was cut is ended by the next one.

**Fails** `QueueUnavailable` and `OSError` end a pass; the next one tries again.

**Limits** An alarm is given when its state begins, and again after a restart of the keeper while it lasts.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from dicomnode.errors import FileMissing
from dicomnode.keeper.hook import run_hook
from dicomnode.keeper.ledger import audit
from dicomnode.log import get_logger
from dicomnode.queue import Queue
from dicomnode.queue.owner import alive
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: A leftover in tmp that nobody has touched for this long is nobody's; an acceptor's timeouts are minutes.
LEFTOVER = timedelta(hours=1)
#: A result without a row is what a worker wrote before it died; its repeat overwrites it, or it never comes.
ORPHAN = timedelta(hours=24)
#: Findings told in one pass.
_TOLD_AT_ONCE = 20
#: An alarm of the disk ends when there is this much more than its mark.
_RECOVERED = 1.1
_REMOVED_AT_ONCE = 200

log = get_logger("keep")


class Chores:
    """One node's chores; remembers which alarms are on."""

    def __init__(self, settings: Settings, spool: Spool, queue: Queue) -> None:
        self._settings = settings
        self._spool = spool
        self._queue = queue
        self._low = False
        self._over = False
        self._aside = 0
        #: Destination → state, of those that are not up.
        self._down: dict[str, str] = {}

    # -- rows
    def reclaim(self, _now: datetime) -> None:
        """Take back what dead processes had claimed."""
        for taken in self._queue.reclaim(alive):
            log.warning(
                "lease_reclaimed", kind=taken.kind, instance_id=taken.instance_id, attempt=taken.attempt,
                state="set_aside" if taken.set_aside else "again",
            )
            if taken.set_aside:
                event = "instance_quarantined" if taken.kind == "instance" else "delivery_held"
                log.error(event, instance_id=taken.instance_id, reason="died_thrice", actor="developer")

    def expire(self, now: datetime) -> None:
        """Set aside deliveries whose lifetime is over."""
        for delivery in self._queue.expire(timedelta(hours=self._settings.send.lifetime_h), now):
            log.error(
                "delivery_expired", instance_id=delivery.instance_id, destination=delivery.destination, kind=delivery.kind,
                attempt=delivery.attempt, actor="administrator",
            )

    def forget(self, now: datetime) -> None:
        """Delete old rows whose files are gone, and before them the receipts of their days."""
        before = now - timedelta(days=self._settings.keep.rows_d)
        self._spool.remove_receipts(before)
        self._queue.forget(before)
        self._queue.forget_tags((now - timedelta(days=self._settings.keep.counts_d)).date())

    # -- files
    def retention(self, now: datetime) -> None:
        """Remove sources and results that have done their service."""
        before = now - timedelta(hours=self._settings.keep.retention_h)
        removable = self._queue.removable(before)
        removed = size = 0
        for start in range(0, len(removable), _REMOVED_AT_ONCE):
            gone: list[str] = []
            for kind, location in removable[start : start + _REMOVED_AT_ONCE]:
                # A rework may have written a result of this name anew since the rows were asked.
                freed = self._remove(location, before if kind == "result" else None)
                if freed is not None:
                    gone.append(location)
                    size += freed
            self._spool.sync_entries(gone)
            self._queue.removed(gone)
            removed += len(gone)
        if removed:
            log.info("files_removed", count=removed, bytes=size)

    def _remove(self, location: str, unless_after: datetime | None) -> int | None:
        try:
            return self._spool.remove(location, unless_after=unless_after)
        except FileMissing:  # a row whose location is none of ours: nothing that we could remove
            return 0

    def leftovers(self, now: datetime) -> None:
        """Remove what broken associations and dead workers left."""
        count = self._spool.sweep(LEFTOVER, now)
        # Listed before the rows are asked; what a worker has written anew since then is left.
        old = [kept.location for kept in self._spool.results() if kept.changed_at < now - ORPHAN]
        if old:
            wanted = self._queue.results()
            for location in old:
                if location not in wanted:
                    count += self._spool.remove(location, unless_after=now - ORPHAN) is not None
        if count:
            log.info("leftovers_removed", count=count)

    def audit(self, now: datetime) -> None:
        """Compare files and rows, once what dead processes had claimed is back."""
        self.reclaim(now)
        found = audit(self._spool, self._queue, now)
        count = len(found.breaches)
        if count:
            log.error("audit_done", count=count, actor="administrator")
        else:
            log.info("audit_done", count=0)

    # -- telling
    def findings(self, now: datetime) -> None:
        """Tell of abnormal findings, each once; a command that fails is not asked again for the same finding."""
        for finding in self._queue.untold(_TOLD_AT_ONCE):
            self._hook("finding_abnormal", now, **finding)
            self._queue.told([str(finding["instance_id"])])

    def room(self, _now: datetime) -> None:
        """Say what held files take, so that the intake does not count it as its own."""
        self._spool.publish_held(self._spool.disk_bytes(self._queue.aside()[1]))

    def alarms(self, now: datetime) -> None:
        """Tell of a full disk, of holds that grow and of destinations that do not answer."""
        self._disk(now)
        self._holds(now)
        self._destinations(now)

    def _disk(self, now: datetime) -> None:
        free, mark = self._spool.free_bytes(), self._settings.scp.min_free_bytes
        left = self._spool.intake_bytes(self._settings.keep.holds_max_bytes)
        if left < mark and not self._low:
            log.error("disk_low", free_bytes=free, intake_bytes=left, actor="administrator")
            self._hook("disk_low", now, free_bytes=free, intake_bytes=left, min_free_bytes=mark)
        self._low = left < (mark * _RECOVERED if self._low else mark)

    def _holds(self, now: datetime) -> None:
        count, locations = self._queue.aside()
        size = self._spool.disk_bytes(locations)
        over = size > self._spool.holds_room(self._settings.keep.holds_max_bytes, size)
        if over and not self._over:
            log.error("holds_grown", count=count, bytes=size, actor="reviewer")
        if count > self._aside or (over and not self._over):
            self._hook("holds_grown", now, count=count, bytes=size, over=over)
        self._over, self._aside = over, count

    def _destinations(self, now: datetime) -> None:
        down: dict[str, str] = {}
        for name in self._settings.peers:
            state, reason, since = self._queue.destination_state(name)
            if state != "up":
                down[name] = state
                if self._down.get(name) != state:
                    facts = {"destination": name, "state": state, "reason": reason, "since": since and since.isoformat()}
                    self._hook("destination_down", now, **facts)
        self._down = down

    def summary(self, now: datetime) -> None:
        """Write the line of the day."""
        log.info("daily_summary", **self._queue.day(now - timedelta(days=1)), free_bytes=self._spool.free_bytes())

    def _hook(self, event: str, now: datetime, **facts: object) -> None:
        run_hook(self._settings.keep.hook, event, facts, now)

"""The keeper: takes in what the acceptors committed, all the time, and does the chores by the clock.

**Way** Intake is the main loop: inotify names new files, a scan every ``keep.scan_s`` finds what it missed, a full scan
comes first. The chores run in threads of APScheduler, on a connection of their own, so that nothing they do makes intake
wait longer than one short transaction. Once the first scan is through, files and rows are compared.

**Fails** A queue that cannot be opened or a disk that fails is logged when the reason changes and tried again; the keeper
ends only when told to. The acceptors never need it.

**Limits** One keeper a node. Destinations that are down are probed by the sender, which alone speaks DICOM.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from apscheduler.schedulers.background import BackgroundScheduler

from dicomnode import notify
from dicomnode.errors import ConfigError, DicomNodeError
from dicomnode.keeper.chores import Chores
from dicomnode.keeper.inotify import Watch
from dicomnode.keeper.intake import Intake
from dicomnode.log import get_logger
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.roles import Stop
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: Dead processes are looked for this often, seconds; the design promises their claims back within 5.
RECLAIM_S = 2
#: Longest time in which a stop goes unnoticed, seconds.
_TICK_S = 0.5
#: Seconds between two passes of each chore that runs by interval; the others have their hour.
_EVERY_S = {"reclaim": RECLAIM_S, "findings": 5, "room": 10, "alarms": 30, "expire": 60, "retention": 300, "leftovers": 3600}
#: A full scan as often as this makes a folder whose time lies right by accident, seconds.
_FULL_S = 3600.0
#: Beyond the pause between two scans, a scan may take this long without a file taken in, seconds.
_WATCHDOG_S = 120.0

log = get_logger("keep")


def run_keeper(settings: Settings, stop: Stop) -> int:
    """Keep until told to stop; gives the exit code."""
    spool = Spool(settings.node.state_dir)
    spool.check()
    node_id = spool.identity().node_id
    guard = Guard()
    queue = _open(spool, guard, settings.keep.scan_s, stop)
    if queue is None:
        return 0
    try:
        chores_queue = SqliteQueue(spool.queue_path)
        try:
            chores = Chores(settings, spool, chores_queue)
            scheduler = _schedule(settings, chores, guard)

            def complete() -> None:
                scheduler.add_job(lambda: guard.run("audit", lambda: chores.audit(datetime.now(UTC))), id="audit")

            notify.watchdog_s(settings.keep.scan_s + _WATCHDOG_S)
            notify.ready()
            log.info("keeper_started")
            try:
                _take_in(Intake(spool, queue, node_id), spool, settings.keep.scan_s, guard, stop, complete)
            finally:
                scheduler.shutdown(wait=True)
        finally:
            chores_queue.close()
    finally:
        queue.close()
        log.info("keeper_stopped")
    return 0


def _open(spool: Spool, guard: Guard, pause_s: float, stop: Stop) -> SqliteQueue | None:
    """Open the queue, however long that takes; a `BadSetting` (newer schema) ends the keeper."""
    opened: list[SqliteQueue] = []
    while not stop.is_set():
        if guard.run("open", lambda: opened.append(SqliteQueue(spool.queue_path))):
            return opened[0]
        notify.alive()
        stop.wait(pause_s)
    return None


def _schedule(settings: Settings, chores: Chores, guard: Guard) -> BackgroundScheduler:
    scheduler = BackgroundScheduler(job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None})

    def guarded(name: str, chore: Callable[[datetime], None]) -> Callable[[], object]:
        return lambda: guard.run(name, lambda: chore(datetime.now(UTC)))

    for name, seconds in _EVERY_S.items():
        scheduler.add_job(
            guarded(name, getattr(chores, name)), "interval", seconds=seconds, id=name, next_run_time=datetime.now(UTC),
        )
    hour, minute = settings.keep.summary_at.split(":")
    scheduler.add_job(guarded("summary", chores.summary), "cron", hour=hour, minute=minute, id="summary")
    scheduler.add_job(guarded("forget", chores.forget), "cron", hour=3, minute=30, id="forget")
    scheduler.start()
    return scheduler


def _take_in(
    intake: Intake, spool: Spool, scan_s: float, guard: Guard, stop: Stop, complete: Callable[[], None],
) -> None:
    """Take in until told to stop; ``complete`` is called once, when all that was there at the start has its rows."""
    watches: list[Watch] = []
    guard.run("inotify", lambda: watches.append(Watch(spool.root / "incoming")))
    next_scan = next_full = 0.0
    try:
        while not stop.is_set():
            if (now := time.monotonic()) >= next_scan:
                full = now >= next_full
                done = guard.run("scan", partial(intake.scan, full=full))
                notify.alive()
                next_scan = time.monotonic() + scan_s
                if full and done:
                    if not next_full:
                        complete()
                    next_full = now + _FULL_S
            pause = min(_TICK_S, max(0.0, next_scan - time.monotonic()))
            if not watches:
                stop.wait(pause)
            elif (found := watches[0].wait(pause)) is None:
                next_scan = 0.0
            else:
                for location in found:
                    guard.run("intake", partial(intake.one, location))
                    notify.alive()
    finally:
        for watch in watches:
            watch.close()


class Guard:
    """Runs passes that may fail; logs a failure when its reason changes, not each time."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def run(self, name: str, work: Callable[[], object]) -> bool:
        """Run one pass and say whether it came through; a `ConfigError` is the administrator's and goes through."""
        try:
            work()
        except ConfigError:
            raise
        except (DicomNodeError, OSError) as error:
            reason = error.code if isinstance(error, DicomNodeError) else errno.errorcode.get(error.errno or 0, "os_error")
            if self._reasons.get(name) != reason:
                log.error("store_failed", stage=name, reason=reason, actor="administrator")
            self._reasons[name] = reason
            return False
        except Exception as error:  # a defect in one pass must not end the others
            reason = type(error).__name__
            if self._reasons.get(name) != reason:
                log.exception("defect", stage=name)
            self._reasons[name] = reason
            return False
        self._reasons.pop(name, None)
        return True

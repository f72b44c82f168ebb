"""Intake: a row for every file of the spool.

**Way** `Intake.one` reads the header of one file and adds its row; `Intake.scan` does so for every file in incoming or
quarantine that has none. A file whose header cannot be read moves to quarantine first and gets its row then: cut between
the two, the next scan finds a file in quarantine without a row and ends the work. A row is made of a file whose name is surely
on disk. Doing anything twice changes nothing, and only the keeper does it.

**Fails** `QueueUnavailable` ends a pass, to be tried again; a file that cannot be read for now (an error of the disk) is
passed over and raised at the end of the pass, when all others have their rows.

**Limits** A file in incoming whose name is not ours is left alone; `dicomnode queue verify` names it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from dicomnode import notify
from dicomnode.errors import FileMissing, StageFailed, StoreFailed, Undecodable
from dicomnode.header import header
from dicomnode.log import get_logger
from dicomnode.queue import InstanceState, Queue
from dicomnode.records import Instance
from dicomnode.spool import Kept, Spool

#: A folder whose time stands still this long holds nothing new; the clock of a file system ticks in milliseconds.
_SETTLED_S = 5.0

log = get_logger("keep")


class Intake:
    """Reads headers, adds rows; remembers which files have one, so that a scan costs little."""

    def __init__(self, spool: Spool, queue: Queue, node_id: str) -> None:
        self._spool = spool
        self._queue = queue
        self._node_id = node_id
        #: Of the token of the Accession Number.
        self._key = spool.identity().key
        #: Hour → ids below it that have a row.
        self._known: dict[str, set[str]] = {}
        #: Hour → time of the folder when nothing below it was unknown.
        self._settled: dict[str, float] = {}

    def one(self, location: str) -> InstanceState | None:
        """Make the row of one file; None when it has one or is gone."""
        # Seen between the acceptor's rename and its fsync, the file may be gone after a cut of power; its row would stay.
        self._spool.sync_entries([location])
        return self._row(location)

    def _row(self, location: str) -> InstanceState | None:
        """As `one`, of a file that is surely on disk."""
        instance_id = location.rpartition("/")[2].removesuffix(".dcm")
        try:
            with self._spool.open(location) as stream:
                try:
                    instance = header(
                        stream, instance_id=instance_id, location=location, node_id=self._node_id, key=self._key,
                    )
                except Undecodable as error:
                    return self._set_aside(instance_id, location, error.code)
                except (OSError, StoreFailed):
                    raise
                except Exception:  # one strange file must not stop the way of all others
                    log.exception("defect", instance_id=instance_id)
                    return self._set_aside(instance_id, location, StageFailed.code)
        except FileMissing:  # moved or removed since it was listed
            return None
        state = self._queue.add(instance)
        folder, _, hour = location.rpartition("/")[0].partition("/")
        if folder == "incoming":
            self._known.setdefault(hour, set()).add(instance_id)
        if state is not None:
            _tell(instance, state)
        return state

    def _set_aside(self, instance_id: str, location: str, reason: str) -> InstanceState | None:
        if self._queue.known(instance_id):
            return None
        size = self._spool.path(location).stat().st_size
        location = self._spool.quarantine(location)
        received_at = datetime.strptime(instance_id[:21], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
        self._queue.add_unreadable(instance_id, location, size, received_at, reason)
        log.error("instance_quarantined", instance_id=instance_id, reason=reason, size_bytes=size, actor="reviewer")
        return "quarantine"

    def scan(self, *, full: bool = False) -> int:
        """Make the rows that are missing, oldest first, and give how many were made.

        Parameters
        ----------
        full
            Look into folders too that have not changed since nothing was missing there.
        """
        if full:
            self._known.clear()
            self._settled.clear()
        made, fault = 0, None
        for kept in self._missing():
            try:
                made += self._row(kept.location) is not None
                notify.alive()
            except (OSError, StoreFailed) as error:
                fault = fault or error
        if fault is not None:
            raise fault
        return made

    def _missing(self) -> Iterator[Kept]:
        hours = self._spool.hours()
        names = {name for name, _ in hours}
        self._known = {name: ids for name, ids in self._known.items() if name in names}
        rows = None if self._known else self._queue.locations()
        for name, changed in hours:
            if self._settled.get(name) == changed:
                continue
            listed = {kept.instance_id: kept for kept in self._spool.hour(name)}
            if rows is not None:
                self._known[name] = {one for one in listed if one in rows}
            known = self._known.setdefault(name, set())
            known &= listed.keys()
            missing = sorted(listed.keys() - known)
            if not missing and changed < time.time() - _SETTLED_S:
                self._settled[name] = changed
            self._spool.sync_entries(listed[instance_id].location for instance_id in missing)
            for instance_id in missing:
                yield listed[instance_id]
        # Few, and a row may have been taken away here to have its file read again: the queue is asked each time.
        aside = [kept for kept in self._spool.quarantined() if not self._queue.known(kept.instance_id)]
        self._spool.sync_entries(kept.location for kept in aside)
        yield from sorted(aside, key=lambda kept: kept.instance_id)


def _tell(instance: Instance, state: InstanceState) -> None:
    log.info(
        "instance_taken", instance_id=instance.instance_id, sop_instance_uid=instance.sop_instance_uid,
        calling_ae=instance.calling_ae, called_ae=instance.called_ae, sop_class=instance.sop_class_uid,
        modality=instance.modality, transfer_syntax=instance.transfer_syntax_uid, size_bytes=instance.size_bytes, state=state,
    )

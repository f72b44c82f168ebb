"""How deliveries end: what the queue is told of each, and what the log says.

**Way** `Settling.end` keeps what came of a try, `Settling.flush` tells the queue all of it in one transaction and writes the
lines. The lanes flush while the peer is at work on the next object, so that the wire does not wait for our disk. What was
delivered and is not yet told when this process dies is sent again, which harms nobody: the same object under the same UID.

**Fails** A queue that cannot be told raises `Transient` out of `flush`; what it was to be told is kept, and while there is such
a debt `pay` raises too: the lanes send nothing more. A claim that has ended is noted as ``lease_lost``. `Trouble` says once
what every lane meets again each second.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from dicomnode import dimse
from dicomnode.errors import LeaseLost, Transient
from dicomnode.log import get_logger
from dicomnode.queue import Owner, Queue, Settled
from dicomnode.records import Delivery, Verdict
from dicomnode.settings import SendSettings

#: The queue is told when so many have ended, or the first of them this long ago, seconds.
_MANY, _LATE_S = 16, 0.05
#: Trouble that has not been met for this long is new when it comes again, seconds.
_QUIET_S = 60.0
#: Reasons remembered so that a repeated failure is told once.
_TOLD_MAX = 10_000

log = get_logger("send")


class Trouble:
    """Tells of a queue or disk that fails when it begins and when the reason changes, not at each try."""

    def __init__(self, **facts: str) -> None:
        self._facts = facts
        self._lock = threading.Lock()
        self._reason, self._met_at = "", float("-inf")

    def tell(self, error: Transient) -> None:
        """Note that this was met."""
        now = time.monotonic()
        with self._lock:
            known = error.code == self._reason and now - self._met_at < _QUIET_S
            self._reason, self._met_at = error.code, now
        if not known:
            log.warning("store_failed", **self._facts, reason=error.code)


class Settling:
    """The ends of one destination's deliveries; for all its lanes."""

    def __init__(self, name: str, send: SendSettings, queue: Queue, owner: Owner) -> None:
        self.trouble = Trouble(destination=name)
        self._name = name
        self._send = send
        self._queue = queue
        self._owner = owner
        #: One lane tells the queue at a time; the other lock is held for a moment only.
        self._telling = threading.Lock()
        self._lock = threading.Lock()
        self._ends: list[tuple[Settled, dict[str, Any]]] = []
        self._untried: list[Delivery] = []
        self._first_at = 0.0
        #: The queue could not be told: while we live nobody else takes these claims back.
        self._in_debt = False
        self._told: dict[int, str] = {}

    def end(self, delivery: Delivery, verdict: Verdict, **facts: Any) -> None:
        """Keep what came of a delivery until the next `flush`."""
        now = datetime.now(UTC)
        due = now + timedelta(seconds=self._send.delay_s(delivery.attempt)) if verdict.outcome == "deferred" else None
        with self._lock:
            if not self._ends:
                self._first_at = time.monotonic()
            self._ends.append((Settled(delivery, verdict, now, due), facts))

    def give_back(self, *deliveries: Delivery) -> None:
        """Keep that these were not tried."""
        with self._lock:
            self._untried += deliveries

    @property
    def due(self) -> bool:
        """True when it is time to `flush`."""
        with self._lock:
            late = bool(self._ends) and time.monotonic() - self._first_at >= _LATE_S
            return not self._in_debt and (late or len(self._ends) >= _MANY or bool(self._untried))

    def pay(self) -> None:
        """Tell what could not be told before; raises when it still cannot be."""
        if self._in_debt:
            self.flush()

    def flush(self) -> None:
        """Tell the queue everything."""
        with self._telling:
            with self._lock:
                ends, self._ends = self._ends, []
                untried, self._untried = self._untried, []
            try:
                lost = self._queue.settle_all([settled for settled, _ in ends], self._owner) if ends else ()
                for settled, facts in ends:
                    self._tell(settled, facts, lost=settled.delivery in lost)
                ends = []
                while untried:
                    with suppress(LeaseLost):
                        self._queue.unclaim(untried[0], self._owner)
                    del untried[0]
            except Transient as error:
                with self._lock:
                    self._ends, self._untried, self._in_debt = ends + self._ends, untried + self._untried, True
                self.trouble.tell(error)
                raise
            self._in_debt = False

    def _tell(self, settled: Settled, facts: dict[str, Any], *, lost: bool) -> None:
        delivery, verdict = settled.delivery, settled.verdict
        whose = {
            "instance_id": delivery.instance_id, "destination": self._name, "attempt": delivery.attempt,
            "kind": delivery.kind, "result_uid": delivery.sop_instance_uid,
        }
        if lost:
            log.warning("delivery_deferred", **whose, reason=LeaseLost.code)
            return
        facts = {**whose, "dimse_status": dimse.text(verdict.status), **facts}
        if verdict.outcome == "delivered":
            self._told.pop(delivery.delivery_id, None)
            wait_ms = round((settled.at - delivery.created_at).total_seconds() * 1000 - facts.get("send_ms", 0), 1)
            # A result's UID is derived from its content; an original's is not: the archive may have another version of it.
            doubtful = delivery.kind == "original" and verdict.status == dimse.DUPLICATE_SOP_INSTANCE
            (log.warning if doubtful else log.info)("delivery_done", **facts, wait_ms=wait_ms)
        elif verdict.outcome == "refused":
            self._told.pop(delivery.delivery_id, None)
            log.error("delivery_held", **facts, reason=verdict.reason)
        elif verdict.outcome == "deferred" and self._told.get(delivery.delivery_id) != verdict.reason:
            if len(self._told) >= _TOLD_MAX:
                self._told.clear()
            self._told[delivery.delivery_id] = verdict.reason
            log.warning("delivery_deferred", **facts, reason=verdict.reason, next_attempt_at=settled.due)

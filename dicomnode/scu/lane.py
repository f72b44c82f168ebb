"""A lane: the deliveries of one destination, one association, one thread.

**Way** `Lane.step` claims a batch, keeps or opens the association that it needs, sends one after the other and settles each
with its `Verdict`. A destination that cannot be reached is *down*: its deliveries go back unattempted and one C-ECHO every
``send.probe_s`` asks for it. One that refuses us as a whole is *blocked* and asked every `BLOCKED_PROBE_S`.

**Fails** What cannot leave is refused for good, which is a hold: `ReleaseRefused`, `FileMissing`, `NoPresentationContext`,
`RefusedByPeer`. What may work later is deferred with doubling and jitter. Anything else is a defect: logged, the claims
given back, the lane goes on.

**Standard** PS3.4 Annex B.2 (Storage SCU), PS3.7 Annex C (statuses; see `dicomnode.dimse`).

**Limits** An output is sent in the transfer syntax in which it is stored; it is not transcoded for a peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from dicomnode import contexts, dimse
from dicomnode.errors import (
    AssociationRejected,
    AssociationRejectedTransient,
    DicomNodeError,
    FileMissing,
    LeaseLost,
    NoPresentationContext,
    PeerUnavailable,
    Permanent,
    ReleaseRefused,
    Transient,
)
from dicomnode.log import get_logger
from dicomnode.queue import Owner, Queue
from dicomnode.records import Delivery, Verdict
from dicomnode.roles import Stop
from dicomnode.scu.handshake import MAX_CONTEXTS, Context
from dicomnode.scu.link import Link, implicit
from dicomnode.settings import Peer, Settings
from dicomnode.spool import Spool

#: Deliveries claimed at a time.
BATCH = 16
#: Without work the queue is asked this often, seconds.
IDLE_S = 0.2
#: A destination that refuses us as a whole is asked again this often, seconds.
BLOCKED_PROBE_S = 600.0
#: Wait after a defect or a queue that cannot be asked, seconds.
TROUBLE_S = 1.0
#: Reasons remembered so that a repeated failure is told once.
_TOLD_MAX = 10_000

log = get_logger("send")

Connect = Callable[[Peer, str, "set[Context]", float], Link]


class Lane:
    """The way to one destination."""

    def __init__(
        self, name: str, settings: Settings, spool: Spool, queue: Queue, owner: Owner, stop: Stop,
        connect: Connect = Link.open,
    ) -> None:
        self.name = name
        self._settings = settings
        self._spool = spool
        self._queue = queue
        self._owner = owner
        self._stop = stop
        self._connect = connect
        self._peer = settings.peers.get(name)
        self._link: Link | None = None
        #: Contexts that deliveries of this lane have needed, newest last.
        self._known: dict[Context, None] = {}
        self._next_probe = 0.0
        self._pause_until = 0.0
        self._told: dict[int, str] = {}
        #: What the queue could not be told: while we live nobody else takes these claims back.
        self._owed: list[Callable[[], None]] = []

    def run(self) -> None:
        """Work until told to stop; the loop that survives everything."""
        while not self._stop.is_set():
            try:
                if not self.step():
                    self._stop.wait(IDLE_S)
            except Transient as error:
                log.warning("store_failed", destination=self.name, reason=error.code)
                self._stop.wait(TROUBLE_S)
            except Exception:
                log.exception("defect", destination=self.name)
                self._drop_link()
                self._stop.wait(TROUBLE_S)
        self._release()
        with suppress(Transient):  # the next sender finds them by our death
            self._pay()

    def step(self) -> bool:
        """Take and send one batch; False when there was nothing to do."""
        self._pay()
        state, _, _ = self._queue.destination_state(self.name)
        if state != "up" and self._peer is not None:
            self._probe(state)
            return False
        if time.monotonic() < self._pause_until:
            return False
        batch = self._queue.claim_deliveries(self.name, self._owner, BATCH, datetime.now(UTC))
        if not batch:
            if self._link is not None and time.monotonic() - self._link.used_at >= self._settings.send.idle_s:
                self._release()
            return False
        self._work(list(batch))
        return True

    # -- sending
    def _work(self, batch: list[Delivery]) -> None:
        """Settle every delivery of the batch, or give it back."""
        try:
            ready = [delivery for delivery in batch if self._may_leave(delivery)]
            batch[:] = ready
            while batch and not self._stop.is_set():
                try:
                    going = self._send(batch[0], ready)
                except Transient:
                    raise  # the queue cannot be asked
                except Exception:
                    # Deferred, not given back: a delivery that breaks us must not stand before all others for ever.
                    self._settle(batch[0], Verdict("deferred", "defect"))
                    raise
                if not going:
                    break
                batch.pop(0)
        finally:
            for delivery in batch:
                with suppress(LeaseLost):  # settled already
                    self._write(partial(self._queue.unclaim, delivery, self._owner))

    def _may_leave(self, delivery: Delivery) -> bool:
        """The release check: what must not leave for this peer, or is not there, goes on hold now."""
        try:
            release(delivery, self._peer)
            if not self._spool.path(delivery.location).is_file():
                raise FileMissing("the file of a delivery is not in the spool")
        except Permanent as error:
            self._settle(delivery, Verdict("refused", error.code))
            return False
        return True

    def _send(self, delivery: Delivery, batch: list[Delivery]) -> bool:
        """Send one delivery and settle it; False when the destination as a whole is the trouble."""
        context = (delivery.sop_class_uid, delivery.transfer_syntax_uid)
        try:
            link = self._linked(context, batch)
        except NoPresentationContext as error:
            self._settle(delivery, Verdict("refused", error.code))
            return True
        except AssociationRejectedTransient as error:
            self._pause_until = time.monotonic() + self._settings.send.probe_s
            self._settle(delivery, Verdict("deferred", error.code))
            return False
        except AssociationRejected as error:
            self._mark("blocked", error)
            return False
        except PeerUnavailable as error:
            self._mark("down", error)
            return False
        started = time.perf_counter()
        path = self._spool.path(delivery.location)
        try:
            size = path.stat().st_size
            verdict = link.send(path, context, size)
        except (FileNotFoundError, FileMissing):
            size, verdict = 0, Verdict("refused", FileMissing.code)
        self._settle(delivery, verdict, send_ms=round((time.perf_counter() - started) * 1000, 1), size_bytes=size)
        if verdict.outcome == "blocked":
            self._mark("blocked", AssociationRejected("the peer answered 0x0124"))
        if verdict.status is None and verdict.outcome != "refused":
            self._drop_link()
        return verdict.outcome != "blocked"

    def _linked(self, context: Context, batch: list[Delivery]) -> Link:
        """Give an association on which ``context`` was accepted."""
        for delivery in batch:
            self._remember((delivery.sop_class_uid, delivery.transfer_syntax_uid))
        if self._link is not None and (not self._link.alive or context not in self._link.proposed):
            self._release()
        if self._link is None:
            if self._peer is None:
                raise ReleaseRefused("no such peer")
            self._remember(context)
            self._link = self._open(self._peer, set(self._known))
        if not self._link.takes(context):
            raise NoPresentationContext("the peer does not take this SOP Class in this transfer syntax")
        return self._link

    def _remember(self, context: Context) -> None:
        for one in (implicit(context), context) if context[1] == contexts.EXPLICIT else (context,):
            self._known.pop(one, None)
            self._known[one] = None
        while len(self._known) > MAX_CONTEXTS:
            del self._known[next(iter(self._known))]

    # -- outcomes
    def _settle(self, delivery: Delivery, verdict: Verdict, **facts: Any) -> None:
        now = datetime.now(UTC)
        due = None
        if verdict.outcome == "deferred":
            due = now + timedelta(seconds=self._settings.send.delay_s(delivery.attempt))
        try:
            self._write(partial(self._queue.settle, delivery, self._owner, verdict, now, due))
        except LeaseLost as error:
            log.warning("delivery_deferred", **self._facts(delivery), reason=error.code)
            return
        self._tell(delivery, verdict, now, due, facts)

    def _write(self, act: Callable[[], None]) -> None:
        """Tell the queue, now or as soon as it can be told."""
        try:
            act()
        except LeaseLost:
            raise
        except Transient as error:
            self._owed.append(act)
            log.warning("store_failed", destination=self.name, reason=error.code)

    def _pay(self) -> None:
        """Tell the queue what it could not be told before; raises when it still cannot."""
        while self._owed:
            with suppress(LeaseLost):
                self._owed[0]()
            del self._owed[0]

    def _tell(self, delivery: Delivery, verdict: Verdict, now: datetime, due: datetime | None, facts: dict[str, Any]) -> None:
        facts = self._facts(delivery) | {"dimse_status": dimse.text(verdict.status)} | facts
        if verdict.outcome == "delivered":
            self._told.pop(delivery.delivery_id, None)
            wait_ms = round((now - delivery.created_at).total_seconds() * 1000 - facts.get("send_ms", 0), 1)
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
            log.warning("delivery_deferred", **facts, reason=verdict.reason, next_attempt_at=due)

    def _facts(self, delivery: Delivery) -> dict[str, Any]:
        return {
            "instance_id": delivery.instance_id, "destination": self.name, "attempt": delivery.attempt,
            "kind": delivery.kind, "result_uid": delivery.sop_instance_uid,
        }

    # -- the destination as a whole
    def _mark(self, state: str, error: DicomNodeError) -> None:
        self._drop_link()
        wait = self._settings.send.probe_s if state == "down" else BLOCKED_PROBE_S
        self._next_probe = time.monotonic() + wait
        now = datetime.now(UTC)
        if state == "down" and self._queue.set_destination(self.name, "down", error.code, now):
            log.warning("destination_down", destination=self.name, reason=error.code)
        if state == "blocked" and self._queue.set_destination(self.name, "blocked", error.code, now):
            log.error("destination_blocked", destination=self.name, reason=error.code)

    def _probe(self, state: str) -> None:
        """Ask a destination that is down or blocked whether it is up again."""
        if self._peer is None or time.monotonic() < self._next_probe:
            return
        self._drop_link()
        try:
            probe = self._open(self._peer, {(contexts.VERIFICATION, contexts.IMPLICIT)})
        except NoPresentationContext:
            pass  # it took the association, so it is there; it only does not take C-ECHO
        except AssociationRejected as error:
            self._mark("blocked", error)
            return
        except (PeerUnavailable, AssociationRejectedTransient) as error:
            self._next_probe = time.monotonic() + (self._settings.send.probe_s if state == "down" else BLOCKED_PROBE_S)
            if state == "down":
                self._mark("down", error)
            return
        else:
            answered = probe.echo()
            probe.close()
            if not answered:
                self._mark("down", PeerUnavailable("no answer to C-ECHO"))
                return
        if self._queue.set_destination(self.name, "up", "", datetime.now(UTC)):
            log.info("destination_up", destination=self.name)

    # -- the association
    def _open(self, peer: Peer, wanted: set[Context]) -> Link:
        return self._connect(peer, self._settings.node.ae_title, wanted, self._settings.send.timeout_s)

    def _release(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abort()


def release(delivery: Delivery, peer: Peer | None) -> None:
    """Let nothing with identity leave for a peer that is not inside.

    Raises
    ------
    ReleaseRefused
        There is no such peer to send to, or it is outside and the output keeps the identity of its study.
    """
    if peer is None or peer.host is None:
        raise ReleaseRefused("no peer of this name has a host")
    if delivery.identity != "removed" and peer.trust != "inside":
        raise ReleaseRefused("an output that keeps identity is for an outside peer")

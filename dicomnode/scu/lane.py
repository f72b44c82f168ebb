"""A lane: one association to a destination, one thread; a destination has as many as its peer's file says.

**Way** `Lane.step` takes the next delivery of the `Destination`, keeps or opens the association that it needs, sends it and
ends it with its `Verdict`. An association that nobody needs is released after ``send.idle_s``, at once when the window closes.
A further association that the destination refuses costs nothing: the lane leaves it to the others for ``send.probe_s``.

**Fails** What cannot leave is refused for good, which is a hold: `ReleaseRefused`, `FileMissing`, `NoPresentationContext`,
`RefusedByPeer`. What may work later is deferred with doubling and jitter. Anything else is a defect: logged, the delivery
deferred, the lane goes on. What is in hand when the sender must end, and takes longer than `DRAIN_S`, is cut off and given
back.

**Standard** PS3.4 Annex B.2 (Storage SCU), PS3.7 Annex C (statuses; see `dicomnode.dimse`).

**Limits** An output is sent in the transfer syntax in which it is stored; it is not transcoded for a peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dicomnode import contexts, dimse
from dicomnode.errors import (
    AssociationRejected,
    AssociationRejectedTransient,
    FileMissing,
    NoPresentationContext,
    PeerUnavailable,
    Permanent,
    ReleaseRefused,
    StoreFailed,
    Transient,
)
from dicomnode.log import get_logger
from dicomnode.records import Delivery, Verdict
from dicomnode.roles import Stop
from dicomnode.scu.destination import IDLE_S, Destination
from dicomnode.scu.handshake import Context
from dicomnode.scu.link import Link
from dicomnode.scu.pace import Paces
from dicomnode.settings import Peer, Settings
from dicomnode.spool import Spool

#: A C-STORE under way when the sender must end has this long; the supervisor kills a little later, seconds.
DRAIN_S = 20.0
#: Wait after a defect or a queue that cannot be asked, seconds.
TROUBLE_S = 1.0

log = get_logger("send")

Connect = Callable[[Peer, str, "set[Context]", float, Callable[[], None]], Link]


class Ended(Exception):
    """The sender must end, and what is in hand takes too long."""


class Lane:
    """One of the ways to a destination."""

    def __init__(
        self, destination: Destination, number: int, settings: Settings, spool: Spool, paces: Paces, stop: Stop,
        alive: Callable[[], None] = lambda: None, connect: Connect = Link.open,
    ) -> None:
        self._destination = destination
        self._number = number
        self._settings = settings
        self._spool = spool
        self._paces = paces
        self._stop = stop
        self._alive = alive
        self._connect = connect
        self._link: Link | None = None
        self._not_before = 0.0
        self._limited = False
        self._stopped_at: float | None = None

    def run(self) -> None:
        """Work until told to stop; the loop that survives everything."""
        name = self._destination.name
        while not self._stop.is_set():
            try:
                if not self.step():
                    self._destination.wait(IDLE_S)
            except Ended:
                break
            except Transient as error:
                self._destination.settling.trouble.tell(error)
                self._stop.wait(TROUBLE_S)
            except Exception:
                log.exception("defect", destination=name)
                self._drop_link()
                self._stop.wait(TROUBLE_S)
        with suppress(Ended):
            self._release()
        self._destination.give_back()
        with suppress(Transient):  # the next sender finds them by our death
            self._destination.settling.flush()

    def step(self) -> bool:
        """Take and send one delivery; False when there was nothing to do."""
        self._alive()
        destination = self._destination
        destination.settling.pay()
        delivery = None
        if time.monotonic() >= self._not_before:
            delivery = destination.take(self._number, linked=self._link is not None)
        if delivery is None:
            destination.settling.flush()
            self._idle()
            return False
        try:
            self._work(delivery)
        except (Ended, Transient):
            destination.settling.give_back(delivery)
            raise
        except Exception:
            # Deferred, not given back: a delivery that breaks us must not stand before all others for ever.
            destination.settling.end(delivery, Verdict("deferred", "defect"))
            raise
        return True

    def _tick(self) -> None:
        """What is done beside waiting and sending: a sign of life, the ends of other deliveries, the end of the sender."""
        self._alive()
        if self._destination.settling.due:
            with suppress(Transient):  # the next step raises it
                self._destination.settling.flush()
        if self._stop.is_set():
            self._stopped_at = self._stopped_at or time.monotonic()
            if time.monotonic() - self._stopped_at >= DRAIN_S:
                raise Ended

    # -- sending
    def _work(self, delivery: Delivery) -> None:
        """Send one delivery and end it, or say what is the matter with the destination."""
        settling = self._destination.settling
        context = (delivery.sop_class_uid, delivery.transfer_syntax_uid)
        try:
            link, path, size, peer = self._reach(delivery, context)
        except FileNotFoundError:
            settling.end(delivery, Verdict("refused", FileMissing.code))
            return
        except OSError:
            settling.end(delivery, Verdict("deferred", StoreFailed.code))
            return
        except (AssociationRejected, AssociationRejectedTransient, PeerUnavailable) as error:
            self._unreached(delivery, error)
            return
        except Permanent as error:
            settling.end(delivery, Verdict("refused", error.code))
            return
        finally:
            self._destination.reached(self._number, linked=self._link is not None)
        started = time.perf_counter()
        try:
            verdict = link.send(
                path, context, size, priority=dimse.PRIORITIES["high" if delivery.urgent else peer.priority],
                pace=self._paces.of(delivery.destination, peer, self._number, urgent=delivery.urgent),
            )
        except FileMissing as error:
            verdict = Verdict("refused", error.code)
        settling.end(delivery, verdict, send_ms=round((time.perf_counter() - started) * 1000, 1), size_bytes=size)
        if verdict.outcome == "blocked":
            self._drop_link()
            self._destination.refused(AssociationRejected("the peer answered 0x0124"))
        if not link.alive:
            self._drop_link()

    def _reach(self, delivery: Delivery, context: Context) -> tuple[Link, Path, int, Peer]:
        """Give an association that takes it, its file, how large that is, and the peer."""
        peer = release(delivery, self._destination.peer)
        path = self._spool.path(delivery.location)
        size = path.stat().st_size
        return self._linked(peer, context), path, size, peer

    def _unreached(
        self, delivery: Delivery, error: AssociationRejected | AssociationRejectedTransient | PeerUnavailable,
    ) -> None:
        """There is no association: the destination as a whole is the trouble, or it takes no more than other lanes have."""
        destination = self._destination
        if others := destination.others_linked(self._number):
            self._not_before = time.monotonic() + self._settings.send.probe_s
            destination.back(delivery)
            if not self._limited:
                self._limited = True
                log.warning("associations_limited", destination=destination.name, reason=error.code, count=others)
        elif isinstance(error, AssociationRejectedTransient):
            destination.pause()
            destination.settling.end(delivery, Verdict("deferred", error.code))
        else:
            destination.refused(error)
            destination.settling.give_back(delivery)

    def _linked(self, peer: Peer, context: Context) -> Link:
        """Give an association on which ``context`` was accepted."""
        if self._link is not None and (not self._link.alive or context not in self._link.proposed):
            self._release()
        if self._link is None:
            self._destination.remember(context)
            self._link = self._open(peer, self._destination.known())
            self._limited = False
        if not self._link.takes(context):
            raise NoPresentationContext("the peer does not take this SOP Class in this transfer syntax")
        return self._link

    # -- the rest of the time
    def _idle(self) -> None:
        link = self._link
        if link is not None:
            unused_s = time.monotonic() - link.used_at
            if not link.alive or not self._destination.open or unused_s >= self._settings.send.idle_s:
                self._release()
        if state := self._destination.begin_probe():
            try:
                self._probe(state)
            finally:
                self._destination.end_probe()

    def _probe(self, state: str) -> None:
        """Ask a destination that is down or blocked whether it is up again."""
        peer = self._destination.peer
        if peer is None:
            return
        self._drop_link()
        try:
            probe = self._open(peer, {(contexts.VERIFICATION, contexts.IMPLICIT)})
        except NoPresentationContext:
            pass  # it took the association, so it is there; it only does not take C-ECHO
        except AssociationRejected as error:
            self._destination.refused(error)
            return
        except (PeerUnavailable, AssociationRejectedTransient) as error:
            self._destination.again(state)
            if state == "down":
                self._destination.mark("down", error)
            return
        else:
            answered = probe.echo()
            probe.close()
            if not answered:
                self._destination.mark("down", PeerUnavailable("no answer to C-ECHO"))
                return
        self._destination.up()

    # -- the association
    def _open(self, peer: Peer, wanted: set[Context]) -> Link:
        return self._connect(peer, self._settings.node.ae_title, wanted, self._settings.send.timeout_s, self._tick)

    def _release(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._destination.unlinked(self._number)
            link.close()

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._destination.unlinked(self._number)
            link.abort()


def release(delivery: Delivery, peer: Peer | None) -> Peer:
    """Let nothing with identity leave for a peer that is not inside; gives the peer.

    Raises
    ------
    ReleaseRefused
        There is no such peer to send to, or it is outside and the output keeps the identity of its study.
    """
    if peer is None or peer.host is None:
        raise ReleaseRefused("no peer of this name has a host")
    if delivery.identity != "removed" and peer.trust != "inside":
        raise ReleaseRefused("an output that keeps identity is for an outside peer")
    return peer

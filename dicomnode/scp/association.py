"""The associations of this process: one is made of each connection that may come in, and all are ended together.

**Way** The listener gives every connection to `Associations.admit`, which starts the association's own thread and returns.
That thread does everything: it waits for the socket, negotiates, writes data sets to the spool, commits and answers.
`Associations.drain` lets the running ones end, then aborts them, then cuts their sockets.

**Fails** What goes wrong inside an association ends that association, not the caller of `admit`; a defect is logged, and the
peer gets an A-ABORT.

**Standard** PS3.8 7.1 and 9, PS3.4 Annexes A (Verification) and B (Storage).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from dicomnode.log import get_logger
from dicomnode.quieting import quiet
from dicomnode.scp.door import Door
from dicomnode.scp.receive import Receiver
from dicomnode.scp.session import Session, supported
from dicomnode.settings import Settings
from dicomnode.spool import Spool
from dicomnode.upper import handshake
from dicomnode.upper.command import Malformed
from dicomnode.upper.driver import Driver, Ended, Limits
from dicomnode.upper.wire import Wire

#: Running associations may end by themselves this long after the acceptor was told to stop, seconds.
DRAIN_S = 10.0
_ABORT_S = 2.0
_TICK_S = 0.05

log = get_logger("accept")


class Associations:
    """Those that run in this process."""

    def __init__(self, settings: Settings, spool: Spool, door: Door) -> None:
        quiet()
        self._settings, self._spool, self._door = settings, spool, door
        scp = settings.scp
        self._limits = Limits(scp.acse_timeout_s, scp.dimse_timeout_s, scp.network_timeout_s, scp.max_pdu_bytes)
        self._running: set[StoreAssociation] = set()
        self._lock = threading.Lock()

    def admit(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        """Make an association of an accepted connection that `Door.knock` let through, and start its thread."""
        session = Session(self._settings, self._spool, self._door, (connection, address), connection.getsockname()[:2])
        assoc = StoreAssociation(session, Driver(Wire(connection), self._limits), self._limits.max_pdu_bytes, self._ended)
        with self._lock:
            self._running.add(assoc)
        try:
            assoc.start()
        except BaseException:  # no thread is to be had
            self._ended(assoc)
            raise

    def running(self) -> list[StoreAssociation]:
        """Give those whose thread has not ended, admitted or not."""
        with self._lock:
            return list(self._running)

    def drain(self, drain_s: float | None = None) -> None:
        """Let running associations end, then abort them, then cut their sockets."""
        # Who is inside may end; who only connected is not waited for.
        _wait(self._door.count, time.monotonic() + (DRAIN_S if drain_s is None else drain_s))
        for assoc in self.running():
            assoc.wire.interrupt()
        _wait(self.running, time.monotonic() + _ABORT_S)
        for assoc in self.running():
            assoc.wire.cut()
        _wait(self.running, time.monotonic() + _ABORT_S)

    def _ended(self, assoc: StoreAssociation) -> None:
        with self._lock:
            self._running.discard(assoc)


def _wait(claim: Callable[[], object], deadline: float) -> None:
    while claim() and time.monotonic() < deadline:
        time.sleep(_TICK_S)


class StoreAssociation:
    """One association, in one thread."""

    def __init__(
        self, session: Session, driver: Driver, max_pdu_bytes: int, ended: Callable[[StoreAssociation], None],
    ) -> None:
        self._session = session
        self._driver = driver
        self._max_pdu_bytes = max_pdu_bytes
        self._told = ended
        #: To be interrupted or cut by other threads.
        self.wire = driver.wire

    def start(self) -> None:
        """Serve in a thread of its own."""
        threading.Thread(target=self._run, name=f"association {self._session.association_id}", daemon=True).start()

    def _run(self) -> None:
        how = "defect"
        receiver: Receiver | None = None
        try:
            receiver = self._establish()
            while True:
                receiver.take(self._driver.data(within=receiver.within))
        except Ended as end:
            how = end.how
        except Malformed:
            how = self._driver.malformed().how
        except Exception:  # the border of the thread: nobody else would tell the peer
            log.exception("defect", association_id=self._session.association_id)
            self._driver.abort()
        finally:
            with contextlib.ExitStack() as last:  # each of them, whatever becomes of the others
                last.callback(self._told, self)
                last.callback(self._session.gone)
                last.callback(self._driver.close)
                left = receiver.discard() if receiver is not None else 0
                self._session.ended(released=how == "released", left=left)

    def _establish(self) -> Receiver:
        request = self._driver.request()
        rejection = self._session.judge(request)
        if rejection is not None:
            raise self._driver.reject(*rejection.code)
        results = handshake.negotiate(request, supported(request.contexts))
        session = self._session
        accepted = {
            cast("int", cx.context_id): (str(cx.abstract_syntax), str(cx.transfer_syntax[0]))
            for cx in results if cx.result == 0
        }
        session.accepted(len(accepted))
        self._driver.accept(handshake.acceptance(session.calling_ae, session.called_ae, results, self._max_pdu_bytes))
        return Receiver(accepted, session, self._driver.say)

"""The acceptor: takes connections from the listening socket, lets them in by the `Door`, and drains when it is asked to stop.

**Way** `run_acceptor` → `Listener` takes connections → `Associations.admit` makes an association of each. Several acceptors
sleep in accept(2) on one socket, and the kernel wakes them in turn; one that has more connections than another gives way for
some milliseconds. On SIGTERM (``stop``) no more connections are taken, those that wait for judgement may still come in for a
moment, running associations may end for `association.DRAIN_S` seconds, then they are aborted; what was not acknowledged leaves
no file. On SIGUSR1 (`RETIRE`), for a reload, all that is open ends by itself.

**Fails** A port that cannot be listened on now is `CannotListen`, which ends the process with 1. An address or port that can
never be had as set is `BadSetting`. Both name the port. Under `serve` the supervisor has the port.

**Standard** PS3.4 Annexes A (Verification) and B (Storage), PS3.8 7.1 and 9.

**Limits** A stop is noticed within a quarter of a second.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from dicomnode import __version__, listening, notify
from dicomnode.errors import CannotListen, DicomNodeError
from dicomnode.log import get_logger
from dicomnode.roles import RETIRE, Stop, asked
from dicomnode.scp.association import Associations
from dicomnode.scp.door import Door
from dicomnode.scp.seats import Seats
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: A turn of the loop without a connection, seconds: so soon a stop is noticed. Connections wake it at once.
_TURN_S = 0.25
#: An acceptor with more connections than another leaves the next one to that for so long, seconds.
_GIVE_WAY_S = 0.005
#: Connections that wait for judgement when the acceptor is told to stop may still come in for so long, seconds.
_LAST_HANDSHAKE_S = 2.0
#: The loop turns this often at least, or the process is stuck, seconds.
_WATCHDOG_S = 20.0
#: What a flood of connections or a lack of descriptors makes us say is said this often, seconds.
_TELL_S = 10.0
#: Wait after a connection that the system could not give us, seconds: it stays in the queue, and asking costs a core.
_NO_CONNECTION_S = 0.1
#: Of tmp, at start, when its writer is not known to be dead.
_LEFTOVER_AGE = timedelta(hours=24)

log = get_logger("accept")


def run_acceptor(settings: Settings, stop: Stop, spool: Spool | None = None) -> int:
    """Accept associations until ``stop`` is set and give the exit code."""
    spool = spool or Spool(settings.node.state_dir)
    if removed := spool.sweep(_LEFTOVER_AGE, datetime.now(UTC)):
        log.info("leftovers_removed", count=removed)
    table = os.environ.pop(listening.SEATS, None)
    free_bytes = partial(spool.intake_bytes, settings.keep.holds_max_bytes)
    door = Door(settings, free_bytes, Seats(None if table is None else int(table)))
    try:
        sock = listening.handed() or listening.own(settings.node)
    except DicomNodeError as error:
        log.error("acceptor_failed", port=settings.node.port, reason=error.code, message=str(error))
        raise
    listener = Listener(sock, settings, spool, door)
    notify.watchdog_s(_WATCHDOG_S)
    notify.ready()
    log.info("acceptor_started", port=listener.port, version=__version__, config_digest=settings.digest[:12])
    try:
        listener.serve(lambda: stop.is_set() or asked(RETIRE))
        if not stop.is_set():
            listener.retire(stop)
    finally:
        notify.stopping()
        listener.drain()
        log.info("acceptor_stopped")
    return 0


class Listener:
    """The hand of this process on the listening socket."""

    def __init__(self, sock: socket.socket, settings: Settings, spool: Spool, door: Door) -> None:
        self.door = door
        self.associations = Associations(settings, spool, door)
        self.port = listening.port_of(sock)
        self._socket = sock
        # The sockets are one: what is set here is set for all acceptors, and they all set the same.
        sock.setblocking(True)
        _wake_after(sock, _TURN_S)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._turned_away, self._tell_at = 0, 0.0

    def serve(self, ended: Callable[[], bool]) -> None:
        """Take connections until it is over; then the socket is closed here."""
        try:
            while not ended():
                notify.alive()
                taken = self._next()
                if taken is not None:
                    self._admit(*taken)
        finally:
            self._socket.close()
            self.door.retire()

    def retire(self, stop: Stop) -> None:
        """Wait until all that is open has ended by itself, or ``stop`` is set."""
        while self.associations.running() and not stop.wait(_TURN_S):
            notify.alive()

    def drain(self, drain_s: float | None = None) -> None:
        """Let those come in who were here before the stop, then let all end."""
        deadline = time.monotonic() + _LAST_HANDSHAKE_S
        while drain_s is None and self.door.waiting() and time.monotonic() < deadline:
            time.sleep(_NO_CONNECTION_S)
        self.door.closed = True
        self.associations.drain(drain_s)

    def _next(self) -> tuple[socket.socket, Any] | None:
        """Wait for a connection, at most one turn; None when none came or another acceptor took it."""
        if self.door.seats.ahead():
            if not self._poll.poll(_TURN_S * 1000):
                return None
            time.sleep(_GIVE_WAY_S)
            if not self._poll.poll(0):
                return None
        try:
            return self.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                if self._may_tell():
                    log.error("acceptor_failed", port=self.port, reason=CannotListen.code, error_type=type(error).__name__)
                time.sleep(_NO_CONNECTION_S)
            return None  # otherwise the peer was gone before we came to it: accept(2), Error handling

    def accept(self) -> tuple[socket.socket, Any]:
        """Take a connection from the queue of the kernel, or raise what the system answers."""
        connection, address = self._socket.accept()
        _wake_after(connection, 0)  # it has this from the listening socket
        return connection, address

    def _admit(self, connection: socket.socket, address: Any) -> None:
        """Make an association of a connection; close it at once when too many wait for judgement already."""
        host = str(address[0])
        if not self.door.knock(connection, host):
            connection.close()
            self._turned_away += 1
            if self._may_tell():
                count, self._turned_away = self._turned_away, 0
                log.warning("association_rejected", address=host, reason="too_many_connections", count=count)
            return
        try:
            self.associations.admit(connection, address)
        except Exception as error:  # one connection must not end the loop for all
            self.door.let_go(connection)
            connection.close()
            if not isinstance(error, OSError):  # the peer is gone already
                log.exception("defect", address=host)

    def _may_tell(self) -> bool:
        due = time.monotonic() >= self._tell_at
        if due:
            self._tell_at = time.monotonic() + _TELL_S
        return due


def _wake_after(sock: socket.socket, seconds: float) -> None:
    """Have the kernel end a call that waits for this socket after so long; 0: never."""
    timeval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)

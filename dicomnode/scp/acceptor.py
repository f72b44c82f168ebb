"""The acceptor: listens, lets associations in by the `Door`, and drains when it is asked to stop.

**Way** `run_acceptor` → `Listener` takes connections → `Associations.admit` makes an association of each.
SIGTERM sets ``stop``: the port is closed, running associations may end for `association.DRAIN_S` seconds, then they are
aborted; what was not acknowledged leaves no file.

**Fails** A port that cannot be listened on now is `CannotListen`, which ends the process with 1: the supervisor starts it
again. An address or port that can never be had as set is `BadSetting`. Both name the port.

**Standard** PS3.4 Annexes A (Verification) and B (Storage), PS3.8 7.1 and 9.

**Limits** pynetdicom polls every millisecond: idle associations cost CPU.
"""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from dicomnode import __version__
from dicomnode.errors import BadSetting, CannotListen, DicomNodeError
from dicomnode.log import get_logger
from dicomnode.roles import Stop
from dicomnode.scp.association import Associations
from dicomnode.scp.door import Door
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: The listening socket is looked at for a stop this often, seconds; connections wake it at once.
_POLL_S = 0.25
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
    door = Door(settings, partial(spool.intake_bytes, settings.keep.holds_max_bytes))
    try:
        listener = listen(settings, spool, door)
    except DicomNodeError as error:
        log.error("acceptor_failed", port=settings.node.port, reason=error.code, message=str(error))
        raise
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": _POLL_S}, name="listener", daemon=True)
    thread.start()
    log.info("acceptor_started", port=settings.node.port, version=__version__, config_digest=settings.digest[:12])
    try:
        stop.wait()
    finally:
        door.closed = True
        listener.shutdown()
        thread.join()
        listener.associations.drain()
        log.info("acceptor_stopped")
    return 0


def listen(settings: Settings, spool: Spool, door: Door) -> Listener:
    """Bind the port.

    Raises
    ------
    BadSetting
        We may not have this port, or the address is none.
    CannotListen
        It cannot be had now.
    """
    try:
        return Listener(settings, spool, door)
    except OSError as error:
        raise _no_port(settings, error) from None


def _no_port(settings: Settings, error: OSError) -> DicomNodeError:
    """What it means that the port could not be had."""
    port = settings.node.port
    where = f"cannot listen on {settings.node.bind}:{port} ({error.strerror})"
    if error.errno in (errno.EACCES, errno.EPERM):
        return BadSetting(
            f"node.port: {where}; ports below 1024 need a privilege: set one of 1024 or above (11112 is registered for DICOM), "
            "or give the process CAP_NET_BIND_SERVICE"
        )
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return BadSetting(f"node.bind: {where}")
    if error.errno == errno.EADDRINUSE:
        return CannotListen(f"node.port: {where}; another program has the port: `ss -ltnp 'sport = :{port}'` shows which")
    return CannotListen(f"node.port: {where}")


class Listener(socketserver.TCPServer):
    """The listening socket of the node."""

    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, settings: Settings, spool: Spool, door: Door) -> None:
        self.door = door
        self.associations = Associations(settings, spool, door)
        self._turned_away, self._tell_at = 0, 0.0
        address = settings.node.bind, settings.node.port
        self.address_family = socket.AF_INET6 if ":" in settings.node.bind else socket.AF_INET
        super().__init__(address, socketserver.BaseRequestHandler)

    @property
    def port(self) -> int:
        """The port that we listen on."""
        return int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection; one that the system cannot give us now is told of, and not asked for without a pause."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                if self._may_tell():
                    log.error("acceptor_failed", port=self.port, reason=CannotListen.code, error_type=type(error).__name__)
                time.sleep(_NO_CONNECTION_S)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Close a connection at once when too many wait for judgement already."""
        if self.door.knock(request, str(client_address[0])):
            return True
        self._turned_away += 1
        if self._may_tell():
            count, self._turned_away = self._turned_away, 0
            log.warning("association_rejected", address=str(client_address[0]), reason="too_many_connections", count=count)
        return False

    def _may_tell(self) -> bool:
        due = time.monotonic() >= self._tell_at
        if due:
            self._tell_at = time.monotonic() + _TELL_S
        return due

    def process_request(self, request: Any, client_address: Any) -> None:
        """Make an association of a connection."""
        self.associations.admit(request, client_address)

    def shutdown(self) -> None:
        """Stop `serve_forever` and close the port."""
        super().shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection did to us instead of printing it."""
        self.door.let_go(request)
        log.error("defect", address=str(client_address[0]), exc_info=True)  # noqa: LOG014 - socketserver calls from its handler

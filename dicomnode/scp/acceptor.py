"""The acceptor: listens, lets associations in by the `Door`, and drains when it is asked to stop.

**Way** `run_acceptor` → `Listener` takes connections → `StoreAssociation` (one thread pair of pynetdicom) with its `Session`.
SIGTERM sets ``stop``: the port is closed, running associations may end for `DRAIN_S` seconds, then they are aborted; what was
not acknowledged leaves no file.

**Fails** A port that cannot be listened on now is `CannotListen`, which ends the process with 1: the supervisor starts it
again. An address or port that can never be had as set is `BadSetting`. Both name the port.

**Standard** PS3.4 Annexes A (Verification) and B (Storage), PS3.8 7.1 and 9.

**Limits** pynetdicom polls every millisecond: idle associations cost CPU.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from pydicom._uid_dict import UID_dictionary
from pynetdicom import AE, _config, evt, register_uid
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicomnode import __version__, contexts
from dicomnode.errors import BadSetting, CannotListen, DicomNodeError
from dicomnode.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.log import get_logger
from dicomnode.quieting import quiet
from dicomnode.roles import Stop
from dicomnode.scp.door import Door
from dicomnode.scp.receive import StoreDimse
from dicomnode.scp.session import Session
from dicomnode.scp.wire import Machine, Wire
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: Running associations may end by themselves this long after the acceptor was told to stop, seconds.
DRAIN_S = 10.0
_ABORT_S = 2.0
_TICK_S = 0.05
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
    door = Door(settings, spool.free_bytes)
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
        drain(listener)
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
    _config.LOG_HANDLER_LEVEL = "none"  # it would decode and print every PDU
    quiet()
    known()
    scp = settings.scp
    ae = AE(ae_title=settings.node.ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = scp.max_pdu_bytes
    ae.acse_timeout, ae.dimse_timeout, ae.network_timeout = scp.acse_timeout_s, scp.dimse_timeout_s, scp.network_timeout_s
    # The door counts by itself; a silent connection is none of pynetdicom's associations.
    ae.maximum_associations = scp.max_associations * 100
    try:
        return Listener(ae, settings, spool, door)
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


def drain(listener: Listener, drain_s: float | None = None) -> None:
    """Let running associations end, then abort them, then cut their sockets."""
    # Who is inside may end; who only connected is not waited for.
    _wait(listener.door.count, time.monotonic() + (DRAIN_S if drain_s is None else drain_s))
    for assoc in listener.active_associations:
        assoc.abort(block=False)
    _wait(lambda: listener.active_associations, time.monotonic() + _ABORT_S)
    for assoc in listener.active_associations:
        with contextlib.suppress(Exception):  # whatever state its threads left it in
            cast("Wire", assoc.dul.socket)._shutdown_socket()  # noqa: SLF001 - see dicomnode.scp.wire, Limits
    _wait(lambda: listener.active_associations, time.monotonic() + _ABORT_S)


def _wait(claim: Callable[[], object], deadline: float) -> None:
    while claim() and time.monotonic() < deadline:
        time.sleep(_TICK_S)


def known() -> None:
    """Tell pynetdicom of the retired Storage SOP Classes that it has no service for."""
    for uid in contexts.storage_classes():
        if uid_to_service_class(uid) is ServiceClass:
            keyword = UID_dictionary[uid][4] or f"Storage{uid.replace('.', '_')}"
            register_uid(uid, keyword, StorageServiceClass)


class StoreAssociation(Association):
    """An association whose data sets go to the spool and whose end is always noticed."""

    def __init__(self, ae: AE, session: Session) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self.session = session
        self.dimse = StoreDimse(self, session.open)
        self.dul.state_machine = Machine(self.dul)

    def run(self) -> None:
        """Run until released, aborted or broken."""
        try:
            super().run()
        finally:
            self.session.ended(self)
            cast("Wire", self.dul.socket)._shutdown_socket()  # noqa: SLF001 - see dicomnode.scp.wire, Limits


class _Handler(RequestHandler):
    """Makes a `StoreAssociation` of a connection, as pynetdicom's own handler makes an Association."""

    def _create_association(self) -> StoreAssociation:
        server = cast("Listener", self.server)
        connection = self.request, self.client_address
        session = Session(server.settings, server.spool, server.door, connection, self.local.as_tuple[:2])
        assoc = StoreAssociation(self.ae, session)
        assoc._server = server  # noqa: SLF001
        assoc.name = f"AcceptorThread@{session.association_id}"  # pynetdicom finds associations by this name
        scp = server.settings.scp
        assoc.set_socket(Wire(
            assoc, self.request, max_pdu_bytes=scp.max_pdu_bytes, timeout_s=scp.dimse_timeout_s, handshake_s=scp.acse_timeout_s,
        ))
        acceptor, requestor = assoc.acceptor, assoc.requestor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        # Until `Session.requested` has judged, nothing but C-ECHO: an error there must not open the door.
        acceptor.supported_contexts = [build_context(contexts.VERIFICATION, contexts.IMPLICIT)]
        requestor.address_info = self.remote
        assoc.bind(evt.EVT_REQUESTED, session.requested)
        assoc.bind(evt.EVT_ACCEPTED, session.accepted)
        assoc.bind(evt.EVT_CONN_CLOSE, session.closed)
        assoc.bind(evt.EVT_C_STORE, session.store)
        return assoc


class Listener(ThreadedAssociationServer):
    """The listening socket of the node."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, ae: AE, settings: Settings, spool: Spool, door: Door) -> None:
        self.settings, self.spool, self.door = settings, spool, door
        self._turned_away, self._tell_at = 0, 0.0
        address = settings.node.bind, settings.node.port
        ae._servers.append(self)  # noqa: SLF001 - `shutdown` takes it out again
        super().__init__(
            ae, address, settings.node.ae_title, [build_context(contexts.VERIFICATION)], request_handler=_Handler,
        )

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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection did to us instead of printing it."""
        self.door.let_go(request)
        log.error("defect", address=str(client_address[0]), exc_info=True)  # noqa: LOG014 - socketserver calls from its handler

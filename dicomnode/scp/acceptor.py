"""The acceptor: listens, lets associations in by the `Door`, and drains when it is asked to stop.

**Way** `run_acceptor` → `Listener` takes connections → `StoreAssociation` (one thread pair of pynetdicom) with its `Session`.
SIGTERM sets ``stop``: the port is closed, running associations may end for `DRAIN_S` seconds, then they are aborted; what was
not acknowledged leaves no file.

**Fails** A port that cannot be listened on is `BadSetting` naming it.

**Standard** PS3.4 Annexes A (Verification) and B (Storage), PS3.8 7.1 and 9.

**Limits** pynetdicom polls every millisecond: idle associations cost CPU.
"""

from __future__ import annotations

import contextlib
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
from dicomnode.errors import BadSetting
from dicomnode.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.log import get_logger
from dicomnode.quieting import quiet
from dicomnode.roles import Stop
from dicomnode.scp.door import Door
from dicomnode.scp.receive import StoreDimse, Wire
from dicomnode.scp.session import Session
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: Running associations may end by themselves this long after the acceptor was told to stop, seconds.
DRAIN_S = 10.0
_ABORT_S = 2.0
_TICK_S = 0.05
#: The listening socket is looked at for a stop this often, seconds; connections wake it at once.
_POLL_S = 0.25
#: Of tmp, at start, when its writer is not known to be dead.
_LEFTOVER_AGE = timedelta(hours=24)

log = get_logger("accept")


def run_acceptor(settings: Settings, stop: Stop, spool: Spool | None = None) -> int:
    """Accept associations until ``stop`` is set and give the exit code."""
    spool = spool or Spool(settings.node.state_dir)
    if removed := spool.sweep(_LEFTOVER_AGE, datetime.now(UTC)):
        log.info("leftovers_removed", count=removed)
    door = Door(settings, spool.free_bytes)
    listener = listen(settings, spool, door)
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
    """Bind the port; raises `BadSetting` when that cannot be done."""
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
        where = f"{settings.node.bind}:{settings.node.port}"
        raise BadSetting(f"node.port: cannot listen on {where} ({error.strerror})") from None


def drain(listener: Listener, drain_s: float | None = None) -> None:
    """Let running associations end, then abort them, then cut their sockets."""
    # Who is inside may end; who only connected is not waited for.
    _wait(listener.door.count, time.monotonic() + (DRAIN_S if drain_s is None else drain_s))
    for assoc in listener.active_associations:
        assoc.abort(block=False)
    _wait(lambda: listener.active_associations, time.monotonic() + _ABORT_S)
    for assoc in listener.active_associations:
        with contextlib.suppress(Exception):  # whatever state its threads left it in
            cast("Wire", assoc.dul.socket)._shutdown_socket()  # noqa: SLF001 - see dicomnode.scp.receive, Limits
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

    def run(self) -> None:
        """Run until released, aborted or broken."""
        try:
            super().run()
        finally:
            self.session.ended(self)


class _Handler(RequestHandler):
    """Makes a `StoreAssociation` of a connection, as pynetdicom's own handler makes an Association."""

    def _create_association(self) -> StoreAssociation:
        server = cast("Listener", self.server)
        session = Session(server.settings, server.spool, server.door, str(self.client_address[0]), self.local.as_tuple[:2])
        assoc = StoreAssociation(self.ae, session)
        assoc._server = server  # noqa: SLF001
        assoc.name = f"AcceptorThread@{session.association_id}"  # pynetdicom finds associations by this name
        scp = server.settings.scp
        assoc.set_socket(Wire(assoc, self.request, max_pdu_bytes=scp.max_pdu_bytes, timeout_s=scp.dimse_timeout_s))
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
        address = settings.node.bind, settings.node.port
        ae._servers.append(self)  # noqa: SLF001 - `shutdown` takes it out again
        super().__init__(
            ae, address, settings.node.ae_title, [build_context(contexts.VERIFICATION)], request_handler=_Handler,
        )

    @property
    def port(self) -> int:
        """The port that we listen on."""
        return int(self.server_address[1])

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:  # noqa: ARG002
        """Log what a connection did to us instead of printing it."""
        log.error("defect", address=str(client_address[0]), exc_info=True)  # noqa: LOG014 - socketserver calls from its handler

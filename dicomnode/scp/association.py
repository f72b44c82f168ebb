"""The associations of this process: one is made of each connection that may come in, and all are ended together.

**Way** The listener gives every connection to `Associations.admit`, which starts the association's own thread and returns.
`Associations.drain` lets the running ones end, then aborts them, then cuts their sockets.

**Fails** What goes wrong inside an association ends that association, not the caller of `admit`.

**Standard** PS3.8 7.1 and 9.

**Limits** Written against pynetdicom 3.0.4, which pyproject.toml pins.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from pydicom._uid_dict import UID_dictionary
from pynetdicom import AE, _config, evt, register_uid
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AddressInformation

from dicomnode import contexts
from dicomnode.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.quieting import quiet
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


class Associations:
    """Those that run in this process."""

    def __init__(self, settings: Settings, spool: Spool, door: Door) -> None:
        _config.LOG_HANDLER_LEVEL = "none"  # it would decode and print every PDU
        quiet()
        known()
        self._settings, self._spool, self._door = settings, spool, door
        scp = settings.scp
        ae = AE(ae_title=settings.node.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_pdu_size = scp.max_pdu_bytes
        ae.acse_timeout, ae.dimse_timeout, ae.network_timeout = scp.acse_timeout_s, scp.dimse_timeout_s, scp.network_timeout_s
        # The door counts by itself; a silent connection is none of pynetdicom's associations.
        ae.maximum_associations = scp.max_associations * 100
        self._ae = ae
        self._running: set[StoreAssociation] = set()
        self._lock = threading.Lock()

    def admit(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        """Make an association of an accepted connection that `Door.knock` let through, and start its thread."""
        local = AddressInformation.from_tuple(connection.getsockname())
        session = Session(self._settings, self._spool, self._door, (connection, address), local.as_tuple[:2])
        assoc = StoreAssociation(self._ae, session, self._ended)
        assoc.name = f"association {session.association_id}"
        scp = self._settings.scp
        assoc.set_socket(Wire(
            assoc, connection, max_pdu_bytes=scp.max_pdu_bytes, timeout_s=scp.dimse_timeout_s, handshake_s=scp.acse_timeout_s,
        ))
        acceptor, requestor = assoc.acceptor, assoc.requestor
        acceptor.maximum_length = self._ae.maximum_pdu_size
        acceptor.ae_title = self._settings.node.ae_title
        acceptor.address_info = local
        acceptor.implementation_class_uid = self._ae.implementation_class_uid
        acceptor.implementation_version_name = self._ae.implementation_version_name
        # Until `Session.requested` has judged, nothing but C-ECHO: an error there must not open the door.
        acceptor.supported_contexts = [build_context(contexts.VERIFICATION, contexts.IMPLICIT)]
        requestor.address_info = AddressInformation.from_tuple(cast("tuple[str, int]", address))
        assoc.bind(evt.EVT_REQUESTED, session.requested)
        assoc.bind(evt.EVT_ACCEPTED, session.accepted)
        assoc.bind(evt.EVT_CONN_CLOSE, session.closed)
        assoc.bind(evt.EVT_C_STORE, session.store)
        with self._lock:
            self._running.add(assoc)
        assoc.start()

    def running(self) -> list[StoreAssociation]:
        """Give those whose thread has not ended, admitted or not."""
        with self._lock:
            return list(self._running)

    def drain(self, drain_s: float | None = None) -> None:
        """Let running associations end, then abort them, then cut their sockets."""
        # Who is inside may end; who only connected is not waited for.
        _wait(self._door.count, time.monotonic() + (DRAIN_S if drain_s is None else drain_s))
        for assoc in self.running():
            assoc.abort(block=False)
        _wait(self.running, time.monotonic() + _ABORT_S)
        for assoc in self.running():
            with contextlib.suppress(Exception):  # whatever state its threads left it in
                cast("Wire", assoc.dul.socket)._shutdown_socket()  # noqa: SLF001 - see dicomnode.scp.wire, Limits
        _wait(self.running, time.monotonic() + _ABORT_S)

    def _ended(self, assoc: StoreAssociation) -> None:
        with self._lock:
            self._running.discard(assoc)


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

    def __init__(self, ae: AE, session: Session, ended: Callable[[StoreAssociation], None]) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self.session = session
        self._told = ended
        self.dimse = StoreDimse(self, session.open)
        self.dul.state_machine = Machine(self.dul)

    def run(self) -> None:
        """Run until released, aborted or broken."""
        try:
            super().run()
        finally:
            self.session.ended(self)
            cast("Wire", self.dul.socket)._shutdown_socket()  # noqa: SLF001 - see dicomnode.scp.wire, Limits
            self._told(self)

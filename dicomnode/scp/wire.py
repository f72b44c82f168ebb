"""The socket of an accepted association: what a peer sends costs no more memory and time than is agreed.

**Way** `Wire.recv` reads into a buffer that grows with the bytes that came, never to a length that was only claimed, and
acknowledges at once. `Wire.ready` is False while `StoreDimse` has enough unanswered requests. `Machine` drops what we would
still say to a peer that was cut off meanwhile, of which pynetdicom's own ends its thread with an error.

**Fails** A PDU longer than agreed, or not whole in time, is an `OSError`; pynetdicom takes that for a closed connection.

**Standard** PS3.8 9.1.4 (ARTIM timer), 9.3.1.

**Limits** Written against pynetdicom 3.0.4, which pyproject.toml pins. A PDU must be whole within the DIMSE timeout, the
association request within the ACSE timeout of the connection, however its bytes come; a peer that stalls between PDUs is cut
off after the network timeout.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import time
from typing import Any, cast

from pynetdicom.fsm import TRANSITION_TABLE, StateMachine
from pynetdicom.transport import AssociationSocket

from dicomnode.scp.receive import StoreDimse

#: Of any PDU before the association is accepted: 128 contexts with every transfer syntax of the standard stay below.
_ASSOCIATE_MAX_BYTES = 256 << 10
_FIRST_BUFFER_BYTES = 16 << 10
_HEADER_BYTES = 6
#: States of pynetdicom's machine in which the peer has not been let in, or has been told to go (PS3.8 9.2).
_OUTSIDE = frozenset({"Sta1", "Sta2", "Sta3", "Sta13"})

#: Events of primitives that wait in the queue to the peer: association and release responses, P-DATA, abort.
_OURS = frozenset({"Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})


class Wire(AssociationSocket):
    """The socket of an association."""

    def __init__(
        self, assoc: Any, client_socket: socket.socket, *, max_pdu_bytes: int, timeout_s: float, handshake_s: float,
    ) -> None:
        client_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client_socket.settimeout(timeout_s)
        super().__init__(assoc, client_socket=client_socket)
        self._longest = max(max_pdu_bytes + 6, _ASSOCIATE_MAX_BYTES)
        self._timeout_s, self._handshake_s = timeout_s, handshake_s
        self._asked_by = time.monotonic() + handshake_s
        #: When the PDU that is being read must be whole, and whether its header is behind us.
        self._whole_by = 0.0
        self._in_body = False

    @property
    def ready(self) -> bool:
        """True when there is something to read and the peer does not owe us its patience."""
        return not cast("StoreDimse", self.assoc.dimse).full and super().ready

    def _shutdown_socket(self) -> None:
        """Shut down and close, in any case: pynetdicom leaves a socket open whose peer was faster."""
        sock = self.socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def recv(self, nr_bytes: int) -> bytearray:
        """Read a PDU's header of six bytes, or exactly the rest of it; fewer bytes when the peer closed.

        Raises
        ------
        OSError
            The PDU is longer than agreed, or was not whole in time.
        """
        sock = self.socket
        if sock is None:
            raise OSError("the socket is closed")
        outside = self.assoc.dul.state_machine.current_state in _OUTSIDE
        if nr_bytes > (_ASSOCIATE_MAX_BYTES if outside else self._longest):
            raise OSError("a PDU is longer than agreed")
        if not self._in_body:
            self._whole_by = time.monotonic() + (self._handshake_s if outside else self._timeout_s)
            if not self.assoc.requestor.primitive:
                self._whole_by = min(self._whole_by, self._asked_by)
        # A sender with Nagle's algorithm waits for our acknowledgement before its next small segment.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            data = _read(sock, nr_bytes, self._whole_by)
        finally:
            sock.settimeout(self._timeout_s)
        self._in_body = not self._in_body and len(data) == _HEADER_BYTES
        return data


class Machine(StateMachine):
    """The state machine of an accepted association."""

    def do_action(self, event: str) -> None:
        """Act on an event; a primitive of ours that comes too late for the state is dropped."""
        if event in _OURS and (event, self.current_state) not in TRANSITION_TABLE:
            # pynetdicom tells of the same primitive twice when another event came between: it is gone then.
            with contextlib.suppress(queue.Empty):
                self.dul.to_provider_queue.get(block=False)
            return
        super().do_action(event)


def _read(sock: socket.socket, nr_bytes: int, deadline: float) -> bytearray:
    """Read ``nr_bytes``, or up to the end of the stream, into a buffer that is at most twice as long as what came."""
    data, have = bytearray(min(nr_bytes, _FIRST_BUFFER_BYTES)), 0
    while have < nr_bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("a PDU was not whole in time")
        sock.settimeout(left)
        count = sock.recv_into(memoryview(data)[have:])
        if not count:
            break
        have += count
        if have == len(data):
            data.extend(bytes(min(have, nr_bytes - have)))
    del data[have:]
    return data

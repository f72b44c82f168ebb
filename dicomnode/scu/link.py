"""One association to a peer, from the requestor's side: the one place that reaches into pynetdicom for sending.

**Way** `Link.open` proposes exactly the presentation contexts that it is given, each with one transfer syntax; `Link.send`
streams the data set of a file as it is stored; only for a peer that takes Implicit VR Little Endian alone an Explicit one is
encoded anew, its values untouched. `Link.close` releases. After anything but an orderly answer
the association is aborted and never used again.

**Fails** `PeerUnavailable` (no connection, or no answer to the request), `AssociationRejectedTransient`,
`AssociationRejected` (PS3.8 Table 9-21, result 2 and 1), `FileMissing`. A send without a response gives a `Verdict` of
`NoStatus`.

**Standard** PS3.7 9.1.1 (C-STORE), 9.1.5 (C-ECHO), PS3.8 7.1.

**Limits** Written against pynetdicom 3.0.4, which queues all fragments of a file before they are written to the socket.
A peer behind a link slower than `SLOWEST_BYTES_S` counts as silent. What is encoded anew is whole in memory, so files above
`ANEW_MAX_BYTES` are refused there.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, _config, evt
from pynetdicom.presentation import build_context

from dicomnode import contexts, dimse
from dicomnode.errors import (
    AssociationRejected,
    AssociationRejectedTransient,
    FileMissing,
    NoPresentationContext,
    NoStatus,
    PeerUnavailable,
    Undecodable,
)
from dicomnode.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.quieting import quiet
from dicomnode.records import Verdict
from dicomnode.settings import Peer

#: SOP Class UID and transfer syntax UID.
Context = tuple[str, str]
#: PS3.8 9.3.2.2: presentation context ids are the odd numbers of one byte.
MAX_CONTEXTS = 128
#: The wait for a response grows with the data set: it is in the socket's queue for a while.
SLOWEST_BYTES_S = 250_000
#: Largest file that is encoded anew in Implicit VR.
ANEW_MAX_BYTES = 256 << 20
_MAX_PDU_BYTES = 131072
_PERMANENT = 1

_config.STORE_SEND_CHUNKED_DATASET = True
_config.LOG_HANDLER_LEVEL = "none"


class Link:
    """An established association; used by one thread."""

    def __init__(self, assoc: Any, sockets: list[socket.socket], proposed: frozenset[Context], timeout_s: float) -> None:
        self._assoc = assoc
        self._sockets = sockets
        self._timeout_s = timeout_s
        self._message_id = 0
        #: What was asked for; what is in here and not in ``accepted`` was refused by the peer.
        self.proposed = proposed
        self.accepted = frozenset(
            (str(cx.abstract_syntax), str(syntax)) for cx in assoc.accepted_contexts for syntax in cx.transfer_syntax
        )
        self.used_at = time.monotonic()

    @classmethod
    def open(cls, peer: Peer, calling_ae: str, wanted: Iterable[Context], timeout_s: float) -> Link:
        """Request an association.

        Raises
        ------
        PeerUnavailable, AssociationRejectedTransient, AssociationRejected
            The peer could not be reached, or said no.
        NoPresentationContext
            The peer accepted the association and none of the contexts.
        """
        quiet()
        proposed = frozenset(wanted)
        ae = AE(ae_title=calling_ae)
        ae.implementation_class_uid, ae.implementation_version_name = IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = timeout_s
        ae.network_timeout = None  # the lane decides how long an association is kept

        sockets: list[socket.socket] = []

        def connected(event: Any) -> None:
            sock = event.assoc.dul.socket.socket
            sockets.append(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(timeout_s)  # a peer that stalls inside a PDU

        try:
            assoc = ae.associate(
                cast("str", peer.host), cast("int", peer.port),
                contexts=[build_context(sop_class, syntax) for sop_class, syntax in sorted(proposed)],
                ae_title=peer.ae_title, max_pdu=_MAX_PDU_BYTES, evt_handlers=[(evt.EVT_CONN_OPEN, connected)],
            )
        except OSError as error:  # the name of the host is not known
            raise PeerUnavailable(f"the peer's host cannot be found ({type(error).__name__})") from None
        if not assoc.is_established:
            _end(assoc, sockets)
            raise _failure(assoc)
        _responses_are_ours(assoc)
        return cls(assoc, sockets, proposed, timeout_s)

    @property
    def alive(self) -> bool:
        """True while the association can be used."""
        return bool(self._assoc.is_established)

    def takes(self, context: Context) -> bool:
        """Say whether the peer accepted this context, or Implicit VR for an Explicit VR Little Endian one."""
        return context in self.accepted or (context[1] == contexts.EXPLICIT and implicit(context) in self.accepted)

    def send(self, path: Path, context: Context, size_bytes: int = 0) -> Verdict:
        """Send one Part 10 file of this context by C-STORE and say what came of it."""
        if not self.alive:
            return Verdict("deferred", NoStatus.code)
        self._message_id = self._message_id % 0xFFFF + 1
        self._assoc.dimse_timeout = self._timeout_s + size_bytes / SLOWEST_BYTES_S
        anew = context not in self.accepted
        if anew and size_bytes > ANEW_MAX_BYTES:
            return Verdict("refused", NoPresentationContext.code)
        try:
            response = self._assoc.send_c_store(dcmread(path) if anew else path, msg_id=self._message_id)
        except FileNotFoundError:
            raise FileMissing("the file of a delivery is not in the spool") from None
        except (AttributeError, InvalidDicomError):  # nothing was sent: there is no usable file meta
            return Verdict("refused", Undecodable.code)
        except ValueError:  # nothing was sent: the file meta names another context than the row
            return Verdict("refused", NoPresentationContext.code)
        except RuntimeError:  # it ended between our look and the send
            return Verdict("deferred", NoStatus.code)
        self.used_at = time.monotonic()
        status = response.get("Status")
        if status is None:
            self.abort()
        return dimse.classify(status)

    def echo(self) -> bool:
        """Ask by C-ECHO; True for success."""
        if not self.alive or not any(sop_class == contexts.VERIFICATION for sop_class, _ in self.accepted):
            return False
        self._message_id = self._message_id % 0xFFFF + 1
        self._assoc.dimse_timeout = self._timeout_s
        with contextlib.suppress(RuntimeError):
            return bool(self._assoc.send_c_echo(msg_id=self._message_id).get("Status") == dimse.SUCCESS)
        return False

    def close(self) -> None:
        """Release the association, or abort it when it is not in order."""
        if self.alive:
            self._assoc.release()
        self.abort()

    def abort(self) -> None:
        """End the association at once; one that was released only lets go of its socket and threads."""
        _end(self._assoc, self._sockets)


def implicit(context: Context) -> Context:
    """The same SOP Class in Implicit VR Little Endian, which every DICOM application must take (PS3.5 section 10.1)."""
    return context[0], contexts.IMPLICIT


def _responses_are_ours(assoc: Any) -> None:
    """Let only who waits for a response take messages.

    pynetdicom's own thread of the association looks for requests of the peer, of which there are none here. It is told to
    pause while a response is awaited, but may have passed that point: then it takes the response and drops it.
    """
    get_msg = assoc.dimse.get_msg
    assoc.dimse.get_msg = lambda block=False: get_msg(block=True) if block else (None, None)


def _end(assoc: Any, sockets: list[socket.socket]) -> None:
    """Stop the association's threads and close its socket, which pynetdicom leaves open when the peer was faster."""
    if not assoc.is_released and assoc.dul.is_alive():
        assoc.abort()
    for sock in sockets:
        sock.close()


def _failure(assoc: Any) -> Exception:
    """What an association that was not established means."""
    answer = assoc.acceptor.primitive
    if assoc.is_rejected and answer is not None:
        text = f"result {answer.result}, source {answer.result_source}, reason {answer.diagnostic}"
        if answer.result == _PERMANENT:
            return AssociationRejected(f"the peer rejected the association for good: {text}")
        return AssociationRejectedTransient(f"the peer rejected the association for now: {text}")
    if answer is not None and answer.result == 0:
        return NoPresentationContext("the peer accepted the association and no presentation context")
    return PeerUnavailable("the peer does not answer at its address")

"""One accepted association: who is there, what came, and the answer to each C-STORE.

**Way** `Session` is made with the connection. `Session.requested` judges the request, `open` starts the file of a data set,
`store` answers a C-STORE after `Spool.commit`, `ended` deletes what is left and writes the last line of the log.

**Fails** A `Refused` becomes its status and keeps nothing. Anything else is a defect: logged, answered 0x0110, nothing kept.

**Standard** PS3.4 Annex B.2.3 and Table B.2-1, PS3.7 Annex C.5 (0x0110).
"""

from __future__ import annotations

import secrets
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext

from dicomnode import contexts, dimse
from dicomnode.errors import CannotUnderstand, DatasetMismatch, OutOfResources, Refused
from dicomnode.header import Sender, file_meta, peek
from dicomnode.log import get_logger
from dicomnode.scp.door import Door
from dicomnode.scp.receive import Incoming, is_uid
from dicomnode.settings import Settings
from dicomnode.spool import Spool, new_id

log = get_logger("accept")


class Session:
    """The node's side of one association; methods are called by the association's own threads."""

    def __init__(self, settings: Settings, spool: Spool, door: Door, connection: Any, local: tuple[str, int]) -> None:
        self.association_id = f"a-{secrets.token_hex(6)}"
        self._settings = settings
        self._spool = spool
        self._door = door
        #: What the door knows this connection by.
        self._connection, peer = connection
        self._address = str(peer[0])
        self._local = local
        self._calling_ae = self._called_ae = ""
        self._asked = self._accepted = False
        self._lock = threading.Lock()
        self._closed = False
        self._received = self._refused = 0
        self._started = time.perf_counter()

    # -- coming in
    def requested(self, event: Any) -> None:
        """Judge an A-ASSOCIATE-RQ: reject it, or say what we support of what it proposes."""
        self._asked = True
        judged = False
        try:
            self._judge(event.assoc)
            judged = True
        finally:
            if not judged:  # pynetdicom passes over the error and goes on: nothing but C-ECHO is accepted then
                log.error("defect", association_id=self.association_id, exc_info=sys.exc_info())

    def _judge(self, assoc: Any) -> None:
        request = assoc.requestor.primitive
        self._calling_ae, self._called_ae = _ae_title(request.calling_ae_title), _ae_title(request.called_ae_title)
        rejection = self._door.judge(self.association_id, self._calling_ae, self._called_ae, self._address)
        if rejection is not None:
            log.warning("association_rejected", **self._who(), reason=rejection.reason)
            assoc.acse.send_reject(*rejection.code)
            assoc.kill()
            return
        self._door.let_go(self._connection)
        assoc.acceptor.supported_contexts = supported(request.presentation_context_definition_list)

    def accepted(self, event: Any) -> None:
        """Note what was negotiated."""
        self._accepted = True
        log.info("association_accepted", **self._who(), count=len(event.assoc.accepted_contexts))

    def closed(self, event: Any) -> None:
        """Wake the association's thread when the connection ends before a request: it would sit out its timeout."""
        if not self._asked:
            event.assoc.dul.to_user_queue.put(None)

    # -- instances
    def open(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Incoming:
        """Start the file of a data set: our file meta, then the bytes as they come."""
        now = datetime.now(UTC)
        instance_id = new_id(now)
        path = self._spool.temporary(instance_id)
        if not is_uid(sop_class_uid) or not is_uid(sop_instance_uid):
            return Incoming(path, instance_id, None, CannotUnderstand("the command names no SOP Class or Instance UID"))
        if self._below_reserve():
            return Incoming(path, instance_id, None, OutOfResources("free disk is below scp.reserve_bytes"))
        sender = Sender(self._calling_ae, self._called_ae, self._address, now)
        meta = file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid, sender, receiver=self._local)
        return Incoming(path, instance_id, meta)

    def store(self, event: Any) -> int:
        """Answer a C-STORE request; success only when the instance is safe."""
        request = event.request
        incoming: Incoming | None = event.assoc.dimse.take(request)
        facts: dict[str, Any] = {
            "association_id": self.association_id, "calling_ae": self._calling_ae,
            "sop_class": _uid_text(request.AffectedSOPClassUID),
            "sop_instance_uid": _uid_text(request.AffectedSOPInstanceUID),
            "transfer_syntax": str(event.context.transfer_syntax),
        }
        if incoming is None:
            return self._refuse(facts, CannotUnderstand.status, CannotUnderstand("the command has no data set"))
        facts |= {"instance_id": incoming.instance_id, "size_bytes": incoming.size_bytes}
        try:
            self._keep(incoming, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), event.context)
        except Refused as error:
            return self._refuse(facts, error.status, error)
        except Exception as error:  # the handler is one of the places where everything is caught
            log.exception("defect", instance_id=incoming.instance_id)
            return self._refuse(facts, dimse.PROCESSING_FAILURE, error)
        finally:
            incoming.discard()
        self._received += 1
        log.info("instance_committed", **facts, spool_ms=round((time.perf_counter() - incoming.started) * 1000, 1))
        return dimse.SUCCESS

    def _keep(self, incoming: Incoming, sop_class_uid: str, sop_instance_uid: str, context: Any) -> None:
        incoming.finish()
        if self._below_reserve():
            raise OutOfResources("free disk is below scp.reserve_bytes")
        with incoming.path.open("rb") as stream:
            found = peek(stream)
        if found != (sop_class_uid, sop_instance_uid) or str(context.abstract_syntax) != sop_class_uid:
            raise DatasetMismatch("command, presentation context and data set do not name the same SOP Class and Instance")
        self._spool.commit(incoming.path, incoming.instance_id)
        self._spool.receipt(incoming.instance_id)

    def _refuse(self, facts: dict[str, Any], status: int, error: Exception) -> int:
        self._refused += 1
        # A full disk is the administrator's, what a peer sends wrong is the peer's.
        write = log.error if isinstance(error, OutOfResources) else log.warning
        reason = error.code if isinstance(error, Refused) else "defect"
        write("instance_refused", **facts, dimse_status=dimse.text(status), reason=reason)
        return status

    def _below_reserve(self) -> bool:
        return self._spool.intake_bytes(self._settings.keep.holds_max_bytes) < self._settings.scp.reserve_bytes

    # -- going
    def ended(self, assoc: Any) -> None:
        """Delete what is left and write the last line; called once or more often, the first counts."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        left = assoc.dimse.discard_all()
        self._door.leave(self.association_id)
        self._door.let_go(self._connection)
        if not self._accepted:
            return
        counts = {"received": self._received, "refused": self._refused}
        if assoc.is_released:
            log.info("association_released", **self._who(), **counts)
        else:
            log.warning("association_aborted", **self._who(), **counts, count=left)

    def _who(self) -> dict[str, Any]:
        return {
            "association_id": self.association_id, "calling_ae": self._calling_ae or "invalid",
            "called_ae": self._called_ae or "invalid", "address": self._address,
        }


def supported(proposed: list[PresentationContext]) -> list[PresentationContext]:
    """What we take of the proposed presentation contexts, one entry a SOP Class."""
    by_class: dict[str, list[list[str]]] = {}
    for cx in proposed:
        by_class.setdefault(str(cx.abstract_syntax), []).append([str(syntax) for syntax in cx.transfer_syntax])
    found = []
    for sop_class_uid, syntaxes in by_class.items():
        if ours := contexts.answer(sop_class_uid, syntaxes):
            context = PresentationContext()
            context.abstract_syntax = UID(sop_class_uid)
            context.transfer_syntax = [UID(syntax) for syntax in ours]
            found.append(context)
    return found


def _ae_title(value: Any) -> str:
    text = str(value or "").strip(" ")
    fine = len(text) <= 16 and "\\" not in text and all(0x20 <= ord(c) <= 0x7E for c in text)
    return text if fine else ""


def _uid_text(value: Any) -> str:
    return str(value) if is_uid(str(value or "")) else "invalid"

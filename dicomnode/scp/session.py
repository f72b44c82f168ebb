"""One accepted association: who is there, what came, and the answer to each C-STORE.

**Way** `Session` is made with the connection. `Session.judge` judges the request, `open` starts the file of a data set,
`store` answers a C-STORE after `Spool.commit`, `ended` writes the last line of the log.

**Fails** A `Refused` becomes its status and keeps nothing. Anything else is a defect: logged, answered 0x0110, nothing kept.

**Standard** PS3.4 Annex B.2.3 and Table B.2-1, PS3.7 Annex C.5 (0x0110).
"""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext

from dicomnode import contexts, dimse, uids
from dicomnode.errors import CannotUnderstand, DatasetMismatch, OutOfResources, Refused
from dicomnode.header import Sender, file_meta, peek
from dicomnode.log import get_logger
from dicomnode.scp.door import Door, Rejection
from dicomnode.scp.receive import Incoming
from dicomnode.settings import Settings
from dicomnode.spool import Spool, new_id
from dicomnode.upper.command import Command
from dicomnode.upper.handshake import APPLICATION_CONTEXT, Request

log = get_logger("accept")

#: PS3.8 Table 9-21: service-provider (ACSE), protocol version not supported.
_VERSION = Rejection(dimse.REJECT_VERSION, "protocol_version")
#: PS3.8 Table 9-21: service-user, application context name not supported.
_APPLICATION = Rejection(dimse.REJECT_APPLICATION_CONTEXT, "application_context")
_NOBODY = Rejection(dimse.REJECT_CALLING_AE, "calling_ae_unknown")


class Session:
    """The node's side of one association; methods are called by the association's own thread."""

    def __init__(self, settings: Settings, spool: Spool, door: Door, connection: Any, local: tuple[str, int]) -> None:
        self.association_id = f"a-{secrets.token_hex(6)}"
        self._settings = settings
        self._spool = spool
        self._door = door
        #: What the door knows this connection by.
        self._connection, peer = connection
        self._address = str(peer[0])
        self._local = local
        self.calling_ae = self.called_ae = ""
        self._accepted = False
        self._received = self._refused = 0
        #: Writes the line of the log about the last C-STORE.
        self._tell: Callable[[], None] = _nothing

    # -- coming in
    def judge(self, request: Request) -> Rejection | None:
        """Admit an association (None) or say why not."""
        self.calling_ae, self.called_ae = _ae_title(request.calling_ae), _ae_title(request.called_ae)
        if not request.version & 1:
            rejection: Rejection | None = _VERSION
        elif request.application_context != APPLICATION_CONTEXT:
            rejection = _APPLICATION
        elif not self.calling_ae:  # also where anybody may call
            rejection = _NOBODY
        else:
            rejection = self._door.judge(self.association_id, self.calling_ae, self.called_ae, self._address)
        if rejection is not None:
            left_out = self._door.flood.line(self._address)
            if left_out is not None:
                log.warning("association_rejected", **self._who(), reason=rejection.reason, count=left_out or None)
            return rejection
        self._door.let_go(self._connection)
        return None

    def accepted(self, count: int) -> None:
        """Note that it was accepted, with how many presentation contexts."""
        self._accepted = True
        log.info("association_accepted", **self._who(), count=count)

    # -- instances
    def open(self, request: Command, transfer_syntax_uid: str) -> Incoming:
        """Start the file of a data set: our file meta, then the bytes as they come."""
        now = datetime.now(UTC)
        instance_id = new_id(now)
        path = self._spool.temporary(instance_id)
        if not uids.has_look(request.sop_class_uid) or not uids.has_look(request.sop_instance_uid):
            return Incoming(path, instance_id, b"", CannotUnderstand("the command names no SOP Class or Instance UID"))
        if self._below_reserve():
            return Incoming(path, instance_id, b"", OutOfResources("free disk is below scp.reserve_bytes"))
        sender = Sender(self.calling_ae, self.called_ae, self._address, now)
        meta = file_meta(request.sop_class_uid, request.sop_instance_uid, transfer_syntax_uid, sender, receiver=self._local)
        return Incoming(path, instance_id, meta, short=self._below_reserve)

    def store(self, request: Command, context: tuple[str, str], incoming: Incoming | None) -> int:
        """Answer a C-STORE request; success only when the instance is safe."""
        facts: dict[str, Any] = {
            "association_id": self.association_id, "calling_ae": self.calling_ae,
            "sop_class": _uid_text(request.sop_class_uid),
            "sop_instance_uid": _uid_text(request.sop_instance_uid),
            "transfer_syntax": context[1],
        }
        if incoming is None:
            return self._refuse(facts, CannotUnderstand.status, CannotUnderstand("the command has no data set"))
        facts |= {"instance_id": incoming.instance_id, "size_bytes": incoming.size_bytes}
        try:
            self._keep(incoming, request, context)
        except Refused as error:
            return self._refuse(facts, error.status, error)
        except Exception as error:  # this is one of the places where everything is caught
            log.exception("defect", instance_id=incoming.instance_id)
            return self._refuse(facts, dimse.PROCESSING_FAILURE, error)
        finally:
            incoming.discard()
        self._received += 1
        spool_ms = round((time.perf_counter() - incoming.started) * 1000, 1)
        self._tell = partial(log.info, "instance_committed", **facts, spool_ms=spool_ms)
        return dimse.SUCCESS

    def answered(self) -> None:
        """Write the line about the last C-STORE, when the peer has its answer and need not wait for that."""
        tell, self._tell = self._tell, _nothing
        tell()

    def _keep(self, incoming: Incoming, request: Command, context: tuple[str, str]) -> None:
        incoming.finish()
        if self._below_reserve():
            raise OutOfResources("free disk is below scp.reserve_bytes")
        named = request.sop_class_uid, request.sop_instance_uid
        if context[0] != request.sop_class_uid or _look(incoming, context[1]) != named:
            raise DatasetMismatch("command, presentation context and data set do not name the same SOP Class and Instance")
        self._spool.commit(incoming.path, incoming.instance_id)
        incoming.moved()
        self._spool.receipt(incoming.instance_id)

    def _refuse(self, facts: dict[str, Any], status: int, error: Exception) -> int:
        self._refused += 1
        # A full disk is the administrator's, what a peer sends wrong is the peer's.
        write = log.error if isinstance(error, OutOfResources) else log.warning
        reason = error.code if isinstance(error, Refused) else "defect"
        self._tell = partial(write, "instance_refused", **facts, dimse_status=dimse.text(status), reason=reason)
        return status

    def _below_reserve(self) -> bool:
        return self._spool.intake_bytes(self._settings.keep.holds_max_bytes) < self._settings.scp.reserve_bytes

    # -- going
    def ended(self, *, released: bool, left: int) -> None:
        """Leave the door and write the last line; ``left`` data sets were half received."""
        self._door.leave(self.association_id)
        if not self._accepted:
            return
        counts = {"received": self._received, "refused": self._refused}
        if released:
            log.info("association_released", **self._who(), **counts)
        else:
            log.warning("association_aborted", **self._who(), **counts, count=left)

    def gone(self) -> None:
        """Make room for another connection; until now one that was rejected, and stays, took some."""
        self._door.let_go(self._connection)

    def _who(self) -> dict[str, Any]:
        return {
            "association_id": self.association_id, "calling_ae": self.calling_ae or "invalid",
            "called_ae": self.called_ae or "invalid", "address": self._address,
        }


def _nothing() -> None:
    """No line is waiting."""


def _look(incoming: Incoming, transfer_syntax_uid: str) -> tuple[str, str]:
    """SOP Class and Instance UID as the data set says them: from its first bytes, or the file where they lie further in."""
    try:
        return peek(io.BytesIO(incoming.first), 0, transfer_syntax_uid)
    except CannotUnderstand:
        if incoming.size_bytes <= len(incoming.first):
            raise
    with incoming.path.open("rb") as stream:
        return peek(stream, len(incoming.meta), transfer_syntax_uid)


def supported(proposed: Sequence[PresentationContext]) -> list[PresentationContext]:
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


def _ae_title(value: str) -> str:
    fine = len(value) <= 16 and "\\" not in value and all(0x20 <= ord(c) <= 0x7E for c in value)
    return value if fine else ""


def _uid_text(value: str) -> str:
    return value if uids.has_look(value) else "invalid"

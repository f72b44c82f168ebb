"""C-STORE requests received straight into a spool file: the one place that reaches into pynetdicom's receiving side.

**Way** `StoreDimse` takes the place of an association's DIMSE provider. It puts the fragments of a command together, and
writes the fragments of a C-STORE data set into `Incoming` as they come, behind our file meta; no instance is ever whole in
memory. The C-STORE handler fetches the file by `StoreDimse.take`. What nobody fetched is deleted by `discard_all`.
Asynchronous operations are not negotiated: while `UNANSWERED_MAX` requests wait for their answers nothing more is read, so
that a peer which does not wait is slowed, not lost.

**Fails** A disk that is full while receiving is remembered in `Incoming.failure`; the rest of the data set is passed over, so
that the peer gets its answer. A message that makes no sense aborts the association (PS3.8 9.2, event 19).

**Standard** PS3.7 section 6.3.1 and Annex E, PS3.8 Annex E.2 (message control header).

**Limits** Written against pynetdicom 3.0.4, which pyproject.toml pins.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import _MESSAGE_TYPES, C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL
from pynetdicom.dsutils import decode

from dicomnode.errors import OutOfResources, Refused
from dicomnode.log import get_logger

log = get_logger("accept")

_NO_DATA_SET = 0x0101
_COMMAND_MAX_BYTES = 64 << 10
#: Whole requests of one association that wait for their answer before its socket is read again.
UNANSWERED_MAX = 4
#: So many can only come in one PDU: the association is aborted.
_UNANSWERED_ABORT = 16


class Incoming:
    """A data set on its way into a temporary file of the spool."""

    def __init__(self, path: Path, instance_id: str, meta: bytes | None, failure: Refused | None = None) -> None:
        self.path = path
        self.instance_id = instance_id
        self.started = time.perf_counter()
        self.size_bytes = 0
        self.failure = failure
        self._file: BinaryIO | None = None
        if meta is None:
            return
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(path, flags, 0o640), "wb", buffering=1 << 18)
            self._file.write(meta)
        except OSError as error:
            self._fail(error)

    def write(self, data: memoryview) -> None:
        """Take one fragment; never raises, see ``failure``."""
        self.size_bytes += len(data)
        if self._file is not None:
            try:
                self._file.write(data)
            except OSError as error:
                self._fail(error)

    def refuse(self, failure: Refused) -> None:
        """Take no more bytes; the answer is known already."""
        self.failure = self.failure or failure
        self.discard()

    def close(self) -> None:
        """End the file; never raises, see ``failure``."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._fail(error)

    def finish(self) -> None:
        """End the file, ready for commit; raises what went wrong on the way."""
        self.close()
        if self.failure is not None:
            raise self.failure

    def discard(self) -> None:
        """Close and delete the file, if it is still there."""
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            if file is not None:
                file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _fail(self, error: OSError) -> None:
        self.refuse(OutOfResources(f"the spool took no more: {error.strerror}"))


#: Opens the file for a C-STORE: SOP Class UID, SOP Instance UID, transfer syntax UID.
Open = Callable[[str, str, str], Incoming]


class StoreDimse(DIMSEServiceProvider):
    """The DIMSE provider of one accepted association."""

    def __init__(self, assoc: Any, open_: Open) -> None:
        super().__init__(assoc)
        self._open = open_
        self._command = bytearray()
        self._message: DIMSEMessage | None = None
        self._current: Incoming | None = None
        self._ready: dict[int, tuple[Any, Incoming]] = {}
        self._lock = threading.Lock()
        self._ended = False

    def receive_primitive(self, primitive: Any) -> None:
        """Take the fragments of one P-DATA-TF PDU; called by the thread that reads the socket."""
        for context_id, data in primitive.presentation_data_value_list:
            control = data[0]
            fine = self._command_fragment(context_id, data) if control & 1 else self._data_fragment(data)
            if not fine:
                self.dul.event_queue.put("Evt19")
                return

    @property
    def full(self) -> bool:
        """True while the peer has to wait for answers before more of it is read."""
        return self.msg_queue.qsize() >= UNANSWERED_MAX

    def take(self, request: Any) -> Incoming | None:
        """Give the file of a C-STORE request to its handler, once."""
        with self._lock:
            return self._ready.pop(id(request), (None, None))[1]

    def discard_all(self) -> int:
        """Delete what is half received or was not fetched, and take nothing more; gives how many."""
        with self._lock:
            self._ended = True
            left = [incoming for _, incoming in self._ready.values()]
            self._ready.clear()
            if self._current is not None:
                left.append(self._current)
                self._current = None
        for incoming in left:
            incoming.discard()
        return len(left)

    def _command_fragment(self, context_id: int, data: bytes) -> bool:
        if self._message is not None or len(self._command) + len(data) > _COMMAND_MAX_BYTES:
            return False
        self._command += data[1:]
        if not data[0] & 2:
            return True
        raw, self._command = bytes(self._command), bytearray()
        try:
            message = DIMSEMessage()
            message.context_id = context_id
            message.command_set = decode(BytesIO(raw), True, True)
            message.__class__ = _MESSAGE_TYPES[message.command_set.CommandField][1]
            has_data = message.command_set.CommandDataSetType != _NO_DATA_SET
        except Exception:  # noqa: BLE001 - whatever pydicom makes of a peer's bytes: there is no message then
            return False
        self._message = message
        if not has_data:
            return self._complete()
        if isinstance(message, C_STORE_RQ):
            return self._begin(message, context_id)
        return True

    def _begin(self, message: Any, context_id: int) -> bool:
        command = message.command_set
        # Asked of the association, not noted at its acceptance: a quick peer's data are here before that event.
        context = self.assoc._accepted_cx.get(context_id)  # noqa: SLF001
        if context is None:
            return False
        sop_class, sop_instance = command.get("AffectedSOPClassUID"), command.get("AffectedSOPInstanceUID")
        try:
            incoming = self._open(str(sop_class or ""), str(sop_instance or ""), str(context.transfer_syntax[0]))
        except Exception:  # an error here would end the thread that reads, without a word to the peer
            log.exception("defect")
            return False
        with self._lock:
            self._current = None if self._ended else incoming
        if self._ended:
            incoming.discard()
        return True

    def _data_fragment(self, data: bytes) -> bool:
        if self._message is None:
            return False
        with self._lock:
            if self._current is not None:
                self._current.write(memoryview(data)[1:])
        return self._complete() if data[0] & 2 else True

    def _complete(self) -> bool:
        """A whole message is here: hand it to the association's thread."""
        message: Any = self._message
        self._message = None
        try:
            primitive: Any = message.message_to_primitive()
        except Exception:  # noqa: BLE001 - a command element of the wrong kind
            return False
        if not primitive.is_valid_request and not isinstance(primitive, C_CANCEL):
            return False
        if self.msg_queue.qsize() >= _UNANSWERED_ABORT:
            return False
        with self._lock:
            incoming, self._current = self._current, None
            if incoming is not None:
                incoming.close()
            if incoming is not None and not self._ended:
                self._ready[id(primitive)] = (primitive, incoming)
        if incoming is not None and self._ended:
            incoming.discard()
        if not isinstance(primitive, C_CANCEL):
            self.msg_queue.put((message.context_id, primitive))
        return True


def is_uid(text: str) -> bool:
    """Say whether a command's text has the look of a UID: digits and dots, at most 64 (see `dicomnode.header`, Limits)."""
    return re.fullmatch(r"[0-9.]{1,64}", text) is not None

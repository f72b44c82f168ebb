"""Messages out of P-DATA-TF PDUs, and C-STORE data sets written straight from the socket's buffer into a spool file.

**Way** `Receiver.take` is given the body of each PDU. It puts the fragments of a command together, asks the session what to do
with a C-STORE (`Incoming`), writes the fragments of its data set as they come, behind our file meta, and sends the answer
before it looks at anything further. No instance is ever whole in memory, and a peer that does not wait for answers is slowed
by the socket, not queued: asynchronous operations are not negotiated.

**Fails** A disk that is full, or short, while receiving is remembered in `Incoming.failure`; the rest of the data set is
passed over, so that the peer gets its answer. A message that makes no sense raises `Malformed`, which aborts the association.

**Standard** PS3.7 sections 6.3.1 and 9.1, Annex C (0x0211, 0x0122) and Annex E, PS3.8 Annex E.2.

**Limits** Of services other than C-STORE, C-ECHO and C-CANCEL only the refusal is known; their data sets are passed over.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from dicomnode import contexts, dimse
from dicomnode.errors import OutOfResources, Refused
from dicomnode.spool.disk import write_back
from dicomnode.upper import command, pdata
from dicomnode.upper.command import Command, Malformed

#: So many messages in one PDU are nobody's.
_MESSAGES_MAX = 16
#: The first bytes of a data set are kept to look at its UIDs: the file need not be read again.
_FIRST_BYTES = 2048
#: The kernel is asked to write this often, so that the fsync at the end of a large instance has little left to do.
_WRITE_BACK_BYTES = 1 << 20
#: The free disk is looked at this often: what comes in may not eat the room of results meanwhile.
_ROOM_BYTES = 16 << 20
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Incoming:
    """A data set on its way into a temporary file of the spool."""

    def __init__(
        self, path: Path, instance_id: str, meta: bytes, failure: Refused | None = None,
        short: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self.instance_id = instance_id
        self.meta = meta
        self.started = time.perf_counter()
        self.size_bytes = 0
        self.failure = failure
        #: The beginning of the data set.
        self.first = b""
        self._file: int | None = None
        self._written = self._given = self._asked = 0
        self._short = short

    def write(self, data: memoryview) -> None:
        """Take one fragment; never raises, see ``failure``."""
        self.size_bytes += len(data)
        if self.failure is not None:
            return
        try:
            if self._file is None:
                self._file = os.open(self.path, _FLAGS, 0o640)
                _write(self._file, [memoryview(self.meta), data])
                self._written = len(self.meta)
            else:
                _write(self._file, [data])
            self._written += len(data)
            if len(self.first) < _FIRST_BYTES:
                self.first += data[:_FIRST_BYTES - len(self.first)]
            if self._written - self._given >= _WRITE_BACK_BYTES:
                write_back(self._file, self._given, self._written - self._given)
                self._given = self._written
            if self._written - self._asked >= _ROOM_BYTES:
                self._asked = self._written
                if self._short():
                    self.failure = OutOfResources("free disk fell below scp.reserve_bytes")
                    self.discard()
        except OSError as error:
            self.failure = OutOfResources(f"the spool took no more: {error.strerror}")
            self.discard()

    def finish(self) -> None:
        """End the file, ready for commit; raises what went wrong on the way."""
        self._close()
        if self.failure is not None:
            raise self.failure

    def moved(self) -> None:
        """The file has its name in the spool: `discard` has nothing to delete any more."""
        self._written = 0

    def discard(self) -> None:
        """Close and delete the file, if it is still there."""
        if self._file is None and not self._written:
            return
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                os.close(file)
            except OSError as error:
                self.failure = self.failure or OutOfResources(f"the spool took no more: {error.strerror}")


def _write(file: int, buffers: list[memoryview]) -> None:
    """Write all of it; a disk that fills up takes a part first."""
    left = sum(map(len, buffers))
    while (left := left - (count := os.writev(file, buffers))) > 0:
        while count >= len(buffers[0]):
            count -= len(buffers.pop(0))
        buffers[0] = buffers[0][count:]


class Keeper(Protocol):
    """What is made of C-STORE requests; `session.Session` is one."""

    def open(self, request: Command, transfer_syntax_uid: str) -> Incoming:
        """Begin a data set."""
        ...

    def store(self, request: Command, context: tuple[str, str], incoming: Incoming | None) -> int:
        """Answer with a status; ``incoming`` is whole, or None where the request has no data set."""
        ...

    def answered(self) -> None:
        """The answer to the last `store` is on its way, or could not be sent."""
        ...


#: Sends a command set on a presentation context.
Say = Callable[[int, bytes], None]


class Receiver:
    """The messages of one association."""

    def __init__(self, accepted: Mapping[int, tuple[str, str]], keeper: Keeper, say: Say) -> None:
        #: Presentation context id → SOP Class UID and transfer syntax UID.
        self._accepted = accepted
        self._keeper = keeper
        self._say = say
        self._context_id = 0
        self._command = bytearray()
        #: The request whose data set is on its way, and the file if it is a C-STORE.
        self._request: Command | None = None
        self._incoming: Incoming | None = None

    def take(self, body: memoryview) -> None:
        """Take one P-DATA-TF PDU and answer what it completes; raises `Malformed`."""
        messages = 0
        for context_id, control, fragment in pdata.values(body):
            if self._request is None and not self._command:
                if context_id not in self._accepted:
                    raise Malformed("a presentation context that was not accepted")
                self._context_id = context_id
            elif context_id != self._context_id:
                raise Malformed("fragments of one message on two presentation contexts")
            if control & pdata.COMMAND:
                complete = self._command_fragment(control, fragment)
            else:
                complete = self._data_fragment(control, fragment)
            messages += complete
            if messages > _MESSAGES_MAX:
                raise Malformed("messages without end in one PDU")

    @property
    def within(self) -> bool:
        """True while a message has begun and not ended."""
        return self._request is not None or bool(self._command)

    def discard(self) -> int:
        """Delete what is half received; gives how many."""
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return 0
        incoming.discard()
        return 1

    def _command_fragment(self, control: int, fragment: memoryview) -> bool:
        if self._request is not None or len(self._command) + len(fragment) > command.MAX_BYTES:
            raise Malformed("a command inside a data set, or one that is too long")
        if not control & pdata.LAST:
            self._command += fragment
            return False
        raw: bytes | bytearray | memoryview = fragment
        if self._command:
            raw, self._command = self._command + fragment, bytearray()
        request = command.parse(raw)
        if request.field & command.RESPONSE:
            raise Malformed("a response to nothing")
        if not request.has_data_set:
            self._answer(request, None)
            return True
        self._request = request
        if request.field == command.C_STORE_RQ:
            self._incoming = self._keeper.open(request, self._accepted[self._context_id][1])
        return False

    def _data_fragment(self, control: int, fragment: memoryview) -> bool:
        request = self._request
        if request is None:
            raise Malformed("a data set without a command")
        if self._incoming is not None:
            self._incoming.write(fragment)
        if not control & pdata.LAST:
            return False
        incoming, self._request, self._incoming = self._incoming, None, None
        self._answer(request, incoming)
        return True

    def _answer(self, request: Command, incoming: Incoming | None) -> None:
        if request.field == command.C_STORE_RQ:
            try:
                status = self._keeper.store(request, self._accepted[self._context_id], incoming)
                self._say(self._context_id, command.response(request, status))
            finally:
                self._keeper.answered()
            return
        if request.field == command.C_ECHO_RQ:
            status = dimse.SUCCESS if request.sop_class_uid == contexts.VERIFICATION else dimse.SOP_CLASS_NOT_SUPPORTED
        elif request.field == command.C_CANCEL_RQ:
            return
        else:
            status = dimse.UNRECOGNISED_OPERATION
        self._say(self._context_id, command.response(request, status))

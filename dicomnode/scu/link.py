"""One association to a peer, from the requestor's side.

**Way** `Link.open` proposes exactly the presentation contexts that it is given, each with one transfer syntax; `Link.send`
streams the data set of a file as it is stored, in PDUs as long as the peer takes them, many to a system call, and waits for
the response. `Link.close` releases. One thread, which waits on the socket and nothing else; nothing runs while the
association is idle, `Link.alive` looks whether the peer has ended it. After anything but an orderly answer the association is
aborted and never used again.

**Fails** `PeerUnavailable` (no connection, or no answer to the request), `AssociationRejectedTransient`,
`AssociationRejected` (PS3.8 Table 9-21, result 2 and 1), `FileMissing`. A send without a response gives a `Verdict` of
`NoStatus`.

**Standard** PS3.7 9.1.1 (C-STORE), 9.1.5 (C-ECHO), PS3.8 7.1. A failure that the peer answers before it has the whole data set
counts, and ends the association, because half a message cannot be left standing (PS3.8 Annex F.1). An answer to another
message than the one under way is none (PS3.7 9.3.1.2, Message ID Being Responded To), and ends the association too.

**Limits** A peer that reads nothing for the timeout counts as silent, however slowly it reads otherwise. The wait for a
response begins when the kernel has the last byte; of what it has taken the peer may work off `SLOWEST_BYTES_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import cast

from dicomnode import contexts, dimse
from dicomnode.errors import FileMissing, NoPresentationContext, NoStatus, PeerUnavailable, StoreFailed, Undecodable
from dicomnode.records import Verdict
from dicomnode.scu import handshake
from dicomnode.scu.content import ANEW_MAX_BYTES, Content
from dicomnode.scu.handshake import Agreed, Context
from dicomnode.scu.pace import FREE, Pace
from dicomnode.scu.wire import Closed, Wire
from dicomnode.settings import Peer
from dicomnode.upper import command, pdata, pdus

#: The wait for a response grows with the data set: the peer may write it to its disk no faster than this.
SLOWEST_BYTES_S = 250_000
#: Bytes read from the file at a time.
BLOCK_BYTES = 1 << 20
#: Longest fragment, however long a PDU the peer takes.
_LONGEST_FRAGMENT = 256 << 10
#: Fragments framed at a time: a peer may ask for very short ones, and each has objects of its own.
_MOST_FRAGMENTS = 4096
#: A peer has this long to answer a release, seconds, where the timeout is longer.
_RELEASE_S = 10.0


class _Refused(Exception):
    """The peer has answered with a failure before it had the whole data set."""

    def __init__(self, status: int) -> None:
        self.status = status


class Link:
    """An established association; used by one thread."""

    def __init__(self, wire: Wire, agreed: Agreed, proposed: frozenset[Context], timeout_s: float) -> None:
        self._wire = wire
        self._ids = agreed.contexts
        self._max_pdu = agreed.max_pdu
        self._timeout_s = timeout_s
        self._established = True
        #: What was asked last, and its number: any other answer is none.
        self._asked = self._message_id = 0
        self._buffer: memoryview | None = None
        #: Status that came before everything was sent.
        self._early: int | None = None
        #: What has come of a command set.
        self._command = bytearray()
        #: What was asked for; what is in here and not in ``accepted`` was refused by the peer.
        self.proposed = proposed
        self.accepted = frozenset(agreed.contexts)
        self.used_at = time.monotonic()

    @classmethod
    def open(
        cls, peer: Peer, calling_ae: str, wanted: Iterable[Context], timeout_s: float, tick: Callable[[], None] = lambda: None,
    ) -> Link:
        """Request an association; ``tick`` is called at least once a second while there is something to wait for.

        Raises
        ------
        PeerUnavailable, AssociationRejectedTransient, AssociationRejected
            The peer could not be reached, or said no.
        NoPresentationContext
            The peer accepted the association and none of the contexts.
        """
        proposed = sorted(set(wanted))
        try:
            wire = Wire.connect(cast("str", peer.host), cast("int", peer.port), timeout_s, tick)
        except OSError as error:  # also: the name of the host is not known
            raise PeerUnavailable(f"the peer cannot be reached ({type(error).__name__})") from None
        try:
            wire.put([handshake.request(calling_ae, peer, proposed)])
            wire.flush(timeout_s)
            kind, body = wire.pdu(timeout_s)
            if kind in (pdus.ASSOCIATE_RJ, pdus.ABORT):
                wire.close()  # nothing stands that could be aborted (PS3.8 Table 9-10, AE-4 and AA-3)
            agreed = handshake.agreed(kind, body, proposed)
        except Closed as error:
            _abort(wire)
            raise PeerUnavailable(f"the peer does not answer at its address: {error}") from None
        except BaseException:
            _abort(wire)
            raise
        return cls(wire, agreed, frozenset(proposed), timeout_s)

    @property
    def alive(self) -> bool:
        """True while the association can be used; what the peer said since the last use is looked at now."""
        if self._established:
            try:
                self._wire.look()
                while self._wire.said:
                    self._response(0)
            except Closed:
                self.abort()
        return self._established

    def takes(self, context: Context) -> bool:
        """Say whether the peer accepted this context, or Implicit VR for an Explicit VR Little Endian one."""
        return context in self.accepted or (context[1] == contexts.EXPLICIT and implicit(context) in self.accepted)

    # -- sending
    def send(
        self, path: Path, context: Context, size_bytes: int = 0, *, priority: int = dimse.PRIORITIES["medium"],
        pace: Pace = FREE,
    ) -> Verdict:
        """Send one Part 10 file of this context by C-STORE and say what came of it."""
        if not self.alive:
            return Verdict("deferred", NoStatus.code)
        anew = context not in self.accepted
        if anew and size_bytes > ANEW_MAX_BYTES:
            return Verdict("refused", NoPresentationContext.code)
        try:
            content = Content.anew(path) if anew else Content.opened(path)
        except FileNotFoundError:
            raise FileMissing("the file of a delivery is not in the spool") from None
        except Undecodable as error:  # nothing was sent: there is no usable file meta
            return Verdict("refused", error.code)
        with content:
            sent_as = content.sop_class_uid, content.transfer_syntax_uid
            if sent_as != (implicit(context) if anew else context):  # the file meta names another context than the row
                return Verdict("refused", NoPresentationContext.code)
            status: int | None = None
            try:
                status = self._store(content, self._ids[sent_as], priority, pace)
            except Closed:
                self.abort()
            except OSError:
                self.abort()
                return Verdict("deferred", StoreFailed.code)
            except BaseException:
                self.abort()
                raise
        self.used_at = time.monotonic()
        return dimse.classify(status)

    def _store(self, content: Content, context_id: int, priority: int, pace: Pace) -> int:
        """Send request and data set and give the status; every way but an answer ends in `Closed` or another exception."""
        wire = self._wire
        if self._buffer is None:
            self._buffer = memoryview(bytearray(BLOCK_BYTES))
        room = min(pdata.room(self._max_pdu), _LONGEST_FRAGMENT, pace.chunk)
        room = room - room % 2 or room
        block = max(min(BLOCK_BYTES, pace.chunk, _MOST_FRAGMENTS * room) // room * room, room)
        request = command.store_rq(
            self._ask(command.C_STORE_RQ), content.sop_class_uid, content.sop_instance_uid, priority,
        )
        wire.put(pdata.message(context_id, request, self._max_pdu))
        self._early = None

        def hold(seconds: float) -> None:
            wire.pause(seconds)
            self._hear()

        try:
            for view, last in content.blocks(self._buffer, lambda: block):
                pace.pay(len(view), hold)
                wire.put(_framed(view, context_id, room, last=last))
                while not wire.flush(self._timeout_s):
                    self._hear()
                if not last:
                    wire.look()
                    self._hear()
        except _Refused as refused:
            self.abort()
            return refused.status
        answer: int | None = self._early
        deadline = time.monotonic() + self._timeout_s + content.size / SLOWEST_BYTES_S
        while answer is None:
            answer = self._response(deadline - time.monotonic())
        return answer

    def _hear(self) -> None:
        """Take what the peer says before we have sent everything."""
        while self._wire.said:
            status = self._response(0)
            if status is not None and dimse.classify(status).outcome != "delivered":
                raise _Refused(status)
            self._early = status if status is not None else self._early

    def echo(self) -> bool:
        """Ask by C-ECHO; True for success."""
        context_id = next((number for (sop_class, _), number in self._ids.items() if sop_class == contexts.VERIFICATION), 0)
        if not context_id or not self.alive:
            return False
        request = command.echo_rq(self._ask(command.C_ECHO_RQ), contexts.VERIFICATION)
        try:
            self._wire.put(pdata.message(context_id, request, self._max_pdu))
            deadline, answer = time.monotonic() + self._timeout_s, None
            while not self._wire.flush(self._timeout_s) or answer is None:
                answer = self._response(deadline - time.monotonic())
        except Closed:
            self.abort()
            return False
        except BaseException:
            self.abort()
            raise
        self.used_at = time.monotonic()
        return answer == dimse.SUCCESS

    def _ask(self, field: int) -> int:
        """Give the number of the next request."""
        self._asked, self._message_id = field, self._message_id % 0xFFFF + 1
        return self._message_id

    # -- what the peer says
    def _response(self, timeout_s: float) -> int | None:
        """Take one PDU; gives the status when it ended a response."""
        kind, body = self._wire.pdu(timeout_s)
        if kind != pdus.P_DATA_TF:
            self._other(kind, body)
            return None
        status = None
        try:
            for _, control, fragment in pdata.values(memoryview(body)):
                if not control & pdata.COMMAND:
                    continue  # no response to C-STORE or C-ECHO has a data set
                self._command += fragment
                if len(self._command) > command.MAX_BYTES:
                    raise Closed("the peer's message is too long")
                if control & pdata.LAST:
                    said, self._command = command.parse(self._command), bytearray()
                    if said.field & command.RESPONSE:
                        if (said.field, said.responded_to) != (self._asked | command.RESPONSE, self._message_id):
                            raise Closed("the peer answers what was not asked")
                        status = said.status
        except command.Malformed:
            raise Closed("the peer's message cannot be read") from None
        return status

    def _other(self, kind: int, body: bytes) -> None:
        """What is no data ends the association: a release is answered, an abort and anything else is not."""
        if kind == pdus.RELEASE_RQ and self._wire.between:
            self._wire.put([pdus.RELEASE_RP_PDU])
            with suppress(Closed):
                self._wire.flush(0)
            self._end()
            raise Closed("the peer has released the association")
        if kind == pdus.ABORT:
            self._end()
            raise Closed(f"the peer has aborted the association, source {body[2:3].hex()}, reason {body[3:4].hex()}")
        raise Closed("the peer says what does not belong here")

    # -- ending
    def close(self) -> None:
        """Release the association, or abort it when it is not in order."""
        if not self.alive:
            return
        try:
            self._wire.put([pdus.RELEASE_RQ_PDU])
            deadline = time.monotonic() + min(self._timeout_s, _RELEASE_S)
            self._wire.flush(self._timeout_s)
            while (kind := self._wire.pdu(deadline - time.monotonic())[0]) in (pdus.P_DATA_TF, pdus.RELEASE_RQ):
                if kind == pdus.RELEASE_RQ:  # both at once: the requestor answers first (PS3.8 7.2.2.6)
                    self._wire.put([pdus.RELEASE_RP_PDU])
                    self._wire.flush(self._timeout_s)
            if kind == pdus.RELEASE_RP:
                self._end()
        except Closed:
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """End the association at once; what has ended already stays as it is."""
        if self._established:
            self._established = False
            _abort(self._wire)

    def _end(self) -> None:
        self._established = False
        self._wire.close()


def implicit(context: Context) -> Context:
    """The same SOP Class in Implicit VR Little Endian, which every DICOM application must take (PS3.5 section 10.1)."""
    return context[0], contexts.IMPLICIT


def _framed(view: memoryview, context_id: int, room: int, *, last: bool) -> list[bytes | memoryview]:
    """Cut a block of the data set into PDUs: head and fragment in turn, without a copy."""
    full = pdata.head(context_id, 0, room)
    buffers: list[bytes | memoryview] = []
    for start in range(0, max(len(view), 1), room):
        fragment = view[start:start + room]
        final = pdata.LAST if last and start + room >= len(view) else 0
        buffers += [full if len(fragment) == room and not final else pdata.head(context_id, final, len(fragment)), fragment]
    return buffers


def _abort(wire: Wire) -> None:
    """Tell the peer, where that is still possible, and close."""
    wire.tick = lambda: None
    wire.said.clear()
    if wire.between and not wire.closed:
        wire.put([pdus.abort()])
        with suppress(Closed):
            wire.flush(0)
    wire.close()

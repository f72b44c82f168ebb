"""The upper layer's state machine as an acceptor needs it, run by the one thread that also serves the association.

**Way** `Driver.request` waits for the association request (Sta2), `reject` and `accept` answer it (Sta3), `data` gives the
next P-DATA-TF PDU and answers a release (Sta6, Sta8), `abort` ends it, and `close` waits a little for the peer to close first
(Sta13). Nothing polls: each wait is for the socket, and the timers are its deadlines.

**Fails** All end with `Ended`, which says how; then only `close` is left to call. What the peer may not send is answered by
A-ABORT before that.

**Standard** PS3.8 section 9.2 (Tables 9-6 to 9-10). Acting for the service-user at once, the machine is never seen in Sta3 or
Sta8; an acceptor that asks for no release has no Sta7 and Sta9 to Sta12.

**Limits** The ARTIM timer of Sta13 is `LINGER_S`: a peer that closes later may lose our last PDU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dicomnode.upper import pdata, pdus
from dicomnode.upper.command import Malformed
from dicomnode.upper.handshake import ASSOCIATE_MAX_BYTES, Request, read_request
from dicomnode.upper.wire import Closed, Interrupted, TimedOut, TooLong, Wire

#: Wait for the peer to close after our last PDU, seconds.
LINGER_S = 1.0


class Ended(Exception):
    """The association is over; ``how`` says by what."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        #: ``released``, ``rejected``, ``aborted`` (by the peer), ``closed`` or ``broken`` (the connection), ``timeout``,
        #: ``protocol`` (the peer sent what it may not), ``told`` (to end).
        self.how = how


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much."""

    #: ARTIM: the association request must be whole by then, seconds from the connection.
    artim_s: float
    #: A PDU must be whole this long after its first byte, the next one of a message must begin by then, and what we write
    #: must be taken, seconds.
    pdu_s: float
    #: An association on which nothing comes between messages is aborted, seconds.
    idle_s: float
    max_pdu_bytes: int


class Driver:
    """One accepted connection."""

    def __init__(self, wire: Wire, limits: Limits) -> None:
        self.wire = wire
        self._limits = limits
        self._started = time.monotonic()
        #: As PS3.8 Table 9-10 numbers them: Sta1, Sta2, Sta6 or Sta13.
        self.state = "Sta2"
        self._peer_max_pdu_bytes = 0

    # -- establishment
    def request(self) -> Request:
        """Wait for the association request."""
        deadline = self._started + self._limits.artim_s
        kind, body = self._next(ASSOCIATE_MAX_BYTES, lambda _begun: deadline)
        if kind == pdus.ABORT:
            raise self._over("aborted")
        if kind != pdus.ASSOCIATE_RQ:
            raise self._wrong(pdus.BY_USER, pdus.NOT_SPECIFIED)
        try:
            request = read_request(bytes(body))
        except Malformed:
            raise self._wrong(pdus.BY_USER, pdus.NOT_SPECIFIED) from None
        self._peer_max_pdu_bytes = request.max_pdu_bytes
        return request

    def reject(self, result: int, source: int, reason: int) -> Ended:
        """Answer the request with a rejection; raise what this gives."""
        self._last_words(pdus.reject(result, source, reason))
        return Ended("rejected")

    def accept(self, acceptance: bytes) -> None:
        """Answer the request with an acceptance."""
        self._write([acceptance])
        self.state = "Sta6"

    # -- data transfer
    def data(self, *, within: bool = False) -> memoryview:
        """Wait for the next P-DATA-TF PDU and give its body, good until the next call; ``within`` a message, or for one."""
        limits, asked = self._limits, time.monotonic()
        patience_s = min(limits.pdu_s, limits.idle_s) if within else limits.idle_s
        longest = max(limits.max_pdu_bytes, ASSOCIATE_MAX_BYTES)
        kind, body = self._next(longest, lambda begun: asked + patience_s if begun is None else begun + limits.pdu_s)
        if kind == pdus.P_DATA_TF:
            return body
        if kind == pdus.RELEASE_RQ:
            self._last_words(pdus.RELEASE_RP_PDU)
            raise Ended("released")
        if kind == pdus.ABORT:
            raise self._over("aborted")
        known = pdus.ASSOCIATE_RQ <= kind <= pdus.ABORT
        raise self._wrong(pdus.BY_PROVIDER, pdus.UNEXPECTED_PDU if known else pdus.UNRECOGNISED_PDU)

    def malformed(self) -> Ended:
        """Abort because of what stood in a P-DATA-TF PDU; raise what this gives."""
        return self._wrong(pdus.BY_PROVIDER, pdus.INVALID_PARAMETER)

    def say(self, context_id: int, command: bytes) -> None:
        """Send a command set without a data set."""
        self._write(pdata.message(context_id, command, self._peer_max_pdu_bytes))

    # -- the end
    def abort(self) -> None:
        """End the association from our side, as the service-user."""
        if self.state in {"Sta2", "Sta6"}:
            self._last_words(pdus.abort())

    def close(self) -> None:
        """Let the peer close first if we had the last word, then close."""
        if self.state == "Sta13":
            self.wire.discard(time.monotonic() + LINGER_S)
        self.state = "Sta1"
        self.wire.close()

    # -- inside
    def _next(self, longest: int, deadline: Callable[[float | None], float]) -> tuple[int, memoryview]:
        """Wait for a whole PDU; ``deadline`` is asked with the time of its first byte, or None while there is none."""
        wire = self.wire
        begun: float | None = None
        try:
            while (one := wire.pdu(longest)) is None:
                if begun is None and wire.waiting_bytes:
                    begun = time.monotonic()
                wire.fill(deadline(begun))
        except TooLong:
            raise self._wrong(pdus.BY_PROVIDER, pdus.INVALID_PARAMETER) from None
        except TimedOut:
            if self.state == "Sta2":  # AA-2: nobody is there yet who could be told
                raise self._over("timeout") from None
            self._last_words(pdus.abort(pdus.BY_USER if begun is None else pdus.BY_PROVIDER))
            raise Ended("timeout") from None
        except Interrupted:
            self.abort()
            raise Ended("told") from None
        except OSError as error:
            raise self._over("closed" if isinstance(error, Closed) else "broken") from None
        return one

    def _write(self, buffers: list[bytes | memoryview]) -> None:
        try:
            self.wire.send(buffers, time.monotonic() + self._limits.pdu_s)
        except TimedOut:
            raise self._over("timeout") from None
        except OSError:
            raise self._over("broken") from None

    def _last_words(self, pdu: bytes) -> None:
        """Write without waiting: to a peer that does not read there is nothing more to say."""
        self.state = "Sta13"
        try:
            self.wire.send([pdu], time.monotonic())
        except OSError:
            self.state = "Sta1"

    def _over(self, how: str) -> Ended:
        self.state = "Sta1"
        return Ended(how)

    def _wrong(self, source: int, reason: int) -> Ended:
        self._last_words(pdus.abort(source, reason))
        return Ended("protocol")

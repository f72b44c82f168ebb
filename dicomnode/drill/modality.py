"""The drill's sending peer: one association as a modality makes it, or breaks it.

**Way** `Association` opens with the request, `store` sends and waits for the status. `begin` leaves an instance half sent;
`abort`, `reset` and `close` end that in the ways in which it ends in the field.

**Fails** What `pdu` raises; a connection that the node does not take is `Ended`.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Self

from dicomnode.drill import pdu
from dicomnode.drill.pdu import Ended, Rejected, Silent, Wrong
from dicomnode.drill.pictures import SOP_CLASS, SYNTAX, Picture

_STORE, _ECHO = 1, 3
_CONTEXTS: tuple[pdu.Proposed, ...] = ((_STORE, SOP_CLASS, (SYNTAX,)), (_ECHO, pdu.VERIFICATION, (pdu.IMPLICIT,)))


class Association:
    """An association to the node under drill; used by one thread."""

    def __init__(self, port: int, called: str, calling: str, *, timeout_s: float = 30.0, ask: bool = True) -> None:
        self._message = 0
        self._request = pdu.associate_rq(called, calling, _CONTEXTS)
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        except OSError as error:
            raise Ended(f"no connection ({type(error).__name__})") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ask:
            try:
                self._ask()
            except BaseException:
                self.close()
                raise

    def _ask(self) -> None:
        pdu.write(self._socket, self._request)
        kind, body = pdu.read(self._socket)
        if kind == pdu.RJ:
            raise Rejected(body[1], body[2], body[3])
        if kind == pdu.ABORT:
            raise Ended("the association was aborted")
        if kind != pdu.AC:
            raise Wrong(f"the node answered an association request with a PDU of type {kind}")
        if not {_STORE, _ECHO} <= pdu.accepted_of(body):
            raise Wrong("the node does not take radiographs in Explicit VR Little Endian, or no C-ECHO")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def store(self, picture: Picture) -> int:
        """Send an instance and give the status."""
        self.send(picture)
        return self.status()

    def send(self, picture: Picture) -> None:
        """Send an instance and wait for nothing."""
        self._message += 1
        request = pdu.store_rq(_STORE, self._message, SOP_CLASS, picture.uid)
        pdu.write(self._socket, b"".join((request, *pdu.data(_STORE, picture.content))))

    def echo(self) -> int:
        """Send a C-ECHO and give the status."""
        self._message += 1
        pdu.write(self._socket, pdu.echo_rq(_ECHO, self._message))
        return self.status()

    def status(self) -> int:
        """Wait for the response to the last request."""
        kind, body = pdu.read(self._socket)
        if kind == pdu.ABORT:
            raise Ended("the association was aborted")
        if kind != pdu.DATA:
            raise Wrong(f"the node answered a request with a PDU of type {kind}")
        answer = pdu.elements_of(b"".join(fragment for _, _, _, fragment in pdu.fragments(body)))
        if pdu.number_in(answer, 0x0120) != self._message:
            raise Wrong("the node answered another message than the one that it was sent")
        return pdu.number_in(answer, 0x0900)

    # -- in part
    def begin(self, picture: Picture) -> bytes:
        """Send the request and the first half of the data set, up to the midst of a PDU; gives the rest."""
        self._message += 1
        whole = b"".join(pdu.data(_STORE, picture.content))
        cut = len(whole) // 2
        pdu.write(self._socket, pdu.store_rq(_STORE, self._message, SOP_CLASS, picture.uid) + whole[:cut])
        return whole[cut:]

    def trickle(self, content: bytes | None = None, *, pause_s: float = 0.1, longest_s: float = 30.0) -> float:
        """Send a byte at a time, the association request unless told otherwise, until cut off; gives the seconds until then."""
        started = time.monotonic()
        self._socket.settimeout(pause_s)
        for byte in content or self._request:
            try:
                pdu.write(self._socket, bytes([byte]))
                pdu.read(self._socket)
            except Silent:
                if time.monotonic() - started > longest_s:
                    break
                continue
            except Ended:
                return time.monotonic() - started
        return float("inf")

    def cut_off(self, longest_s: float) -> float:
        """Wait in silence until the node ends this; gives the seconds, infinite when it does not."""
        started = time.monotonic()
        self._socket.settimeout(longest_s)
        try:
            while pdu.read(self._socket)[0] not in (pdu.ABORT, pdu.RELEASE_RP):
                pass
        except Silent:
            return float("inf")
        except Ended:
            pass
        return time.monotonic() - started

    # -- ends
    def release(self) -> None:
        """End in order."""
        pdu.write(self._socket, pdu.pdu(pdu.RELEASE_RQ, bytes(4)))
        kind, _ = pdu.read(self._socket)
        self.close()
        if kind != pdu.RELEASE_RP:
            raise Wrong(f"the node answered a release with a PDU of type {kind}")

    def abort(self) -> None:
        """A-ABORT, also in the midst of a PDU, where the node cannot know it from data."""
        pdu.write(self._socket, pdu.abort())
        self.close()

    def reset(self) -> None:
        """RST, as a modality that is switched off by its breaker."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the connection without a word."""
        self._socket.close()

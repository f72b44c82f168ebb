"""A connection that one thread writes and reads, and never waits on one of the two alone.

**Way** The socket does not block. `Wire.put` takes buffers, `Wire.flush` hands them to the kernel, many at a call; where the
peer does not read, it waits for either direction and comes back when the peer has said something. `Wire.pdu` gives the next
PDU. ``TCP_QUICKACK`` is armed anew before each wait for the peer: else its Nagle algorithm holds the second half of a response
back until our acknowledgement, 40 ms late, has come. ``tick`` is called at each step and at least once a second, also while
the name of the peer is looked up: the resolver takes what time it likes, so it is asked in a thread of its own.
It stands beside `upper.wire`, which reads much and writes little; a requestor writes much, and must hear the peer meanwhile.

**Fails** `Closed` when the connection has ended, or nothing moved for the time given, or what came is no PDU.

**Standard** PS3.8 9.3.1: six bytes of head, the length in the last four, big endian.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

#: Longest wait without a ``tick``, seconds.
_SLICE_S = 1.0
#: Buffers of one call (IOV_MAX of Linux).
_BUFFERS = 1024
_READ_BYTES = 65536
_HEAD_BYTES = 6
#: Longest PDU that a peer may send us: what we allow for data, or an acceptance of all contexts, which is shorter.
_LONGEST_PDU = 131072

Pdu = tuple[int, bytes]
#: What `socket.getaddrinfo` gives.
_Addresses = list[tuple[Any, ...]]


class Closed(Exception):
    """The connection can no longer be used."""


class Wire:
    """One connection, as a requestor has it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._read = bytearray()
        self._unsent: deque[memoryview] = deque()
        #: Nothing more can be said: the peer has closed, or we have.
        self.closed = False
        self.tick: Callable[[], None] = lambda: None
        #: PDUs that came and were not asked for yet.
        self.said: deque[Pdu] = deque()

    @classmethod
    def connect(cls, host: str, port: int, timeout_s: float, tick: Callable[[], None]) -> Wire:
        """Connect to the first address of the host that answers; raises `OSError`."""
        error: OSError = OSError("the name of the host has no address")
        for family, kind, protocol, _, address in _addresses(host, port, timeout_s, tick):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                wire = cls(sock)
                wire.tick = tick
                sock.connect_ex(address)
                wire.connected(time.monotonic() + timeout_s)
            except OSError as failed:
                sock.close()
                error = failed
            except BaseException:
                sock.close()
                raise
            else:
                return wire
        raise error

    def connected(self, deadline: float) -> None:
        """Wait until the connection stands; raises `OSError`."""
        if not self.wait(select.POLLOUT, deadline):
            raise TimeoutError
        if number := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, "connect")

    # -- waiting
    def wait(self, events: int, deadline: float) -> int:
        """Wait for one of the events; 0 when there was none until the deadline."""
        self._poll.modify(self._sock.fileno(), events)
        while True:
            self.tick()
            left = deadline - time.monotonic()
            found = self._poll.poll(max(0.0, min(left, _SLICE_S)) * 1000)
            if found:
                return found[0][1]
            if left <= _SLICE_S:
                return 0

    def pause(self, seconds: float) -> None:
        """Let time pass, or come back earlier when the peer says something."""
        if not self.said and self.wait(select.POLLIN, time.monotonic() + seconds):
            self._take()

    def look(self) -> None:
        """Take what the peer has said already, without waiting."""
        if not self.closed and self._sock.fileno() >= 0:
            self._poll.modify(self._sock.fileno(), select.POLLIN)
            if self._poll.poll(0):
                self._take()

    # -- writing
    @property
    def between(self) -> bool:
        """True when everything put has been handed to the kernel."""
        return not self._unsent

    def put(self, buffers: Iterable[bytes | memoryview]) -> None:
        """Add buffers; they must stay as they are until `flush` has given True."""
        self._unsent.extend(map(memoryview, buffers))

    def flush(self, quiet_s: float) -> bool:
        """Write what was put; False when the peer said something before everything was written.

        Raises
        ------
        Closed
            The connection has ended, or the peer has read nothing for ``quiet_s``.
        """
        unsent = self._unsent
        while unsent:
            if self.said:
                return False
            try:
                sent = self._sock.sendmsg([unsent[i] for i in range(min(len(unsent), _BUFFERS))])
            except BlockingIOError:
                events = self.wait(select.POLLIN | select.POLLOUT, time.monotonic() + quiet_s)
                if not events:
                    raise Closed("the peer does not read") from None
                if events & ~select.POLLOUT:
                    self._take()
                continue
            except OSError as error:
                self._take()  # what it said before, an abort perhaps
                if self.said:
                    return False
                raise Closed(type(error).__name__) from None
            self.tick()
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            if sent:
                unsent[0] = unsent[0][sent:]
        return True

    # -- reading
    def pdu(self, timeout_s: float) -> Pdu:
        """Wait for the next PDU.

        Raises
        ------
        Closed
            There is none, or not all of it within the time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.said:
            if self.closed:
                raise Closed("the peer has closed the connection")
            self._quick()
            if not self.wait(select.POLLIN, deadline):
                raise Closed("no answer in time")
            self._take()
            if not self.said and time.monotonic() > deadline:  # it says something all the time, and never all of it
                raise Closed("no answer in time")
        return self.said.popleft()

    def _quick(self) -> None:
        with suppress(OSError):
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _take(self) -> None:
        """Read what is there and cut it into PDUs."""
        try:
            came = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            came = b""
        if not came:
            self.closed = True
            if not self.said:
                raise Closed("the peer has closed the connection")
            return
        self._read += came
        while len(self._read) >= _HEAD_BYTES:
            length = int.from_bytes(self._read[2:_HEAD_BYTES], "big")
            if length > _LONGEST_PDU:
                self.closed = True
                raise Closed("a PDU is too long")
            if len(self._read) < _HEAD_BYTES + length:
                return
            self.said.append((self._read[0], bytes(self._read[_HEAD_BYTES:_HEAD_BYTES + length])))
            del self._read[:_HEAD_BYTES + length]

    # -- ending
    def close(self) -> None:
        """Close; what the peer has not taken of an unfinished PDU is thrown away, not waited for."""
        if self._unsent and self._sock.fileno() >= 0:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self._unsent.clear()
        self.closed = True
        self._sock.close()


def _addresses(host: str, port: int, timeout_s: float, tick: Callable[[], None]) -> _Addresses:
    """Give the addresses of a host; raises `OSError`, also when they are not known in time."""
    with suppress(socket.gaierror, UnicodeError):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    answer: list[_Addresses | OSError] = []

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            answer.append(error)
        except UnicodeError:
            answer.append(OSError("what is set as the host is no name"))

    thread = threading.Thread(target=ask, name="resolver", daemon=True)
    thread.start()
    deadline = time.monotonic() + timeout_s
    while not answer and (left := deadline - time.monotonic()) > 0 and thread.is_alive():
        tick()
        thread.join(min(left, _SLICE_S))
    if not answer:
        raise TimeoutError("the name of the host is not resolved in time")
    if isinstance(answer[0], OSError):
        raise answer[0]
    return answer[0]

"""A socket that one thread waits on: large reads into one buffer, gathered writes, deadlines, and a way to be woken.

**Way** `Wire.pdu` gives the next whole PDU that is in the buffer as views, `Wire.fill` waits for more bytes. A view is good
until the next `fill`. `Wire.send` writes all that it is given. `Wire.interrupt` may be called by another thread: `fill` then
raises `Interrupted`, and writing is still possible, so that the peer can be told.

The buffer starts small and is doubled only when it is full of bytes that came, never to a length that was only claimed.
Before each wait acknowledgements are set to go out at once: a sender with Nagle's algorithm waits for ours before its next
small segment, and the kernel goes back to delayed ones by itself (tcp(7), TCP_QUICKACK).

**Fails** `Closed` at the end of the stream, also inside a PDU; `TimedOut` at a deadline; `TooLong` for a PDU that is longer
than agreed, as soon as its header is there; other `OSError` as the socket has them.

**Standard** PS3.8 section 9.3.1 (PDU header).

**Limits** Linux. Not for TLS.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final

_HEAD = struct.Struct(">BxL")
_FIRST_BYTES: Final = 16 << 10
#: Several PDUs of the usual size fit.
_LARGE_BYTES: Final = 256 << 10
#: IOV_MAX of Linux is 1024.
_MOST_BUFFERS: Final = 512


class Closed(OSError):
    """The peer has closed the connection."""


class TimedOut(OSError):
    """The deadline has passed."""


class Interrupted(OSError):
    """Another thread called `Wire.interrupt`."""


class TooLong(OSError):
    """A PDU is longer than agreed."""


class Wire:
    """A connected socket; used by one thread, but for `interrupt` and `cut`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # no TCP: a test
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._lock = threading.Lock()
        self._interrupted = False
        self._view = memoryview(bytearray(_FIRST_BYTES))
        #: What has come and was not given away yet lies between these two.
        self._start = self._end = 0

    # -- reading
    @property
    def waiting_bytes(self) -> int:
        """Bytes that have come and were not given away: the beginning of a PDU, after `pdu` gave none."""
        return self._end - self._start

    def pdu(self, longest: int) -> tuple[int, memoryview] | None:
        """Give type and body of the next PDU when it is whole; ``longest`` is the most that its body may have.

        Raises
        ------
        TooLong
            Its header claims more.
        """
        have = self._end - self._start
        if have < _HEAD.size:
            return None
        kind, length = _HEAD.unpack_from(self._view, self._start)
        if length > longest:
            raise TooLong(f"a PDU claims {length} bytes, {longest} were agreed")
        if have < _HEAD.size + length:
            return None
        body = self._start + _HEAD.size
        self._start = body + length
        return kind, self._view[body:self._start]

    def fill(self, deadline: float) -> None:
        """Read what there is, after waiting for it until ``deadline`` (`time.monotonic`); ends the life of all views."""
        self._make_room()
        while True:
            if self._interrupted:
                raise Interrupted("told to end")
            try:
                count = self._sock.recv_into(self._view[self._end:])
            except BlockingIOError:
                self._acknowledge()
                self._wait(select.POLLIN, deadline)
                continue
            if self._interrupted:
                raise Interrupted("told to end")
            if not count:
                raise Closed("the peer has closed the connection")
            self._end += count
            return

    def discard(self, deadline: float) -> None:
        """Read and forget until the peer closes, at most until ``deadline``: closing first could destroy our last words."""
        self._start = self._end = 0
        with contextlib.suppress(OSError):
            while True:
                try:
                    if not self._sock.recv_into(self._view):
                        return
                except BlockingIOError:
                    self._wait(select.POLLIN, deadline)

    def _make_room(self) -> None:
        """Move what is left to the front; a buffer that it fills is doubled."""
        have = self._end - self._start
        size = len(self._view)
        if self._start:
            if have:
                self._view[:have] = self._view[self._start:self._end]
            grow = size < _LARGE_BYTES and self._end == size
        else:
            grow = have == size
        if grow:
            larger = memoryview(bytearray(2 * size))
            larger[:have] = self._view[:have]
            self._view = larger
        self._start, self._end = 0, have

    def _acknowledge(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _wait(self, what: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimedOut("the deadline has passed")
        if what == select.POLLIN:
            self._poll.poll(math.ceil(left * 1000))
        else:
            one = select.poll()
            one.register(self._sock, what)
            one.poll(math.ceil(left * 1000))

    # -- writing
    def send(self, buffers: Iterable[bytes | memoryview], deadline: float) -> None:
        """Write all of it."""
        left: list[bytes | memoryview] = [buffer for buffer in buffers if len(buffer)]
        while left:
            try:
                count = self._sock.sendmsg(left[:_MOST_BUFFERS])
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
                continue
            left = _behind(left, count)

    # -- the end
    def interrupt(self) -> None:
        """Wake the thread that reads and let it end; from any thread."""
        self._interrupted = True
        self._shut(socket.SHUT_RD)

    def cut(self) -> None:
        """End reading and writing; from any thread."""
        self._interrupted = True
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._sock.shutdown(how)

    def close(self) -> None:
        """Shut down and close; more than once does nothing."""
        self._shut(socket.SHUT_RDWR)
        with self._lock:
            self._sock.close()


def _behind(buffers: Sequence[bytes | memoryview], count: int) -> list[bytes | memoryview]:
    """What is left of buffers of which ``count`` bytes are written."""
    for place, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[place + 1:]]
        count -= len(buffer)
    return []

"""Signs of life: what a process tells whoever started it, in the words of sd_notify(3).

**Way** To the supervisor over the socket that it handed down, else to systemd over ``$NOTIFY_SOCKET``, else to nobody. A role
calls `ready` once, `alive` at each step of real progress (it is cheap: at most one message a second leaves), `watchdog_s` when
the time that a step may take changes. Where several threads work, `Together` speaks only when all of them got on.

**Fails** Never: a sign that cannot be sent is lost, and no role ends for it; what must not be lost waits up to 2 s first.

**Standard** sd_notify(3), the watchdog of systemd.service(5).

**Limits** Nothing is sent before the first call, and the environment is read at that call: a process that this one starts later
does not inherit the socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time

#: Descriptor of the socket to the supervisor, in the environment of its children.
DESCRIPTOR = "DICOMNODE_NOTIFY_FD"
#: `alive` sends at most this often, seconds.
_APART_S = 1.0
#: What must not be lost waits so long for a reader that is behind (struct timeval): 2 s.
_WAIT = struct.pack("@ll", 2, 0)


class _Line:
    """The socket of this process, found at the first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found = False
        self._socket: socket.socket | None = None
        self._to: str | None = None
        self._watchdog_s: float | None = None
        self._alive_at = -_APART_S

    def send(self, *words: str, wait: bool = False) -> None:
        with self._lock:
            self._find()
            if self._socket is None:
                return
            with contextlib.suppress(OSError):  # full, or nobody listens any more
                data = "\n".join(words).encode()
                flags = socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT)
                if self._to is None:
                    self._socket.send(data, flags)
                else:
                    self._socket.sendto(data, flags, self._to)

    def alive(self) -> None:
        now = time.monotonic()
        if now - self._alive_at >= _APART_S:
            self._alive_at = now
            self.send("WATCHDOG=1")

    def watchdog_s(self) -> float | None:
        with self._lock:
            self._find()
            return self._watchdog_s

    def _find(self) -> None:
        if self._found:
            return
        self._found = True
        microseconds, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        if microseconds.isdecimal() and pid in ("", str(os.getpid())):
            self._watchdog_s = int(microseconds) / 1e6
        handed, named = os.environ.pop(DESCRIPTOR, ""), os.environ.pop("NOTIFY_SOCKET", "")
        with contextlib.suppress(OSError, ValueError):
            if handed:
                self._socket = socket.socket(fileno=int(handed))
                self._socket.set_inheritable(False)
            elif named.startswith(("/", "@")):
                self._to = "\0" + named[1:] if named.startswith("@") else named
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            if self._socket is not None:
                self._socket.setblocking(True)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _WAIT)


_line = _Line()


def ready() -> None:
    """Say that the start, or a reload, is through."""
    _line.send("READY=1", wait=True)


def alive() -> None:
    """Say that a step of real work, or of real waiting for work, came through."""
    _line.alive()


def watchdog_s(seconds: float) -> None:
    """Say how long it may take from now on until the next `alive`, before this process counts as stuck."""
    _line.send(f"WATCHDOG_USEC={round(seconds * 1e6)}", wait=True)


def stopping() -> None:
    """Say that this process is ending."""
    _line.send("STOPPING=1", wait=True)


def reloading() -> None:
    """Say that the configuration is read anew; `ready` ends it."""
    _line.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", wait=True)


def extend_s(seconds: float) -> None:
    """Say that the start or the end may take this much longer, counted from now."""
    _line.send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")


def status(text: str) -> None:
    """Say in a line for ``systemctl status`` what goes on; names and numbers of the node only."""
    _line.send(f"STATUS={text}")


def asked_s() -> float | None:
    """Within which time whoever started us wants each sign of life; None when it does not."""
    return _line.watchdog_s()


class Together:
    """Several threads with one sign of life: it is given when each of them got on since the last one.

    A member that waits for nothing in particular leaves, and comes back by its next `alive`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._got_on: dict[str, bool] = {}

    def alive(self, member: str) -> None:
        """Say that this member took a step; from now on it is one of those that are waited for."""
        with self._lock:
            self._got_on[member] = True
            self._speak()

    def leave(self, member: str) -> None:
        """Say that this member ends or waits: the others no longer wait for it."""
        with self._lock:
            self._got_on.pop(member, None)
            self._speak()

    def _speak(self) -> None:
        if self._got_on and all(self._got_on.values()):
            self._got_on = dict.fromkeys(self._got_on, False)
            alive()

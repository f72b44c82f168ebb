"""One process of a role: how it is started, what it says of itself, how it is ended.

**Way** A child gets the snapshot of the settings, one end of a socket pair for its signs of life (`notify.py`) and, when it
accepts, the listening socket and the table of seats. It names the time that its steps may take; when no sign comes in that
time it is stuck, and is killed: by SIGABRT, which writes where it hangs to stderr (frames, no values), then by SIGKILL.

**Fails** `Child` raises OSError when the system has no room for a process.

**Limits** A child that waits for a disk that does not answer cannot be killed by anyone; it stays stuck in the log, and systemd
is told no longer that all is well.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

from dicomnode import notify, snapshot
from dicomnode.log import get_logger
from dicomnode.roles import SUPERVISOR
from dicomnode.snapshot import Snapshot

#: A child may take this long to load what it needs, seconds; then it is stuck.
START_S = 300.0
#: Between SIGABRT and SIGKILL, seconds.
_ABORT_S = 5.0

log = get_logger("serve")


class Child:
    """A running process of a role."""

    def __init__(self, role: str, plan: Snapshot, now: float, extra: Mapping[str, int]) -> None:
        self.role, self.plan = role, plan
        self.started = now
        self.ready = False
        self._watch_s, self._seen = START_S, now
        #: What it has named; one that names no time is not watched once it is ready.
        self._named_s = math.inf
        self._kill_at: float | None = None
        #: When it is cut off, for a child that was told to end; the time is the tree's.
        self.end_by: float | None = None
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setblocking(False)
        handed = {snapshot.DESCRIPTOR: plan.descriptor, notify.DESCRIPTOR: theirs.fileno(), **extra}
        environment = {**os.environ, SUPERVISOR: str(os.getpid()), **{name: str(number) for name, number in handed.items()}}
        directory = str(plan.settings.directory.resolve())
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dicomnode", role, "-c", directory], env=environment, stdin=subprocess.DEVNULL,
                pass_fds=tuple(handed.values()),
            )
        except OSError:
            self._line.close()
            raise
        finally:
            theirs.close()
        log.info("child_started", role=role, child_pid=self.process.pid)

    @property
    def stuck(self) -> bool:
        """True from the moment its time has passed until it is gone."""
        return self._kill_at is not None

    def poll(self) -> int | None:
        """Give the exit code when the process has ended."""
        code = self.process.poll()
        if code is not None:
            self._line.close()
        return code

    def listen(self, now: float) -> None:
        """Take what it has said, and kill it when it has been silent for too long."""
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self._line.recv(4096):
                self._heard(data.decode("ascii", "replace").split("\n"), now)
        if self._kill_at is not None:
            if now >= self._kill_at:
                self.process.kill()
        elif now - self._seen > self._watch_s:
            log.error("child_stuck", role=self.role, child_pid=self.process.pid, seconds=round(now - self._seen, 1))
            self._kill_at = now + _ABORT_S
            self.process.send_signal(signal.SIGABRT)

    def _heard(self, words: list[str], now: float) -> None:
        self._seen = now
        for word in words:
            name, _, value = word.partition("=")
            if name == "READY":
                self.ready, self._watch_s = True, self._named_s
            elif name == "WATCHDOG_USEC" and value.isdecimal():
                self._named_s = int(value) / 1e6
                self._watch_s = self._named_s if self.ready else self._watch_s

    def tell(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def cut(self) -> None:
        """End it now; what it has in hand is given back first, so that its death counts on no instance."""
        if self.role in ("work", "send"):
            _give_back(self)
        self.process.kill()


def _give_back(child: Child) -> None:
    """Give the rows of a child that has no time left to whoever comes next, uncounted."""
    from dicomnode.errors import DicomNodeError  # noqa: PLC0415 - the master has no database open while all is well
    from dicomnode.queue.owner import of_process  # noqa: PLC0415
    from dicomnode.queue.sqlite import SqliteQueue  # noqa: PLC0415

    settings = child.plan.settings
    owner = of_process(child.process.pid)
    try:
        queue = SqliteQueue(settings.node.state_dir / "queue.sqlite")
        try:
            queue.let_go(owner)
            for name in settings.peers:
                queue.let_go(owner, name)
        finally:
            queue.close()
    except DicomNodeError as error:  # then the keeper takes them back, and counts
        log.warning("store_failed", role=child.role, child_pid=child.process.pid, reason=error.code)

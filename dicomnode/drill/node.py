"""The node under drill: ``dicomnode serve`` in a process group of its own, its children, its log and its queue.

**Way** The processes of a role are found in /proc below the supervisor, so that a drill can kill or stop one as an accident
would. The node is told the drill as its supervisor: the kernel ends it when the drill dies, however that dies.

**Fails** `Wrong` when something does not happen in time; the sentence says what.

**Limits** Linux. The queue is read as it is on disk, through the node's own module.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dicomnode.drill.modality import Association
from dicomnode.drill.pdu import Ended, Rejected, Wrong
from dicomnode.errors import Transient
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.roles import SUPERVISOR

#: A recovery that takes longer is none, seconds, unless asked otherwise.
PATIENCE_S = 60.0
#: As the supervisor calls its children.
ROLES = ("accept", "work", "send", "keep")
_STOP_S = 45.0
_COMMAND_S = 60.0
_TICK_S = 0.02
#: What a service manager told the drill is not for the node under drill.
_NOT_PASSED_ON = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

Row = Mapping[str, Any]
T = TypeVar("T")


def until(claim: Callable[[], T], what: str, patience_s: float, tick_s: float = _TICK_S) -> T:
    """Ask until the answer is true and give it; `Wrong` with ``what`` when that takes too long."""
    deadline = time.monotonic() + patience_s
    while True:
        if found := claim():
            return found
        if time.monotonic() > deadline:
            raise Wrong(f"{what} within {patience_s:.0f} s")
        time.sleep(tick_s)


class Node:
    """One node on a scratch state."""

    def __init__(
        self, config: Path, state: Path, port: int, ae_title: str, log: Path, patience_s: float = PATIENCE_S,
    ) -> None:
        self.config, self.state, self.port, self.ae_title, self.log = config, state, port, ae_title, log
        self.patience_s = patience_s
        self._process: subprocess.Popen[bytes] | None = None
        #: Where the log ended at the last start.
        self._started_at = 0
        self._queue: SqliteQueue | None = None

    # -- processes
    @property
    def pid(self) -> int:
        """The supervisor."""
        if self._process is None:
            raise Wrong("the node does not run")
        return self._process.pid

    def start(self, *, refusing: bool = False) -> float:
        """Start the node, wait until it answers a C-ECHO (or rejects, if that is wanted), and give the seconds that took."""
        started = time.monotonic()
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
        environment |= {SUPERVISOR: str(os.getpid())}
        with self.log.open("ab") as out:
            self._started_at = out.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dicomnode", "serve", "-c", str(self.config)], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )
        self.until(lambda: self._answers(refusing=refusing), "the node does not answer a C-ECHO")
        return time.monotonic() - started

    def until_ready(self) -> None:
        """Wait until every process has said that it is ready, since the last start."""
        self.until(lambda: self.events("node_ready", self._started_at), "not all processes of the node are ready")

    def reload(self) -> None:
        """SIGHUP, and wait until every process runs by the configuration as it is now."""
        since = self.mark()
        self.signal(self.pid, signal.SIGHUP)
        self.until(lambda: self.events("config_reloaded", since), "a good configuration is not taken by SIGHUP")

    def until(self, claim: Callable[[], T], what: str, patience_s: float | None = None, tick_s: float = _TICK_S) -> T:
        """As `until`, with this node's patience unless told otherwise; a supervisor that has ended is not waited for."""

        def claimed() -> T:
            if self._process is not None and (code := self._process.poll()) is not None:
                raise Wrong(f"`dicomnode serve` ended with {code}")
            return claim()

        return until(claimed, what, self.patience_s if patience_s is None else patience_s, tick_s)

    def _answers(self, *, refusing: bool) -> bool:
        try:
            with Association(self.port, self.ae_title, "DRILL", timeout_s=5.0) as one:
                answered = one.echo() == 0
                one.release()
        except Rejected:
            return refusing
        except Ended:
            return False
        return answered

    def stop(self) -> None:
        """Drain and end."""
        self._forget_queue()
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Wrong(f"the node did not end within {_STOP_S:.0f} s of SIGTERM") from None
        self._process = None
        if code != 0:
            raise Wrong(f"the node ended with {code} after SIGTERM")

    def kill(self) -> None:
        """End everything of this node at once."""
        self._forget_queue()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def kill_supervisor(self) -> None:
        """SIGKILL the supervisor and wait for its children, as a service manager does."""
        children = [pid for role in ROLES for pid in self.pids(role)]
        supervisor, self._process = self._process, None
        if supervisor is None:
            raise Wrong("the node does not run")
        supervisor.kill()
        supervisor.wait()
        try:
            until(lambda: not any(map(_runs, children)), "the processes of a dead supervisor do not end", 30)
        except Wrong:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(supervisor.pid, signal.SIGKILL)
            raise

    def pids(self, role: str) -> list[int]:
        """The processes of one role."""
        parent, found = self.pid, []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    state, ppid = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if int(ppid) == parent and state != "Z" and b"dicomnode" in words and role.encode() in words:
                        found.append(int(entry.name))
        return sorted(found)

    def one(self, role: str) -> int:
        """One process of a role, once there is one."""
        return self.until(lambda: self.pids(role), f"no process of `dicomnode {role}` runs")[0]

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signal one process of this node."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    # -- what it has
    def rows(self) -> dict[str, list[Row]]:
        """Rows of the queue by SOP Instance UID, with their deliveries."""
        found: dict[str, list[Row]] = {}
        queue = self.queue()
        for row in queue.rows() if queue is not None else ():
            found.setdefault(str(row["sop_instance_uid"]), []).append(row)
        return found

    def row(self, uid: str) -> Row | None:
        """The row of one instance that is no duplicate."""
        queue = self.queue()
        rows = queue.find(uid) if queue is not None else ()
        return next((row for row in rows if row["state"] != "duplicate"), None)

    def queue(self) -> SqliteQueue | None:
        """The queue, once the node has made it."""
        path = self.state / "queue.sqlite"
        if self._queue is None and path.exists():
            with contextlib.suppress(Transient):
                self._queue = SqliteQueue(path)
        return self._queue

    def _forget_queue(self) -> None:
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def leftovers(self) -> list[Path]:
        """Files that are being received, or were when their writer died."""
        return sorted((self.state / "spool" / "tmp").glob("*"))

    def events(self, name: str, since: int = 0) -> list[dict[str, Any]]:
        """Lines of the log of one event, from a byte on."""
        return [record for record in self._records(since) if record.get("event") == name]

    def mark(self) -> int:
        """Where the log ends now."""
        return self.log.stat().st_size

    def _records(self, since: int) -> Iterator[dict[str, Any]]:
        with self.log.open("rb") as file:
            file.seek(since)
            for line in file:
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield record

    def command(self, *words: str) -> None:
        """Run a command of dicomnode on this node's configuration."""
        line = [sys.executable, "-m", "dicomnode", *words, "-c", str(self.config)]
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
        if done.returncode != 0:
            raise Wrong(f"`dicomnode {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()[-300:]}")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False

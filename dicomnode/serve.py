"""`dicomnode serve`: a small supervisor that keeps the four roles running.

**Way** One child process a role (`work` as often as configured), each the same command that also runs alone. A child that
ends is started again, after a pause that doubles while it keeps dying young. SIGTERM drains: the acceptor first, so that
nothing new comes, then the others; who has not ended in time is killed, which loses nothing.

**Fails** A child that ends with 78 has a configuration it cannot use: the supervisor stops all and ends with 78 too.

**Limits** The supervisor holds no state: when it dies its children get SIGTERM from the kernel and end by themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

from dicomnode import __version__
from dicomnode.errors import EXIT_CONFIG, BadSetting
from dicomnode.log import get_logger
from dicomnode.roles import SUPERVISOR, Stop
from dicomnode.settings import Settings

#: What brings work in comes first, and is drained first.
ROLES = ("accept", "work", "send", "keep")
#: A child that lived this long starts afresh without a pause, seconds.
GROWN_UP_S = 10.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
#: Time to drain before a child is killed, seconds: for the acceptor, and then for all the others.
DRAIN_S = 30.0
TICK_S = 0.1

log = get_logger("serve")


@dataclass(slots=True)
class Child:
    """One place in the tree: a role, its process when it runs, and when it may start again."""

    role: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    not_before: float = field(default=0.0)

    def start(self) -> None:
        """Start the process, or try again after a pause when the system has no room for one."""
        environment = {**os.environ, SUPERVISOR: str(os.getpid())}
        self.started = time.monotonic()
        try:
            self.process = subprocess.Popen(self.command, env=environment, stdin=subprocess.DEVNULL)
        except OSError as error:
            self._pause()
            log.error("child_exited", role=self.role, error_type=type(error).__name__, actor="administrator")
            return
        log.info("child_started", role=self.role, child_pid=self.process.pid)

    def poll(self) -> int | None:
        """The exit code when the process has ended since the last call; it may start again after a pause."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self._pause()
        log.warning("child_exited", role=self.role, child_pid=self.process.pid, exit_code=code)
        self.process = None
        return code

    def _pause(self) -> None:
        young = time.monotonic() - self.started < GROWN_UP_S
        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S) if young else FIRST_PAUSE_S
        self.not_before = time.monotonic() + self.pause_s


def run_supervisor(settings: Settings, stop: Stop) -> int:
    """Keep the roles running until told to stop; gives the exit code."""
    children = [
        Child(role, [sys.executable, "-m", "dicomnode", role, "-c", str(settings.directory.resolve())])
        for role in ROLES
        for _ in range(settings.work.workers if role == "work" else 1)
    ]
    log.info(
        "node_started",
        version=__version__,
        called_ae=settings.node.ae_title,
        port=settings.node.port,
        workers=settings.work.workers,
        config_digest=settings.digest[:12],
    )
    try:
        return _watch(children, stop)
    finally:
        _drain(children)
        log.info("node_stopped")


def _watch(children: list[Child], stop: Stop) -> int:
    while not stop.is_set():
        for child in children:
            if child.poll() == EXIT_CONFIG:
                return EXIT_CONFIG
            if child.process is None and time.monotonic() >= child.not_before:
                child.start()
        stop.wait(TICK_S)
    return 0


def _drain(children: list[Child]) -> None:
    """End the acceptor, so that nothing new comes, then all the others at once."""
    _end([child for child in children if child.role == ROLES[0]])
    _end([child for child in children if child.role != ROLES[0]])


def _end(children: list[Child]) -> None:
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + DRAIN_S
    for process in running:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def refuse_second(settings: Settings) -> None:
    """Refuse to start beside another supervisor on the same state directory.

    Raises
    ------
    BadSetting
        Another process holds the lock, or it cannot be made.
    """
    import fcntl  # noqa: PLC0415 - POSIX only, as the node is

    path = settings.node.state_dir / "serve.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise BadSetting(f"node.state_dir: {path} cannot be made ({error.strerror})") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise BadSetting(f"{settings.node.state_dir}: another `dicomnode serve` runs on this state_dir") from None

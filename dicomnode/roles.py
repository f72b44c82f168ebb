"""What every long-running role shares: the signals that it hears, and ending when the supervisor is gone."""

from __future__ import annotations

import ctypes
import os
import select
import signal
from collections.abc import Callable
from typing import Protocol

from dicomnode.settings import Settings

#: The supervisor's pid, in the environment of its children.
SUPERVISOR = "DICOMNODE_SUPERVISOR"

_PR_SET_PDEATHSIG = 1


class Stop(Protocol):
    """What ends a role; a `threading.Event` is one, for tests."""

    def is_set(self) -> bool:
        """Say whether the role shall end: finish what is in hand, take nothing new."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it shall end, at most ``timeout`` seconds; gives `is_set`."""
        ...


#: Asks the supervisor to load the configuration anew, and an acceptor to take no more connections and end with its last one.
RELOAD, RETIRE = signal.SIGHUP, signal.SIGUSR1

#: A role takes the settings and what ends it, and gives an exit code.
Role = Callable[[Settings, Stop], int]


class SignalStop:
    """Ends a role on SIGTERM or SIGINT; any thread may wait.

    Not a `threading.Event`: its lock is not reentrant, so a signal that interrupts the main thread inside `Event.wait` would
    wait for itself for ever in `Event.set`. A byte in a pipe needs no lock; nobody reads it, so everybody sees it.
    The byte is written by the interpreter's own C handler: ours in Python would not run while the main thread goes to sleep
    in `select`, nor when the kernel gave the signal to another thread.
    """

    def __init__(self) -> None:
        self._set = False
        self._seen, self._told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def on_signals(self) -> SignalStop:
        """Listen from now on; to be called from the main thread, once in a process."""
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        return self

    def _signalled(self, _number: int, _frame: object) -> None:
        if not self._set:
            self._set = True
            os.write(self._told, b"x")

    def is_set(self) -> bool:
        """See `Stop.is_set`."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> bool:
        """See `Stop.wait`."""
        if not self._set and select.select([self._seen], [], [], timeout)[0]:
            self._set = True
        return self._set


def hold(*numbers: signal.Signals) -> None:
    """Keep these signals waiting for `asked` in this process and in those that it starts; to be called before any thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def asked(number: signal.Signals) -> bool:
    """Say whether a signal that is on `hold` has come since the last call."""
    return signal.sigtimedwait((number,), 0) is not None


def bind_to_supervisor() -> None:
    """Ask the kernel for SIGTERM when the supervisor dies (prctl(2), PR_SET_PDEATHSIG); nothing without a supervisor.

    A supervisor that died before this call is noticed by the changed parent.
    """
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(supervisor):
        raise SystemExit(0)

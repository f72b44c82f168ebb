"""What every long-running role shares: stopping on a signal, and ending when the supervisor is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable

from dicomnode.settings import Settings

#: The supervisor's pid, in the environment of its children.
SUPERVISOR = "DICOMNODE_SUPERVISOR"

_PR_SET_PDEATHSIG = 1

#: A role takes the settings and the event that ends it, and gives an exit code.
Role = Callable[[Settings, "Stop"], int]


class Stop(threading.Event):
    """Set when the process is asked to drain: finish what is in hand, take nothing new."""

    def on_signals(self) -> Stop:
        """Set this event on SIGTERM and SIGINT; to be called from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.set())
        return self


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

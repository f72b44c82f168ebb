"""What ends a role: signals at any moment, and the death of the supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from dicomnode.roles import SUPERVISOR, SignalStop

_HAMMERED = """
import os, signal
from dicomnode.roles import SignalStop
for _ in range(3000):
    stop = SignalStop()
    signal.signal(signal.SIGALRM, stop._signalled)
    signal.setitimer(signal.ITIMER_REAL, 0.00005, 0.00005)
    while not stop.wait(0.00001):
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.close(stop._seen)
    os.close(stop._told)
print("ended")
"""


def test_a_signal_inside_wait_ends_it() -> None:
    """A signal may come at any instruction of `wait`: the role ends, it never waits for itself."""
    done = subprocess.run([sys.executable, "-c", _HAMMERED], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "ended\n"


def test_every_thread_sees_the_end() -> None:
    """All waiters wake, those that ask later see it at once, and a second signal changes nothing."""
    stop = SignalStop()
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.append(stop.wait(30))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not stop.wait(0.05)
    stop._signalled(signal.SIGTERM, None)
    stop._signalled(signal.SIGTERM, None)
    for thread in threads:
        thread.join(10)
    assert seen == [True] * 3
    assert stop.is_set()
    assert stop.wait()


def test_a_child_of_a_dead_supervisor_ends() -> None:
    """A role whose parent is not the supervisor that its environment names was orphaned before it could ask: it ends."""
    code = "from dicomnode.roles import bind_to_supervisor; bind_to_supervisor(); print('runs')"
    environment = {**os.environ, SUPERVISOR: "1"}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_kernel_tells_a_child_of_the_end() -> None:
    """A child that is bound gets SIGTERM when its supervisor is killed."""
    child = (
        "import os, time; from dicomnode.roles import SignalStop, bind_to_supervisor;"
        "bind_to_supervisor(); stop = SignalStop().on_signals(); print(os.getpid(), flush=True); stop.wait(60)"
    )
    parent = (
        "import os, subprocess, sys, time; os.environ['" + SUPERVISOR + "'] = str(os.getpid());"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        supervisor.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":  # ended; whoever inherited it has not looked yet
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the child outlived its supervisor")

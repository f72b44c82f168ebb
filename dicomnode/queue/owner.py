"""Who claims: a process named so that nobody can be taken for it after its death.

**Way** `this_process` names the caller by boot id, pid and start time; `alive` asks /proc whether that very process still
runs. A pid that was given away again has another start time, a restarted machine another boot id.

**Fails** Never: a process that cannot be seen counts as dead.

**Limits** Linux only. All processes of a node share one pid namespace and one user; a process that is hidden from /proc
(hidepid, another container) would be taken for dead.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from dicomnode.queue import Owner

__all__ = ["Owner", "alive", "of_process", "this_process"]

_PROC = Path("/proc")
#: Zombies have an entry in /proc until their parent reaps them; they will never end a claim.
_DEAD_STATES = frozenset("ZXx")


def this_process() -> Owner:
    """Name the calling process."""
    return _named(os.getpid())


def of_process(pid: int) -> Owner:
    """Name another process, as it names itself."""
    return Owner(_boot_id(), pid, _stat(pid)[1])


def alive(owner: Owner) -> bool:
    """Say whether the process that claimed still runs."""
    if owner.boot_id != _boot_id():
        return False
    state, start_ticks = _stat(owner.pid)
    return start_ticks == owner.start_ticks and state not in _DEAD_STATES


@cache  # the key is the pid, so a forked child names itself
def _named(pid: int) -> Owner:
    return of_process(pid)


@cache
def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> tuple[str, int]:
    """State and start time (proc(5), fields 3 and 22) of a process; ``("", -1)`` when there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return "", -1
    fields = text[text.rindex(")") + 2 :].split()  # the command's name may hold spaces and parentheses
    return fields[0], int(fields[19])

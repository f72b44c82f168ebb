"""No role twice on one state directory: a lock for each role that a master runs.

**Way** `take_locks` locks ``<state_dir>/serve.<role>.lock`` for the life of the process. So four masters with one role each run
beside each other, as under systemd, and a second one of the same role does not start.

**Fails** `BadSetting` names the state directory and the role; a disk without room for a lock is `SpoolFull`.

**Limits** Roles that are run alone (``dicomnode work``) take no lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path

from dicomnode.errors import BadSetting, SpoolFull
from dicomnode.spool.disk import FULL

#: So long somebody may look at a lock, seconds.
_LOOK_S = 0.5


def lock_path(state_dir: Path, role: str) -> Path:
    """Give the file that a master of this role holds locked."""
    return state_dir / f"serve.{role}.lock"


def take_locks(state_dir: Path, roles: Iterable[str]) -> None:
    """Refuse to start beside another master of one of these roles on the same state directory.

    Raises
    ------
    BadSetting
        Another process holds a lock, or it cannot be made.
    SpoolFull
        It cannot be made for lack of room.
    """
    for role in roles:
        path = lock_path(state_dir, role)
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            kind = SpoolFull if error.errno in FULL else BadSetting
            raise kind(f"node.state_dir: {path} cannot be made ({error.strerror})") from None
        if not _locked(lock):
            os.close(lock)
            raise BadSetting(f"{state_dir}: another `dicomnode serve` runs the role {role!r} on this state_dir")


def _locked(lock: int) -> bool:
    """Lock a file; who only looks whether it is locked, as `dicomnode check` does, has it for a moment."""
    deadline = time.monotonic() + _LOOK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_S / 10)
        else:
            return True

"""No role twice on one state directory, and a look at a lock is no second master."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from dicomnode.errors import BadSetting
from dicomnode.serve.locks import lock_path, take_locks


def test_a_role_is_locked_once_and_others_are_free(tmp_path: Path) -> None:
    """Who comes second with the same role is refused by its name; another role is not."""
    take_locks(tmp_path, ["accept"])
    take_locks(tmp_path, ["keep"])
    with pytest.raises(BadSetting, match="'accept'"):
        take_locks(tmp_path, ["accept"])


def test_a_look_at_the_lock_does_not_keep_a_master_out(tmp_path: Path) -> None:
    """`dicomnode check` locks for a moment to see whether the node runs: the start waits for that."""
    path = lock_path(tmp_path, "send")
    look = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    fcntl.flock(look, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, (look,)).start()
    take_locks(tmp_path, ["send"])

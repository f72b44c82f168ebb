"""Nothing acknowledged is lost on a full disk, whichever write is the one that fails, and room again is all it takes.

The tests are those of full_disk_inside.py. Each runs in a mount namespace of its own, so that its small file systems are gone
with it, and so that no privilege is needed where the kernel lets users make namespaces.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

INSIDE = Path(__file__).with_name("full_disk_inside.py")
_NAMESPACE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]


@cache
def _refusal() -> str:
    """Why no small file system can be had here; empty when one can."""
    try:
        done = subprocess.run(
            [*_NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"], capture_output=True, text=True,
            timeout=30, check=False,
        )
    except OSError as error:
        return f"unshare(1) cannot be run: {error.strerror}"
    return "" if done.returncode == 0 else f"no mount namespace with a tmpfs for this user: {done.stderr.strip()}"


@pytest.mark.parametrize("name", ["test_steps", "test_node", "test_processes_that_start_on_a_full_disk", "test_watermarks"])
def test_on_a_small_disk(name: str, tmp_path: Path) -> None:
    """Run one of the tests inside."""
    if reason := _refusal():
        pytest.skip(reason)
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", tmp_path / "in", f"{INSIDE}::{name}"]
    done = subprocess.run([*_NAMESPACE, *line], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]

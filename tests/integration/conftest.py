"""Fixtures of the tests that run whole processes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.harness import Node
from tests.integration.master import Master


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """A node that takes any caller; what the test leaves running is killed."""
    made = Master(Node(tmp_path))
    yield made
    pids = [pid for role in ("accept", "work", "send", "keep") for pid in made.node.pids(role)]
    if made.process is not None:
        made.process.kill()
        made.process.wait()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

"""Fixtures for all tests: the strict log, the folder of shared data."""

from __future__ import annotations

import copy
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode import log

#: Beside the checkout, not part of it.
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def strict_log() -> Iterator[None]:
    """Any line that the PHI gate would trim fails the test, also when a loop swallowed the error."""
    root, hooks = logging.root, (sys.excepthook, threading.excepthook, sys.unraisablehook)
    handlers, level, state = list(root.handlers), root.level, copy.copy(log._state)
    log.strict(on=True)
    yield
    found = log.violations()
    log._state = state
    log._state.violations, log._state.seen = [], {}
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    assert found == ()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared data; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not on this machine")
    return SHARED_DATA

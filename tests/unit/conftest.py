"""Fixtures of tests that have a node's ``settings``: its spool and its queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.settings import Settings
from dicomnode.spool import Spool


@pytest.fixture
def spool(settings: Settings) -> Spool:
    """The spool of the test's node."""
    return Spool(settings.node.state_dir)


@pytest.fixture
def queue(spool: Spool) -> Iterator[SqliteQueue]:
    """The queue of the test's node."""
    opened = SqliteQueue(spool.queue_path)
    yield opened
    opened.close()

"""A child of the master without the master: its signs of life, its end when it is stuck, and what it gives back."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicomnode.queue import Claim
from dicomnode.queue.owner import alive, of_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.serve import child as children
from dicomnode.serve.child import START_S, Child
from dicomnode.snapshot import Snapshot
from tests.integration.acceptor import settings
from tests.peers import wait_for
from tests.unit.queue_contract import instance

#: Says what it is told to on its line and then waits; hangs in a lock when it is asked to be stuck.
_SPEAKS = """
import faulthandler, signal, sys, time
from dicomnode import notify
faulthandler.enable()
for word in sys.argv[1:]:
    eval("notify." + word)
print("said", flush=True)
time.sleep(600)
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Child]]:
    """Children to be ended; they run `_SPEAKS` instead of a role."""
    made: list[Child] = []
    yield made
    for one in made:
        one.process.kill()
        one.process.wait()
        one.poll()


def speaking(root: Path, monkeypatch: pytest.MonkeyPatch, made: list[Child], role: str, *words: str) -> Child:
    """A child that says these words."""
    real = subprocess.Popen

    def popen(_line: list[str], **options: object) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", _SPEAKS, *words], stdout=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(children.subprocess, "Popen", popen)
        one = Child(role, Snapshot(settings(root)), 0.0, {})
    made.append(one)
    assert one.process.stdout is not None
    with one.process.stdout as stdout:
        assert stdout.readline() == b"said\n"
    return one


def test_ready_and_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Child]) -> None:
    """The time that it names counts from its last sign, once it is ready."""
    one = speaking(tmp_path, monkeypatch, started, "accept", "watchdog_s(5)", "ready()", "alive()")
    one.listen(10)
    assert one.ready
    one.listen(14.9)
    assert not one.stuck
    one.listen(15.1)
    assert one.stuck
    assert one.process.wait(20) == -signal.SIGABRT


def test_a_stopped_process_is_killed_when_abort_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Child],
) -> None:
    """SIGABRT waits for a stopped process; SIGKILL does not."""
    one = speaking(tmp_path, monkeypatch, started, "keep", "watchdog_s(5)", "ready()")
    one.listen(0)
    one.tell(signal.SIGSTOP)
    one.listen(5.1)
    assert one.stuck
    one.listen(10)
    assert one.poll() is None
    one.listen(10.2)
    assert one.process.wait(20) == -signal.SIGKILL


def test_a_start_has_its_time_and_who_names_none_is_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Child],
) -> None:
    """Until it is ready a child may load; a role that names no time is not watched then."""
    loading = speaking(tmp_path, monkeypatch, started, "work", "watchdog_s(5)")
    loading.listen(1)
    loading.listen(START_S)
    assert not loading.stuck
    loading.listen(START_S + 1.1)
    assert loading.stuck
    silent = speaking(tmp_path, monkeypatch, started, "work", "ready()")
    silent.listen(1)
    silent.listen(1e6)
    assert not silent.stuck


def test_what_is_cut_off_is_given_back_and_counts_no_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Child],
) -> None:
    """At the end of a drain the instance in hand waits again as if nobody had had it."""
    worker = speaking(tmp_path, monkeypatch, started, "work")
    (tmp_path / "state").mkdir()
    queue = SqliteQueue(tmp_path / "state" / "queue.sqlite")
    try:
        queue.add(instance())
        owner = of_process(worker.process.pid)
        assert isinstance(queue.claim(owner, datetime.now(UTC)), Claim)
        worker.cut()
        worker.process.wait()
        wait_for(lambda: not alive(owner), what="it is dead")
        assert queue.reclaim(alive) == ()
        again = queue.claim(of_process(started[0].process.pid), datetime.now(UTC))
        assert again is not None
        assert again.attempt == 1
    finally:
        queue.close()

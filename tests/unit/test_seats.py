"""Seats over several processes: both limits, the dead, who gives way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicomnode import dimse
from dicomnode.scp.door import Door
from dicomnode.scp.seats import Seats
from tests.integration.acceptor import settings

_OTHER = """
import sys
from dicomnode.scp.seats import Seats
seats = Seats(int(sys.argv[1]))
print("here", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Other:
    """Another process at the same table, told what to do line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert self.says() == "here"

    def says(self) -> str:
        """Its next answer."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def does(self, expression: str) -> str:
        """What an expression with ``seats`` gives there."""
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self.says()


@contextmanager
def table() -> Iterator[tuple[Seats, Other]]:
    """A table with this process and another one at it."""
    shared = os.memfd_create("seats-of-a-test")
    line = [sys.executable, "-c", _OTHER, str(shared)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(shared,)) as process:
        try:
            yield Seats(shared), Other(process)
        finally:
            process.kill()


def test_both_limits_hold_over_processes() -> None:
    """What sits in another process counts, in all and for its AE title; who leaves makes room."""
    with table() as (ours, other):
        assert other.does("seats.take('CT', 3, 2)") == "0"
        seat = ours.take("CT", 3, 2)
        assert seat == 1
        assert ours.take("CT", 3, 2) == "associations_of_ae"
        assert other.does("seats.take('MR', 3, 2)") == "2"
        assert ours.take("US", 3, 2) == "associations"
        assert ours.count() == {"CT": 2, "MR": 1}
        ours.leave(seat)
        assert ours.take("US", 3, 2) == 1
        assert other.does("seats.take('CT', 4, 2)") == "3"


def test_the_seats_of_the_dead_are_free_at_once() -> None:
    """A process that is killed leaves nobody sitting; its row goes to who comes next."""
    with table() as (ours, other):
        assert other.does("[seats.take('CT', 9, 9) for _ in range(5)]") == "[0, 1, 2, 3, 4]"
        assert ours.take("MR", 5, 5) == "associations"
        other.process.send_signal(signal.SIGKILL)
        other.process.wait()
        assert ours.take("MR", 5, 5) == 0
        assert ours.count() == {"MR": 1}


def test_who_has_more_connections_gives_way() -> None:
    """Only while another one lives, accepts and has fewer."""
    with table() as (ours, other):
        assert not ours.ahead()
        ours.busy(2)
        assert not ours.ahead(), "the other does not accept yet"
        other.does("seats.busy(1)")
        assert ours.ahead()
        assert other.does("seats.ahead()") == "False"
        other.does("seats.busy(2)")
        assert not ours.ahead()
        other.does("seats.busy(1, accepts=False)")
        assert not ours.ahead(), "it retires"
        other.does("seats.busy(1)")
        other.process.kill()
        other.process.wait()
        assert not ours.ahead()


def test_as_many_as_the_settings_may_ask_for() -> None:
    """A thousand seats, and titles of full length that differ in the last letter."""
    seats = Seats()
    for number in range(1000):
        assert seats.take(f"SIXTEENLETTERS{number % 2:02}", 1000, 500) == number
    assert seats.take("OTHER", 1000, 500) == "associations"
    assert seats.count() == {"SIXTEENLETTERS00": 500, "SIXTEENLETTERS01": 500}


def test_the_reasons_at_the_door(tmp_path: Path) -> None:
    """Each refusal has the standard's result, source and reason, and its own word in the log."""
    config = settings(tmp_path, open_=True, scp={"max_associations": 3, "max_associations_per_ae": 2})
    door = Door(config, lambda: 1)
    assert door.judge("1", "CT", "DICOMNODE", "127.0.0.1") is None
    assert door.judge("2", "CT", "DICOMNODE", "127.0.0.1") is None
    one = door.judge("3", "CT", "DICOMNODE", "127.0.0.1")
    assert one is not None
    assert (one.code, one.reason) == ((2, 3, 2), "too_many_associations_of_ae")
    assert door.judge("4", "MR", "DICOMNODE", "127.0.0.1") is None
    one = door.judge("5", "US", "DICOMNODE", "127.0.0.1")
    assert one is not None
    assert (one.code, one.reason) == (dimse.REJECT_LIMIT, "too_many_associations")
    door.leave("1")
    door.leave("1")
    assert door.judge("6", "US", "DICOMNODE", "127.0.0.1") is None
    assert door.count() == 3
    assert Door(config, lambda: -1).judge("7", "US", "DICOMNODE", "127.0.0.1").code == (2, 3, 1)  # type: ignore[union-attr]
    assert door.judge("8", "US", "OTHER", "127.0.0.1").code == (1, 1, 7)  # type: ignore[union-attr]

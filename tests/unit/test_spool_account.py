"""Receipts and room: what was acknowledged is written down, and holds have a room that the intake does not see."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from dicomnode.errors import OutOfResources
from dicomnode.spool import Spool, new_id
from dicomnode.spool.room import STALE_S, held_bytes, holds_room

from .spooled import an_id, receive

GIB = 1 << 30


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool in an empty state directory."""
    return Spool(tmp_path / "state")


# -- receipts
def test_a_receipt_is_a_line_of_its_day(spool: Spool) -> None:
    """In the order of acknowledgement, readable by the group alone."""
    for number in (2, 1):
        spool.receipt(an_id(number))
    (path,) = (spool.state_dir / "receipts").iterdir()
    assert path.name in {f"{datetime.now(UTC) - timedelta(seconds=s):%Y%m%d}" for s in (0, 60)}
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(spool.receipts()) == [an_id(2), an_id(1)]


def test_receipts_of_many_threads_and_spools_do_not_mix(spool: Spool) -> None:
    """As several acceptors write them."""
    ids = [[new_id(datetime.now(UTC)) for _ in range(200)] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda mine=mine: [Spool(spool.state_dir).receipt(one) for one in mine]) for mine in ids
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(spool.receipts()) == sorted(one for mine in ids for one in mine)


def test_a_receipt_is_no_path(spool: Spool) -> None:
    """Only an id of ours is a line."""
    with pytest.raises(ValueError, match="instance id"):
        spool.receipt("../x\n")


def test_a_receipt_that_cannot_be_written_is_0xa700(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason."""
    (spool.state_dir / "receipts").rmdir()
    with pytest.raises(OutOfResources) as caught:
        spool.receipt(an_id(1))
    assert caught.value.status == 0xA700
    (spool.state_dir / "receipts").mkdir()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OutOfResources):
            spool.receipt(an_id(1))
    spool.receipt(an_id(2))
    assert list(spool.receipts()) == [an_id(2)]


@pytest.mark.parametrize("taken", [1, 12, 29, 30])
def test_a_line_that_a_full_disk_cut_off_is_0xa700_and_spoils_no_other(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, taken: int,
) -> None:
    """What follows is written behind the rest of it, and read."""
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:taken]))
        with pytest.raises(OutOfResources):
            spool.receipt(an_id(1))
    spool.receipt(an_id(2))
    spool.receipt(an_id(3))
    assert list(spool.receipts()) == [an_id(2), an_id(3)]


def test_what_a_cut_of_power_left_in_a_receipt_file_is_passed_over(spool: Spool) -> None:
    """Zeros, halves and strange bytes are no receipts, strange files no days."""
    folder = spool.state_dir / "receipts"
    (folder / "20260301").write_bytes(
        f"{an_id(1)}\n".encode() + b"\0" * 100 + b"\n\xff\xfe\n" + f"{an_id(2)}\n{an_id(3)[:9]}".encode(),
    )
    (folder / "note.txt").write_text(an_id(4))
    assert list(spool.receipts()) == [an_id(1), an_id(2)]


def test_receipts_go_by_days_and_never_outlive_their_rows(spool: Spool) -> None:
    """A day goes as soon as its first moment is old; what is asked from a day on leaves the earlier ones out."""
    folder = spool.state_dir / "receipts"
    for number, day in enumerate(("20260301", "20260302", "20260303"), 1):
        (folder / day).write_text(f"{an_id(number)}\n")
    assert list(spool.receipts(date(2026, 3, 2))) == [an_id(2), an_id(3)]
    assert spool.remove_receipts(datetime(2026, 3, 2, 0, 0, 1, tzinfo=UTC)) == 2
    assert list(spool.receipts()) == [an_id(3)]


# -- room
def publish(spool: Spool, size: int) -> Spool:
    """What the keeper says; the acceptor that looks for the first time reads it."""
    spool.publish_held(size)
    return Spool(spool.state_dir)


@pytest.mark.parametrize("asked", [5 * GIB, None])
def test_holds_within_their_room_do_not_change_what_the_intake_sees(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, asked: int | None,
) -> None:
    """An instance that comes takes from the intake; on hold it gives it back, until the room is full."""
    disk, taken = 100 * GIB, 30 * GIB
    step = GIB // 8

    def statvfs(_: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, disk // 4096, 0, (disk - taken) // 4096, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    room = spool.holds_room(asked, 0)
    assert room == (5 * GIB if asked else 10 * GIB)
    before = publish(spool, 0).intake_bytes(asked)
    assert before == disk - taken - room
    for held in range(step, room + 1, step):
        taken += step
        assert publish(spool, held - step).intake_bytes(asked) == before - step
        assert publish(spool, held).intake_bytes(asked) == before
    taken += step
    assert publish(spool, room + step).intake_bytes(asked) == before - step


def test_the_default_room_stops_no_node_on_a_small_or_full_disk(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a quarter of what is free or held at most, so three quarters of a small rest are the intake's."""

    def disk(size: int, free: int) -> None:
        monkeypatch.setattr(
            os, "statvfs", lambda _: os.statvfs_result((4096, 4096, size // 4096, 0, free // 4096, 0, 0, 0, 0, 255)),
        )

    for size, free, room in ((8 << 20, 6 << 20, (8 << 20) // 10), (500 * GIB, 4 * GIB, GIB), (500 * GIB, 400 * GIB, 10 * GIB)):
        disk(size, free)
        assert spool.holds_room(None, 0) == pytest.approx(room, abs=4096)
    # The sum of what is free and what is held makes the room, so a file that goes on hold does not shrink it.
    disk(500 * GIB, 3 * GIB)
    assert holds_room(spool.root, None, GIB) == GIB


def test_a_figure_that_is_not_there_old_or_garbled_is_nothing_held(spool: Spool) -> None:
    """Then the whole room is kept: the careful side."""
    path = spool.state_dir / "held"
    assert held_bytes(spool.state_dir) == 0
    spool.publish_held(77)
    assert held_bytes(spool.state_dir) == 77
    for off in (-STALE_S - 10, STALE_S + 10):
        os.utime(path, (datetime.now(UTC).timestamp() + off,) * 2)
        assert held_bytes(spool.state_dir) == 0
    spool.publish_held(77)  # the same figure, confirmed
    assert held_bytes(spool.state_dir) == 77
    for garbled in (b"", b"7", b"-7\n", b"7 7\n", b"7" * 30 + b"\n", b"\0" * 8):
        path.write_bytes(garbled)
        assert held_bytes(spool.state_dir) == 0


def test_a_figure_that_cannot_be_written_leaves_the_former(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never half of one; and the same figure is confirmed without room."""
    spool.publish_held(77)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        spool.publish_held(78)
    assert held_bytes(spool.state_dir) == 77
    os.utime(spool.state_dir / "held", (1, 1))
    spool.publish_held(77)
    assert held_bytes(spool.state_dir) == 77


def test_files_are_measured_in_blocks(spool: Spool) -> None:
    """As the disk counts them; what is gone or is none of ours takes nothing."""
    location = receive(spool)
    size = spool.disk_bytes([location, "incoming/2026030112/x.dcm", location.replace("00000001", "00000002")])
    assert size == spool.path(location).stat().st_blocks * 512
    assert size >= spool.path(location).stat().st_size


def test_a_running_acceptor_reads_the_figure_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second later at most."""
    now = 0.0
    monkeypatch.setattr("dicomnode.spool.room.time.monotonic", lambda: now)
    monkeypatch.setattr(spool, "free_bytes", lambda: 1000)
    assert spool.intake_bytes(500) == 500
    spool.publish_held(400)
    assert spool.intake_bytes(500) == 500
    now = 1.0
    assert spool.intake_bytes(500) == 900


_WRITER = """
import sys
from pathlib import Path
from dicomnode.spool import Spool
spool = Spool(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    spool.receipt(f"20260301T{number:012d}-{int(sys.argv[2]):08x}")
    print(number, flush=True)
"""


def test_what_a_killed_process_noted_is_there(spool: Spool) -> None:
    """Without any sync: a killed process takes nothing with it that was written."""
    command = [sys.executable, "-c", _WRITER, str(spool.state_dir)]
    with subprocess.Popen([*command, "7"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        noted = [int(process.stdout.readline()) for _ in range(50)]
        process.kill()
        noted += map(int, process.stdout.read().split())
    found = list(spool.receipts())
    assert found[: len(noted)] == [f"20260301T{number:012d}-00000007" for number in noted]
    assert len(found) - len(noted) <= 1


def test_a_full_state_directory_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot make a folder for lack of room ends with 1, to be started again, not with 78 for good."""
    from dicomnode.errors import SpoolFull

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        with pytest.raises(SpoolFull):
            Spool(tmp_path / "state")
    spool = Spool(tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", lambda *_: full(tmp_path))
        with pytest.raises(SpoolFull):
            spool.identity()
    assert [path.name for path in spool.state_dir.iterdir() if path.name.startswith(".")] == []
    assert spool.identity() == spool.identity()

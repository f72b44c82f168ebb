"""The spool: what has its name is whole and safe, what has not is nobody's loss."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dicomnode.errors import BadSetting, DicomNodeError, FileMissing, OutOfResources, SpoolFull, StoreFailed
from dicomnode.queue.owner import this_process
from dicomnode.spool import Spool, hour_of, new_id

from .spooled import spoil

NOW = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)
ID = "20260301T123000123456-00c0ffee"
UID = "2.25.1234"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool in an empty state directory."""
    return Spool(tmp_path / "state")


def received(spool: Spool, instance_id: str = ID, data: bytes = b"image") -> Path:
    """A reception up to its last byte."""
    tmp = spool.temporary(instance_id)
    tmp.write_bytes(data)
    return tmp


def content(data: bytes) -> Callable[[BinaryIO], None]:
    """What an output's write does."""

    def write(stream: BinaryIO) -> None:
        stream.write(data)

    return write


def read(spool: Spool, location: str) -> bytes:
    """All of a file of the spool."""
    with spool.open(location) as stream:
        return stream.read()


# -- names
def test_ids_sort_as_they_were_made_and_name_their_hour() -> None:
    """An id is UTC time first, so order of names is order of reception."""
    later = new_id(NOW + timedelta(microseconds=1))
    assert new_id(NOW) < later
    assert hour_of(later) == "2026030112"


def test_ids_are_in_utc_whatever_zone_the_time_came_in() -> None:
    """One o'clock in Berlin in winter is midnight in the id."""
    berlin = datetime.fromisoformat("2026-01-01T01:00:00+01:00")
    assert new_id(berlin).startswith("20260101T000000000000-")


@pytest.mark.parametrize("bad", ["", "../x", "20260301T123000123456-00C0FFEE", ID + "/", ID + "\n", "٢" * 8 + ID[8:]])
def test_an_id_of_another_form_never_becomes_a_name(spool: Spool, bad: str) -> None:
    """The peer's text, or a fault of ours, is refused before it is a path."""
    with pytest.raises(ValueError, match="instance id"):
        spool.temporary(bad)
    with pytest.raises(ValueError, match="instance id"):
        spool.commit(spool.root / "tmp" / "x", bad)


@pytest.mark.parametrize("bad", [
    "", "/etc/passwd", "../queue.sqlite", "incoming/2026030112/../../x.dcm", f"tmp/{ID}.dcm", f"incoming/{ID}.dcm",
    f"outgoing/../incoming/2026030112/{ID}.dcm", "outgoing/a.dcm", f"outgoing/{UID}.dcm\n", f"quarantine/{UID}.dcm",
])
def test_a_location_outside_the_spool_is_missing(spool: Spool, bad: str) -> None:
    """Nothing but a location of ours is opened, moved or removed."""
    for act in (spool.open, spool.path, spool.quarantine, spool.remove):
        with pytest.raises(FileMissing):
            act(bad)


def test_a_link_in_the_spool_is_not_followed(spool: Spool, tmp_path: Path) -> None:
    """Who can write a link into the spool cannot make the node send another file."""
    (tmp_path / "secret").write_text("x")
    (spool.root / "outgoing" / f"{UID}.dcm").symlink_to(tmp_path / "secret")
    with pytest.raises(FileMissing):
        spool.open(f"outgoing/{UID}.dcm")


# -- the door
def test_commit_gives_the_file_its_name_and_leaves_nothing_in_tmp(spool: Spool) -> None:
    """After commit the bytes stand in the folder of their hour, readable by the group alone."""
    location = spool.commit(received(spool), ID)
    assert location == f"incoming/2026030112/{ID}.dcm"
    assert read(spool, location) == b"image"
    assert stat.S_IMODE(spool.path(location).stat().st_mode) == 0o640
    assert stat.S_IMODE(spool.path(location).parent.stat().st_mode) & 0o007 == 0
    assert list((spool.root / "tmp").iterdir()) == []


def test_commit_syncs_file_then_renames_then_syncs_both_folders(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that makes success true: file, entry of the hour, rename, entry of the file."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(f"sync {'file' if name.suffix == '.part' else name.name}")
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    spool.commit(received(spool), ID)
    assert steps == ["sync file", "sync incoming", "rename", "sync 2026030112"]
    steps.clear()
    # Another process finds the folder there, but cannot know whether its maker came to the sync.
    other, second = ID[:-1] + "0", Spool(spool.state_dir)
    steps.clear()
    second.commit(received(spool, other), other)
    assert steps == ["sync file", "sync incoming", "rename", "sync 2026030112"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_does_not_take_the_file_is_0xa700(spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A failed fsync is never success, and its leftover is gone."""

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    tmp = received(spool)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutOfResources) as caught:
        spool.commit(tmp, ID)
    assert caught.value.status == 0xA700
    assert not tmp.exists()
    assert list(spool.incoming()) == []


def test_a_file_that_was_taken_away_is_never_acknowledged(spool: Spool) -> None:
    """A reception whose file was swept fails at commit."""
    tmp = received(spool)
    tmp.unlink()
    with pytest.raises(OutOfResources):
        spool.commit(tmp, ID)


def test_commit_survives_that_the_empty_folder_of_its_hour_is_removed(spool: Spool) -> None:
    """The folder is made again, however well this process remembers to have made it."""
    location = spool.commit(received(spool), ID)
    spool.remove(location)
    spool.path(location).parent.rmdir()
    assert spool.commit(received(spool), ID) == location
    assert read(spool, location) == b"image"


_ACCEPTOR = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from dicomnode.spool import Spool, new_id
spool = Spool(Path(sys.argv[1]))
while True:
    instance_id = new_id(datetime.now(UTC))
    tmp = spool.temporary(instance_id)
    tmp.write_bytes(instance_id.encode() * 1000)
    spool.commit(tmp, instance_id)
    print(instance_id, flush=True)
"""


def test_what_a_killed_process_acknowledged_is_there_and_whole(spool: Spool) -> None:
    """Five acceptors are killed at any moment; each acknowledged file stands, and the leftovers go at the next sweep."""
    acknowledged: list[str] = []
    for round_ in range(5):
        command = [sys.executable, "-c", _ACCEPTOR, str(spool.state_dir)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged += [process.stdout.readline().strip() for _ in range(20 + round_)]
            process.kill()
            acknowledged += process.stdout.read().split()
    kept = {one.instance_id: one.location for one in spool.incoming()}
    assert set(acknowledged) <= set(kept)
    assert len(kept) - len(acknowledged) <= 5
    for instance_id, location in kept.items():
        assert read(spool, location) == instance_id.encode() * 1000
    spool.sweep(timedelta(hours=1), datetime.now(UTC))
    assert list((spool.root / "tmp").iterdir()) == []


# -- results
def test_put_writes_over_a_former_result_at_once(spool: Spool) -> None:
    """Who has the old file open reads it to its end; who opens the name gets the new one whole."""
    location = spool.put(UID, content(b"old"))
    with spool.open(location) as old:
        assert spool.put(UID, content(b"new and longer")) == location == f"outgoing/{UID}.dcm"
        assert old.read() == b"old"
    assert read(spool, location) == b"new and longer"


FAULTS = [errno.EACCES, errno.EPERM, errno.EMFILE, errno.EIO, errno.ESTALE, errno.EROFS]


@pytest.mark.parametrize(("number", "error"), [
    (errno.ENOSPC, SpoolFull), (errno.EDQUOT, SpoolFull), *((number, StoreFailed) for number in FAULTS),
])
def test_a_disk_that_fails_while_a_result_is_written_is_transient_and_keeps_the_former(
    spool: Spool, number: int, error: type[DicomNodeError],
) -> None:
    """No torn result stands under its name, and the worker tries again; only a full disk is called full."""

    def fail(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise OSError(number, os.strerror(number))

    location = spool.put(UID, content(b"old"))
    with pytest.raises(error) as caught:
        spool.put(UID, fail)
    assert caught.value.retry
    assert caught.value.actor == "administrator"
    assert read(spool, location) == b"old"
    assert list((spool.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", FAULTS)
def test_a_file_that_cannot_be_opened_or_read_is_transient(spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Neither missing nor a fault of the image: to be tried again, at the opening as in the midst of reading."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    location = spool.put(UID, content(b"x" * 100_000))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(StoreFailed, match=re.escape(os.strerror(number))):
            spool.open(location)
    acts: tuple[Callable[[Any], object], ...] = (
        lambda stream: stream.read(), lambda stream: stream.read(70_000), lambda stream: stream.readinto(bytearray(9)),
    )
    for act in acts:
        with spool.open(location) as stream:
            spoil(stream)
            with pytest.raises(StoreFailed):
                act(stream)


def test_a_source_reads_as_any_file(spool: Spool) -> None:
    """To the end, in pieces, from anywhere."""
    data = bytes(range(256)) * 1000
    with spool.open(spool.put(UID, content(data))) as stream:
        assert (stream.read(3), stream.read(200_000), stream.read()) == (data[:3], data[3:200_003], data[200_003:])
        assert stream.seek(7) == 7
        assert (stream.read(1), stream.tell(), stream.read()) == (data[7:8], 8, data[8:])


def test_an_error_of_the_writer_is_no_error_of_the_disk(spool: Spool) -> None:
    """What the output itself raises comes through as it is, without a leftover."""

    def fail(_: BinaryIO) -> None:
        raise FileNotFoundError(errno.ENOENT, "source")

    with pytest.raises(FileNotFoundError):
        spool.put(UID, fail)
    assert list((spool.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("bad", [
    "", "..", "a", "1.2.", f"{UID}/x", f"{UID}-x", "1." * 40 + "1", f"{UID}\n", "1" * 65 + f"-{ID}", f"1/2-{ID}",
])
def test_a_result_is_named_by_a_uid(spool: Spool, bad: str) -> None:
    """A name that is no UID is a defect, not a path."""
    with pytest.raises(ValueError, match="UID"):
        spool.put(bad, content(b""))


def test_an_original_may_name_its_instance_too(spool: Spool) -> None:
    """Two instances of one SOP Instance UID do not overwrite each other."""
    assert spool.put(f"{UID}-{ID}", content(b"x")) == f"outgoing/{UID}-{ID}.dcm"


@pytest.mark.parametrize("uid", ["1.2.840.0012.5", "01.2", "1..2", "1" * 64])
def test_the_uid_of_an_original_is_what_the_peer_made_of_it(spool: Spool, uid: str) -> None:
    """Digits and dots, as the door takes them; a result of ours has a sound UID."""
    location = spool.put(f"{uid}-{ID}", content(b"x"))
    assert [kept.location for kept in spool.results()] == [location]
    assert (read(spool, location), spool.remove(location)) == (b"x", 1)
    if uid != "1" * 64:
        with pytest.raises(ValueError, match="UID"):
            spool.put(uid, content(b"x"))


# -- moving, removing, listing
def test_quarantine_moves_once(spool: Spool) -> None:
    """Doing it again changes nothing; the file is listed there and not in incoming."""
    location = spool.quarantine(spool.commit(received(spool), ID))
    assert location == f"quarantine/{ID}.dcm"
    assert spool.quarantine(location) == location
    assert [kept.location for kept in spool.quarantined()] == [location]
    assert list(spool.incoming()) == []


def test_remove_twice_is_no_error(spool: Spool) -> None:
    """Retention that was cut repeats itself."""
    location = spool.commit(received(spool), ID)
    assert (spool.remove(location), spool.remove(location)) == (5, 0)


def test_a_file_that_was_written_anew_is_not_removed(spool: Spool) -> None:
    """Who looked before that decided about another file."""
    location = spool.put(UID, content(b"image"))
    looked = datetime.now(UTC) - timedelta(seconds=5)
    assert spool.remove(location, unless_after=looked) is None
    os.utime(spool.path(location), (1, 1))
    assert spool.remove(location, unless_after=looked) == 5


def test_listing_gives_ours_only_and_names_strangers(spool: Spool) -> None:
    """Foreign files are neither worked nor removed, but told."""
    location = spool.commit(received(spool), ID)
    (spool.root / "incoming" / "note.txt").write_text("")
    (spool.root / "incoming" / "2026030112" / "x.dcm").write_text("")
    kept = list(spool.incoming())
    assert [(one.instance_id, one.location, one.size_bytes) for one in kept] == [(ID, location, 5)]
    assert spool.strangers() == ("incoming/2026030112/x.dcm", "incoming/note.txt")


def test_what_comes_while_strangers_are_looked_for_is_none(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running node commits all the time; its files are known by their names, not by a list that was made before."""
    for name in ("incoming", "quarantined", "results"):
        monkeypatch.setattr(spool, name, lambda: iter(()))
    spool.commit(received(spool), ID)
    spool.put(UID, content(b"x"))
    assert spool.strangers() == ()


# -- leftovers
def test_sweep_takes_what_the_dead_left_and_leaves_what_the_living_write(spool: Spool) -> None:
    """A leftover of a dead process goes at once, a reception in progress stays."""
    mine = received(spool)
    me = this_process()
    dead = mine.with_name(f"{ID}.{me.boot_id}.{me.pid}.{me.start_ticks - 1}.0badf00d.part")
    dead.write_bytes(b"")
    assert spool.sweep(timedelta(hours=1), datetime.now(UTC)) == 1
    assert list((spool.root / "tmp").iterdir()) == [mine]


def test_sweep_takes_what_nobody_touched_for_long(spool: Spool) -> None:
    """An abandoned file of a living process, or of a name that says nothing, goes after its time."""
    (spool.root / "tmp" / "strange").write_bytes(b"")
    received(spool)
    assert spool.sweep(timedelta(hours=1), datetime.now(UTC)) == 0
    assert spool.sweep(timedelta(hours=1), datetime.now(UTC) + timedelta(hours=2)) == 2


def test_sweep_removes_empty_folders_of_old_hours_only(spool: Spool) -> None:
    """The folder of this hour stays although it is empty, an old one with a file too."""
    old, kept, young = "20260228T010000000000-00000000", "20260228T020000000000-00000000", ID
    for instance_id in (old, kept, young):
        location = spool.commit(received(spool, instance_id), instance_id)
        if instance_id != kept:
            spool.remove(location)
    spool.sweep(timedelta(hours=1), NOW)
    assert [name for name, _ in spool.hours()] == [hour_of(kept), hour_of(young)]


# -- the node
def test_the_identity_is_made_once_also_by_many_at_once(spool: Spool) -> None:
    """Processes that start together agree on who the node is, and only it may read its secret."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(Spool(spool.state_dir).identity())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {spool.identity()}
    assert len(found) == 8
    assert len(found[0].key) == 32
    assert stat.S_IMODE((spool.state_dir / "node.json").stat().st_mode) == 0o600
    assert [path.name for path in spool.state_dir.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_identity_is_not_made_anew(spool: Spool) -> None:
    """A new key would orphan every token and pseudonym: the administrator decides."""
    (spool.state_dir / "node.json").write_text("{")
    with pytest.raises(BadSetting, match=r"node\.json"):
        spool.identity()


def test_check_finds_a_folder_that_cannot_be_written(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folder."""
    spool.check()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "outgoing")
    with pytest.raises(BadSetting, match="outgoing"):
        spool.check()


@pytest.mark.parametrize("mode", [0o751, 0o754, 0o752])
def test_check_finds_a_state_dir_that_others_can_enter(spool: Spool, mode: int) -> None:
    """A node does not start on it; the message says what to do."""
    spool.state_dir.chmod(mode)
    with pytest.raises(BadSetting, match="chmod o="):
        spool.check()
    spool.state_dir.chmod(0o750)
    spool.check()


def test_a_state_dir_that_cannot_be_made_is_a_bad_setting(tmp_path: Path) -> None:
    """A file in the way is named."""
    (tmp_path / "state").write_text("")
    with pytest.raises(BadSetting, match="state"):
        Spool(tmp_path / "state")


def test_the_folders_themselves_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a cut of power behind the first acknowledgement, the way to the file is there too."""
    synced: set[str] = set()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    Spool(tmp_path / "a" / "b" / "state")
    assert synced == {".", "a", "a/b", "a/b/state", "a/b/state/spool"}
    synced.clear()
    Spool(tmp_path / "a" / "b" / "state")
    assert synced == {"a/b", "a/b/state", "a/b/state/spool"}, "who made them may not have come to the sync"


def test_free_bytes_are_those_of_the_disk(spool: Spool) -> None:
    """What the file system says is free to this user."""
    status = os.statvfs(spool.root)
    assert spool.free_bytes() == pytest.approx(status.f_bavail * status.f_frsize, rel=0.05)


def test_every_error_is_of_the_tree(spool: Spool) -> None:
    """A missing file is told as ours."""
    with pytest.raises(DicomNodeError):
        spool.open(f"outgoing/{UID}.dcm")

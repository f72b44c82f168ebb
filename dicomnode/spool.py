"""The spool: files that are safe once they have their name; the only fsync in the tree.

**Way** The acceptor writes ``tmp/…`` and `Spool.commit` makes it ``incoming/<yyyymmddhh>/<instance_id>.dcm``: fsync of the
file, rename, fsync of the directory; only then may the peer be told success. `Spool.put` does the same for results in
``outgoing/``. What cannot be worked moves to ``quarantine/``. Names are ours alone: an instance id or a UID of valid form.
A location is a path below the spool's root, as rows hold it.

**Fails** `commit` raises `OutOfResources` (0xA700), `put` raises `SpoolFull`; what the system does not let us read or write
for another reason is `StoreFailed`, also in the midst of a file; a location without a file is `FileMissing`, a state
directory that cannot serve is `BadSetting`. After a failed commit the file may stand in incoming: then the instance
is worked although it was not acknowledged, which a resend makes a duplicate.

**Standard** PS3.4 B.2.3: success says that the SCP has taken responsibility for the instance.

**Limits** One local file system; network file systems do not keep the order of rename and fsync.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from dicomnode import uids
from dicomnode.errors import BadSetting, FileMissing, OutOfResources, SpoolFull, StoreFailed, Transient
from dicomnode.queue.owner import Owner, alive, this_process

FOLDERS = ("tmp", "incoming", "outgoing", "quarantine")
#: Room for held files where the settings name none: this part of the file system, at most so many bytes.
_HOLDS_SHARE, _HOLDS_MOST = 10, 10 << 30
_DIRECTORY_MODE, _FILE_MODE = 0o750, 0o640
_ID = r"[0-9]{8}T[0-9]{12}-[0-9a-f]{8}"
_UID = r"[0-9]+(?:\.[0-9]+)*"
#: An original keeps its UID, whatever its form, so its file says which instance it is of.
_RESULT = rf"(?:{_UID}|[0-9.]{{1,64}}-{_ID})"
_ID_ONLY = re.compile(_ID)
_HOUR = re.compile(r"[0-9]{10}")
_LOCATION = re.compile(rf"incoming/[0-9]{{10}}/{_ID}\.dcm|quarantine/{_ID}\.dcm|outgoing/{_RESULT}\.dcm")
_RESULT_ONLY = re.compile(_RESULT)
#: <name>.<boot id>.<pid>.<start ticks>.<random>.part
_TEMPORARY = re.compile(r".+\.(?P<boot>[0-9a-f-]{36})\.(?P<pid>\d{1,9})\.(?P<ticks>\d{1,18})\.[0-9a-f]{8}\.part", re.ASCII)
#: What a full disk answers.
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
#: What a failing disk answers, or a system that is set up wrongly or has run out of something: a person mends it, and
#: the same try comes through.
_FAILING = frozenset((
    errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENXIO,
    errno.ENODEV, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EUCLEAN,
))
#: An empty folder of an hour is removed when its hour is this long past.
_HOUR_KEPT = timedelta(hours=25)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What makes this node this node: made once, kept in ``node.json``."""

    #: Random UUID, 32 hex digits; stands as Device Serial Number (0018,1000) in our results.
    node_id: str
    #: Secret of tokens and pseudonyms, 32 bytes.
    key: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the spool."""

    instance_id: str
    location: str
    size_bytes: int
    #: Of the last change, aware UTC.
    changed_at: datetime


def new_id(now: datetime) -> str:
    """Give a new instance id: UTC time and 32 random bits, so that names sort as they were made."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"


def hour_of(instance_id: str) -> str:
    """Give the folder of an instance below ``incoming/``, ``yyyymmddhh``."""
    _check_id(instance_id)
    return instance_id[:8] + instance_id[9:11]


class Spool:
    """The folders below ``<state_dir>/spool`` and the two files beside them."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.root = state_dir / "spool"
        self.queue_path = state_dir / "queue.sqlite"
        #: Folders of hours whose own entry is known to be on disk, by this process.
        self._durable: set[str] = set()
        missing = [path for path in state_dir.absolute().parents if not path.exists()]
        try:
            state_dir.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            for path in (self.root, *(self.root / name for name in FOLDERS)):
                path.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            # Always: who made these folders may not have come so far. What stands above them may be closed to us.
            _sync_directory(self.root)
            _sync_directory(state_dir)
            for path in (state_dir.absolute().parent, *(path.parent for path in missing)):
                with contextlib.suppress(PermissionError):
                    _sync_directory(path)
        except OSError as error:
            raise BadSetting(f"node.state_dir: {error.filename or state_dir} cannot be made ({error.strerror})") from None

    # -- the node
    def identity(self) -> NodeIdentity:
        """Give the node's identity, made at the first call of the first process."""
        path = self.state_dir / "node.json"
        if not path.exists():
            self._make_identity(path)
        try:
            kept = json.loads(path.read_bytes())
            return NodeIdentity(str(kept["node_id"]), bytes.fromhex(kept["key"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadSetting(f"{path}: cannot be read ({type(error).__name__}); restore it from a backup") from None

    def _make_identity(self, path: Path) -> None:
        text = json.dumps({"node_id": secrets.token_hex(16), "key": secrets.token_hex(32)})
        draft = path.with_name(f".node.json.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # of processes that start together the first one wins
                os.link(draft, path)
            draft.unlink()
            _sync_directory(self.state_dir)
        except OSError as error:
            raise BadSetting(f"{path}: cannot be written ({error.strerror})") from None

    def check(self) -> None:
        """See that the folders are on one file system and can be written.

        Raises
        ------
        BadSetting
            Names the folder.
        """
        device = self.root.stat().st_dev
        for name in FOLDERS:
            folder = self.root / name
            if folder.stat().st_dev != device:
                raise BadSetting(f"node.state_dir: {folder} is on another file system than {self.root}; rename needs one")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise BadSetting(f"node.state_dir: {folder} cannot be written by this user")

    def free_bytes(self) -> int:
        """Give the bytes that this user can still write."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def holds_room(self, asked: int | None) -> int:
        """Give the room for held and quarantined files, bytes: what is asked for, or a tenth of the disk up to 10 GiB."""
        if asked is not None:
            return asked
        status = os.statvfs(self.root)
        return min(_HOLDS_MOST, status.f_blocks * status.f_frsize // _HOLDS_SHARE)

    # -- the door
    def temporary(self, instance_id: str) -> Path:
        """Give a path to receive into; its name says which process writes it."""
        _check_id(instance_id)
        return self._temporary(instance_id)

    def _temporary(self, name: str) -> Path:
        owner = this_process()
        mark = f"{owner.boot_id}.{owner.pid}.{owner.start_ticks}.{secrets.token_hex(4)}"
        return self.root / "tmp" / f"{name}.{mark}.part"

    def commit(self, tmp: Path, instance_id: str) -> str:
        """Make a received file safe and give its location; when this returns, success may be answered.

        Raises
        ------
        OutOfResources
            0xA700: the disk did not take it; ``tmp`` is gone.
        """
        hour = hour_of(instance_id)
        location = f"incoming/{hour}/{instance_id}.dcm"
        try:
            _sync_file(tmp)
            self._rename(tmp, hour, self.root / location)
        except OSError as error:
            with contextlib.suppress(OSError):
                tmp.unlink(missing_ok=True)
            raise OutOfResources(f"{self.root}: {error.strerror}") from error
        return location

    def _rename(self, tmp: Path, hour: str, target: Path) -> None:
        try:
            self._make_hour(hour)
            tmp.rename(target)
        except FileNotFoundError:  # `sweep` took the empty folder between the two
            self._durable.discard(hour)
            self._make_hour(hour)
            tmp.rename(target)
        _sync_directory(target.parent)

    def _make_hour(self, hour: str) -> None:
        if hour in self._durable:
            return
        incoming = self.root / "incoming"
        (incoming / hour).mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
        # Also when another process made it: that one may not have come to its fsync yet.
        _sync_directory(incoming)
        self._durable.add(hour)

    # -- files
    def open(self, location: str) -> BinaryIO:
        """Open a file for reading.

        Raises
        ------
        FileMissing
            There is no such file, or ``location`` is none of this spool.
        StoreFailed
            It cannot be opened now; reading from the stream raises this too.
        """
        try:
            descriptor = os.open(self.path(location), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                raise FileMissing(f"{location} is not in the spool") from None
            raise StoreFailed(f"{location}: {error.strerror}") from error
        return io.BufferedReader(_Source(descriptor))

    def path(self, location: str) -> Path:
        """Give the path of a location; raises `FileMissing` for anything that is no location of ours."""
        if _LOCATION.fullmatch(location) is None:
            raise FileMissing("a row or caller names a file that cannot be of this spool")
        return self.root / location

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> str:
        """Write a result to ``outgoing/<name>.dcm``, over a former one, and give its location once it is safe.

        Parameters
        ----------
        name
            SOP Instance UID of a result of ours, or for an original its UID and instance id joined by ``-``; that UID is
            the peer's, so it need only be of digits and dots, as `header` takes it.

        Raises
        ------
        SpoolFull
            The disk had no room; a former file of this name stands as it was.
        StoreFailed
            It could not be written for another reason, or the source that is copied could not be read.
        """
        uid, dash, _ = name.partition("-")
        if _RESULT_ONLY.fullmatch(name) is None or not (dash or uids.is_valid(uid)):
            raise ValueError("a result is named by its SOP Instance UID")
        target = self.root / "outgoing" / f"{name}.dcm"
        tmp = self._temporary(name)
        try:
            with os.fdopen(os.open(tmp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE), "w+b") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            tmp.rename(target)
            _sync_directory(target.parent)
        except OSError as error:
            if error.errno not in _FULL | _FAILING:
                raise
            raise _failed(self.root, error) from error
        finally:
            with contextlib.suppress(OSError):
                tmp.unlink(missing_ok=True)
        return f"outgoing/{name}.dcm"

    def quarantine(self, location: str) -> str:
        """Move a file to quarantine and give its new location; one that is there already stays."""
        source = self.path(location)
        target = self.root / "quarantine" / source.name
        if source == target:
            return location
        try:
            source.rename(target)
        except FileNotFoundError:
            raise FileMissing(f"{location} is not in the spool") from None
        # The new entry first: a cut between the two may show the file twice, never not at all.
        _sync_directory(target.parent)
        _sync_directory(source.parent)
        return f"quarantine/{source.name}"

    def remove(self, location: str, *, unless_after: datetime | None = None) -> int | None:
        """Delete a file and give its size; 0 when it was gone, None when it was left.

        Parameters
        ----------
        unless_after
            Leave a file that was changed after this: a worker has written it anew since somebody looked.
        """
        path = self.path(location)
        try:
            status = path.stat()
            if unless_after is not None and datetime.fromtimestamp(status.st_mtime, UTC) > unless_after:
                return None
            path.unlink()
        except FileNotFoundError:
            return 0
        return status.st_size

    # -- what is there
    def hours(self) -> tuple[tuple[str, float], ...]:
        """Give the folders below ``incoming/``, oldest first, with the time of their last change (POSIX seconds)."""
        found = []
        with os.scandir(self.root / "incoming") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if _HOUR.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                        found.append((entry.name, entry.stat().st_mtime))
        return tuple(sorted(found))

    def hour(self, name: str) -> Iterator[Kept]:
        """Go through the instances of one hour, in no order."""
        return self._files(f"incoming/{name}", _ID_ONLY)

    def incoming(self) -> Iterator[Kept]:
        """Go through all received instances, hour by hour."""
        for name, _ in self.hours():
            yield from self.hour(name)

    def quarantined(self) -> Iterator[Kept]:
        """Go through the files set aside."""
        return self._files("quarantine", _ID_ONLY)

    def results(self) -> Iterator[Kept]:
        """Go through the results; ``instance_id`` is the name of the result here."""
        return self._files("outgoing", _RESULT_ONLY)

    def strangers(self) -> tuple[str, ...]:
        """Name what is in the spool's folders and cannot be ours; such files are left alone."""
        found = []
        for folder in FOLDERS[1:]:
            for path in sorted((self.root / folder).rglob("*")):
                name = path.relative_to(self.root).as_posix()
                hour = folder == "incoming" and path.is_dir() and _HOUR.fullmatch(path.name)
                if not hour and _LOCATION.fullmatch(name) is None:
                    found.append(name)
        return tuple(found)

    def _files(self, folder: str, name: re.Pattern[str]) -> Iterator[Kept]:
        try:
            entries = os.scandir(self.root / folder)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                stem, dot, suffix = entry.name.rpartition(".")
                if dot and suffix == "dcm" and name.fullmatch(stem):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        changed_at = datetime.fromtimestamp(status.st_mtime, UTC)
                        yield Kept(stem, f"{folder}/{entry.name}", status.st_size, changed_at)

    # -- leftovers
    def sweep(self, older_than: timedelta, now: datetime) -> int:
        """Delete what dead processes left in tmp and what no living one has touched for ``older_than``; gives how many.

        A file taken from a living writer costs no acknowledged instance: its commit fails.
        """
        removed = 0
        for path in (self.root / "tmp").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if _orphaned(path.name) or path.stat().st_mtime < (now - older_than).timestamp():
                    path.unlink()
                    removed += 1
        for hour, _ in self.hours():
            if hour < f"{(now - _HOUR_KEPT).astimezone(UTC):%Y%m%d%H}":
                with contextlib.suppress(OSError):  # not empty
                    (self.root / "incoming" / hour).rmdir()
        return removed


class _Source(io.FileIO):
    """A file of the spool whose faults are ours: what reads it takes an OSError for a fault of the image."""

    def readinto(self, buffer: Any) -> int | None:
        """Read into a buffer."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise _failed(Path("spool"), error) from error

    def readall(self) -> bytes:
        """Read to the end."""
        try:
            return super().readall() or b""
        except OSError as error:
            raise _failed(Path("spool"), error) from error


def _failed(path: Path, error: OSError) -> Transient:
    return (SpoolFull if error.errno in _FULL else StoreFailed)(f"{path}: {error.strerror}")


def _orphaned(name: str) -> bool:
    match = _TEMPORARY.fullmatch(name)
    return match is not None and not alive(Owner(match["boot"], int(match["pid"]), int(match["ticks"])))


def _check_id(instance_id: str) -> None:
    if _ID_ONLY.fullmatch(instance_id) is None:
        raise ValueError("an instance id has the form yyyymmddThhmmssffffff-xxxxxxxx")


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, _FILE_MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

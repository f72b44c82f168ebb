"""What the spool promises: files that are safe once they have their name.

**Way** The acceptor writes ``tmp/…`` and `Promise.commit` makes it ``incoming/<yyyymmddhh>/<instance_id>.dcm``: fsync of the
file, rename, fsync of the directory; then `Receipts.receipt`; only then may the peer be told success. `Promise.put` does
the same for results in ``outgoing/``. What cannot be worked moves to ``quarantine/``.

**Fails** `commit` raises `OutOfResources` (0xA700), `put` raises `SpoolFull`; what the system does not let us write for another
reason is `StoreFailed`. After a failed commit the file may stand in incoming: then the instance is worked although it was
not acknowledged, which a resend makes a duplicate.

**Standard** PS3.4 B.2.3: success says that the SCP has taken responsibility for the instance.

**Limits** One local file system; network file systems do not keep the order of rename and fsync.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dicomnode import uids
from dicomnode.errors import FileMissing, OutOfResources
from dicomnode.spool.disk import DIRECTORY_MODE, FAILING, FILE_MODE, FULL, failed, sync_directory, sync_file, sync_stream
from dicomnode.spool.names import RESULT_ONLY, check_id, hour_of, temporary_name
from dicomnode.spool.shelf import Shelf


class Promise(Shelf):
    """Puts files into the spool so that a cut of power behind the return leaves them whole."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        #: Folders of hours whose own entry is known to be on disk, by this process.
        self._durable: set[str] = set()

    def temporary(self, instance_id: str) -> Path:
        """Give a path to receive into; its name says which process writes it."""
        check_id(instance_id)
        return self.root / "tmp" / temporary_name(instance_id)

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
            sync_file(tmp)
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
        sync_directory(target.parent)

    def _make_hour(self, hour: str) -> None:
        if hour in self._durable:
            return
        incoming = self.root / "incoming"
        (incoming / hour).mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        # Also when another process made it: that one may not have come to its fsync yet.
        sync_directory(incoming)
        self._durable.add(hour)

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> str:
        """Write a result to ``outgoing/<name>.dcm``, over a former one, and give its location once it is safe.

        No watermark is asked: what is free below ``scp.reserve_bytes`` is for results.

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
        if RESULT_ONLY.fullmatch(name) is None or not (dash or uids.is_valid(uid)):
            raise ValueError("a result is named by its SOP Instance UID")
        target = self.root / "outgoing" / f"{name}.dcm"
        tmp = self.root / "tmp" / temporary_name(name)
        try:
            with os.fdopen(os.open(tmp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE), "w+b") as file:
                write(file)
                sync_stream(file)
            tmp.rename(target)
            sync_directory(target.parent)
        except OSError as error:
            if error.errno not in FULL | FAILING:
                raise
            raise failed(self.root, error) from error
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
        # A rename is two changes of two folders, and a cut of power may keep either: so the new name is made sure first.
        try:
            with contextlib.suppress(FileExistsError):  # a cut has left both names
                os.link(source, target, follow_symlinks=False)
        except FileNotFoundError:
            raise FileMissing(f"{location} is not in the spool") from None
        sync_directory(target.parent)
        source.unlink(missing_ok=True)
        sync_directory(source.parent)
        return f"quarantine/{source.name}"

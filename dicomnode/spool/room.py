"""Room on the disk: what is free, what is kept for held files, and what is left for the intake.

**Way** Held and quarantined files have a room of their own. The keeper publishes what they take in ``<state_dir>/held``; the
intake sees what is free less the part of the room that they do not fill yet. So an instance that goes on hold gives the
intake back what it took, and holds that grow within their room never close the door.

**Fails** A figure that is missing, garbled or older than `STALE_S` counts as nothing held, so the whole room is kept: the
careful side. A disk that cannot be asked raises OSError.

**Limits** The figure is as old as the keeper's last look, half a minute.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from dicomnode.spool.disk import FILE_MODE
from dicomnode.spool.folders import Folders

#: Room for held files where the settings name none: this part of the file system, at most so many bytes, and at most this
#: part of what is free or held, so that a disk which is well filled by others does not close the door.
_SHARE, _MOST, _SHARE_OF_FREE = 10, 10 << 30, 4
#: A figure that the keeper has not confirmed for this long is none.
STALE_S = 300.0
#: An acceptor reads the figure this often at most, seconds.
_READ_S = 1.0
_FIGURE = re.compile(rb"[0-9]{1,18}\n")


def free_bytes(folder: Path) -> int:
    """Give the bytes of the file system of ``folder`` that this user can still write."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def holds_room(folder: Path, asked: int | None, held: int) -> int:
    """Give the room for held files on the file system of ``folder``, of which ``held`` bytes are filled.

    Without ``asked`` a tenth of the file system, at most 10 GiB and a quarter of what is free or held; a file that goes on
    hold does not change that sum, so not the room.
    """
    if asked is not None:
        return asked
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    return min(_MOST, status.f_blocks * status.f_frsize // _SHARE, (free + held) // _SHARE_OF_FREE)


def intake_bytes(folder: Path, asked: int | None, held: int) -> int:
    """Give the bytes that new instances may take on the file system of ``folder``; may be negative."""
    return free_bytes(folder) - max(0, holds_room(folder, asked, held) - held)


def held_bytes(state_dir: Path) -> int:
    """Give what held files take, as the keeper said last; 0 when it has not said so lately."""
    try:
        with (state_dir / "held").open("rb") as file:
            text, age = file.read(20), time.time() - os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0
    return int(text) if _FIGURE.fullmatch(text) and abs(age) <= STALE_S else 0


class Room(Folders):
    """Measures the disk of the spool."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self._held, self._read_at = 0, float("-inf")

    def free_bytes(self) -> int:
        """Give the bytes that this user can still write."""
        return free_bytes(self.root)

    def holds_room(self, asked: int | None, held: int) -> int:
        """Give the room for held and quarantined files, bytes, of which ``held`` are filled; see `holds_room`."""
        return holds_room(self.root, asked, held)

    def intake_bytes(self, asked: int | None) -> int:
        """Give the bytes that new instances may take: what is free less the room that holds do not fill yet.

        Parameters
        ----------
        asked
            ``keep.holds_max_bytes``. The result may be negative.
        """
        now = time.monotonic()
        if now - self._read_at >= _READ_S:
            self._held, self._read_at = held_bytes(self.state_dir), now
        return self.free_bytes() - max(0, self.holds_room(asked, self._held) - self._held)

    def publish_held(self, size: int) -> None:
        """Say what held files take; the keeper says it again and again, also when nothing has changed."""
        path = self.state_dir / "held"
        with contextlib.suppress(OSError):
            if path.read_bytes() == b"%d\n" % size:  # needs no room on a full disk
                os.utime(path)
                return
        draft = path.with_name(".held")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            os.write(descriptor, b"%d\n" % size)
        finally:
            os.close(descriptor)
        draft.replace(path)

"""What lies in the spool: opening, listing, removing, sweeping.

**Way** Listing gives files whose names are ours; what is strange is named by `Shelf.strangers` and left alone. `Shelf.remove`
takes a file away, `Shelf.sync_entries` makes sure that what came or went has come or gone after a cut of power too.

**Fails** A location without a file is `FileMissing`; what the system does not let us read is `StoreFailed`, also in the midst
of a file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from dicomnode.errors import FileMissing, StoreFailed
from dicomnode.spool.disk import Source, sync_directory
from dicomnode.spool.folders import Folders
from dicomnode.spool.names import FOLDERS, HOUR, ID_ONLY, LOCATION, RESULT_ONLY, orphaned

#: An empty folder of an hour is removed when its hour is this long past.
_HOUR_KEPT = timedelta(hours=25)


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the spool."""

    instance_id: str
    location: str
    size_bytes: int
    #: Of the last change, aware UTC.
    changed_at: datetime


class Shelf(Folders):
    """Finds and removes files; makes none."""

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
        return io.BufferedReader(Source(descriptor))

    def path(self, location: str) -> Path:
        """Give the path of a location; raises `FileMissing` for anything that is no location of ours."""
        if LOCATION.fullmatch(location) is None:
            raise FileMissing("a row or caller names a file that cannot be of this spool")
        return self.root / location

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

    def sync_entries(self, locations: Iterable[str]) -> None:
        """Return when it is on disk that these files are there, or are not: no row may say what a cut of power undoes."""
        for folder in {self.path(location).parent for location in locations if LOCATION.fullmatch(location)}:
            with contextlib.suppress(FileNotFoundError):  # the folder of an hour that is gone itself
                sync_directory(folder)

    def disk_bytes(self, locations: Iterable[str]) -> int:
        """Give what these files take of the disk, in whole blocks; one that is gone takes nothing."""
        total = 0
        for location in locations:
            with contextlib.suppress(FileNotFoundError, FileMissing):
                total += self.path(location).stat().st_blocks * 512
        return total

    # -- what is there
    def hours(self) -> tuple[tuple[str, float], ...]:
        """Give the folders below ``incoming/``, oldest first, with the time of their last change (POSIX seconds)."""
        found = []
        with os.scandir(self.root / "incoming") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if HOUR.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                        found.append((entry.name, entry.stat().st_mtime))
        return tuple(sorted(found))

    def hour(self, name: str) -> Iterator[Kept]:
        """Go through the instances of one hour, in no order."""
        return self._files(f"incoming/{name}", ID_ONLY)

    def incoming(self) -> Iterator[Kept]:
        """Go through all received instances, hour by hour."""
        for name, _ in self.hours():
            yield from self.hour(name)

    def quarantined(self) -> Iterator[Kept]:
        """Go through the files set aside."""
        return self._files("quarantine", ID_ONLY)

    def results(self) -> Iterator[Kept]:
        """Go through the results; ``instance_id`` is the name of the result here."""
        return self._files("outgoing", RESULT_ONLY)

    def strangers(self) -> tuple[str, ...]:
        """Name what is in the spool's folders and cannot be ours; such files are left alone."""
        found = []
        for folder in FOLDERS[1:]:
            for top, folders, files in os.walk(self.root / folder):
                below = Path(top).relative_to(self.root).as_posix()
                found += [f"{below}/{name}" for name in folders if folder != "incoming" or not HOUR.fullmatch(name)]
                found += [name for name in (f"{below}/{file}" for file in files) if LOCATION.fullmatch(name) is None]
        return tuple(sorted(found))

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
                if orphaned(path.name) or path.stat().st_mtime < (now - older_than).timestamp():
                    path.unlink()
                    removed += 1
        for hour, _ in self.hours():
            if hour < f"{(now - _HOUR_KEPT).astimezone(UTC):%Y%m%d%H}":
                with contextlib.suppress(OSError):  # not empty
                    (self.root / "incoming" / hour).rmdir()
        return removed

"""Receipts: one line for every instance that was answered 0x0000, kept apart from files and rows.

**Way** `Receipts.receipt` is called between `Promise.commit` and the answer and appends the instance id to
``receipts/<yyyymmdd>`` (day of the answer, UTC) by one write, so that lines of several acceptors never mix. The file in
incoming is the promise and is on disk already; a receipt proves the account afterwards (`dicomnode queue verify`): whatever
lost a file and its row together, a defect of ours or a hand in the state directory, leaves the receipt. It is not synced.

**Fails** A receipt that cannot be written is `OutOfResources`: the peer is told 0xA700 and sends again; the file that stands
in incoming is worked, and the resend is its duplicate.

**Limits** A cut of power may take the last seconds of receipts; it takes no instance with them. What a full disk cut off
within a line is passed over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime

from dicomnode.errors import OutOfResources
from dicomnode.spool.disk import FILE_MODE
from dicomnode.spool.folders import Folders
from dicomnode.spool.names import ID_ONLY, check_id

_DAY = re.compile(r"[0-9]{8}")
#: Every instance id has this length.
_LENGTH = len("yyyymmddThhmmssffffff-xxxxxxxx")
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Receipts(Folders):
    """Writes and reads the receipts of a node."""

    def receipt(self, instance_id: str) -> None:
        """Note that this instance is about to be acknowledged.

        Raises
        ------
        OutOfResources
            0xA700: the note could not be written.
        """
        check_id(instance_id)
        line = f"{instance_id}\n".encode()
        path = self.state_dir / "receipts" / f"{datetime.now(UTC):%Y%m%d}"
        try:
            descriptor = os.open(path, _FLAGS, FILE_MODE)
            try:
                written = os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OutOfResources(f"{path}: {error.strerror}") from error
        if written != len(line):
            raise OutOfResources(f"{path}: the disk took a part of a line only")

    def receipts(self, since: date | None = None) -> Iterator[str]:
        """Go through the ids of all instances that were acknowledged, oldest day first; ``since`` leaves earlier days out."""
        for name in self._days():
            if since is None or name >= f"{since:%Y%m%d}":
                with (self.state_dir / "receipts" / name).open("rb") as file:
                    for line in file:
                        # What stands before the last id of a line was cut off by a full disk.
                        found = line.removesuffix(b"\n")[-_LENGTH:].decode("latin-1")
                        if ID_ONLY.fullmatch(found):
                            yield found

    def remove_receipts(self, before: datetime) -> int:
        """Remove the days of which any moment lies before ``before``, and give how many.

        To be called before rows that ended before the same moment are forgotten: no receipt outlives its row.
        """
        old = [name for name in self._days() if name <= f"{before.astimezone(UTC):%Y%m%d}"]
        for name in old:
            (self.state_dir / "receipts" / name).unlink(missing_ok=True)
        return len(old)

    def _days(self) -> list[str]:
        return sorted(path.name for path in (self.state_dir / "receipts").iterdir() if _DAY.fullmatch(path.name))

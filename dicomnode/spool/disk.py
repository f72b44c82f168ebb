"""What the disk does and says: the only fsync in the tree, and the errors that a full or failing disk answers with.

**Way** `sync_file`, `sync_directory` and `sync_stream` return when the disk has it. `failed` makes our error of the system's:
a full disk is `SpoolFull`, everything else that a person mends is `StoreFailed`; both are tried again. `Source` is a file
that is read with our errors. `write_back` promises nothing: it lets a later `sync_file` find less to do.

**Fails** As the system does, with OSError; reading a `Source` raises `StoreFailed`.

**Limits** A disk that says it has written what is still in its own memory cannot be found out from here (docs/durability.md).
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from dicomnode.errors import SpoolFull, StoreFailed, Transient

DIRECTORY_MODE, FILE_MODE = 0o750, 0o640
#: What a full disk answers.
FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
#: What a failing disk answers, or a system that is set up wrongly or has run out of something: a person mends it, and
#: the same try comes through.
FAILING = frozenset((
    errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENXIO,
    errno.ENODEV, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EUCLEAN,
))
_SYNC_FILE_RANGE_WRITE = 2
#: Where the C library has sync_file_range(2).
_LIBC = ctypes.CDLL(None) if hasattr(ctypes.CDLL(None), "sync_file_range") else None


def failed(path: Path, error: OSError) -> Transient:
    """Give our error for what the system answered."""
    return (SpoolFull if error.errno in FULL else StoreFailed)(f"{path}: {error.strerror}")


def sync_file(path: Path) -> None:
    """Return when the content of a file is on disk; it is readable by the group alone then."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, FILE_MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_stream(stream: BinaryIO) -> None:
    """Return when everything written to an open file is on disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_directory(path: Path) -> None:
    """Return when the entries of a folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_back(descriptor: int, offset: int, count: int) -> None:
    """Ask the kernel to begin writing a part of a file, without waiting and without a promise (sync_file_range(2))."""
    if _LIBC is not None:
        _LIBC.sync_file_range(ctypes.c_int(descriptor), ctypes.c_int64(offset), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)


class Source(io.FileIO):
    """A file of the spool whose faults are ours: what reads it takes an OSError for a fault of the image."""

    def readinto(self, buffer: Any) -> int | None:
        """Read into a buffer."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise failed(Path("spool"), error) from error

    def readall(self) -> bytes:
        """Read to the end."""
        try:
            return super().readall() or b""
        except OSError as error:
            raise failed(Path("spool"), error) from error

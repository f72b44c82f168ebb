"""Learns of a new file the moment it gets its name: inotify(7) on ``incoming/`` and the folders of its hours.

**Way** `Watch.wait` gives the locations that appeared, or None when the kernel lost count or a folder came or went: then
a scan must look. Only a hint: the keeper scans all the same.

**Fails** `OSError` from the constructor when the kernel gives no inotify (a limit is reached).

**Limits** Linux only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
from pathlib import Path

_IN_MOVED_TO, _IN_CREATE, _IN_IGNORED, _IN_Q_OVERFLOW, _IN_ISDIR = 0x80, 0x100, 0x8000, 0x4000, 0x40000000
_EVENT = struct.Struct("iIII")
_READ_BYTES = 1 << 16


class Watch:
    """Watches one spool's ``incoming/``."""

    def __init__(self, incoming: Path) -> None:
        self._incoming = incoming
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise _error()
        #: Watch → folder below incoming, "" for incoming itself.
        self._folders: dict[int, str] = {}
        try:
            self._add("")
            self._add_hours()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def wait(self, timeout_s: float) -> tuple[str, ...] | None:
        """Give what appeared, ``()`` after the timeout, None when only a scan can tell."""
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, timeout_s))
        if not ready:
            return ()
        found: list[str] = []
        lost = False
        data = os.read(self._descriptor, _READ_BYTES)
        while data:
            watch, mask, _, length = _EVENT.unpack_from(data)
            name = os.fsdecode(data[_EVENT.size : _EVENT.size + length].rstrip(b"\0"))
            data = data[_EVENT.size + length :]
            if mask & _IN_IGNORED:
                self._folders.pop(watch, None)
            elif mask & (_IN_Q_OVERFLOW | _IN_ISDIR) or watch not in self._folders:
                lost = True
            elif name.endswith(".dcm"):
                found.append(f"incoming/{self._folders[watch]}/{name}")
        if lost:
            self._add_hours()
            return None
        return tuple(sorted(found))

    def _add_hours(self) -> None:
        watched = set(self._folders.values())
        for path in sorted(self._incoming.iterdir()):
            if path.is_dir() and path.name not in watched:
                self._add(path.name)

    def _add(self, folder: str) -> None:
        path = os.fsencode(self._incoming / folder)
        watch = self._libc.inotify_add_watch(self._descriptor, path, _IN_MOVED_TO | (0 if folder else _IN_CREATE))
        if watch >= 0:
            self._folders[watch] = folder
        elif ctypes.get_errno() != errno.ENOENT:  # the folder was removed again
            raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))

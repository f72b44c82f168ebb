"""A file system of our own for the drill of the full disk: a mount namespace that nobody else sees, and a tmpfs in it.

**Way** `enter` leaves the mounts of the system, as root or in a user namespace; `mount` then mounts for this process and its
children alone. The kernel takes all of it back when the last of them ends, however it ends.

**Fails** Both say False where the system does not let us.

**Limits** Linux; a user namespace needs a process of one thread, so `enter` comes before anything that starts threads.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_MNT_DETACH = 2
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x4000, 0x40000


def enter() -> bool:
    """Leave the mounts of the system for a copy of our own."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNS) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
            return False
        try:
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
        except OSError:
            return False
    return bool(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0)


def unmount(folder: Path) -> None:
    """Take a mount away, at once for who looks for it."""
    ctypes.CDLL(None).umount2(os.fsencode(folder), _MNT_DETACH)


def mount(folder: Path, size: int) -> bool:
    """Mount a tmpfs of ``size`` bytes on a folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size},mode=0750".encode()
    return bool(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _MS_NOSUID | _MS_NODEV, options) == 0)

"""The approved configuration as children get it: sealed in memory, so that no process reads a half-edited file.

**Way** The supervisor loads and checks the files and makes a `Snapshot`; each child takes it by `handed`. A child that is
started again hours later works by what was approved, not by what stands in the files then.

**Fails** A snapshot that is not sealed or cannot be read is a defect, not a setting: `handed` raises `RuntimeError`.

**Standard** memfd_create(2), fcntl(2) F_ADD_SEALS.

**Limits** Linux. Models and other files that the settings name are read from disk by each child.
"""

from __future__ import annotations

import fcntl
import os

from dicomnode.settings import Settings

#: Descriptor of the snapshot, in the environment of children.
DESCRIPTOR = "DICOMNODE_SETTINGS_FD"
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Snapshot:
    """Settings and the descriptor that hands them down."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.descriptor = os.memfd_create("dicomnode-settings", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(os.dup(self.descriptor), "wb") as file:
            file.write(settings.model_dump_json().encode())
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def close(self) -> None:
        """Let the descriptor go; children that have taken it keep theirs."""
        os.close(self.descriptor)


def handed() -> Settings | None:
    """Give the settings that the supervisor handed to this process; None without a supervisor."""
    text = os.environ.pop(DESCRIPTOR, None)
    if text is None:
        return None
    descriptor = int(text)
    try:
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise RuntimeError("the settings that were handed down are not sealed")
        return Settings.model_validate_json(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    finally:
        os.close(descriptor)

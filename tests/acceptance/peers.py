"""Archives for whole-node tests: real DCMTK and Orthanc processes on loopback."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileDataset

from tests.acceptance.harness import free_port, listens, wait_for

STORESCP = "/usr/bin/storescp"


@dataclass(frozen=True)
class Archive:
    """A storescp: its AE title, port and the folder of what it took."""

    ae_title: str
    port: int
    folder: Path

    @property
    def forward(self) -> str:
        """As ``init --forward`` wants it."""
        return f"{self.ae_title}@127.0.0.1:{self.port}"

    def objects(self) -> list[FileDataset]:
        """Everything taken so far."""
        return [dcmread(path) for path in sorted(self.folder.iterdir())]


@contextlib.contextmanager
def storescp(folder: Path, ae_title: str = "ARCHIVE", port: int = 0, *options: str) -> Iterator[Archive]:
    """Run DCMTK's storescp for the length of a with block."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = Archive(ae_title, port or free_port(), folder)
    process = subprocess.Popen(
        [STORESCP, "-aet", ae_title, "-od", str(folder), "+xa", *options, str(archive.port)],
        env={**os.environ, "TCP_NODELAY": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: listens(archive.port), 20, "storescp listens")
        yield archive
    finally:
        process.kill()
        process.wait()

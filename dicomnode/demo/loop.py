"""A node and an archive on loopback, each a process of its own, started for the demo and ended with it.

**Way** Both get their configuration from `init`'s templates; the archive is a second dicomnode that only accepts. What
they write to their logs goes into files of the output folder.

**Fails** `NotStarted` when a port does not open in time; the log says why.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from dicomnode.commands.init import Forward, compose, set_value
from dicomnode.errors import Transient
from dicomnode.listening import free_port
from dicomnode.queue.sqlite import SqliteQueue

_START_S = 60.0
_STOP_S = 40.0
#: A demo runs on a laptop that may be nearly full.
_SMALL_DISK = {"min_free_bytes": 50_000_000, "reserve_bytes": 20_000_000}


class NotStarted(Transient):
    """A process of the demo did not open its port."""

    code = "not_started"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of the two nodes lives."""

    ae_title: str
    port: int
    config: Path
    state: Path


def make(root: Path, ae_title: str, forward: Place | None = None) -> Place:
    """Write the configuration of a node that listens on a free port of loopback and takes any caller."""
    place = Place(ae_title, free_port(), root / "config", root / "state")
    forwards = [Forward(forward.ae_title, "127.0.0.1", forward.port)] if forward else []
    files = compose(ae_title, place.port, place.state, forwards)
    for key, value in {"bind": "127.0.0.1", "open": True, **_SMALL_DISK}.items():
        files["node.toml"] = set_value(files["node.toml"], key, value)
    for name, text in files.items():
        (place.config / name).parent.mkdir(parents=True, exist_ok=True)
        (place.config / name).write_text(text, encoding="utf-8")
    return place


@contextmanager
def running(command: str, place: Place, log: Path) -> Iterator[None]:
    """Run ``dicomnode serve`` or ``accept`` for the length of a with block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicomnode", command, "-c", str(place.config)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )
        try:
            _wait_for_port(process, place, log)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], place: Place, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", place.port), 1):
            return
        time.sleep(0.1)
    raise NotStarted(f"{place.ae_title} does not listen; see {log}")


def rows(place: Place) -> dict[str, Mapping[str, object]]:
    """Give what the node's queue says of each instance, by SOP Instance UID."""
    path = place.state / "queue.sqlite"
    if not path.exists():
        return {}
    with contextlib.closing(SqliteQueue(path)) as queue:
        return {str(row["sop_instance_uid"]): row for row in queue.rows()}


def arrived(place: Place) -> dict[str, Path]:
    """Give the files in the archive by SOP Instance UID."""
    files = sorted((place.state / "spool" / "incoming").glob("*/*.dcm"))
    return {str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path for path in files}

"""Peers for every kind of test: DCMTK's programs, Orthanc and scripted pynetdicom peers on loopback, and waiting for them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.transport import AssociationSocket

from dicomnode.header import data_set_start


def _close(wire: AssociationSocket) -> None:
    """What pynetdicom's own does, and close also when the other end was faster: tests fail on sockets left open."""
    if wire.socket is not None:
        with contextlib.suppress(OSError):
            wire.socket.shutdown(socket.SHUT_RDWR)
        wire.socket.close()


AssociationSocket._shutdown_socket = _close  # type: ignore[method-assign] - for the senders and peers of the tests

# Debian's programs by their full paths: pynetdicom installs commands of the same names.
DCMSEND, STORESCU, ECHOSCU, STORESCP = (f"/usr/bin/{name}" for name in ("dcmsend", "storescu", "echoscu", "storescp"))
ORTHANC = "/usr/sbin/Orthanc"
#: DCMTK's environment: without Nagle's algorithm, else its sender and receiver wait for each other 40 ms a message.
NO_DELAY = {**os.environ, "TCP_NODELAY": "1"}


def need(program: str) -> str:
    """The program, or a skipped test where the machine does not have it."""
    if not Path(program).exists():
        pytest.skip(f"{program} is not installed")
    return program


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(
    claim: Callable[[], Any], timeout_s: float = 20, what: str | Callable[[], str] = "a condition", tick_s: float = 0.05,
) -> Any:
    """Poll until ``claim`` gives something true; fail with ``what`` otherwise."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := claim():
            return found
        time.sleep(tick_s)
    raise AssertionError(f"not within {timeout_s} s: {what if isinstance(what, str) else what()}")


def listens(port: int) -> bool:
    """True when something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(program: str, *arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program of DCMTK, without Nagle's algorithm."""
    return subprocess.run(
        [need(program), *map(str, arguments)], capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
        env=NO_DELAY,
    )


@contextlib.contextmanager
def process(line: list[str], port: int, cwd: Path | None = None) -> Iterator[None]:
    """Run a server until the with block ends; entered when it listens."""
    child = subprocess.Popen(
        [need(line[0]), *line[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd, env=NO_DELAY,
    )
    try:
        wait_for(lambda: listens(port), what=f"{line[0]} listens")
        yield
    finally:
        child.kill()
        child.wait()


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
def storescp(folder: Path, *options: str, ae_title: str = "ARCHIVE", port: int = 0) -> Iterator[Archive]:
    """DCMTK's storescp for the length of a with block; it takes every transfer syntax unless ``options`` say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = Archive(ae_title, port or free_port(), folder)
    line = [STORESCP, "-aet", ae_title, "-od", str(folder), *(options or ("+xa",)), str(archive.port)]
    with process(line, archive.port):
        yield archive


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[tuple[int, int]]:
    """Orthanc: its DICOM port and its HTTP port."""
    folder.mkdir()
    dicom, http = free_port(), free_port()
    (folder / "orthanc.json").write_text(json.dumps({
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": http, "DicomPort": dicom,
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomAet": "ORTHANC", "Plugins": [],
    }))
    with process([ORTHANC, str(folder / "orthanc.json")], http, cwd=folder):
        wait_for(lambda: listens(dicom), what="Orthanc listens for DICOM")
        yield dicom, http


@dataclass
class Scripted:
    """A pynetdicom peer that answers as it is told; ``stored`` holds the UIDs that it was sent, ``associations`` counts."""

    port: int = field(default_factory=free_port)
    status: Any = 0x0000
    stored: list[str] = field(default_factory=list)
    associations: int = 0
    on_request: Callable[[Any], None] | None = None
    on_store: Callable[[Any], None] | None = None
    #: Gives the associations that stand.
    established: Callable[[], list[Any]] = field(default=list, init=False)

    def _requested(self, event: Any) -> None:
        self.associations += 1
        if self.on_request is not None:
            self.on_request(event)

    def _store(self, event: Any) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        if self.on_store is not None:
            self.on_store(event)
        return int(self.status)

    @contextlib.contextmanager
    def running(self, classes: dict[str, tuple[str, ...]]) -> Iterator[Scripted]:
        """Listen; ``classes`` maps the SOP Classes that are taken to their transfer syntaxes."""
        assert not _config.STORE_RECV_CHUNKED_DATASET
        ae = AE(ae_title="SCRIPTED")
        ae.require_called_aet = False
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
        for sop_class, syntaxes in classes.items():
            ae.add_supported_context(sop_class, list(syntaxes))
        server = ae.start_server(
            ("127.0.0.1", self.port), block=False,
            evt_handlers=[(evt.EVT_REQUESTED, self._requested), (evt.EVT_C_STORE, self._store)],
        )
        self.established = lambda: [one for one in server.active_associations if one.is_established]
        try:
            yield self
        finally:
            # pynetdicom would abort what has not quite ended, which its own state machine does not allow.
            wait_for(lambda: all(one.is_established for one in server.active_associations), 10, "associations have ended")
            ae.shutdown()
            server.server_close()


def pipeline(port: int, paths: list[Path], look: Callable[[], int]) -> int:
    """Send one C-STORE after the other without waiting for answers, then wait for all; the highest ``look`` on the way."""
    first = dcmread(paths[0])
    ae = AE(ae_title="MODALITY")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    assoc = ae.associate("127.0.0.1", port, ae_title="DICOMNODE")
    assert assoc.is_established
    assoc._reactor_checkpoint.clear()  # its reactor would take the answers
    wait_for(lambda: assoc._is_paused)
    highest = 0
    for number, path in enumerate(paths, 1):
        ds = dcmread(path)
        request = C_STORE()
        request.MessageID, request.Priority = number, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        with path.open("rb") as stream:
            stream.seek(data_set_start(stream))
            request.DataSet = BytesIO(stream.read())
        assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
        highest = max(highest, look())
    for _ in paths:
        _, answer = assoc.dimse.get_msg(block=True)
        assert answer is not None, "an answer is missing"
        assert answer.Status == 0
        highest = max(highest, look())
    assoc._reactor_checkpoint.set()
    assoc.release()
    return highest

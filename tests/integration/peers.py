"""Real peers on loopback: DCMTK's programs, Orthanc, scripted pynetdicom peers, and our own acceptor in a thread."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, _config, evt
from pynetdicom.transport import AssociationSocket

from dicomnode.scp.acceptor import drain, listen
from dicomnode.scp.door import Door
from dicomnode.settings import NodeSettings, Peer, Routes, Rule, ScpSettings, SendSettings, Settings
from dicomnode.spool import Spool


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


def wait_for(claim: Callable[[], Any], timeout_s: float = 20, what: str = "a condition") -> Any:
    """Poll until ``claim`` gives something true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := claim():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def listens(port: int) -> bool:
    """True when something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def settings(
    root: Path, *, port: int = 0, peers: dict[str, Peer] | None = None, open_: bool = False,
    scp: dict[str, Any] | None = None, send: dict[str, Any] | None = None,
) -> Settings:
    """Settings as tests need them: quick, and content with a small disk."""
    return Settings(
        node=NodeSettings(
            ae_title="DICOMNODE", bind="127.0.0.1", port=port or free_port(), state_dir=root / "state", open=open_,
        ),
        scp=ScpSettings(**{"min_free_bytes": 0, "reserve_bytes": 0, **(scp or {})}),
        send=SendSettings(**{"first_delay_s": 0.1, "idle_s": 0.3, "timeout_s": 2, "probe_s": 0.1, **(send or {})}),
        directory=root, peers=peers or {}, routes=Routes(rule=(Rule(name="all"),)), digest="0" * 64,
    )


@dataclass
class Node:
    """Our acceptor, running."""

    settings: Settings
    spool: Spool
    door: Door

    @property
    def port(self) -> int:
        """Where we listen."""
        return self.settings.node.port

    def kept(self) -> list[Path]:
        """Files in incoming, oldest first."""
        return sorted((self.spool.root / "incoming").rglob("*.dcm"))

    def leftovers(self) -> list[Path]:
        """Files in tmp."""
        return list((self.spool.root / "tmp").iterdir())

    def quiet(self) -> None:
        """Wait until nobody is inside."""
        wait_for(lambda: self.door.count() == 0, what="all associations have ended")


@contextlib.contextmanager
def acceptor(config: Settings, spool: Spool | None = None) -> Iterator[Node]:
    """Run the acceptor's listener for the length of a with block."""
    spool = spool or Spool(config.node.state_dir)
    door = Door(config, lambda: spool.free_bytes())  # noqa: PLW0108 - tests replace free_bytes of the spool
    listener = listen(config, spool, door)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Node(config, spool, door)
    finally:
        listener.shutdown()
        thread.join()
        drain(listener, 0.2)


def run(program: str, *arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program of DCMTK, without Nagle's algorithm."""
    return subprocess.run(
        [need(program), *map(str, arguments)], capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
        env={**os.environ, "TCP_NODELAY": "1"},
    )


@contextlib.contextmanager
def process(line: list[str], port: int, cwd: Path | None = None) -> Iterator[None]:
    """Run a server until the with block ends; entered when it listens."""
    child = subprocess.Popen(
        [need(line[0]), *line[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    try:
        wait_for(lambda: listens(port), what=f"{line[0]} listens")
        yield
    finally:
        child.kill()
        child.wait()


@contextlib.contextmanager
def storescp(folder: Path, *options: str, port: int = 0) -> Iterator[tuple[int, Path]]:
    """DCMTK's storescp: its port and the folder of what it took."""
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    with process([STORESCP, "-od", str(folder), *(options or ("+xa",)), str(port)], port):
        yield port, folder


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
        try:
            yield self
        finally:
            ae.shutdown()
            server.server_close()

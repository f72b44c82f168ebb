"""A `dicomnode serve` of some roles in processes of its own, and senders that load it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Self

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE
from pynetdicom.association import Association

from tests.acceptance.harness import DICOMNODE, Node
from tests.peers import wait_for

CT = Path(str(get_testdata_file("CT_small.dcm")))
VERIFICATION = "1.2.840.10008.1.1"
#: As systemd starts a service with a socket: the descriptor is 3, and the variables name the process itself.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Master:
    """A `dicomnode serve` of some roles on a node under test."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *only: str, passed: socket.socket | None = None, environment: dict[str, str] | None = None) -> None:
        """Start it, with a socket as systemd passes it or without."""
        line = [*DICOMNODE, "serve", *(part for role in only for part in ("--only", role)), "-c", str(self.node.config)]
        fds: tuple[int, ...] = ()
        if passed is not None:
            line, fds = [sys.executable, "-c", _AS_SYSTEMD, str(passed.fileno()), *line], (passed.fileno(),)
        with self.node.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                line, stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=fds, env={**os.environ, **(environment or {})},
            )

    def ready(self, times: int = 1) -> None:
        """Wait until it has said so, for the so-manieth time."""
        wait_for(lambda: len(self.node.events("node_ready")) == times, 120, lambda: "the node is ready; " + self.node.tail())

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it in order."""
        assert self.process is not None
        self.tell(signal.SIGTERM)
        assert self.process.wait(timeout=90) == 0, self.node.tail()
        self.process = None


def associate(port: int, title: str = "MODALITY") -> Association:
    """An association that may echo and store a CT; established or not."""
    ae = AE(ae_title=title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.add_requested_context(VERIFICATION)
    ds = dcmread(CT)
    ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    return ae.associate("127.0.0.1", port, ae_title="DICOMNODE")


def echoes(assoc: Association) -> bool:
    """True when the association is open and answers."""
    return bool(assoc.is_established) and assoc.send_c_echo().get("Status") == 0x0000


class Load:
    """Senders that open an association, store an instance and release it, over and over; and what did not work of it."""

    def __init__(self, port: int, senders: int = 2) -> None:
        self._port, self._stop = port, threading.Event()
        self.served, self.faults = 0, Counter[str]()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(senders)]

    def _send(self) -> None:
        ds = dcmread(CT)
        while not self._stop.is_set():
            assoc = associate(self._port)
            status = assoc.send_c_store(ds).get("Status") if assoc.is_established else None
            if assoc.is_established:
                assoc.release()
            with self._lock:
                if status == 0x0000:
                    self.served += 1
                else:
                    self.faults["rejected" if assoc.is_rejected else f"status {status}"] += 1

    def more(self, count: int = 5) -> None:
        """Wait until so many more were served."""
        before = self.served
        wait_for(lambda: self.served >= before + count, 90, lambda: f"{count} more are served; {self.faults}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)


def kept(node: Node) -> int:
    """How many instances stand in incoming."""
    return len(list((node.state / "spool" / "incoming").rglob("*.dcm")))

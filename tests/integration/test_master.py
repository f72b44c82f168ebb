"""The master of the processes: one socket for all acceptors, seats over all of them, whole restarts that refuse nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pynetdicom import AE
from pynetdicom.association import Association

from tests.acceptance.harness import DICOMNODE, Node
from tests.peers import listens, need, wait_for

SOCKET_ACTIVATE = "/usr/bin/systemd-socket-activate"
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


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """A node that takes any caller; what the test leaves running is killed."""
    made = Master(Node(tmp_path))
    yield made
    pids = [pid for role in ("accept", "work", "send", "keep") for pid in made.node.pids(role)]
    if made.process is not None:
        made.process.kill()
        made.process.wait()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


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


# -- one socket
def test_associations_spread_over_the_acceptors(master: Master) -> None:
    """Of 16 associations at once none of two acceptors gets more than 10; all are counted against the limit together."""
    node = master.node
    node.edit("node.toml", "max_associations = 100", "max_associations = 16")
    master.start("accept")
    master.ready()
    found: list[Association] = []
    threads = [threading.Thread(target=lambda: found.append(associate(node.port))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [assoc.is_established for assoc in found] == [True] * 16
    by_process = Counter(record["pid"] for record in node.events("association_accepted"))
    assert len(by_process) == 2
    assert max(by_process.values()) <= 10, by_process
    one_more = associate(node.port)
    assert one_more.is_rejected
    (told,) = node.events("association_rejected")
    assert told["reason"] == "too_many_associations"
    for assoc in found:
        assoc.release()
    master.stop()


def test_a_killed_acceptor_takes_only_its_own_associations_along(master: Master) -> None:
    """Others go on, its seats come free at once, and no connection is refused meanwhile."""
    node = master.node
    node.edit("node.toml", "max_associations_per_ae = 32", "max_associations_per_ae = 4")
    master.start("accept")
    master.ready()
    found = [associate(node.port, "CT") for _ in range(4)]
    assert all(assoc.is_established for assoc in found)
    assert associate(node.port, "CT").is_rejected
    assert node.events("association_rejected")[0]["reason"] == "too_many_associations_of_ae"
    assert associate(node.port, "MR").is_established
    victim = node.events("association_accepted")[0]["pid"]
    theirs = sum(record["pid"] == victim and record["calling_ae"] == "CT" for record in node.events("association_accepted"))
    with Load(node.port) as load:
        load.more()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: node.events("child_exited"), 20, "the death is told")
        again = [associate(node.port, "CT") for _ in range(theirs + 1)]
        load.more()
    assert [assoc.is_established for assoc in again] == [True] * theirs + [False]
    assert sum(echoes(assoc) for assoc in found) == 4 - theirs
    # Of the load's associations those of the killed process broke, nobody else's was refused.
    assert load.faults["rejected"] == 0
    assert sum(load.faults.values()) <= 2, load.faults
    wait_for(lambda: len(node.events("acceptor_started")) == 3, 60, lambda: "a new acceptor; " + node.tail())


def test_silent_peers_hold_nobody_up(master: Master) -> None:
    """Connections that say nothing, or half a request, several in each acceptor: who speaks is served meanwhile."""
    node = master.node
    master.start("accept")
    master.ready()
    with contextlib.ExitStack() as stack:
        for half in (b"", b"\1\0", b"\1\0\0\0\1\0half") * 4:
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port))).sendall(half)
        for _ in range(6):
            assoc = associate(node.port)
            assert echoes(assoc)
            assoc.release()
    assert {record["pid"] for record in node.events("association_accepted")} <= set(node.pids("accept"))


# -- systemd's socket
def test_a_restart_with_a_passed_socket_refuses_nobody(master: Master) -> None:
    """The socket outlives the node: who connects while it is down waits in the kernel and is served by the next one."""
    node = master.node
    with socket.create_server(("127.0.0.1", node.port), backlog=128) as passed, Load(node.port) as load:
        master.start("accept", passed=passed)
        master.ready()
        load.more()
        for times in (2, 3):
            master.stop()
            waiting = socket.create_connection(("127.0.0.1", node.port))
            with waiting:
                master.start("accept", passed=passed)
                master.ready(times)
            load.more()
        assert listens(node.port)
    assert load.faults == {}
    assert kept(node) == load.served
    master.stop()


def test_the_socket_of_systemd_socket_activate(master: Master) -> None:
    """Started by the first connection, which it serves; the port of the settings is none that it would bind."""
    node = master.node
    port = _other(node.port)
    line = [need(SOCKET_ACTIVATE), "-l", f"127.0.0.1:{port}", *DICOMNODE, "serve", "--only", "accept", "-c", str(node.config)]
    with node.log_path.open("ab") as log:
        master.process = subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    wait_for(lambda: listening_there(port), 20, "systemd-socket-activate listens")
    assert echoes(associate(port))
    assert not listens(node.port)
    assert {record["port"] for record in node.events("acceptor_started")} == {port}
    master.stop()


def listening_there(port: int) -> bool:
    """True when the kernel lists a listening socket there; a connection would start the service."""
    wanted = f"0100007F:{port:04X}"
    return any(wanted in line and " 0A " in line for line in Path("/proc/net/tcp").read_text().splitlines())


def _other(port: int) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found = int(probe.getsockname()[1])
    assert found != port
    return found


# -- some of the roles
def test_masters_of_single_roles_run_beside_each_other(master: Master, tmp_path: Path) -> None:
    """On one state directory one of each role, as the units do it; a second one of the same role is refused."""
    node = master.node
    other = Master(node)
    master.start("accept")
    other.start("keep", "send")
    try:
        wait_for(lambda: len(node.events("node_ready")) == 2, 90, lambda: "both are ready; " + node.tail())
        assert {role: len(node.pids(role)) for role in ("accept", "work", "send", "keep")} == {
            "accept": 2, "work": 0, "send": 1, "keep": 1,
        }
        done = node.command("serve", "--only", "send", check=False)
        assert done.returncode == 78
        assert "runs the role 'send'" in done.stderr
        assoc = associate(node.port)
        assert assoc.send_c_store(dcmread(CT)).Status == 0x0000
        assoc.release()
        wait_for(lambda: node.events("instance_taken"), 30, "the keeper of the other master takes it in")
    finally:
        other.stop()
    master.stop()

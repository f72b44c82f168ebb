"""A listening socket that somebody else opened, systemd-socket-activate here: it is served, stays open, refuses nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.harness import DICOMNODE, Node
from tests.acceptance.samples import radiograph, write
from tests.knocks import knock
from tests.peers import ECHOSCU, STORESCU, listens, need, run, wait_for

ACTIVATE = "/usr/bin/systemd-socket-activate"
ACCEPT = [*DICOMNODE, "serve", "--only", "accept", "-c"]


@contextlib.contextmanager
def activated(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    """`serve --only accept` on a socket of systemd's program, which becomes it at the first connection."""
    kept = [f"--setenv={name}={os.environ[name]}" for name in ("PYTHONPATH", "PATH", "HOME") if name in os.environ]
    line = [need(ACTIVATE), f"--listen=127.0.0.1:{node.port}", "--fdname=dicom", *kept, *ACCEPT, str(node.config)]
    with node.log_path.open("ab") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: listening(node.port), 20, "systemd-socket-activate listens")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def listening(port: int) -> bool:
    """Whether somebody listens, seen without a connection, which would start the node."""
    wanted = f"0100007F:{port:04X}"
    return any(
        line.split()[1] == wanted and line.split()[3] == "0A" for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
    )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node that has not been started."""
    return Node(tmp_path)


def test_stock_peers_are_served(node: Node, tmp_path: Path) -> None:
    """C-ECHO and C-STORE of DCMTK over a passed socket; the first one waits while the node starts. SIGTERM ends it with 0."""
    path = write(radiograph(), tmp_path / "in")
    with activated(node) as process:
        assert run(ECHOSCU, "-aec", "DICOMNODE", "-to", "60", "127.0.0.1", node.port).returncode == 0, node.tail()
        assert run(STORESCU, "-aec", "DICOMNODE", "127.0.0.1", node.port, path).returncode == 0, node.tail()
        assert len(list((node.state / "spool" / "incoming").rglob("*.dcm"))) == 1
        assert len(node.pids("accept")) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, node.tail()
    assert not listens(node.port)


def test_the_passed_socket_counts_and_not_the_port_that_is_set(node: Node) -> None:
    """A port in the configuration that another has is no hindrance: the socket came from outside."""
    served = node.port
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.socket())
        other.bind(("127.0.0.1", 0))
        other.listen()
        node.edit("node.toml", f"port = {served}", f"port = {other.getsockname()[1]}")
        stack.enter_context(activated(node))
        knock(served, "released", 60)


def test_a_restart_over_an_open_socket_refuses_nobody(node: Node) -> None:
    """Who holds the socket starts the acceptors twice; visitors that come all the while are all served."""
    end, wrong, served = threading.Event(), [], []

    def visit() -> None:
        while not end.is_set():
            try:
                knock(node.port, "released", 60)
                served.append(1)
            except (OSError, ValueError) as error:
                wrong.append(repr(error))

    visitor = threading.Thread(target=visit)
    with socket.socket() as held, node.log_path.open("ab") as log:
        held.bind(("127.0.0.1", node.port))
        held.listen(64)
        # As systemd passes it: descriptor 3, to the very process that becomes the node.
        start = f'exec 3<&{held.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"'
        visitor.start()
        try:
            for last in (False, True):
                before = len(served)
                process = subprocess.Popen(
                    ["bash", "-c", start, *ACCEPT, str(node.config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    pass_fds=(held.fileno(),),
                )
                try:
                    wait_for(lambda before=before: len(served) > before + 3, 60, lambda: "visitors come in; " + node.tail())
                    if last:
                        end.set()
                        visitor.join(60)
                    process.terminate()
                    assert process.wait(timeout=60) == 0, node.tail()
                finally:
                    process.kill()
                    process.wait()
        finally:
            end.set()
    visitor.join()
    assert wrong == []

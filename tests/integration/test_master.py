"""The master of the processes: one socket for all acceptors, seats over all of them, whole restarts that refuse nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections import Counter
from pathlib import Path

from pydicom import dcmread
from pynetdicom.association import Association

from tests.acceptance.harness import DICOMNODE
from tests.integration.master import CT, Load, Master, associate, echoes, kept
from tests.peers import listens, need, wait_for

SOCKET_ACTIVATE = "/usr/bin/systemd-socket-activate"


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

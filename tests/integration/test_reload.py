"""SIGHUP: all or nothing, nobody refused, nothing cut; and what the master tells systemd."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.settings import load
from tests.acceptance.harness import DICOMNODE
from tests.integration.master import CT, Load, Master, associate, echoes, kept
from tests.peers import free_port, wait_for


def digest(master: Master) -> str:
    """As the log shows that of the files as they are now."""
    return load(master.node.config).digest[:12]


def reloaded(master: Master, times: int = 1) -> None:
    """Wait for the so-manieth reload."""
    node = master.node
    wait_for(lambda: len(node.events("config_reloaded")) == times, 120, lambda: "the node has reloaded; " + node.tail())


def rejected(master: Master, times: int = 1) -> str:
    """Wait for the so-manieth refusal and give its words."""
    node = master.node
    wait_for(lambda: len(node.events("config_rejected")) == times, 120, lambda: "it is refused; " + node.tail())
    return str(node.events("config_rejected")[-1]["message"])


# -- right
def test_a_reload_under_load_refuses_and_cuts_nobody(master: Master) -> None:
    """New acceptors by the new settings, the old ones end with their last association, every instance is taken."""
    node = master.node
    master.start("accept")
    master.ready()
    old = set(node.pids("accept"))
    open_one = associate(node.port, "CT")
    with Load(node.port) as load_:
        load_.more()
        node.edit("node.toml", "max_associations_per_ae = 32", "max_associations_per_ae = 3")
        master.tell(signal.SIGHUP)
        reloaded(master)
        load_.more()
        assert echoes(open_one), "an open association goes on"
        assert open_one.send_c_store(dcmread(CT)).Status == 0x0000
    assert load_.faults == {}
    assert kept(node) == load_.served + 1
    started = node.events("acceptor_started")
    assert Counter(record["config_digest"] for record in started[2:]) == {digest(master): 2}
    assert not old & {record["pid"] for record in started[2:]}
    # The old and the new acceptors count together, by the new limit.
    others = [associate(node.port, "CT") for _ in range(3)]
    assert [assoc.is_established for assoc in others] == [True, True, False]
    wait_for(lambda: len(node.pids("accept")) == 3, 30, lambda: f"the idle old one has ended; {node.pids('accept')}")
    open_one.release()
    wait_for(lambda: not old & set(node.pids("accept")), 30, "the last old acceptor has ended")
    assert node.events("child_exited") == []
    for assoc in others[:2]:
        assoc.release()
    master.stop()


def test_more_and_fewer_acceptors(master: Master) -> None:
    """The number of processes follows the settings."""
    node = master.node
    master.start("accept")
    master.ready()
    for times, (was, count) in enumerate(((2, 4), (4, 1)), 1):
        node.edit("node.toml", f"acceptors = {was}", f"acceptors = {count}")
        master.tell(signal.SIGHUP)
        reloaded(master, times)
        wait_for(lambda count=count: len(node.pids("accept")) == count, 30, f"{count} acceptors")
        assoc = associate(node.port)
        assert echoes(assoc)
        assoc.release()
    master.stop()


def test_a_second_sighup_during_a_reload_is_heard(master: Master) -> None:
    """What runs in the end is what stands in the files at the last signal."""
    node = master.node
    master.start("accept", "keep")
    master.ready()
    node.edit("node.toml", "acceptors = 2", "acceptors = 3")
    master.tell(signal.SIGHUP)
    wait_for(lambda: len(node.events("child_started")) > 3, 60, lambda: "the first reload replaces; " + node.tail())
    node.edit("node.toml", "acceptors = 3", "acceptors = 1")
    wanted = digest(master)
    master.tell(signal.SIGHUP)
    master.tell(signal.SIGHUP)
    reloaded(master, 2)
    assert node.events("config_reloaded")[-1]["config_digest"] == wanted
    wait_for(lambda: len(node.pids("accept")) == 1, 30, "one acceptor")
    # Of the keeper there is one at a time.
    told = [record["event"] for record in node.events() if record["event"] in ("keeper_started", "keeper_stopped")]
    assert told == ["keeper_started", "keeper_stopped"] * 2 + ["keeper_started"]
    master.stop()


# -- wrong
def test_a_wrong_configuration_changes_nothing(master: Master) -> None:
    """File and key are named, every process stays; also one that is started again runs by what was approved."""
    node = master.node
    master.start("accept")
    master.ready()
    pids = set(node.pids("accept"))
    node.edit("node.toml", "acceptors = 2", "acceptors = none")
    master.tell(signal.SIGHUP)
    assert "node.toml" in rejected(master)
    assert set(node.pids("accept")) == pids
    os.kill(min(pids), signal.SIGKILL)
    wait_for(lambda: len(node.events("acceptor_started")) == 3, 60, lambda: "a new acceptor; " + node.tail())
    assert len({record["config_digest"] for record in node.events("acceptor_started")}) == 1
    node.edit("node.toml", "acceptors = none", "acceptors = 2")
    node.edit("node.toml", f"port = {node.port}", f"port = {free_port()}")
    master.tell(signal.SIGHUP)
    text = rejected(master, 2)
    assert "node.port cannot change while the node runs" in text
    assert "node.bind" not in text
    assert echoes(associate(node.port))
    assert node.events("config_reloaded") == []
    master.stop()


def test_what_the_check_finds_keeps_the_old_configuration(master: Master) -> None:
    """A program that is not there is seen before any process is touched; mended, the next signal takes it."""
    node = master.node
    master.start("keep")
    master.ready()
    pids = node.pids("keep")
    node.edit("node.toml", "\nhook = []", '\nhook = ["/no/such/program"]')
    master.tell(signal.SIGHUP)
    assert "hook: keep.hook: /no/such/program" in rejected(master)
    assert node.pids("keep") == pids
    node.edit("node.toml", "/no/such/program", "/bin/true")
    master.tell(signal.SIGHUP)
    reloaded(master)
    assert node.pids("keep") != pids
    master.stop()


def test_a_process_that_cannot_run_by_the_new_one_turns_all_back(master: Master) -> None:
    """What no check saw ends in the old configuration, with the node alive, and it recovers when the cause is gone."""
    node = master.node
    master.start("accept", "keep")
    master.ready()
    before = digest(master)
    queue = node.state / "queue.sqlite"
    version = _schema(queue, 999)  # as of a newer dicomnode, which the keeper refuses with 78
    node.edit("node.toml", "acceptors = 2", "acceptors = 3")
    master.tell(signal.SIGHUP)
    assert "'keep'" in rejected(master)
    assert node.events("config_rejected")[-1]["config_digest"] == before
    wait_for(lambda: len(node.pids("accept")) == 2, 60, lambda: "two acceptors again; " + node.tail())
    assert echoes(associate(node.port))
    assert node.events("acceptor_started")[-1]["config_digest"] == before
    started = len(node.events("keeper_started"))
    _schema(queue, version)
    wait_for(lambda: len(node.events("keeper_started")) > started, 60, lambda: "the keeper runs; " + node.tail())
    assert node.events("config_reloaded") == []
    master.stop()


def _schema(queue: Path, version: int) -> int:
    with closing(sqlite3.connect(queue, timeout=30)) as connection:
        (before,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    return int(before)


# -- systemd
@contextmanager
def systemd(path: Path) -> Iterator[socket.socket]:
    """The socket that systemd hands to a service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(0.05)
        yield listener


def told(listener: socket.socket, words: list[str]) -> list[str]:
    """Everything that was said so far."""
    while True:
        try:
            words += listener.recv(4096).decode().split("\n")
        except TimeoutError:
            return words


def test_what_systemd_is_told(master: Master, tmp_path: Path) -> None:
    """READY when all work, signs of life while none is stuck, RELOADING and READY, STOPPING; a stuck process is replaced."""
    node = master.node
    words: list[str] = []
    with systemd(tmp_path / "n") as listener:
        master.start("accept", environment={"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "10000000"})
        wait_for(lambda: "READY=1" in told(listener, words), 90, lambda: str(words))
        assert len(node.events("acceptor_started")) == 2
        assert "STATUS=accept 2" in told(listener, words)
        words.clear()
        wait_for(lambda: told(listener, words).count("WATCHDOG=1") >= 2, 20, lambda: str(words))

        stuck = node.pids("accept")[0]
        os.kill(stuck, signal.SIGSTOP)
        wait_for(lambda: told(listener, words) and node.events("child_stuck"), 60, lambda: "it is found; " + node.tail())
        assert node.events("child_stuck")[0]["child_pid"] == stuck
        assert echoes(associate(node.port)), "the other one accepts"
        wait_for(lambda: len(node.events("acceptor_started")) == 3, 60, lambda: "it is replaced; " + node.tail())
        assert stuck not in node.pids("accept")

        told(listener, words).clear()
        master.tell(signal.SIGHUP)
        wait_for(lambda: "READY=1" in told(listener, words), 90, lambda: str(words))
        reloaded(master)
        assert words.index("RELOADING=1") < words.index("READY=1")
        words.clear()
        master.stop()
        assert "STOPPING=1" in told(listener, words)


@pytest.mark.parametrize("role", ["accept", "keep", "send"])
def test_a_role_alone_speaks_to_systemd_itself(master: Master, tmp_path: Path, role: str) -> None:
    """Without a master a role names its time and says READY to whoever started it."""
    words: list[str] = []
    with systemd(tmp_path / "n") as listener, master.node.log_path.open("ab") as log:
        line = [*DICOMNODE, role, "-c", str(master.node.config)]
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "n")}
        with subprocess.Popen(line, stdout=log, stderr=log, env=environment) as process:
            wait_for(lambda: "READY=1" in told(listener, words), 60, lambda: str(words))
            process.terminate()
            assert process.wait(60) == 0
        assert words[0].startswith("WATCHDOG_USEC=")

"""Signs of life: what reaches systemd or the supervisor, and that nothing ever fails for it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode import notify


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[notify._Line]:
    """A process that has not spoken yet."""
    for name in (notify.DESCRIPTOR, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    made = notify._Line()
    monkeypatch.setattr(notify, "_line", made)
    yield made
    if made._socket is not None:
        made._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of systemd, as a path or in the abstract name space."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"dicomnode-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
        listener.bind("\0" + name if request.param == "abstract" else name)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if request.param == "abstract" else name)
        yield listener


def test_the_words(line: notify._Line, systemd: socket.socket) -> None:
    """Each call is one datagram in the words of sd_notify(3)."""
    notify.ready()
    assert systemd.recv(999) == b"READY=1"
    notify.alive()
    assert systemd.recv(999) == b"WATCHDOG=1"
    notify.watchdog_s(2.5)
    assert systemd.recv(999) == b"WATCHDOG_USEC=2500000"
    notify.status("4 processes")
    assert systemd.recv(999) == b"STATUS=4 processes"
    notify.reloading()
    first, second = systemd.recv(999).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")
    notify.stopping()
    assert systemd.recv(999) == b"STOPPING=1"
    assert line._found


@pytest.mark.usefixtures("line")
def test_alive_is_said_at_most_once_a_second(systemd: socket.socket) -> None:
    """A thousand steps a second are one message."""
    for _ in range(1000):
        notify.alive()
    assert systemd.recv(999) == b"WATCHDOG=1"
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(999)


@pytest.mark.usefixtures("line")
def test_the_supervisor_comes_first_and_children_inherit_nothing(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The socket that the supervisor handed down is taken, and what this process starts sees none of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        handed = theirs.detach()
        os.set_inheritable(handed, True)
        monkeypatch.setenv(notify.DESCRIPTOR, str(handed))
        notify.ready()
        assert ours.recv(999) == b"READY=1"
        assert not os.get_inheritable(handed)
        assert notify.DESCRIPTOR not in os.environ
        assert "NOTIFY_SOCKET" not in os.environ
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(999)


@pytest.mark.parametrize("name", ["", "/nowhere/notify", "@dicomnode-nobody", "relative"])
@pytest.mark.usefixtures("line")
def test_nobody_there_is_no_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a socket, or with one that nobody reads, every call returns."""
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify.ready()
    notify.alive()
    assert notify.asked_s() is None


@pytest.mark.usefixtures("line")
def test_a_full_socket_does_not_block(systemd: socket.socket) -> None:
    """A reader that has stopped reading never holds a role up, and a READY that comes to a full socket is not lost."""
    for _ in range(2000):
        notify.status("here")
    reader = threading.Timer(0.3, systemd.recv, (999,))
    reader.start()
    notify.ready()
    reader.join()
    said = []
    while not said or said[-1] != b"READY=1":
        said.append(systemd.recv(999))
    assert set(said) == {b"STATUS=here", b"READY=1"}
    for _ in range(2000):
        notify.status("here")
    started = time.monotonic()
    notify.ready()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(("microseconds", "pid", "seconds"), [
    ("30000000", "", 30.0), ("30000000", "own", 30.0), ("30000000", "1", None), ("", "", None), ("x", "", None),
])
@pytest.mark.usefixtures("line")
def test_the_watchdog_that_systemd_asks_for(
    microseconds: str, pid: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It counts when it is meant for this process."""
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert notify.asked_s() == seconds


def test_together_speaks_when_all_got_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread that hangs keeps the sign back, however often the others step; when it leaves they speak again."""
    said: list[int] = []
    monkeypatch.setattr(notify, "alive", lambda: said.append(1))
    lanes = notify.Together()
    lanes.alive("a")
    lanes.alive("b")
    assert len(said) == 1, "b came after a had spoken for itself"
    lanes.alive("a")
    assert len(said) == 2
    for _ in range(5):
        lanes.alive("a")
    assert len(said) == 2, "b hangs"
    lanes.leave("b")
    assert len(said) == 3

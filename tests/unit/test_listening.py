"""The listening socket: systemd's, handed down, or our own; what is no such socket is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dicomnode import listening
from dicomnode.errors import BadSetting, CannotListen
from dicomnode.settings import NodeSettings

_PASSED = """
import os, sys
from dicomnode import listening
from dicomnode.errors import BadSetting
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = {pid}
try:
    sock = listening.passed()
    print("none" if sock is None else listening.port_of(sock), "LISTEN_FDS" in os.environ, os.get_inheritable(3))
except BadSetting as error:
    print(error)
"""


def passed(sock: socket.socket, count: str = "1", pid: str = "str(os.getpid())") -> str:
    """What a process makes of a descriptor 3 that systemd passed."""
    line = [sys.executable, "-c", _PASSED.format(pid=pid), str(sock.fileno())]
    done = subprocess.run(
        line, env={**os.environ, "LISTEN_FDS": count}, pass_fds=(sock.fileno(),), capture_output=True, text=True, timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_the_socket_of_systemd() -> None:
    """It is taken as it is, whatever the settings say, and what we start inherits nothing of it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert passed(sock) == f"{sock.getsockname()[1]} False False"
        assert passed(sock, pid="'1'").startswith("none True"), "it is meant for another process"
        assert passed(sock, count="0").startswith("none")
        assert "systemd passed 2 sockets" in passed(sock, count="2")


def test_what_is_no_listening_socket() -> None:
    """A datagram socket, a connection and a local socket are refused in words that name the unit."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert "ListenStream=" in passed(datagrams)
    with socket.socket() as unbound:
        assert "ListenStream=" in passed(unbound)
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0dicomnode-test-{os.getpid()}")
        local.listen()
        assert "ListenStream=" in passed(local)


def test_a_descriptor_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of systemd without its socket are named as what they are."""
    closed = os.dup(0)
    os.close(closed)
    monkeypatch.setenv(listening.DESCRIPTOR, str(closed))
    with pytest.raises(BadSetting, match="ListenStream="):
        listening.handed()


def test_our_own(tmp_path: Path) -> None:
    """Bound as the settings say; one that is taken is tried again later, one that is none never."""
    with listening.own(NodeSettings(state_dir=tmp_path, bind="127.0.0.1", port=_free())) as sock:
        port = listening.port_of(sock)
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port}"):
            listening.own(NodeSettings(state_dir=tmp_path, bind="127.0.0.1", port=port))
    with pytest.raises(BadSetting, match=r"node\.bind"):
        listening.own(NodeSettings(state_dir=tmp_path, bind="not/an/address", port=11112))
    assert listening.handed() is None


def test_what_the_supervisor_hands_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """An acceptor takes it once, and programs that it starts do not see it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        monkeypatch.setenv(listening.DESCRIPTOR, str(os.dup(sock.fileno())))
        taken = listening.handed()
        assert taken is not None
        with taken:
            assert listening.port_of(taken) == port
        assert listening.handed() is None


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""`dicomnode serve` and the four roles as real processes: starting, draining, dying, being started again, refusing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.repository import models_dir
from dicomnode.settings import WorkSettings
from tests.acceptance.harness import DICOMNODE, Node
from tests.peers import listens, wait_for

ROLES = ("accept", "work", "send", "keep")
#: What `serve` starts.
PROCESSES = ("accept", "accept", "work", "work", "send", "keep")
STARTED = {"accept": "acceptor", "work": "worker", "send": "sender", "keep": "keeper"}
needs_models = pytest.mark.skipif(
    not list(models_dir(WorkSettings()).glob("bodypart-router/*/model.onnx")), reason="the router's model is not in models/",
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node as `init` configures it; whatever the test leaves running is killed."""
    made = Node(tmp_path)
    yield made
    for role in ("serve", *ROLES):
        for pid in made.pids(role):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if made._process is not None:
        made._process.wait(timeout=20)


def children(node: Node) -> list[int]:
    """Every process of a role that runs now."""
    return [pid for role in ROLES for pid in node.pids(role)]


def all_started(node: Node) -> bool:
    """Each process of each role has said that it runs."""
    said = [record["event"] for record in node.events() if record["process"] != "serve"]
    wanted = Counter(f"{STARTED[role]}_started" for role in PROCESSES)
    return Counter(event for event in said if event.endswith("_started")) == wanted


# -- the tree
@needs_models
def test_sigterm_drains_the_tree(node: Node) -> None:
    """All roles run; SIGTERM ends the acceptor first and then the others, none is left and the exit code is 0."""
    node.start()
    wait_for(lambda: all_started(node), 60, lambda: "all roles; " + node.tail())
    assert {role: len(node.pids(role)) for role in ROLES} == Counter(PROCESSES)
    assert node.stop() == 0
    assert children(node) == []
    events = [record["event"] for record in node.events()]
    assert events[0] == "node_started"
    assert events[-1] == "node_stopped"
    stopped = [event for event in events if event.endswith("_stopped")]
    assert stopped[:2] == ["acceptor_stopped"] * 2
    assert Counter(stopped) == {"node_stopped": 1} | Counter(f"{STARTED[role]}_stopped" for role in PROCESSES)
    assert "child_exited" not in events
    assert not listens(node.port)


@needs_models
def test_the_log_of_a_quiet_node_has_no_noise(node: Node) -> None:
    """Every line of the whole tree is one JSON object of the catalogue, and none is a library's or a fault's."""
    with node.running():
        wait_for(lambda: all_started(node), 60, lambda: "all roles; " + node.tail())
    text = node.log_path.read_text().splitlines()
    assert all(line.startswith("{") for line in text), text
    assert {record["level"] for record in node.events()} == {"info"}, node.tail()
    assert not any("dropped" in record for record in node.events())


@needs_models
def test_children_end_when_the_supervisor_is_killed(node: Node) -> None:
    """SIGKILL leaves the supervisor no say; its children end by themselves within 15 s, and free the port."""
    node.start()
    wait_for(lambda: all_started(node), 60, lambda: "all roles; " + node.tail())
    assert node._process is not None
    node._process.kill()
    node._process.wait()
    wait_for(lambda: not children(node), 15, "the children have ended")
    assert not listens(node.port)


def test_children_that_are_still_starting_end_with_the_supervisor_too(node: Node) -> None:
    """A supervisor that dies while its children import their modules leaves none behind."""
    with node.log_path.open("ab") as log:
        node._process = subprocess.Popen([*DICOMNODE, "serve", "-c", str(node.config)], stdout=log, stderr=log)
    wait_for(lambda: len(children(node)) == len(PROCESSES), 30, "children", 0.01)
    node._process.kill()
    node._process.wait()
    wait_for(lambda: not children(node), 15, "the children have ended")


@needs_models
@pytest.mark.parametrize("role", ROLES)
def test_a_killed_child_is_started_again(node: Node, role: str) -> None:
    """The supervisor tells of the death and starts a fresh process that gets as far as the first one."""
    node.start()
    wait_for(lambda: all_started(node), 60, lambda: "all roles; " + node.tail())
    old, *others = node.pids(role)
    os.kill(old, signal.SIGKILL)
    name, count = f"{STARTED[role]}_started", PROCESSES.count(role) + 1
    wait_for(lambda: len(node.events(name)) == count, 30, f"one more {name}; {node.tail()}")
    assert len(set(node.pids(role)) - {old, *others}) == 1
    assert set(others) < set(node.pids(role))
    (told,) = node.events("child_exited")
    assert (told["role"], told["child_pid"], told["exit_code"]) == (role, old, -9)
    assert node.stop() == 0


# -- one role alone
@pytest.mark.parametrize("role", ["accept", pytest.param("work", marks=needs_models), "send", "keep"])
def test_a_role_runs_alone(node: Node, role: str) -> None:
    """As under systemd: it says that it has started, ends with 0 on SIGTERM and says so."""
    line = [*DICOMNODE, role, "-c", str(node.config)]
    with node.log_path.open("ab") as log, subprocess.Popen(line, stdout=log, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: node.events(f"{STARTED[role]}_started") or process.poll() is not None, 60, f"{role} runs")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (0, ""), node.tail()
    assert [record["process"] for record in node.events(f"{STARTED[role]}_stopped")] == [role]


_ELSEWHERE = """
import signal, threading, time
from dicomnode.roles import SignalStop

def other():
    time.sleep(0.3)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

stop = SignalStop().on_signals()
threading.Thread(target=other).start()
started = time.monotonic()
print(stop.wait(20), time.monotonic() - started < 10)
"""


def test_a_signal_that_another_thread_gets_wakes_the_main_one() -> None:
    """The kernel may give SIGTERM to any thread; a main thread that sleeps in `wait` must hear of it at once."""
    done = subprocess.run([sys.executable, "-c", _ELSEWHERE], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True True\n", done.stderr


# -- refusing
BROKEN = {
    "unknown key": ("node.toml", "open = true", "open = true\nopened = true", ["node.toml", "node.opened"]),
    "bad value": ("node.toml", "threads = 1", "threads = 0", ["node.toml", "work.threads"]),
    "no TOML": ("node.toml", "threads = 1", "threads = = 1", ["node.toml", "not TOML"]),
    "bad rule": ("routes.toml", "# min_probability = 0.5", "min_probability = 2", ["routes.toml", "min_probability"]),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("role", ["serve", "work"])
def test_a_bad_configuration_refuses_to_start(node: Node, fault: str, role: str) -> None:
    """Exit 78 and one line that names file and key; no traceback, no child."""
    name, old, new, words = BROKEN[fault]
    node.edit(name, old, new)
    done = node.command(role, check=False)
    assert done.returncode == 78
    assert all(word in done.stderr for word in words), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_missing_configuration_refuses_to_start(tmp_path: Path) -> None:
    """The message says which file and how to make it."""
    done = subprocess.run(
        [*DICOMNODE, "serve", "-c", str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 78
    assert str(tmp_path / "none" / "node.toml") in done.stderr
    assert "dicomnode init" in done.stderr


def test_a_state_dir_that_cannot_be_made_refuses_to_start(node: Node, tmp_path: Path) -> None:
    """A file where the folder should be is named as the administrator's fault, not as a defect."""
    (tmp_path / "file").write_text("")
    node.edit("node.toml", f'state_dir = "{node.state}"', f'state_dir = "{tmp_path / "file" / "state"}"')
    for role in ("serve", "keep"):
        done = node.command(role, check=False)
        assert done.returncode == 78, done.stderr
        assert "state_dir" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("role", ["serve", "accept", "keep"])
def test_a_state_dir_that_others_can_read_refuses_to_start(node: Node, role: str) -> None:
    """Exit 78 and the command that mends it."""
    node.state.mkdir()
    node.state.chmod(0o755)
    done = node.command(role, check=False)
    assert done.returncode == 78, done.stderr
    assert f"{node.state} is open to every account" in done.stderr
    assert "chmod o=" in done.stderr


@needs_models
def test_a_model_that_is_missing_stops_the_node(node: Node, tmp_path: Path) -> None:
    """A worker that cannot be built never starts, so the tree ends with 78 and leaves nobody behind."""
    (tmp_path / "models").mkdir()
    node.edit("node.toml", '# models_dir = "/var/lib/dicomnode-models"', f'models_dir = "{tmp_path / "models"}"')
    done = node.command("serve", check=False)
    assert done.returncode == 78
    assert "bodypart-router" in done.stderr
    assert children(node) == []


@needs_models
def test_a_second_serve_on_the_same_state_is_refused(node: Node) -> None:
    """Two trees over one spool are refused at once, and the first one is not disturbed; after it ended the next may run."""
    node.start()
    done = node.command("serve", check=False)
    assert done.returncode == 78
    assert f"{node.state}: another `dicomnode serve` runs the role 'accept'" in done.stderr
    wait_for(lambda: all_started(node), 60, lambda: "all roles; " + node.tail())
    assert node.stop() == 0
    with node.running():
        assert listens(node.port)


def test_a_taken_port_is_named_and_tried_again(node: Node) -> None:
    """The administrator reads address and port; once the port is free the tree comes up without him."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", node.port))
        taken.listen()
        alone = node.command("accept", check=False)
        assert alone.returncode in {1, 78}
        (line,) = [line for line in alone.stderr.splitlines() if "cannot listen" in line]
        assert f"127.0.0.1:{node.port}" in line
        assert "Traceback" not in alone.stderr
        with node.log_path.open("ab") as log:
            node._process = subprocess.Popen([*DICOMNODE, "serve", "-c", str(node.config)], stdout=log, stderr=log)
        (told,) = wait_for(lambda: node.events("acceptor_failed"), 60, lambda: "the port is told of; " + node.tail())
        assert (told["process"], told["reason"], told["port"]) == ("serve", "cannot_listen", node.port)
        assert f"127.0.0.1:{node.port}" in told["message"]
        wait_for(lambda: node.events("keeper_started"), 60, lambda: "the others run meanwhile; " + node.tail())
        assert node.pids("accept") == []
        assert node._process.poll() is None
    wait_for(lambda: node.events("acceptor_started"), 30, lambda: "the acceptor listens; " + node.tail())
    assert node.stop() == 0

"""``dicomnode drill`` for real: a sound node passes, a sabotaged one fails, and nothing is left behind or reached outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.drill.course import NAMES
from tests.acceptance.harness import DICOMNODE
from tests.peers import free_port, wait_for

#: For drills that shall fail: enough for a start on a busy machine.
_HURRIED = ("--patience", 20)


def drill(*arguments: object, cwd: Path, timeout_s: float = 600) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command; its exit code, its outcomes and what it wrote to stderr. Its scratch folder is made below ``cwd``."""
    line = [*DICOMNODE, "drill", "--json", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, check=False, env=below(cwd))
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def below(folder: Path) -> dict[str, str]:
    """An environment whose temporary folders lie below ``folder``."""
    return {**os.environ, "TMPDIR": str(folder)}


def nodes_below(folder: Path) -> list[str]:
    """Command lines of processes that work on something below a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in line:
                    found.append(line)
    return found


def test_a_sound_node_passes(tmp_path: Path) -> None:
    """Every drill passes on this node, each recovery has its time, and neither process nor file is left."""
    code, outcomes, errors = drill(cwd=tmp_path)
    assert [(one["drill"], one["wrong"]) for one in outcomes if not one["passed"]] == [], errors
    assert code == 0
    assert [one["drill"] for one in outcomes] == list(NAMES)
    assert all(one["passed"] and one["recovery_s"] is not None and not one["wrong"] for one in outcomes)
    assert list(tmp_path.iterdir()) == []
    assert nodes_below(tmp_path) == []


@contextlib.contextmanager
def sabotage(act: Callable[[], object]) -> Iterator[None]:
    """Do harm again and again for the length of a with block."""
    ending = threading.Event()

    def harm() -> None:
        while not ending.is_set():
            with contextlib.suppress(OSError):
                act()
            time.sleep(0.005)

    thread = threading.Thread(target=harm)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def test_a_node_that_loses_files_fails(tmp_path: Path) -> None:
    """Where an acknowledged file vanishes, the drill says which instance and where to look, keeps the log and ends with 1."""
    lost: list[Path] = []

    def lose() -> None:
        for path in (tmp_path / "kept").glob("node-1/state/spool/incoming/*/*.dcm"):
            if not lost:
                path.unlink()
                lost.append(path)

    with sabotage(lose):
        only = ("--only", "start", "--only", "stop")
        code, outcomes, errors = drill(*only, *_HURRIED, "--keep", tmp_path / "kept", cwd=tmp_path)
    assert lost
    assert code == 1
    assert [one["passed"] for one in outcomes] == [False, True]
    assert outcomes[0]["wrong"]
    assert Path(outcomes[0]["look"]).is_file()
    assert outcomes[1]["drill"] == "stop"
    assert f"Kept: {tmp_path / 'kept'}" in errors
    assert (tmp_path / "kept" / "node-2" / "node.log").is_file()


def test_a_node_that_does_not_come_back_fails(tmp_path: Path) -> None:
    """Where a killed keeper is never replaced, the drill of it fails within its patience."""

    def stop_keepers() -> None:
        for line in Path("/proc").iterdir():
            if line.name.isdigit():
                words = (line / "cmdline").read_bytes().split(b"\0")
                if b"keep" in words and str(tmp_path).encode() in b" ".join(words) and committed():
                    os.kill(int(line.name), signal.SIGSTOP)

    def committed() -> bool:
        return any((tmp_path / "kept").glob("node-1/state/spool/incoming/*/*.dcm"))

    with sabotage(lambda: [stop_keepers()]):
        code, outcomes, _ = drill("--only", "kill-keeper", *_HURRIED, "--keep", tmp_path / "kept", cwd=tmp_path)
    assert code == 1
    assert [one["passed"] for one in outcomes] == [False]
    assert "get no row" in outcomes[0]["wrong"]
    assert nodes_below(tmp_path) == []


def test_the_configuration_of_a_site_is_drilled_and_not_touched(tmp_path: Path) -> None:
    """With a site's configuration the site's peers, hook and state are not reached; its rules decide what is made."""
    site, rung = tmp_path / "site", tmp_path / "rung"
    state, port = tmp_path / "site-state", free_port()
    line = [*DICOMNODE, "init", str(site), "--port", str(port), "--state-dir", str(state), "--forward", "PACS@192.0.2.1:104"]
    subprocess.run(line, check=True, capture_output=True)
    node = site / "node.toml"
    node.write_text(node.read_text().replace("hook = []", f'hook = ["/usr/bin/touch", "{rung}"]'))
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    code, outcomes, errors = drill("-c", site, "--only", "start", "--only", "refused", cwd=tmp_path)
    assert code == 0, (outcomes, errors)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
    assert not state.exists()
    assert not rung.exists()


def test_a_configuration_that_does_not_work_fails(tmp_path: Path) -> None:
    """A site whose node cannot start gets all drills failed with the reason, at once, not a traceback."""
    site = tmp_path / "site"
    subprocess.run([*DICOMNODE, "init", str(site), "--forward", "PACS@192.0.2.1:104"], check=True, capture_output=True)
    routes = site / "routes.toml"
    routes.write_text(routes.read_text().replace('["pneumonia-pediatric"]', '["not-there"]'))
    code, outcomes, _ = drill("-c", site, "--only", "start", "--only", "storm", cwd=tmp_path)
    assert code == 1
    assert [one["passed"] for one in outcomes] == [False, False]
    assert all("78" in one["wrong"] for one in outcomes), outcomes


@pytest.fixture
def heard_sigint() -> Iterator[None]:
    """SIGINT has its usual effect on what is started: tests in the background of a shell have it ignored."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("heard_sigint")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_drill_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT and SIGTERM end every process of the drill and remove its folder."""
    line = [*DICOMNODE, "drill", "--json", "--only", "storm"]
    with subprocess.Popen(line, env=below(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: nodes_below(tmp_path), 60, "a node is started")
        process.send_signal(number)
        assert process.wait(timeout=30) == 130
        assert process.stderr is not None
        assert "interrupted" in process.stderr.read()
    wait_for(lambda: not nodes_below(tmp_path), 10, lambda: f"all ended; {nodes_below(tmp_path)}")
    assert list(tmp_path.iterdir()) == []


def test_a_drill_that_is_killed_takes_its_node_along(tmp_path: Path) -> None:
    """A drill that dies by SIGKILL leaves no node running: the kernel tells the supervisor."""
    line = [*DICOMNODE, "drill", "--json", "--only", "storm"]
    with subprocess.Popen(line, env=below(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: nodes_below(tmp_path), 60, "a node is started")
        process.kill()
    wait_for(lambda: not nodes_below(tmp_path), 60, lambda: f"all ended; {nodes_below(tmp_path)}")


def test_usage(tmp_path: Path) -> None:
    """A name that no drill has and a folder that is not empty are usage errors; --list names the drills."""
    assert drill("--only", "no-such", cwd=tmp_path)[0] == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert drill("--keep", tmp_path / "full", cwd=tmp_path)[0] == 2
    done = subprocess.run([*DICOMNODE, "drill", "--list"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(NAMES)

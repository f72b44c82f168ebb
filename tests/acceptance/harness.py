"""A whole node under test: made with ``init``, run with ``serve``, watched through ``queue --json``, killed at will."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.peers import free_port, wait_for

#: Keys of the log that a failed test shows.
_TOLD = ("timestamp", "process", "event", "instance_id", "reason", "state", "error_type", "exit_code", "traceback")
DICOMNODE = [sys.executable, "-m", "dicomnode"]


class Node:
    """One node with its own configuration and state below ``root``."""

    def __init__(self, root: Path, *, forward: tuple[str, ...] = (), open_to_all: bool = True) -> None:
        self.config = root / "config"
        self.state = root / "state"
        self.port = free_port()
        self.log_path = root / "node.log"
        self._process: subprocess.Popen[bytes] | None = None
        options = [arg for peer in forward for arg in ("--forward", peer)]
        self.command("init", str(self.config), "--port", str(self.port), "--state-dir", str(self.state), *options, config=False)
        # Tests run beside others on a small disk: the watermark of a hospital would refuse them.
        self.edit("node.toml", 'bind = "0.0.0.0"', 'bind = "127.0.0.1"')
        if open_to_all:
            self.edit("node.toml", "open = false", "open = true")

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace exactly one text in a file of the configuration."""
        path = self.config / name
        text = path.read_text()
        assert text.count(old) == 1, (name, old, text)
        path.write_text(text.replace(old, new))

    def append(self, name: str, text: str) -> None:
        """Write a further file of the configuration, or more at the end of one."""
        path = self.config / name
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(text)

    def command(self, *arguments: str, config: bool = True, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command of dicomnode on this configuration."""
        line = [*DICOMNODE, *arguments, *(["-c", str(self.config)] if config else [])]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        return done

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a command with --json and give its objects."""
        return [json.loads(line) for line in self.command(*arguments, "--json").stdout.splitlines()]

    def start(self) -> None:
        """Start ``serve`` and wait until somebody accepts: the port is open before that, and connections wait."""
        before = len(self.events("acceptor_started")) if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*DICOMNODE, "serve", "-c", str(self.config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )
        wait_for(lambda: len(self.events("acceptor_started")) > before, 120, lambda: f"an acceptor works; {self.tail()}", 0.2)

    def stop(self) -> int:
        """Ask the supervisor to drain and give its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=60)
        self._process = None
        return code

    @contextlib.contextmanager
    def running(self) -> Iterator[Node]:
        """Run for the length of a with block; killed hard at its end if a test failed inside."""
        self.start()
        try:
            yield self
            assert self.stop() == 0, self.tail()
        finally:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def pids(self, role: str) -> list[int]:
        """Processes of a role of this very node, as /proc names them."""
        wanted = [b"-m", b"dicomnode", role.encode(), b"-c", str(self.config).encode()]
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().split(b"\0")[1:-1]
                if line == wanted and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                    found.append(int(entry.name))
        return found

    def kill(self, role: str) -> None:
        """SIGKILL one process of a role, waiting for it to be there first."""
        pid = wait_for(lambda: self.pids(role), 60, lambda: f"{role} runs; {self.tail()}")[0]
        os.kill(pid, signal.SIGKILL)
        if role == "serve":
            assert self._process is not None
            self._process.wait()
            self._process = None
            children = ("accept", "work", "send", "keep")
            wait_for(
                lambda: not any(self.pids(child) for child in children), 60,
                lambda: f"children end; {[(child, self.pids(child)) for child in children]}; {self.tail()}",
            )
            self.start()

    def counts(self) -> dict[str, int]:
        """Number of rows by ``instance/<state>`` and ``delivery/<state>``."""
        found: dict[str, int] = {}
        for row in self.json("queue", "list"):
            key = f"instance/{row['state']}"
            found[key] = found.get(key, 0) + 1
            for delivery in row["deliveries"]:
                key = f"delivery/{delivery['state']}"
                found[key] = found.get(key, 0) + 1
        return found

    def tail(self, lines: int = 40) -> str:
        """The end of the log, in short."""
        if not self.log_path.exists():
            return "(no log)"
        short = []
        for line in self.log_path.read_text(errors="replace").splitlines()[-lines:]:
            try:
                record = json.loads(line)
            except ValueError:
                short.append(line)
            else:
                short.append(" ".join(str(record[key]) for key in _TOLD if record.get(key)))
        return "\n".join(short)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The log as records, of one event or all."""
        records = [json.loads(line) for line in self.log_path.read_text().splitlines() if line.startswith("{")]
        return [record for record in records if not name or record["event"] == name]

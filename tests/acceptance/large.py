"""A node that makes every output of every instance, and how large its processes are."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from tests.acceptance.harness import Node

#: Report, capture, de-identified image, original.
OUTPUTS = 4


def big_node(root: Path, forward: str) -> Node:
    """A node whose every rule makes all four outputs."""
    node = Node(root, forward=(forward,))
    routes = node.config / "routes.toml"
    text, changed = re.subn(r"(?m)^outputs = .*$", 'outputs = ["sr", "sc", "deidentified", "original"]', routes.read_text())
    assert changed
    routes.write_text(text)
    return node


def status(pid: int, key: str) -> int:
    """A line of /proc/<pid>/status in megabytes, 0 when the process is gone."""
    with contextlib.suppress(OSError):
        found = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) // 1024 if found else 0
    return 0

"""A reload for which the system has no room: it is refused, and the master goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dicomnode.commands.init import compose
from dicomnode.serve import reload
from dicomnode.serve.reload import Reload
from dicomnode.serve.tree import Tree
from dicomnode.settings import load
from dicomnode.snapshot import Snapshot
from dicomnode.spool import Spool


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree without children, of a node that has started."""
    for name, text in compose("NODE", 11112, tmp_path / "state", []).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    Spool(tmp_path / "state").identity()
    return Tree(Snapshot(load(tmp_path)), ())


def _full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.parametrize(("where", "name"), [(subprocess, "Popen"), (os, "memfd_create"), (reload, "Snapshot")])
def test_no_room_refuses_the_reload(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, where: Any, name: str,
) -> None:
    """No process, no descriptor: the old configuration stays, the master lives."""
    told: list[str] = []
    monkeypatch.setattr(reload, "_reject", lambda text, _old: told.append(text))
    monkeypatch.setattr(where, name, _full)
    plan, one = tree.plan, Reload(tree)
    one.ask()
    for _ in range(3):
        one.tick()
    assert tree.plan is plan
    assert len(told) == 1
    assert os.strerror(errno.EAGAIN) in told[0]
    os.close(tree.seats)
    plan.close()

"""Our own acceptor in a thread of the test, and settings for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicomnode import listening
from dicomnode.rules import Routes, Rule
from dicomnode.scp.acceptor import Listener
from dicomnode.scp.door import Door
from dicomnode.settings import KeepSettings, NodeSettings, Peer, ScpSettings, SendSettings, Settings
from dicomnode.spool import Spool
from tests.peers import free_port, wait_for


def settings(
    root: Path, *, port: int = 0, peers: dict[str, Peer] | None = None, open_: bool = False,
    scp: dict[str, Any] | None = None, send: dict[str, Any] | None = None,
) -> Settings:
    """Settings as tests need them: quick, and content with a small disk."""
    return Settings(
        node=NodeSettings(
            ae_title="DICOMNODE", bind="127.0.0.1", port=port or free_port(), state_dir=root / "state", open=open_,
        ),
        keep=KeepSettings(holds_max_bytes=0),
        scp=ScpSettings(**{"min_free_bytes": 0, "reserve_bytes": 0, **(scp or {})}),
        send=SendSettings(**{"first_delay_s": 0.1, "idle_s": 0.3, "timeout_s": 2, "probe_s": 0.1, **(send or {})}),
        directory=root, peers=peers or {}, routes=Routes(rule=(Rule(name="all"),)), digest="0" * 64,
    )


@dataclass
class Node:
    """Our acceptor, running."""

    settings: Settings
    spool: Spool
    door: Door

    @property
    def port(self) -> int:
        """Where we listen."""
        return self.settings.node.port

    def kept(self) -> list[Path]:
        """Files in incoming, oldest first."""
        return sorted((self.spool.root / "incoming").rglob("*.dcm"))

    def leftovers(self) -> list[Path]:
        """Files in tmp."""
        return list((self.spool.root / "tmp").iterdir())

    def quiet(self) -> None:
        """Wait until nobody is inside."""
        wait_for(lambda: self.door.count() == 0, what="all associations have ended")


@contextlib.contextmanager
def acceptor(config: Settings, spool: Spool | None = None) -> Iterator[Node]:
    """Run the acceptor's listener for the length of a with block."""
    spool = spool or Spool(config.node.state_dir)
    door = Door(config, lambda: spool.free_bytes())  # noqa: PLW0108 - tests replace free_bytes of the spool
    listener = Listener(listening.bind(config.node), config, spool, door)
    stop = threading.Event()
    thread = threading.Thread(target=listener.serve, args=(stop.is_set,))
    thread.start()
    try:
        yield Node(config, spool, door)
    finally:
        stop.set()
        thread.join()
        listener.drain(0.2)

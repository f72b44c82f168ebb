"""Where the drills take place: one node, its archives and the account of what it has acknowledged.

**Way** A drill sends through `Ground.send` or `Ground.store`, which keep the account, and breaks what it is there to break.
`Stream` sends one new instance after the other in a thread, as modalities do all day.

**Fails** `Wrong` for every answer that is none of those allowed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from dicomnode.drill.account import Account
from dicomnode.drill.archive import Archive
from dicomnode.drill.configuration import CALLING, destinations, scratch
from dicomnode.drill.modality import Association
from dicomnode.drill.node import PATIENCE_S, Node
from dicomnode.drill.pdu import Ended, Rejected, Wrong
from dicomnode.drill.pictures import Picture, draw
from dicomnode.listening import free_port
from dicomnode.settings import Settings

#: Between two instances of a stream, seconds: workers shall keep up.
_PAUSE_S = 0.3


class Ground:
    """One node of the drill; `make` starts nothing."""

    def __init__(self, root: Path, settings: Settings, state: Path, patience_s: float = PATIENCE_S) -> None:
        self.root, self.settings = root, settings
        self.archives = {name: Archive(name) for name in destinations(settings)}
        self._port = free_port()
        self._state = state
        self.configure()
        self.node = Node(root / "config", state, self._port, settings.node.ae_title, root / "node.log", patience_s)
        self.account = Account()

    def close(self) -> None:
        """End the node and its archives at once."""
        self.node.kill()
        for archive in self.archives.values():
            archive.close()

    def configure(self, changes: Mapping[str, Mapping[str, object]] | None = None) -> None:
        """Write the configuration, with changes to single settings by section."""
        ports = {name: archive.port for name, archive in self.archives.items()}
        scratch(self.settings, self.root / "config", self._state, self._port, ports, changes)

    def associate(self, calling: str = CALLING) -> Association:
        """Open an association."""
        return Association(self._port, self.settings.node.ae_title, calling)

    def connect(self) -> Association:
        """Open a connection without asking for anything."""
        return Association(self._port, self.settings.node.ae_title, CALLING, ask=False)

    def store(self, association: Association, picture: Picture) -> int:
        """Send an instance over an association, and give the status."""
        self.account.sending(picture.uid)
        status = association.store(picture)
        if status == 0:
            self.account.answered(picture.uid)
        return status

    def send(self, count: int = 1, calling: str = CALLING) -> list[str]:
        """Send new instances over one association, which must all be taken; gives their UIDs."""
        uids = []
        try:
            with self.associate(calling) as association:
                for picture in (draw() for _ in range(count)):
                    if status := self.store(association, picture):
                        raise Wrong(f"a C-STORE was answered 0x{status:04X}")
                    uids.append(picture.uid)
                association.release()
        except Ended as ended:
            raise Wrong(f"an association was not served to its end: {ended}") from None
        except Rejected as rejected:
            raise Wrong(str(rejected)) from None
        return uids

    def until_taken(self, picture: Picture) -> float:
        """Try until an instance is answered 0x0000, as modalities do; gives the seconds."""
        started = time.monotonic()
        self.node.until(lambda: self._taken(picture), "no C-STORE is answered 0x0000")
        return time.monotonic() - started

    def _taken(self, picture: Picture) -> bool:
        try:
            with self.associate() as association:
                taken = self.store(association, picture) == 0
                with contextlib.suppress(Ended):
                    association.release()
        except (Ended, Rejected):
            return False
        return taken

    def until_delivered(self, uids: list[str]) -> None:
        """Wait until everything of these instances is delivered."""
        what = f"{len(uids)} instances are not worked and delivered"
        self.node.until(lambda: all(map(self.delivered, uids)), what, tick_s=0.05)

    def delivered(self, uid: str) -> bool:
        """Say whether an instance is done and all that was made of it delivered."""
        row = self.node.row(uid)
        return row is not None and row["state"] == "done" and all(one["state"] == "delivered" for one in row["deliveries"])

    def check(self) -> None:
        """Account for everything that this node has acknowledged so far."""
        self.account.check(self.node, self.archives)

    @contextlib.contextmanager
    def stream(self, pause_s: float = _PAUSE_S) -> Iterator[Stream]:
        """Send all the time for the length of a with block."""
        stream = Stream(self, pause_s)
        stream.start()
        try:
            yield stream
        finally:
            stream.ending.set()
            stream.join(self.node.patience_s)


class Stream(threading.Thread):
    """A modality that sends one new instance after the other, each over its own association."""

    def __init__(self, ground: Ground, pause_s: float) -> None:
        super().__init__(name="stream", daemon=True)
        self._ground, self._pause_s = ground, pause_s
        self.ending = threading.Event()
        #: When each instance that was taken was begun and ended, monotonic; and what was not taken.
        self.taken: list[tuple[float, float]] = []
        self.failures: list[str] = []

    def run(self) -> None:
        """Until told to end."""
        while not self.ending.is_set():
            started = time.monotonic()
            try:
                self._ground.send()
            except Wrong as wrong:
                self.failures.append(str(wrong))
            else:
                self.taken.append((started, time.monotonic()))
            self.ending.wait(self._pause_s)

    def served(self, since: float, until: float) -> None:
        """See that nothing was refused, and that something was taken from its beginning to its end in this time."""
        if self.failures:
            raise Wrong(f"another sender was not served: {self.failures[0]}")
        if not any(since <= begun and ended <= until for begun, ended in self.taken):
            raise Wrong(f"for {until - since:.1f} s no other sender was served")

"""A spool and queue with deliveries, and a sender that can be run on them."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom

from dicomnode import contexts, log
from dicomnode.queue import NewOutput, Summary
from dicomnode.queue.owner import this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Instance
from dicomnode.scu import run_sender
from dicomnode.settings import LogSettings, Peer, Settings
from dicomnode.spool import Spool, new_id
from tests.integration.acceptor import settings
from tests.peers import wait_for

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
CT, MR, J2K = FILES / "CT_small.dcm", FILES / "MR_small.dcm", FILES / "JPEG2000.dcm"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
TAKES_CT = {CT_CLASS: (contexts.EXPLICIT,), contexts.VERIFICATION: (contexts.IMPLICIT,)}


def inside(port: int) -> Peer:
    """An inside peer on loopback."""
    return Peer(ae_title="PEER", host="127.0.0.1", port=port, trust="inside")


class Sending:
    """A spool and queue with deliveries, and a sender that can be run on them."""

    def __init__(self, root: Path, peers: dict[str, Peer], **send: Any) -> None:
        self.settings: Settings = settings(root, peers=peers, send=send)
        self.spool = Spool(self.settings.node.state_dir)
        self.queue = SqliteQueue(self.spool.queue_path)
        self.owner = this_process()
        self.lines = io.StringIO()
        log.configure(LogSettings(format="json"), "send", b"k" * 32, stream=self.lines)

    def add(
        self, source: Path, *destinations: str, identity: str = "kept", uid: str = "", kind: str = "sr", urgent: bool = False,
    ) -> str:
        """Make a done instance whose output is a copy of ``source``; gives the output's UID."""
        ds = pydicom.dcmread(source)
        uid = uid or pydicom.uid.generate_uid()
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
        location = self.spool.put(uid, ds.save_as)
        now = datetime.now(UTC)
        instance = Instance(
            new_id(now), str(ds.SOPClassUID), uid, "1.2", "1.3", "1.2.840.10008.1.2.1", "CT", "A", "B", "", now,
            "incoming/2026112017/x.dcm", 1, uid,
        )
        self.queue.add(instance)
        claim = self.queue.claim(self.owner, now)
        assert claim is not None
        output = NewOutput(
            kind, str(ds.SOPClassUID), uid, str(ds.file_meta.TransferSyntaxUID), identity, location, destinations,  # type: ignore[arg-type]
        )
        summary = Summary("other", 1.0, "all", "", "", 0.0, False, 0, "", {}, urgent=urgent)
        self.queue.finish(claim, self.owner, summary, [output], [], now)
        return uid

    def states(self) -> list[str]:
        """State of every delivery, in order."""
        return [str(delivery["state"]) for row in self.queue.rows() for delivery in row["deliveries"]]  # type: ignore[attr-defined]

    def deliveries(self) -> list[dict[str, Any]]:
        """Every delivery as `queue --json` shows it."""
        return [delivery for row in self.queue.rows() for delivery in row["deliveries"]]  # type: ignore[attr-defined]

    @contextmanager
    def running(self) -> Iterator[Sending]:
        """Run the sender for the length of a with block."""
        stop = threading.Event()
        thread = threading.Thread(target=run_sender, args=(self.settings, stop, self.spool, self.queue))
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join(15)
            assert not thread.is_alive()

    def until(self, claim: Callable[[], Any], timeout_s: float = 15) -> Any:
        """Run the sender until something holds."""
        with self.running():
            return wait_for(claim, timeout_s, what=f"states {self.states()}")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the log of one event."""
        return [line for line in map(json.loads, self.lines.getvalue().splitlines()) if line["event"] == name]

"""The kill test: whatever dies whenever, every acknowledged instance is accounted for and every result arrives once."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.acceptance.harness import Node
from tests.acceptance.samples import radiograph, write
from tests.peers import DCMSEND, NO_DELAY, STORESCP, STORESCU, storescp, wait_for

ROLES = ("accept", "work", "send", "keep", "serve")
KILLS = int(os.environ.get("DICOMNODE_KILLS", "10"))

needs_dcmtk = pytest.mark.skipif(
    not all(shutil.which(p) for p in (STORESCP, STORESCU, DCMSEND)), reason="DCMTK is not installed (apt: dcmtk)",
)


class Sender(threading.Thread):
    """Sends one new instance after the other with a DCMTK program, each until it is acknowledged."""

    def __init__(self, program: str, node: Node, folder: Path, number: int) -> None:
        super().__init__(daemon=True)
        self.program, self.node, self.folder, self.number = program, node, folder, number
        self.acknowledged: list[str] = []
        self.tries = 0
        self.stop = threading.Event()

    def run(self) -> None:
        """Until told to stop; the instance in hand is sent to its end."""
        seed = 1000 * self.number
        while not self.stop.is_set():
            seed += 1
            ds = radiograph(rows=64, cols=64, seed=seed)
            path = write(ds, self.folder)
            while not self._send(path):
                self.tries += 1
                time.sleep(0.2)
            self.acknowledged.append(str(ds.SOPInstanceUID))
            time.sleep(0.6)

    def _send(self, path: Path) -> bool:
        """True when the program reports success for the file, which it does for status 0x0000 only."""
        if self.program == DCMSEND:
            report = self.folder / f"report{self.number}.txt"
            report.unlink(missing_ok=True)
            line = [self.program, "-ta", "20", "-td", "20", "+crf", str(report), "127.0.0.1", str(self.node.port), str(path)]
            options = ["-aec", "DICOMNODE"]
            done = subprocess.run([line[0], *options, *line[1:]], env=NO_DELAY, capture_output=True, timeout=60, check=False)
            return done.returncode == 0 and "DIMSE Status  : 0x0000" in report.read_text()
        line = [self.program, "-ta", "20", "-td", "20", "-aec", "DICOMNODE", "127.0.0.1", str(self.node.port), str(path)]
        return subprocess.run(line, env=NO_DELAY, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.kill
@needs_dcmtk
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """SIGKILL of every process in turn, ten times each, under three senders: all is accounted for, each result stands once."""
    with storescp(tmp_path / "archive") as archive:
        node = Node(tmp_path, forward=(archive.forward,))
        # After a kill the next try shall not wait as long as a hospital would.
        node.edit("node.toml", "first_delay_s = 30", "first_delay_s = 1")
        node.edit("node.toml", "probe_s = 30", "probe_s = 1")
        seed = int(os.environ.get("DICOMNODE_KILL_SEED", "1"))
        chance = random.Random(seed)
        with node.running():
            programs = (STORESCU, DCMSEND, STORESCU)
            senders = [Sender(program, node, tmp_path / f"send{n}", n) for n, program in enumerate(programs)]
            for sender in senders:
                sender.start()
            for _ in range(KILLS):
                for role in ROLES:
                    time.sleep(chance.uniform(0.1, 1.2))
                    node.kill(role)
            for sender in senders:
                sender.stop.set()
            for sender in senders:
                sender.join(timeout=120)
                assert not sender.is_alive(), f"{sender.program} could not send its last instance; {node.tail()}"
            acknowledged = {uid for sender in senders for uid in sender.acknowledged}
            assert len(acknowledged) >= KILLS, "the senders were hardly served"

            def settled() -> bool:
                counts = node.counts()
                open_states = ("waiting", "active", "deferred", "ready")
                return not any(counts.get(f"{kind}/{state}") for kind in ("instance", "delivery") for state in open_states)

            wait_for(settled, 300, lambda: f"everything is worked and delivered; {node.counts()} {node.tail()}", 1.0)
            node.command("queue", "verify")
            rows = node.json("queue", "list")
        _account(acknowledged, rows, archive.folder)


def _account(acknowledged: set[str], rows: list[dict[str, object]], archive: Path) -> None:
    """Each acknowledged instance has one done row, and an SR and an SC of its own in the archive, under one UID each."""
    by_uid: dict[str, list[str]] = {}
    for row in rows:
        by_uid.setdefault(str(row["sop_instance_uid"]), []).append(str(row["state"]))
    for uid in acknowledged:
        states = by_uid.get(uid, [])
        assert states.count("done") == 1, (uid, states)
        assert set(states) <= {"done", "duplicate"}, (uid, states)
    results: dict[tuple[str, str], list[str]] = {}
    for path in archive.iterdir():
        ds = dcmread(path, stop_before_pixels=True)
        if ds.Modality == "SR":
            evidence = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
            source = str(evidence.ReferencedSOPInstanceUID)
        else:
            source = str(ds.SourceImageSequence[0].ReferencedSOPInstanceUID)
        results.setdefault((source, "SR" if ds.Modality == "SR" else "SC"), []).append(str(ds.SOPInstanceUID))
    for uid in acknowledged:
        for kind in ("SR", "SC"):
            assert len(results.get((uid, kind), [])) == 1, (uid, kind, results.get((uid, kind)))

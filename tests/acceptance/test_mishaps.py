"""What becomes of everything that goes wrong on the way, on a whole node, as one table (docs/mishaps.md)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from dicomnode import dimse
from dicomnode.errors import NoPresentationContext, NoStatus
from dicomnode.records import Verdict
from dicomnode.scu import send_files
from dicomnode.settings import Peer
from tests.acceptance.harness import Node
from tests.acceptance.samples import radiograph, write
from tests.peers import NO_DELAY, STORESCP, STORESCU, Archive, free_port, pipeline, storescp, wait_for

pytestmark = pytest.mark.skipif(not shutil.which(STORESCP), reason="DCMTK is not installed (apt: dcmtk)")

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, str, str]]]:
    """Rows of what was done, what the sender saw, what the node did; written as Markdown where DICOMNODE_TABLE says."""
    rows: list[tuple[str, str, str]] = []
    yield rows
    if target := os.environ.get("DICOMNODE_TABLE"):
        lines = ["| what was done | what the sender saw | what became of it |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in sorted(rows)]
        Path(target).write_text("\n".join(lines) + "\n")


def send(
    node: Node, *paths: Path, called: str = "DICOMNODE", calling: str = "MODALITY", options: tuple[str, ...] = (),
) -> tuple[int, str]:
    """Send with DCMTK's storescu; its exit code and output."""
    line = [STORESCU, "-v", "-aet", calling, "-aec", called, "-R", *options, "127.0.0.1", str(node.port), *map(str, paths)]
    done = subprocess.run(line, env=NO_DELAY, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def settle(node: Node, timeout_s: float = 120) -> dict[str, int]:
    """Wait until nothing is being worked or sent, and give the counts."""
    moving = [f"{kind}/{state}" for kind in ("instance", "delivery") for state in ("waiting", "active", "ready")]

    def settled() -> dict[str, int]:
        """One look costs a process, so as few as need be: they take the workers' time."""
        counts = node.counts()
        rows = sum(number for key, number in counts.items() if key.startswith("instance/"))
        here = rows >= len(node.events("instance_committed"))
        return counts if here and not any(counts.get(key) for key in moving) else {}

    return dict(wait_for(settled, timeout_s, lambda: f"settled; {node.counts()}", 0.5))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """A storescp that takes everything."""
    with storescp(tmp_path / "archive") as running:
        yield running


def hurried(node: Node) -> Node:
    """Tries that a hospital spaces by minutes come every second."""
    node.edit("node.toml", "first_delay_s = 30", "first_delay_s = 1")
    node.edit("node.toml", "probe_s = 30", "probe_s = 1")
    return node


def test_resends(tmp_path: Path, archive: Archive, table: list[tuple[str, str, str]]) -> None:
    """A storm of resends is worked once; other headers over the same pixels too; other pixels wait for a person."""
    node = Node(tmp_path, forward=(archive.forward,))
    first = radiograph(seed=1)
    path = write(first, tmp_path / "a")
    with node.running():
        for _ in range(5):
            code, _ = send(node, *[path] * 10)
            assert code == 0
        counts = settle(node)
        assert counts["instance/done"] == 1
        assert counts["instance/duplicate"] == 49
        assert counts["delivery/delivered"] == 2
        table.append(("the same instance 50 times", "0x0000 each time", "worked once, 49 duplicates noted"))

        first.StudyDescription = "Changed on the way"
        assert send(node, write(first, tmp_path / "b"))[0] == 0
        assert settle(node)["instance/duplicate"] == 50
        table.append(("the same pixels under another header", "0x0000", "noted as duplicate, not worked again"))

        first.PixelData = radiograph(seed=2).PixelData
        assert send(node, write(first, tmp_path / "c"))[0] == 0
        counts = settle(node)
        assert counts["instance/hold"] == 1
        assert counts["delivery/delivered"] == 2
        held = node.json("queue", "list", "--state", "hold")[0]
        assert held["reason"] == "pixels_differ"
        table.append(("the same SOP Instance UID with other pixels", "0x0000", "kept, on hold: pixels_differ"))
        node.command("queue", "release", str(held["instance_id"]))
        counts = settle(node)
        assert counts["delivery/delivered"] == 4
        node.command("queue", "verify")
    assert len(archive.objects()) == 4


def test_own_results_come_back(tmp_path: Path, archive: Archive, table: list[tuple[str, str, str]]) -> None:
    """An SR and an SC of ours that a PACS forwards back are acknowledged and make nothing new."""
    node = Node(tmp_path, forward=(archive.forward,))
    with node.running():
        assert send(node, write(radiograph(seed=1), tmp_path / "a"))[0] == 0
        settle(node)
        assert send(node, *sorted(archive.folder.iterdir()))[0] == 0
        counts = settle(node)
        assert counts["instance/own"] == 2
        assert counts["delivery/delivered"] == 2
        table.append(("our own SR and SC forwarded back to us", "0x0000", "recognised, not worked: no loop"))


def test_destination_down_for_a_while(tmp_path: Path, table: list[tuple[str, str, str]]) -> None:
    """Results wait while the destination is down and arrive once when it is back."""
    port = free_port()
    node = hurried(Node(tmp_path, forward=(f"ARCHIVE@127.0.0.1:{port}",)))
    with node.running():
        assert send(node, write(radiograph(seed=1), tmp_path / "a"), write(radiograph(seed=2), tmp_path / "a"))[0] == 0
        wait_for(lambda: node.events("destination_down"), 60, "the destination is found down")
        assert node.counts().get("delivery/delivered", 0) == 0
        with storescp(tmp_path / "archive", port=port) as late:
            wait_for(lambda: node.counts().get("delivery/delivered") == 4, 60, lambda: f"delivered; {node.counts()}", 0.5)
            assert len(late.objects()) == 4
        assert node.events("destination_up")
        node.command("queue", "verify")
    table.append(("the destination is down for a while", "0x0000", "results wait, a C-ECHO probes, delivered when it is back"))


def test_destination_that_refuses(tmp_path: Path, table: list[tuple[str, str, str]]) -> None:
    """A destination that rejects our association gets nothing, loses nothing and is shown."""
    with storescp(tmp_path / "archive", "--refuse") as archive:
        node = hurried(Node(tmp_path, forward=(archive.forward,)))
        with node.running():
            assert send(node, write(radiograph(seed=1), tmp_path / "a"))[0] == 0
            wait_for(lambda: node.events("destination_blocked") or node.events("delivery_deferred"), 60, "refusal is noticed")
            counts = node.counts()
            assert counts["instance/done"] == 1
            assert not counts.get("delivery/delivered")
            node.command("queue", "verify")
    table.append(("the destination rejects our association", "0x0000", "its deliveries wait, the lane is stopped and shown"))


def test_strangers_at_the_door(tmp_path: Path, archive: Archive, table: list[tuple[str, str, str]]) -> None:
    """Unknown calling AEs and wrong called AEs are rejected with the standard's reasons; known ones are served."""
    node = Node(tmp_path, forward=(archive.forward,), open_to_all=False)
    node.append("peers/ct1.toml", 'ae_title = "CT1"\ncalls_from = ["127.0.0.1"]\n')
    node.append("peers/ct2.toml", 'ae_title = "CT2"\ncalls_from = ["192.0.2.0/24"]\n')
    path = write(radiograph(seed=1), tmp_path / "a")
    with node.running():
        code, text = send(node, path, calling="STRANGER")
        assert code != 0
        assert "Calling AE Title Not Recognized" in text
        table.append(("an unknown calling AE", "rejected 1/1/3: calling AE title not recognised", "nothing kept"))
        code, text = send(node, path, calling="CT1", called="OTHER")
        assert code != 0
        assert "Called AE Title Not Recognized" in text
        table.append(("a wrong called AE", "rejected 1/1/7: called AE title not recognised", "nothing kept"))
        code, text = send(node, path, calling="CT2")
        assert code != 0
        assert "Reject" in text
        table.append(("a known AE from another address", "rejected 1/1/1: no reason given", "nothing kept"))
        assert send(node, path, calling="CT1")[0] == 0
        assert settle(node)["instance/done"] == 1
        assert {event["reason"] for event in node.events("association_rejected")}


def test_abort_in_mid_pdu(tmp_path: Path, table: list[tuple[str, str, str]]) -> None:
    """A connection that ends inside a P-DATA-TF leaves no file and the next association is served."""
    node = Node(tmp_path)
    good = write(radiograph(seed=1), tmp_path / "a")
    with node.running():
        relay = _CuttingRelay(node.port, 9000)
        subprocess.run([STORESCU, "-aec", "DICOMNODE", "127.0.0.1", str(relay.port), str(good)],
                       env=NO_DELAY, capture_output=True, timeout=60, check=False)
        relay.close()
        tmp = node.state / "spool" / "tmp"
        wait_for(lambda: not list(tmp.iterdir()), 30, "the leftover is gone")
        assert node.counts() == {}
        assert send(node, good)[0] == 0
        assert settle(node)["instance/done"] == 1
    table.append(("the connection is cut inside a P-DATA-TF", "no response", "the half file is removed; nothing kept"))


class _CuttingRelay:
    """Passes bytes between one client and the node and cuts both after so many bytes of the client."""

    def __init__(self, port: int, after: int) -> None:
        import threading

        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._relay, args=(port, after), daemon=True)
        self._thread.start()

    def _relay(self, port: int, after: int) -> None:
        import select

        with self._listener.accept()[0] as client, socket.create_connection(("127.0.0.1", port)) as node:
            seen = 0
            while seen < after:
                for ready in select.select([client, node], [], [], 30)[0]:
                    data = ready.recv(4096)
                    if not data:
                        return
                    if ready is client:
                        data = data[: after - seen]
                        seen += len(data)
                        node.sendall(data)
                    else:
                        client.sendall(data)

    def close(self) -> None:
        self._thread.join(timeout=60)
        self._listener.close()


def _storable(folder: Path) -> list[Path]:
    """Files of a folder that claim to be composite instances."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix.lower() not in {".md", ".txt", ".csv"}]


def _send_all(node: Node, files: list[Path]) -> tuple[dict[Path, str], dict[Path, str]]:
    """Send each file once: what came back for each in the order of sending, and why the others were not sent.

    Our own sender goes first: it changes nothing on the way. What it does not send (it sends no more than a header it can
    read names) DCMTK's storescu tries, whole folders a call: a process and an association a file took minutes.
    """
    answers: dict[Path, str] = {}
    unsent: dict[Path, str] = {}

    def note(path: Path, verdict: Verdict) -> None:
        if verdict.status is not None:
            answers[path] = dimse.text(verdict.status)
        elif verdict.reason == NoStatus.code:
            answers[path] = "the association ended"
        elif verdict.reason == NoPresentationContext.code:
            unsent[path] = "not sent: the node takes no context for it"
        else:
            unsent[path] = "not sent: no sender reads it"

    send_files(files, Peer(ae_title="DICOMNODE", host="127.0.0.1", port=node.port), "MODALITY", progress=note)
    left = {str(path): path for path in unsent}
    code, text = send(node, *left.values(), options=("--no-halt",)) if left else (0, "")
    assert code >= 0, text
    path = None
    for line in text.splitlines():
        if line.startswith("I: Sending file: "):
            path = left[line.removeprefix("I: Sending file: ")]
        elif path is not None and (found := re.match(r"I: Received Store Response \((.*)\)", line)):
            answers[path], path = f"{found[1]} (storescu)", None
    return answers, unsent


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize("kind", ["malformed", "syntaxes"])
def test_odd_files(kind: str, tmp_path: Path, archive: Archive, table: list[tuple[str, str, str]]) -> None:
    """Every odd file is refused at the door or accounted for: done, held or quarantined; nothing hangs, nothing is lost."""
    node = Node(tmp_path, forward=(archive.forward,))
    folder = SHARED / "dicom" / kind
    files = _storable(folder)
    assert len(files) > 20
    with node.running():
        answers, unsent = _send_all(node, files)
        settle(node, 900)
        rows = sorted(node.json("queue", "list"), key=lambda row: str(row["instance_id"]))
        taken = [path for path, answer in answers.items() if answer.startswith(("0x0000", "Success"))]
        # One association after the other: instances have the order in which their files were sent.
        assert len(rows) == len(taken) == len(node.events("instance_committed"))
        assert {row["state"] for row in rows} <= {"done", "hold", "quarantine", "duplicate"}
        node.command("queue", "verify")
        for path in node.state.rglob("tmp/*"):
            pytest.fail(f"left over: {path.name}")
    fates = dict(zip(taken, map(_fate, rows), strict=True))
    for path in files:
        what = f"{kind}: {path.relative_to(folder).as_posix()}"
        table.append((what, answers.get(path) or unsent[path], fates.get(path, "nothing kept")))


def _fate(row: dict[str, Any]) -> str:
    """What became of an instance and its outputs, in words of the queue."""
    told = [(str(row["state"]), row["reason"])]
    told += [(f"{one['kind']} {one['state']}", one["reason"]) for one in row["deliveries"]]
    return ", ".join(state + (f" ({reason})" if reason else "") for state, reason in told)


def _originals_only(node: Node) -> None:
    """Make the node pass everything on unchanged."""
    path = node.config / "routes.toml"
    text = path.read_text()
    path.write_text(re.sub(r"(?m)^outputs = .*$", 'outputs = ["original"]', text))


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uid_with_a_leading_zero(tmp_path: Path, archive: Archive, table: list[tuple[str, str, str]]) -> None:
    """A SOP Instance UID that breaks the rules in a way that old modalities do is passed on as it is."""
    node = Node(tmp_path, forward=(archive.forward,))
    _originals_only(node)
    uid = "1.2.826.0.1.3680043.10.999.01.2"
    source = radiograph(seed=1, uid=uid)
    with node.running():
        assert send(node, write(source, tmp_path / "a"))[0] == 0
        counts = settle(node)
        assert (counts["instance/done"], counts["delivery/delivered"]) == (1, 1), counts
        node.command("queue", "verify")
    (kept,) = archive.objects()
    assert (kept.SOPInstanceUID, kept.PixelData) == (uid, source.PixelData)
    table.append(("a SOP Instance UID with a leading zero in a component", "0x0000", "the original is delivered as it came"))


def test_sender_that_does_not_wait(tmp_path: Path, archive: Archive, table: list[tuple[str, str, str]]) -> None:
    """Fifty C-STOREs without waiting for one answer, then silence: each is answered and worked, few files are open."""
    node = Node(tmp_path, forward=(archive.forward,))
    _originals_only(node)
    paths = [write(radiograph(rows=256, cols=256, seed=seed), tmp_path / "a") for seed in range(50)]
    with node.running():
        pids = node.pids("accept")
        peak = pipeline(node.port, paths, lambda: max(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids))
        wait_for(lambda: len(node.events("instance_committed")) == 50, 60, node.tail)
        counts = settle(node)
        assert (counts["instance/done"], counts["delivery/delivered"]) == (50, 50), counts
    assert peak < 30
    table.append((
        "50 C-STOREs on one association without waiting", "0x0000 for each",
        "read on only while four or fewer wait for an answer; all worked",
    ))


def test_uncertain_pixels_hold_the_pictures_only(tmp_path: Path, archive: Archive, table: list[tuple[str, str, str]]) -> None:
    """Pixels that do not decode hold the SC; a person sees it, and the SR for the inside peer has left."""
    source = get_testdata_file("JPEG2000.dcm", download=False)
    assert source is not None
    ds = dcmread(source)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    broken = bytearray(ds.PixelData)
    broken[60:] = np.random.default_rng(0).integers(0, 255, len(broken) - 60, dtype=np.uint8).tobytes()
    ds.PixelData = bytes(broken)
    path = tmp_path / "broken.dcm"
    ds.save_as(path)
    node = Node(tmp_path, forward=(archive.forward,))
    with node.running():
        # DCMTK's storescu would decode it on the way.
        peer = Peer(ae_title="DICOMNODE", host="127.0.0.1", port=node.port)
        assert [verdict.outcome for verdict in send_files([path], peer, "MODALITY")] == ["delivered"]
        counts = settle(node)
        assert counts["delivery/hold"] == 1
        assert counts["delivery/delivered"] == 1
    assert [ds.Modality for ds in archive.objects()] == ["SR"]
    table.append(("pixel data that cannot be decoded", "0x0000", "SC on hold: undecodable; the SR for the inside peer left"))

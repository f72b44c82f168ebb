"""A cut of power at any point of a node's work, replayed: see power.py for how, docs/durability.md for why it must hold."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE

from dicomnode import log
from dicomnode.errors import DicomNodeError
from dicomnode.header import data_set_start
from dicomnode.keeper.chores import Chores
from dicomnode.keeper.intake import Intake
from dicomnode.keeper.ledger import audit
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.settings import Settings, load
from dicomnode.spool import Spool
from tests.acceptance import power
from tests.acceptance.harness import DICOMNODE, Node
from tests.acceptance.samples import radiograph, write
from tests.peers import STORESCP, STORESCU, free_port, listens, run, storescp, wait_for

#: Folders and files by themselves: what was not synced is lost, kept, kept by name only, by content only, or by chance.
HOWS: tuple[tuple[power.How, power.How], ...] = (
    ("none", "none"), ("all", "all"), ("all", "none"), ("none", "all"), ("some", "some"),
)
SEED = int(os.environ.get("DICOMNODE_POWER_SEED", "1"))
#: Of the writes to the database one in so many is cut behind.
EVERY = int(os.environ.get("DICOMNODE_POWER_EVERY", "4"))


def _refusal() -> str:
    """Why the calls of a process cannot be recorded here; empty when they can."""
    for program in ("strace", STORESCP):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    done = subprocess.run(["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True,
                          check=False)
    return "" if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()}"


@dataclass
class Story:
    """What a node did and said: the calls, and where they happened."""

    root: Path
    settings: Settings
    calls: list[power.Call]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A whole node from its first start to its end, with everything that writes: six instances, a resend, one that is no
    image, results, an archive that is away and comes back, a keeper that dies, retention.
    """
    if reason := _refusal():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("power")
    archive_port = free_port()
    node = Node(root, forward=(f"ARCHIVE@127.0.0.1:{archive_port}",))
    path = node.config / "node.toml"
    text = path.read_text()
    for key, value in {"workers": 1, "retention_h": 0.0, "first_delay_s": 1, "probe_s": 1}.items():
        text, changed = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert changed == 1, key
    path.write_text(text)
    routes = node.config / "routes.toml"
    routes.write_text(re.sub(r"(?m)^outputs = .*$", 'outputs = ["sr", "original"]', routes.read_text()))
    trace = root / "trace"
    with node.log_path.open("wb") as lines:
        traced = subprocess.Popen(
            [*power.STRACE, str(trace), *DICOMNODE, "serve", "-c", str(node.config)], stdout=lines,
            stderr=lines, stdin=subprocess.DEVNULL,
        )
    try:
        wait_for(lambda: listens(node.port), 90, node.tail)
        _traffic(node, root, archive_port)
        os.kill(node.pids("serve")[0], signal.SIGTERM)
        assert traced.wait(90) == 0, node.tail()
    finally:
        if traced.poll() is None:
            traced.kill()
            for pid in (pid for role in ("serve", "accept", "work", "send", "keep") for pid in node.pids(role)):
                os.kill(pid, signal.SIGKILL)
            traced.wait()
    yield Story(root, load(node.config), power.record(trace))
    trace.unlink()


def _traffic(node: Node, root: Path, archive_port: int) -> None:
    def send(path: Path) -> None:
        assert run(STORESCU, "-aec", "DICOMNODE", "127.0.0.1", node.port, path).returncode == 0, node.tail()

    images = [write(radiograph(rows=48, cols=48, seed=seed), root / "send") for seed in range(6)]
    for path in images[:2]:
        send(path)
    wait_for(lambda: node.events("destination_down"), 60, node.tail)
    with storescp(root / "archive", port=archive_port) as archive:
        for path in (*images[2:5], images[0]):
            send(path)
        _send_damaged(node.port)
        wait_for(lambda: len(archive.objects()) >= 10, 90, node.tail, 0.3)
        wait_for(lambda: len(node.events("delivery_done")) >= 10, 30, node.tail)
        node.kill("keep")
        wait_for(lambda: node.events("files_removed"), 60, node.tail)
        send(images[5])
        wait_for(lambda: len(node.events("delivery_done")) >= 12, 60, node.tail)


def _send_damaged(port: int) -> None:
    """An instance whose header ends behind SOP Instance UID: acknowledged, and quarantined by the intake."""
    ds = radiograph(rows=48, cols=48, seed=99)
    ae = AE(ae_title="MODALITY")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate("127.0.0.1", port, ae_title="DICOMNODE")
    assert assoc.is_established
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    raw = stream.getvalue()
    start = stream.seek(0) or data_set_start(stream)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    request.DataSet = BytesIO(raw[start : raw.index(b"\x08\x00\x20\x00DA")] + b"\x08\x00\x20\x00\xff\xff" + b"\xff" * 64)
    assoc._reactor_checkpoint.clear()  # its reactor would take the answer
    wait_for(lambda: assoc._is_paused)
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assert answer is not None
    assert answer.Status == 0
    assoc._reactor_checkpoint.set()
    assoc.release()


@dataclass
class Said:
    """What was promised, and what was heard, up to a point."""

    #: Instance ids, by the receipt that the same thread wrote before its answer.
    acknowledged: set[str] = field(default_factory=set)
    #: SOP Instance UIDs that the archive has answered with success.
    taken: set[str] = field(default_factory=set)
    #: How many answers with success were sent.
    answers: int = 0


class Replay:
    """The story told again, and cut at every point, into states by ``hows``; ``without`` leaves syncs of these paths out."""

    def __init__(self, story: Story, place: Path, hows: tuple[tuple[power.How, power.How], ...], without: str = "") -> None:
        self.disk, self.said = power.Disk(story.root), Said()
        self.cuts = 0
        self.seen: set[tuple[bytes, int, int]] = set()
        self._story, self._place, self._hows = story, place, hows
        self._without = re.compile(f"{re.escape(str(story.root))}/state/{without}") if without else None
        self._wire = power.Wire()
        #: Thread → the instance that it has written a receipt of.
        self._receipts: dict[str, str] = {}
        #: Location → what was ever there.
        self._contents: dict[str, set[bytes]] = {}
        self._identity = (story.root / "state" / "node.json").read_bytes()

    def run(self) -> None:
        """Go through all calls."""
        points = [(call.begin, False, call) for call in self._story.calls]
        points += [(call.end, True, call) for call in self._story.calls]
        for at, ends, call in sorted(points, key=lambda point: point[:2]):
            if call.name in {"fsync", "fdatasync"} and self._without and self._without.fullmatch(call.descriptor[1]):
                continue
            if ends:
                self._end(at, call)
            else:
                self._begin(at, call)

    def _begin(self, at: int, call: power.Call) -> None:
        self.disk.begins(call)
        if call.name.startswith("send"):  # what is on its way counts as said
            for _ in self._wire.answers(call):
                self.said.answers += 1
                self.said.acknowledged.add(self._receipts.pop(call.thread))
                self._cut(at)

    def _end(self, at: int, call: power.Call) -> None:
        changed = self.disk.ends(call)
        if call.name == "write" and "/receipts/" in call.descriptor[1]:
            self._receipts[call.thread] = call.strings[0].decode().strip()
        if call.name.startswith("recv"):
            self.said.taken |= {uid for _, uid in self._wire.answers(call)}
        if changed:
            for name, content in self.disk.state("all", "all", 0).items():
                if content and name.endswith(".dcm"):
                    self._contents.setdefault(name.removeprefix("state/spool/"), set()).add(content)
            self.cuts += 1
            # Pages of the database come by hundreds; each seed takes others of them.
            if call.name != "pwrite64" or (at + SEED) % EVERY == 0:
                self._cut(at)

    def _cut(self, at: int) -> None:
        for number, (folders, files) in enumerate(self._hows):
            whole = self.disk.state(folders, files, SEED * 1_000_000 + at * 10 + number)
            state = {name.removeprefix("state/"): content for name, content in whole.items() if name.startswith("state/")}
            key = power.digest(state), len(self.said.acknowledged), len(self.said.taken)
            if key in self.seen:
                continue
            self.seen.add(key)
            power.build(state, self._place)
            try:
                self._recover(self._place)
            except BaseException as error:
                error.add_note(f"cut at line {at} of the trace, folders {folders}, files {files}; {sorted(state)}")
                raise
            finally:
                shutil.rmtree(self._place)

    def _recover(self, state: Path) -> None:
        """Do what the processes do at their start, and look at what there is then."""
        spool = Spool(state)
        noted = set(spool.receipts())
        node_id = spool.identity().node_id
        if self.said.acknowledged:
            assert (state / "node.json").read_bytes() == self._identity
        queue = SqliteQueue(spool.queue_path)
        try:
            Intake(spool, queue, node_id).scan(full=True)
            now = datetime.now(UTC) + timedelta(hours=1)
            Chores(self._story.settings, spool, queue).reclaim(now)
            assert audit(spool, queue, now).breaches == ()
            rows = {str(row["instance_id"]): row for row in queue.rows()}
            assert self.said.acknowledged <= set(rows), "an acknowledged instance has no row"
            assert noted <= set(rows), "a receipt is not accounted for"
            for row in rows.values():
                self._look(spool, row)
        finally:
            queue.close()
        with contextlib.closing(sqlite3.connect(spool.queue_path)) as other:
            assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def _look(self, spool: Spool, row: Mapping[str, Any]) -> None:
        """One instance: its file is whole or done with, and nothing counts as delivered that the archive does not have."""
        path, instance_id = spool.path(row["location"]), row["instance_id"]
        if path.exists():
            assert not row["file_gone"], "a file came back whose row says that it is gone"
            came = f"incoming/{instance_id[:8]}{instance_id[9:11]}/{instance_id}.dcm"
            assert path.read_bytes() in self._contents[came], "a file is not whole"
        else:  # retention has taken it
            assert {row["state"], *(one["state"] for one in row["deliveries"])} <= {"done", "duplicate", "delivered"}
        for delivery in row["deliveries"]:
            if delivery["state"] == "delivered":
                assert delivery["sop_instance_uid"] in self.said.taken, "delivered, but the archive has not said so"
            elif delivery["location"]:
                assert spool.path(delivery["location"]).read_bytes() in self._contents[delivery["location"]]


@pytest.fixture
def place(story: Story, tmp_path: Path) -> Iterator[Path]:
    """Where states are built, in memory if there is such a folder; the log of their recovery goes nowhere."""
    log.configure(story.settings.log, "keep", b"k" * 32, stream=StringIO())
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made there
    folder = Path(mkdtemp(prefix="dicomnode-power-", dir=memory if os.access(memory, os.W_OK) else tmp_path))
    yield folder / "state"
    shutil.rmtree(folder)


def test_every_cut_leaves_what_was_acknowledged(story: Story, place: Path) -> None:
    """At each call, in each state that a cut may leave: nothing acknowledged is lost, nothing is done without delivery, the
    database is sound, and everything promised is accounted for.
    """
    replay = Replay(story, place, HOWS)
    replay.run()
    assert replay.said.answers == len(replay.said.acknowledged) == 8
    assert replay.cuts > 200
    assert len(replay.seen) > 400
    real = {str(path.relative_to(story.root)): None if path.is_dir() else path.read_bytes()
            for path in sorted((story.root / "state").rglob("*"))}
    model = {name: content for name, content in replay.disk.state("all", "all", 0).items() if name.startswith("state/")}
    assert real == model, "the model is not what happened"


@pytest.mark.parametrize("without", [
    r"spool/tmp/.*\.part", r"spool/incoming/[0-9]{10}", r"spool/incoming", r"spool/outgoing", r"queue\.sqlite-wal",
    r"spool/quarantine", r"spool",
])
def test_the_replay_misses_a_sync(story: Story, place: Path, without: str) -> None:
    """Each kind of sync is needed: without it some cut that keeps only what was synced loses something."""
    with pytest.raises((AssertionError, DicomNodeError)):
        Replay(story, place, HOWS[:1], without).run()

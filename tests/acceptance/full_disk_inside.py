"""What runs inside a mount namespace of its own, on file systems of some megabytes: see test_full_disk.py."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from dicomnode.errors import LeaseLost, Refused, Transient
from dicomnode.keeper.chores import Chores
from dicomnode.keeper.intake import Intake
from dicomnode.keeper.ledger import audit
from dicomnode.queue.owner import this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Delivery, Verdict
from dicomnode.settings import SendSettings
from dicomnode.spool import Spool, new_id
from dicomnode.worker import Worker
from tests.acceptance.harness import Node
from tests.acceptance.samples import radiograph, write
from tests.peers import NO_DELAY, STORESCU, Archive, storescp, wait_for
from tests.unit import fakes
from tests.unit.materials import spooled
from tests.unit.spooled import configured

PAGE = os.sysconf("SC_PAGE_SIZE")


class Disk:
    """A tmpfs of its own that can be filled, by bytes and by files."""

    def __init__(self, path: Path, size: int, inodes: int = 4000) -> None:
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=0750", "tmpfs", path], check=True)
        self.path = path
        self._ballast = path / "ballast"
        self._files = path / "files"
        self._files.mkdir()
        self._ballast.touch()

    def fill(self, pages: int | None = None, inodes: int | None = None) -> None:
        """Leave this many pages, or this many files, to all others."""
        if inodes is not None:
            for number in range(max(0, os.statvfs(self.path).f_favail - inodes)):
                with contextlib.suppress(OSError):  # another one was faster
                    (self._files / str(number)).touch()
        if pages is not None:
            with self._ballast.open("r+b") as file:
                while (much := os.statvfs(self.path).f_bavail - pages) > 0:
                    with contextlib.suppress(OSError):  # another one was faster
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, much * PAGE)

    def free(self) -> None:
        """Give everything back."""
        os.truncate(self._ballast, 0)
        for path in self._files.iterdir():
            path.unlink()


class Clerk:
    """Every step of an instance by the parts that the processes use, one after the other, each of which may fail."""

    def __init__(self, root: Path, state: Path) -> None:
        settings = configured(root, "scan_s = 1\nholds_max_bytes = 0", "min_free_bytes = 0\nreserve_bytes = 0")
        self.settings = settings.model_copy(update={
            "send": SendSettings(first_delay_s=0.01, max_delay_s=0.02),
            "node": settings.node.model_copy(update={"state_dir": state}),
        })
        self.owner = this_process()
        self.spool = Spool(state)
        self.spool.identity()
        self.acknowledged: dict[str, bytes] = {}
        self.delivered: dict[str, bytes] = {}
        self.refusals: list[str] = []
        self._seed = 0
        self._owed: list[Callable[[], None]] = []
        self.open()

    def open(self) -> None:
        """What a process does when it starts."""
        self.queue = SqliteQueue(self.spool.queue_path)
        self.intake = Intake(self.spool, self.queue, "n")
        self.chores = Chores(self.settings, self.spool, self.queue)
        kit = fakes.kit(fakes.route(("original",)))
        self.worker = Worker(self.settings, self.spool, self.queue, kit, self.owner)

    def small_log(self) -> None:
        """Take the write-ahead log back to nothing, so that the next transaction needs room for it."""
        with contextlib.closing(sqlite3.connect(self.spool.queue_path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # -- the steps; what they raise is what their processes live with
    def receive(self) -> None:
        """What the acceptor does for a C-STORE; acknowledged when it comes to its end."""
        self._seed += 1
        ds = radiograph(rows=48, cols=48, seed=self._seed)
        stream = BytesIO()
        ds.save_as(stream, enforce_file_format=True)
        data = spooled(stream.getvalue())
        instance_id = new_id(datetime.now(UTC))
        tmp = self.spool.temporary(instance_id)
        try:
            with tmp.open("wb") as file:
                file.write(data)
            self.spool.commit(tmp, instance_id)
            self.spool.receipt(instance_id)
        finally:
            tmp.unlink(missing_ok=True)
        self.acknowledged[str(ds.SOPInstanceUID)] = ds.PixelData

    def take_in(self) -> None:
        """The keeper's scan."""
        self.intake.scan(full=True)

    def work(self) -> None:
        """The worker's step, which lives with everything."""
        self.worker.step()

    def send(self) -> None:
        """What a lane does: claim, send, settle; what the queue could not be told it is told first."""
        while self._owed:
            with contextlib.suppress(LeaseLost):
                self._owed[0]()
            del self._owed[0]
        for delivery in self.queue.claim_deliveries("pacs", self.owner, 16, datetime.now(UTC)):
            with self.spool.open(delivery.location) as stream:
                self.delivered[delivery.sop_instance_uid] = stream.read()
            try:
                self._settle(delivery)
            except Transient:
                self._owed.append(lambda delivery=delivery: self._settle(delivery))

    def _settle(self, delivery: Delivery) -> None:
        self.queue.settle(delivery, self.owner, Verdict("delivered", status=0), datetime.now(UTC))

    def keep(self) -> None:
        """The keeper's chores that write."""
        now = datetime.now(UTC)
        for chore in (self.chores.reclaim, self.chores.room, self.chores.expire, self.chores.retention, self.chores.forget):
            with contextlib.suppress(Transient, OSError):
                chore(now)

    def attempt(self, step: Callable[[], None]) -> bool:
        """Take a step on a full disk; only what its process lives with may come of it."""
        try:
            step()
        except (Transient, Refused, OSError) as error:
            self.refusals.append(f"{step.__name__}: {getattr(error, 'code', type(error).__name__)}")
            return False
        return True

    def whole(self) -> None:
        """Nothing acknowledged is lost, nothing half stands under a name, and the database is sound."""
        files = {kept.instance_id for kept in self.spool.incoming()}
        assert set(self.spool.receipts()) <= files
        assert len(files) >= len(self.acknowledged)
        assert list((self.spool.root / "tmp").iterdir()) == []
        with contextlib.closing(sqlite3.connect(f"file:{self.spool.queue_path}?mode=ro", uri=True)) as other:
            assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def recover(self) -> None:
        """With room again everything comes through by the same steps, without a restart."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            self.take_in()
            self.work()
            self.send()
            if not any(row["state"] in {"waiting", "deferred", "active"} for row in self.queue.rows()) and not self._owed:
                break
            time.sleep(0.005)
        states = {str(row["state"]) for row in self.queue.rows()}
        assert states <= {"done"}, states
        assert set(self.acknowledged) <= set(self.delivered)
        found = audit(self.spool, self.queue, datetime.now(UTC))
        assert found.breaches == ()


@pytest.fixture
def clerk(tmp_path: Path) -> Iterator[tuple[Clerk, Disk]]:
    """A node's parts on a disk of 8 MB."""
    disk = Disk(tmp_path / "disk", 8 << 20)
    made = Clerk(tmp_path, disk.path / "state")
    yield made, disk
    made.queue.close()


STEPS = ("receive", "take_in", "work", "send", "keep", "open")


@pytest.mark.parametrize("step", STEPS)
def test_steps(clerk: tuple[Clerk, Disk], step: str) -> None:
    """Each step with so little room that each of its writes in turn is the one that fails; then room again."""
    node, disk = clerk
    failed = came_through = 0
    plan: list[dict[str, int]] = [{"pages": pages} for pages in range(33)] + [{"inodes": inodes} for inodes in range(4)]
    for left in plan:
        for name in STEPS[: STEPS.index(step)]:
            getattr(node, name)()
        if step == "open":
            node.queue.close()  # the files of the write-ahead log are gone then
        else:
            node.small_log()
        disk.fill(**left)
        came = node.attempt(getattr(node, step))
        came_through += came
        failed += not came
        # On a disk that stays full the node goes on trying.
        if step != "open":
            for name in ("take_in", "work", "send", "keep"):
                node.attempt(getattr(node, name))
            node.whole()
        elif not came:
            disk.free()
            node.open()
        disk.free()
        node.recover()
        node.whole()
    # Worker and chores live with what fails, so they always come through; the others must have met both.
    assert failed or step in {"work", "keep"}, "no room was small enough"
    assert came_through, "no room was large enough"


# -- whole nodes
ROLES = ("accept", "work", "send", "keep")


def node_on(tmp_path: Path, archive: Archive, size: int, **scp: int) -> tuple[Node, Disk]:
    """A node whose state is on a small disk of its own, that passes originals on and tries again soon."""
    node = Node(tmp_path, forward=(archive.forward,))
    disk = Disk(node.state, size)
    values = {"min_free_bytes": 0, "reserve_bytes": 0, **scp, "first_delay_s": 1, "max_delay_s": 2, "probe_s": 1, "scan_s": 1}
    path = node.config / "node.toml"
    text = path.read_text().replace("# holds_max_bytes = 10737418240", "holds_max_bytes = 0")
    for key, value in values.items():
        text, changed = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert changed == 1, key
    path.write_text(text)
    routes = node.config / "routes.toml"
    routes.write_text(re.sub(r"(?m)^outputs = .*$", 'outputs = ["original"]', routes.read_text()))
    return node, disk


class Modality:
    """Sends new instances with DCMTK and knows which were acknowledged."""

    def __init__(self, node: Node, folder: Path) -> None:
        self._node, self._folder, self._seed = node, folder, 0
        self.acknowledged: dict[str, bytes] = {}
        self.refused = 0

    def send(self) -> bool:
        """Send one; True when it was acknowledged."""
        self._seed += 1
        ds = radiograph(rows=48, cols=48, seed=self._seed)
        path = write(ds, self._folder)
        line = [STORESCU, "-ta", "30", "-td", "30", "-aec", "DICOMNODE", "127.0.0.1", str(self._node.port), str(path)]
        if subprocess.run(line, env=NO_DELAY, capture_output=True, timeout=90, check=False).returncode:
            self.refused += 1
            return False
        self.acknowledged[str(ds.SOPInstanceUID)] = ds.PixelData
        return True


def arrived(node: Node, modality: Modality, archive: Archive) -> None:
    """Everything acknowledged is delivered, bit for bit, and nothing half is left."""

    def all_there() -> bool:
        return {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in _whole(archive)} >= set(
            modality.acknowledged)

    wait_for(all_there, 120, lambda: f"{len(modality.acknowledged)} delivered, {len(_whole(archive))} are; {node.tail()}", 0.5)
    pixels = {str(ds.SOPInstanceUID): ds.PixelData for ds in archive.objects()}
    assert {uid: pixels[uid] for uid in modality.acknowledged} == modality.acknowledged
    wait_for(lambda: not set(node.counts()) - {"instance/done", "delivery/delivered"}, 60, lambda: str(node.counts()), 0.5)
    node.command("queue", "verify")
    assert list((node.state / "spool" / "tmp").iterdir()) == []


def _whole(archive: Archive) -> list[Path]:
    """Files that storescp has finished; it writes under the final name."""
    found = []
    for path in sorted(archive.folder.iterdir()):
        with contextlib.suppress(Exception):
            dcmread(path)
            found.append(path)
    return found


def test_node(tmp_path: Path) -> None:
    """A running node without watermarks, on a disk with so little room that any write fails; no process ends."""
    with storescp(tmp_path / "archive") as archive:
        node, disk = node_on(tmp_path, archive, 24 << 20)
        modality = Modality(node, tmp_path / "send")
        with node.running():
            assert modality.send()
            arrived(node, modality, archive)
            before = {role: node.pids(role) for role in ROLES}
            plan: list[dict[str, int]] = [{"pages": pages} for pages in (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30)]
            plan += [{"inodes": inodes} for inodes in (0, 1, 2)]
            for left in plan:
                disk.fill(**left)
                for _ in range(2):
                    modality.send()
                time.sleep(0.7)  # workers, sender and keeper meet the full disk meanwhile
                disk.free()
                assert modality.send()
            assert modality.refused, "no room was small enough"
            assert len(modality.acknowledged) > len(plan) + 1, "no room was large enough"
            arrived(node, modality, archive)
            assert {role: node.pids(role) for role in ROLES} == before, node.tail()
            refusals = {(line["reason"], line["dimse_status"]) for line in node.events("instance_refused")}
            assert refusals == {("out_of_resources", "0xA700")}
            assert node.events("defect") == []


def test_processes_that_start_on_a_full_disk(tmp_path: Path) -> None:
    """They end and are started again until there is room; the supervisor stays, nothing is configured wrongly."""
    with storescp(tmp_path / "archive") as archive:
        node, disk = node_on(tmp_path, archive, 24 << 20)
        modality = Modality(node, tmp_path / "send")
        disk.fill(pages=0, inodes=0)
        assert node.command("serve", check=False).returncode == 1, "not 78, which nobody would start again"
        disk.free()
        with node.running():
            assert modality.send()
            (worker, *_) = node.pids("work")
            os.kill(worker, signal.SIGSTOP)
            assert modality.send()
            disk.fill(pages=0, inodes=0)
            killed = {role: node.pids(role) for role in ROLES}
            for pid in (pid for pids in killed.values() for pid in pids):
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: all(set(node.pids(role)) - set(killed[role]) for role in ROLES), 60, node.tail)
            known = {pid for pids in killed.values() for pid in pids}
            wait_for(lambda: [one for one in node.events("store_failed") if one["pid"] not in known], 60, node.tail)
            assert not modality.send()
            disk.free()
            arrived(node, modality, archive)
            wait_for(modality.send, 60, node.tail, 0.5)
            arrived(node, modality, archive)
            assert 78 not in {line["exit_code"] for line in node.events("child_exited")}


@contextlib.contextmanager
def association(port: int) -> Iterator[Callable[[Dataset], int]]:
    """One association for the length of a with block; sends an instance and gives the status of the answer."""
    ae = AE(ae_title="MODALITY")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 90
    ae.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", port, ae_title="DICOMNODE")
    assert assoc.is_established
    try:
        yield lambda ds: int(assoc.send_c_store(ds).Status)
    finally:
        assoc.release()


def test_watermarks(tmp_path: Path) -> None:
    """First new associations are rejected for now, then instances are refused, while results still leave by the reserve."""
    with storescp(tmp_path / "archive") as archive:
        node, disk = node_on(tmp_path, archive, 32 << 20, min_free_bytes=16 << 20, reserve_bytes=8 << 20)
        modality = Modality(node, tmp_path / "send")
        with node.running():
            assert modality.send()
            arrived(node, modality, archive)
            for pid in node.pids("work"):
                os.kill(pid, signal.SIGSTOP)
            assert modality.send()
            with association(node.port) as send:
                disk.fill(pages=(12 << 20) // PAGE)
                assert not modality.send()
                wait_for(lambda: [one for one in node.events("association_rejected") if one["reason"] == "disk_low"], 10)
                ds = radiograph(rows=48, cols=48, seed=1001)
                assert send(ds) == 0x0000
                modality.acknowledged[str(ds.SOPInstanceUID)] = ds.PixelData
                disk.fill(pages=(4 << 20) // PAGE)
                assert send(radiograph(rows=48, cols=48, seed=1002)) == 0xA700
                for pid in node.pids("work"):
                    os.kill(pid, signal.SIGCONT)
                arrived(node, modality, archive)
                disk.free()
                assert send(radiograph(rows=48, cols=48, seed=1003)) == 0x0000
            assert modality.send()
            arrived(node, modality, archive)

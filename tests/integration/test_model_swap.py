"""Models are added and replaced while instances flow: each gets an answer of one version or the other, none is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.repository import models_dir, resolve
from dicomnode.settings import WorkSettings
from tests.acceptance.harness import Node
from tests.acceptance.samples import radiograph
from tests.integration.master import Master
from tests.peers import free_port, wait_for

ROUTER, FINDINGS = "bodypart-router", "pneumonia-pediatric"
# Nothing is certain from 1 on, so every picture is uncertain and goes to the model.
_ROUTES = f"""
min_probability = 1.0
[[rule]]
name = "all"
models = ["{FINDINGS}"]
outputs = ["sr"]
destinations = ["pacs"]
"""


def put(root: Path, name: str, version: str, old: str = "", new: str = "") -> None:
    """Put the newest shipped model into the folder as another version, at once, with a text of its card changed."""
    source = resolve(models_dir(WorkSettings()), name)
    draft = root / f".{name}-{version}"
    shutil.copytree(source.path, draft)
    text = (draft / "card.toml").read_text()
    for before, after in ((f'version = "{source.card.version}"', f'version = "{version}"'), (old, new)):
        assert before in text
        text = text.replace(before, after, 1)
    (draft / "card.toml").write_text(text)
    (root / name).mkdir(exist_ok=True)
    draft.rename(root / name / version)


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """A node with models of its own; what the test leaves running is killed."""
    made = Master(Node(tmp_path, forward=(f"PACS@127.0.0.1:{free_port()}",)))
    node = made.node
    (node.config / "routes.toml").write_text(_ROUTES)
    node.edit("node.toml", '# models_dir = "/var/lib/dicomnode-models"', f'models_dir = "{tmp_path / "models"}"')
    (tmp_path / "models").mkdir()
    put(tmp_path / "models", ROUTER, "9.0.0")
    put(tmp_path / "models", FINDINGS, "9.0.0")
    yield made
    pids = [pid for role in ("accept", "work", "keep") for pid in node.pids(role)]
    if made.process is not None:
        made.process.kill()
        made.process.wait()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Modality:
    """One that sends a radiograph after the other, over one association."""

    def __init__(self, port: int) -> None:
        self._port, self._stop, self._thread = port, threading.Event(), threading.Thread(target=self._send, daemon=True)
        self.sent: list[str] = []
        self.faults: Counter[object] = Counter()

    def _send(self) -> None:
        ae = AE(ae_title="MODALITY")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 240
        ae.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
        assoc = ae.associate("127.0.0.1", self._port, ae_title="DICOMNODE")
        while not self._stop.wait(0.25):  # about what two workers get through
            ds = radiograph(rows=64, cols=64, seed=len(self.sent))
            status = assoc.send_c_store(ds).get("Status") if assoc.is_established else "no association"
            if status == 0x0000:
                self.sent.append(str(ds.SOPInstanceUID))
            else:
                self.faults[status] += 1
        assoc.release()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(240)


def rows(node: Node) -> Sequence[Mapping[str, Any]]:
    """Every instance of the node; read here, for a command at each look would take the cores from the workers."""
    queue = SqliteQueue(node.state / "queue.sqlite", read_only=True)
    try:
        return queue.rows()
    finally:
        queue.close()


def by_version(node: Node) -> Counter[str]:
    """How many instances were answered by each version."""
    return Counter(one["version"] for row in rows(node) if row["state"] == "done" for one in row["findings"])


def versions_of(node: Node, uids: set[str]) -> set[str]:
    """Which versions answered these instances."""
    return {one["version"] for row in rows(node) if row["sop_instance_uid"] in uids for one in row["findings"]}


def answered(node: Node, version: str, count: int) -> None:
    """Wait until so many were answered by a version."""
    wait_for(lambda: by_version(node)[version] >= count, 240, lambda: f"{version}: {by_version(node)}; {node.tail()}", 0.3)


def test_a_model_is_replaced_while_instances_flow(master: Master, tmp_path: Path) -> None:
    """A new version is used from the reload on, a bad one never, also by a worker that starts anew; NAME@VERSION goes back."""
    node, models = master.node, tmp_path / "models"
    master.start("accept", "keep", "work")
    master.ready()
    with Modality(node.port) as modality:
        answered(node, "9.0.0", 3)
        put(models, FINDINGS, "9.0.1")
        answered(node, "9.0.0", by_version(node)["9.0.0"] + 3)  # what lies in the folder is not used yet
        assert set(by_version(node)) == {"9.0.0"}
        master.tell(signal.SIGHUP)
        wait_for(lambda: node.events("config_reloaded"), 120, lambda: "it reloads; " + node.tail())
        reloaded_after = len(modality.sent) + 1  # one may be stored, and in an old worker's hands, before its answer is here
        answered(node, "9.0.1", 3)

        put(models, FINDINGS, "9.0.2", "tolerance = 0.01", "tolerance = 1e-12")
        master.tell(signal.SIGHUP)
        wait_for(lambda: node.events("config_rejected"), 120, lambda: "it is refused; " + node.tail())
        message = node.events("config_rejected")[0]["message"]
        assert f"model {FINDINGS}" in message
        assert "9.0.2" in message
        assert "sample" in message
        before = set(node.pids("work"))
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: len(set(node.pids("work")) - before) == 1, 120, lambda: "a new worker; " + node.tail())
        wait_for(lambda: len(node.events("worker_started")) == 5, 120, lambda: "it works; " + node.tail())
        answered(node, "9.0.1", by_version(node)["9.0.1"] + 3)
        since = lambda after: versions_of(node, set(modality.sent[after:]))  # noqa: E731
        wait_for(lambda: since(reloaded_after), 240, lambda: f"one of the last is answered; {node.tail()}", 0.3)
        assert since(reloaded_after) == {"9.0.1"}

        node.edit("routes.toml", f'models = ["{FINDINGS}"]', f'models = ["{FINDINGS}@9.0.0"]')
        master.tell(signal.SIGHUP)
        wait_for(lambda: len(node.events("config_reloaded")) == 2, 120, lambda: "it goes back; " + node.tail())
        back_after = len(modality.sent) + 1
        wait_for(lambda: since(back_after), 240, lambda: f"one of the last is answered; {node.tail()}", 0.3)
    assert modality.faults == {}
    wait_for(lambda: len(rows(node)) == len(modality.sent), 60, "every instance has its row")
    wait_for(lambda: {row["state"] for row in rows(node)} == {"done"}, 240, lambda: f"all are done; {node.tail()}", 0.3)
    assert set(by_version(node)) == {"9.0.0", "9.0.1"}
    assert sum(by_version(node).values()) == len(modality.sent)
    assert since(back_after) == {"9.0.0"}
    opened = [(record["model"], record["model_version"]) for record in node.events("model_opened")]
    assert Counter(opened) == {(ROUTER, "9.0.0"): 7, (FINDINGS, "9.0.0"): 4, (FINDINGS, "9.0.1"): 3}
    master.stop()


def test_a_model_that_fails_its_sample_stops_the_start(master: Master, tmp_path: Path) -> None:
    """The node ends with 78 and says which model, where, and by how much it is off."""
    put(tmp_path / "models", FINDINGS, "9.0.1", "tolerance = 0.01", "tolerance = 1e-12")
    done = master.node.command("serve", check=False)
    assert done.returncode == 78
    assert f"{FINDINGS}/9.0.1" in done.stderr
    assert "sample" in done.stderr

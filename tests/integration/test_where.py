"""A real node, asked where an instance is: by UID, Accession Number and AE title, while it waits and when it has arrived."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.acceptance.harness import Node
from tests.acceptance.samples import radiograph, write
from tests.peers import STORESCP, free_port, storescp, wait_for


@pytest.mark.skipif(not shutil.which(STORESCP), reason="DCMTK is not installed (apt: dcmtk)")
def test_where_tells_the_truth_of_a_running_node(tmp_path: Path) -> None:
    """Who sent it, what waits for whom, and after the archive is there, what it answered; and the account is sound."""
    ds = radiograph(seed=3)
    ds.AccessionNumber = "WQ-20417/x"
    path = write(ds, tmp_path / "sources")
    port = free_port()
    node = Node(tmp_path, forward=(f"ARCHIVE@127.0.0.1:{port}",))
    started = datetime.now(UTC)
    with node.running():
        line = ["/usr/bin/storescu", "-aet", "SCANNER", "-aec", "DICOMNODE", "127.0.0.1", str(node.port), str(path)]
        subprocess.run(line, check=True, env={**os.environ, "TCP_NODELAY": "1"}, timeout=60)

        def down() -> bool:
            lines = [] if node.command("where", "scanner", check=False).returncode else node.json("where", "scanner")
            return any("down" in str(now.get("what")) for one in lines for now in one["now"])

        wait_for(down, 120, lambda: f"where tells that the archive is down; {node.tail()}")
        (told,) = node.json("where", " wq-20417/X ")
        assert {now["who"] for now in told["now"]} == {"administrator"}
        with storescp(tmp_path / "archive", ae_title="ARCHIVE", port=port):
            arrived = lambda: {now["state"] for now in node.json("where", "scanner")[0]["now"]} == {"delivered"}  # noqa: E731
            wait_for(arrived, 120, lambda: f"where tells that all is delivered; {node.tail()}")
        by = {}
        for key in (str(ds.SOPInstanceUID), str(ds.StudyInstanceUID), " wq-20417/X ", "scanner", "archive"):
            (by[key],) = node.json("where", key)
        told = by["scanner"]
        assert {one["instance_id"] for one in by.values()} == {told["instance_id"]}
        text = node.command("where", "wq-20417/x").stdout
        account = node.json("queue", "verify")[-1]
    first, *rest = told["timeline"]
    assert (first["by"]["calling_ae"], first["by"]["address"]) == ("SCANNER", "127.0.0.1")
    times = [datetime.fromisoformat(event["at"]) for event in told["timeline"]]
    assert started < min(times)
    assert max(times) < datetime.now(UTC)
    delivered = [event for event in rest if event["what"] == "delivered"]
    assert {(event["ae_title"], event["status"]) for event in delivered} == {("ARCHIVE", "0x0000")}
    assert {event["output"] for event in delivered} == {"sr", "sc"}
    committed, = node.events("instance_committed")
    assert first["by"]["pid"] == committed["pid"], "the acceptor that wrote the line"
    done, = node.events("instance_done")
    assert [event["by"] for event in rest if event["what"] == "worked"] == [{"role": "worker", "pid": done["pid"]}]
    assert "SCANNER 127.0.0.1, acceptor" in text
    assert "0x0000" in text
    assert (account["accepted"], account["acknowledged"], account["delivered"], account["gone"]) == (1, 1, 1, 0)
    plain = b"20417"
    kept = [one for one in node.state.rglob("*") if one.is_file() and "spool" not in one.parts]
    assert [one.name for one in [*kept, node.log_path] if plain in one.read_bytes()] == []

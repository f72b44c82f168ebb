"""Ten thousand spoilt conversations with a real acceptor: it never stops, keeps nothing half, and serves on.

``DICOMNODE_FUZZ_CASES`` and ``DICOMNODE_FUZZ_SEED`` set how many and which; a failure names the number of a conversation, which
`fuzzing.conversation` makes again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pydicom
from pydicom.filereader import read_file_meta_info

from dicomnode.header import data_set_start
from tests.acceptance.fuzzing import Conversation, complete, conversation, hold
from tests.acceptance.harness import Node
from tests.peers import ECHOSCU, STORESCU, listens, run, wait_for

CASES = int(os.environ.get("DICOMNODE_FUZZ_CASES", "10000"))
SEED = int(os.environ.get("DICOMNODE_FUZZ_SEED", "20261120"))
#: Conversations at a time; some of them end only when the acceptor ends them.
_AT_A_TIME = 16
_GROWTH_BYTES = 48 << 20
CT = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"


def held(process: psutil.Process) -> tuple[int, int]:
    """Threads and descriptors."""
    return process.num_threads(), process.num_fds()


def served(node: Node) -> bool:
    """True when C-ECHO and C-STORE are answered with success."""
    echo = run(ECHOSCU, "-aec", "DICOMNODE", "127.0.0.1", node.port)
    return echo.returncode == 0 and run(STORESCU, "-aec", "DICOMNODE", "127.0.0.1", node.port, CT).returncode == 0


def data_set_digest(path: Path) -> bytes:
    """SHA-256 of what stands behind the file meta."""
    with path.open("rb") as stream:
        stream.seek(data_set_start(stream))
        return hashlib.sha256(stream.read()).digest()


def test_fuzz(tmp_path: Path) -> None:
    """Nothing that a peer sends ends the acceptor, leaves a file, thread or descriptor behind, or gets a wrong answer."""
    node = Node(tmp_path)
    tmp, incoming = node.state / "spool" / "tmp", node.state / "spool" / "incoming"
    with node.log_path.open("wb") as log:
        line = [sys.executable, "-m", "dicomnode", "accept", "-c", str(node.config)]
        child = subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(node.port), 60, node.tail)
        process = psutil.Process(child.pid)
        assert served(node)
        wait_for(lambda: not list(tmp.iterdir()))
        before = wait_for(lambda: held(process) if process.num_threads() <= 2 else None, what="only the listener runs")
        memory = process.memory_info().rss

        def play(number: int) -> Conversation:
            made = conversation(SEED, number)
            hold(made, node.port)
            return made

        sent: set[bytes] = set()
        acknowledged: dict[str, int] = {}
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            for made in pool.map(play, range(CASES), chunksize=1):
                sent |= complete(made.raw)
                acknowledged |= dict.fromkeys(made.acknowledged(), made.number)
                assert child.poll() is None, (made.number, made.spoilt, node.tail())
        # Nothing stays: each connection has its end.
        wait_for(lambda: max(map(int.__sub__, held(process), before)) <= 0, 60, lambda: f"{before}, now {held(process)}")
        assert list(tmp.iterdir()) == []
        assert process.memory_info().rss - memory < _GROWTH_BYTES
        # Everything that was promised is there, and everything that is there was sent whole.
        kept = {path: str(read_file_meta_info(path).MediaStorageSOPInstanceUID) for path in incoming.rglob("*.dcm")}
        assert {uid: number for uid, number in acknowledged.items() if uid not in kept.values()} == {}
        ours = str(read_file_meta_info(CT).MediaStorageSOPInstanceUID)
        assert [path.name for path, uid in kept.items() if uid != ours and data_set_digest(path) not in sent] == []
        # The fuzz reaches what it is for: some stores come through, most conversations do not.
        assert CASES // 20 < len(acknowledged) < CASES
        assert node.events("defect") == []
        assert served(node)
        assert child.poll() is None
    finally:
        child.terminate()
        assert child.wait(60) == 0, node.tail()

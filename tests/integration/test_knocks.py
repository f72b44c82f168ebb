"""An acceptor that is visited a thousand times holds what it held before: memory, threads, descriptors."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.acceptance.harness import DICOMNODE, Node
from tests.knocks import KINDS, Held, held, knock
from tests.peers import wait_for

#: Caches fill within the first visits.
WARM_UP, VISITS = 200, 1000
#: `benchmarks/soak.py` measures 10,000; here a leak of a buffer or thread a visit would show.
GROWTH_KB = 8192


def test_a_thousand_visits_leave_nothing(tmp_path: Path) -> None:
    """Silent, garbage, released and dropped connections all end; an acceptor keeps no memory, thread or descriptor of them."""
    node = Node(tmp_path)
    with node.log_path.open("ab") as log:
        process = subprocess.Popen([*DICOMNODE, "accept", "-c", str(node.config)], stdout=log, stderr=log)
    try:
        wait_for(lambda: node.events("acceptor_started"), 60, lambda: "the acceptor listens; " + node.tail())
        threads = held(process.pid).threads

        def alone() -> Held | None:
            """What it holds when every visitor's thread has ended."""
            now = held(process.pid)
            return now if now.threads <= threads else None

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: knock(node.port, KINDS[number % 4]), range(WARM_UP)))
            idle = wait_for(alone, 60, "the first visitors have left")
            list(pool.map(lambda number: knock(node.port, KINDS[number % 4]), range(VISITS)))
        wait_for(
            lambda: (now := alone()) and now.descriptors <= idle.descriptors, 60,
            lambda: f"{held(process.pid)} is no more than {idle}",
        )
        assert held(process.pid).resident_kb - idle.resident_kb < GROWTH_KB
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert not [record for record in node.events() if record["level"] in {"error", "critical"}], node.tail()


"""Instances per second end to end, time per stage and memory per process, on a whole node over loopback.

Run from the repository root, with DCMTK installed::

    python benchmarks/pipeline.py [--instances 60] [--sizes 512,2048] [--json]

A node made by ``init`` and run by ``serve`` gets generated radiographs from DCMTK's storescu in one association, works them
(route, findings by rule, redact, encode, SR and SC) and forwards SR and SC to DCMTK's storescp. Both DCMTK programs run with
TCP_NODELAY=1. The clock runs from the start of the sender to the last delivery. Memory is VmHWM of /proc, the highest
resident size of each process. Two workers with one thread each, as ``init`` writes it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.acceptance.harness import Node
from tests.acceptance.samples import radiograph, write
from tests.peers import NO_DELAY, STORESCU, storescp, wait_for


def measure(size: int, instances: int) -> dict[str, Any]:
    """One round: ``instances`` radiographs of ``size`` x ``size`` pixels, 16 bit."""
    with tempfile.TemporaryDirectory() as root, storescp(Path(root) / "archive") as archive:
        node = Node(Path(root), forward=(archive.forward,))
        paths = [write(radiograph(rows=size, cols=size, seed=seed), Path(root) / "in") for seed in range(instances)]
        with node.running():
            wait_for(lambda: node.events("worker_started"), 60, "the worker is up")
            started = time.perf_counter()
            line = [STORESCU, "-aec", "DICOMNODE", "127.0.0.1", str(node.port), *map(str, paths)]
            subprocess.run(line, check=True, env=NO_DELAY)
            received = time.perf_counter() - started
            wait_for(lambda: len(list(archive.folder.iterdir())) >= 2 * instances, 3600, "all delivered", 0.02)
            delivered = time.perf_counter() - started
            roles = ("serve", "accept", "work", "send", "keep")
            memory = {role: max(map(_peak_mb, node.pids(role)), default=0) for role in roles}
            rows = node.json("queue", "list")
    stages: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for stage, spent in row["stage_ms"].items():
            stages[stage].append(float(spent))
    return {
        "size": size,
        "instances": instances,
        "received_per_s": round(instances / received, 1),
        "end_to_end_per_s": round(instances / delivered, 2),
        "stage_ms_median": {stage: round(statistics.median(spent), 1) for stage, spent in stages.items()},
        "memory_mb": memory,
    }


def _peak_mb(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // 1024 if found else 0


def main() -> None:
    """Measure and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=60)
    parser.add_argument("--sizes", default="512,2048")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for size in map(int, options.sizes.split(",")):
        found = measure(size, options.instances)
        if options.json:
            print(json.dumps(found))
            continue
        total = sum(found["stage_ms_median"].values())
        print(f"\n### {size} x {size}, 16 bit, {options.instances} instances\n")
        print(f"received {found['received_per_s']}/s, end to end {found['end_to_end_per_s']}/s\n")
        print("| stage | median ms | share |\n|---|---|---|")
        for stage, spent in found["stage_ms_median"].items():
            print(f"| {stage} | {spent} | {spent / total:.0%} |")
        print("\n| process | peak resident MB |\n|---|---|")
        for role, peak in found["memory_mb"].items():
            print(f"| {role} | {peak} |")


if __name__ == "__main__":
    main()

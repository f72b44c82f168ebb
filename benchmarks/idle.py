"""What idle associations cost: CPU of this node, storescp and plain pynetdicom while so many peers stay and say nothing.

Run from the repository root, with DCMTK installed::

    python benchmarks/idle.py [--associations 50] [--seconds 10] [--json]

The associations are opened by bare sockets that cost nothing themselves. The figure is CPU time, user and system, of all
processes of a receiver over the wall time, in percent of one core, beside the same without associations. storescp forks for
each association.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ingest import RECEIVERS
from tests.knocks import associate_rq

_ASSOCIATE_AC = 2


def spent(processes: list[psutil.Process]) -> float:
    """CPU seconds so far."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def percent(seconds: float, quiet: bool) -> float:
    """CPU of all our child processes over some seconds, in percent of one core."""
    processes = psutil.Process().children(recursive=True)
    before, started = spent(processes), time.perf_counter()
    steps = range(int(seconds * 10))
    for _ in track(steps, "waiting", console=Console(stderr=True), disable=quiet, transient=True):
        time.sleep(0.1)
    return 100 * (spent(processes) - before) / (time.perf_counter() - started)


def measure(name: str, associations: int, seconds: float, quiet: bool) -> dict[str, float | str]:
    """One receiver: with nobody there, then with so many who say nothing."""
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        port, _ = stack.enter_context(RECEIVERS[name](Path(root) / name))
        time.sleep(2)  # what it does after its start
        alone = percent(seconds, quiet)
        for number in range(associations):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            peer.sendall(associate_rq(calling=f"VISITOR{number}"))  # one AE title has a limit
            if peer.recv(4096)[:1] != bytes((_ASSOCIATE_AC,)):
                raise SystemExit(f"{name} does not accept association {number + 1}")
        time.sleep(2)
        idle = percent(seconds, quiet)
    return {"receiver": name, "associations": associations, "alone_percent": round(alone, 2), "idle_percent": round(idle, 2)}


def main() -> None:
    """Measure and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--associations", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--receivers", default="node,storescp,pynetdicom")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(f"{os.cpu_count()} cores, percent of one\n")
        print(f"| receiver | nobody | {options.associations} idle associations |\n|---|---|---|")
    for name in options.receivers.split(","):
        found = measure(name, options.associations, options.seconds, options.json)
        if options.json:
            print(json.dumps(found), flush=True)
        else:
            print(f"| {name} | {found['alone_percent']} % | {found['idle_percent']} % |", flush=True)


if __name__ == "__main__":
    main()

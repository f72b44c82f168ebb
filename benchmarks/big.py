"""Objects of hundreds of megabytes through a whole node: time, and the peak memory of every process on their way.

Run from the repository root, with DCMTK installed::

    python benchmarks/big.py [--size 700] [--kinds grey16,colour,jpegls] [--json]

For each kind a node made by ``init`` and run by ``serve`` gets one generated multi-frame object from DCMTK's storescu as it
comes (no TCP_NODELAY), works it through all stages and forwards report, capture, de-identified image and original to storescp.
``--size`` is that of the pixel data as they are sent (deflated: before they are), in megabytes of 1e6 bytes. Times run from the
start of the sender: until it has its answer, and until the last of the four objects is delivered. Memory is VmHWM of /proc, the
highest resident size; that of tesseract is seen by looking at the worker's children five times a second. Kinds: grey8, grey16,
smooth, colour (native), deflated, jpeg (baseline), jpegls, rle. Text is read at 0.3 to 3 s a frame, which is most of the time;
smooth has no noise, so that the pages of its text are read once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.acceptance.harness import Node
from tests.acceptance.large import OUTPUTS, big_node, status
from tests.cine import KINDS, frames_of, write_cine
from tests.peers import STORESCU, storescp, wait_for

ROLES = ("serve", "accept", "work", "send", "keep")
SHOWN = ("serve", "accept", "work", "tesseract", "send", "keep")
#: A worker reads text for hours before this is wrong, seconds.
PATIENCE_S = 6 * 3600


class Watch(threading.Thread):
    """Looks at the children of the workers; ``peak_mb`` is the largest that was seen of one."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self._node = node
        self._ended = threading.Event()
        self.peak_mb = 0

    def run(self) -> None:
        """Until told to stop."""
        parents = self._node.pids("work")
        while not self._ended.wait(0.2):
            for pid in _children(parents):
                self.peak_mb = max(self.peak_mb, status(pid, "VmHWM"))

    def end(self) -> int:
        """Stop, and give the peak."""
        self._ended.set()
        self.join()
        return self.peak_mb


def _children(parents: list[int]) -> Iterator[int]:
    for parent in parents:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                for child in (task / "children").read_text().split():
                    # Between fork and exec it is a copy of its parent.
                    if Path(f"/proc/{child}/comm").read_text().strip() == "tesseract":
                        yield int(child)


def measure(kind: str, size_bytes: int) -> dict[str, Any]:
    """One object through a fresh node."""
    with tempfile.TemporaryDirectory() as folder, storescp(Path(folder) / "archive") as archive:
        root = Path(folder)
        path = root / "big.dcm"
        frames = frames_of(KINDS[kind], size_bytes)
        write_cine(path, KINDS[kind], frames, lambda done, all_: _tell(f"{kind}: writing frame {done} of {all_}"))
        node = big_node(root, archive.forward)
        with node.running():
            wait_for(lambda: len(node.events("worker_started")) >= 2, 60, "the workers are up")
            before = {role: max(status(pid, "VmHWM") for pid in node.pids(role)) for role in ROLES}
            watch = Watch(node)
            watch.start()
            started = time.perf_counter()
            subprocess.run([STORESCU, "-aec", "DICOMNODE", "127.0.0.1", str(node.port), str(path)], check=True)
            received = time.perf_counter() - started

            def through() -> bool:
                _tell(f"{kind}: {frames} frames received in {received:.0f} s, worked for {time.perf_counter() - started:.0f} s")
                stopped = [name for name in ("output_held", "instance_quarantined", "deadline_passed") if node.events(name)]
                if stopped:
                    raise SystemExit(f"{kind}: {stopped}; {node.tail()}")
                return len(node.events("delivery_done")) >= OUTPUTS

            wait_for(through, PATIENCE_S, lambda: f"all delivered; {node.tail()}", 0.5)
            delivered = time.perf_counter() - started
            peak = {role: max(status(pid, "VmHWM") for pid in node.pids(role)) for role in ROLES}
            peak["tesseract"] = watch.end()
            (row,) = node.json("queue", "list")
        sizes = sorted(one.stat().st_size for one in archive.folder.iterdir())
    return {
        "kind": kind, "frames": frames, "sent_mb": round(size_bytes / 1e6), "received_s": round(received, 1),
        "received_mb_s": round(size_bytes / 1e6 / received), "delivered_s": round(delivered, 1),
        "stage_ms": row["stage_ms"], "delivered_mb": [round(size / 1e6, 1) for size in sizes],
        "started_mb": before, "peak_mb": peak,
    }


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=700)
    parser.add_argument("--kinds", default="grey16,colour,jpegls", help=", ".join(KINDS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print("| kind | frames | received, s | MB/s | delivered, s | peak MB: " + " | ".join(SHOWN) + " |")
        print("|---|---|---|---|---|" + "---|" * len(SHOWN))
    for kind in options.kinds.split(","):
        found = measure(kind, int(options.size * 1e6))
        _tell("")
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        peaks = " | ".join(str(found["peak_mb"][role]) for role in SHOWN)
        times = f"{found['received_s']} | {found['received_mb_s']} | {found['delivered_s']}"
        print(f"| {kind} | {found['frames']} | {times} | {peaks} |", flush=True)


if __name__ == "__main__":
    main()

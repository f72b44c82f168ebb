"""Does the node grow? 10,000 short visits to its acceptors, and steady mixed traffic through the whole node for half an hour.

Run from the repository root, with DCMTK installed::

    python benchmarks/soak.py [--visits 10000] [--minutes 30] [--out runs/soak] [--seed 1]

**Visits** connect and close, send what is no DICOM, associate and release, associate and drop, in turn, over four
connections at a time. Memory (VmRSS), threads and descriptors of all acceptors are read on the way; the slope is a
least-squares fit behind the first fifth, in which caches fill.

**Soak** a node as `init` writes it, which removes what is older than a minute. Four senders in a closed loop: small pictures,
single large ones, stacks of CT slices that are passed on, each third lot sent once more, and C-ECHO between; at most
``--in-flight`` results are outstanding. All peers are DCMTK's. The archive counts what it gets by SOP Instance UID. At the end
every instance that was acknowledged is done, each result is at the archive, and `queue verify` agrees. Memory is compared by
its floor (tenth percentile) in the second and third fifth of the run and in the last two, for it rises with each large picture.

Exit 1 when a count is wrong or a process grew. Writes ``soak.json``, and ``soak.png`` where matplotlib is installed, else a
table to stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, generate_uid
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.acceptance.harness import Node
from tests.acceptance.samples import radiograph, write
from tests.knocks import KINDS, held, knock
from tests.peers import ECHOSCU, NO_DELAY, STORESCU, Archive, storescp, wait_for

ROLES = ("serve", "accept", "work", "send", "keep")
VISITORS = 4
#: The acceptors may grow this much each, over all visits; a process of the soak by a tenth, or this much if that is more.
GROWTH_KB = 8192
#: Sources and results are removed after this time, hours, so that removal is part of the soak.
RETENTION_H = 1 / 60
#: What becomes of each kind: SR and SC of a radiograph, the original of a slice.
RESULTS = {"small": 2, "large": 2, "slices": 1}
RULE = """[[rule]]
name = "slices"
modality = ["CT"]
outputs = ["original"]
destinations = ["archive"]

"""
SAMPLE_S = 2.0


@contextlib.contextmanager
def progress(total: float, text: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr; gives a function that takes how far we are and a remark."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[remark]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(text, total=total, remark="")
        yield lambda done, remark: bar.update(task, completed=int(done), remark=remark)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares, behind the first fifth."""
    late = points[len(points) // 5 :]
    if len({x for x, _ in late}) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*late, strict=True)).slope


# -- visits
def visits(count: int, every: int = 100) -> dict[str, Any]:
    """Visit the acceptors of a node ``count`` times."""
    with tempfile.TemporaryDirectory() as root:
        node = Node(Path(root))
        samples: list[tuple[int, int, int, int]] = []
        with node.running(), progress(count, "visits") as tell, ThreadPoolExecutor(VISITORS) as pool:
            wait_for(lambda: node.events("worker_started"), 120, "the node is up")
            pids = node.pids("accept")

            def sample(done: int) -> None:
                now = held(*pids)
                samples.append((done, now.resident_kb, now.threads, now.descriptors))

            sample(0)
            started = time.perf_counter()
            for first in range(0, count, every):
                batch = range(first, min(first + every, count))
                list(pool.map(lambda number: knock(node.port, KINDS[number % len(KINDS)]), batch))
                sample(batch[-1] + 1)
                tell(samples[-1][0], f"{samples[-1][1] // 1024} MB, {samples[-1][2]} threads, {samples[-1][3]} descriptors")
            took = time.perf_counter() - started
            idle = samples[0][2:]
            wait_for(lambda: tuple(_rest(*pids)) <= idle, 60, "threads and descriptors of the acceptors are what they were")
            sample(count)
            same = node.pids("accept") == pids
    growth = round(slope([(sample[0], sample[1]) for sample in samples]) * 1000, 1)
    return {
        "visits": count, "acceptors": len(pids), "per_s": round(count / took, 1), "same_processes": same,
        "resident_kb_start": samples[0][1], "resident_kb_end": samples[-1][1], "resident_kb_per_1000_visits": growth,
        "threads_start": samples[0][2], "threads_end": samples[-1][2], "descriptors_start": samples[0][3],
        "descriptors_end": samples[-1][3],
        "flat": same and growth * count / 1000 < GROWTH_KB * len(pids) and samples[-1][2:] <= idle, "samples": samples,
    }


def _rest(*pids: int) -> Iterator[int]:
    now = held(*pids)
    yield from (now.threads, now.descriptors)


# -- the soak
@dataclass
class Counted(threading.Thread):
    """Takes files out of the archive's folder as they come and counts them by name, which is kind and UID."""

    archive: Archive
    names: Counter[str] = field(default_factory=Counter)
    end: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Until `end` is set, and once more after it."""
        while not self.end.wait(0.5):
            self.take(time.time() - 3)  # storescp may still be writing younger ones

    def take(self, before: float) -> None:
        """Count and remove what was last written before this time."""
        for path in self.archive.folder.iterdir():
            if path.stat().st_mtime < before:
                self.names[path.name] += 1
                path.unlink()


class Traffic:
    """Four senders in a closed loop."""

    def __init__(self, node: Node, folder: Path, seed: int, in_flight: int, delivered: Callable[[], int]) -> None:
        self.node, self.folder = node, folder
        self.sent: Counter[str] = Counter()
        self.passed_on: set[str] = set()
        self.expected = self.resent = self.echoes = 0
        self.failed: list[str] = []
        self._in_flight, self._delivered, self._seed = in_flight, delivered, seed
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._templates = {
            "small": [radiograph(rows=128, cols=128, seed=one) for one in range(8)],
            "large": [radiograph(rows=2048, cols=2048, seed=99)],
            "slices": [slice_(seed) for seed in range(4)],
        }
        plans = ((self._store, "small", 6), (self._store, "large", 1), (self._store, "slices", 20), (self._echo, "", 0))
        self._threads = [
            threading.Thread(target=self._loop, args=(number, *plan), daemon=True) for number, plan in enumerate(plans)
        ]

    def start(self) -> None:
        """Start all senders."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each end what it has in hand."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def waiting(self) -> int:
        """Results that are still to come."""
        return self.expected - self._delivered()

    def _loop(self, number: int, act: Callable[..., None], kind: str, count: int) -> None:
        chance = random.Random(self._seed * 10 + number)  # noqa: S311 - spreads traffic
        while not self._end.is_set():
            if kind and self.waiting() > self._in_flight:
                self._end.wait(0.2)
                continue
            try:
                act(kind, count, chance)
            except (OSError, subprocess.SubprocessError) as error:
                self.failed.append(f"{kind or 'echo'}: {error}")
            self._end.wait(chance.uniform(0.1, 0.6))

    def _store(self, kind: str, count: int, chance: random.Random) -> None:
        paths = [self._make(chance.choice(self._templates[kind])) for _ in range(count)]
        self._send(paths)
        with self._lock:
            self.sent[kind] += len(paths)
            self.expected += RESULTS[kind] * len(paths)
            if kind == "slices":
                self.passed_on.update(path.stem for path in paths)
        if chance.random() < 1 / 3:
            again = paths[: max(1, count // 2)]
            self._send(again)
            with self._lock:
                self.resent += len(again)
        for path in paths:
            path.unlink()

    def _make(self, template: FileDataset) -> Path:
        with self._lock:  # the templates are shared
            template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            return write(template, self.folder)

    def _send(self, paths: list[Path]) -> None:
        line = [STORESCU, "-aec", "DICOMNODE", "127.0.0.1", str(self.node.port), *map(str, paths)]
        subprocess.run(line, check=True, env=NO_DELAY, timeout=120, capture_output=True)

    def _echo(self, _kind: str, _count: int, _chance: random.Random) -> None:
        line = [ECHOSCU, "-aec", "DICOMNODE", "127.0.0.1", str(self.node.port)]
        subprocess.run(line, check=True, env=NO_DELAY, timeout=120, capture_output=True)
        self.echoes += 1


def slice_(seed: int) -> FileDataset:
    """A CT image of 0.5 MB."""
    ds = radiograph(rows=512, cols=512, seed=seed)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.Modality = "CT"
    return ds


def soak(minutes: float, seed: int, in_flight: int) -> dict[str, Any]:
    """Run the traffic for so long, let it drain, and count."""
    with tempfile.TemporaryDirectory() as root, storescp(Path(root) / "archive") as archive:
        node = Node(Path(root), forward=(archive.forward,))
        node.edit("node.toml", "retention_h = 24.0", f"retention_h = {RETENTION_H:.4f}")
        node.edit("routes.toml", '[[rule]]\nname = "pediatric-chest"', RULE + '[[rule]]\nname = "pediatric-chest"')
        counted = Counted(archive)
        traffic = Traffic(node, Path(root) / "in", seed, in_flight, lambda: len(counted.names))
        samples: list[dict[str, Any]] = []
        with node.running():
            wait_for(lambda: node.events("worker_started"), 120, "the node is up")
            counted.start()
            traffic.start()
            _sample(node, traffic, minutes * 60, samples)
            traffic.stop()
            with contextlib.suppress(AssertionError):
                wait_for(lambda: traffic.waiting() <= 0, 600, "all results", 0.5)
            verified = node.command("queue", "verify", "--json", check=False)
            states = node.counts()
        counted.end.set()
        counted.join()
        counted.take(time.time())
        log = Counter(record["event"] for record in node.events() if record["level"] in {"error", "critical"})
    return _judge(traffic, counted.names, samples, states, verified, log)


def _sample(node: Node, traffic: Traffic, seconds: float, samples: list[dict[str, Any]]) -> None:
    started = time.monotonic()
    with progress(seconds, "soak, s") as tell:
        while (now := time.monotonic() - started) < seconds:
            processes = {f"{role} {pid}": held(pid) for role in ROLES for pid in node.pids(role)}
            samples.append({
                "at_s": round(now, 1), "sent": sum(traffic.sent.values()), "waiting": traffic.waiting(),
                "resident_kb": {name: one.resident_kb for name, one in processes.items()},
                "threads": {name: one.threads for name, one in processes.items()},
                "descriptors": {name: one.descriptors for name, one in processes.items()},
            })
            tell(now, f"sent {samples[-1]['sent']}, outstanding {samples[-1]['waiting']}, failed {len(traffic.failed)}")
            time.sleep(SAMPLE_S)


def _judge(
    traffic: Traffic, names: Counter[str], samples: list[dict[str, Any]], states: dict[str, int],
    verified: subprocess.CompletedProcess[str], log: Counter[str],
) -> dict[str, Any]:
    """Compare what was sent, what the queue says and what the archive has; and the memory of both halves of the run."""
    sent, uids = sum(traffic.sent.values()), {name.partition(".")[2] for name in names}
    processes = {}
    for name in samples[-1]["resident_kb"]:
        seen = [(one["at_s"], one["resident_kb"][name]) for one in samples if name in one["resident_kb"]]
        halves = seen[len(seen) // 5 : len(seen) * 3 // 5], seen[len(seen) * 3 // 5 :]
        first, second = (_floor([kb for _, kb in half]) for half in halves)
        ends = [[one[kind][name] for one in samples if name in one[kind]] for kind in ("threads", "descriptors")]
        processes[name] = {
            "resident_kb_start": seen[0][1], "resident_kb_floor_early": first, "resident_kb_floor_late": second,
            "resident_kb_most": max(kb for _, kb in seen), "resident_kb_per_hour": round(slope(seen) * 3600),
            "threads_most": max(ends[0]), "descriptors_most": max(ends[1]), "whole_run": len(seen) == len(samples),
        }
    right = {
        "every send was acknowledged": not traffic.failed,
        "every instance that was acknowledged is done": states.get("instance/done") == sent,
        "every resend is a duplicate": states.get("instance/duplicate", 0) == traffic.resent,
        "nothing else is in the queue": sum(n for name, n in states.items() if name.startswith("instance/"))
        == sent + traffic.resent,
        "every result is at the archive": len(names) == traffic.expected,
        "every original is at the archive": traffic.passed_on <= uids,
        "queue verify agrees": verified.returncode == 0,
        "no process died": all(one["whole_run"] for one in processes.values()) and not log["child_exited"],
        "no process grew": all(
            one["resident_kb_floor_late"] - early < max(GROWTH_KB, early // 10)
            for one in processes.values() for early in (one["resident_kb_floor_early"],)
        ),
    }
    return {
        "seconds": samples[-1]["at_s"], "sent": dict(traffic.sent), "resent": traffic.resent, "echoes": traffic.echoes,
        "failed": traffic.failed[:10], "results": len(names), "results_expected": traffic.expected, "states": states,
        "verify": verified.stdout.strip().splitlines()[-1:], "errors_logged": dict(log), "right": right,
        "processes": processes, "samples": samples,
    }


def _floor(kilobytes: list[int]) -> int:
    """The tenth percentile: what a process holds between two large pictures; a leak lifts it."""
    return sorted(kilobytes)[len(kilobytes) // 10] if kilobytes else 0


# -- what is shown
def table(found: dict[str, Any]) -> None:
    """Print the outcome as Markdown."""
    if one := found.get("visits"):
        print(f"\n### {one['visits']} visits, {one['per_s']}/s, {one['acceptors']} acceptors\n")
        print("| | start | end |\n|---|---|---|")
        for name in ("resident_kb", "threads", "descriptors"):
            print(f"| {name} | {one[f'{name}_start']} | {one[f'{name}_end']} |")
        print(f"\n{one['resident_kb_per_1000_visits']} kB per 1000 visits; flat: {one['flat']}")
    if one := found.get("soak"):
        print(f"\n### soak of {one['seconds'] / 60:.0f} minutes: sent {one['sent']}, resent {one['resent']}, "
              f"{one['echoes']} C-ECHO, {one['results']} results\n")
        print("| process | start kB | early floor | late floor | most | kB per hour | threads | descriptors |")
        print("|---|---|---|---|---|---|---|---|")
        for name, row in one["processes"].items():
            print(f"| {name} | " + " | ".join(str(row[key]) for key in (
                "resident_kb_start", "resident_kb_floor_early", "resident_kb_floor_late", "resident_kb_most",
                "resident_kb_per_hour", "threads_most", "descriptors_most")) + " |")
        print()
        for claim, holds in one["right"].items():
            print(f"- {claim}: {'yes' if holds else 'NO'}")
        if one["failed"] or one["errors_logged"]:
            print(f"\nfailed: {one['failed']}; errors in the log: {one['errors_logged']}")


def picture(found: dict[str, Any], path: Path) -> bool:
    """Draw memory over visits and over time, and what was outstanding; False without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - of the extra `train`
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 4.5))
    if one := found.get("visits"):
        left.plot([row[0] for row in one["samples"]], [row[1] / 1024 for row in one["samples"]])
        left.set(title="acceptors, short visits", xlabel="visits", ylabel="resident MB, all acceptors", ylim=(0, None))
    if one := found.get("soak"):
        minutes = [row["at_s"] / 60 for row in one["samples"]]
        for name in one["processes"]:
            middle.plot(minutes, [row["resident_kb"].get(name, 0) / 1024 for row in one["samples"]], label=name)
        middle.set(title="soak", xlabel="minutes", ylabel="resident MB", ylim=(0, None))
        middle.legend(fontsize=7)
        right.plot(minutes, [row["waiting"] for row in one["samples"]], label="results outstanding")
        right.plot(minutes, [row["sent"] for row in one["samples"]], label="instances sent")
        right.set(title="soak", xlabel="minutes", ylim=(0, None))
        right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


def main() -> int:
    """Measure, print, draw; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=10_000, help="0: none")
    parser.add_argument("--minutes", type=float, default=30, help="0: no soak")
    parser.add_argument("--in-flight", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.visits:
        found["visits"] = visits(options.visits)
    if options.minutes:
        found["soak"] = soak(options.minutes, options.seed, options.in_flight)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.json").write_text(json.dumps(found, indent=1) + "\n")
    table(found)
    drawn = picture(found, options.out / "soak.png")
    print(f"\n{options.out / 'soak.json'}" + (f", {options.out / 'soak.png'}" if drawn else ""))
    good = found.get("visits", {}).get("flat", True) and all(found.get("soak", {}).get("right", {"": True}).values())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""What the queue costs: rows taken in, claimed, finished, sent and settled a second, in an empty queue and in a long one.

    python benchmarks/rows.py [--rows 100000] [--count 2000] [--folder /dev/shm]

Each figure is that of one process; adding, finishing and settling wait for the disk, claiming does not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from dicomnode.queue import NewOutput, Summary
from dicomnode.queue.owner import this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Instance, Verdict

NOW = datetime.now(UTC)
ME = this_process()
SUMMARY = Summary("spine", 0.9, "rule", "model 1", "fracture", 0.7, False, 2, "ab" * 32, {"route": 1.5, "infer": 9.5})
SR = "1.2.840.10008.5.1.4.1.1.88.34"


def instance(number: int) -> Instance:
    """An instance of its own."""
    name = f"20260301T{number // 3600 % 24:02d}{number // 60 % 60:02d}{number % 60:02d}000000-{number:08x}"
    return Instance(
        name, "1.2.840.10008.5.1.4.1.1.2", f"1.2.826.0.1.3680043.8.498.{number:038d}", f"1.2.826.0.1.{number // 100}",
        f"1.2.826.0.2.{number // 400}", "1.2.840.10008.1.2.1", "CT", f"CT{number % 7}", "DICOMNODE", "192.0.2.1", NOW,
        f"incoming/2026030112/{name}.dcm", 524_288, f"{number:064x}",
    )


def outputs(number: int) -> list[NewOutput]:
    """A report for two archives."""
    uid = f"2.25.{10**36 + number}"
    return [NewOutput("sr", SR, uid, "1.2.840.10008.1.2.1", "kept", f"outgoing/{uid}.dcm", ("pacs", "lab"))]


def rate(what: str, count: int, work: Callable[[], object]) -> None:
    """Do it and print how many a second, and what of the time was the processor's."""
    started, busy = time.perf_counter(), time.process_time()
    work()
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    each, computing = seconds / count * 1e6, busy / count * 1e6
    print(f"{what:34} {count / seconds:9.0f} /s  {each:8.0f} us each, {computing:8.0f} us of them computing")


def work_all(queue: SqliteQueue, count: int, first: int) -> None:
    """Claim and finish."""
    for number in range(first, first + count):
        claim = queue.claim(ME, NOW)
        if claim is not None:
            queue.finish(claim, ME, SUMMARY, outputs(number), [], NOW)


def send_some(queue: SqliteQueue, count: int) -> None:
    """As `send`, where more waits than is sent here."""
    for _ in range(count // 16):
        for delivery in queue.claim_deliveries("pacs", ME, 16, NOW):
            queue.settle(delivery, ME, Verdict("delivered", status=0), NOW)


def measure(queue: SqliteQueue, first: int, count: int) -> None:
    """The way of ``count`` instances."""
    rate("taken in", count, lambda: [queue.add(instance(number)) for number in range(first, first + count)])
    rate("claimed, finished (2 deliveries)", count, lambda: work_all(queue, count, first))
    rate("deliveries claimed in 16, settled", count, lambda: send_some(queue, count))
    batches = range(count // 16)
    rate("batches of 16 claimed alone", len(batches), lambda: [queue.claim_deliveries("lab", ME, 16, NOW) for _ in batches])
    rate("asked with nothing due", count, lambda: [queue.claim_deliveries("study", ME, 16, NOW) for _ in range(count)])


def main() -> None:
    """Measure an empty queue, fill it, measure again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="where the queue lies; /dev/shm leaves the disk out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "queue.sqlite"
        queue = SqliteQueue(path)
        print("empty queue")
        measure(queue, 0, given.count)
        for number in range(given.count, given.count + given.rows):
            queue.add(instance(number))
        work_all(queue, given.rows, given.count)
        print(f"queue with {given.rows} instances whose deliveries wait")
        measure(queue, given.count + given.rows, given.count)
        rate("rows checked (queue verify)", 1, queue.verify)
        rate("account counted (queue verify)", 1, queue.accounts)
        queue.close()
        print(f"{path.stat().st_size / (given.rows + 2 * given.count):.0f} bytes for each instance")


if __name__ == "__main__":
    main()

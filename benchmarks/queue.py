"""What the queue costs: rows taken in, claimed, finished, sent and settled a second, in an empty queue and in a long one.

    python benchmarks/queue.py [--rows 100000] [--count 2000]

Each figure is that of one process on one disk; adding, finishing and settling wait for the disk, claiming does not.
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
SUMMARY = Summary("spine", 0.9, "rule", "model 1", "fracture", 0.7, False, 2, "ab" * 32, {"route": 1.5, "infer": 9.5})  # noqa: FBT003
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
    """Do it and print how many a second."""
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    print(f"{what:34} {count / seconds:9.0f} /s  {seconds / count * 1e6:7.0f} us each")


def send(queue: SqliteQueue, *, settle: bool) -> int:
    """Claim all that waits for the archive in batches, and settle each."""
    sent = 0
    while batch := queue.claim_deliveries("pacs", ME, 16, NOW):
        sent += len(batch)
        if settle:
            for delivery in batch:
                queue.settle(delivery, ME, Verdict("delivered", status=0), NOW)
    return sent


def work_all(queue: SqliteQueue, count: int, first: int) -> None:
    """Claim and finish."""
    for number in range(first, first + count):
        claim = queue.claim(ME, NOW)
        assert claim is not None
        queue.finish(claim, ME, SUMMARY, outputs(number), [], NOW)


def measure(queue: SqliteQueue, first: int, count: int) -> None:
    """The way of ``count`` instances."""
    rate("taken in", count, lambda: [queue.add(instance(number)) for number in range(first, first + count)])
    rate("claimed, finished (2 deliveries)", count, lambda: work_all(queue, count, first))
    rate("deliveries claimed in 16, settled", count, lambda: send(queue, settle=True))
    rate("asked with nothing due", count, lambda: [queue.claim_deliveries("study", ME, 16, NOW) for _ in range(count)])


def main() -> None:
    """Measure an empty queue, fill it without waiting for the disk, measure again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "queue.sqlite"
        queue = SqliteQueue(path)
        print("empty")
        measure(queue, 0, given.count)
        started = time.perf_counter()
        with queue._transaction() as connection:  # noqa: SLF001 - one transaction for all: this is not what is measured
            queue._transaction = lambda **_: _Open(connection)  # type: ignore[assignment, method-assign, return-value]  # noqa: SLF001
            for number in range(given.count, given.count + given.rows):
                queue.add(instance(number))
            work_all(queue, given.rows, given.count)
            del queue._transaction  # noqa: SLF001
        print(f"{given.rows} rows with two deliveries each, in {time.perf_counter() - started:.0f} s; all of them still to be sent")
        measure_long(queue, given.count + given.rows, given.count)
        queue.close()
        print(f"{path.stat().st_size / (given.rows + 2 * given.count):.0f} bytes for each instance")


def measure_long(queue: SqliteQueue, first: int, count: int) -> None:
    """As `measure`, but the archive has more to be sent than is sent here."""
    rate("taken in", count, lambda: [queue.add(instance(number)) for number in range(first, first + count)])
    rate("claimed, finished (2 deliveries)", count, lambda: work_all(queue, count, first))

    def some() -> None:
        for _ in range(count // 16):
            for delivery in queue.claim_deliveries("pacs", ME, 16, NOW):
                queue.settle(delivery, ME, Verdict("delivered", status=0), NOW)

    rate("deliveries claimed in 16, settled", count, some)
    rate("deliveries claimed in 16 alone", count, lambda: [queue.claim_deliveries("lab", ME, 16, NOW) for _ in range(count // 16)])
    rate("the account of `queue verify`, rows", 1, queue.verify)


class _Open:
    """A transaction that is open already."""

    def __init__(self, connection: object) -> None:
        self._connection = connection

    def __enter__(self) -> object:
        return self._connection

    def __exit__(self, *_: object) -> None:
        return None


if __name__ == "__main__":
    main()

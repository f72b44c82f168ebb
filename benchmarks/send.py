"""How fast instances go out: this node's sender beside DCMTK's storescu and plain pynetdicom, to three kinds of receivers.

Run from the repository root, with DCMTK and Orthanc installed::

    python benchmarks/send.py [--rounds 5] [--json]
    python benchmarks/send.py --rounds 1 --sizes 0.5MB --associations 1 --receivers storescp     # in a minute

Each cell sends generated instances of a size over so many associations to a receiver, by every sender in turn, new ones each
round; the figure is the median of the rounds, as instances a second. Receivers are stock storescp (which forks for each
association), storescp with TCP_NODELAY=1, and Orthanc, as in ingest.py. Senders:

lane              the node's whole sender: deliveries claimed from the queue, files of the spool, each settled; from the start
                  of its lanes to the last delivery settled
send_files        the node's sender without queue and spool, as commands use it
storescu          DCMTK's, stock; its start is in the figure, some 10 ms
storescu-nodelay  the same with TCP_NODELAY=1
pynetdicom        plain: `dcmread` and `send_c_store`
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ingest import RECEIVERS, SENDERS, files
from benchmarks.ingest import send as storescu
from dicomnode.scu import run_sender, send_files
from dicomnode.settings import Peer
from tests.integration.sending import Sending
from tests.peers import wait_for

#: How many instances a cell sends; every number of associations divides it.
COUNTS = {"2kB": 48, "0.5MB": 48, "12.5MB": 12}
#: What a sender is compared with.
RIVALS = ("storescu-nodelay", "pynetdicom")


def peer(port: int, associations: int) -> Peer:
    """The receiver as a peer of the node."""
    return Peer(ae_title="DICOMNODE", host="127.0.0.1", port=port, trust="inside", associations=associations)


def lane(port: int, paths: list[Path], associations: int) -> float:
    """The whole sender in threads of this process, on a spool and a queue of its own."""
    with tempfile.TemporaryDirectory(dir=paths[0].parent) as root:
        sending = Sending(Path(root), {"to": peer(port, associations)}, timeout_s=60)
        for path in paths:
            sending.add(path, "to")
        stop = threading.Event()
        thread = threading.Thread(target=run_sender, args=(sending.settings, stop, sending.spool, sending.queue))
        started = time.perf_counter()
        thread.start()
        wait_for(lambda: not sending.queue.waiting_destinations(), 600, "everything is settled", 0.005)
        spent = time.perf_counter() - started
        stop.set()
        thread.join()
        if set(sending.states()) != {"delivered"}:
            raise SystemExit(f"the lane failed: {set(sending.states())}")
        sending.queue.close()
    return spent


def _together(send: Callable[[list[Path]], bool], paths: list[Path], associations: int) -> float:
    """Seconds that as many threads take for all files together."""
    started = time.perf_counter()
    with ThreadPoolExecutor(associations) as pool:
        if not all(pool.map(send, [paths[number::associations] for number in range(associations)])):
            raise SystemExit("a sender failed")
    return time.perf_counter() - started


def bare(port: int, paths: list[Path], associations: int) -> float:
    """`send_files`, a thread for each association."""
    def send(mine: list[Path]) -> bool:
        return {verdict.outcome for verdict in send_files(mine, peer(port, 1), "BENCH")} == {"delivered"}

    return _together(send, paths, associations)


def pynetdicom(port: int, paths: list[Path], associations: int) -> float:
    """Plain pynetdicom, a thread of ours for each association."""
    def send(mine: list[Path]) -> bool:
        first = dcmread(mine[0], stop_before_pixels=True)
        ae = AE("BENCH")
        ae.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
        assoc = ae.associate("127.0.0.1", port, ae_title="DICOMNODE")
        done = assoc.is_established and all(assoc.send_c_store(dcmread(path)).get("Status") == 0 for path in mine)
        assoc.release()
        return bool(done)

    return _together(send, paths, associations)


SENDING: dict[str, Callable[[int, list[Path], int], float]] = {
    "lane": lane, "send_files": bare, "storescu": lambda *cell: storescu(*cell, SENDERS["stock"]),
    "storescu-nodelay": lambda *cell: storescu(*cell, SENDERS["no-delay"]), "pynetdicom": pynetdicom,
}


def cell(root: Path, size: str, associations: int, receiver: str, senders: list[str]) -> Iterator[tuple[str, float]]:
    """One round of a cell: a time for each sender, to one receiver."""
    with RECEIVERS[receiver](root / "receiver") as (port, _):
        for name in senders:
            yield name, SENDING[name](port, files(root / name, size, COUNTS[size]), associations)


def main() -> None:
    """Measure and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default=",".join(COUNTS))
    parser.add_argument("--associations", default="1,4")
    parser.add_argument("--receivers", default="storescp,storescp-nodelay,orthanc")
    parser.add_argument("--senders", default=",".join(SENDING))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    senders = options.senders.split(",")
    cells = [
        (size, int(number), receiver) for size in options.sizes.split(",") for number in options.associations.split(",")
        for receiver in options.receivers.split(",")
    ]
    times: dict[tuple[str, int, str], dict[str, list[float]]] = {key: defaultdict(list) for key in cells}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=options.rounds * len(cells) * len(senders))
        for number in range(options.rounds):
            for key in cells:
                turn = number % len(senders)
                with tempfile.TemporaryDirectory() as root:
                    for name, spent in cell(Path(root), *key, senders[turn:] + senders[:turn]):
                        times[key][name].append(spent)
                        bar.update(task, advance=1, description=f"{' '.join(map(str, key))} {name}")
    report(times, senders, as_json=options.json)


def report(times: dict[tuple[str, int, str], dict[str, list[float]]], senders: list[str], *, as_json: bool) -> None:
    """Instances a second, and how often the lane's rate is that of its rivals."""
    out = io.StringIO()
    rivals = [name for name in RIVALS if name in senders and "lane" in senders]
    heads = ["size", "associations", "receiver", *senders, *(f"lane / {name}" for name in rivals)]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), file=out)
    for (size, associations, receiver), spent in times.items():
        rates = {name: COUNTS[size] / statistics.median(spent[name]) for name in senders}
        ratios = {name: rates["lane"] / rates[name] for name in rivals}
        if as_json:
            print(json.dumps({
                "size": size, "associations": associations, "receiver": receiver,
                "per_s": {name: round(rate, 1) for name, rate in rates.items()},
                "lane_to": {name: round(ratio, 2) for name, ratio in ratios.items()},
                "rounds_s": {name: [round(one, 3) for one in spent[name]] for name in senders},
            }))
        cells = [size, str(associations), receiver, *(f"{rates[name]:.0f}" for name in senders)]
        print("| " + " | ".join([*cells, *(f"{ratio:.1f}" for ratio in ratios.values())]) + " |", file=out)
    if not as_json:
        print(out.getvalue(), end="")


if __name__ == "__main__":
    main()

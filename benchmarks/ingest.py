"""How fast instances come in: this node beside storescp, Orthanc and plain pynetdicom, with stock and with no-delay senders.

Run from the repository root, with DCMTK and Orthanc installed::

    python benchmarks/ingest.py [--rounds 5] [--json]
    python benchmarks/ingest.py --rounds 1 --sizes 2kB --associations 1 --receivers node,storescp     # in a minute

Each cell sends the same number of generated instances of a size, by so many storescu of DCMTK at a time, one association
each, and takes the time from their start to the end of the last. All receivers of a cell get the same files in turn, new
ones each round, so that the machine's mood meets all of them; the figure is the median of the rounds. Senders are stock, or
without Nagle's algorithm (TCP_NODELAY=1). Receivers:

node              the acceptors of this node, as `init` sets them up: success after fsync, rename and fsync of the directory
storescp          DCMTK's, stock; it writes a file and does not sync it; forks for each association where there are several
storescp-nodelay  the same with TCP_NODELAY=1
orthanc           stock, storing to its database folder, without plug-ins
pynetdicom        its server with a handler that writes the file and does not sync it
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.acceptance.harness import Node
from tests.peers import ECHOSCU, NO_DELAY, ORTHANC, STORESCP, STORESCU, free_port, listens, need, run, wait_for

#: Name → rows and columns of 16 bit, and how many instances a cell sends; every number of associations divides it.
SIZES = {"2kB": (28, 192), "0.5MB": (500, 96), "12.5MB": (2500, 16)}
#: As `init` sets a node up.
ACCEPTORS = 2
STOCK = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
SENDERS = {"stock": STOCK, "no-delay": NO_DELAY}
#: What a cell is compared with, by its sender: DCMTK at both ends.
RIVAL = {"stock": "storescp", "no-delay": "storescp-nodelay"}


def instance(side: int) -> FileDataset:
    """One CT slice with its own UIDs; its pixels are noise."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID, ds.Modality = generate_uid(), generate_uid(), "BENCH", "CT"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = side, side, 16, 16, 15
    ds.PixelData = np.random.default_rng().integers(0, 65536, (side, side), "<u2").tobytes()
    return ds


def files(folder: Path, size: str, count: int) -> list[Path]:
    """Write new instances; they have one set of pixels, which is what takes time to make."""
    side, _ = SIZES[size]
    folder.mkdir()
    ds, paths = instance(side), []
    for number in range(count):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        paths.append(folder / f"{number}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


# -- receivers: each gives its port and a function that counts what it has taken
Receiver = tuple[int, Callable[[], int]]


@contextlib.contextmanager
def running(line: list[str], port: int, folder: Path, env: dict[str, str] = STOCK) -> Iterator[Path]:
    """A server process until the end of the block, entered when it answers a C-ECHO; gives the file with what it says."""
    with tempfile.NamedTemporaryFile() as said:
        child = subprocess.Popen([need(line[0]), *line[1:]], stdout=said, stderr=said, cwd=folder, env=env)
        try:
            wait_for(lambda: listens(port), 60, f"{line[0]} listens")
            run(ECHOSCU, "-aec", "DICOMNODE", "127.0.0.1", port)
            yield Path(said.name)
        finally:
            child.terminate()
            child.wait()


@contextlib.contextmanager
def node(root: Path) -> Iterator[Receiver]:
    """The acceptors of this node under its supervisor."""
    made = Node(root)
    line = [sys.executable, "-m", "dicomnode", "serve", "--only", "accept", "-c", str(made.config)]
    with running(line, made.port, Path.cwd()) as said:
        wait_for(lambda: said.read_text().count('"acceptor_started"') == ACCEPTORS, 60, "all acceptors are up")
        yield made.port, lambda: len(list((made.state / "spool" / "incoming").rglob("*.dcm")))


@contextlib.contextmanager
def storescp(root: Path, env: dict[str, str] = STOCK) -> Iterator[Receiver]:
    """DCMTK's, a process for each association."""
    out, port = root / "out", free_port()
    out.mkdir(parents=True)
    with running([STORESCP, "--fork", "-aet", "DICOMNODE", "-od", str(out), "+xa", str(port)], port, root, env):
        yield port, lambda: len(list(out.iterdir()))


@contextlib.contextmanager
def orthanc(root: Path) -> Iterator[Receiver]:
    """Orthanc on a folder of its own."""
    root.mkdir()
    port, http = free_port(), free_port()
    (root / "orthanc.json").write_text(json.dumps({
        "StorageDirectory": str(root / "db"), "IndexDirectory": str(root / "db"), "HttpPort": http, "DicomPort": port,
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomAet": "DICOMNODE", "Plugins": [],
        "DicomThreadsCount": 16,
    }))
    with running([ORTHANC, str(root / "orthanc.json")], port, root):
        yield port, lambda: sum(1 for path in (root / "db").rglob("*") if path.is_file() and len(path.name) == 36)


@contextlib.contextmanager
def pynetdicom(root: Path) -> Iterator[Receiver]:
    """Plain pynetdicom: its own server, in a process of its own."""
    root.mkdir()
    port = free_port()
    with running([sys.executable, str(Path(__file__).resolve()), "--serve", str(port), str(root)], port, Path.cwd()):
        yield port, lambda: len(list(root.glob("*.dcm")))


def serve_pynetdicom(port: int, folder: Path) -> None:
    """Write what comes, as pynetdicom's documentation shows it."""
    def store(event: Any) -> int:
        (folder / f"{event.request.AffectedSOPInstanceUID}.dcm").write_bytes(event.encoded_dataset())
        return 0

    ae = AE(ae_title="DICOMNODE")
    ae.maximum_associations = 100
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(Verification)
    ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])


RECEIVERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Receiver]]] = {
    "node": node, "storescp": storescp, "storescp-nodelay": lambda root: storescp(root, NO_DELAY),
    "orthanc": orthanc, "pynetdicom": pynetdicom,
}


def send(port: int, paths: list[Path], associations: int, env: dict[str, str]) -> float:
    """Seconds that so many senders at a time take for all files together."""
    line = [STORESCU, "-aec", "DICOMNODE", "127.0.0.1", str(port)]
    started = time.perf_counter()
    senders = [
        subprocess.Popen([*line, *map(str, paths[number::associations])], env=env, stdout=subprocess.DEVNULL)
        for number in range(associations)
    ]
    codes = [sender.wait() for sender in senders]
    spent = time.perf_counter() - started
    if any(codes):
        raise SystemExit(f"a sender failed: {codes}")
    return spent


def cell(root: Path, size: str, associations: int, sender: str, receivers: list[str]) -> Iterator[tuple[str, float]]:
    """One round of a cell: a time for each receiver."""
    _, count = SIZES[size]
    paths = files(root / "in", size, count)
    for name in receivers:
        with RECEIVERS[name](root / name) as (port, taken):
            spent = send(port, paths, associations, SENDERS[sender])
            wait_for(lambda: taken() >= count, 30, lambda: f"{name} has {taken()} of {count}")  # noqa: B023 - called at once
        yield name, spent


def main() -> None:
    """Measure and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--associations", default="1,4,16")
    parser.add_argument("--senders", default=",".join(SENDERS))
    parser.add_argument("--receivers", default=",".join(RECEIVERS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_pynetdicom(int(options.serve[0]), Path(options.serve[1]))
        return
    receivers = options.receivers.split(",")
    cells = [
        (size, int(number), sender) for sender in options.senders.split(",") for size in options.sizes.split(",")
        for number in options.associations.split(",")
    ]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    if not options.json:
        print(f"| sender | size | instances | associations | {' | '.join(receivers)} | node : DCMTK |")
        print("|---" * (len(receivers) + 5) + "|")
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(cells) * options.rounds * len(receivers))
        for size, associations, sender in cells:
            times: dict[str, list[float]] = {name: [] for name in receivers}
            progress.update(task, description=f"{sender}, {size}, {associations}")
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory() as root:
                    for name, spent in cell(Path(root), size, associations, sender, receivers):
                        times[name].append(spent)
                        progress.advance(task)
            tell(options.json, size, associations, sender, {name: statistics.median(spent) for name, spent in times.items()})


def tell(as_json: bool, size: str, associations: int, sender: str, medians: dict[str, float]) -> None:
    """Print one cell."""
    count, rival = SIZES[size][1], medians.get(RIVAL[sender])
    ratio = round(medians["node"] / rival, 2) if rival and "node" in medians else None
    if as_json:
        seconds = {name: round(value, 3) for name, value in medians.items()}
        print(json.dumps({
            "sender": sender, "size": size, "instances": count, "associations": associations, "seconds": seconds,
            "ratio": ratio,
        }), flush=True)
        return
    shown = " | ".join(f"{value:.2f} s" for value in medians.values())
    print(f"| {sender} | {size} | {count} | {associations} | {shown} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()

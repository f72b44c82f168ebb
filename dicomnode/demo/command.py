"""``dicomnode demo``: starts a node and an archive, sends samples by C-STORE, waits, and shows what came out.

**Fails** Ends with 1 when a result is missing in the archive at the end; the table shows which.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import cv2
import typer
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dicomnode.demo import loop, samples
from dicomnode.errors import EXIT_FAILURE
from dicomnode.settings import Peer

_PATIENCE_S = 150.0
_TICK_S = 0.5
#: States of an instance or delivery that change no more by themselves.
_ENDED = frozenset({"done", "hold", "quarantine", "duplicate", "own", "dropped", "delivered", "expired"})
_STAGES = ("read", "route", "infer", "redact", "encode", "report")

Row = Mapping[str, Any]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the logs and the preview.")] = Path("demo-out"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep configuration, state and archive of the demo.")] = False,
) -> None:
    """Run the whole loop on this machine with sample images and a local archive; show what came out."""
    console = Console(width=None if Console().is_terminal else 200)
    out.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="dicomnode-demo-"))
    try:
        complete = _run(console, root, out)
    finally:
        if keep:
            console.print(f"Kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    if not complete:
        console.print(f"[red]Not every result has arrived.[/] The node's log: {out / 'node.log'}")
        raise typer.Exit(EXIT_FAILURE)


def _run(console: Console, root: Path, out: Path) -> bool:
    sent = samples.write(root / "samples")
    archive = loop.make(root / "archive", "ARCHIVE")
    node = loop.make(root / "node", "DICOMNODE", archive)
    console.print(f"Starting the node on 127.0.0.1:{node.port} and an archive on 127.0.0.1:{archive.port} ...")
    with loop.running("accept", archive, out / "archive.log"), loop.running("serve", node, out / "node.log"):
        if not _send(console, node, sent):
            return False
        console.print(f"{len(sent)} instances sent by C-STORE and acknowledged.")
        rows = _wait(console, node, sent)
        found = _await_archive(archive, rows)
    _show(console, sent, rows, found)
    _preview(console, found, rows, sent, out)
    return _complete(sent, rows, found)


def _send(console: Console, node: loop.Place, sent: list[samples.Sample]) -> bool:
    """Send everything as a modality would; say what was not acknowledged."""
    from dicomnode.scu import send_files  # noqa: PLC0415 - network code is loaded only when it sends

    peer = Peer(ae_title=node.ae_title, host="127.0.0.1", port=node.port)
    verdicts = send_files([sample.path for sample in sent], peer, "MODALITY")
    for sample, verdict in zip(sent, verdicts, strict=True):
        if verdict.outcome != "delivered":
            console.print(f"[red]{escape(sample.title)}: {verdict.outcome} {verdict.reason}[/]")
    return all(verdict.outcome == "delivered" for verdict in verdicts)


def _ended(row: Row | None) -> bool:
    return row is not None and row["state"] in _ENDED and all(one["state"] in _ENDED for one in row["deliveries"])


def _wait(console: Console, node: loop.Place, sent: list[samples.Sample]) -> dict[str, Row]:
    """Wait until every instance and delivery has ended, showing how many have."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    deadline = time.monotonic() + _PATIENCE_S
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("instances through", total=len(sent))
        while True:
            rows: dict[str, Row] = dict(loop.rows(node))
            through = sum(_ended(rows.get(sample.sop_instance_uid)) for sample in sent)
            progress.update(task, completed=through)
            if through == len(sent) or time.monotonic() > deadline:
                return rows
            time.sleep(_TICK_S)


def _await_archive(archive: loop.Place, rows: Mapping[str, Row]) -> dict[str, Path]:
    """Give what the archive has; it acknowledges what is in its folder, so nothing is waited for."""
    expected = {one["sop_instance_uid"] for row in rows.values() for one in row["deliveries"]}
    return {uid: path for uid, path in loop.arrived(archive).items() if uid in expected}


def _complete(sent: list[samples.Sample], rows: Mapping[str, Row], found: Mapping[str, Path]) -> bool:
    """Say whether every sample was worked and each of its outputs stands in the archive."""
    return all(
        (row := rows.get(sample.sop_instance_uid)) is not None and row["state"] == "done" and row["deliveries"]
        and all(one["state"] == "delivered" and one["sop_instance_uid"] in found for one in row["deliveries"])
        for sample in sent
    )


def _show(console: Console, sent: list[samples.Sample], rows: Mapping[str, Row], found: Mapping[str, Path]) -> None:
    table = Table(title="What came out (not for diagnostic use)", title_justify="left")
    for heading in ("instance", "body part", "model", "finding", "regions\nredacted", "delivered"):
        table.add_column(heading, justify="right" if heading.startswith("regions") else "left")
    table.add_column("milliseconds by stage")
    for sample in sent:
        row = rows.get(sample.sop_instance_uid)
        cells = _cells(row, found) if row else ["[red]not there[/]"]
        table.add_row(escape(sample.title), *cells)
    console.print(table)


def _cells(row: Row, found: Mapping[str, Path]) -> list[str]:
    if row["state"] != "done":
        return [f"[red]{row['state']}[/] {row['reason']}"]
    spent: Mapping[str, float] = row["stage_ms"]
    return [
        f"{row['body_part']} {_percent(row['probability'])}" if row["probability"] else row["body_part"],
        row["model"] or "-",
        f"{row['finding']} {_percent(row['finding_probability'])}" if row["finding"] else "-",
        str(row["regions"]),
        "\n".join(_delivery(one, found) for one in row["deliveries"]),
        ", ".join(f"{name} {spent[name]:.0f}" for name in _STAGES if spent.get(name, 0) >= 0.5),
    ]


def _delivery(one: Row, found: Mapping[str, Path]) -> str:
    if one["state"] == "delivered" and one["sop_instance_uid"] in found:
        return f"[green]{one['kind'].upper()} → {one['destination']}[/]"
    return f"[red]{one['kind'].upper()} {one['state']} {one['reason']}[/]"


def _percent(probability: float) -> str:
    return f"{probability:.0%}"


def _preview(
    console: Console, found: Mapping[str, Path], rows: Mapping[str, Row], sent: list[samples.Sample], out: Path,
) -> None:
    """Save one secondary capture as PNG: that of the drawn radiograph with a name burned in, else the first."""
    pictures = {
        sample.title: found[one["sop_instance_uid"]]
        for sample in sent if sample.sop_instance_uid in rows
        for one in rows[sample.sop_instance_uid]["deliveries"] if one["kind"] == "sc" and one["sop_instance_uid"] in found
    }
    if not pictures:
        return
    path = next((path for title, path in pictures.items() if "burned" in title), next(iter(pictures.values())))
    dataset = dcmread(path)
    pixels = dataset.pixel_array
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    name = out / "preview.png"
    cv2.imwrite(str(name), pixels)
    kind = "secondary capture" if dataset.SOPClassUID == SecondaryCaptureImageStorage else dataset.SOPClassUID.name
    console.print(f"Preview of a {kind}: {name} · log of the node: {out / 'node.log'}")

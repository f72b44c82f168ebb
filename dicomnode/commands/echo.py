"""``dicomnode echo PEER``: reaches a configured peer and shows what it takes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dicomnode.commands.options import DEFAULT_CONFIG, Config, Json, print_json
from dicomnode.errors import EXIT_FAILURE
from dicomnode.scu import EchoReport
from dicomnode.scu import echo as ask
from dicomnode.settings import load


def echo(
    peer: Annotated[str, typer.Argument(help="Name of a file under peers/, without .toml.")],
    config: Config = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Send a C-ECHO to a peer and show which SR classes and images it accepts."""
    settings = load(config)
    report = ask(settings.node.ae_title, settings.destination(peer), settings.send.timeout_s)
    if json:
        print_json({
            "peer": peer, "echo": report.echo, "association_ms": report.association_ms, "echo_ms": report.echo_ms,
            "sr_classes": list(report.sr_classes), "accepted": {uid: list(known) for uid, known in report.accepted.items()},
        })
    else:
        _show(peer, report, settings.destination(peer).sr_class)
    raise typer.Exit(0 if report.echo or any(report.accepted.values()) else EXIT_FAILURE)


def _show(peer: str, report: EchoReport, configured: str) -> None:
    from pydicom.uid import UID  # noqa: PLC0415 - names only

    console = Console()
    answered = f"answered in {report.echo_ms} ms" if report.echo else "is not taken"
    console.print(f"{peer}: association in {report.association_ms} ms, C-ECHO {answered}")
    table = Table("SOP Class", "accepted transfer syntaxes")
    for uid, syntaxes in report.accepted.items():
        table.add_row(UID(uid).name, ", ".join(UID(one).name for one in syntaxes) or "none")
    console.print(table)
    if report.sr_classes and configured not in report.sr_classes:
        console.print(f'sr_class = "{configured}" is not taken; set sr_class = "{report.sr_classes[0]}" in peers/{peer}.toml')

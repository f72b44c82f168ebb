"""``dicomnode echo``: asks a destination by C-ECHO, and what it takes.

**Fails** Ends with 1 when the peer does not answer or rejects us; the reason goes to stderr.
"""

from __future__ import annotations

from typing import Annotated

import typer
from pydicom.uid import UID
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicomnode.commands.options import DEFAULT_CONFIG, Config, Json, print_json
from dicomnode.settings import load


def echo(
    peer: Annotated[str, typer.Argument(help="Name of a peer, as its file under peers/ is called.")],
    config: Config = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Ask a destination by C-ECHO; show which SR classes and images it takes."""
    from dicomnode.scu import echo as ask  # noqa: PLC0415 - network code is loaded only when a peer is asked

    settings = load(config)
    destination = settings.destination(peer)
    report = ask(settings.node.ae_title, destination, settings.send.timeout_s)
    if json:
        print_json({
            "peer": peer, "echo": report.echo, "association_ms": report.association_ms, "echo_ms": report.echo_ms,
            "sr_classes": report.sr_classes, "sr_class_taken": destination.sr_class in report.sr_classes,
            "accepted": report.accepted,
        })
        return
    where = f"{destination.ae_title} at {destination.host}:{destination.port}"
    answered = f"C-ECHO answered in {report.echo_ms} ms" if report.echo else "takes associations, but no C-ECHO"
    typer.echo(f"{peer}: {where}: {answered} (association {report.association_ms} ms)")
    table = Table(box=None, title_justify="left")
    table.add_column("SOP Class")
    table.add_column("transfer syntaxes that the peer takes")
    for sop_class, syntaxes in report.accepted.items():
        names = ", ".join(UID(syntax).name for syntax in syntaxes) or "[yellow]none[/]"
        table.add_row(escape(UID(sop_class).name), names)
    # A log or a pipe has no width: lines are not to be cut there.
    Console(width=None if Console().is_terminal else 200).print(table)
    if destination.sr_class not in report.sr_classes:
        typer.echo(f"sr_class = \"{destination.sr_class}\" is not taken; it takes: {', '.join(report.sr_classes) or 'none'}")

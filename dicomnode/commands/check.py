"""``dicomnode check``: looks a configuration over before the node starts with it.

**Fails** Ends with 78 when anything would keep the node from its work, with 0 otherwise, warnings included.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicomnode import check as looks
from dicomnode.commands.options import DEFAULT_CONFIG, Config, Json, RoleName, print_json
from dicomnode.errors import EXIT_CONFIG
from dicomnode.settings import Settings, load
from dicomnode.snapshot import handed

_COLOUR = {"ok": "green", "warning": "yellow", "fault": "red"}


def check(
    config: Config = DEFAULT_CONFIG,
    only: Annotated[
        list[RoleName] | None, typer.Option("--only", help="Look at what this role uses; may be given several times."),
    ] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Ask every destination by C-ECHO too.")] = False,
    json: Json = False,
) -> None:
    """Cross-check settings, models, peers, disk and OCR; print a summary."""
    # A running node has its reload checked so: the very settings that its children would get.
    approving = handed()
    settings = approving or load(config)
    roles = only or tuple(RoleName)
    answers = looks.check(settings, _echo(settings) if peers else None, roles, port=approving is None)
    if json:
        for answer in answers:
            print_json({"about": answer.about, "outcome": answer.outcome, "detail": answer.detail})
    else:
        _show(settings, answers)
    if any(answer.outcome == "fault" for answer in answers):
        raise typer.Exit(EXIT_CONFIG)


def _show(settings: Settings, answers: tuple[looks.Answer, ...]) -> None:
    node = settings.node
    table = Table(title=f"{node.ae_title} on {node.bind}:{node.port}", title_justify="left", box=None)
    for answer in answers:
        colour = _COLOUR[answer.outcome]
        table.add_row(f"[{colour}]{answer.outcome}[/]", escape(answer.about), escape(answer.detail))
    table.add_row("", "configuration", settings.digest[:12])
    # A log or a pipe has no width: lines are not to be cut there.
    Console(width=None if Console().is_terminal else 200).print(table)


def _echo(settings: Settings) -> looks.Echo:
    from dicomnode.scu import echo  # noqa: PLC0415 - network code is loaded only when a peer is asked

    def ask(name: str) -> str:
        report = echo(settings.node.ae_title, settings.destination(name), settings.send.timeout_s)
        verified = f"C-ECHO in {report.echo_ms:.0f} ms" if report.echo else "no Verification"
        return f"{verified}, SR {', '.join(report.sr_classes) or 'none'}"

    return ask

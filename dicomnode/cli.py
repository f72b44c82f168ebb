"""The command ``dicomnode``: mounts the commands of `dicomnode.commands` and turns errors into exit codes.

**Fails** A `ConfigError` ends with 78, any other error of ours with 1, usage with 2; the message goes to stderr.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dicomnode import __version__
from dicomnode.commands import check, echo, files, init, models, queue, redact, roles
from dicomnode.commands.options import EXIT_CONFIG, EXIT_FAILURE
from dicomnode.demo import demo
from dicomnode.errors import ConfigError, DicomNodeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A DICOM network node: receive, route, infer, redact, forward, with nothing lost. Not a medical device.",
)
app.command()(init.init)
app.command()(check.check)
app.command()(roles.serve)
app.command()(roles.accept)
app.command()(roles.work)
app.command()(roles.send)
app.command()(roles.keep)
app.add_typer(queue.app, name="queue")
app.command()(echo.echo)
app.command()(files.run)
app.command()(files.route)
app.command()(redact.redact)
app.add_typer(models.train, name="train")
app.add_typer(models.evaluate, name="evaluate")
app.command()(demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every error of ours becomes one line on stderr and an exit code."""
    try:
        app()
    except ConfigError as error:
        typer.echo(f"dicomnode: {error}", err=True)
        sys.exit(EXIT_CONFIG)
    except DicomNodeError as error:
        typer.echo(f"dicomnode: {error}", err=True)
        sys.exit(EXIT_FAILURE)

"""The command ``dicomnode``: mounts the commands of `dicomnode.commands` and turns errors into exit codes.

**Way** A call names one command, and only the module of that one is imported: an acceptor holds no model and a keeper no
network code, and each starts in a fraction of a second.

**Fails** A `ConfigError` ends with 78, any other error of ours with 1, usage with 2; the message goes to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from types import MappingProxyType
from typing import Annotated

import typer

from dicomnode import __version__
from dicomnode.errors import EXIT_CONFIG, EXIT_FAILURE, ConfigError, DicomNodeError

#: Every command in the order of ``--help``: its module, and the function or group in it.
COMMANDS = MappingProxyType({
    "init": ("dicomnode.commands.init", "init"),
    "check": ("dicomnode.commands.check", "check"),
    "serve": ("dicomnode.commands.roles", "serve"),
    "accept": ("dicomnode.commands.roles", "accept"),
    "judge": ("dicomnode.commands.roles", "judge"),
    "work": ("dicomnode.commands.roles", "work"),
    "send": ("dicomnode.commands.roles", "send"),
    "keep": ("dicomnode.commands.roles", "keep"),
    "queue": ("dicomnode.commands.queue", "app"),
    "where": ("dicomnode.commands.where", "where"),
    "report": ("dicomnode.commands.report", "app"),
    "echo": ("dicomnode.commands.echo", "echo"),
    "run": ("dicomnode.commands.files", "run"),
    "route": ("dicomnode.commands.files", "route"),
    "redact": ("dicomnode.commands.redact", "app"),
    "models": ("dicomnode.commands.repository", "app"),
    "train": ("dicomnode.commands.train", "train"),
    "evaluate": ("dicomnode.commands.evaluate", "app"),
    "demo": ("dicomnode.demo", "demo"),
    "drill": ("dicomnode.drill", "drill"),
})


def application(names: Iterable[str] = tuple(COMMANDS)) -> typer.Typer:
    """Build the command line with these commands."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, callback=_root,
        help="A DICOM network node: receive, route, infer, redact, forward, with nothing lost. Not a medical device.",
    )
    for name in names:
        module, attribute = COMMANDS[name]
        command = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every error of ours becomes one line on stderr and an exit code."""
    named = [argument for argument in sys.argv[1:2] if argument in COMMANDS]
    try:
        application(named or COMMANDS)()
    except DicomNodeError as error:
        typer.echo(f"dicomnode: {error}", err=True)
        sys.exit(EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILURE)

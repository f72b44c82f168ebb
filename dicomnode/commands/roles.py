"""``serve`` and the four roles that it runs: ``accept``, ``work``, ``send``, ``keep``.

**Way** Each role loads the configuration, sets up its log, asks the kernel to end it with its supervisor and runs until
SIGTERM. The modules behind a role are imported only there: an acceptor holds no model, a keeper no network code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from dicomnode import log
from dicomnode.commands.options import DEFAULT_CONFIG, Config
from dicomnode.roles import Role, SignalStop, bind_to_supervisor
from dicomnode.settings import Settings, load
from dicomnode.spool import Spool


def _run(config: Path, name: str, find: Callable[[], Role]) -> None:
    bind_to_supervisor()
    stop = SignalStop().on_signals()
    settings = load(config)
    _start_log(settings, name)
    raise typer.Exit(find()(settings, stop))


def _start_log(settings: Settings, name: str) -> None:
    log.configure(settings.log, name, Spool(settings.node.state_dir).identity().key)


def serve(config: Config = DEFAULT_CONFIG) -> None:
    """Run the whole node: acceptor, workers, sender and keeper in one supervised tree."""
    from dicomnode.serve import refuse_second, run_supervisor  # noqa: PLC0415 - each role loads its own modules only

    def find() -> Role:
        return run_supervisor

    refuse_second(load(config))
    _run(config, "serve", find)


def accept(config: Config = DEFAULT_CONFIG) -> None:
    """Run one acceptor: the Storage SCP that puts instances into the spool."""

    def find() -> Role:
        from dicomnode.scp import run_acceptor  # noqa: PLC0415

        return run_acceptor

    _run(config, "accept", find)


def work(config: Config = DEFAULT_CONFIG) -> None:
    """Run one worker: route, infer, redact, report."""

    def find() -> Role:
        from dicomnode.worker import run_worker  # noqa: PLC0415

        return run_worker

    _run(config, "work", find)


def send(config: Config = DEFAULT_CONFIG) -> None:
    """Run the sender: the Storage SCU with a lane for each destination."""

    def find() -> Role:
        from dicomnode.scu import run_sender  # noqa: PLC0415

        return run_sender

    _run(config, "send", find)


def keep(config: Config = DEFAULT_CONFIG) -> None:
    """Run the keeper: intake, claims of dead processes, retention, alarms."""

    def find() -> Role:
        from dicomnode.keeper import run_keeper  # noqa: PLC0415

        return run_keeper

    _run(config, "keep", find)

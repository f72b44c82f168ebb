"""``serve`` and the five roles that it runs: ``accept``, ``judge``, ``work``, ``send``, ``keep``.

**Way** Each role takes the configuration that its supervisor approved, or loads it when it runs alone, sets up its log, asks
the kernel to end it with its supervisor and runs until SIGTERM. The modules behind a role are imported only there: an acceptor
holds no model, a keeper no network code.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dicomnode import log
from dicomnode.commands.options import DEFAULT_CONFIG, Config, RoleName
from dicomnode.roles import RELOAD, RETIRE, Role, SignalStop, bind_to_supervisor, hold
from dicomnode.settings import Settings, load
from dicomnode.snapshot import handed
from dicomnode.spool import Spool


def _run(settings: Settings, name: str, find: Callable[[], Role]) -> None:
    stop = SignalStop().on_signals()
    spool = Spool(settings.node.state_dir)
    spool.check()
    log.configure(settings.log, name, spool.identity().key)
    raise typer.Exit(find()(settings, stop))


def _role(config: Path, name: str, find: Callable[[], Role]) -> None:
    hold(RETIRE)
    bind_to_supervisor()
    faulthandler.enable()  # a stuck process is ended by SIGABRT: where it hangs goes to stderr, frames without values
    _run(handed() or load(config), name, find)


def serve(
    config: Config = DEFAULT_CONFIG,
    only: Annotated[
        list[RoleName] | None, typer.Option("--only", help="Run this role only; may be given several times."),
    ] = None,
) -> None:
    """Run the whole node: acceptors, workers, sender, keeper, judge in one supervised tree. SIGHUP loads the settings anew."""
    from dicomnode.serve import ROLES, run_supervisor, take_locks  # noqa: PLC0415 - each role loads its own modules only

    hold(RELOAD, RETIRE)  # children start with them held
    bind_to_supervisor()  # of a drill
    roles = tuple(role for role in ROLES if not only or role in only)
    settings = load(config)
    take_locks(settings.node.state_dir, roles)
    _run(settings, "serve", lambda: partial(run_supervisor, roles=roles))


def accept(config: Config = DEFAULT_CONFIG) -> None:
    """Run one acceptor: the Storage SCP that puts instances into the spool."""

    def find() -> Role:
        from dicomnode.scp import run_acceptor  # noqa: PLC0415

        return run_acceptor

    _role(config, "accept", find)


def judge(config: Config = DEFAULT_CONFIG) -> None:
    """Run the judge: asks the language model of [judge] about text that nobody knows, for workers without a network."""

    def find() -> Role:
        from dicomnode.judging import run_judge  # noqa: PLC0415

        return run_judge

    _role(config, "judge", find)


def work(config: Config = DEFAULT_CONFIG) -> None:
    """Run one worker: route, infer, redact, report."""

    def find() -> Role:
        from dicomnode.worker import run_worker  # noqa: PLC0415

        return run_worker

    _role(config, "work", find)


def send(config: Config = DEFAULT_CONFIG) -> None:
    """Run the sender: the Storage SCU with a lane for each destination."""

    def find() -> Role:
        from dicomnode.scu import run_sender  # noqa: PLC0415

        return run_sender

    _role(config, "send", find)


def keep(config: Config = DEFAULT_CONFIG) -> None:
    """Run the keeper: intake, claims of dead processes, retention, alarms."""

    def find() -> Role:
        from dicomnode.keeper import run_keeper  # noqa: PLC0415

        return run_keeper

    _role(config, "keep", find)

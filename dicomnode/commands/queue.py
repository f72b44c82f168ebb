"""``dicomnode queue``: what waits, what is held and why, and the acts of a person: retry, release, drop, urgent.

**Way** Every act is written into the queue with time and account and is shown by ``show``. An instance is named by its
instance id, its SOP Instance UID or that of one of its results.

**Fails** A queue that was never made is empty; what is not there ends with 1 after the rest was done.

**Limits** To be run as the node's own user (``sudo -u``): it writes to the node's files.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, get_args

import typer

from dicomnode import log
from dicomnode.commands.options import DEFAULT_CONFIG, print_json
from dicomnode.commands.queue_print import age, bare_table, print_account, print_row, print_summary, wide_console
from dicomnode.errors import EXIT_FAILURE, NotFound
from dicomnode.keeper.ledger import audit, deliveries_of
from dicomnode.queue import InstanceState
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import DeliveryState
from dicomnode.settings import Settings, load
from dicomnode.spool import Spool

app = typer.Typer(help="Show what is waiting, held or quarantined, and act on it.", no_args_is_help=False)

Config = Annotated[Path | None, typer.Option("-c", "--config", help="Directory of node.toml, routes.toml and peers/.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Instance id, SOP Instance UID or result UID.")]
Keys = Annotated[list[str] | None, typer.Argument(metavar="KEY...", help="Instance id, SOP Instance UID or result UID.")]
States = Annotated[list[str] | None, typer.Option("--state", help="Instance or delivery in this state; may be repeated.")]
All = Annotated[bool, typer.Option("--all", help="Everything that waits for a person, or is in the states given.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

_STATES = frozenset({*get_args(InstanceState), *get_args(DeliveryState)})
_FOR_PEOPLE = ("deferred", "hold", "quarantine", "expired")

logger = log.get_logger("queue")


@dataclass(slots=True)
class _Given:
    """What stood before the name of the sub-command."""

    config: Path
    as_json: bool


class _Nothing(Exception):
    """There is no queue."""


@contextlib.contextmanager
def _node(context: typer.Context, config: Path | None) -> Iterator[tuple[Settings, Spool, SqliteQueue]]:
    """Open what there is; nothing is made, so that root leaves no file that the node cannot open."""
    given: _Given = context.obj
    settings = load(config or given.config)
    path = settings.node.state_dir / "queue.sqlite"
    if not path.exists():
        raise _Nothing(f"{path}: there is no queue yet; the node makes it when it starts")
    spool = Spool(settings.node.state_dir)
    queue = SqliteQueue(path)
    try:
        yield settings, spool, queue
    finally:
        queue.close()


@app.callback(invoke_without_command=True)
def queue(context: typer.Context, config: Config = None, as_json: Json = False) -> None:
    """Show what is waiting, held or quarantined, and act on it; alone: a summary."""
    context.obj = _Given(config or DEFAULT_CONFIG, as_json)
    if context.invoked_subcommand is not None:
        return
    try:
        with _node(context, config) as (settings, spool, opened):
            counts = opened.counts()
            print_summary({**counts, **_closed(settings, counts)}, spool, as_json=as_json)
    except _Nothing as nothing:
        typer.echo(str(nothing), err=True)


def _closed(
    settings: Settings, counts: Mapping[str, Mapping[str, Mapping[str, object]]],
) -> dict[str, dict[str, Mapping[str, object]]]:
    """What is counted for destinations that are outside of their windows now, and that they are."""
    now = datetime.now().astimezone().time()
    return {
        f"to {name}": {**counts.get(f"to {name}", {}), "window closed": {"reason": ", ".join(peer.windows)}}
        for name, peer in settings.peers.items() if not peer.sends_at(now)
    }


@app.command("list")
def list_(
    context: typer.Context, config: Config = None, as_json: Json = False, state: States = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="At most this many, oldest first; 0: all. Default: 100, with --json all."),
    ] = None,
) -> None:
    """List instances, oldest first."""
    try:
        with _node(context, config) as (_, _, opened):
            wanted = limit if limit is not None else 0 if as_json or context.obj.as_json else 100
            rows = opened.rows(states=_states(state), limit=wanted)
    except _Nothing as nothing:
        typer.echo(str(nothing), err=True)
        return
    if as_json or context.obj.as_json:
        for row in rows:
            print_json(row)
        return
    table = bare_table("instance", "state", "reason", "age", "modality", "from", "body part", "outputs")
    for row in rows:
        outputs = ", ".join(
            f"{one['kind']} to {one['destination']}: {one['state']}{', urgent' * bool(one['urgent'])}"
            for one in deliveries_of(row)
        )
        table.add_row(*(str(cell) for cell in (
            row["instance_id"], f"{row['state']}{', urgent' * bool(row['urgent'])}", row["reason"], age(row["received_at"]),
            row["modality"], row["calling_ae"], row["body_part"], outputs,
        )))
    wide_console().print(table)


@app.command()
def show(context: typer.Context, key: Key, config: Config = None, as_json: Json = False) -> None:
    """Show all that the node knows of an instance, and who acted on it."""
    with _needed(context, config) as (_, spool, opened):
        rows = opened.find(key)
        if not rows:
            raise NotFound(f"{key}: no such instance or result in the queue")
        token_key = spool.identity().key
    for row in rows:
        whole = {**row, "log_token": log.uid_token(str(row["sop_instance_uid"]), token_key)}
        if as_json or context.obj.as_json:
            print_json(whole)
        else:
            print_row(whole)


@app.command()
def verify(context: typer.Context, config: Config = None, as_json: Json = False) -> None:
    """Prove that all that was accepted is delivered, waiting, held or set aside in sight; 1 when something does not fit.

    Receipts, which are written before a sender is answered, are compared with rows and files, and these with each other.
    """
    with _needed(context, config) as (_, spool, opened):
        found = audit(spool, opened, datetime.now(UTC))
    for breach in found.breaches:
        if as_json or context.obj.as_json:
            print_json({"breach": breach})
        else:
            typer.echo(breach)
    print_account(found, as_json=as_json or context.obj.as_json)
    if found.breaches:
        raise typer.Exit(EXIT_FAILURE)


@app.command()
def retry(
    context: typer.Context, keys: Keys = None, config: Config = None, as_json: Json = False, every: All = False,
    state: States = None,
) -> None:
    """Work or send again, under the same rules; never lets a held picture leave as it is.

    Of an instance with held outputs only these are made again. One of which everything was delivered, and whose file is
    still kept, is worked anew from the start: its new results are sent beside the old ones, and each report names the one
    that it replaces. A KEY that names several instances means those of them that wait for a person, if there are any.
    """
    _act(context, config, "retry", _Wanted(keys or [], every, _states(state)), as_json=as_json)


@app.command()
def release(context: typer.Context, keys: Keys = None, config: Config = None, as_json: Json = False) -> None:
    """Say that you have looked: held outputs are made and leave; what redaction finds is blanked, all else stays."""
    _act(context, config, "release", _Wanted(keys or []), as_json=as_json)


@app.command()
def urgent(context: typer.Context, keys: Keys = None, config: Config = None, as_json: Json = False) -> None:
    """Send first what waits of an instance, and work it first; its deliveries do not wait for a send window."""
    _act(context, config, "urgent", _Wanted(keys or []), as_json=as_json)


@app.command()
def drop(
    context: typer.Context, keys: Keys = None, config: Config = None, as_json: Json = False, yes: Yes = False,
) -> None:
    """Give up: nothing more is made or sent of an instance; its file goes after the retention."""
    if keys and not yes and not (sys.stdin.isatty() and typer.confirm(f"Give up {', '.join(keys)}?")):
        raise typer.BadParameter("nothing was dropped; --yes drops without asking")
    _act(context, config, "drop", _Wanted(keys or []), as_json=as_json)


# -- acting
@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which instances a command names."""

    keys: Sequence[str]
    every: bool = False
    states: Sequence[str] = ()


def _act(context: typer.Context, config: Path | None, what: str, wanted: _Wanted, *, as_json: bool) -> None:
    if bool(wanted.keys) == wanted.every:
        raise typer.BadParameter("name instances by KEY" + (", or all of them by --all" if what == "retry" else ""))
    failed = False
    with _needed(context, config) as (settings, spool, opened):
        log.configure(settings.log, "queue", spool.identity().key, stream=sys.stderr)
        acts: Mapping[str, Callable[[str, datetime, str], int]] = {
            "retry": opened.retry, "release": opened.release, "drop": opened.drop, "urgent": opened.hasten,
        }
        who = _account()
        for key in wanted.keys or ("",):
            rows = opened.find(key) if key else opened.rows(states=wanted.states or _FOR_PEOPLE)
            if key and not rows:
                typer.echo(f"{key}: no such instance or result in the queue", err=True)
                failed = True
            if what == "retry":  # nobody means to rework one thing by naming another of the same UID
                rows = tuple(row for row in rows if _waits(row)) or rows
            for instance_id in (str(row["instance_id"]) for row in rows):
                changed = acts[what](instance_id, datetime.now(UTC), who)
                if changed:
                    logger.info("queue_changed", instance_id=instance_id, act=what, user=who, count=changed)
                if as_json or context.obj.as_json:
                    print_json({"instance_id": instance_id, "act": what, "changed": changed})
                else:
                    typer.echo(f"{instance_id}: {what}, {changed} row{'s' * (changed != 1)} changed")
    if failed:
        raise typer.Exit(EXIT_FAILURE)


def _waits(row: Mapping[str, object]) -> bool:
    return any(one["state"] in _FOR_PEOPLE for one in (row, *deliveries_of(row)))


@contextlib.contextmanager
def _needed(context: typer.Context, config: Path | None) -> Iterator[tuple[Settings, Spool, SqliteQueue]]:
    """As `_node`, where a queue must be there."""
    try:
        with _node(context, config) as node:
            yield node
    except _Nothing as nothing:
        raise NotFound(str(nothing)) from None


def _account() -> str:
    """Name the person as far as the system knows: who called sudo, else the account."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        account = str(os.getuid())
    caller = os.environ.get("SUDO_USER", "")
    return f"{caller} as {account}" if caller and caller != account else account


def _states(given: Sequence[str] | None) -> tuple[str, ...]:
    for state in given or ():
        if state not in _STATES:
            raise typer.BadParameter(f"no state is called {state!r}; there are {', '.join(sorted(_STATES))}")
    return tuple(given or ())

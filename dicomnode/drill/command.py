"""``dicomnode drill``: runs the drills and shows of each what was done, pass or fail, and the time to recover.

**Fails** Ends with 1 when a drill failed; the scratch folder with the node's log is kept then and named. SIGINT and SIGTERM
end every process and remove the folder.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from dicomnode.commands.options import Json, print_json
from dicomnode.drill import tmpfs
from dicomnode.errors import EXIT_FAILURE

if TYPE_CHECKING:
    from dicomnode.drill.course import Course, Drill, Outcome

_PIPE_WIDTH = 160
_INTERRUPTED = 130


def drill(
    config: Annotated[
        Path | None,
        typer.Option(
            "-c", "--config",
            help="Drill with the models, rules and limits of this configuration; without it, with one as `init` makes.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this drill; may be repeated. --list names them."),
    ] = None,
    patience: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="A recovery that takes longer is none.")] = 60,
    json: Json = False,
    keep: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Work in this new folder and keep it.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Name the drills and end.")] = False,
) -> None:
    """Make everything go wrong on a scratch node and see that nothing acknowledged is lost; for after every update.

    A node is started on loopback with a state folder of its own, generated instances are sent to it, and its processes are
    killed, its disk is filled, its peers misbehave. The site's own node, state, ports and peers are never touched; address,
    timeouts, waits, send windows and the hook of the configuration are replaced by the drill's. It takes a minute or more
    and the work of two cores. Exit code 0: all passed; 1: one failed, and its log is kept.
    """
    own_mounts = tmpfs.enter()  # before anything starts a thread
    from dicomnode.drill.configuration import built_in  # noqa: PLC0415
    from dicomnode.drill.course import NAMES, Course  # noqa: PLC0415
    from dicomnode.settings import load  # noqa: PLC0415

    if list_:
        typer.echo("\n".join(NAMES))
        return
    for name in only or ():
        if name not in NAMES:
            raise typer.BadParameter(f"no drill is called {name!r}; there are {', '.join(NAMES)}", param_hint="--only")
    with _scratch(keep) as root:
        settings = load(config) if config is not None else built_in(root / "as-init-makes-it")
        course = Course(root, settings, only or NAMES, own_mounts=own_mounts, patience_s=patience)
        try:
            passed = _print_lines(course) if json else _show(course)
        finally:
            course.close()
        if not passed:
            raise typer.Exit(EXIT_FAILURE)


@contextmanager
def _scratch(keep: Path | None) -> Iterator[Path]:
    """Give a new folder; it is removed at the end unless it is asked for or a drill has failed."""
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise typer.BadParameter(f"{keep} is there and not an empty folder", param_hint="--keep")
    root = keep.absolute() if keep is not None else Path(tempfile.mkdtemp(prefix="dicomnode-drill-"))
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    former = signal.signal(signal.SIGTERM, _terminated)
    kept = keep is not None
    try:
        yield root
    except typer.Exit:
        kept = True
        raise
    except KeyboardInterrupt:
        typer.echo("dicomnode: the drill was interrupted", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, former)
        if kept:
            typer.echo(f"Kept: {root}", err=True)
        else:
            shutil.rmtree(root, ignore_errors=True)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_lines(course: Course) -> bool:
    passed = True
    for outcome in course.run(lambda _: None):
        print_json(outcome.plain())
        sys.stdout.flush()
        passed = passed and outcome.passed
    return passed


def _show(course: Course) -> bool:
    drills = course.drills
    outcomes: list[Outcome] = []
    started = time.monotonic()
    console = Console(width=None if Console().is_terminal else _PIPE_WIDTH)
    with Live(table(drills, outcomes), console=console, refresh_per_second=4) as live:
        begun: list[str] = []

        def begin(drill: Drill) -> None:
            begun.append(drill.name)
            live.update(table(drills, outcomes, begun))

        for outcome in course.run(begin):
            outcomes.append(outcome)
            live.update(table(drills, outcomes, begun))
    if not console.is_terminal:  # there the last table ends without a line's end
        console.print()
    failed = [outcome for outcome in outcomes if not outcome.passed]
    for outcome in failed:
        console.print(f"[red]{outcome.drill}[/]: {escape(outcome.wrong)}\n  look at {escape(outcome.look)}", soft_wrap=True)
    if not failed:
        console.print(f"[green]All {len(outcomes)} drills passed[/] in {time.monotonic() - started:.0f} s.")
    return not failed


def table(drills: Sequence[Drill], outcomes: Sequence[Outcome], begun: Sequence[str] = ()) -> Table:
    """Give the table of all drills, done and to be done."""
    shown = Table(title="Drill", title_justify="left", box=None, pad_edge=False)
    for heading in ("drill", "what was done", "result"):
        shown.add_column(heading)
    for heading in ("recovered\nafter s", "took s"):
        shown.add_column(heading, justify="right")
    done = {outcome.drill: outcome for outcome in outcomes}
    for one in drills:
        outcome = done.get(one.name)
        if outcome is None:
            shown.add_row(one.name, one.did, "[yellow]running[/]" if one.name in begun else "")
            continue
        result = "[green]pass[/]" if outcome.passed else "[red]FAIL[/]"
        recovered = "" if outcome.recovery_s is None else f"{outcome.recovery_s:.2f}"
        shown.add_row(one.name, one.did, result, recovered, f"{outcome.seconds:.1f}")
    return shown

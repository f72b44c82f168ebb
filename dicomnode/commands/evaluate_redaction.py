"""``dicomnode evaluate redaction``: what redaction removes and keeps in files whose text is known.

**Way** The files of a manifest, or files drawn for it (``--synthetic``), go through the node's own redaction and coder; see
`dicomnode.evaluation` and docs/redaction.md.

**Fails** A manifest that cannot be used is a usage error; a file that redaction refuses is counted as held.

**Limits** Evaluation.json names files as the manifest does, and pictures of misses show what was missed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dicomnode.commands.options import Json, print_json, with_options
from dicomnode.errors import BadSetting
from dicomnode.evaluation import measure
from dicomnode.evaluation.manifest import NAME, Case, read
from dicomnode.evaluation.report import as_markdown
from dicomnode.evaluation.synthetic import Drawing, draw_set
from dicomnode.stages.redact import Redact


class Mode(StrEnum):
    """What counts as identifying."""

    strict = "strict"
    header = "header"


Manifests = Annotated[
    list[Path] | None,
    typer.Option("--manifest", help=f"{NAME} (path, kind, x0, y0, x1, y1), or the folder of one; may stand several times."),
]
Modes = Annotated[list[Mode] | None, typer.Option("--mode", help="strict, header; may stand twice. Default: strict.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for evaluation.json, evaluation.md, plots and misses/, pictures of every miss."),
]
NoPictures = Annotated[
    bool, typer.Option("--no-pictures", help="No pictures of misses: where patients are real, these show their names."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Take so many files, evenly from the list.")]
Draws = Annotated[int, typer.Option("--draws", min=100, help="Bootstrap draws.")]
Languages = Annotated[str, typer.Option("--ocr-language", help="Languages of Tesseract, joined by +.")]
Synthetic = Annotated[
    int | None, typer.Option("--synthetic", min=1, help="Draw so many files with text of known place and measure them."),
]
Backgrounds = Annotated[
    Path | None, typer.Option("--backgrounds", help="With --synthetic: folder of pictures to draw on. Default: drawn ones."),
]
Split = Annotated[
    str | None, typer.Option("--split", help="With --backgrounds: pictures of this split of the MANIFEST.csv there."),
]
Fonts = Annotated[Path | None, typer.Option("--fonts", help="With --synthetic: further fonts, below this folder.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="With --synthetic: the same seed draws the same files.")]
Set = Annotated[Path | None, typer.Option("--set", help="With --synthetic: folder for the files. Default: set/ below --out.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is measured, on what, and where the figures go."""

    manifest: Manifests = None
    mode: Modes = None
    out: Out = None
    no_pictures: NoPictures = False
    limit: Limit = None
    draws: Draws = 10_000
    ocr_language: Languages = "eng"
    synthetic: Synthetic = None
    backgrounds: Backgrounds = None
    split: Split = None
    fonts: Fonts = None
    seed: Seed = 0
    set: Set = None
    json: Json = False


@with_options(Asked, "asked")
def redaction(*, asked: Asked) -> None:
    """String-level recall, what is kept, collateral and speed of redaction on files whose text is known."""
    if not asked.manifest and asked.synthetic is None:
        raise typer.BadParameter("nothing to measure on: give --manifest or --synthetic", param_hint="--manifest")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}
        tell = partial(_tell, bar, tasks)
        cases = _cases(asked, tell)
        modes = dict.fromkeys(asked.mode or [Mode.strict])
        redactors = {mode.value: Redact(mode=mode.value, lang=asked.ocr_language) for mode in modes}
        pictures = asked.out / "misses" if asked.out is not None and not asked.no_pictures else None
        try:
            report = measure(cases, redactors, pictures=pictures, draws=asked.draws, tell=tell)
        except BadSetting as error:
            raise typer.BadParameter(str(error), param_hint="--manifest") from None
    if asked.out is not None:
        _write(report, asked.out)
    if asked.json:
        print_json(report)
    else:
        typer.echo(as_markdown(report))


def _tell(bar: Progress, tasks: dict[str, TaskID], what: str, done: int, total: int) -> None:
    if what not in tasks:
        tasks[what] = bar.add_task(what, total=total)
    bar.update(tasks[what], completed=done)


def _cases(asked: Asked, tell: Callable[[str, int, int], None]) -> list[Case]:
    """The files of the manifests, and those that are drawn."""
    try:
        cases = [case for place in asked.manifest or [] for case in read(place)]
        if asked.synthetic is not None:
            drawing = Drawing(asked.synthetic, asked.seed, asked.backgrounds, asked.split, asked.fonts)
            cases += read(draw_set(_folder(asked), drawing, partial(tell, "drawing")))
    except BadSetting as error:
        raise typer.BadParameter(str(error)) from None
    if asked.limit is not None and asked.limit < len(cases):
        cases = [cases[number * len(cases) // asked.limit] for number in range(asked.limit)]
    return cases


def _folder(asked: Asked) -> Path:
    """Where the files are drawn."""
    folder = asked.set or (asked.out / "set" if asked.out is not None else None)
    if folder is None:
        raise typer.BadParameter("the files that are drawn need a folder: --set or --out", param_hint="--set")
    return folder


def _write(report: dict[str, object], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "evaluation.md").write_text(as_markdown(report), encoding="utf-8")
    try:
        from dicomnode.evaluation import plots  # noqa: PLC0415 - matplotlib need not be there
    except ImportError:
        typer.echo("dicomnode: no plots, for they need matplotlib: pip install 'dicomnode[train]'", err=True)
        return
    plots.draw(report, out)

"""``dicomnode evaluate``: the figures of a model, or of several side by side, on labelled pictures; and those of redaction.

**Way** The node's own code on onnxruntime alone, no torch. Plots need matplotlib; without it they are left out, with one
line on stderr that says how to get them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dicomnode.cards import find_models
from dicomnode.commands.evaluate_redaction import redaction
from dicomnode.commands.options import Json, print_json, with_options
from dicomnode.errors import MissingModel
from dicomnode.share import share
from dicomnode.training import evaluate
from dicomnode.training.evaluate.compare import as_table, names_of, side_by_side, write_side_by_side

#: The model that is measured where none is named.
_SHIPPED: Mapping[str, str] = {"router": "bodypart-router", "findings": "pneumonia-pediatric"}

app = typer.Typer(no_args_is_help=True, help="Measure a model on labelled pictures, or redaction on files whose text is known.")

Data = Annotated[
    list[Path],
    typer.Option(
        "--manifest", help="MANIFEST.csv (path, class, split), or folder [SPLIT/]LABEL/PICTURE; may stand several times.",
    ),
]
ModelDirs = Annotated[
    list[Path] | None,
    typer.Option("--model", help="models/NAME/VERSION; default: the node's own. Repeated: side by side, against the first."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for evaluation.json, evaluation.md and plots.")]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="val while choosing, test once for the report. Default: test; of a set without splits everything.",
    ),
]
Merge = Annotated[
    list[str] | None,
    typer.Option("--merge", help="LABEL+LABEL=NAME: report also with these counted as one. Default: the two chests."),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Pictures that go through the network at a time.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Cores to use.")]
ProviderName = Annotated[Literal["cpu", "cuda"], typer.Option("--provider", help="Where the network runs: cpu, cuda.")]
Draws = Annotated[int, typer.Option("--draws", min=100, help="Bootstrap draws.")]
By = Annotated[
    Literal["person", "picture"],
    typer.Option("--by", help="What the bootstrap draws: persons where the manifest names them, or pictures."),
]
Saliency = Annotated[
    int, typer.Option("--saliency", min=0, help="Show the evidence in this many pictures of each class: saliency.png."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What is measured, on what, how, and where the figures go."""

    manifest: Data
    model: ModelDirs = None
    out: Out = None
    split: Split = None
    merge: Merge = None
    batch: Batch = 16
    threads: Threads = 1
    provider: ProviderName = "cpu"
    draws: Draws = 10_000
    by: By = "person"
    saliency: Saliency = 0
    json: Json = False

    def asking(self) -> evaluate.Asking:
        """How to measure."""
        return evaluate.Asking(
            draws=self.draws, by_person=self.by == "person", merge=_merges(self.merge), provider=self.provider,
            threads=self.threads, batch=self.batch, saliency=self.saliency,
        )


def _run(name: Literal["router", "findings"], given: Measuring) -> None:
    """Measure each model, write what there is, print it."""
    asking = given.asking()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    measured = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        for folder in given.model or [_shipped(_SHIPPED[name])]:
            task = bar.add_task(f"{folder.parent.name} {folder.name}", total=None)
            tell = partial(_tell, bar, task)
            measured.append(evaluate.measure_model(folder, given.manifest, given.split, replace(asking, task=name, tell=tell)))
    found = side_by_side(measured, asking) if len(measured) > 1 else None
    if given.out is not None:
        _write(measured, found, given.out)
    elif asking.saliency:
        typer.echo("dicomnode: the contact sheet needs --out, a folder to lie in", err=True)
    for one in measured:
        if given.json:
            print_json(one.report)
        else:
            typer.echo(evaluate.as_markdown(one.report))
    if found is not None:
        if given.json:
            print_json({"side_by_side": found})
        else:
            typer.echo(as_table(found))


def _write(measured: Sequence[evaluate.Measured], found: Mapping[str, Any] | None, out: Path) -> None:
    """Write reports and plots; of several models each into a folder of its own, and side by side."""
    names = [re.sub(r"[^A-Za-z0-9._-]+", "_", name) for name in names_of(measured)]
    folders = [out] if found is None else [out / name for name in names]
    for one, folder in zip(measured, folders, strict=True):
        evaluate.write(one, folder)
    if found is not None:
        write_side_by_side(found, out)
    try:
        from dicomnode.training.evaluate import plot_models, plots  # noqa: PLC0415 - matplotlib need not be there
    except ImportError:
        typer.echo("dicomnode: no plots, for they need matplotlib: pip install 'dicomnode[train]'", err=True)
        return
    for one, folder in zip(measured, folders, strict=True):
        plots.draw(one.report, folder)
    if found is not None:
        plot_models.draw_models(found, out)


def _tell(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _merges(texts: list[str] | None) -> dict[str, str]:
    if texts is None:
        return dict(evaluate.MERGES)
    return {label: name for text in texts for label, name in evaluate.parse_merge(text).items()}


def _shipped(name: str) -> Path:
    """The newest version of a model that comes with the node."""
    folder = find_models(share("models")).get(name)
    if folder is None:
        raise MissingModel(f"no model {name!r} comes with this installation")
    return folder.path


@app.command("router")
@with_options(Measuring, "measuring")
def router(*, measuring: Measuring) -> None:
    """Precision, recall, F1, calibration and coverage of a router, with bootstrap intervals, per class and per source."""
    _run("router", measuring)


@app.command("findings")
@with_options(Measuring, "measuring")
def findings(*, measuring: Measuring) -> None:
    """AUROC, sensitivity, specificity and calibration of a findings model, with bootstrap intervals."""
    _run("findings", measuring)


app.command("redaction")(redaction)

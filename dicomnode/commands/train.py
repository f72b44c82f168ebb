"""``dicomnode train``: models of a site's own, or those that come with the node anew.

**Way** Options become a task, a plan and an order; `training.train` does the work.

**Fails** `ProgramMissing` without the extra ``train`` (torch), `BadSetting` for what cannot be used.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dicomnode.commands.teaching import Teaching, with_teaching
from dicomnode.errors import BadSetting, ProgramMissing

train = typer.Typer(no_args_is_help=True, help="Train a model, export it to ONNX and write its card.")


class RouterName(StrEnum):
    """The routers that come with the node."""

    full = "full"
    open = "open"


class FindingsName(StrEnum):
    """The findings models that come with the node."""

    pneumonia = "pneumonia"
    breast_ultrasound = "breast-ultrasound"


def _need_torch() -> None:
    try:
        import torch  # noqa: F401, PLC0415 - only asked whether it is there
    except ImportError:
        raise ProgramMissing("training needs torch: pip install 'dicomnode[train]'") from None


def _run(task: Any, teaching: Teaching) -> None:
    from dicomnode.training.learn import Machine  # noqa: PLC0415 - needs torch
    from dicomnode.training.presets import plan_for  # noqa: PLC0415
    from dicomnode.training.train import Order, train_model  # noqa: PLC0415

    name = teaching.name or task.name
    order = Order(
        data=teaching.manifest, models=teaching.models, runs=teaching.runs or Path("runs") / name,
        version=teaching.model_version, resume=teaching.resume, replace=teaching.replace, folds=teaching.folds,
        leave_out=teaching.leave_out,
    )  # fmt: skip
    folder = train_model(
        replace(task, name=name, concepts=tuple(teaching.concept or ())),
        order,
        plan_for(task.kind, teaching.preset, **teaching.numbers()),
        Machine(teaching.device, teaching.threads),
        tell=lambda text: typer.echo(f"dicomnode: {text}", err=True),
    )
    typer.echo(f"written: {folder}")


@train.command("router")
@with_teaching
def train_router(
    *,
    task: Annotated[
        RouterName, typer.Option("--task", help="Of our own manifest: every picture, or those under open licences alone.")
    ] = RouterName.full,
    teaching: Teaching,
) -> None:
    """Train the body-part router; the labels are those that the pictures have."""
    _need_torch()
    from dicomnode.training.train import ROUTERS  # noqa: PLC0415 - needs torch

    _run(ROUTERS[task], teaching)


@train.command("findings")
@with_teaching
def train_findings(
    *,
    task: Annotated[
        FindingsName | None, typer.Option("--task", help="A model that comes with the node: labels, body part, name.")
    ] = None,
    body_part: Annotated[
        list[str] | None, typer.Option("--body-part", help="Body part that it is for, as routers say it; repeatable.")
    ] = None,
    abnormal: Annotated[
        list[str] | None, typer.Option("--abnormal", help="Label to be pointed out; may be repeated.")
    ] = None,
    teaching: Teaching,
) -> None:
    """Train a findings model; the labels are those that the pictures have."""
    _need_torch()
    from dicomnode.training.train import FINDINGS, Task  # noqa: PLC0415 - needs torch

    base = Task("findings", "site-findings") if task is None else FINDINGS[task]
    parts, marked = tuple(body_part or base.body_parts), tuple(abnormal or base.abnormal)
    _run(replace(base, body_parts=parts, abnormal=marked), teaching)


@train.command("text")
def train_for_text(
    *,
    manifest: Annotated[
        Path, typer.Option("--manifest", help="Pictures to draw text upon: MANIFEST.csv (path, split) or a folder."),
    ],
    network: Annotated[
        Literal["find", "read"], typer.Option("--network", help="find: gate and detector; read: the reader of lines."),
    ] = "find",
    models: Annotated[Path, typer.Option("--models", help="Folder of models that the networks go to.")] = Path("models"),
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder for checkpoints and curves; default: runs/text, runs/reader."),
    ] = None,
    model_version: Annotated[
        str, typer.Option("--model-version", help="Version of the networks, MAJOR.MINOR.PATCH."),
    ] = "1.0.0",
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps to learn.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=2, help="Pieces or lines in one step.")] = None,
    side: Annotated[
        int | None, typer.Option("--side", min=64, help="find: rows and columns of a piece, a multiple of 32."),
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=1e-7, max=1, help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None,
    fonts: Annotated[
        list[Path] | None, typer.Option("--fonts", help="Folder of typefaces; repeatable; default: those of the machine."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that draw; 0 draws where it learns.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Cores to learn with.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto (the GPU when there is one), cpu, cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint under --runs.")] = False,
    overwrite: Annotated[bool, typer.Option("--replace", help="Write over models of this version.")] = False,
) -> None:
    """Train the networks that find text in frames, or the one that reads it, on text drawn over pictures."""
    _need_torch()
    from dicomnode.training.learn import Machine  # noqa: PLC0415 - needs torch
    from dicomnode.training.text.course import Plan  # noqa: PLC0415
    from dicomnode.training.text.learn import TextPlan  # noqa: PLC0415
    from dicomnode.training.text.train import TextOrder, train_reader, train_text  # noqa: PLC0415

    reads = network == "read"
    if reads and side is not None:
        raise BadSetting("--side: is of pieces to find text in; lines to read have no side")
    given = {"steps": steps, "batch": batch, "side": side, "rate": rate, "seed": seed}
    numbers: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    place = runs or Path("runs/reader" if reads else "runs/text")
    order = TextOrder(manifest, models, place, model_version, tuple(fonts or ()), resume, overwrite)
    machine = Machine(device, threads)

    def tell(text: str) -> None:
        typer.echo(f"dicomnode: {text}", err=True)

    if reads:
        folders: tuple[Path, ...] = (train_reader(order, Plan(**numbers), machine, workers, tell),)
    else:
        folders = train_text(order, TextPlan(**numbers), machine, workers, tell)
    typer.echo("\n".join(f"written: {folder}" for folder in folders))

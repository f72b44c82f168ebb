"""``dicomnode train``: models of a site's own, or those that come with the node anew.

**Way** Options become a task, a plan and an order; `training.train` does the work.

**Fails** `ProgramMissing` without the extra ``train`` (torch), `BadSetting` for what cannot be used.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dicomnode.commands.teaching import Teaching, with_teaching
from dicomnode.errors import ProgramMissing

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

"""``dicomnode train`` and ``dicomnode evaluate``: models of a site's own, and the figures of any model.

**Way** Training needs the extra ``train`` (torch); evaluation runs the node's own code on onnxruntime alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicomnode.cards import find_models
from dicomnode.commands.options import Json, print_json
from dicomnode.errors import MissingModel, ProgramMissing
from dicomnode.share import share

train = typer.Typer(no_args_is_help=True, help="Train a model, export it to ONNX and write its card.")
evaluate = typer.Typer(no_args_is_help=True, help="Measure a model on labelled pictures.")

Data = Annotated[Path, typer.Option("--manifest", help="MANIFEST.csv (path, class, split), or folder SPLIT/LABEL/PICTURE.")]
Models = Annotated[Path, typer.Option("--models", help="Folder of models that the new one goes to.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder for checkpoints and the history of the training.")]
Version = Annotated[str, typer.Option("--model-version", help="Version of the new model, MAJOR.MINOR.PATCH.")]
Arch = Annotated[str | None, typer.Option("--arch", help="Architecture; a name that is wrong lists them.")]
Start = Annotated[str, typer.Option("--start", help="Weights to begin with: none, imagenet, or a folder models/NAME/VERSION.")]
Width = Annotated[float | None, typer.Option("--width", min=0.1, max=2, help="Multiplier of the channels.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Pictures in one step.")]
Rate = Annotated[float, typer.Option("--rate", min=1e-7, max=1, help="Highest learning rate.")]
Size = Annotated[int, typer.Option("--size", min=32, max=1024, help="Rows and columns of the input, pixels.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Cores to use.")]
Device = Annotated[str, typer.Option("--device", help="torch device: cpu, cuda.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint under --runs.")]
ModelDir = Annotated[Path | None, typer.Option("--model", help="models/NAME/VERSION; default: the node's own.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for evaluation.json and evaluation.md.")]
Split = Annotated[str, typer.Option("--split", help="Split to measure: val while choosing, test once for the report.")]


def _need_torch() -> None:
    try:
        import torch  # noqa: F401, PLC0415 - only asked whether it is there
    except ImportError:
        raise ProgramMissing("training needs torch: pip install 'dicomnode[train]'") from None


@train.command("router")
def train_router(  # noqa: PLR0917 - typer names them all
    manifest: Data, models: Models = Path("models"), runs: Runs = Path("runs/router"), model_version: Version = "1.0.0",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training pictures.")] = 30,
    arch: Arch = None, start: Start = "none", batch: Batch = 32, rate: Rate = 2e-3,
    width: Width = None, size: Size = 192, seed: Seed = 7, threads: Threads = 1, device: Device = "cpu", resume: Resume = False,
) -> None:
    """Train the body-part router."""
    _need_torch()
    from dicomnode.training.train import train_router as run  # noqa: PLC0415 - needs torch

    folder = run(
        data=manifest, models=models, runs=runs, version=model_version, epochs=epochs, arch=arch, start=start,
        batch=batch, rate=rate, width=width, size=size, seed=seed, threads=threads, device=device, resume=resume,
    )
    typer.echo(f"written: {folder}")


@train.command("findings")
def train_findings(  # noqa: PLR0917
    manifest: Data, models: Models = Path("models"), runs: Runs = Path("runs/findings"), model_version: Version = "1.0.0",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training pictures.")] = 24,
    arch: Arch = None, start: Start = "none", batch: Batch = 32, rate: Rate = 2e-3,
    width: Width = None, size: Size = 192, seed: Seed = 7, threads: Threads = 1, device: Device = "cpu", resume: Resume = False,
) -> None:
    """Train the findings model for children's chests: normal against pneumonia."""
    _need_torch()
    from dicomnode.training.train import train_findings as run  # noqa: PLC0415 - needs torch

    folder = run(
        data=manifest, models=models, runs=runs, version=model_version, epochs=epochs, arch=arch, start=start,
        batch=batch, rate=rate, width=width, size=size, seed=seed, threads=threads, device=device, resume=resume,
    )
    typer.echo(f"written: {folder}")


def _measure(name: str, manifest: Path, model: Path | None, out: Path | None, split: str, *, as_json: bool) -> None:
    from dicomnode.training.evaluate import as_markdown, evaluate_model  # noqa: PLC0415 - opens onnxruntime

    report = evaluate_model(model=model or _shipped(name), data=manifest, out=out, split=split)
    if as_json:
        print_json(report)
    else:
        typer.echo(as_markdown(report))


def _shipped(name: str) -> Path:
    """The newest version of a model that comes with the node."""
    folder = find_models(share("models")).get(name)
    if folder is None:
        raise MissingModel(f"no model {name!r} comes with this installation")
    return folder.path


@evaluate.command("router")
def evaluate_router(manifest: Data, model: ModelDir = None, out: Out = None, split: Split = "test", json: Json = False) -> None:
    """Precision, recall and F1 of the router with bootstrap intervals, per class and per source."""
    _measure("bodypart-router", manifest, model, out, split, as_json=json)


@evaluate.command("findings")
def evaluate_findings(manifest: Data, model: ModelDir = None, out: Out = None, split: Split = "test", json: Json = False
) -> None:
    """Figures of a findings model with bootstrap intervals."""
    _measure("pneumonia-pediatric", manifest, model, out, split, as_json=json)

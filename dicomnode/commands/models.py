"""``dicomnode train``: models of a site's own. Needs the extra ``train`` (torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicomnode.errors import ProgramMissing

train = typer.Typer(no_args_is_help=True, help="Train a model, export it to ONNX and write its card.")

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

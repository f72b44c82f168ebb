"""Options that both trainings share, written once.

**Way** `Teaching` is a dataclass whose fields are options; `with_teaching` gives a command these options behind its own and
hands them over as one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dicomnode.commands.options import with_options


class Preset(StrEnum):
    """Presets of `training/presets.py`."""

    default = "default"
    paper = "paper"


class Precision(StrEnum):
    """What layers compute in."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """How a network is taught, with what and where to; None is as the preset has it."""

    manifest: Annotated[
        Path,
        typer.Option("--manifest", help="MANIFEST.csv (path, class, split), or folder [SPLIT/]LABEL/PICTURE; PNG, JPEG, DICOM"),
    ]
    models: Annotated[Path, typer.Option("--models", help="Folder of models that the new one goes to.")] = Path("models")
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder for checkpoints, history and curves; default runs/NAME.")
    ] = None
    name: Annotated[str | None, typer.Option("--name", help="Name of the new model, as routes call it.")] = None
    model_version: Annotated[
        str, typer.Option("--model-version", help="Version of the new model, MAJOR.MINOR.PATCH.")
    ] = "1.0.0"
    preset: Annotated[
        Preset, typer.Option("--preset", help="The numbers to begin from; other options replace single ones.")
    ] = Preset.default
    arch: Annotated[str | None, typer.Option("--arch", help="Architecture; a name that is wrong lists them.")] = None
    start: Annotated[
        str | None, typer.Option("--start", help="Weights to begin with: none, imagenet, or a folder models/NAME/VERSION.")
    ] = None
    width: Annotated[float | None, typer.Option("--width", min=0.1, max=2, help="Multiplier of the channels.")] = None
    size: Annotated[int | None, typer.Option("--size", min=32, max=1024, help="Rows and columns of the input, pixels.")] = None
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the training pictures.")] = None
    batch: Annotated[int | None, typer.Option("--batch", min=2, help="Pictures in one step.")] = None
    rate: Annotated[float | None, typer.Option("--rate", min=1e-7, max=1, help="Highest learning rate.")] = None
    frozen: Annotated[
        int | None, typer.Option("--frozen", min=0, help="Leading layers that keep the weights they began with.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="auto: bfloat16 where it is faster, which is on most GPUs.")
    ] = None
    concept: Annotated[
        list[str] | None,
        typer.Option("--concept", help="LABEL=CODE^SCHEME^MEANING, the coded concept of a label; may be repeated."),
    ] = None
    folds: Annotated[int, typer.Option("--folds", min=0, help="Cross-validate first with so many folds of train and val.")] = 0
    leave_out: Annotated[
        str, typer.Option("--leave-out", help="A source (column source_repo) not to learn from but to be measured on.")
    ] = ""
    threads: Annotated[int, typer.Option("--threads", min=1, help="Cores to use.")] = 1
    device: Annotated[str, typer.Option("--device", help="auto (the GPU when there is one), cpu, cuda.")] = "auto"
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint under --runs.")] = False
    replace: Annotated[bool, typer.Option("--replace", help="Write over a model of this name and version.")] = False

    def numbers(self) -> dict[str, Any]:
        """What is wanted otherwise than the preset has it."""
        keys = ("arch", "start", "width", "size", "epochs", "batch", "rate", "frozen", "seed", "precision")
        return {key: getattr(self, key) for key in keys}


#: Gives a command, whose parameter is ``teaching``, these options.
with_teaching = with_options(Teaching, "teaching")

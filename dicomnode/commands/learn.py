"""``dicomnode redact learn``: where does this device put text; writes a file of rectangles for the configuration.

**Way** Every file is looked at as strict redaction does, cines at their first, middle and last frame. Where text that must go
stood in several files of one device and size of picture, a rectangle is written, with a comment how often. A person looks the
file over and puts it into redaction/ of the configuration.

**Fails** A file that cannot be looked at is named and left out; the command ends with 1 then, and when nothing was learned.

**Limits** Rectangles are added to what redaction finds, and never stand in for it. Text that is not found is not learned.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import cv2
import typer

from dicomnode.commands.files import each, instance_of, sources
from dicomnode.commands.options import Json, print_json
from dicomnode.errors import EXIT_FAILURE
from dicomnode.image import Image
from dicomnode.places import PlacesFile
from dicomnode.stages.redact import Redact
from dicomnode.stages.redact.learned import Learned, Learner, heat, toml


def learn(
    src: Annotated[Path, typer.Argument(help="DICOM file, or folder of them, of one device or several.")],
    out: Annotated[Path, typer.Option("--out", help="TOML file to write; it must not be there.")],
    least: Annotated[int, typer.Option(min=2, help="Files of a device and size of picture that are needed.")] = 5,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of them, with text in a place that becomes a rectangle.")] = 0.1,
    any_software: Annotated[bool, typer.Option("--any-software", help="One rule for all software versions.")] = False,
    preview: Annotated[
        Path | None, typer.Option(help="Folder for a PNG a device: where text stood, without a pixel of a picture."),
    ] = None,
    json: Json = False,
) -> None:
    """Learn where devices put text, and write the rectangles as a file for redaction/ of a configuration."""
    files = sources(src)
    if out.exists():
        raise typer.BadParameter(f"{out} exists; what a person may have changed is not written over", param_hint="--out")
    redact, learner, told = Redact(mode="strict"), Learner(any_software=any_software), Counter[str]()

    def work(file: Path) -> None:
        with file.open("rb") as stream:
            image = Image.open(stream, instance_of(stream))
            frames = sorted({0, image.shown, max(0, image.frames - 1)})
            named = learner.add(image, redact(image, frames).regions)
        told["named" if named else "nameless"] += 1

    failed = list(each(files, work, label="learning", quiet=json))
    learned = learner.devices(least, share)
    text = toml(learned)
    _show(learned, least, json=json)
    if told["nameless"]:
        typer.echo(f"{told['nameless']} files name no manufacturer and model, so no rule could hold for them", err=True)
    if text:
        PlacesFile.model_validate(tomllib.loads(text))  # what is written is read by the node
        _write(out, text, preview, learned)
    else:
        typer.echo("nothing written: no device has text in the same place in several files", err=True)
    raise typer.Exit(EXIT_FAILURE if failed or not text else 0)


def _write(out: Path, text: str, preview: Path | None, learned: list[Learned]) -> None:
    head = "# Written by `dicomnode redact learn`. Look it over, then put it into redaction/ of the configuration.\n\n"
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(head + text)
        if preview is not None:
            preview.mkdir(parents=True, exist_ok=True)
            for number, one in enumerate((one for one in learned if one.spots), 1):
                # Named by its place in the file: names of devices are texts of headers.
                path = preview / f"place-{number}.png"
                path.write_bytes(cv2.imencode(".png", heat(one))[1].tobytes())
    except OSError as error:
        raise typer.BadParameter(f"{error.filename}: {error.strerror}", param_hint="--out") from None


def _show(learned: list[Learned], least: int, *, json: bool) -> None:
    for one in learned:
        if json:
            spots = [dict(zip("xywh", spot.box, strict=True)) | {"seen": spot.seen} for spot in one.spots]
            print_json({
                **asdict(one.device), "files": one.pictures, "enough": one.pictures >= least, "rectangles": spots,
                "rare": len(one.rare),
            })
            continue
        name = f"{one.device.manufacturer} {one.device.model} {one.device.software}".strip()
        what = f"{len(one.spots)} rectangles, {len(one.rare)} seen too rarely" if one.pictures >= least else f"needs {least}"
        typer.echo(f"{name}, {one.device.columns} x {one.device.rows}: {one.pictures} files, {what}")

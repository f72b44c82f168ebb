"""``dicomnode redact verify``: the proof that a redacted file is its original but for the regions of its certificate.

**Way** The certificate is a JSON file with one of them, a report of ``dicomnode redact``, or what ``dicomnode queue show
--json`` printed; among several the one of these pixels is taken. Every pixel of both files is decoded and compared.

**Fails** What is not proven ends with 1, the first difference of each kind told by frame and place, counted from 0.

**Limits** The seal is looked at only with ``--config``: no one else has the key.
"""

from __future__ import annotations

import json as json_
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from dicomnode.certificate.frames import Fault
from dicomnode.certificate.proof import certificates, chosen, prove
from dicomnode.commands.options import Json, print_json
from dicomnode.errors import EXIT_FAILURE, DicomNodeError, NotFound
from dicomnode.image import Image
from dicomnode.settings import load
from dicomnode.spool import read_identity


def verify(
    original: Annotated[Path, typer.Argument(help="The file before redaction.", exists=True, dir_okay=False)],
    redacted: Annotated[Path, typer.Argument(help="The file that was made of it.", exists=True, dir_okay=False)],
    certificate: Annotated[
        Path, typer.Argument(help="JSON file: a certificate, or the report of redact.", exists=True, dir_okay=False),
    ],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Of the node that made the certificate: asks for its seal as well."),
    ] = None,
    json: Json = False,
) -> None:
    """Prove that only the pixels of the certificate were changed; 1 when they were not alone."""
    key = read_identity(load(config).node.state_dir).key if config else b""
    found = [one for line in _lines(certificate) for one in certificates(line)]
    with original.open("rb") as before, redacted.open("rb") as after:
        first, second = Image.open(before), Image.open(after)
        plain = chosen(found, first, second, str(original))
        if plain is None:
            raise NotFound(f"{certificate}: holds no certificate of these files")
        with Progress(console=Console(stderr=True), transient=True, disable=json) as bar:
            task = bar.add_task("comparing", total=first.frames)
            try:
                faults = prove(first, second, plain, key=key, progress=lambda: bar.advance(task))
            except DicomNodeError as error:
                faults = [Fault(error.code, str(error))]
    if json:
        print_json({
            "proven": not faults, "original": str(original), "redacted": str(redacted), "frames": first.frames,
            "sealed": bool(key) and not faults, "faults": [asdict(fault) for fault in faults],
        })
    else:
        for fault in faults:
            typer.echo(f"{fault.check}: {fault.says}{_place(fault)}")
        typer.echo("not proven" if faults else "proven: nothing outside of the regions was changed")
    raise typer.Exit(EXIT_FAILURE if faults else 0)


def _lines(path: Path) -> list[Any]:
    """What a file holds: one JSON value, or one on each line."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return [json_.loads(text)]
    except ValueError:
        pass
    try:
        return [json_.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        raise NotFound(f"{path}: is neither JSON nor a report of JSON lines") from None


def _place(fault: Fault) -> str:
    if fault.frame is None:
        return ""
    return f" (frame {fault.frame}" + (")" if fault.row is None else f", row {fault.row}, column {fault.column})")

"""``dicomnode redact``: blank identifying text in the pixels of files, by default with a cleared header.

**Way** Each file goes through the node's own redaction and coder. What is written is the de-identified image that an outside
peer would get, or with ``--pixels-only`` the source with blanked pixels under its own header.

**Fails** A file that cannot be vouched for is not written to DST; its line in the report says why it is held.

**Limits** Pseudonyms and UIDs are made for one call: two calls give one patient two tokens. ``--pixels-only`` leaves every
identifying attribute, and the SOP Instance UID, as they are; beside the pixels only what says what was done to them is written.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, TextIO

import typer

from dicomnode import __version__
from dicomnode.certificate import certify
from dicomnode.commands.files import code_of, each, instance_of, sources
from dicomnode.commands.grouping import PLAIN, WithPlain
from dicomnode.commands.learn import learn
from dicomnode.commands.verify_redaction import verify
from dicomnode.errors import EXIT_FAILURE
from dicomnode.image import Coded, Image
from dicomnode.judging import appeal_of
from dicomnode.outputs import Material, NodeFacts, deidentified, part10, shell
from dicomnode.records import UNCERTAIN, Instance, Region, Route
from dicomnode.settings import Settings, load
from dicomnode.stages.encode import Encode
from dicomnode.stages.redact import Redact
from dicomnode.stages.redact.places import Places

Mode = Literal["strict", "header"]

_NOWHERE = Route(UNCERTAIN, 0.0, {}, "header", "redact", (), ("deidentified",), ())

app = typer.Typer(cls=WithPlain, help="Blank identifying text in the pixels; by default the header is cleared as well.")
app.command()(verify)
app.command()(learn)


@app.command(PLAIN, hidden=True)
def redact(
    src: Annotated[Path, typer.Argument(help="DICOM file, or folder of them.")],
    dst: Annotated[Path, typer.Argument(help="File, or folder that gets the same relative names.")],
    mode: Annotated[
        Mode, typer.Option(help="strict: text that nobody knows is identifying; header: header matches, dates, numbers."),
    ] = "strict",
    report: Annotated[
        Path | None, typer.Option(help="File for one JSON line a file: path, blanked regions, certificate; never the text."),
    ] = None,
    pixels_only: Annotated[bool, typer.Option("--pixels-only", help="Leave the header; blank pixels only.")] = False,
    config: Annotated[Path | None, typer.Option(
        "-c", "--config", help="Configuration directory: its networks, OCR languages and rectangles; in header mode its judge.",
    )] = None,
) -> None:
    """Blank identifying text in the pixels; by default the header is cleared as well."""
    files = sources(src)
    _check(src, dst)
    redactor = _Redactor(mode, pixels_only=pixels_only, settings=None if config is None else load(config))
    with _open(report) as lines:

        def tell(file: Path, **what: object) -> None:
            if lines is not None:
                lines.write(json.dumps({"path": str(file), **what}) + "\n")
                lines.flush()

        def work(file: Path) -> None:
            target = dst / file.relative_to(src) if src.is_dir() else dst
            try:
                regions, certificate = redactor.work(file, target)
            except Exception as error:
                tell(file, regions=[], held=code_of(error))
                raise
            tell(file, regions=[asdict(region) for region in regions], certificate=certificate)

        failed = list(each(files, work, label="redacting", quiet=False))
    typer.echo(f"{len(files) - len(failed)} redacted, {len(failed)} held or failed (not written)", err=True)
    raise typer.Exit(EXIT_FAILURE if failed else 0)


def _check(src: Path, dst: Path) -> None:
    """Refuse a target that would mix what is redacted with what is not."""
    if src.resolve() == dst.resolve():
        raise typer.BadParameter("DST is SRC: what is held would stand among what was redacted", param_hint="DST")
    if src.is_dir() and dst.exists() and not dst.is_dir():
        raise typer.BadParameter(f"{dst} is a file, and SRC a folder", param_hint="DST")
    if src.is_file() and dst.is_dir():
        raise typer.BadParameter(f"{dst} is a folder, and SRC a file", param_hint="DST")


def _open(report: Path | None) -> AbstractContextManager[TextIO | None]:
    """Open the report before any work is done for it."""
    if report is None:
        return nullcontext()
    try:
        return report.open("w", encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{report}: {error.strerror}", param_hint="--report") from None


def _configured(mode: Mode, settings: Settings) -> Redact:
    """Make the stage as the node of this configuration has it; its judge answers where the node runs with one."""
    work = settings.work
    return Redact(
        mode=mode, lang=work.ocr_language, models=work.models_dir, places=Places(settings.places),
        appeal=appeal_of(settings) if mode == "header" else None,
    )


class _Redactor:
    """The stages of one call, and the identity under which its de-identified objects are made."""

    def __init__(self, mode: Mode, *, pixels_only: bool, settings: Settings | None = None) -> None:
        self._redact = Redact(mode=mode) if settings is None else _configured(mode, settings)
        self._encode = Encode()
        self._mode = mode
        self._pixels_only = pixels_only
        self._node = NodeFacts(secrets.token_hex(16), "DICOMNODE", secrets.token_bytes(32), __version__)

    def work(self, source: Path, target: Path) -> tuple[tuple[Region, ...], Mapping[str, object]]:
        """Redact one file; the target appears whole, and proven to differ in the regions alone, or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.part")
        with source.open("rb") as stream:
            instance = instance_of(stream)
            image = Image.open(stream, instance)
            redacted = self._redact(image)
            if self._mode == "header":
                # Who asks for header mode vouches for the unknown text that it leaves.
                redacted = self._redact.vouched(redacted)
            coded = self._encode(redacted)
            try:
                with draft.open("wb") as out:
                    if self._pixels_only:
                        dataset = redacted.clean_dataset()
                        with shell.guard("deidentified"):
                            deidentified.say(dataset, redacted)
                        part10.write(out, dataset, coded)
                    else:
                        deidentified.build(self._material(instance, image, coded, stream)).write(out)
                with draft.open("rb") as made:
                    certificate = certify(made, coded, __version__)
                draft.replace(target)
            finally:
                draft.unlink(missing_ok=True)
        return redacted.regions, certificate

    def _material(self, instance: Instance, image: Image, coded: Coded, stream: BinaryIO) -> Material:
        return Material(
            instance=instance, image=image, coded=coded, route=_NOWHERE, findings=(), identity="removed",
            destinations=(), sr_class="", node=self._node, settings_digest=self._mode, generation=0,
            source=stream,
        )

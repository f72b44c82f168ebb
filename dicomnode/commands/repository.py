"""``dicomnode models``: what models there are, whether they hold, how they answer, and how one is added.

**Way** The folder is that of the configuration (``-c``), or ``--models``, or the one that comes with the node. Versions are
looked at one by one, so that one bad card hides no other.

**Fails** `check` and `test` go through all models, name each fault, and end with 78 when there was one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicomnode.cards import AnyCard, Card
from dicomnode.commands.add_model import add
from dicomnode.commands.files import each, instance_of, sources
from dicomnode.commands.options import Json, MaybeConfig, print_json, routes_of
from dicomnode.errors import EXIT_CONFIG, EXIT_FAILURE, ConfigError, MissingModel, StageFailed
from dicomnode.image import Image
from dicomnode.repository import models_dir, resolve_any, versions
from dicomnode.rules import Routes
from dicomnode.settings import WorkSettings
from dicomnode.stages.infer import BATCH, Model
from dicomnode.stages.look import look
from dicomnode.stages.preprocess import to_unit
from dicomnode.stages.redact.letters import Letters
from dicomnode.stages.redact.model import TextModel
from dicomnode.stages.redact.slip import HEIGHT
from dicomnode.stages.redact.views import stack, views
from dicomnode.text_cards import Folder, ReaderCard, ReaderFolder, TextCard, TextFolder

app = typer.Typer(no_args_is_help=True, help="The repository of models: list, check, test, add.")
app.command("add")(add)

Root = Annotated[Path | None, typer.Option("--models", help="Folder of models; default: that of the configuration.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME[@VERSION]]...", help="These only; default: all.")]
Provider = Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="Where models run; default: as configured.")]

#: From this size on a model is called large: each worker that uses it holds it, bytes.
LARGE = 100_000_000
#: Runs that are timed.
_RUNS = 20


@dataclass(frozen=True, slots=True)
class _Version:
    """One version as it was found."""

    name: str
    version: str
    path: Path
    newest: bool
    used_by: tuple[str, ...]
    #: None when the card does not hold, which ``fault`` says.
    folder: Folder | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where to look, and who uses what."""

    root: Path
    work: WorkSettings
    routes: Routes | None

    def users(self, name: str, version: str, newest: str) -> Iterator[str]:
        """What in routes.toml means this version."""
        meant = {f"{name}@{version}", *([name] if version == newest else [])}
        if self.routes is not None:
            if self.routes.router in meant:
                yield "router"
            yield from (f"rule {rule.name}" for rule in self.routes.rule if meant & set(rule.models))

    def all(self, names: Sequence[str]) -> Iterator[_Version]:
        """Every version that was asked for; raises `MissingModel` for a name that is nowhere."""
        there = versions(self.root)
        for wanted in names:
            name, _, version = wanted.partition("@")
            if name not in there or (version and version not in there[name]):
                raise MissingModel(f"{self.root}: has no model {wanted!r}; there are: {', '.join(sorted(there)) or 'none'}")
        for name, numbers in sorted(there.items()):
            for version in numbers:
                if names and not {name, f"{name}@{version}"} & set(names):
                    continue
                used = tuple(self.users(name, version, numbers[0]))
                folder, fault = None, ""
                try:
                    folder = resolve_any(self.root, f"{name}@{version}")
                except ConfigError as error:
                    fault = str(error)
                yield _Version(name, version, self.root / name / version, version == numbers[0], used, folder, fault)


def _place(config: Path | None, root: Path | None) -> _Place:
    routes, settings = routes_of(config)
    work = settings.work if settings else WorkSettings()
    found = root or models_dir(work)
    if not found.is_dir():
        raise MissingModel(f"{found}: is no folder of models")
    return _Place(found, work, routes if settings else None)


def _size(folder: Folder) -> int:
    return sum((folder.path / name).stat().st_size for name in (folder.card.file, *(item.file for item in folder.card.data)))


@app.command("list")
def list_models(config: MaybeConfig = None, root: Root = None, json: Json = False) -> None:
    """List models and versions, the newest first: task, body parts, licence, size, and what uses them."""
    place = _place(config, root)
    table = Table(title=f"models in {place.root}", title_justify="left", box=None)
    for heading in ("model", "version", "task", "body parts", "licence", "MB", "used by"):
        table.add_column(heading, justify="right" if heading == "MB" else "left", overflow="fold")
    for found in place.all(()):
        card = found.folder.card if found.folder else None
        labelled = card if isinstance(card, Card) else None
        size = _size(found.folder) if found.folder else 0
        if json:
            print_json({
                "name": found.name, "version": found.version, "newest": found.newest, "task": card.task if card else None,
                "body_parts": list(labelled.body_parts) if labelled else [],
                "labels": [one.key for one in labelled.labels] if labelled else [],
                "maps": [one.kind for one in labelled.maps] if labelled else [],
                "licence": card.licence.identifier if card else None,
                "bytes": size, "used_by": list(found.used_by), "path": str(found.path), "fault": found.fault or None,
            })
            continue
        parts = ", ".join(labelled.body_parts) if labelled else "-"
        told = (card.task, parts, card.licence.identifier) if card else ("[red]does not hold[/]", "", "")
        mb = f"{size / 1e6:.1f}{' large' if size >= LARGE else ''}"
        used = ", ".join(found.used_by) or ("-" if found.newest else "- (older)")
        table.add_row(found.name if found.newest else "", found.version, *told, mb, escape(used))
    if not json:
        _console().print(table)


@app.command("check")
def check_models(
    names: Names = None, config: MaybeConfig = None, root: Root = None, provider: Provider = None, json: Json = False,
) -> None:
    """Hold every card against its folder, its graph and its sample; print licence, intended use and figures."""
    place = _place(config, root)
    failed = 0
    for found in place.all(names or ()):
        fault, off = found.fault, 0.0
        try:
            if found.folder:
                off = _opened(found.folder, provider, place.work).check_sample()
        except ConfigError as error:
            fault = str(error)
        failed += bool(fault)
        card = found.folder.card if found.folder else None
        if json:
            print_json({
                "name": found.name, "version": found.version, "outcome": "fault" if fault else "ok", "fault": fault or None,
                "sample_off": None if fault else off, "licence": card.licence.model_dump() if card else None,
                "intended_use": card.intended_use if card else None, "figures": card.figures if card else {},
                "training_data": [one.model_dump() for one in card.training_data] if card else [],
            })
            continue
        _console().print(f"[{'red' if fault else 'green'}]{'fault' if fault else 'ok'}[/] {found.name} {found.version}")
        if fault:
            typer.echo(f"    {fault}")
        if card:
            typer.echo("\n".join(f"    {line}" for line in _told(card)))
    raise typer.Exit(EXIT_CONFIG if failed else 0)


def _told(card: AnyCard) -> Iterator[str]:
    yield f"licence: {card.licence.identifier}. {card.licence.reason}"
    yield f"intended use: {card.intended_use}"
    if isinstance(card, Card):
        yield f"answers: {', '.join(f'{one.key} ({one.concept.value} {one.concept.scheme})' for one in card.labels)}"
    elif isinstance(card, TextCard):
        yield f"answers: where text is, one value for {card.step} x {card.step} pixels, text from {card.threshold:g}"
    elif isinstance(card, ReaderCard):
        yield f"answers: what stands in a line, one of {len(card.alphabet)} letters or none for {card.step} columns"
    for name, figures in card.figures.items():
        # Bounds of intervals stand in the card; here the figures alone.
        short = {key: value for key, value in figures.items() if not key.endswith(("_low", "_high"))}
        yield f"{name}: {', '.join(f'{key} {value}' for key, value in short.items())}"


@app.command("test")
def try_models(
    names: Names = None, config: MaybeConfig = None, root: Root = None,
    pictures: Annotated[
        Path | None, typer.Option(help="File or folder of DICOM, PNG or JPEG pictures that each model is asked about."),
    ] = None,
    provider: Provider = None, json: Json = False,
) -> None:
    """Ask models about their samples, or about pictures of yours, and say how long an answer takes."""
    place = _place(config, root)
    files = sources(pictures) if pictures else []
    failed = broken = 0
    for found in place.all(names or ()):
        if not names and not found.newest:
            continue
        try:
            if found.folder is None:
                raise MissingModel(found.fault)
            before = _rss()
            model = _opened(found.folder, provider, place.work)
            off = model.check_sample()
            memory = _rss() - before
        except ConfigError as error:
            failed += 1
            typer.echo(f"dicomnode: {found.name} {found.version}: {error}", err=True)
            continue
        one_ms, many_ms = _timed(model)
        batch = BATCH if isinstance(model, Model) else 1
        told = {
            "name": found.name, "version": found.version, "sample_off": off, "ms": round(one_ms, 2),
            "batch": batch, "batch_ms": round(many_ms, 2), "memory_bytes": memory, "provider": model.provider,
        }
        if json:
            print_json(told)
        else:
            together = f", {many_ms:.1f} ms in batches of {batch}" if batch > 1 else ""
            typer.echo(
                f"{found.name} {found.version}: sample answered, off by {off:.1e}; {one_ms:.1f} ms a picture{together}; "
                f"{memory / 1e6:.0f} MB; {model.provider}",
            )
        if isinstance(model, Model):
            broken += _ask(model, files, as_json=json)
        elif isinstance(model, TextModel):
            broken += _look_for_text(model, files, as_json=json)
        elif files:
            typer.echo(f"dicomnode: {found.name}: reads lines cut out of pictures, so it was not asked about them", err=True)
    raise typer.Exit(EXIT_CONFIG if failed else EXIT_FAILURE if broken else 0)


def _opened(folder: Folder, provider: Literal["cpu", "cuda"] | None, work: WorkSettings) -> Model | TextModel | Letters:
    wanted = provider or work.provider
    if isinstance(folder, TextFolder):
        return TextModel(folder, provider=wanted, threads=work.threads)
    if isinstance(folder, ReaderFolder):
        return Letters(folder, provider=wanted, threads=work.threads)
    return Model(folder, provider=wanted, threads=work.threads)


def _timed(model: Model | TextModel | Letters) -> tuple[float, float]:
    """Milliseconds of one picture of 1024 x 1024, alone and in a batch, from the unit frame or the views to the answer.

    One that reads is asked for a line 16 times as long as high.
    """
    picture = np.random.default_rng(0).random((1024, 1024), dtype=np.float32)
    seen = np.dstack([(picture * 255).astype(np.uint8)] * 3)
    alone = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        if isinstance(model, TextModel):
            model.answer(seen)
        elif isinstance(model, Letters):
            model.read(seen[:HEIGHT, : 16 * HEIGHT])
        else:
            model.answer(picture)
        alone.append(time.perf_counter() - started)
    if not isinstance(model, Model):
        return median(alone) * 1000, median(alone) * 1000
    started = time.perf_counter()
    model.answers([picture] * BATCH)
    return median(alone) * 1000, (time.perf_counter() - started) * 1000 / BATCH


def _rss() -> int:
    """Memory of this process, bytes (proc(5))."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def _ask(model: Model, files: Sequence[Path], *, as_json: bool) -> int:
    """Ask a model about files, a batch at a time; gives how many could not be read or answered."""
    broken = 0
    for first in range(0, len(files), BATCH):
        taken: dict[Path, NDArray[np.float32]] = {}
        read = partial(_read, taken)
        broken += len(list(each(list(files[first : first + BATCH]), read, label="reading", quiet=True)))
        started = time.perf_counter()
        answers = model.answers(list(taken.values()))
        spent = (time.perf_counter() - started) * 1000 / max(1, len(taken))
        for file, answer in zip(taken, answers, strict=True):
            rounded = {key: round(value, 4) for key, value in answer.probabilities.items()}
            if as_json:
                print_json({"path": str(file), "name": model.card.name, "probabilities": rounded, "ms": round(spent, 2)})
            else:
                typer.echo(f"  {file}: {', '.join(f'{key} {value:.3f}' for key, value in rounded.items())}  ({spent:.1f} ms)")
    return broken


def _look_for_text(model: TextModel, files: Sequence[Path], *, as_json: bool) -> int:
    """Say of each file what share of it counts as text; gives how many could not be read or answered."""

    def look_at(file: Path) -> None:
        seen = _views(file)
        started = time.perf_counter()
        share = float((model.answer(seen) >= model.card.threshold).mean())
        spent = (time.perf_counter() - started) * 1000
        if as_json:
            print_json({"path": str(file), "name": model.card.name, "text_share": round(share, 5), "ms": round(spent, 2)})
        else:
            typer.echo(f"  {file}: text in {share:.2%} of it  ({spent:.1f} ms)")

    return len(list(each(list(files), look_at, label="reading", quiet=True)))


def _views(file: Path) -> NDArray[np.uint8]:
    """The renderings of a file that redaction would show to a network."""
    with file.open("rb") as stream:
        if stream.read(132)[128:] == b"DICM":
            stream.seek(0)
            return views(Image.open(stream, instance_of(stream)), 0)
    grey = np.rint(_picture(file) * 255).astype(np.uint8)
    return stack(grey, grey, falls=False)


def _read(into: dict[Path, NDArray[np.float32]], file: Path) -> None:
    into[file] = _picture(file)


def _picture(file: Path) -> NDArray[np.float32]:
    """The picture of a file as the node would show it to a model."""
    with file.open("rb") as stream:
        if stream.read(132)[128:] == b"DICM":
            stream.seek(0)
            return look(Image.open(stream, instance_of(stream)))
    found = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if found is None:
        raise StageFailed(f"{file}: is no picture")
    return to_unit(found)


def _console() -> Console:
    # A log or a pipe has no width: lines are not to be cut there.
    return Console(width=None if Console().is_terminal else 200)

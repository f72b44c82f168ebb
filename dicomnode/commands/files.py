"""``run`` and ``route``: the pipeline and its first stage on files, without a network.

**Way** Each command goes through all files, says what became of each, and ends with 1 when one failed. The router is asked
about the pictures of several files at once (`ahead`). Results of `run` are named by their own UIDs, because names of sources
may hold names of people.

**Limits** `run` uses the identity of the configured node, so its pseudonyms are those that the node sends, and
the judge of that node, when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import track

from dicomnode.commands.ahead import Ahead
from dicomnode.commands.options import DEFAULT_CONFIG, Config, Json, MaybeConfig, print_json, routes_of
from dicomnode.errors import EXIT_FAILURE, DicomNodeError, NotFound, Permanent
from dicomnode.header import header
from dicomnode.image import Image
from dicomnode.judging import appeal_of
from dicomnode.kitting import build_kit, build_router, load_models
from dicomnode.pipeline import Kit, process
from dicomnode.records import UNCERTAIN, Held, Instance, OutputKind, Result, Route, leading
from dicomnode.repository import named
from dicomnode.settings import Peer, Settings, WorkSettings, load
from dicomnode.spool import Spool, new_id, read_identity
from dicomnode.stages.infer import Model
from dicomnode.stages.together import Together

#: The one destination of `run`: outside, so that nothing identifying is written.
_FOLDER = "folder"
_RUN_OUTPUTS: tuple[OutputKind, ...] = ("sr", "sc", "sc-map", "seg", "deidentified")


def sources(path: Path) -> list[Path]:
    """The files that a path means: itself, or everything below a folder, in order.

    Raises
    ------
    NotFound
        There is nothing.
    """
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    if not found:
        raise NotFound(f"{path}: no such file, or a folder without files")
    return found


def instance_of(stream: BinaryIO, node_id: str = "") -> Instance:
    """The record of a file that no network brought; the stream stands at its start afterwards."""
    instance_id = new_id(datetime.now(UTC))
    instance = header(stream, instance_id=instance_id, location="", node_id=node_id)
    stream.seek(0)
    return instance


def each(files: list[Path], work: Callable[[Path], None], *, label: str, quiet: bool) -> Iterator[tuple[Path, str]]:
    """Work every file; gives those that failed with the code of their error."""
    for file in track(files, description=label, disable=quiet, transient=True, console=Console(stderr=True)):
        try:
            work(file)
        except Exception as error:  # noqa: BLE001 - one bad file must not end a folder, and its text may quote a patient
            typer.echo(f"dicomnode: {file}: {code_of(error)}", err=True)
            yield file, code_of(error)


def code_of(error: Exception) -> str:
    """The code of an error of ours, the type of any other."""
    return error.code if isinstance(error, DicomNodeError) else type(error).__name__


def run(
    src: Annotated[Path, typer.Argument(help="File or folder of DICOM files.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results; made when absent.")],
    config: Config = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Work a folder as the node would, without a network; what is written is safe for outside."""
    settings = load(config)
    identity = Spool(settings.node.state_dir).identity()
    classify = _Batches()
    kit = _outside(build_kit(settings, identity.node_id, identity.key, classify.of, appeal_of(settings)))
    files = sources(src)  # once: results may stand below src
    ahead = Ahead(files, classify.made, partial(instance_of, node_id=identity.node_id), kit.route)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{out}: {error.strerror}", param_hint="--out") from None
    waiting = 0

    def work(file: Path) -> None:
        nonlocal waiting
        with ahead.opened(file) as (stream, instance, image):
            result = process(instance, stream, kit, image=image)
            written, held = _write_all(out, result)
        waiting += len(held)
        for one in held:
            typer.echo(f"dicomnode: {file}: {one.kind} held ({one.reason})", err=True)
        if json:
            print_json({"path": str(file), **_told(result, held), "outputs": written})

    failed = list(each(files, work, label="working", quiet=json))
    if not json:
        typer.echo(f"{len(files) - len(failed)} worked, {len(failed)} failed, {waiting} outputs held; results in {out}")
    raise typer.Exit(EXIT_FAILURE if failed or waiting else 0)


class _Batches:
    """Makes the router's model one that is asked in batches."""

    made: Together

    def of(self, model: Model) -> Together:
        """The model, asked in batches."""
        self.made = Together(model.probabilities_of)
        return self.made


def _outside(kit: Kit) -> Kit:
    """The same kit with every route leading to one outside folder."""

    def route(instance: Instance, image: Image) -> Route:
        return replace(kit.route(instance, image), outputs=_RUN_OUTPUTS, destinations=(_FOLDER,))

    return replace(kit, route=route, peers={_FOLDER: Peer(ae_title="FOLDER")})


def _write_all(out: Path, result: Result) -> tuple[list[str], list[Held]]:
    """Write the outputs, as the worker does: one that fails while it is written is held alone."""
    written, held = [], list(result.held)
    for output in result.outputs:
        try:
            written.append(_write(out, output.kind, output.sop_instance_uid, output.write))
        except Permanent as error:
            held.append(Held(output.kind, output.destinations, error.code))
    return written, held


def _write(out: Path, kind: str, uid: str, write: Callable[[BinaryIO], None]) -> str:
    path = out / f"{kind}-{uid}.dcm"
    draft = path.with_suffix(".part")
    try:
        with draft.open("wb") as stream:
            write(stream)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path.name


def _told(result: Result, held: list[Held]) -> dict[str, object]:
    lead = leading(result.findings)
    return {
        "body_part": result.route.body_part,
        "probability": result.route.probability,
        "rule": result.route.rule,
        "model": ", ".join(one.model for one in result.findings) or None,
        "finding": lead[1].label if lead else None,
        "finding_probability": lead[1].probability if lead else None,
        "findings": [dict(one.brief) for one in result.findings],
        "regions": len(result.regions),
        "held": [{"kind": one.kind, "reason": one.reason} for one in held],
        **_judged(result.route),
        "stage_ms": dict(result.stage_ms),
    }


def route(
    files: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    config: MaybeConfig = None,
    json: Json = False,
) -> None:
    """Say which body part each file shows, which rule wins and where the results would go."""
    routes, settings = routes_of(config)
    work_settings, approved = (settings.work, settings.approved) if settings else (WorkSettings(), None)
    classify = _Batches()
    stage = build_router(routes, load_models(work_settings, named(routes), approved), _key(settings), classify.of)
    everything = [file for path in files for file in sources(path)]
    ahead = Ahead(everything, classify.made, instance_of, stage)

    def work(file: Path) -> None:
        with ahead.opened(file) as (_, instance, image):
            found = stage(instance, image)
        if json:
            print_json({
                "path": str(file), "body_part": found.body_part, "probability": found.probability,
                "probabilities": dict(found.probabilities), "source": found.source, "rule": found.rule,
                "model": ", ".join(found.models) or None,
                "models": list(found.models), "destinations": list(found.destinations), **_judged(found),
            })
        else:
            typer.echo(f"{file}: {found.body_part} ({found.probability:.3f} by {found.source}){_why(found)}, rule {found.rule}"
                       f", model {', '.join(found.models) or '-'}, to {', '.join(found.destinations) or '-'}")

    failed = list(each(everything, work, label="routing", quiet=True))
    raise typer.Exit(EXIT_FAILURE if failed else 0)


def _key(settings: Settings | None) -> bytes:
    """The node's key, for tokens that are those of its log and reports; none where no node has run."""
    if settings is None or not (settings.node.state_dir / "node.json").exists():
        return b""
    return read_identity(settings.node.state_dir).key


def _judged(route: Route) -> dict[str, object]:
    """What picture and Body Part Examined said, and the policies that the rule went by."""
    return {
        "picture": route.picture or None, "picture_probability": route.picture_probability, "tag": route.tag,
        "agreement": route.agreement or None, "doubt": route.doubt or None, "trust": route.trust,
        "uncertain": route.handling or None, "hold": route.hold or None, "device": route.device or None,
    }


def _why(route: Route) -> str:
    """The same in words, as far as there is something to say."""
    parts = [
        f"picture {route.picture}" if route.picture not in {"", route.body_part} else "",
        f"uncertain because {route.doubt}" if route.doubt else "",
        f"tag {route.tag}{' disagrees' * (route.agreement == 'disagrees')}" if route.picture else "",
        f"trust {route.trust}" if route.agreement == "disagrees" else "",
        f"{UNCERTAIN} = {route.handling}" if route.handling else "",
        f"outputs held ({route.hold})" if route.hold else "",
    ]
    return "".join(f", {part}" for part in parts if part)

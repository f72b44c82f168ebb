"""``dicomnode where KEY``: what happened to an instance, when and by whom, where it is now and who must act.

**Way** KEY is whatever people have at hand: an instance id, the UID of an instance, series, study or result, a token of the
log, an Accession Number, or an AE title (who sent it, or where it goes; a peer's name too). Spaces and letter case do not
count. What KEY stands for in several ways is shown in all of them. The Accession Number is turned into its token before it is
asked for; nothing keeps or prints it. ``-`` reads KEY from standard input, for sudo and the shell write down what stands on
their line.

**Fails** Nothing found is `NotFound`, which ends with 1.

**Limits** Reads only, makes no file, and may run beside the node, as the node's own user. An Accession Number is known of
instances that were taken in since version 3 of the queue, and only from the top level of the data set, in ASCII or UTF-8.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from dicomnode import log
from dicomnode.commands.options import DEFAULT_CONFIG, Config, Json, print_json
from dicomnode.commands.queue_print import bare_table, wide_console
from dicomnode.commands.story import story
from dicomnode.errors import NotFound
from dicomnode.gate import accession_token
from dicomnode.queue import Name, Traced
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.settings import Settings, load
from dicomnode.spool import read_identity

Key = Annotated[
    str, typer.Argument(metavar="KEY", help="Instance id, UID, log token, Accession Number, AE title or peer; - asks for it."),
]
Limit = Annotated[int, typer.Option(min=0, help="At most this many instances, the newest; 0: all.")]

_ID = re.compile(r"(\d{8})t(\d{12}-[0-9a-f]{8})", re.IGNORECASE)
_UID = re.compile(r"[0-9.]{1,64}")
_TOKEN = re.compile(r"uid-[0-9a-f]{12}", re.IGNORECASE)
_UID_NAMES: tuple[Name, ...] = ("SOP Instance UID", "result UID", "Series Instance UID", "Study Instance UID")
#: What is told of the instance itself.
_FACTS = (
    "instance_id", "state", "reason", "sop_instance_uid", "series_instance_uid", "study_instance_uid", "modality", "calling_ae",
    "called_ae", "address", "received_at", "size_bytes", "body_part", "doubt",
    "picture", "tag", "agreement", "device", "rule", "model", "finding", "urgent",
)
_MOMENTS = {"destination_since": "so since", "due_at": "next try not before"}
_COLOURS = {"nobody": "green", "reviewer": "yellow", "administrator": "red", "developer": "red"}


def where(key: Key, config: Config = DEFAULT_CONFIG, as_json: Json = False, limit: Limit = 10) -> None:
    """Tell what happened to an instance, when and by whom, and where it is now."""
    settings = load(config)
    if key == "-":
        key = typer.prompt("KEY", err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    path = settings.node.state_dir / "queue.sqlite"
    if not path.exists():
        raise NotFound(f"{path}: there is no queue yet; the node makes it when it starts")
    node_key = read_identity(settings.node.state_dir).key
    queue = SqliteQueue(path, read_only=True)
    try:
        found = [
            (name, traced) for name, value in _meanings(key, settings, queue, node_key)
            if (traced := queue.trace(name, value, limit)).ids
        ]
        if not found:
            raise NotFound(f"{key}: no instance, result, study, Accession Number, AE title or destination of this queue")
        names: dict[str, list[str]] = {}
        for name, traced in found:
            for instance_id in traced.ids:
                names.setdefault(instance_id, []).append(name)
        if not as_json:
            _print_found(found)
        for instance_id in sorted(names):
            for row in queue.find(instance_id):
                told = story(row, queue.history(instance_id), settings.peers, queue.destination_state)
                location = None if row["file_gone"] else str(settings.node.state_dir / "spool" / str(row["location"]))
                whole = {
                    "matched": names[instance_id], **{fact: row[fact] for fact in _FACTS},
                    "log_token": log.uid_token(str(row["sop_instance_uid"]), node_key), "file": location, **told,
                }
                if as_json:
                    print_json(whole)
                else:
                    _print_story(whole)
    finally:
        queue.close()


def _meanings(key: str, settings: Settings, queue: SqliteQueue, node_key: bytes) -> Iterator[tuple[Name, str]]:
    """Everything that a key may stand for."""
    text = unicodedata.normalize("NFKC", key).replace("\0", "").strip(" \t\r\n'\"<>[](),;")
    bare = "".join(text.split()).rstrip(".")
    if match := _ID.fullmatch(bare):
        yield "instance id", f"{match[1]}T{match[2].lower()}"
    if _UID.fullmatch(bare):
        for name in _UID_NAMES:
            yield name, bare
    if _TOKEN.fullmatch(bare):
        for uid in {uid for uid, _ in queue.names() if log.uid_token(uid, node_key) == bare.lower()}:
            for name in _UID_NAMES[:2]:
                yield name, uid
    if text:
        yield "Accession Number", accession_token(text, node_key)
        same = text.casefold()
        peers = {name: peer for name, peer in settings.peers.items() if same in (name.casefold(), peer.ae_title.casefold())}
        for title in {same, *(peer.ae_title.casefold() for peer in peers.values())}:
            yield "calling AE title", title
        for name_ in {same, *(name.casefold() for name in peers)}:
            yield "destination", name_


# -- printing
def _print_found(found: list[tuple[Name, Traced]]) -> None:
    for name, traced in found:
        count = sum(traced.sides.values())
        sides = ", ".join(f"{number} {side}" for side, number in traced.sides.items())
        shown = f"; the newest {len(traced.ids)} are shown, --limit 0 shows all" if len(traced.ids) < count else ""
        typer.echo(f"As {name}: {count} instance{'s' * (count != 1)}, {sides}{shown}")


def _print_story(whole: dict[str, object]) -> None:
    console = wide_console()
    console.print()
    title = f"{whole['instance_id']}  {whole['modality']}".rstrip()
    if console.is_terminal:
        console.rule(title, align="left", style="bold")
    else:
        console.print(title)
    console.print(f"SOP Instance UID {whole['sop_instance_uid']}  in the log {whole['log_token']}")
    console.print(f"file {whole['file'] or 'removed after its retention'}")
    if whole["body_part"]:
        console.print(_routed(whole))
    timeline = bare_table("when", "what", "output", "by", "why")
    for event in _mappings(whole["timeline"]):
        timeline.add_row(*_row(event))
    console.print(timeline)
    now = bare_table("now", "state", "who acts", "what")
    for one in _mappings(whole["now"]):
        _add_now(now, one)
    console.print(now)


def _routed(whole: dict[str, object]) -> str:
    """What it shows, by picture, tag and rule."""
    why = f" because {whole['doubt']}" if whole["doubt"] else ""
    said = f", picture {whole['picture']}, Body Part Examined {whole['tag']}" if whole["picture"] else ""
    disagree = " (they disagree)" if whole["agreement"] == "disagrees" else ""
    return f"body part {whole['body_part']}{why}{said}{disagree}, rule {whole['rule']}"


def _mappings(value: object) -> list[dict[str, object]]:
    return [dict(one) for one in value] if isinstance(value, list) else []


def _row(event: dict[str, object]) -> tuple[str, str, str, str, str]:
    when = local(event["at"])
    what = str(event["what"])
    if "times" in event:
        what += f", {event['times']} times until {local(event['until'])}"
    why = " ".join(str(event[name]) for name in ("reason", "status") if event.get(name))
    return when, what, _to(event.get("output"), event), _by(event["by"]), why


def _to(output: object, told: dict[str, object]) -> str:
    if not told.get("destination"):
        return ""
    return f"{output} to {told['destination']}" + (f" ({told['ae_title']})" if told.get("ae_title") else "")


def _by(by: object) -> str:
    if not isinstance(by, dict):
        return ""
    if "person" in by:
        return f"{by['person']}"
    role = str(by["role"]) + (f" {by['pid']}" if by.get("pid") else "")
    sender = " ".join(str(by[name]) for name in ("calling_ae", "address") if by.get(name))
    return f"{sender}, {role}" if sender else role


def _add_now(table: Table, one: dict[str, object]) -> None:
    parts = [str(one[name]) for name in ("what", "reason", "status", "acts") if one.get(name)]
    parts += [f"{word} {local(one[name])}" for name, word in _MOMENTS.items() if one.get(name)]
    state = f"{one['state']}{', urgent' * bool(one.get('urgent'))} since {local(one['since'])}"
    table.add_row(
        "instance" if one["of"] == "instance" else _to(one["of"], one), state, str(one["who"]), "; ".join(parts),
        style=_COLOURS.get(str(one["who"])),
    )


def local(value: object) -> str:
    """Give an ISO 8601 time in the zone of this machine, to the second."""
    return datetime.fromisoformat(str(value)).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")

"""What cannot be seen in the configuration files: models, programs, disk, port and, when asked, the peers.

**Way** `check` runs every look and gives one `Answer` each, so that one run names all faults. The state directory is
looked at and never made: made by root it would not be the service's.

**Fails** It does not: a fault is an answer.

**Limits** Peers are contacted only when an echo is given, a language model whenever one is set and asked. Models are opened as
a worker would, which takes its memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from dicomnode.errors import ConfigError, DicomNodeError
from dicomnode.judging import Endpoint, NoVerdict
from dicomnode.kitting import load_models, map_kinds, misfits
from dicomnode.pipeline import MAP_KINDS
from dicomnode.places import folded
from dicomnode.repository import (
    DETECTOR,
    GATE,
    READER,
    load_reader_model,
    load_text_model,
    models_dir,
    named,
    resolve_any,
    versions,
)
from dicomnode.serve.locks import lock_path
from dicomnode.serve.tree import ROLES
from dicomnode.settings import Settings
from dicomnode.spool.folders import OPEN_TO_OTHERS, open_to_others
from dicomnode.spool.room import free_bytes, held_bytes, intake_bytes
from dicomnode.stages.redact.letters import Letters
from dicomnode.stages.redact.model import TextModel

#: File systems that do not keep the order of rename and fsync, as /proc/self/mountinfo names them.
_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs", "ncpfs", "fuse.sshfs",
    "fuse.glusterfs", "fuse.s3fs", "fuse.rclone",
})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one look found."""

    #: What was looked at, ``model bodypart-router`` or ``disk``.
    about: str
    #: ``fault``: the node cannot do its work; ``warning``: it can, a person should look.
    outcome: Literal["ok", "warning", "fault"]
    detail: str


#: Ports below this one need a privilege, or systemd's socket (ip_unprivileged_port_start).
_UNPRIVILEGED = 1024
#: Asks a peer by name and says what it answered; raises an error of ours when it did not.
Echo = Callable[[str], str]
Answers = Iterator[Answer]


def check(
    settings: Settings, echo: Echo | None = None, roles: Collection[str] = ROLES, *, port: bool = True,
) -> tuple[Answer, ...]:
    """Look at everything that ``settings`` names and these roles use.

    Parameters
    ----------
    port
        False: the node that asks has its port already.
    """
    return (
        *_callers(settings), *_routes(settings),
        *((*_models(settings), *_text_models(settings), *_ocr(settings)) if "work" in roles else ()),
        *(_judge(settings) if "judge" in roles else ()), *(_places(settings) if "work" in roles else ()),
        *(_hook(settings) if "keep" in roles else ()), *(_port(settings) if port and "accept" in roles else ()),
        *_state(settings), *_disk(settings), *_peers(settings, echo),
    )


def _callers(settings: Settings) -> Answers:
    callers = sorted(peer.ae_title for peer in settings.peers.values() if peer.calls_from)
    if settings.node.open:
        yield Answer("callers", "warning", "open = true: any AE may call from anywhere; for trials only")
    elif not callers:
        yield Answer("callers", "warning", "no peer has calls_from, so every association will be rejected")
    else:
        yield Answer("callers", "ok", ", ".join(callers))


def _routes(settings: Settings) -> Answers:
    rules = settings.routes.rule
    if any(rule.outputs for rule in rules):
        yield Answer("routes", "ok", f"{len(rules)} rules")
    else:
        yield Answer("routes", "warning", "no rule makes outputs, so nothing will leave")
    for rule in rules:
        if rule.uncertain == "all" and not {*rule.outputs} - {"original"}:
            yield Answer("routes", "warning", f'rule {rule.name!r}: uncertain = "all", but without a report none is asked')
        # Originals alone are passed on without asking a model.
        lacks = "it names no model" if not rule.models else "" if {*rule.outputs} - {"original"} else "it makes no report"
        if rule.urgent == "abnormal" and lacks:
            yield Answer(
                "routes", "warning", f'rule {rule.name!r}: urgent = "abnormal", but {lacks}, so nothing of it is ever urgent',
            )


def _models(settings: Settings) -> Answers:
    work, models = settings.work, {}
    for name in named(settings.routes):
        try:
            model = models[name] = load_models(work, [name], settings.approved)[name]
        except ConfigError as error:
            yield Answer(f"model {name}", "fault", f"routes.toml names it: {error}")
            continue
        card = model.card
        yield Answer(
            f"model {name}", "ok", f"{card.version}, {model.provider}; licence of the weights {card.licence.identifier}; "
            f"for: {card.intended_use}",
        )
    for name, fault in misfits(settings.routes, models):
        yield Answer(f"model {name}", "fault", f"routes.toml: {fault}")
    for rule in settings.routes.rule:
        answered = {kind for name in rule.models if name in models for kind in map_kinds(models[name])}
        for kind in (one for one in rule.outputs if one in MAP_KINDS and not answered & MAP_KINDS[one]):
            yield Answer("routes", "warning", f"rule {rule.name!r}: none of its models says where, so no {kind} is ever made")
    root = models_dir(work)
    used = {(model.card.name, model.card.version) for model in models.values()}
    for name, version in ((name, version) for name, numbers in versions(root).items() for version in numbers):
        if (name, version) not in used:
            try:
                resolve_any(root, f"{name}@{version}")
            except ConfigError as error:
                yield Answer(f"model {name}@{version}", "warning", f"no rule names it, and it does not hold: {error}")


def _text_models(settings: Settings) -> Answers:
    """Open the networks that find and read text, and let them answer their samples."""
    root, work = settings.work.models_dir, settings.work
    for name, does in ((DETECTOR, "finds text"), (GATE, "finds text"), (READER, "reads text")):
        try:
            model: TextModel | Letters
            if name == READER:
                model = Letters(load_reader_model(root, settings.approved), provider=work.provider, threads=work.threads)
            else:
                folder = load_text_model(root, name, settings.approved)
                model = TextModel(folder, provider=work.provider, threads=work.threads)
            model.check_sample()
        except ConfigError as error:
            yield Answer(f"model {name}", "fault", f"redaction needs it: {error}")
            continue
        licence = model.card.licence.identifier
        yield Answer(f"model {name}", "ok", f"{model.card.version}, {does}; licence of the weights {licence}")


def _ocr(settings: Settings) -> Answers:
    wanted = settings.work.ocr_language.split("+")
    try:
        listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        yield Answer("tesseract", "fault", "the program is not there: install tesseract-ocr")
        return
    missing = sorted(set(wanted) - set(listed.stdout.split()))
    if missing:
        yield Answer("tesseract", "fault", f"work.ocr_language: not installed: {', '.join(missing)}")
    else:
        yield Answer("tesseract", "ok", "+".join(wanted))


def _judge(settings: Settings) -> Answers:
    """Ask the language model about invented words; a node without it blanks more, so its silence is no fault."""
    judge = settings.judge
    if judge.url is None:
        return
    if not settings.asks_judge:
        yield Answer("judge", "warning", 'judge.url is set, but with work.redaction = "strict" no model is asked')
        return
    if judge.outside:
        yield Answer("judge", "warning", f"judge.outside: patients' text leaves the house ({judge.outside_reason})")
    host = urlsplit(judge.url).hostname or ""
    if judge.url.startswith("http:") and not _is_here(host):
        yield Answer("judge", "warning", f"judge.url: patients' text goes to {host} without encryption; https hides it")
    try:
        endpoint = Endpoint(settings)
        started = time.monotonic()
        verdicts = endpoint(_TECHNICAL)
    except ConfigError as error:
        yield Answer("judge", "fault", str(error))
    except NoVerdict as error:
        yield Answer("judge", "warning", f"{judge.model} does not judge ({error}): {_NO_VERDICT.get(str(error), _SILENT)}")
    else:
        seconds, kept = time.monotonic() - started, verdicts.count("harmless")
        told = f"{judge.model} judges in {seconds:.1f} s, {kept} of {len(verdicts)} technical texts harmless"
        yield Answer("judge", "ok" if kept else "warning", told)


#: What nobody takes for a person, to see whether the model answers in form.
_TECHNICAL = ("FOV 350 mm", "120 kVp", "Gain 52 dB", "T2 TSE COR")
_SILENT = "as long as that lasts, all unknown text is blanked"
_NO_VERDICT = {
    "outside": "its name means an address beyond this machine and private networks",
    "fooled": "it calls an invented patient's name harmless; do not use this model",
    "odd_answer": "its answer is not in the form that was asked for; try another judge.answer or model",
}


def _is_here(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


def _places(settings: Settings) -> Answers:
    if settings.places:
        rectangles = sum(len(place.rectangles) for place in settings.places)
        devices = len({(folded(place.manufacturer), folded(place.model)) for place in settings.places})
        yield Answer("redaction", "ok", f"{rectangles} rectangles for {devices} devices in {len(settings.places)} sizes")
    seen: set[str] = set()
    for place in settings.places:
        key = place.model_dump_json(exclude={"rectangles", "note"})
        if key in seen:
            device = f"{place.manufacturer} {place.model}, {place.columns} x {place.rows}"
            yield Answer("redaction", "warning", f"{device}, stands there twice; both are used")
        seen.add(key)


def _hook(settings: Settings) -> Answers:
    hook = settings.keep.hook
    if hook and shutil.which(hook[0]) is None:
        yield Answer("hook", "fault", f"keep.hook: {hook[0]} is no program that can be run")


def _port(settings: Settings) -> Answers:
    node = settings.node
    family = socket.AF_INET6 if ":" in node.bind else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((node.bind, node.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _node_runs(node.state_dir):
                yield Answer("port", "ok", f"{node.port}, in use by this node")
            elif error.errno == errno.EACCES and node.port < _UNPRIVILEGED:
                yield Answer("port", "warning", f"{node.port} needs a privilege, or systemd's dicomnode.socket, which opens it")
            else:
                holder = "; sound if systemd's dicomnode.socket holds it" if error.errno == errno.EADDRINUSE else ""
                why = os.strerror(error.errno or 0)
                yield Answer("port", "fault", f"node.port: {node.bind} port {node.port}: {why}{holder}")
            return
    yield Answer("port", "ok", f"{node.port}, free")


def _node_runs(state_dir: Path) -> bool:
    """Say whether a `dicomnode serve` on this state directory runs the acceptors."""
    try:
        with lock_path(state_dir, "accept").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _existing(path: Path) -> Path:
    """Give ``path`` or the nearest folder above it that is there."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _state(settings: Settings) -> Answers:
    path = settings.node.state_dir
    if not path.is_absolute():
        yield Answer("state", "warning", f"node.state_dir: {path} is relative, so it follows the folder of the start")
        path = path.absolute()
    base = _existing(path)
    kind = file_system(base)
    parts = [part for part in (path, path / "spool", *(path / "spool").glob("*")) if part.is_dir()]
    if not os.access(base, os.W_OK | os.X_OK):
        yield Answer("state", "fault", f"node.state_dir: {base} cannot be written by this account")
    elif path.exists() and open_to_others(path):
        yield Answer("state", "fault", f"node.state_dir: {path} {OPEN_TO_OTHERS}")
    elif kind in _NETWORK:
        yield Answer("state", "fault", f"node.state_dir: {base} is on {kind}; only local file systems keep what is promised")
    elif len({part.stat().st_dev for part in parts}) > 1:
        yield Answer("state", "fault", f"node.state_dir: {path} spans file systems; rename works within one only")
    else:
        yield Answer("state", "ok", f"{path} on {kind}{'' if path.exists() else ', made at the first start'}")


def file_system(path: Path) -> str:
    """Give the type of the file system that ``path`` is on, as the kernel calls it."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        head, _, tail = line.partition(" - ")
        if head.split()[2] == wanted:
            return tail.split()[0]
    return "unknown"


def _disk(settings: Settings) -> Answers:
    scp = settings.scp
    base, asked = _existing(settings.node.state_dir.absolute()), settings.keep.holds_max_bytes
    held = held_bytes(settings.node.state_dir)
    free, left = free_bytes(base), intake_bytes(base, asked, held)
    text = (
        f"{left / 1e9:.1f} GB for the intake ({free / 1e9:.1f} GB free, the room for holds is kept apart), "
        f"associations are refused below {scp.min_free_bytes / 1e9:.1f} GB"
    )
    if scp.reserve_bytes > scp.min_free_bytes:
        yield Answer("disk", "warning", "scp.reserve_bytes is above scp.min_free_bytes: instances refused first")
    if left < scp.min_free_bytes:
        yield Answer("disk", "fault", text)
    else:
        yield Answer("disk", "warning" if left < 2 * scp.min_free_bytes else "ok", text)


def _peers(settings: Settings, echo: Echo | None) -> Answers:
    for name, peer in sorted(settings.peers.items()):
        where = f"{peer.ae_title} at {peer.host}:{peer.port}, {peer.trust}" if peer.host else f"{peer.ae_title}, calls only"
        if echo is None or peer.host is None:
            yield Answer(f"peer {name}", "ok", where)
            continue
        try:
            yield Answer(f"peer {name}", "ok", f"{where}: {echo(name)}")
        except DicomNodeError as error:
            yield Answer(f"peer {name}", "warning", f"{where}: {error}")

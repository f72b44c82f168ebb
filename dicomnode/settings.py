"""The configuration of ae_config/ as frozen pydantic models; unknown keys are refused, every setting is described here.

**Way** `load` reads ``node.toml``, ``routes.toml``, ``peers/*.toml`` and ``redaction/*.toml`` of one directory, checks them
together and gives one `Settings`, which is passed on and never imported. The reference in ae_config/README.md is generated from
these models.

**Fails** Every fault is a `ConfigError` leaf whose message names file and key; the commands exit with 78 then.

**Standard** AE titles follow PS3.5 Table 6.2-1 (VR AE); field names follow PS3.15 Annex H where it has one.

**Limits** What cannot be seen in the files (models, programs, disk, ports) is checked by `check.py`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import random
import re
import tomllib
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from dicomnode.errors import BadRule, BadSetting, NoSuchPeer
from dicomnode.places import Place, PlacesFile
from dicomnode.records import Trust
from dicomnode.rules import Routes, Rule, Strict

Priority = Literal["low", "medium", "high"]
SrClass = Literal["comprehensive-3d", "comprehensive", "enhanced", "basic-text"]


def _ae_title(value: str) -> str:
    """PS3.5 VR AE: 1 to 16 characters of the default repertoire, no backslash, no control character, not only spaces."""
    value = value.strip(" ")
    if not 1 <= len(value) <= 16 or "\\" in value or not all(0x20 <= ord(c) <= 0x7E for c in value):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash (PS3.5, VR AE)")
    return value


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)  # its ValueError names the fault
    return value


def _window(value: str) -> str:
    if re.fullmatch(_WINDOW, value) is None or value[:5] == value[6:]:
        raise ValueError("a window is two different times of day, as 19:00-06:00")
    return value


_WINDOW = r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d"

AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
Window = Annotated[str, AfterValidator(_window)]

M = TypeVar("M", bound=Strict)


#: Windows open every day, so with this lifetime every delivery meets a whole one.
_WINDOW_LIFETIME_H = 48

#: Doublings behind which any first delay is beyond any longest one.
_MAX_DOUBLINGS = 60


class NodeSettings(Strict):
    """``[node]`` of node.toml: who we are and where we listen."""

    ae_title: AETitle = Field("DICOMNODE", description="AE title of this node; associations must call it.")
    bind: str = Field("0.0.0.0", description="Address to listen on.")  # noqa: S104 - a node serves the hospital's network
    port: int = Field(11112, ge=1, le=65535, description="TCP port to listen on; 11112 is DICOM's at IANA.")
    state_dir: Path = Field(description="Directory of spool and queue, on one local file system.")
    open: bool = Field(False, description="true: any AE may call from anywhere. For trials only.")


class ScpSettings(Strict):
    """``[scp]`` of node.toml: how associations are accepted."""

    acceptors: int = Field(2, ge=1, le=64, description="Acceptor processes under `serve`, on one listening socket.")
    max_associations: int = Field(100, ge=1, le=1000, description="Associations at a time, in all acceptors together.")
    max_associations_per_ae: int = Field(
        32, ge=1, le=1000, description="Associations at a time from one calling AE title, in all acceptors together.",
    )
    max_pdu_bytes: int = Field(131072, ge=16384, le=1048576, description="Largest P-DATA-TF PDU that we take, bytes.")
    acse_timeout_s: float = Field(30, gt=0, description="Wait for association messages, seconds.")
    dimse_timeout_s: float = Field(60, gt=0, description="Wait for the rest of a PDU, and in a message for the next, seconds.")
    network_timeout_s: float = Field(120, gt=0, description="An association that is idle this long is aborted, seconds.")
    min_free_bytes: int = Field(
        1 << 30, ge=0, description="Below this much disk for the intake new associations are refused, bytes: "
        "what is free without the room kept for holds.",
    )
    reserve_bytes: int = Field(
        256 << 20, ge=0, description="Below this much of it instances are answered 0xA700; the rest is for results.",
    )


class WorkSettings(Strict):
    """``[work]`` of node.toml: how instances are worked."""

    workers: int = Field(2, ge=1, le=64, description="Worker processes under `serve`.")
    threads: int = Field(1, ge=1, le=64, description="Threads of one inference session.")
    provider: Literal["cpu", "cuda"] = Field("cpu", description="Where models run; cuda needs a GPU and its libraries.")
    models_dir: Path | None = Field(None, description="Folder of models; absent: the models that come with the node.")
    deadline_s: float = Field(
        600, gt=0, description="Without a step forward (a stage or a frame ended) for this long a worker is stopped, seconds.",
    )
    redact_max_s: float = Field(
        7200, gt=0, description="Reading the text of one instance may take this long, then its pictures are held, seconds.",
    )
    redaction: Literal["strict", "header"] = Field(
        "strict", description="strict: unknown text counts as identifying; header: header matches, dates, numbers only.",
    )
    documents: Literal["hold", "drop"] = Field(
        "hold",
        description="De-identified images that are wanted of objects without pictures (reports, waveforms, PDF, presentation "
        "states) are never made. hold: they wait for a person in sight; drop: they are given up, with a line in the log.",
    )
    ocr_language: str = Field("eng", pattern=r"^[a-zA-Z0-9_+]+$", description="Languages of Tesseract, joined by +.")


class SendSettings(Strict):
    """``[send]`` of node.toml: how deliveries are tried."""

    first_delay_s: float = Field(30, gt=0, description="Wait before the second try, doubled each time, seconds.")
    max_delay_s: float = Field(3600, gt=0, description="Longest wait between two tries, seconds.")
    lifetime_h: float = Field(120, gt=0, description="A delivery not taken after this many hours expires and is set aside.")
    idle_s: float = Field(10, ge=0, description="An association without work is kept this long before release, seconds.")
    timeout_s: float = Field(60, gt=0, description="Wait for a peer's answer, seconds.")
    max_mbit_s: float = Field(0, ge=0, description="All destinations together get at most this much, Mbit/s; 0: no limit.")
    probe_s: float = Field(30, gt=0, description="A destination that is down gets a C-ECHO this often, seconds.")

    def delay_s(self, attempt: int) -> float:
        """Wait after a try that failed for now: doubled with each attempt, counted from 1, and spread by a fifth."""
        doubled = self.first_delay_s * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS)
        return min(doubled, self.max_delay_s) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads tries, keeps no secret


class KeepSettings(Strict):
    """``[keep]`` of node.toml: what the keeper keeps and tells."""

    scan_s: float = Field(5, gt=0, description="The incoming folder is scanned this often beside inotify, seconds.")
    retention_h: float = Field(24, ge=0, description="Sources and results are removed this many hours after all is delivered.")
    rows_d: float = Field(365, gt=0, description="Rows of finished instances are removed after this many days.")
    counts_d: float = Field(1096, gt=0, description="Counts of `report tags` are removed after this many days.")
    holds_max_bytes: int | None = Field(
        None, ge=0, description="Room kept for held and quarantined files, bytes; above it the alarm sounds. "
        "Absent: a tenth of the file system, at most 10 GiB and a quarter of what is free or held.",
    )
    summary_at: str = Field("07:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="Time of the daily summary line.")
    hook: tuple[str, ...] = Field(
        (), description="Command run for destination_down, holds_grown, disk_low and finding_abnormal; one JSON on stdin.",
    )


class JudgeSettings(Strict):
    """``[judge]`` of node.toml: a language model that judges text in pictures which nobody knows; off without a `url`."""

    url: str | None = Field(
        None, description="Address of an OpenAI-compatible endpoint up to its version, as http://127.0.0.1:8080/v1; absent: no "
        'model is asked. It is asked with `work.redaction = "header"` only: in strict mode unknown text always goes.',
    )
    model: str = Field("", description="Name of the model, as the endpoint calls it; required with `url`.")
    key_file: Path | None = Field(
        None, description="File with the API key, closed to other accounts; relative to this folder; absent: no key is sent.",
    )
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) of the authorities that vouch for the endpoint; relative to this folder; absent: "
        "those of the system.",
    )
    timeout_s: float = Field(
        20, gt=0, le=600, description="What is asked at a time is judged in this time, or is blanked, seconds; at most a "
        "quarter of `work.deadline_s`.",
    )
    batch: int = Field(40, ge=1, le=200, description="Texts in one question to the model.")
    answer: Literal["schema", "object", "plain"] = Field(
        "schema", description="How the endpoint is held to a form of its answer: by a JSON schema, to any JSON object, not.",
    )
    outside: bool = Field(
        False, description="true: the endpoint may lie beyond this machine and private networks, over https. Patients' text "
        "leaves the house.",
    )
    outside_reason: str = Field("", description="Why; required with outside = true.")

    @model_validator(mode="after")
    def _whole(self) -> JudgeSettings:
        if self.outside and not self.outside_reason.strip():
            raise ValueError("outside = true needs an outside_reason")
        if self.url is None:
            return self
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError("url is http://HOST:PORT/v1 or https://HOST/v1, without name, password, ? and #")
        _ = parts.port  # its ValueError names the fault
        if not self.model.strip():
            raise ValueError("url needs a model")
        if self.outside and parts.scheme != "https":
            raise ValueError("outside = true needs https")
        if not self.outside and is_private(parts.hostname) is False:
            raise ValueError("url lies beyond this machine and private networks; outside = true allows that, with a reason")
        return self


class LogSettings(Strict):
    """``[log]`` of node.toml: what the log shows."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is written.")
    uids: Literal["token", "plain"] = Field(
        "token", description="UIDs in the log: keyed tokens (`dicomnode queue show UID` finds them) or plain.",
    )
    format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else JSON.")


class Peer(Strict):
    """One file peers/<name>.toml: a remote AE that calls us, that we send to, or both."""

    ae_title: AETitle = Field(description="AE title of the peer.")
    host: str | None = Field(None, description="Name or address to send to; absent: we never call it.")
    port: int | None = Field(None, ge=1, le=65535, description="TCP port to send to.")
    calls_from: tuple[Network, ...] = Field(
        (), description="Addresses or networks from which this AE may call us; empty: it may not.",
    )
    trust: Trust = Field("outside", description="inside: the hospital's own, results keep the study's identity.")
    sr_class: SrClass = Field("comprehensive-3d", description="SR class that the peer takes; `dicomnode echo` shows it.")
    associations: int = Field(1, ge=1, le=16, description="Associations that are sent over at the same time.")
    priority: Priority = Field(
        "medium", description="Priority (0000,0700) of our C-STOREs, and turn where `send.max_mbit_s` is short.",
    )
    max_mbit_s: float = Field(0, ge=0, description="This peer gets at most this much, Mbit/s; 0: no limit.")
    windows: tuple[Window, ...] = Field(
        (), description="Local times of day at which is sent, as 19:00-06:00; empty: always. Urgent results do not wait.",
    )
    plain: bool = Field(False, description="true: an outside peer beyond this machine may be reached without TLS.")
    plain_reason: str = Field("", description="Why; required with plain = true.")

    @model_validator(mode="after")
    def _whole(self) -> Peer:
        if (self.host is None) != (self.port is None):
            raise ValueError("host and port come together")
        if self.plain and not self.plain_reason.strip():
            raise ValueError("plain = true needs a plain_reason")
        return self

    def sends_at(self, wall_clock: time) -> bool:
        """Say whether this local time of day lies in a window, its end excluded; always, where there is none."""
        now = f"{wall_clock:%H:%M}"
        for begin, _, end in (window.partition("-") for window in self.windows):
            if begin <= now < end or (end < begin and (now >= begin or now < end)):
                return True
        return not self.windows


class NodeFile(Strict):
    """node.toml as a whole."""

    node: NodeSettings
    scp: ScpSettings = ScpSettings()
    work: WorkSettings = WorkSettings()
    send: SendSettings = SendSettings()
    keep: KeepSettings = KeepSettings()
    judge: JudgeSettings = JudgeSettings()
    log: LogSettings = LogSettings()


class Settings(NodeFile):
    """The whole configuration, checked together."""

    #: Where it was read from.
    directory: Path
    peers: Mapping[str, Peer]
    routes: Routes
    #: Of redaction/*.toml, in the order of their names.
    places: tuple[Place, ...] = ()
    #: SHA-256 over the names and bytes of all files read.
    digest: str
    #: Version of each model that the master approved, by name; what is not in it is the newest.
    approved: Mapping[str, str] = {}

    @property
    def asks_judge(self) -> bool:
        """True when the language model is asked: there is one, and the mode leaves something to ask."""
        return self.judge.url is not None and self.work.redaction == "header"

    def beside(self, path: Path) -> Path:
        """Give a path of a setting: a relative one is meant from the directory of the configuration."""
        return self.directory / path

    def destination(self, name: str) -> Peer:
        """Give the peer called ``name`` if it can be sent to, else raise `NoSuchPeer`."""
        peer = self.peers.get(name)
        if peer is None or peer.host is None:
            known = ", ".join(sorted(n for n, p in self.peers.items() if p.host)) or "none"
            raise NoSuchPeer(f"{self.directory / 'peers'}: no peer {name!r} with host and port; known: {known}")
        return peer


def load(directory: Path) -> Settings:
    """Read and check the configuration in ``directory``.

    Raises
    ------
    BadSetting, BadRule, NoSuchPeer
        With file and key in the message.
    """
    digest = hashlib.sha256()
    node = _parse(directory / "node.toml", NodeFile, digest)
    routes = _parse(directory / "routes.toml", Routes, digest)
    peers = {path.stem: _parse(path, Peer, digest) for path in _toml_files(directory / "peers")}
    places = _places(directory / "redaction", digest)
    settings = Settings(
        **{name: getattr(node, name) for name in NodeFile.model_fields},
        directory=directory, peers=peers, routes=routes, places=places, digest=digest.hexdigest(),
    )
    _cross_check(settings)
    return settings


def read_places(directory: Path) -> tuple[Place, ...]:
    """Read the rectangles by device of one folder; none when there is no such folder.

    Raises
    ------
    BadSetting
        With file and key in the message.
    """
    return _places(directory, hashlib.sha256())


def _places(directory: Path, digest: hashlib._Hash) -> tuple[Place, ...]:
    return tuple(place for path in _toml_files(directory) for place in _parse(path, PlacesFile, digest).place)


def _toml_files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".toml")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadSetting(f"{directory}: cannot be read ({error.strerror})") from None


def _parse(path: Path, model: type[M], digest: hashlib._Hash) -> M:
    try:
        raw = path.read_bytes()
        data: dict[str, Any] = tomllib.loads(raw.decode())
    except OSError as error:
        raise BadSetting(f"{path}: cannot be read ({error.strerror}); `dicomnode init` writes a configuration") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadSetting(f"{path}: not TOML: {error}") from None
    digest.update(path.name.encode() + b"\0" + raw + b"\0")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(file)"
        message = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise BadSetting(f"{path}: {key}: {message}") from None


def _cross_check(settings: Settings) -> None:
    """What no single file can say: order of rules, rules that name peers, trust."""
    _check_order(settings.routes.rule, settings.directory / "routes.toml")
    if settings.judge.url is not None and settings.judge.timeout_s > settings.work.deadline_s / 4:
        raise BadSetting(  # a picture is asked about several times, and what it takes to give the model up is three of them
            f"{settings.directory / 'node.toml'}: judge.timeout_s must be a quarter of work.deadline_s at most, or workers "
            "would be stopped while they wait for the model",
        )
    for rule in settings.routes.rule:
        _check_rule(rule, settings)
    for name, peer in settings.peers.items():
        if peer.windows and settings.send.lifetime_h < _WINDOW_LIFETIME_H:
            raise BadSetting(
                f"{settings.directory / 'peers' / name}.toml: windows need send.lifetime_h of at least {_WINDOW_LIFETIME_H}, "
                "else deliveries would expire while they wait for one",
            )
        if peer.host and peer.trust == "outside" and not peer.plain and not _loopback(peer.host):
            raise BadSetting(
                f"{settings.directory / 'peers' / name}.toml: an outside peer beyond this machine needs TLS, which "
                "this version does not have; plain = true with a plain_reason sends without it",
            )


def _check_order(rules: tuple[Rule, ...], path: Path) -> None:
    names = [rule.name for rule in rules]
    for rule in rules:
        if names.count(rule.name) > 1:
            raise BadRule(f"{path}: rule {rule.name!r} stands there more than once")
    for rule in rules[:-1]:
        if rule.matches_all:
            raise BadRule(f"{path}: rule {rule.name!r} matches everything, so the rules after it never win")
    if not rules[-1].matches_all:
        raise BadRule(f"{path}: the last rule, {rules[-1].name!r}, must have no condition: every instance needs a rule")


def _check_rule(rule: Rule, settings: Settings) -> None:
    where = f"{settings.directory / 'routes.toml'}: rule {rule.name!r}"
    if bool(rule.outputs) != bool(rule.destinations):
        raise BadRule(f"{where}: outputs and destinations come together")
    if "original" in rule.outputs and len(rule.destinations) != 1:
        raise BadRule(f"{where}: originals go to exactly one destination")
    for name in rule.destinations:
        try:
            peer = settings.destination(name)
        except NoSuchPeer as error:
            raise NoSuchPeer(f"{where}: {error}") from None
        if "original" in rule.outputs and peer.trust != "inside":
            raise BadRule(f"{where}: it sends originals to {name!r}, which is not an inside peer")


def is_private(host: str) -> bool | None:
    """Say whether an address is of this machine or a private network; None for a name, which has to be looked up."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_private or address.is_link_local


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""The configuration that is drilled: a site's own, or one as `init` makes it, turned to loopback and a scratch state.

**Way** `scratch` takes checked settings and changes what would reach out of the scratch folder (address, port, state, peers,
hook) or make a drill last hours (timeouts, waits between tries, send windows and caps). Models, rules, workers, acceptors
and limits stay, but for limits of associations that the drill itself would meet. Every peer that is sent to becomes an archive
of the drill, on a port of its own.

**Limits** A rule set that might make nothing of a generated radiograph gets the rule ``drill`` in front: nothing could be
delivered otherwise. The rule ``drill-two`` has a second destination, for drills of one that is slow or refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dicomnode.commands.init import Forward, compose
from dicomnode.records import BODY_PARTS, UNCERTAIN
from dicomnode.rules import Routes
from dicomnode.settings import Settings, load

#: Who sends to the node: under the site's rules, and to two archives.
CALLING, CALLING_TWO = "DRILL", "DRILL2"
#: Peers of the drill's own.
FIRST, SECOND = "drill-archive", "drill-second"
_MODALITY = "CR"
#: The node cuts off who stalls after this, seconds.
STALL_S = 3.0
#: The node waits for an answer of a destination this long, seconds.
ANSWER_S = 3.0
#: An instance may take this long, seconds; who hangs in one is replaced some time after.
DEADLINE_S = 20.0
#: Limits of associations below this are raised to it: so many the drills have open at once, and those that linger.
_ASSOCIATIONS = 16
_SHORT: Mapping[str, Mapping[str, object]] = {
    "scp": {
        "acse_timeout_s": STALL_S, "dimse_timeout_s": STALL_S, "network_timeout_s": 20.0, "min_free_bytes": 1 << 20,
        "reserve_bytes": 1 << 19,
    },
    "work": {"deadline_s": DEADLINE_S},
    "send": {
        "first_delay_s": 0.5, "max_delay_s": 2.0, "lifetime_h": 24.0, "idle_s": 2.0, "timeout_s": ANSWER_S, "max_mbit_s": 0.0,
        "probe_s": 1.0,
    },
    "keep": {"scan_s": 1.0, "retention_h": 24.0, "hook": [], "holds_max_bytes": 1 << 20},
    "log": {"level": "info", "uids": "plain", "format": "json"},
}


def built_in(folder: Path) -> Settings:
    """Give settings as `init` makes them, with one inside peer."""
    for name, text in compose("DICOMNODE", 11112, folder / "state", [Forward("ARCHIVE", "127.0.0.1", 104)]).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return load(folder)


def destinations(settings: Settings) -> tuple[str, ...]:
    """Names of the peers that need an archive."""
    return (*(name for name, peer in settings.peers.items() if peer.host), FIRST, SECOND)


def scratch(
    settings: Settings, target: Path, state: Path, port: int, archives: Mapping[str, int],
    changes: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """Write the configuration of a node on ``port`` of loopback below ``state``; ``archives`` are ports by peer."""
    plain: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    plain["node"] |= {"bind": "127.0.0.1", "port": port, "state_dir": str(state)}
    for overlay in (_SHORT, changes or {}):
        for section, values in overlay.items():
            plain[section] |= values
    plain["scp"] |= {name: max(_ASSOCIATIONS, plain["scp"][name]) for name in ("max_associations", "max_associations_per_ae")}
    if settings.work.models_dir is not None:
        plain["work"]["models_dir"] = str(settings.work.models_dir.absolute())
    node = {name: plain[name] for name in ("node", "scp", "work", "send", "keep", "log")}
    peers: dict[str, dict[str, Any]] = dict(plain["peers"])
    for name in (FIRST, SECOND):
        peers[name] = {"ae_title": name.upper(), "host": "", "trust": "inside"}
    for name, calling in {"drill": CALLING, "drill-too": CALLING_TWO}.items():
        peers[name] = {"ae_title": calling, "calls_from": ["127.0.0.1"]}
    for name, peer in peers.items():
        if "host" in peer:
            peer |= {"host": "127.0.0.1", "port": archives[name], "max_mbit_s": 0.0, "windows": []}
        if peer.get("calls_from"):
            peer["calls_from"] = ["127.0.0.1"]
    routes = plain["routes"]
    routes["rule"] = [*_own_rules(settings.routes), *routes["rule"]]
    (target / "peers").mkdir(parents=True, exist_ok=True)
    _write(target / "node.toml", node)
    _write(target / "routes.toml", routes)
    for name, peer in peers.items():
        _write(target / "peers" / f"{name}.toml", peer)
    load(target)


def _own_rules(routes: Routes) -> list[dict[str, object]]:
    models = next((list(rule.models) for rule in routes.rule if rule.models), [])
    own: dict[str, object] = {
        "outputs": ["sr", "sc"], "uncertain": "default", "trust": "picture", **({"models": models} if models else {}),
    }
    rules = [{"name": "drill-two", "calling_ae": [CALLING_TWO], "destinations": [FIRST, SECOND], **own}]
    if not delivers(routes):
        rules.append({"name": "drill", "calling_ae": [CALLING], "destinations": [FIRST], **own})
    return rules


def delivers(routes: Routes) -> bool:
    """Say whether these rules make something of a radiograph that the drill sends, whatever it is taken for, and hold none."""
    parts = {*BODY_PARTS, UNCERTAIN, *(part for rule in routes.rule for part in rule.body_part)}
    won = [
        next(
            rule for rule in routes.rule
            if (not rule.modality or _MODALITY in rule.modality) and (not rule.body_part or part in rule.body_part)
            and (not rule.calling_ae or CALLING in rule.calling_ae)
        )
        for part in sorted(parts)
    ]
    return all(
        rule.outputs and (rule.uncertain or routes.uncertain) != "hold" and (rule.trust or routes.trust) in {"picture", "tag"}
        for rule in won
    )


def _write(path: Path, table: Mapping[str, Any]) -> None:
    path.write_text("\n".join(_toml(table)) + "\n", encoding="utf-8")


def _toml(table: Mapping[str, Any], heading: str = "") -> list[str]:
    """Give a table as TOML; strings, numbers and lists of them are written as JSON, which TOML takes too."""
    lines = [heading] if heading else []
    below: list[str] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            below += _toml(value, f"[{name}]")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for one in value:
                below += _toml(one, f"[[{name}]]")
        elif value is not None:
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return lines + below

"""``dicomnode init``: a complete, commented configuration from the templates of ae_config/.

**Way** The templates are a configuration themselves; what is asked for replaces single lines in them. What was written is
loaded once before the command ends, so a configuration that `init` wrote is one that the node starts with.

**Fails** A file that exists is never touched: the command names it, writes nothing and ends with 1.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from dicomnode.errors import EXIT_FAILURE
from dicomnode.settings import NodeSettings, Peer, load
from dicomnode.share import share

_PEER = """\
# Written by `dicomnode init --forward`; every setting is described in README.md of the configuration.

# AE title of the peer, and where we send to.
ae_title = {ae_title}
host = {host}
port = {port}
# Addresses from which it may call us{note}.
calls_from = {calls_from}
# The hospital's own: SR and SC keep the identity of the study and file into it.
trust = "inside"
# SR class that the peer takes; `dicomnode echo {name}` shows it.
sr_class = "comprehensive-3d"
"""


@dataclass(frozen=True, slots=True)
class Forward:
    """A destination as the command line names it."""

    ae_title: str
    host: str
    port: int

    @property
    def name(self) -> str:
        """Name of its file: the AE title in lower case, other characters as hyphens."""
        return re.sub(r"[^a-z0-9_-]+", "-", self.ae_title.lower()).strip("-") or "peer"


def parse_forward(text: str) -> Forward:
    """Read ``AET@HOST:PORT``; an IPv6 address stands in brackets."""
    found = re.fullmatch(r"(?P<ae>[^@]+)@(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^@:]+)):(?P<port>\d{1,5})", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not AET@HOST:PORT", param_hint="--forward")
    forward = Forward(found["ae"].strip(), found["v6"] or found["host"], int(found["port"]))
    try:
        Peer(ae_title=forward.ae_title, host=forward.host, port=forward.port)
    except ValidationError as error:
        raise typer.BadParameter(f"{text!r}: {error.errors()[0]['msg']}", param_hint="--forward") from None
    return forward


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; made when it is not there.")],
    ae_title: Annotated[str, typer.Option(help="AE title of this node.")] = "DICOMNODE",
    port: Annotated[int, typer.Option(help="TCP port to listen on.")] = 11112,
    state_dir: Annotated[Path, typer.Option(help="Folder of spool and queue.")] = Path("/var/lib/dicomnode"),
    forward: Annotated[
        list[str] | None, typer.Option(metavar="AET@HOST:PORT", help="Inside peer that gets SR and SC; may be repeated."),
    ] = None,
) -> None:
    """Write a complete, commented configuration; never overwrite."""
    state_dir = state_dir.absolute()
    try:
        NodeSettings(ae_title=ae_title, port=port, state_dir=state_dir)
    except ValidationError as error:
        fault = error.errors()[0]
        raise typer.BadParameter(fault["msg"], param_hint=f"--{str(fault['loc'][0]).replace('_', '-')}") from None
    files = compose(ae_title.strip(), port, state_dir, [parse_forward(text) for text in forward or ()])
    existing = [directory / name for name in files if (directory / name).exists()]
    if existing:
        typer.echo(f"dicomnode: nothing written, these exist: {', '.join(map(str, existing))}", err=True)
        raise typer.Exit(EXIT_FAILURE)
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    load(directory)
    typer.echo(f"Written: {', '.join(files)} in {directory}\nNext: dicomnode check -c {directory}")


def compose(ae_title: str, port: int, state_dir: Path, forwards: list[Forward]) -> dict[str, str]:
    """Give name and text of every file of a configuration."""
    templates = share("ae_config")
    peers: dict[str, Forward] = {}
    for forward in forwards:
        name, number = forward.name, 2
        while name in peers:
            name, number = f"{forward.name}-{number}", number + 1
        peers[name] = forward
    node = (templates / "node.toml").read_text(encoding="utf-8")
    for key, value in {"ae_title": ae_title, "port": port, "state_dir": str(state_dir)}.items():
        node = set_value(node, key, value)
    routes = (templates / "routes.toml").read_text(encoding="utf-8")
    if peers:
        routes = set_value(set_value(routes, "outputs", ["sr", "sc"]), "destinations", list(peers))
        routes = re.sub(r"^# Both lists empty: .*\n", "", routes, flags=re.MULTILINE)
    return {
        "node.toml": node,
        "routes.toml": routes,
        **{f"peers/{name}.toml": _peer(name, forward) for name, forward in peers.items()},
        "peers/example.toml.disabled": (templates / "peers" / "example.toml.disabled").read_text(encoding="utf-8"),
        "README.md": (templates / "README.md").read_text(encoding="utf-8"),
    }


def set_value(text: str, key: str, value: object) -> str:
    """Replace the value in every line that sets ``key``; a JSON string or list is one of TOML too."""
    line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    return re.sub(rf"^{key} = .*$", lambda _: line, text, flags=re.MULTILINE)


def _peer(name: str, forward: Forward) -> str:
    addresses = _addresses(forward.host)
    note = "" if addresses else f"; {forward.host} has none now, add them for a peer that calls"
    return _PEER.format(
        ae_title=json.dumps(forward.ae_title), host=json.dumps(forward.host), port=forward.port, name=name,
        calls_from=json.dumps(addresses), note=note,
    )


def _addresses(host: str) -> list[str]:
    """Give the addresses of ``host`` as it is known now; none when it is not."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(entry[4][0]).partition("%")[0] for entry in found})

"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dicomnode.rules import Routes, Rule
from dicomnode.settings import Settings, load

DEFAULT_CONFIG = Path("/etc/dicomnode")

Config = Annotated[Path, typer.Option("-c", "--config", help="Directory of node.toml, routes.toml and peers/.")]
MaybeConfig = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="Configuration directory; without it the built-in routes apply."),
]


class RoleName(StrEnum):
    """The roles that `serve` runs."""

    accept = "accept"
    work = "work"
    send = "send"
    keep = "keep"


Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]


def print_json(record: Mapping[str, object]) -> None:
    """Print one JSON object on one line."""
    typer.echo(json.dumps(record, ensure_ascii=False, default=str))


def routes_of(config: Path | None) -> tuple[Routes, Settings | None]:
    """The routes of a configuration, or without one a single rule that wants nothing."""
    if config is None:
        return Routes(rule=(Rule(name="built-in"),)), None
    settings = load(config)
    return settings.routes, settings

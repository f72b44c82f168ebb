"""Options that several commands share."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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
    judge = "judge"
    work = "work"
    send = "send"
    keep = "keep"


Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]


def with_options(options: type[Any], called: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, instead of its parameter `called`, the fields of a dataclass as options behind its own.

    typer reads the signature of a function, so that one is made.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(options, include_extras=True)
        own = [one for name, one in inspect.signature(command, eval_str=True).parameters.items() if name != called]
        shared = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[field.name],
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
            )
            for field in fields(options)
        ]  # fmt: skip
        names = {field.name for field in fields(options)}

        def run(**given: Any) -> None:
            together = options(**{name: value for name, value in given.items() if name in names})
            command(**{name: value for name, value in given.items() if name not in names}, **{called: together})

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own] + shared
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions have it
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        return run

    return decorate


def print_json(record: Mapping[str, object]) -> None:
    """Print one JSON object on one line."""
    typer.echo(json.dumps(record, ensure_ascii=False, default=str))


def routes_of(config: Path | None) -> tuple[Routes, Settings | None]:
    """The routes of a configuration, or without one a single rule that wants nothing."""
    if config is None:
        return Routes(rule=(Rule(name="built-in"),)), None
    settings = load(config)
    return settings.routes, settings

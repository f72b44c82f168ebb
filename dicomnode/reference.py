"""The generated references: settings (ae_config/README.md), log (docs/log.md), contexts (in docs/conformance.md).

**Way** ``python -m dicomnode.reference`` in a source tree writes them; tests hold the files to the models, catalogues and
tables, so that what is not described cannot be built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydicom.uid import UID

from dicomnode import contexts
from dicomnode.events import EVENTS, KEYS
from dicomnode.places import Place, PlacesFile, Rectangle
from dicomnode.rules import Routes, Rule
from dicomnode.settings import (
    JudgeSettings,
    KeepSettings,
    LogSettings,
    NodeSettings,
    Peer,
    ScpSettings,
    SendSettings,
    WorkSettings,
)

#: Heading → model, in the order of the files.
SECTIONS: dict[str, type[BaseModel]] = {
    "node.toml `[node]`": NodeSettings, "node.toml `[scp]`": ScpSettings, "node.toml `[work]`": WorkSettings,
    "node.toml `[send]`": SendSettings, "node.toml `[keep]`": KeepSettings, "node.toml `[judge]`": JudgeSettings,
    "node.toml `[log]`": LogSettings,
    "routes.toml": Routes, "routes.toml `[[rule]]`": Rule, "peers/NAME.toml": Peer,
    "redaction/NAME.toml": PlacesFile, "redaction/NAME.toml `[[place]]`": Place,
    "redaction/NAME.toml `{ x, y, w, h }`": Rectangle,
}

_HEAD = """\
# Settings

Generated from `dicomnode/settings.py` and `rules.py` by `python -m dicomnode.reference`; do not edit.

A configuration is one folder with `node.toml`, `routes.toml`, a file for each remote AE under `peers/` and, where there are
any, files with rectangles by device under `redaction/`.
`dicomnode init DIR` writes one from the templates beside this file, `dicomnode check -c DIR` looks it over.
Unknown keys are refused.
"""


def settings_reference() -> str:
    """Give the text of ae_config/README.md."""
    parts = [_HEAD]
    for heading, model in SECTIONS.items():
        first = (model.__doc__ or "").strip().split("\n")[0].replace("``", "`").replace("<name>", "NAME")
        rows = "\n".join(_rows(model))
        parts.append(f"## {heading}\n\n{first}\n\n| key | values | default | meaning |\n|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _rows(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        values = _values(field.annotation, field).replace("|", "\\|")
        yield f"| `{name}` | {values} | {_default(field)} | {field.description} |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "absent"
    return f"`{json.dumps(field.default, default=str)}`"


def _values(kind: Any, field: FieldInfo | None = None) -> str:
    """Say in words what a value may be."""
    origin = get_origin(kind)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in get_args(kind))
    if origin is tuple:
        return f"list of {_values(get_args(kind)[0])}"
    if origin in {Union, UnionType}:
        return _values(next(part for part in get_args(kind) if part is not type(None)), field)
    if hasattr(kind, "__metadata__"):
        return _values(get_args(kind)[0])
    words = {bool: "true or false", int: "whole number", float: "number", Path: "path", str: "text", Rule: "tables",
        Place: "tables", Rectangle: "tables"}
    return words[kind] + _range(field)


def _range(field: FieldInfo | None) -> str:
    """Say the limits of a number."""
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = [
        f"{word} {getattr(mark, sign):g}" if abs(getattr(mark, sign)) < 1e6 else f"{word} {getattr(mark, sign)}"
        for mark in (field.metadata if field else ()) for sign, word in signs.items() if hasattr(mark, sign)
    ]
    return f", {', '.join(limits)}" if limits else ""


def log_reference() -> str:
    """Give the text of docs/log.md."""
    def table(head: str, rows: dict[str, str]) -> str:
        return f"| {head} | meaning |\n|---|---|\n" + "\n".join(f"| `{key}` | {text} |" for key, text in rows.items())

    return (
        "# The log: events and keys\n\n"
        "Generated from `dicomnode/events.py` by `python -m dicomnode.reference`; do not edit.\n\n"
        "One JSON object per line on stdout, which systemd puts into the journal. Nothing outside these two tables can be\n"
        "written; where somebody has to act, the event says who.\n\n## Events\n\n"
        f"{table('event', dict(EVENTS))}\n\n## Keys\n\n{table('key', dict(KEYS))}\n"
    )


def contexts_reference() -> str:
    """Give the tables of docs/conformance.md between the lines of `MARKS`."""
    classes = sorted((UID(uid).name, uid) for uid in contexts.storage_classes())
    groups = {
        "lossless compression": contexts.LOSSLESS, "uncompressed or deflated": contexts.PLAIN,
        "other compression": contexts.LOSSY,
    }
    syntaxes = "\n".join(f"| {UID(uid).name} | {uid} | {group} |" for group, uids in groups.items() for uid in uids)
    with_pixels = "\n".join(f"| {name} | {uid} |" for name, uid in classes if contexts.has_pixels(uid))
    without = "\n".join(f"| {name} | {uid} |" for name, uid in classes if not contexts.has_pixels(uid))
    head = "| SOP Class | UID |\n|---|---|"
    return (
        f"Transfer syntaxes:\n\n| transfer syntax | UID | group |\n|---|---|---|\n{syntaxes}\n\n"
        f"SOP Classes with pixels, in every transfer syntax above:\n\n{head}\n{with_pixels}\n\n"
        f"SOP Classes without pixels, uncompressed or deflated:\n\n{head}\n{without}\n"
    )


MARKS = "<!-- generated: contexts -->\n", "<!-- end -->"


def conformance(text: str) -> str:
    """Give docs/conformance.md with its tables made anew."""
    before, after = text.split(MARKS[0], maxsplit=1)[0], text.split(MARKS[1])[1]
    return f"{before}{MARKS[0]}{contexts_reference()}{MARKS[1]}{after}"


def write(root: Path) -> None:
    """Write the files into the source tree at ``root``."""
    (root / "ae_config" / "README.md").write_text(settings_reference(), encoding="utf-8")
    (root / "docs" / "log.md").write_text(log_reference(), encoding="utf-8")
    statement = root / "docs" / "conformance.md"
    statement.write_text(conformance(statement.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parents[1])

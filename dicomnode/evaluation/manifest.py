"""Which strings stand where in which files: the manifest of an evaluation of redaction.

**Way** A CSV file with a row for each string: ``path``, ``kind`` (value: identifies a person, key: harmless, empty: the file
has no text), ``x0,y0,x1,y1`` (first and last column and row, from 0). Others may stand: ``visible`` (0: cannot be seen, is in
no figure), ``frame`` (from 0, empty: every frame), ``ink`` (a picture of the frame's size, not black where the strokes are),
``clean`` (a DICOM file of the same pixels before the text), and any of `GROUPS`. Paths begin at the manifest, or at a folder
above it. A manifest of pictures that lists a ``TEXT_BOXES.csv`` stands for that one, a folder for the one in it.

**Fails** `BadSetting` that names file, line and column, never a text.

**Limits** What the strings say is not kept, but for whether they say something.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dicomnode.errors import BadSetting

#: Columns by which figures are broken down, where the manifest has them.
GROUPS = ("device", "font", "layout", "what", "in_header", "size", "contrast", "polarity", "rotation")
#: The name of such a manifest, in a folder or beside the pictures.
NAME = "TEXT_BOXES.csv"
_BOX = ("x0", "y0", "x1", "y1")
_KINDS: Mapping[str, bool | None] = {
    "value": True,
    "identifying": True,
    "phi": True,
    "key": False,
    "harmless": False,
    "technical": False,
    "": None,
    "none": None,
}
_NO = frozenset(("0", "no", "false"))


@dataclass(frozen=True, slots=True)
class Text:
    """A string in the pixels of a file."""

    #: Line of the manifest, from 1.
    line: int
    identifying: bool
    x0: int
    y0: int
    #: The last column and row that belong.
    x1: int
    y1: int
    visible: bool = True
    #: The one frame that it stands in, from 0; None: every frame.
    frame: int | None = None
    ink: Path | None = None
    clean: Path | None = None
    #: What the manifest says of it, by the names of `GROUPS`.
    groups: Mapping[str, str] | None = None

    def stands_in(self, frame: int) -> bool:
        """Say whether a frame has it."""
        return self.frame in {None, frame}


@dataclass(frozen=True, slots=True)
class Case:
    """A file and the strings in it."""

    #: As the manifest has it.
    name: str
    path: Path
    texts: tuple[Text, ...]


def read(place: Path) -> list[Case]:
    """Read a manifest, or that of a folder; files in the order of their first row.

    Raises
    ------
    BadSetting
        It cannot be used.
    """
    if place.is_dir():
        found = next((place / name for name in (NAME, "MANIFEST.csv") if (place / name).is_file()), None)
        if found is None:
            raise BadSetting(f"{place}: has no {NAME}")
        place = found
    rows = _rows(place)
    columns = frozenset(rows[0])
    if {"path", "kind", *_BOX} <= columns:
        return _cases(place, rows)
    if "path" not in columns:
        raise BadSetting(f"{place}: has no column path")
    named = [_beside(place, row["path"]) for row in rows if row["path"].endswith(NAME)]
    lists = [one for one in named if one is not None] or sorted(place.parent.glob(f"**/burned_in/{NAME}"))
    if not lists:
        missing = ", ".join(name for name in ("kind", *_BOX) if name not in columns)
        raise BadSetting(f"{place}: has no {missing}, and lists no {NAME} that has")
    return [case for one in lists for case in _cases(one, _rows(one))]


def _rows(place: Path) -> list[dict[str, str]]:
    try:
        with place.open(newline="", encoding="utf-8-sig") as stream:
            rows = [{str(k): str(v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(stream)]
    except OSError as error:
        raise BadSetting(f"{place}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise BadSetting(f"{place}: is no CSV file in UTF-8") from None
    if not rows:
        raise BadSetting(f"{place}: has no rows")
    return rows


def _cases(place: Path, rows: list[dict[str, str]]) -> list[Case]:
    found: dict[str, list[Text]] = {}
    for line, row in enumerate(rows, 2):
        texts = found.setdefault(row["path"], [])
        text = _text(place, line, row)
        if text is not None:
            texts.append(text)
    return [Case(name, _file(place, name), tuple(texts)) for name, texts in found.items()]


def _text(place: Path, line: int, row: Mapping[str, str]) -> Text | None:
    kind = row["kind"].lower()
    if kind not in _KINDS:
        raise BadSetting(f"{place}, line {line}: kind must be value, key or empty")
    identifying = _KINDS[kind]
    if identifying is None:
        return None
    x0, y0, x1, y1 = (_number(place, line, name, row[name]) for name in _BOX)
    visible = row.get("visible", "").lower() not in _NO
    if min(x0, y0) < 0 or x1 < x0 or y1 < y0:
        raise BadSetting(f"{place}, line {line}: the box must have 0 <= x0 <= x1 and 0 <= y0 <= y1")
    frame = row.get("frame", "")
    return Text(
        line,
        identifying,
        x0,
        y0,
        x1,
        y1,
        visible,
        _number(place, line, "frame", frame) if frame else None,
        _file(place, row["ink"]) if row.get("ink") else None,
        _file(place, row["clean"]) if row.get("clean") else None,
        {name: row[name] for name in GROUPS if row.get(name)},
    )


def _number(place: Path, line: int, name: str, value: str) -> int:
    try:
        return int(float(value))
    except (ValueError, OverflowError):
        raise BadSetting(f"{place}, line {line}: {name} must be a number") from None


def _file(place: Path, name: str) -> Path:
    found = _beside(place, name)
    if found is None:
        raise BadSetting(f"{place}: names {name}, which is not below its folder or one above")
    return found


def _beside(place: Path, name: str) -> Path | None:
    """The file that a manifest means: paths begin at its folder, or at one above."""
    return next((folder / name for folder in place.absolute().parents if name and (folder / name).is_file()), None)

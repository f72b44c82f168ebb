"""Which pictures a model is measured on, as groups that stay apart in the report.

**Way** A manifest of ours gives the groups of `selections_for`; a site's manifest is one group, and so is a folder
``<split>/<label>/<picture>`` or ``<label>/<picture>``. Of a set without splits every picture counts, unless a split is asked
for: then it is the one that training draws, so that a model is not measured on what it learned from.

**Fails** `BadSetting` for data that cannot be used, or that has no picture of the split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dicomnode.cards import Card
from dicomnode.errors import BadSetting
from dicomnode.training.datasets import (
    BREAST,
    EVERYTHING,
    OUTSIDE,
    PNEUMONIA,
    ROUTER,
    Example,
    Selection,
    read_folder,
    read_manifest,
)

#: Classes that also count as one, where a model and its pictures have them: the two chests differ by age alone.
MERGES: Mapping[str, str] = {"adult_chest": "chest", "pediatric_chest": "chest"}


def parse_merge(text: str) -> dict[str, str]:
    """Read ``a+b=c`` as what a and b become; raises `BadSetting` for another form."""
    parts, _, name = text.partition("=")
    labels = [part.strip() for part in parts.split("+")]
    if not name.strip() or len(labels) < 2 or not all(labels):
        raise BadSetting(f"--merge {text!r}: has the form LABEL+LABEL=NAME")
    return dict.fromkeys(labels, name.strip())


def selections_for(card: Card) -> Mapping[str, Selection]:
    """Which rows of our own manifest a model is measured on, by group; none for a model that is not for them."""
    if card.task == "router":
        return {"test": ROUTER, "outside": OUTSIDE}
    labels = {label.key for label in card.labels}
    for selection in (PNEUMONIA, BREAST):
        if labels == {*(selection.label_patterns or {}), *(selection.classes or {}).values()}:
            return {"test": selection}
    return {}


def groups_of(
    data: Sequence[Path], card: Card, split: str | None, selections: Mapping[str, Selection] | None = None
) -> dict[str, list[Example]]:
    """The pictures to measure on, by group.

    Parameters
    ----------
    split
        None: `test` where splits are stated, and every picture of a set without any, which then nothing was learned from.
    selections
        Which rows of a manifest make which group; None: `selections_for` the model.

    Raises
    ------
    BadSetting
        One of the data cannot be read, or has no picture of the split.
    """
    wanted = selections_for(card) if selections is None else selections
    groups: dict[str, list[Example]] = {}
    for one in data:
        found = {name: part for name, part in _read(one, wanted, split).items() if part}
        if not found:
            raise BadSetting(f"{one}: no picture of the split {split or 'test'!r}")
        for name, part in found.items():
            groups[_free(name, one, groups)] = part
    return groups


def _origin(data: Path) -> str:
    """What a set may be called: its folder."""
    return data.resolve().name if data.is_dir() else data.resolve().parent.name


def _free(name: str, data: Path, taken: Mapping[str, object]) -> str:
    """A name that no other group has."""
    if name not in taken:
        return name
    longer = f"{_origin(data)}_{name}"
    return next(one for one in (longer, *(f"{longer}_{number}" for number in range(2, len(taken) + 3))) if one not in taken)


def _read(data: Path, selections: Mapping[str, Selection], split: str | None) -> dict[str, list[Example]]:
    """The groups of one manifest or folder."""
    found: dict[str, tuple[Example, ...]] = {}
    if not data.is_dir():
        found = {name: read_manifest(data, selection) for name, selection in selections.items()}
    if not any(found.values()):
        found = {"test": read_folder(data) if data.is_dir() else read_manifest(data, EVERYTHING)}
    groups = {}
    for name, part in found.items():
        if split is None and any(example.drawn for example in part):
            groups[_origin(data)] = list(part)
        else:
            one = split or "test"
            groups[one if name == "test" else name] = [example for example in part if example.split == one]
    return groups

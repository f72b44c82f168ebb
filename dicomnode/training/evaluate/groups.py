"""Which pictures a model is measured on, as groups that stay apart in the report.

**Way** A manifest of ours gives the groups of `GROUPS`; a site's manifest is one group, and so is a folder
``<split>/<label>/<picture>``, or ``<label>/<picture>`` where no split was ever made because nothing was learned from it.

**Fails** `BadSetting` for data that cannot be used, or that has no picture of the split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dicomnode.cards import Card
from dicomnode.errors import BadSetting
from dicomnode.training.datasets import (
    EVERYTHING,
    OUTSIDE,
    PNEUMONIA,
    ROUTER,
    SPLITS,
    Example,
    Selection,
    read_folder,
    read_manifest,
)

#: What is measured of our own manifest, by the task of the model.
GROUPS: Mapping[str, Mapping[str, Selection]] = {
    "router": {"test": ROUTER, "outside": OUTSIDE},
    "findings": {"test": PNEUMONIA},
}
#: Classes that also count as one, where a model and its pictures have them: the two chests differ by age alone.
MERGES: Mapping[str, str] = {"adult_chest": "chest", "pediatric_chest": "chest"}


def parse_merge(text: str) -> dict[str, str]:
    """Read ``a+b=c`` as what a and b become; raises `BadSetting` for another form."""
    parts, _, name = text.partition("=")
    labels = [part.strip() for part in parts.split("+")]
    if not name.strip() or len(labels) < 2 or not all(labels):
        raise BadSetting(f"--merge {text!r}: has the form LABEL+LABEL=NAME")
    return dict.fromkeys(labels, name.strip())


def groups_of(
    data: Sequence[Path], card: Card, split: str, selections: Mapping[str, Selection] | None = None
) -> dict[str, list[Example]]:
    """The pictures to measure on, by group.

    Parameters
    ----------
    selections
        Which rows of a manifest make which group; None: `GROUPS` for the model's task.

    Raises
    ------
    BadSetting
        One of the data cannot be read, or has no picture of the split.
    """
    wanted = GROUPS[card.task] if selections is None else selections
    groups: dict[str, list[Example]] = {}
    for one in data:
        found = {name: part for name, part in _read(one, wanted, split).items() if part}
        if not found:
            raise BadSetting(f"{one}: no picture of the split {split!r}")
        for name, part in found.items():
            groups[_free(name, one, groups)] = part
    return groups


def _free(name: str, data: Path, taken: Mapping[str, object]) -> str:
    """A name that no other group has."""
    if name not in taken:
        return name
    origin = data.resolve().name if data.is_dir() else data.resolve().parent.name
    candidates = [f"{origin}_{name}", *(f"{origin}_{name}_{number}" for number in range(2, len(taken) + 3))]
    return next(candidate for candidate in candidates if candidate not in taken)


def _read(data: Path, selections: Mapping[str, Selection], split: str) -> dict[str, list[Example]]:
    """The groups of one manifest or folder."""
    if data.is_dir():
        if any((data / one).is_dir() for one in SPLITS):
            return {split: [example for example in read_folder(data) if example.split == split]}
        return {data.resolve().name: _without_split(data, split)}
    found = {name: read_manifest(data, selection) for name, selection in selections.items()}
    if not any(found.values()):
        found = {"test": read_manifest(data, EVERYTHING)}
    return {
        split if name == "test" else name: [example for example in part if example.split == split]
        for name, part in found.items()
    }


def _without_split(root: Path, split: str) -> list[Example]:
    """Every file of ``<root>/<label>/``; what is no picture is counted when it is read."""
    return [
        Example(path, path.parent.name, split)
        for path in sorted(root.glob("*/*"))
        if path.is_file() and not path.name.startswith(".") and not path.parent.name.startswith(".")
    ]

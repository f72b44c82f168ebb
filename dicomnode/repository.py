"""The repository of models: which versions a folder holds, and which of them a configuration means.

**Way** routes.toml names a model by ``name``, which is its newest version, or by ``name@version``. The master notes which
version that is when it starts and when it reloads (`approve`); every worker that it starts then, hours later too, opens that
one. So a version that is put into the folder waits for the next reload, and a bad one stops nobody.

**Fails** `MissingModel`, whose message names what is there.

**Limits** A version never changes: what is new gets a new number. The card of a version that nobody names is not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dicomnode.cards import ModelFolder, load_card
from dicomnode.errors import MissingModel
from dicomnode.rules import Routes
from dicomnode.settings import Settings, WorkSettings
from dicomnode.share import share
from dicomnode.text_cards import Folder, ReaderFolder, TextFolder, folder_of, load_reader_card, load_text_card

#: The networks that redaction uses, by name: two that find text, and one that reads it.
DETECTOR, GATE, READER = TEXT_MODELS = ("text-detector", "text-gate", "text-reader")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def models_dir(work: WorkSettings) -> Path:
    """The folder of models: the site's own, or the one that comes with the node."""
    return work.models_dir or share("models")


def versions(root: Path) -> Mapping[str, tuple[str, ...]]:
    """Give the versions of every model under ``root`` by name, the newest first; cards are not read.

    A folder counts as a version when it is named ``<number>.<number>.<number>`` and holds a card.toml.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(root.glob("*/*/card.toml")):
        if _VERSION.fullmatch(path.parent.name):
            found.setdefault(path.parent.parent.name, []).append(path.parent.name)
    return {name: tuple(sorted(numbers, key=_order, reverse=True)) for name, numbers in found.items()}


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def named(routes: Routes) -> tuple[str, ...]:
    """Every model that routes.toml names, as it does, once: the router first."""
    return tuple(dict.fromkeys([routes.router, *(name for rule in routes.rule for name in rule.models)]))


def resolve(root: Path, reference: str, approved: Mapping[str, str] | None = None) -> ModelFolder:
    """Give the model with labels that ``name`` or ``name@version`` means, its card checked.

    Parameters
    ----------
    approved
        Version that each name stands for; one that is not among them stands for its newest.

    Raises
    ------
    MissingModel
        There is no such model or version.
    BadCard, DigestMismatch
        Its card does not hold, or is that of a network that finds text.
    """
    folder = _place(root, reference, approved)
    return ModelFolder(load_card(folder / "card.toml"), folder)


def resolve_any(root: Path, reference: str) -> Folder:
    """Give the model of whatever task; else as `resolve`."""
    return folder_of(_place(root, reference, None))


def load_text_model(root: Path | None, name: str, approved: Mapping[str, str] | None = None) -> TextFolder:
    """Give a network that finds text, of the site's own folder or, where that has none of this name, as the node brings it.

    Raises
    ------
    MissingModel
        It is in neither.
    BadCard, DigestMismatch
        Its card does not hold, or is that of a model with labels.
    """
    folder = _own_or_ours(root, name, approved)
    return TextFolder(load_text_card(folder / "card.toml"), folder)


def load_reader_model(root: Path | None, approved: Mapping[str, str] | None = None) -> ReaderFolder:
    """Give the network that reads lines; else as `load_text_model`."""
    folder = _own_or_ours(root, READER, approved)
    return ReaderFolder(load_reader_card(folder / "card.toml"), folder)


def _own_or_ours(root: Path | None, name: str, approved: Mapping[str, str] | None) -> Path:
    own = root is not None and name in versions(root)
    return _place(root if root is not None and own else share("models"), name, approved if own else None)


def _place(root: Path, reference: str, approved: Mapping[str, str] | None) -> Path:
    name, _, wanted = reference.partition("@")
    if not root.is_dir():
        raise MissingModel(f"{root}: is no folder of models")
    there = versions(root)
    if name not in there:
        raise MissingModel(f"{root}: has no model {name!r}; there are: {', '.join(sorted(there)) or 'none'}")
    version = wanted or (approved or {}).get(name) or there[name][0]
    if version not in there[name]:
        raise MissingModel(f"{root / name}: has no version {version}; there are: {', '.join(there[name])}")
    return root / name / version


def approve(settings: Settings) -> Settings:
    """The same settings with the newest version of each model that the routes name by its name alone, or redaction uses."""
    there = versions(models_dir(settings.work))
    newest = {name: there[name][0] for name in (*named(settings.routes), *TEXT_MODELS) if name in there}
    return settings.model_copy(update={"approved": newest})

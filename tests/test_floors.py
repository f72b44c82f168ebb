"""The floors: imports go down only, the two halves of floor 2 do not know each other, libraries have their place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dicomnode"

#: Module or package below dicomnode → floor; 2w is work (no disk, row, socket), 2k is keep (no pixel, no model).
FLOORS = {
    "": "0", "records": "0", "errors": "0", "dimse": "0", "uids": "0", "events": "0", "elements": "0",
    "contexts": "0",
    "settings": "1", "rules": "1", "places": "1", "log": "1", "gate": "1", "cards": "1", "text_cards": "1", "repository": "1",
    "onnx_file": "1", "share": "1", "quieting": "1", "reference": "1",
    "image": "1", "header": "1", "listening": "1", "snapshot": "1",
    "pipeline": "2w", "kitting": "2w", "stages": "2w", "outputs": "2w", "spool": "2k", "queue": "2k", "upper": "2k",
    "scp": "3", "worker": "3", "deadline": "3", "scu": "3", "keeper": "3",
    "judging": "3", "check": "3", "serve": "3", "roles": "3", "notify": "1",
    "carding": "3", "adding": "3", "training": "3", "evaluation": "3", "certificate": "2w",
    "commands": "4", "demo": "4", "drill": "4", "cli": "4", "__main__": "4",
}

#: Library → modules that may import it; a name ending in * is a prefix.
PLACES = {
    "pynetdicom": ("upper*", "scp*", "scu*"),
    "onnxruntime": ("stages.session",),
    "highdicom": ("outputs*",),
    "torch": ("training*", "commands.train"), "monai": ("training*",), "onnx": ("training*",),
    "sqlite3": ("queue*",),
    "structlog": ("log",),
    "apscheduler": ("keeper*",),
    "typer": ("commands*", "demo*", "drill*", "cli"), "rich": ("commands*", "demo*", "drill*", "cli", "training*"),
}


def name_of(path: Path) -> str:
    """Give the module's dotted name below dicomnode."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def floor_of(module: str) -> str:
    """Give the floor of a module: that of its top package, ``scp_door`` counting as ``scp``."""
    top = module.split(".", maxsplit=1)[0]
    for name in (top, top.split("_")[0]):
        if name in FLOORS:
            return FLOORS[name]
    raise AssertionError(f"dicomnode.{module} stands on no floor; enter it into the table")


def imports(tree: ast.AST) -> Iterator[str]:
    """Give every module that is imported, anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> set[str]:
    """Give the modules of dicomnode that ``module`` imports."""
    ours = (name.removeprefix("dicomnode.") for name in imports(MODULES[module]) if name.startswith("dicomnode."))
    return {name for name in ours if name in MODULES}


def test_table_has_no_empty_entry() -> None:
    """Every entry of the table names something that is there, but for what later issues bring."""
    tops = {module.split(".")[0].split("_")[0] for module in MODULES} | {module.split(".")[0] for module in MODULES}
    assert set(FLOORS) - tops <= {"evaluation", "upper"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    """A module imports from its own floor or a lower one, and never from the other half of floor 2."""
    mine = floor_of(module)
    for other in own_imports(module):
        theirs = floor_of(other)
        assert theirs[0] <= mine[0], f"{module} (floor {mine}) imports {other} (floor {theirs})"
        assert {mine, theirs} != {"2w", "2k"}, f"{module} and {other} are the two halves of floor 2"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_have_their_place(module: str) -> None:
    """A library is imported only where the table says."""
    for name in imports(MODULES[module]):
        for place in PLACES.get(name.split(".")[0], (module,)):
            if module == place or (place.endswith("*") and module.startswith(place[:-1])):
                break
        else:
            raise AssertionError(f"{module} imports {name}")


def test_libraries_of_the_table_are_used() -> None:
    """Each library of the table is imported somewhere, so that the gate watches something."""
    used = {name.split(".")[0] for tree in MODULES.values() for name in imports(tree)}
    assert set(PLACES) - used <= {"monai"}


def test_fsync_is_in_the_spool_alone() -> None:
    """Only the spool promises: no other module calls fsync."""
    calls = {
        module for module, tree in MODULES.items() for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"fsync", "fdatasync", "sync"} and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert calls == {"spool.disk"}


def test_a_step_up_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate itself works: an import from below to above, and from one half to the other, is found."""
    monkeypatch.setitem(MODULES, "records", ast.parse("def f():\n    from dicomnode.queue import Claim"))
    with pytest.raises(AssertionError, match="records"):
        test_imports_go_down_only("records")
    monkeypatch.setitem(MODULES, "pipeline", ast.parse("import dicomnode.queue"))
    with pytest.raises(AssertionError, match="two halves"):
        test_imports_go_down_only("pipeline")
    monkeypatch.setitem(MODULES, "records", ast.parse("import pynetdicom.ae"))
    with pytest.raises(AssertionError, match="pynetdicom"):
        test_libraries_have_their_place("records")

"""What is not described fails here: settings, log, errors, commands, references; and gates that watch nothing."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer

from dicomnode import errors, reference
from dicomnode.events import EVENTS, KEYS

ROOT = Path(__file__).parents[1]
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted((ROOT / "dicomnode").rglob("*.py"))
}
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]

#: Where everything is caught: the log, which must never stop an instance; the border to what libraries make of foreign
#: bytes, where their text must not pass; and the outermost loops. * stands for any function of the file.
BROAD = {
    "dicomnode/log.py": {"_run", "emit"},
    "dicomnode/pipeline.py": {"stage"},
    "dicomnode/outputs/shell.py": {"guard"},
    "dicomnode/outputs/allowlist.py": {"_get"},
    "dicomnode/image/file.py": {"*"},
    "dicomnode/keeper/intake.py": {"*"},
    "dicomnode/stages/redact/known.py": {"*"},
    "dicomnode/worker.py": {"*"},
    "dicomnode/scu/": {"*"},
    "dicomnode/scp/acceptor.py": {"_admit"},
    "dicomnode/scp/session.py": {"store"},
    "dicomnode/scp/association.py": {"_run"},
    "dicomnode/upper/handshake.py": {"read_request"},
    "dicomnode/keeper/__init__.py": {"*"},
    "dicomnode/commands/files.py": {"each"},
    "dicomnode/commands/ahead.py": {"_try"},
}
#: Keys that the log itself writes.
HEAD_KEYS = {"timestamp", "level", "event", "process", "pid", "dropped"}


def words_of(tree: ast.AST) -> Iterator[str]:
    """Give every string constant and keyword name of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


USED = {
    word for name, text in SOURCES.items() if name != "dicomnode/events.py" for word in words_of(ast.parse(text))
}


@pytest.mark.parametrize(("heading", "model"), reference.SECTIONS.items())
def test_every_setting_is_described(heading: str, model: type) -> None:
    """Every setting has a description, a sentence."""
    for name, field in model.model_fields.items():
        assert field.description, f"{heading}: {name}"
        assert field.description.endswith("."), f"{heading}: {name}"


def test_reference_of_the_settings_is_current() -> None:
    """ae_config/README.md is what `make reference` would write."""
    assert (ROOT / "ae_config" / "README.md").read_text(encoding="utf-8") == reference.settings_reference()


def test_reference_of_the_log_is_current() -> None:
    """docs/log.md is what `make reference` would write."""
    assert (ROOT / "docs" / "log.md").read_text(encoding="utf-8") == reference.log_reference()


def test_contexts_of_the_conformance_statement_are_current() -> None:
    """docs/conformance.md lists the SOP Classes and transfer syntaxes that the node has."""
    text = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert text == reference.conformance(text)


@pytest.mark.parametrize("event", sorted(set(EVENTS) - {"unlisted_event"}))
def test_every_event_is_used(event: str) -> None:
    """Every event of the catalogue is written somewhere."""
    assert event in USED


@pytest.mark.parametrize("key", sorted(set(KEYS) - HEAD_KEYS))
def test_every_key_is_used(key: str) -> None:
    """Every key of the catalogue is written somewhere."""
    assert key in USED


def log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Give the calls that write a line: a method of a level on something called log or logger."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"debug", "info", "warning", "error", "critical", "exception"}
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id.lower().strip("_") in {"log", "logger", "libraries"}
        ):
            yield node


@pytest.mark.parametrize("name", SOURCES)
def test_lines_use_the_catalogue(name: str) -> None:
    """Every line that the source writes has an event and keys of the catalogue, also on ways that no test takes."""
    for call in log_calls(ast.parse(SOURCES[name])):
        if call.args and isinstance(call.args[0], ast.Constant):
            assert call.args[0].value in EVENTS, f"{name}:{call.lineno}"
        for word in call.keywords:
            assert word.arg is None or word.arg in {*KEYS, "exc_info"}, f"{name}:{call.lineno}: {word.arg}"


@pytest.mark.parametrize("error", errors.leaves().values(), ids=lambda error: error.__name__)
def test_every_error_says_what_it_means(error: type[errors.DicomNodeError]) -> None:
    """Every error has its own code, docstring and actor, says whether to retry, and has a status where the door answers."""
    assert "code" in vars(error)
    assert error.__doc__
    assert error.__doc__ != errors.DicomNodeError.__doc__ or error is errors.DicomNodeError
    assert error.actor in {"administrator", "peer", "nobody", "reviewer", "developer"}
    assert error.retry is issubclass(error, errors.Transient)
    assert (error.status is not None) is issubclass(error, errors.Refused)
    if error.__module__ == errors.__name__:
        assert error.__name__ in (errors.__doc__ or ""), "the tree in the docstring draws every error"


def test_codes_of_errors_are_unique() -> None:
    """No two errors share a code."""
    todo, codes = [errors.DicomNodeError], []
    while todo:
        error = todo.pop()
        codes.append(error.code)
        todo.extend(error.__subclasses__())
    assert sorted(codes) == sorted(set(codes))


def commands(command: Any, path: str = "dicomnode") -> Iterator[tuple[str, Any]]:
    """Give every command and group with its path."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{path} {name}")


def test_every_command_and_option_has_help() -> None:
    """Every command, argument and option says what it is."""
    from dicomnode.cli import application

    found = dict(commands(typer.main.get_command(application())))
    assert len(found) > 10
    for path, command in found.items():
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


@pytest.mark.parametrize("pattern", TOOLS["ruff"]["lint"]["per-file-ignores"])
def test_exception_of_ruff_matches_files(pattern: str) -> None:
    """An exception from the lint rules that matches no file is out of date."""
    assert list(ROOT.glob(pattern.removesuffix("/**") + "/**/*.py")) or any(fnmatch(name, pattern) for name in SOURCES)


def test_gates_match_files() -> None:
    """What ruff, mypy and pytest are told to look at is there."""
    assert TOOLS["mypy"]["strict"] is True
    assert [(ROOT / name / "__init__.py").is_file() for name in TOOLS["mypy"]["packages"]] == [True]
    assert all((ROOT / name).is_dir() for name in TOOLS["ruff"]["src"] + TOOLS["pytest"]["ini_options"]["testpaths"])
    assert TOOLS["ruff"]["lint"]["select"] == ["ALL"]


def broad(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Give function and line of every place that catches everything."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and (
                    node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
                ) and not _passes_on(node):
                    yield function.name, node.lineno


def _passes_on(handler: ast.ExceptHandler) -> bool:
    """Say whether the handler only cleans up and raises the same error again."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


@pytest.mark.parametrize("name", SOURCES)
def test_everything_is_caught_in_few_places(name: str) -> None:
    """``except Exception`` stands only at the outer loops, the stage wrapper, the door and in the log."""
    places = set().union(*(functions for place, functions in BROAD.items() if name.startswith(place)))
    for function, line in broad(ast.parse(SOURCES[name])):
        assert {function, "*"} & places, f"{name}:{line} in {function}"


def test_places_that_catch_everything_are_there() -> None:
    """Every place of the table does catch, so that the table is not longer than need be."""
    caught = {name for name, text in SOURCES.items() if any(broad(ast.parse(text)))}
    assert [place for place in BROAD if not any(name.startswith(place) for name in caught)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.name)
def test_every_test_states_its_claim(path: Path) -> None:
    """Every test has a docstring: the claim that holds."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name}"


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_says_what_it_is(name: str) -> None:
    """Every module begins with its own manual page."""
    assert ast.get_docstring(ast.parse(SOURCES[name]))

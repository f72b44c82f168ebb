"""The log: structlog set up once per process, every line through the PHI gate.

**Way** `get_logger` gives a logger that may be made at import; `configure` says once, in each process, where lines go and
how they look: JSON under systemd or in a pipe, coloured text on a terminal, each line flushed. A line runs through
`_CHAIN`: level, head, error, gate, and then the renderer. Messages of other libraries, warnings and uncaught errors run
through the same chain with their text replaced, because highdicom and others put values of a data set into messages.
What the gate takes out is counted in the key ``dropped``; in tests (`strict`) it raises.

**Fails** Never in service: a log that cannot be written must not stop an instance.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from dicomnode import gate
from dicomnode.errors import ConfigError
from dicomnode.gate import uid_token

__all__ = ["LogLike", "Logger", "UnlistedError", "configure", "get_logger", "strict", "uid_token", "violations"]

Logger = FilteringBoundLogger

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_ALIASES = {"warn": "warning", "exception": "error", "err": "error", "fatal": "critical", "msg": "info"}
#: The same message of a library is written again after this many seconds.
_REPEAT_S = 3600.0


class LogLike(Protocol):
    """What `configure` reads of the settings; `settings.LogSettings` is one."""

    @property
    def level(self) -> str:
        """Least level that is written."""
    @property
    def uids(self) -> str:
        """``token`` or ``plain``."""
    @property
    def format(self) -> str:
        """``auto``, ``json`` or ``text``."""


class UnlistedError(AssertionError):
    """A line holds an event, key or value that the gate does not let pass; raised in tests only."""


@dataclass(slots=True)
class _State:
    """The one set-up of this process; before `configure` it is safe: warnings to stderr, tokens with a key nobody has."""

    level: int = _LEVELS["warning"]
    plain_uids: bool = False
    text: bool = False
    process: str = ""
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    strict: bool = False
    #: Asked for at each line, so that a stdout that is replaced later is followed.
    out: Callable[[], TextIO] = lambda: sys.stderr
    violations: list[str] = field(default_factory=list)
    seen: dict[str, float] = field(default_factory=dict)


_state = _State()
_lock = threading.Lock()


def get_logger(process: str = "") -> Logger:
    """Give a logger whose lines name ``process``, or what `configure` was told."""
    logger = structlog.wrap_logger(
        _Writer(), processors=[_run], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG), context_class=dict,
    )
    return cast("Logger", logger.bind(process=process) if process else logger.bind())


def configure(settings: LogLike, process: str, key: bytes, *, stream: TextIO | None = None) -> None:
    """Set up the log of this process and take over the messages of all libraries.

    Parameters
    ----------
    key
        Of the UID tokens, the same in all processes of a node: `Spool.identity`.
    stream
        Where lines go; absent: stdout.
    """
    _state.out = (lambda: stream) if stream else (lambda: sys.stdout)
    _state.level = _LEVELS[settings.level]
    _state.plain_uids = settings.uids == "plain"
    _state.text = settings.format == "text" or (
        settings.format == "auto" and _state.out().isatty() and "JOURNAL_STREAM" not in os.environ
    )
    _state.process, _state.key = process, key
    _capture_libraries()


def strict(on: bool) -> None:
    """Make the gate raise `UnlistedError` instead of dropping; for tests."""
    _state.strict = on
    _state.violations.clear()


def violations() -> tuple[str, ...]:
    """What the strict gate has found since `strict`, also where a loop caught the error."""
    return tuple(_state.violations)


# -- the chain ---------------------------------------------------------------------------------------------------------


def _run(_logger: object, method: str, line: EventDict) -> str:
    try:
        for step in _CHAIN:
            line = step(method, line)
        return _text(line) if _state.text else json.dumps(line, ensure_ascii=False)
    except (structlog.DropEvent, UnlistedError):
        raise
    except Exception:  # noqa: BLE001 - the log must never stop an instance
        raise structlog.DropEvent from None


def _level(method: str, line: EventDict) -> EventDict:
    level = _ALIASES.get(method, method)
    if _LEVELS[level] < _state.level:
        raise structlog.DropEvent
    return {**line, "level": level}


def _head(_method: str, line: EventDict) -> EventDict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"process": _state.process, **line, "timestamp": now, "pid": os.getpid()}


def _error(_method: str, line: EventDict) -> EventDict:
    return gate.explain(line)


def _gate(_method: str, line: EventDict) -> EventDict:
    passed, faults = gate.sift(line, None if _state.plain_uids else _state.key)
    if faults and _state.strict:
        _state.violations.append(f"{line.get('event')}: {', '.join(faults)}")
        raise UnlistedError(_state.violations[-1])
    if faults:
        passed["dropped"] = len(faults)
    return passed


_CHAIN: tuple[Callable[[str, EventDict], EventDict], ...] = (_level, _head, _error, _gate)

_console = structlog.dev.ConsoleRenderer(colors=True, sort_keys=False, pad_event_to=22)


def _text(line: Mapping[str, object]) -> str:
    """For a person: the time of day, no process id."""
    shown = {key: value for key, value in line.items() if key not in {"pid", "timestamp"}}
    shown["timestamp"] = str(line["timestamp"])[11:23]
    return str(_console(None, "", shown))


class _Writer:
    """Writes each line at once, whole, and lives through a closed pipe."""

    def msg(self, line: str) -> None:
        try:
            out = _state.out()
            with _lock:
                out.write(line + "\n")
                out.flush()
        except (OSError, ValueError):  # ValueError: closed, or not encodable there
            if _state.strict:
                raise

    debug = info = warning = warn = error = err = critical = fatal = exception = log = msg


# -- other people's messages -------------------------------------------------------------------------------------------

_libraries = get_logger()


class _Handler(logging.Handler):
    """Takes records of the standard library's logging; their text stays behind."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _pass_on(record)
        except UnlistedError:
            raise
        except Exception:  # noqa: BLE001 - as in `_run`: a record that cannot be formatted is the library's fault
            return


def _pass_on(record: logging.LogRecord) -> None:
    source = gate.place(record.pathname, record.lineno)
    if record.created - _state.seen.get(source, -math.inf) < _REPEAT_S:
        return
    _state.seen[source] = record.created
    # A library's error is not yet a person's: what we make of it is told in a line of our own.
    write = _libraries.warning if record.levelno >= logging.WARNING else _libraries.debug
    write(
        "library_message", logger=record.name, source=source, digest=gate.digest(record.getMessage(), _state.key),
        exc_info=record.exc_info,
    )


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,  # noqa: ARG001 - the signature is Python's
    file: TextIO | None = None, line: str | None = None,  # noqa: ARG001
) -> None:
    source = gate.place(filename, lineno)
    if source not in _state.seen:
        _state.seen[source] = math.inf
        _libraries.warning("library_message", logger="warnings", source=source, error_type=category.__name__)


def _capture_libraries() -> None:
    """Make our handler the only one, whatever libraries have set up at import, and catch what nobody caught."""
    for existing in (logging.root, *logging.root.manager.loggerDict.values()):
        if isinstance(existing, logging.Logger):
            existing.handlers = [h for h in existing.handlers if isinstance(h, logging.NullHandler)]
    logging.root.addHandler(_Handler())
    logging.root.setLevel(logging.WARNING)
    warnings.showwarning = _warned
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(kind: type[BaseException], error: Any, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    event = "config_rejected" if issubclass(kind, ConfigError) else "defect"
    _libraries.critical(event, exc_info=(kind, error, trace))

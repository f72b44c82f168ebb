"""The PHI gate of the log: what of a line may be written, decided by the catalogue and the shape of each value.

**Way** `explain` replaces an exception by its code or by its type and frames; `sift` lets pass only events and keys of
`events.py`, in the catalogue's order, and only plain values: cut to 200 characters, without control characters, UIDs as
keyed tokens. Nothing here knows where lines go.

**Fails** `sift` names what it took out; `log.py` counts that in service and raises in tests.

**Standard** UIDs are pseudonymous by PS3.15 Annex E, hence the tokens.

**Limits** The gate judges keys and shapes, not meanings: a name given as ``destination`` would pass. The test with the
marked patient watches that.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import sys
import traceback
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePath
from types import TracebackType

from dicomnode.errors import ConfigError, DicomNodeError
from dicomnode.events import EVENTS, KEYS

_LONGEST, _MESSAGE_LONGEST, _MOST_ITEMS = 200, 500, 24
#: Keys whose value is one word of ours; a sentence or a name with spaces there is a mistake.
_WORDS = frozenset({
    "reason", "state", "stage", "kind", "role", "act", "actor", "body_part", "doubt", "tag", "device", "error_type", "setting",
})
_WORD = re.compile(r"[A-Za-z0-9_.:+/-]{0,80}")
#: Control, format, surrogate, private, unassigned, line and paragraph separators: break lines, hide text, fail to encode.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_PACKAGE = Path(__file__).parent


def digest(text: str, key: bytes) -> str:
    """Give a keyed digest that tells texts apart and cannot be tried out without the key."""
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]


def uid_token(uid: str, key: bytes) -> str:
    """Give the keyed token that stands for ``uid`` in the log."""
    return "uid-" + digest(uid, key)


def accession_token(number: str, key: bytes) -> str:
    """Give the keyed token that stands for an Accession Number, ``""`` for none; letter case and spaces do not count."""
    plain = "".join(unicodedata.normalize("NFKC", number).upper().split())
    # A domain of its own, and longer than a token of the log: this one is searched by.
    keyed = hmac.new(key, f"accession number\0{plain}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return f"acc-{keyed.hexdigest()[:20]}" if plain else ""


def device_token(names: Sequence[str], key: bytes) -> str:
    """Give the keyed token that stands for a device by what its header says of it, ``""`` for nothing or without a key."""
    plain = [" ".join(unicodedata.normalize("NFKC", name).upper().split()) for name in names]
    keyed = hmac.new(key, "\0".join(("device", *plain)).encode("utf-8", "surrogatepass"), hashlib.sha256)
    return f"dev-{keyed.hexdigest()[:12]}" if key and any(plain) else ""


def explain(line: Mapping[str, object]) -> dict[str, object]:
    """Replace ``exc_info`` by what may be said of the error: our code and actor, or type and frames, never its text."""
    kept = dict(line)
    given = kept.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    facts: dict[str, object] = {}
    if isinstance(error, DicomNodeError):
        facts = {"reason": error.code, "actor": error.actor}
        if isinstance(error, ConfigError):
            facts["message"] = str(error)
        error = error.__cause__
    if isinstance(error, BaseException) and not isinstance(error, DicomNodeError):
        facts |= {"error_type": type(error).__name__, "traceback": _frames(error.__traceback__)}
    return facts | kept


def _frames(trace: TracebackType | None) -> tuple[str, ...]:
    """Our frames, and the innermost one even when it is a library's."""
    frames = traceback.extract_tb(trace)
    kept = [frame for frame in frames[:-1] if Path(frame.filename).is_relative_to(_PACKAGE)] + frames[-1:]
    return tuple(f"{place(frame.filename, frame.lineno)}:{frame.name}" for frame in kept[-_MOST_ITEMS:])


def place(filename: str, number: int | None) -> str:
    """Give file and line without the path of this machine."""
    return f"{'/'.join(PurePath(filename).parts[-2:])}:{number}"


def sift(line: Mapping[str, object], token_key: bytes | None) -> tuple[dict[str, object], list[str]]:
    """Give what may be written of ``line``, and what was taken out.

    Parameters
    ----------
    token_key
        Key of the UID tokens; None leaves UIDs plain.
    """
    faults = [f"key {key!r}" for key in line if key not in KEYS]
    passed: dict[str, object] = {}
    for key in KEYS:
        if key in line:
            try:
                passed[key] = _value(key, line[key], token_key)
            except (TypeError, ValueError):
                faults.append(f"value of {key!r}")
    if line.get("event") not in EVENTS:
        faults.append(f"event {line.get('event')!r}")
        passed["event"] = "unlisted_event"
    return passed, faults


def _value(key: str, value: object, token_key: bytes | None) -> object:
    if isinstance(value, tuple | list):
        if len(value) > _MOST_ITEMS or any(isinstance(item, tuple | list) for item in value):
            raise ValueError(key)
        return tuple(_value(key, item, token_key) for item in value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(float(value), 4) if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, str):
        return _string(key, str(value), token_key)
    raise TypeError(key)


def _string(key: str, value: str, token_key: bytes | None) -> str:
    if key.endswith("_uid") and value and token_key is not None:
        return uid_token(value, token_key)
    if key in _WORDS and _WORD.fullmatch(value) is None:
        raise ValueError(key)
    longest = _MESSAGE_LONGEST if key == "message" else _LONGEST
    cut = value if len(value) <= longest else value[: longest - 1] + "…"
    if cut.isascii() and cut.isprintable():  # nearly always
        return cut
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNSAFE else c for c in cut)

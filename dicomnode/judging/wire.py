"""What worker and judge say to each other: one line of JSON each way, over a Unix socket in the state directory.

**Way** The question is ``{"texts": [...]}``, the answer ``{"verdicts": [...]}`` with as many words, ``phi`` or ``harmless``, or
``{"failed": reason}``. A new judge puts its socket in the place of the old one's by a rename, so a reload leaves no gap.

**Fails** OSError for the socket, `Odd` for a line that is not what it should be.

**Standard** unix(7). The folder is named by a descriptor, for an address holds 108 bytes and a state directory may be deep.

**Limits** One question a connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dicomnode.stages.redact.appeal import Verdict

SOCKET = "judge.sock"
#: Different texts in one question, and characters in one of them; what is beyond is not asked and counts as phi.
MOST_TEXTS, LONGEST_TEXT = 400, 300
#: Bytes of a line, either way: so many texts of so many characters, each at most six bytes as JSON escapes them, and some.
_LONGEST_LINE = MOST_TEXTS * (LONGEST_TEXT * 6 + 8) + 64
_WAITING = 64
_VERDICTS: Mapping[str, Verdict] = {"phi": "phi", "harmless": "harmless"}


class Odd(Exception):
    """A line is too long, broken off, or says something else than it may; it has no text, for that may be a patient's."""


@contextmanager
def _folder(state_dir: Path) -> Iterator[int]:
    descriptor = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Door:
    """The listening socket of a judge, open to its own account alone."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        draft = f"{SOCKET}.{os.getpid()}"
        with _folder(state_dir) as folder:
            with contextlib.suppress(FileNotFoundError):  # of a process with the same number, long ago
                os.unlink(draft, dir_fd=folder)
            before = os.umask(0o177)  # the file is closed to others from its first moment
            try:
                self.socket.bind(f"/proc/self/fd/{folder}/{draft}")
            finally:
                os.umask(before)
            self.socket.listen(_WAITING)
            self._inode = os.stat(draft, dir_fd=folder).st_ino
            os.rename(draft, SOCKET, src_dir_fd=folder, dst_dir_fd=folder)

    def accept(self, timeout_s: float) -> socket.socket | None:
        """Give the next connection, None when none comes in this time."""
        self.socket.settimeout(timeout_s)
        try:
            connection, _ = self.socket.accept()
        except TimeoutError:
            return None
        return connection

    def close(self) -> None:
        """Take no more; the name goes too, unless another judge has it by now."""
        self.socket.close()
        with contextlib.suppress(FileNotFoundError), _folder(self._state_dir) as folder:
            if os.stat(SOCKET, dir_fd=folder).st_ino == self._inode:
                os.unlink(SOCKET, dir_fd=folder)


def connect(state_dir: Path, until: float) -> socket.socket:
    """Connect to the judge of this state directory, before ``until`` of `time.monotonic`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _folder(state_dir) as folder:
            connection.settimeout(left(until))
            connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
    except BaseException:
        connection.close()
        raise
    return connection


def left(until: float) -> float:
    """Give the seconds that are left; raises TimeoutError when there are none."""
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def send(connection: socket.socket, message: Mapping[str, object], until: float) -> None:
    """Send one line."""
    connection.settimeout(left(until))
    connection.sendall(json.dumps(message).encode("ascii") + b"\n")


def _receive(connection: socket.socket, until: float) -> Any:
    parts: list[bytes] = []
    size = 0
    while not parts or not parts[-1].endswith(b"\n"):
        connection.settimeout(left(until))
        part = connection.recv(65536)
        size += len(part)
        if not part or size > _LONGEST_LINE:
            raise Odd
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        raise Odd from None


def receive_texts(connection: socket.socket, until: float) -> list[str]:
    """Read a question."""
    message = _receive(connection, until)
    texts = message.get("texts") if isinstance(message, dict) and len(message) == 1 else None
    if not isinstance(texts, list) or not 1 <= len(texts) <= MOST_TEXTS:
        raise Odd
    if not all(isinstance(text, str) and len(text) <= LONGEST_TEXT for text in texts):
        raise Odd
    return texts


def receive_verdicts(connection: socket.socket, count: int, until: float) -> list[Verdict] | None:
    """Read an answer of so many verdicts; None when the judge says that it has none."""
    message = _receive(connection, until)
    if not isinstance(message, dict) or len(message) != 1:
        raise Odd
    if "failed" in message:
        return None
    return verdicts(message.get("verdicts"), count)


def verdicts(words: object, count: int) -> list[Verdict]:
    """Give words as verdicts; anything but so many of the two words is odd."""
    if not isinstance(words, list) or len(words) != count or not all(isinstance(word, str) for word in words):
        raise Odd
    try:
        return [_VERDICTS[word] for word in words]
    except KeyError:
        raise Odd from None


def all_phi(texts: Sequence[str]) -> list[Verdict]:
    """Give the answer of whoever knows nothing."""
    return ["phi"] * len(texts)

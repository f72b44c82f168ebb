"""A cut of power, replayed: what strace(1) saw of a running node becomes a model of its disk, which can be cut at any point.

**Way** `record` reads the lines of ``strace -f -y -xx`` into `Call`s. `Disk` takes them one by one and knows of every file and
folder what is *sure* (it was there when an fsync of that file or folder began which has come to its end) and what is *pending*.
`Disk.build` writes one of the states that a cut at this point may leave, sparing nothing: what is pending survives or does
not, each name and each page by itself, so that a rename may show both names or none, and a file may stand there without its
data. `Wire` finds the C-STORE answers in what went over the sockets.

**Limits** What is written through mmap is not seen: SQLite's ``-shm``, which it makes anew. A sync of a file
is taken to make nothing else sure, as POSIX has it; real file systems do more.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CALLS = (
    "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,rename,renameat,"
    "renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,sendto,sendmsg,recvfrom,recvmsg,lseek,copy_file_range,sendfile"
)
STRACE = (
    "strace", "-f", "-qq", "-y", "-xx", "-s", "16000000", "--seccomp-bpf", "-e", f"trace={CALLS}", "-e", "signal=none", "-o",
)
PAGE = 4096
_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)(?:<.*>)?(?: .*)?")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True)
class Call:
    """One system call that came to its end without an error."""

    begin: int
    end: int
    thread: str
    name: str
    arguments: str
    result: int

    @property
    def strings(self) -> list[bytes]:
        """The quoted arguments."""
        return [_bytes(found) for found in _STRING.findall(self.arguments)]

    @property
    def descriptor(self) -> tuple[str, str]:
        """The first descriptor and what it stood for."""
        found = _DESCRIPTOR.match(self.arguments)
        return (found[1], _bytes(found[2]).decode(errors="replace")) if found else ("", "")

    @property
    def paths(self) -> list[str]:
        """The paths that it names, absolute ones only: the node uses no others."""
        return [text.decode(errors="replace") for text in self.strings]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def record(path: Path) -> list[Call]:
    """Read what strace wrote, in the order in which calls ended."""
    calls, begun = [], {}
    with path.open() as lines:
        for number, line in enumerate(lines):
            text, begin = line.rstrip("\n"), number
            if found := _BEGUN.fullmatch(text):
                begun[found[1], found[2]] = number, f"{found[1]} {found[2]}({found[3]}"
                continue
            if found := _ENDED.fullmatch(text):
                begin, start = begun.pop((found[1], found[2]))
                text = start + found[3]
            if (found := _WHOLE.fullmatch(text)) and re.fullmatch(r"\d+", found[4]):
                calls.append(Call(begin, number, found[1], found[2], found[3], int(found[4])))
    return calls


@dataclass
class File:
    """Its content: as it is, as it surely is on disk, and what was written in between."""

    content: bytearray = field(default_factory=bytearray)
    sure: bytes = b""
    #: Offset and data; None as data cuts the file there.
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def change(self, offset: int, data: bytes | None) -> None:
        """Write, or cut at ``offset``."""
        self.pending.append((offset, data))
        _apply(self.content, offset, data)

    def sync(self, count: int) -> None:
        """What was pending when the sync began, the first ``count``, is sure."""
        content = bytearray(self.sure)
        for offset, data in self.pending[:count]:
            _apply(content, offset, data)
        self.sure, self.pending = bytes(content), self.pending[count:]

    def after(self, how: How, chance: random.Random) -> bytes:
        """What is there after a cut."""
        if how == "none":
            return self.sure
        if how == "all":
            return bytes(self.content)
        content, garbage = bytearray(self.sure), chance.random() < 0.3
        for offset, data in self.pending:
            if data is None:
                if chance.random() < 0.5:
                    _apply(content, offset, None)
                continue
            at = 0
            while at < len(data):
                end = min(len(data), at + PAGE - (offset + at) % PAGE)
                if chance.random() < 0.5:
                    _apply(content, offset + at, data[at:end])
                elif garbage and offset + at >= len(self.sure):
                    _apply(content, offset + at, chance.randbytes(end - at))
                at = end
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data


@dataclass
class Folder:
    """Its entries, in the same way."""

    entries: dict[str, File | Folder] = field(default_factory=dict)
    sure: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[tuple[str, File | Folder | None]] = field(default_factory=list)

    def change(self, name: str, node: File | Folder | None) -> None:
        """Enter something under a name, or take it out."""
        self.pending.append((name, node))
        _enter(self.entries, name, node)

    def sync(self, count: int) -> None:
        """As `File.sync`."""
        for name, node in self.pending[:count]:
            _enter(self.sure, name, node)
        self.pending = self.pending[count:]

    def after(self, how: How, chance: random.Random) -> dict[str, File | Folder]:
        """As `File.after`; of a rename each half survives by itself."""
        if how != "some":
            return dict(self.sure if how == "none" else self.entries)
        entries = dict(self.sure)
        for name, node in self.pending:
            if chance.random() < 0.5:
                _enter(entries, name, node)
        return entries


def _enter(entries: dict[str, File | Folder], name: str, node: File | Folder | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


How = Literal["none", "all", "some"]


class Disk:
    """The folder ``root``, empty at first, under the calls of all processes."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self.top = Folder()
        self._offsets: dict[tuple[int, str], int] = {}
        self._appending: set[tuple[int, str]] = set()
        self._renaming: set[int] = set()
        self._begun: dict[int, int] = {}

    def begins(self, call: Call) -> None:
        """A sync has begun: only what is pending now will be sure at its end.

        A rename is seen by others somewhere between its begin and its end, and the trace does not say where. Another process
        that has seen the new name, syncs the folder and goes by that is right, so a rename counts from its begin.
        """
        if call.name in {"fsync", "fdatasync"} and (node := self._at(call.descriptor[1])) is not None:
            self._begun[id(call)] = len(node.pending)
        elif call.name.startswith("rename") and self._entry(call):
            self._renaming.add(id(call))

    def ends(self, call: Call) -> bool:
        """A call has come to its end; True when it changed something here."""
        name = call.name
        if name in {"fsync", "fdatasync"}:
            if (node := self._at(call.descriptor[1])) is not None and id(call) in self._begun:
                node.sync(self._begun.pop(id(call)))
                return True
        elif name in {"open", "openat", "creat"}:
            return self._open(call)
        elif name in {"write", "writev", "pwrite64", "pwritev", "pwritev2", "lseek"}:
            return self._write(call)
        elif name in {"ftruncate", "truncate"}:
            path = call.descriptor[1] or call.paths[0]
            if isinstance(node := self._at(path), File):
                size = int(call.arguments.rsplit(", ", 1)[1])
                node.change(size, None) if size < len(node.content) else node.change(size, b"")
                return True
        elif name in {"copy_file_range", "sendfile", "fallocate"}:
            assert self._root not in call.descriptor[1], f"{name} is not modelled"
        else:
            renamed = id(call) in self._renaming
            self._renaming.discard(id(call))
            return renamed or (not name.startswith("rename") and self._entry(call))
        return False

    def _entry(self, call: Call) -> bool:
        """The calls that change folders."""
        ours = [self._split(path) for path in call.paths]
        if not ours or any(one is None for one in ours):
            return False
        folder, name = ours[0]
        if call.name in {"mkdir", "mkdirat"}:
            folder.change(name, Folder())
        elif call.name in {"unlink", "unlinkat", "rmdir"}:
            folder.change(name, None)
        else:
            target, new = ours[1]
            node = folder.entries[name]
            target.change(new, node)
            if call.name.startswith("rename"):
                folder.change(name, None)
        return True

    def _open(self, call: Call) -> bool:
        if not call.paths or (found := self._split(call.paths[0])) is None:
            return False
        folder, name = found
        node, made = folder.entries.get(name), False
        if node is None:
            assert "O_CREAT" in call.arguments, call
            node, made = File(), True
            folder.change(name, node)
        if isinstance(node, Folder):
            return False
        key = id(node), str(call.result)
        self._offsets[key] = 0
        (self._appending.add if "O_APPEND" in call.arguments else self._appending.discard)(key)
        if "O_TRUNC" in call.arguments and node.content:
            node.change(0, None)
            made = True
        return made

    def _write(self, call: Call) -> bool:
        descriptor, path = call.descriptor
        node = self._at(path)
        if not isinstance(node, File):
            return False
        key = id(node), descriptor
        if call.name == "lseek":
            self._offsets[key] = call.result
            return False
        data = b"".join(call.strings)[: call.result]
        if call.name.startswith("p"):
            node.change(int(call.arguments.rsplit(", ", 1)[1]), data)
            return True
        offset = len(node.content) if key in self._appending else self._offsets[key]
        node.change(offset, data)
        self._offsets[key] = offset + len(data)
        return True

    def _split(self, path: str) -> tuple[Folder, str] | None:
        above, _, name = path.rstrip("/").rpartition("/")
        folder = self._at(above) if path.startswith(self._root + "/") else None
        return (folder, name) if isinstance(folder, Folder) else None

    def _at(self, path: str) -> File | Folder | None:
        if path != self._root and not path.startswith(self._root + "/"):
            return None
        node: File | Folder | None = self.top
        for name in path[len(self._root) :].split("/")[1:]:
            node = node.entries.get(name) if isinstance(node, Folder) else None
        return node

    def state(self, folders: How, files: How, seed: int) -> dict[str, bytes | None]:
        """One state that a cut now may leave: path below the root → content, None for a folder."""
        chance, found = random.Random(seed), {}

        def go(folder: Folder, at: str) -> None:
            for name, node in sorted(folder.after(folders, chance).items()):
                if isinstance(node, Folder):
                    found[at + name] = None
                    go(node, f"{at}{name}/")
                else:
                    found[at + name] = node.after(files, chance)

        go(self.top, "")
        return found


def build(state: dict[str, bytes | None], target: Path) -> None:
    """Write a state of `Disk.state` below ``target``."""
    target.mkdir()
    for name, content in state.items():
        if content is None:
            (target / name).mkdir()
        else:
            (target / name).write_bytes(content)


def digest(state: dict[str, bytes | None]) -> bytes:
    """Tell states apart."""
    found = hashlib.sha256()
    for name, content in state.items():
        found.update(repr((name, None if content is None else hashlib.sha256(content).digest())).encode())
    return found.digest()


class Wire:
    """The C-STORE answers with success in what went over the sockets, as they are whole."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], bytearray] = {}
        self._commands: dict[tuple[str, str], bytes] = {}

    def answers(self, call: Call) -> Iterator[tuple[Literal["sent", "received"], str]]:
        """Give way and SOP Instance UID of the answers that this call ends."""
        if call.name not in {"sendto", "sendmsg", "recvfrom", "recvmsg", "write", "writev"}:
            return
        socket = call.descriptor[1]
        if not socket.startswith("socket:") and not socket.startswith("TCP"):
            return
        way: Literal["sent", "received"] = "received" if call.name.startswith("recv") else "sent"
        key = socket, way
        stream = self._streams.setdefault(key, bytearray())
        stream += b"".join(call.strings)[: call.result]
        while len(stream) >= 6 and len(stream) >= 6 + (length := int.from_bytes(stream[2:6], "big")):
            kind, body = stream[0], bytes(stream[6 : 6 + length])
            del stream[: 6 + length]
            if kind != 4:
                continue
            while len(body) >= 6:
                size = int.from_bytes(body[:4], "big")
                control, data, body = body[5], body[6 : 4 + size], body[4 + size :]
                if control & 1:
                    self._commands[key] = self._commands.get(key, b"") + data
                if control & 3 == 3 and (uid := _stored(self._commands.pop(key))):
                    yield way, uid


def _stored(command: bytes) -> str:
    """The SOP Instance UID of a C-STORE-RSP with status 0x0000; empty for every other command."""
    elements, at = {}, 0
    while at < len(command):
        element, length = int.from_bytes(command[at + 2 : at + 4], "little"), int.from_bytes(command[at + 4 : at + 8], "little")
        elements[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    if elements.get(0x0100) != b"\x01\x80" or elements.get(0x0900) != b"\0\0":
        return ""
    return elements[0x1000].rstrip(b"\0 ").decode()

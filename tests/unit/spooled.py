"""Files as the acceptor leaves them in the spool, and the settings of a node in a folder of its own."""

from __future__ import annotations

import os
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from dicomnode.header import Sender, file_meta
from dicomnode.settings import Settings, load
from dicomnode.spool import Spool

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
_ROUTES = """
[[rule]]
name = "all"
outputs = ["sr"]
destinations = ["pacs"]
"""
_PACS = """
ae_title = "PACS"
host = "127.0.0.1"
port = 11113
trust = "inside"
"""


def an_id(number: int) -> str:
    """The id of the instance of this number."""
    return f"20260301T1200{number:02d}000000-{number:08x}"


def data_set(uid: str, extra: bytes = b"") -> bytes:
    """A small CT data set, Explicit VR Little Endian."""

    def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        value += b" " * (len(value) % 2) if vr != b"UI" else b"\0" * (len(value) % 2)
        return struct.pack("<HH2sH", group, number, vr, len(value)) + value

    return b"".join((
        element(0x0008, 0x0016, b"UI", CT.encode()), element(0x0008, 0x0018, b"UI", uid.encode()),
        element(0x0008, 0x0060, b"CS", b"CT"), element(0x0020, 0x000D, b"UI", b"1.4"),
        element(0x0020, 0x000E, b"UI", b"1.3"), element(0x0020, 0x4000, b"LT", b"note" + extra),
    ))


def receive(spool: Spool, number: int = 1, *, uid: str = "", data: bytes | None = None) -> str:
    """Do what the acceptor does; gives the location."""
    uid = uid or f"1.2.{number}"
    meta = file_meta(CT, uid, EXPLICIT, Sender("MODALITY", "DICOMNODE", "127.0.0.1", NOW))
    tmp = spool.temporary(an_id(number))
    tmp.write_bytes(meta + data_set(uid) if data is None else data)
    return spool.commit(tmp, an_id(number))


def spoil(stream: BinaryIO) -> None:
    """Have every read from an open file fail, as a disk does in the midst of it."""
    closed = os.open(os.devnull, os.O_WRONLY)
    os.dup2(closed, stream.fileno())
    os.close(closed)


def configured(folder: Path, keep: str = "", scp: str = "") -> Settings:
    """Write a configuration below ``folder`` and load it."""
    config = folder / "ae_config"
    (config / "peers").mkdir(parents=True)
    (config / "node.toml").write_text(f"[node]\nstate_dir = \"{folder / 'state'}\"\n[keep]\n{keep}\n[scp]\n{scp}\n")
    (config / "routes.toml").write_text(_ROUTES)
    (config / "peers" / "pacs.toml").write_text(_PACS)
    return load(config)

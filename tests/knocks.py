"""Short visits to an acceptor over bare sockets, and what a process holds: for tests and benchmarks of leaks."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path

#: What a visitor does: nothing, no DICOM, a proper association, one that breaks off.
KINDS = ("silent", "garbage", "released", "dropped")
_RELEASE_RQ = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
_ASSOCIATE_AC, _RELEASE_RP = 0x02, 0x06
_VERIFICATION, _IMPLICIT, _CONTEXT_NAME = "1.2.840.10008.1.1", "1.2.840.10008.1.2", "1.2.840.10008.3.1.1.1"


def _item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(data)) + data


def associate_rq(called: str = "DICOMNODE", calling: str = "VISITOR") -> bytes:
    """An A-ASSOCIATE-RQ that proposes Verification (PS3.8 9.3.2)."""
    context = b"\x01\0\0\0" + _item(0x30, _VERIFICATION.encode()) + _item(0x40, _IMPLICIT.encode())
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.3.4")
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    body += _item(0x10, _CONTEXT_NAME.encode()) + _item(0x20, context) + _item(0x50, user)
    return struct.pack(">BBI", 1, 0, len(body)) + body


def knock(port: int, kind: str, timeout_s: float = 30) -> None:
    """Visit once.

    Raises
    ------
    OSError
        Refused, or no answer within the time.
    ValueError
        Another answer than the standard's.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as wire:
        if kind == "silent":
            return
        if kind == "garbage":
            wire.sendall(b"GET / HTTP/1.0\r\n\r\n")
            _some(wire)  # an A-ABORT, or the end
            return
        wire.sendall(associate_rq())
        _expect(wire, _ASSOCIATE_AC)
        if kind == "released":
            wire.sendall(_RELEASE_RQ)
            _expect(wire, _RELEASE_RP)


def _some(wire: socket.socket) -> bytes:
    try:
        return wire.recv(4096)
    except ConnectionResetError:
        return b""


def _expect(wire: socket.socket, kind: int) -> None:
    found, _, length = struct.unpack(">BBI", _exactly(wire, 6))
    _exactly(wire, length)
    if found != kind:
        raise ValueError(f"PDU type {found:#04x} instead of {kind:#04x}")


def _exactly(wire: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        if not (more := wire.recv(length - len(data))):
            raise ValueError("the connection was closed instead of an answer")
        data += more
    return data


@dataclass(frozen=True, slots=True)
class Held:
    """What processes hold, in sum."""

    resident_kb: int
    threads: int
    descriptors: int


def held(*pids: int) -> Held:
    """Ask /proc; a process that ended meanwhile counts nothing."""
    resident = threads = descriptors = 0
    for pid in pids:
        try:
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
            )
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            continue
        resident += int(status.get("VmRSS", "0 kB").split()[0])
        threads += int(status.get("Threads", "0"))
    return Held(resident, threads, descriptors)

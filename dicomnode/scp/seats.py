"""Who sits inside, counted over all acceptor processes: in all, and by calling AE title.

**Way** A table in memory that all acceptors share: the supervisor makes it and hands it down, an acceptor alone makes its own.
One row an acceptor says how many connections it has, one row a seat says who sits there and in which process. `take` and
`leave` hold a lock over the table; `ahead` reads without one. A row counts only while its process lives, so the seats of an
acceptor that was killed are free at the next `take`.

**Fails** Never at the door: a table without a free row is full.

**Standard** PS3.8 Table 9-21: both limits are answered "local limit exceeded" (2/3/2).

**Limits** Memory, not disk: the counts end with the supervisor, and so do the associations. An acceptor that is stopped in the
midst of `take` keeps the others from admitting until it is killed, which the supervisor does.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from dicomnode.queue.owner import Owner, alive, this_process

#: What a taken seat is, or what there was no room for.
Refusal = Literal["associations", "associations_of_ae"]

_PROCESSES, _SEATS = 256, 1024
#: pid, 1 while it accepts, start ticks, connections.
_PROCESS = struct.Struct("=IIQI12x")
#: pid, start ticks, calling AE title.
_SEAT = struct.Struct("=I4xQ16s")
_FREE = bytes(_SEAT.size)
_FIRST_SEAT = _PROCESSES * _PROCESS.size
_SIZE = _FIRST_SEAT + _SEATS * _SEAT.size


class Seats:
    """The part of this process in the table."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = os.memfd_create("dicomnode-seats", os.MFD_CLOEXEC) if descriptor is None else descriptor
        weakref.finalize(self, os.close, self._descriptor)
        os.set_inheritable(self._descriptor, False)
        self._me = this_process()
        self._mine = threading.Lock()
        self._alone = descriptor is None
        if os.fstat(self._descriptor).st_size != _SIZE:  # whoever comes first; the same for all
            os.ftruncate(self._descriptor, _SIZE)
        self._table = mmap.mmap(self._descriptor, _SIZE)
        with self._locked():
            self._row = self._enter()

    # -- at the door
    def take(self, calling_ae: str, most: int, most_of_ae: int) -> int | Refusal:
        """Give a seat to leave by, or say which limit is reached; AE titles are counted without their padding."""
        title = calling_ae.encode("ascii", "replace")[:16]
        with self._locked():
            living: dict[tuple[int, int], bool] = {(self._me.pid, self._me.start_ticks): True}
            free, taken, of_ae = -1, 0, 0
            for number, (pid, ticks, ae) in enumerate(_SEAT.iter_unpack(self._table[_FIRST_SEAT:_SIZE])):
                if pid and self._lives(pid, ticks, living):
                    taken += 1
                    of_ae += ae.rstrip(b"\0") == title
                else:
                    if pid:
                        self._seat(number, _FREE)
                    if free < 0:
                        free = number
            if taken >= most or free < 0:
                return "associations"
            if of_ae >= most_of_ae:
                return "associations_of_ae"
            self._seat(free, _SEAT.pack(self._me.pid, self._me.start_ticks, title))
            return free

    def leave(self, seat: int) -> None:
        """Free a seat that `take` gave."""
        with self._locked():
            self._seat(seat, _FREE)

    def count(self) -> Counter[str]:
        """Give how many sit inside, by calling AE title."""
        living: dict[tuple[int, int], bool] = {}
        with self._locked():
            return Counter(
                ae.rstrip(b"\0").decode() for pid, ticks, ae in _SEAT.iter_unpack(self._table[_FIRST_SEAT:_SIZE])
                if pid and self._lives(pid, ticks, living)
            )

    # -- sharing the work
    def busy(self, connections: int, *, accepts: bool = True) -> None:
        """Say how many connections this process has, and whether it takes more."""
        row = _PROCESS.pack(self._me.pid, int(accepts), self._me.start_ticks, connections)
        self._table[self._row : self._row + _PROCESS.size] = row

    def ahead(self) -> bool:
        """Say whether another living acceptor has fewer connections than this one."""
        if self._alone:
            return False
        *_, mine = _PROCESS.unpack_from(self._table, self._row)
        if not mine:
            return False
        living: dict[tuple[int, int], bool] = {}
        return any(
            accepts and connections < mine and pid != self._me.pid and self._lives(pid, ticks, living)
            for pid, accepts, ticks, connections in _PROCESS.iter_unpack(self._table[:_FIRST_SEAT]) if pid
        )

    # -- the table
    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mine:  # the kernel's lock is the process's, not the thread's
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _enter(self) -> int:
        """Find the row of this process: a free one, or one whose process is dead."""
        living: dict[tuple[int, int], bool] = {}
        for number, (pid, _, ticks, _) in enumerate(_PROCESS.iter_unpack(self._table[:_FIRST_SEAT])):
            if not pid or not self._lives(pid, ticks, living):
                row = number * _PROCESS.size
                self._table[row : row + _PROCESS.size] = _PROCESS.pack(self._me.pid, 0, self._me.start_ticks, 0)
                return row
        raise RuntimeError("more acceptors than the table of seats has rows")

    def _seat(self, number: int, data: bytes) -> None:
        at = _FIRST_SEAT + number * _SEAT.size
        self._table[at : at + _SEAT.size] = data

    def _lives(self, pid: int, ticks: int, known: dict[tuple[int, int], bool]) -> bool:
        if (pid, ticks) not in known:
            known[pid, ticks] = alive(Owner(self._me.boot_id, pid, ticks))
        return known[pid, ticks]

"""Who may come in: the decision on an association request, as values.

**Way** `Door.knock` is asked of every connection, before a thread or a buffer is spent on it: few may wait for judgement.
`Door.judge` is asked before the association is accepted and gives None or the A-ASSOCIATE-RJ with a word for the log. The
called AE title is looked at first, then the calling one, then the address, then room on disk, then a seat: in all, and for
this calling AE. `Door.leave` ends what `judge` admitted, `Door.let_go` what `knock` did. Who asks again and again cannot fill
the log (`Flood`).

**Standard** PS3.8 Table 9-21 (result, source, reason).

**Limits** Associations are counted over all acceptor processes (`seats.py`), connections that wait for judgement within one.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dicomnode import dimse
from dicomnode.scp.seats import Seats
from dicomnode.settings import Settings

#: Connections that wait for judgement: this many for each association that may be open, but never fewer than `_FEWEST`.
_WAITING_PER_ASSOCIATION = 2
_FEWEST = 16
#: Rejections of one address that are told in so many seconds, and of how many addresses.
_LINES, _WINDOW_S, _ADDRESSES = 20, 10.0, 256


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source and reason, and the word that the log uses."""

    code: tuple[int, int, int]
    reason: str


class Flood:
    """Which rejections are told: the first `_LINES` of an address in any `_WINDOW_S` seconds; the others are counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ends = 0.0
        self._told: Counter[str] = Counter()
        self._left_out = 0

    def line(self, address: str) -> int | None:
        """Give how many were left out since the last line that was told; None when this one is left out too."""
        with self._lock:
            if self._clock() >= self._ends:
                self._ends = self._clock() + _WINDOW_S
                self._told.clear()
            if self._told[address] >= _LINES or (address not in self._told and len(self._told) >= _ADDRESSES):
                self._left_out += 1
                return None
            self._told[address] += 1
            count, self._left_out = self._left_out, 0
            return count


class Door:
    """Counts who is inside and judges who asks to come in; used by many threads."""

    def __init__(self, settings: Settings, free_bytes: Callable[[], int], seats: Seats | None = None) -> None:
        self._settings = settings
        self._free_bytes = free_bytes
        #: Shared with the other acceptors; a door alone has its own.
        self.seats = seats or Seats()
        #: Associations of this process, each with its seat.
        self._inside: dict[str, int] = {}
        #: Connections not admitted, each with whom it counts for.
        self._waiting: dict[object, str] = {}
        self._room = max(_FEWEST, _WAITING_PER_ASSOCIATION * settings.scp.max_associations)
        self._lock = threading.Lock()
        self._accepts = True
        self.flood = Flood()
        #: Set when the acceptor drains: nobody comes in any more.
        self.closed = False

    def knock(self, connection: object, address: str) -> bool:
        """Say whether a connection may ask to come in; who may is waiting until `let_go`.

        One address has at most half of the room; so have all addresses together that no peer calls from.
        """
        known = self._settings.node.open or any(
            _within(address, network) for peer in self._settings.peers.values() for network in peer.calls_from
        )
        who = address if known else ""
        with self._lock:
            full = len(self._waiting) >= self._room or list(self._waiting.values()).count(who) >= self._room // 2
            if not full:
                self._waiting[connection] = who
                self._count()
            return not full

    def let_go(self, connection: object) -> None:
        """A connection was admitted or has ended; naming it again does nothing."""
        with self._lock:
            self._waiting.pop(connection, None)
            self._count()

    def judge(self, association_id: str, calling_ae: str, called_ae: str, address: str) -> Rejection | None:
        """Admit an association (None) or say why not."""
        rejection = self._stranger(calling_ae, called_ae, address) or self._no_room()
        if rejection is not None:
            return rejection
        scp = self._settings.scp
        seat = self.seats.take(calling_ae, scp.max_associations, scp.max_associations_per_ae)
        if isinstance(seat, str):
            return Rejection(dimse.REJECT_LIMIT, f"too_many_{seat}")
        with self._lock:
            self._inside[association_id] = seat
            self._count()
        return None

    def leave(self, association_id: str) -> None:
        """End an association; naming one that was never admitted does nothing."""
        with self._lock:
            seat = self._inside.pop(association_id, None)
            self._count()
        if seat is not None:
            self.seats.leave(seat)

    def count(self) -> int:
        """How many associations of this process are inside."""
        with self._lock:
            return len(self._inside)

    def waiting(self) -> int:
        """How many connections of this process wait for judgement."""
        with self._lock:
            return len(self._waiting)

    def retire(self) -> None:
        """Tell the other acceptors that this one takes no more connections."""
        with self._lock:
            self._accepts = False
            self._count()

    def _count(self) -> None:
        self.seats.busy(len(self._inside) + len(self._waiting), accepts=self._accepts)

    def _stranger(self, calling_ae: str, called_ae: str, address: str) -> Rejection | None:
        if called_ae != self._settings.node.ae_title:
            return Rejection(dimse.REJECT_CALLED_AE, "called_ae_unknown")
        if self._settings.node.open:
            return None
        # Several peers may share an AE title: then each brings its own addresses.
        callers = [p for p in self._settings.peers.values() if p.ae_title == calling_ae and p.calls_from]
        if not callers:
            return Rejection(dimse.REJECT_CALLING_AE, "calling_ae_unknown")
        if not any(_within(address, network) for peer in callers for network in peer.calls_from):
            return Rejection(dimse.REJECT_NO_REASON, "address_unknown")
        return None

    def _no_room(self) -> Rejection | None:
        if self.closed:
            return Rejection(dimse.REJECT_CONGESTION, "stopping")
        try:
            free = self._free_bytes()
        except OSError:
            free = -1
        if free < self._settings.scp.min_free_bytes:
            return Rejection(dimse.REJECT_CONGESTION, "disk_low")
        return None


def _within(address: str, network: str) -> bool:
    try:
        host = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(host, "ipv4_mapped", None)  # an IPv4 caller on an IPv6 socket
    return (mapped or host) in ipaddress.ip_network(network, strict=False)

"""How fast we may send: a token bucket for a peer and one for the node, and whose turn it is when a bucket is short.

**Way** Who wants to send a chunk enters a `Bucket` and gets a ticket; `Bucket.delay` gives 0 when the ticket was served, else
the seconds after which to ask again. What is served is paid for afterwards: the next ticket waits until the debt is worked off.
Of several who wait, the one with the earliest virtual start is next (start-time fair queuing): a flow of weight 4 gets four
times the bytes of a flow of weight 1, and no flow waits for ever. A flow is a lane in the bucket of its peer, a peer in the
bucket of the node. `Pace.pay` goes through both.

**Limits** What is counted is handed to the kernel, which sends it on as fast as the network takes it: on the wire a chunk may
go out at full speed, a tenth of a second of the rate at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from dicomnode.settings import Peer, Priority, Settings

#: Share of `send.max_mbit_s` by the peer's priority, and of what is urgent.
WEIGHTS: Mapping[Priority, int] = {"high": 4, "medium": 2, "low": 1}
URGENT_WEIGHT = 8
#: A chunk takes this long at the rate, seconds; what a bucket saves up while nobody sends is no more either.
_CHUNK_S = 0.1
_LEAST_CHUNK, _MOST_CHUNK = 4096, 1 << 20
_BYTES_PER_MBIT = 125_000


@dataclass(slots=True, eq=False)
class Ticket:
    """The wish to send so many bytes."""

    count: int
    #: Virtual time at which its turn is.
    start: float
    served: bool = False


class Bucket:
    """So many bytes a second for all who share it."""

    def __init__(self, bytes_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes_s = bytes_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = 0.0
        self._counted_at = clock()
        #: Start of the ticket served last, and where each flow stands; flows that are behind it are forgotten.
        self._virtual = 0.0
        self._ends: dict[object, float] = {}
        self._waiting: list[Ticket] = []

    @property
    def chunk(self) -> int:
        """Bytes to ask for at a time."""
        return int(min(_MOST_CHUNK, max(_LEAST_CHUNK, self.bytes_s * _CHUNK_S)))

    def enter(self, flow: object, weight: int, count: int) -> Ticket:
        """Queue up; the ticket is to be asked for by `delay` until it is served, or given up by `leave`."""
        with self._lock:
            start = max(self._virtual, self._ends.get(flow, 0.0))
            self._ends = {other: end for other, end in self._ends.items() if end > self._virtual}
            self._ends[flow] = start + count / weight
            ticket = Ticket(count, start)
            self._waiting.append(ticket)
            return ticket

    def delay(self, ticket: Ticket) -> float:
        """Serve the ticket and give 0, or give the seconds until its turn may come."""
        with self._lock:
            if ticket.served:
                return 0.0
            now = self._clock()
            self._tokens = min(self._tokens + (now - self._counted_at) * self.bytes_s, self.bytes_s * _CHUNK_S)
            self._counted_at = now
            before = [other for other in self._waiting if other is not ticket and other.start < ticket.start]
            if not before and self._tokens >= 0:
                self._tokens -= ticket.count
                self._virtual = ticket.start
                self._waiting.remove(ticket)
                ticket.served = True
                return 0.0
            return max(sum(other.count for other in before) - self._tokens, 1.0) / self.bytes_s

    def leave(self, ticket: Ticket) -> None:
        """Give up what was not served."""
        with self._lock:
            if not ticket.served and ticket in self._waiting:
                self._waiting.remove(ticket)


@dataclass(frozen=True, slots=True)
class Pace:
    """What one send goes through: its buckets, its flow and its weight in each."""

    steps: tuple[tuple[Bucket, object, int], ...] = ()

    @property
    def chunk(self) -> int:
        """Bytes to pay for at a time."""
        return min((bucket.chunk for bucket, _, _ in self.steps), default=_MOST_CHUNK)

    def pay(self, count: int, wait: Callable[[float], None]) -> None:
        """Wait until so many bytes may be sent; ``wait`` may raise to give up."""
        for bucket, flow, weight in self.steps:
            ticket = bucket.enter(flow, weight, count)
            try:
                while (seconds := bucket.delay(ticket)) > 0:
                    wait(seconds)
            finally:
                bucket.leave(ticket)


#: Nothing is counted.
FREE = Pace()


@dataclass(slots=True)
class Paces:
    """The buckets of the node and of its peers, shared by all lanes."""

    settings: Settings
    clock: Callable[[], float] = time.monotonic
    _node: Bucket | None = field(default=None, init=False)
    _peers: dict[str, Bucket] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Make the buckets of everything that has a limit."""
        make = partial(Bucket, clock=self.clock)
        if self.settings.send.max_mbit_s:
            self._node = make(self.settings.send.max_mbit_s * _BYTES_PER_MBIT)
        for name, peer in self.settings.peers.items():
            if peer.max_mbit_s:
                self._peers[name] = make(peer.max_mbit_s * _BYTES_PER_MBIT)

    def of(self, name: str, peer: Peer, lane: int, *, urgent: bool) -> Pace:
        """Give the pace of one delivery on one lane of a peer."""
        steps: list[tuple[Bucket, object, int]] = []
        if name in self._peers:
            steps.append((self._peers[name], lane, URGENT_WEIGHT if urgent else 1))
        if self._node is not None:
            steps.append((self._node, (name, urgent), URGENT_WEIGHT if urgent else WEIGHTS[peer.priority]))
        return Pace(tuple(steps))

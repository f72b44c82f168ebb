"""How fast we may send: rates, shares and who gives up, on a clock of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.scu.pace import FREE, Bucket, Pace, Paces, Ticket
from dicomnode.settings import Peer
from tests.integration.acceptor import settings

MEGABYTE = 1_000_000


class Clock:
    """A clock that goes only when it is told."""

    now = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


def share(bucket: Bucket, clock: Clock, weights: dict[str, int], seconds: float, chunk: int = 0) -> dict[str, int]:
    """Let every flow send as much as it may; gives the bytes of each."""
    sent = dict.fromkeys(weights, 0)
    chunk = chunk or bucket.chunk
    tickets: dict[str, Ticket] = {flow: bucket.enter(flow, weight, chunk) for flow, weight in weights.items()}
    end = clock.now + seconds
    while clock.now < end:
        delays = []
        for flow, ticket in list(tickets.items()):
            if delay := bucket.delay(ticket):
                delays.append(delay)
            else:
                sent[flow] += chunk
                tickets[flow] = bucket.enter(flow, weights[flow], chunk)
                delays.append(0.0)
        clock.wait(min(delays))
    for ticket in tickets.values():
        bucket.leave(ticket)
    return sent


@pytest.mark.parametrize("rate", [20_000, MEGABYTE, 120 * MEGABYTE])
def test_rate(clock: Clock, rate: float) -> None:
    """What is sent in ten seconds is what the rate says, a chunk more or less."""
    bucket = Bucket(rate, clock)
    assert share(bucket, clock, {"a": 1}, 10)["a"] == pytest.approx(10 * rate, abs=2 * bucket.chunk)


def test_saved_up_is_little(clock: Clock) -> None:
    """An hour without sending gives no right to a burst."""
    bucket = Bucket(MEGABYTE, clock)
    clock.wait(3600)
    assert share(bucket, clock, {"a": 1}, 1)["a"] <= 1.25 * MEGABYTE


def test_shares(clock: Clock) -> None:
    """Flows share by weight, the least of them gets its part, and together they get the rate."""
    sent = share(Bucket(MEGABYTE, clock), clock, {"high": 4, "medium": 2, "low": 1}, 20)
    assert sum(sent.values()) == pytest.approx(20 * MEGABYTE, rel=0.03)
    assert sent["high"] / sent["low"] == pytest.approx(4, rel=0.05)
    assert sent["medium"] / sent["low"] == pytest.approx(2, rel=0.05)


def test_who_comes_back_has_no_credit(clock: Clock) -> None:
    """A flow that was away shares from now on; it does not get what it left to the others."""
    bucket = Bucket(MEGABYTE, clock)
    share(bucket, clock, {"high": 4}, 20)
    sent = share(bucket, clock, {"high": 4, "low": 1}, 10)
    assert sent["high"] / sent["low"] == pytest.approx(4, rel=0.1)


def test_who_gives_up_blocks_nobody(clock: Clock) -> None:
    """A ticket that was left no longer stands before the others, also when its wait was cut off by an exception."""
    bucket = Bucket(MEGABYTE, clock)
    bucket.delay(bucket.enter("a", 1, MEGABYTE))

    def cut(_: float) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        Pace(((bucket, "a", 8),)).pay(1000, cut)
    ticket = bucket.enter("b", 1, 1000)
    clock.wait(1.001)
    assert bucket.delay(ticket) == 0


def test_paces_of_peers(tmp_path: Path, clock: Clock) -> None:
    """A peer's cap and the node's both hold; chunks follow the slower; without caps nothing waits."""
    peers = {"capped": Peer(ae_title="A", max_mbit_s=0.8), "free": Peer(ae_title="B", priority="high")}
    paces = Paces(settings(tmp_path, peers=peers, send={"max_mbit_s": 8}), clock)
    pace = paces.of("capped", peers["capped"], 0, urgent=False)
    started = clock.now
    for _ in range(100):
        pace.pay(pace.chunk, clock.wait)
    assert 100 * pace.chunk / (clock.now - started) == pytest.approx(100_000, rel=0.03)
    assert pace.chunk == 10_000
    assert paces.of("free", peers["free"], 0, urgent=False).chunk == 100_000
    assert Paces(settings(tmp_path / "2", peers=peers)).of("free", peers["free"], 0, urgent=True).steps == ()
    FREE.pay(1 << 30, lambda _: pytest.fail("it waits"))

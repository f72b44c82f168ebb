"""The socket that one thread waits on: PDUs whole and in order, deadlines kept, memory only for what came."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.upper.wire import Closed, Interrupted, TimedOut, TooLong, Wire


@pytest.fixture
def pair() -> Iterator[tuple[Wire, socket.socket]]:
    """A wire and the peer's end, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        wire = Wire(server.accept()[0])
        yield wire, peer
        wire.close()


def soon() -> float:
    """A deadline that is far enough on a busy machine."""
    return time.monotonic() + 20


def pdu(kind: int, body: bytes) -> bytes:
    """One PDU."""
    return bytes((kind, 0)) + len(body).to_bytes(4, "big") + body


def read(wire: Wire, count: int) -> list[tuple[int, bytes]]:
    """The next PDUs."""
    found: list[tuple[int, bytes]] = []
    while len(found) < count:
        while (one := wire.pdu(1 << 20)) is not None:
            found.append((one[0], bytes(one[1])))
        if len(found) < count:
            wire.fill(soon())
    return found


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 7), st.sampled_from((0, 1, 10, 2000, 16384, 70_000, 300_000))), min_size=1, max_size=8),
    st.integers(1, 100_000),
)
def test_pdus_come_out_as_they_went_in(sizes: list[tuple[int, int]], step: int) -> None:
    """However a stream of PDUs is cut into segments, they come out whole, in order and unchanged."""
    sent = [(kind, bytes([place + 1]) * size) for place, (kind, size) in enumerate(sizes)]
    raw = b"".join(pdu(kind, body) for kind, body in sent)
    ours, theirs = socket.socketpair()
    wire = Wire(ours)

    def write() -> None:
        for at in range(0, len(raw), max(step, len(raw) // 50)):
            theirs.sendall(raw[at:at + max(step, len(raw) // 50)])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert read(wire, len(sent)) == sent
        assert wire.waiting_bytes == 0
    finally:
        wire.close()
        thread.join()
        theirs.close()


def test_many_pdus_in_one_read(pair: tuple[Wire, socket.socket]) -> None:
    """Small PDUs that came together are given away without a further wait."""
    wire, peer = pair
    peer.sendall(pdu(4, b"one") + pdu(5, b"two") + pdu(6, b"thr")[:-1])
    found: list[bytes] = []
    while len(found) < 2:
        wire.fill(soon())
        while (one := wire.pdu(100)) is not None:
            found.append(bytes(one[1]))
    assert found == [b"one", b"two"]
    peer.sendall(b"r")
    assert read(wire, 1) == [(6, b"thr")]


def test_memory_follows_what_came_not_what_was_claimed(pair: tuple[Wire, socket.socket]) -> None:
    """A claimed length costs nothing until its bytes are there; more than agreed is refused by the header alone."""
    wire, peer = pair
    peer.sendall(b"\4\0" + (1_000_000).to_bytes(4, "big") + b"x" * 50_000)
    while wire.waiting_bytes < 50_006:
        wire.fill(soon())
        assert wire.pdu(1 << 20) is None
    assert len(wire._view) <= 2 * 65536
    with pytest.raises(TooLong):
        wire.pdu(999_999)


def test_the_end_of_the_stream_and_the_deadline(pair: tuple[Wire, socket.socket]) -> None:
    """Nothing in time is `TimedOut`, a peer that closes inside a PDU is `Closed`."""
    wire, peer = pair
    started = time.monotonic()
    with pytest.raises(TimedOut):
        wire.fill(started + 0.1)
    assert 0.1 <= time.monotonic() - started < 10
    peer.sendall(b"\4\0\0")
    wire.fill(soon())
    peer.close()
    with pytest.raises(Closed):
        wire.fill(soon())
    assert wire.waiting_bytes == 3


def test_interrupt_wakes_the_reader_and_writing_still_works(pair: tuple[Wire, socket.socket]) -> None:
    """Another thread ends the wait; the peer can still be told."""
    wire, peer = pair
    timer = threading.Timer(0.1, wire.interrupt)
    timer.start()
    with pytest.raises(Interrupted):
        wire.fill(soon())
    timer.join()
    wire.send([b"good", memoryview(b"bye")], soon())
    peer.settimeout(20)
    assert peer.recv(7) == b"goodbye"
    peer.sendall(b"more")
    with pytest.raises(Interrupted):
        wire.fill(soon())


def test_a_peer_that_does_not_read_is_not_waited_for_endlessly(pair: tuple[Wire, socket.socket]) -> None:
    """Writing has its deadline too, and what a slow reader takes is complete."""
    wire, peer = pair
    parts = [bytes([n % 256]) * 1000 for n in range(2000)]
    got = bytearray()

    def take() -> None:
        while len(got) < 2_000_000:
            got.extend(peer.recv(70_001))

    thread = threading.Thread(target=take)
    thread.start()
    wire.send(parts, soon())
    thread.join(20)
    assert bytes(got) == b"".join(parts)
    with pytest.raises(TimedOut):
        wire.send([bytes(50_000_000)], time.monotonic() + 0.2)


def test_close_twice_and_cut(pair: tuple[Wire, socket.socket]) -> None:
    """Ending more than once does nothing, from whatever thread."""
    wire, _ = pair
    wire.cut()
    wire.close()
    wire.close()
    wire.interrupt()

"""One association against peers written byte by byte: long and short PDUs, refusals, aborts and silence in mid-stream."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicomnode import contexts, dimse
from dicomnode.errors import PeerUnavailable
from dicomnode.records import Verdict
from dicomnode.scu import link as links
from dicomnode.scu.link import Link
from dicomnode.scu.pace import Bucket, Pace
from dicomnode.settings import Peer
from dicomnode.upper import command, pdata, pdus
from tests.integration.sending import CT, CT_CLASS, inside
from tests.peers import wait_for

WANTED = (CT_CLASS, contexts.EXPLICIT)
MEGABYTE = 1 << 20
RELEASE_RQ, RELEASE_RP, ABORT = (bytes((kind, 0, 0, 0, 0, 4, 0, 0, 0, 0)) for kind in (5, 6, 7))


def item(kind: int, body: bytes) -> bytes:
    """One item of an association PDU."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def acceptance(max_pdu: int, syntax: str = contexts.EXPLICIT) -> bytes:
    """Accept the one context."""
    body = struct.pack(">HH16s16s32s", 1, 0, b"PEER".ljust(16), b"DICOMNODE".ljust(16), bytes(32))
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    body += item(0x21, bytes((1, 0, 0, 0)) + item(0x40, syntax.encode()))
    body += item(0x50, item(0x51, struct.pack(">L", max_pdu)) + item(0x52, b"1.2.3"))
    return struct.pack(">BBL", 2, 0, len(body)) + body


def answer(status: int, message_id: int = 1) -> bytes:
    """A C-STORE response as one PDU."""
    request = command.Command(command.C_STORE_RQ, message_id, 0, True, CT_CLASS, "1.2", None)
    return b"".join(bytes(part) for part in pdata.message(1, command.response(request, status), 16384))


class Connection:
    """The peer's end, read PDU by PDU."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: Lengths of the data PDUs, and what their fragments hold: commands and data sets.
        self.lengths: list[int] = []
        self.commands: list[bytes] = []
        self.data = bytearray()
        self.last = 0
        self.keep = True

    def exactly(self, count: int) -> bytes:
        """Read so many bytes, or all there are."""
        got = b""
        while len(got) < count and (more := self.sock.recv(count - len(got))):
            got += more
        return got

    def pdu(self) -> int:
        """Read one PDU; gives its type, 0 at the end of the stream."""
        head = self.exactly(6)
        if len(head) < 6:
            return 0
        body = self.exactly(int.from_bytes(head[2:], "big"))
        if head[0] == pdus.P_DATA_TF:
            self.lengths.append(len(body))
            for _, control, fragment in pdata.values(memoryview(body)):
                if control & pdata.COMMAND:
                    self.commands.append(bytes(fragment))
                else:
                    self.data += fragment if self.keep else b""
                    self.last += bool(control & pdata.LAST)
        return head[0]

    def message(self) -> None:
        """Read PDUs to the end of a data set."""
        before = self.last
        while self.last == before and self.pdu():
            pass


@contextlib.contextmanager
def peer(
    script: Callable[[Connection], None], max_pdu: int = 16384, receive_bytes: int = 0,
) -> Iterator[tuple[int, Connection]]:
    """Take one association and do what the script says."""
    with socket.socket() as listener:
        if receive_bytes:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        connection = Connection(listener)

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                connection.sock = sock
                sock.settimeout(20)
                assert connection.pdu() == 1
                sock.sendall(acceptance(max_pdu))
                with contextlib.suppress(OSError):
                    script(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], connection
        thread.join(20)
        assert not thread.is_alive()


def opened(port: int, timeout_s: float = 5) -> Link:
    """An association for CT."""
    return Link.open(inside(port), "DICOMNODE", [WANTED], timeout_s)


def sized(root: Path, size: int) -> Path:
    """A CT with so many bytes of zeros behind its pixels' head, mostly a hole in the file."""
    path = root / "sized.dcm"
    ds = pydicom.dcmread(CT)
    del ds.PixelData
    del ds[0xFFFCFFFC]
    ds.save_as(path)
    with path.open("ab") as file:
        file.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, size))
        file.truncate(file.tell() + size)
    return path


@pytest.mark.parametrize("max_pdu", [0, 50, 4096, 4097, 16384, 131072, 1 << 24])
def test_pdus_are_as_long_as_the_peer_takes_them(tmp_path: Path, max_pdu: int) -> None:
    """No PDU is longer than agreed, fragments are even, and what arrives is the data set byte for byte."""
    def script(end: Connection) -> None:
        end.message()
        end.sock.sendall(answer(dimse.SUCCESS))
        assert end.pdu() == 5
        end.sock.sendall(RELEASE_RP)

    path = sized(tmp_path, 300_000 if max_pdu else 3 * MEGABYTE)
    with peer(script, max_pdu) as (port, end):
        link = opened(port)
        assert link.send(path, WANTED, path.stat().st_size) == Verdict("delivered", status=0)
        link.close()
        wait_for(lambda: end.last)
    assert path.read_bytes().endswith(bytes(end.data))
    assert len(end.data) > 300_000
    assert max(end.lengths) <= (max_pdu or 1 << 18)
    assert all((length - pdata.OVERHEAD) % 2 == 0 for length in end.lengths[-5:])
    said = command.parse(b"".join(end.commands))
    assert (said.field, said.sop_class_uid, said.has_data_set) == (command.C_STORE_RQ, CT_CLASS, True)


def test_the_shortest_pdus_cost_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that takes two bytes at a time gets them, few at a time."""
    framed, real = [], links._framed

    def counted(*what: Any, **how: Any) -> Any:
        framed.append(len(made := real(*what, **how)))
        return made

    monkeypatch.setattr(links, "_framed", counted)

    def script(end: Connection) -> None:
        end.message()
        end.sock.sendall(answer(dimse.SUCCESS))

    with peer(script, 8) as (port, end):
        link, path = opened(port, 30), sized(tmp_path, 20_000)
        assert link.send(path, WANTED, path.stat().st_size).outcome == "delivered"
        link.abort()
    assert path.read_bytes().endswith(bytes(end.data))
    assert max(framed) <= 8192


@pytest.mark.parametrize(("status", "outcome"), [(dimse.OUT_OF_RESOURCES, "deferred"), (dimse.CANNOT_UNDERSTAND, "refused")])
def test_refusal_in_mid_stream(tmp_path: Path, status: int, outcome: str) -> None:
    """A failure answered before the whole data set is there is heard at once, even of a peer that reads no further."""
    def script(end: Connection) -> None:
        end.pdu()
        end.pdu()
        end.sock.sendall(answer(status))
        time.sleep(1)

    with peer(script, receive_bytes=65536) as (port, _):
        link, path = opened(port, 30), sized(tmp_path, 64 * MEGABYTE)
        started = time.monotonic()
        verdict = link.send(path, WANTED, path.stat().st_size)
        assert time.monotonic() - started < 10
    assert (verdict.outcome, verdict.status, link.alive) == (outcome, status, False)


def test_success_in_mid_stream_counts_when_everything_is_sent(tmp_path: Path) -> None:
    """Early success is believed, but the data set is sent to its end all the same."""
    def script(end: Connection) -> None:
        end.pdu()
        end.sock.sendall(answer(dimse.SUCCESS))
        end.message()
        assert end.pdu() == 5
        end.sock.sendall(RELEASE_RP)

    with peer(script) as (port, end):
        link, path = opened(port), sized(tmp_path, 8 * MEGABYTE)
        assert link.send(path, WANTED, path.stat().st_size).outcome == "delivered"
        link.close()
        wait_for(lambda: end.last)
    assert len(end.data) > 8 * MEGABYTE


def test_only_the_answer_to_what_is_under_way_counts(tmp_path: Path) -> None:
    """A peer that answers the first object twice and the second never has not taken the second."""
    def script(end: Connection) -> None:
        end.message()
        end.sock.sendall(answer(dimse.SUCCESS))
        end.pdu()
        end.sock.sendall(answer(dimse.SUCCESS))
        while end.pdu() not in (0, 7):
            pass

    with peer(script) as (port, _):
        link, path = opened(port), sized(tmp_path, MEGABYTE)
        assert link.send(path, WANTED, path.stat().st_size).outcome == "delivered"
        assert link.send(path, WANTED, path.stat().st_size) == Verdict("deferred", "no_status")
    assert not link.alive


def test_a_peer_that_talks_without_end_and_never_answers(tmp_path: Path) -> None:
    """It costs the timeout like one that is silent."""
    talk = b"".join(bytes(part) for part in pdata.message(1, bytes(16000), 0, control=0))

    def script(end: Connection) -> None:
        end.message()
        for _ in range(200_000):
            end.sock.sendall(talk)

    with peer(script) as (port, _):
        link = opened(port, 1)
        started = time.monotonic()
        assert link.send(CT, WANTED) == Verdict("deferred", "no_status")
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("words", [ABORT, RELEASE_RQ, b"", b"\x04\0\xff\xff\xff\xff", b"\x09\0\0\0\0\0", answer(0)[:20]])
def test_the_end_in_mid_stream(tmp_path: Path, words: bytes) -> None:
    """An abort, a release, a closed connection or nonsense in mid-stream is noticed at once; the outcome is unknown."""
    def script(end: Connection) -> None:
        end.pdu()
        end.pdu()
        end.sock.sendall(words)

    with peer(script, receive_bytes=65536) as (port, _):
        link, path = opened(port, 30), sized(tmp_path, 64 * MEGABYTE)
        started = time.monotonic()
        verdict = link.send(path, WANTED, path.stat().st_size)
        assert time.monotonic() - started < 10
    assert (verdict, link.alive) == (Verdict("deferred", "no_status"), False)


def test_a_peer_that_does_not_read(tmp_path: Path) -> None:
    """It costs the timeout, not more; the association is cut without waiting for what it did not take."""
    done = threading.Event()
    with peer(lambda _: done.wait(20) and None, receive_bytes=65536) as (port, _):
        link, path = opened(port, 0.5), sized(tmp_path, 64 * MEGABYTE)
        started = time.monotonic()
        verdict = link.send(path, WANTED, path.stat().st_size)
        assert 0.4 < time.monotonic() - started < 5
        done.set()
    assert verdict == Verdict("deferred", "no_status")


def test_a_peer_that_reads_slowly(tmp_path: Path) -> None:
    """One that takes longer than the timeout for all, and never stops for that long, is waited for."""
    def script(end: Connection) -> None:
        while end.last == 0 and end.pdu():
            time.sleep(0.002)
        end.sock.sendall(answer(dimse.SUCCESS))

    with peer(script, receive_bytes=16384) as (port, _):
        link, path = opened(port, 1), sized(tmp_path, 12 * MEGABYTE)
        started = time.monotonic()
        assert link.send(path, WANTED).outcome == "delivered"
        assert time.monotonic() - started > 1
        link.abort()


@pytest.mark.parametrize("words", [RELEASE_RQ, ABORT, b""])
def test_the_end_while_idle(words: bytes) -> None:
    """An association that the peer ends while nothing is sent is known to be gone before anything is sent on it."""
    answers: list[int] = []

    def script(end: Connection) -> None:
        end.sock.sendall(words)
        if words == RELEASE_RQ:
            answers.append(end.pdu())

    with peer(script) as (port, _):
        link = opened(port)
        wait_for(lambda: not link.alive)
        assert link.send(CT, WANTED) == Verdict("deferred", "no_status")
    assert answers == ([6] if words == RELEASE_RQ else [])


def test_both_release(tmp_path: Path) -> None:
    """A release of the peer that crosses ours is answered, and ours is waited for."""
    kinds: list[int] = []

    def script(end: Connection) -> None:
        kinds.append(end.pdu())
        end.sock.sendall(RELEASE_RQ)
        kinds.append(end.pdu())
        end.sock.sendall(RELEASE_RP)
        kinds.append(end.pdu())

    with peer(script) as (port, _):
        opened(port).close()
    assert kinds == [5, 6, 0]


def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs the timeout, and what is to be done beside waiting is done: else the whole sender would count as stuck."""
    done, ticks, real = threading.Event(), [], socket.getaddrinfo

    def resolver(host: str, port: int, **how: Any) -> Any:
        if not how.get("flags"):
            done.wait(60)
        return real(host, port, **how)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    far = Peer(ae_title="PEER", host="pacs.invalid", port=104, trust="inside")
    started = time.monotonic()
    try:
        with pytest.raises(PeerUnavailable):
            Link.open(far, "DICOMNODE", [WANTED], 1.5, lambda: ticks.append(0))
    finally:
        done.set()
    assert time.monotonic() - started < 20
    assert len(ticks) >= 2


def test_an_acceptance_that_cannot_be_read() -> None:
    """It is no association, and the peer is told."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        got: list[bytes] = []

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(b"\x02\0\0\0\0\x03abc")
                got.append(sock.recv(10))

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(PeerUnavailable):
            opened(listener.getsockname()[1])
        thread.join(10)
    assert got[0][:1] == b"\x07"


def test_an_abort_is_heard_while_the_pace_holds_us_back(tmp_path: Path) -> None:
    """The wait for a token is a wait for the peer too."""
    def script(end: Connection) -> None:
        end.pdu()
        end.sock.sendall(ABORT)

    with peer(script) as (port, _):
        link, bucket = opened(port, 60), Bucket(1000.0)
        started = time.monotonic()
        verdict = link.send(sized(tmp_path, MEGABYTE), WANTED, pace=Pace(((bucket, 0, 1),)))
        assert time.monotonic() - started < 3
    assert verdict.reason == "no_status"


def test_memory_of_a_large_object(tmp_path: Path) -> None:
    """An object of 256 MB costs a block, however large it is."""
    def script(end: Connection) -> None:
        end.keep = False
        end.message()
        end.sock.sendall(answer(dimse.SUCCESS))

    def resident(what: str) -> int:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        return int(text.partition(f"{what}:")[2].split()[0]) * 1024

    path = sized(tmp_path, 256 * MEGABYTE)
    with peer(script, 131072) as (port, _):
        link = opened(port, 30)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins anew
        before = resident("VmRSS")
        assert link.send(path, WANTED, path.stat().st_size).outcome == "delivered"
        assert resident("VmHWM") - before < 16 * MEGABYTE
        link.abort()

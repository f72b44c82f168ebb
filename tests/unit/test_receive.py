"""Messages out of P-DATA-TF PDUs: what is answered, what is written, what is refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode import contexts, dimse
from dicomnode.errors import CannotUnderstand, OutOfResources
from dicomnode.scp import receive
from dicomnode.scp.receive import Incoming, Receiver
from dicomnode.upper import command, pdata
from dicomnode.upper.command import Command, Malformed, parse
from dicomnode.upper.driver import Ended

CT = "1.2.840.10008.5.1.4.1.1.2"
ACCEPTED = {1: (contexts.VERIFICATION, contexts.IMPLICIT), 3: (CT, contexts.EXPLICIT)}


class Keeper:
    """Takes everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told = 0
        self.stored: list[tuple[Command, tuple[str, str], bytes | None]] = []

    def open(self, request: Command, transfer_syntax_uid: str) -> Incoming:  # noqa: ARG002 - of the protocol
        """Begin a file that is headed by the syntax."""
        return Incoming(self.folder / f"{len(self.stored)}.part", "id", transfer_syntax_uid.encode() + b"|")

    def store(self, request: Command, context: tuple[str, str], incoming: Incoming | None) -> int:
        """Keep what came."""
        if incoming is not None:
            incoming.finish()
        self.stored.append((request, context, incoming.path.read_bytes() if incoming is not None else None))
        return dimse.SUCCESS

    def answered(self) -> None:
        """Count."""
        self.told += 1


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    """A keeper on a folder of its own."""
    return Keeper(tmp_path)


def receiver(keeper: Keeper) -> tuple[Receiver, list[tuple[int, Command]]]:
    """A receiver and what it says."""
    said: list[tuple[int, Command]] = []
    return Receiver(ACCEPTED, keeper, lambda context_id, raw: said.append((context_id, parse(raw)))), said


def body(*values: tuple[int, int, bytes]) -> memoryview:
    """The body of one P-DATA-TF PDU."""
    return memoryview(b"".join(pdata.head(number, control, len(data))[6:] + data for number, control, data in values))


def request(field: int, *, data_set: bool, sop_class: str = CT) -> bytes:
    """A command set of any service."""
    raw = bytearray(command.store_rq(7, sop_class, "1.2.3"))
    for number, value in ((0x0100, field), (0x0800, 0x0001 if data_set else 0x0101)):
        at = raw.index(bytes((0, 0)) + number.to_bytes(2, "little") + b"\2\0\0\0")
        raw[at + 8:at + 10] = value.to_bytes(2, "little")
    return bytes(raw)


STORE = command.store_rq(7, CT, "1.2.3")


STEPS = st.lists(st.integers(1, 12), max_size=20)


@given(st.binary(max_size=60), STEPS, STEPS, st.booleans())
def test_fragments_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, command_steps: list[int], data_steps: list[int], together: bool,
) -> None:
    """Command and data set come together from any fragments, in one PDU or in many."""
    keeper = Keeper(tmp_path_factory.mktemp("fragments"))
    taker, said = receiver(keeper)
    values = [*_cut(STORE, command_steps, pdata.COMMAND), *_cut(data, data_steps, 0)]
    for pdu in [values] if together else [[value] for value in values]:
        taker.take(body(*pdu))
    ((asked, context, stored),) = keeper.stored
    assert (asked, context) == (parse(STORE), ACCEPTED[3])
    assert stored == contexts.EXPLICIT.encode() + b"|" + data
    assert keeper.told == 1
    assert said == [(3, Command(command.C_STORE_RSP, 0, 7, False, CT, "1.2.3", dimse.SUCCESS))]


def _cut(data: bytes, steps: list[int], control: int) -> list[tuple[int, int, bytes]]:
    pieces, at = [], 0
    for step in steps:
        if at + step < len(data):
            pieces.append((3, control, data[at:at + step]))
            at += step
    return [*pieces, (3, control | pdata.LAST, data[at:])]


@pytest.mark.parametrize("field", [0x0010, 0x0020, 0x0021, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150, 0x7777])
@pytest.mark.parametrize("data_set", [True, False])
def test_other_services_are_refused_by_name(keeper: Keeper, field: int, data_set: bool) -> None:
    """Every other request is answered 0x0211, after its data set, which is passed over; the next one is served."""
    taker, said = receiver(keeper)
    taker.take(body((3, 3, request(field, data_set=data_set))))
    if data_set:
        assert said == []
        taker.take(body((3, 0, b"iden"), (3, 2, b"tifier")))
    taker.take(body((1, 3, command.echo_rq(8, contexts.VERIFICATION))))
    assert [(number, found.field, found.status) for number, found in said] == [
        (3, field | 0x8000, dimse.UNRECOGNISED_OPERATION), (1, command.C_ECHO_RSP, dimse.SUCCESS),
    ]
    assert keeper.stored == []


def test_cancel_is_passed_over_and_echo_of_another_class_refused(keeper: Keeper) -> None:
    """C-CANCEL has no answer; a C-ECHO of an image class is none."""
    taker, said = receiver(keeper)
    cancel = command.response(Command(command.C_CANCEL_RQ, 7, 0, False, "", "", None), 0).replace(b"\xff\x8f", b"\xff\x0f")
    assert parse(cancel).field == command.C_CANCEL_RQ
    taker.take(body((3, 3, cancel), (3, 3, command.echo_rq(8, CT))))
    assert [found.status for _, found in said] == [dimse.SOP_CLASS_NOT_SUPPORTED]


def test_a_store_without_data_set_is_the_keepers_to_answer(keeper: Keeper) -> None:
    """It is told that there is none."""
    taker, said = receiver(keeper)
    taker.take(body((3, 3, request(1, data_set=False))))
    assert [(stored, len(said)) for _, _, stored in keeper.stored] == [(None, 1)]


@pytest.mark.parametrize(
    "values",
    [
        [(3, 2, b"data")], [(5, 3, STORE)], [(3, 3, STORE), (3, 3, STORE)], [(3, 3, STORE), (1, 2, b"data")],
        [(3, 1, STORE[:9]), (1, 3, STORE[9:])], [(3, 1, STORE), (3, 2, b"data")], [(3, 3, b"\xff" * 20)], [(3, 3, b"")],
        [(3, 3, command.response(parse(STORE), 0))], [(3, 1, bytes(40_000)), (3, 3, bytes(40_000))],
    ],
    ids=[
        "data first", "no such context", "command in data", "two contexts", "two contexts in a command", "data in command",
        "rubbish", "empty", "response", "command without end",
    ],
)
def test_malformed(keeper: Keeper, values: list[tuple[int, int, bytes]]) -> None:
    """What makes no sense is refused, and what is half received can be deleted."""
    taker, _ = receiver(keeper)
    with pytest.raises(Malformed):
        taker.take(body(*values))
    taker.discard()
    assert taker.discard() == 0
    assert keeper.stored == []
    assert list(keeper.folder.iterdir()) == []


def test_a_peer_that_is_gone_at_the_answer(keeper: Keeper) -> None:
    """The line about an instance is written although its answer could not be sent."""
    def gone(_context_id: int, _raw: bytes) -> None:
        raise Ended("broken")

    with pytest.raises(Ended):
        Receiver(ACCEPTED, keeper, gone).take(body((3, 3, STORE), (3, 2, b"data")))
    assert (len(keeper.stored), keeper.told) == (1, 1)


def test_messages_without_end_in_one_pdu(keeper: Keeper) -> None:
    """Sixteen are served, more are nobody's."""
    echo = (1, 3, command.echo_rq(8, contexts.VERIFICATION))
    taker, said = receiver(keeper)
    taker.take(body(*[echo] * 16))
    assert len(said) == 16
    with pytest.raises(Malformed):
        taker.take(body(*[echo] * 17))


# -- the file
def fill(path: Path, *pieces: bytes) -> Incoming:
    """An incoming file of these fragments."""
    incoming = Incoming(path, "id", b"meta")
    for piece in pieces:
        incoming.write(memoryview(piece))
    return incoming


def test_file_is_written_as_it_comes(tmp_path: Path) -> None:
    """Meta and fragments are in the file at once, for group and owner alone; its beginning is kept in memory."""
    incoming = fill(tmp_path / "x", b"ab", b"c" * 3000)
    assert (tmp_path / "x").read_bytes() == b"metaab" + b"c" * 3000
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) & 0o027 == 0
    assert incoming.first == b"ab" + b"c" * 2046
    assert incoming.size_bytes == 3002
    incoming.finish()
    incoming.discard()
    assert not (tmp_path / "x").exists()


def test_large_files_are_written_back_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked for each MiB once, without gaps."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(receive, "write_back", lambda _file, offset, count: asked.append((offset, count)))
    fill(tmp_path / "x", *[bytes(1 << 18)] * 35).finish()
    assert asked[0][0] == 0
    assert [offset + count for offset, count in asked[:-1]] == [offset for offset, _ in asked[1:]]
    assert [count >> 20 for _, count in asked] == [1] * 8


def _few(real: Callable[..., int]) -> Callable[..., int]:
    return lambda file, buffers: real(file, [bytes(b"".join(buffers))[:3]])


def test_writes_that_take_a_part_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes three bytes at a time gets them all."""
    monkeypatch.setattr(receive.os, "writev", _few(os.writev))
    fill(tmp_path / "x", b"", b"abcdefgh", b"i").finish()
    assert (tmp_path / "x").read_bytes() == b"metaabcdefghi"


def test_a_disk_that_fails_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is passed over, nothing stays, and the end says why."""
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    incoming = fill(tmp_path / "x", b"ab")
    with monkeypatch.context() as patch:
        patch.setattr(receive.os, "writev", broken)
        incoming.write(memoryview(b"cd"))
    incoming.write(memoryview(b"ef"))
    assert incoming.size_bytes == 6
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutOfResources, match="Input/output"):
        incoming.finish()


def test_what_is_refused_is_never_opened(tmp_path: Path) -> None:
    """A failure that is known before the first byte costs no file."""
    incoming = Incoming(tmp_path / "x", "id", b"", CannotUnderstand("no UID"))
    incoming.write(memoryview(b"ab"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CannotUnderstand):
        incoming.finish()


def test_a_disk_that_runs_short_while_a_large_object_comes(tmp_path: Path) -> None:
    """The object is given up at once, not at its end: what it holds by then is the room of results."""
    asked = []
    incoming = Incoming(tmp_path / "x", "id", b"meta", short=lambda: asked.append(0) is None and len(asked) > 1)
    for _ in range(40):
        incoming.write(memoryview(bytes(1 << 20)))
    assert len(asked) == 2
    assert list(tmp_path.iterdir()) == []
    assert incoming.size_bytes == 40 << 20
    with pytest.raises(OutOfResources):
        incoming.finish()

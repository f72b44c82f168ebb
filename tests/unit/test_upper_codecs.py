"""Command sets and P-DATA-TF PDUs against pynetdicom's and pydicom's own encoders, and against bytes that nobody may send."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_items import PresentationDataValueItem

from dicomnode.upper import command, pdata
from dicomnode.upper.command import Command, Malformed, parse

UIDS = st.from_regex(r"[12](\.(0|[1-9][0-9]{0,8})){0,5}", fullmatch=True)
US = st.integers(0, 0xFFFF)


def as_pydicom(raw: bytes) -> Any:
    """A command set as pydicom reads it; its group length is right."""
    ds = decode(io.BytesIO(raw), True, True)
    assert ds.CommandGroupLength == len(raw) - 12
    return ds


@given(US, UIDS, UIDS, st.sampled_from((0, 1, 2)))
def test_store_request_both_ways(message_id: int, sop_class: str, sop_instance: str, priority: int) -> None:
    """Pydicom reads our C-STORE-RQ, and we read pydicom's encoding of the same."""
    raw = command.store_rq(message_id, sop_class, sop_instance, priority)
    ds = as_pydicom(raw)
    assert (ds.CommandField, ds.MessageID, ds.Priority) == (1, message_id, priority)
    assert (ds.AffectedSOPClassUID, ds.AffectedSOPInstanceUID) == (sop_class, sop_instance)
    ds.MoveOriginatorApplicationEntityTitle, ds.MoveOriginatorMessageID = "MOVER", 7
    theirs = encode(ds, True, True)
    assert theirs is not None
    assert parse(theirs) == parse(raw) == Command(1, message_id, 0, True, sop_class, sop_instance, None)


@given(US, UIDS, st.just("") | UIDS, US, st.sampled_from((0x0001, 0x0030, 0x0020, 0x0110)))
def test_response_both_ways(message_id: int, sop_class: str, sop_instance: str, status: int, field: int) -> None:
    """A response names the request and its status, as pydicom and we read it; without an instance it names none."""
    raw = command.response(Command(field, message_id, 0, True, sop_class, sop_instance, None), status)
    ds = as_pydicom(raw)
    assert (ds.CommandField, ds.MessageIDBeingRespondedTo, ds.Status) == (field | 0x8000, message_id, status)
    assert ds.CommandDataSetType == 0x0101
    assert ds.get("AffectedSOPInstanceUID", "") == sop_instance
    assert parse(raw) == Command(field | 0x8000, 0, message_id, False, sop_class, sop_instance, status)


def test_echo_request() -> None:
    """Pydicom reads our C-ECHO-RQ."""
    ds = as_pydicom(command.echo_rq(9, "1.2.840.10008.1.1"))
    assert (ds.CommandField, ds.MessageID, ds.CommandDataSetType) == (0x30, 9, 0x0101)
    assert ds.AffectedSOPClassUID == "1.2.840.10008.1.1"


def test_a_peers_text_is_not_repeated() -> None:
    """What is no UID does not stand in the answer."""
    ds = as_pydicom(command.response(Command(1, 1, 0, True, "EVIL\n", "\ufffd", None), 0xC000))
    assert "AffectedSOPClassUID" not in ds
    assert "AffectedSOPInstanceUID" not in ds


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_malformed(raw: bytes) -> None:
    """No bytes do anything but that."""
    try:
        found = parse(raw)
    except Malformed:
        return
    assert isinstance(found, Command)


def element(number: int, value: bytes, group: int = 0) -> bytes:
    """One element of a command set."""
    return struct.pack("<HHL", group, number, len(value)) + value


GOOD = (element(0x0100, b"\x01\0"), element(0x0110, b"\x07\0"), element(0x0800, b"\0\0"))


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"".join(GOOD)[:-1], b"".join(GOOD[1:]), GOOD[0] + GOOD[2], GOOD[0] + GOOD[1], b"".join(GOOD) + GOOD[0],
        b"".join(GOOD) + element(0x0010, b"x", group=8), GOOD[0] + GOOD[1] + element(0x0800, b""),
        element(0x0100, b"\x01\x80") + element(0x0120, b"\x07\0") + GOOD[2],
        b"".join(GOOD) + struct.pack("<HHL", 0, 2, 0xFFFFFFFF),
    ],
    ids=["nothing", "cut", "no field", "no id", "no type", "twice", "group 8", "empty US", "no status", "endless"],
)
def test_malformed(raw: bytes) -> None:
    """A command set that is not one is refused."""
    assert parse(b"".join(GOOD)).message_id == 7
    with pytest.raises(Malformed):
        parse(raw)


def test_odd_command_sets_are_read() -> None:
    """A data set type of any value but 0x0101 says that there is one; unknown and unordered elements do no harm."""
    ds = Dataset()
    ds.CommandField, ds.MessageIDBeingRespondedTo, ds.CommandDataSetType = 0x0FFF, 5, 0x0101
    raw = encode(ds, True, True)
    assert raw is not None
    assert parse(raw) == Command(0x0FFF, 0, 5, False, "", "", None)
    assert parse(element(0x0902, b"text") + b"".join(reversed(GOOD))).has_data_set
    assert not parse(GOOD[0] + GOOD[1] + element(0x0800, b"\x01\x01")).has_data_set


# -- P-DATA-TF
CONTEXT_IDS = st.integers(0, 127).map(lambda number: 2 * number + 1)
FRAGMENTS = st.lists(st.tuples(CONTEXT_IDS, st.integers(0, 3), st.binary(max_size=40)), min_size=1)


@given(FRAGMENTS)
def test_values_of_pynetdicoms_pdus(fragments: list[tuple[int, int, bytes]]) -> None:
    """We read what pynetdicom writes, whatever number of values a PDU has."""
    pdu = P_DATA_TF()
    for context_id, control, data in fragments:
        item = PresentationDataValueItem()
        item.presentation_context_id, item.presentation_data_value = context_id, bytes((control,)) + data
        pdu.presentation_data_value_items.append(item)
    raw = pdu.encode()
    found = [(context_id, control, bytes(view)) for context_id, control, view in pdata.values(memoryview(raw)[6:])]
    assert found == fragments


@given(st.integers(0, 127), st.binary(max_size=300), st.just(0) | st.integers(7, 400), st.sampled_from((0, pdata.COMMAND)))
def test_pynetdicom_reads_our_pdus(number: int, data: bytes, longest: int, control: int) -> None:
    """Pynetdicom reads what we write; no PDU is longer than the peer allows, the last fragment alone is marked."""
    raw = b"".join(pdata.message(2 * number + 1, data, longest, control))
    got, at, marks = b"", 0, []
    while at < len(raw):
        length = int.from_bytes(raw[at + 2:at + 6], "big")
        assert not longest or length <= longest
        pdu = P_DATA_TF()
        pdu.decode(raw[at:at + 6 + length])
        ((context_id, value),) = pdu.to_primitive().presentation_data_value_list
        assert context_id == 2 * number + 1
        assert value[0] & 1 == control
        marks.append(value[0] & 2)
        got += value[1:]
        at += 6 + length
    assert got == data
    assert marks == [0] * (len(marks) - 1) + [2]


@given(st.binary(max_size=100))
def test_any_body_is_values_or_malformed(body: bytes) -> None:
    """Lengths that do not add up are found before anything is read behind the end."""
    total = 0
    try:
        for _, _, fragment in pdata.values(memoryview(body)):
            total += 6 + len(fragment)
    except Malformed:
        assert total < len(body) or not body
        return
    assert total == len(body)

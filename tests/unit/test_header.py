"""The header of a spooled file: who sent it, the peek, the Instance; compared with what pydicom reads."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import warnings
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomnode import elements
from dicomnode.errors import CannotUnderstand, Undecodable
from dicomnode.gate import accession_token
from dicomnode.header import IMPLEMENTATION_CLASS_UID, MANUFACTURER, Sender, data_set_start, file_meta, header, peek
from dicomnode.records import Instance

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
CT = "1.2.840.10008.5.1.4.1.1.2"
WHEN = datetime(2026, 11, 20, 17, 44, 50, 123456, tzinfo=UTC)
SENDER = Sender("MODALITY", "DICOMNODE", "10.1.2.3", WHEN)
SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def encoded(ds: Dataset, syntax: UID) -> bytes:
    """The data set's bytes in a transfer syntax."""
    with pydicom.filebase.DicomBytesIO() as raw:
        raw.is_little_endian, raw.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pydicom.filewriter.write_dataset(raw, ds)
        value = raw.getvalue()
    if syntax.is_deflated:
        squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        value = squeeze.compress(value) + squeeze.flush()
    return bytes(value)


def example(**more: str) -> Dataset:
    """A small data set with a nested private sequence of undefined length before the UIDs that count."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CT, "1.2.3.4", "CT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    inner = Dataset()
    inner.StudyInstanceUID = "9.9.9"
    inner.is_undefined_length_sequence_item = True
    ds.ReferencedStudySequence = [inner, inner]
    ds["ReferencedStudySequence"].is_undefined_length = True
    block = ds.private_block(0x0009, "MAKER", create=True)
    block.add_new(1, "SQ", [inner])
    ds[0x0009, 0x1001].is_undefined_length = True
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def spooled(ds: Dataset, syntax: UID = ExplicitVRLittleEndian, sender: Sender = SENDER) -> io.BytesIO:
    """A spool file as the acceptor writes it."""
    return io.BytesIO(file_meta(CT, "1.2.3.4", syntax, sender, receiver=("::1", 104)) + encoded(ds, syntax))


def read(stream: io.BytesIO, node_id: str = "") -> Instance:
    """The Instance of a stream."""
    return header(stream, instance_id="id", location="incoming/x", node_id=node_id)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_instance(syntax: UID) -> None:
    """Who sent it comes from the file meta, what it is from the data set, size and digest from the bytes as sent."""
    ds = example()
    found = read(spooled(ds, syntax))
    raw = encoded(ds, syntax)
    assert (found.calling_ae, found.called_ae, found.address, found.received_at) == ("MODALITY", "DICOMNODE", "10.1.2.3", WHEN)
    assert (found.sop_class_uid, found.sop_instance_uid) == (CT, "1.2.3.4")
    assert (found.study_instance_uid, found.series_instance_uid, found.modality) == ("1.2.3.1", "1.2.3.2", "CT")
    assert (found.size_bytes, found.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert found.transfer_syntax_uid == syntax
    assert found.own_result is False
    assert found.acceptor_pid == os.getpid()


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("number", ["A0123/7", " a0123/7", "a 0123/7 ", "\uff210123/7"])
def test_an_accession_number_is_known_by_its_token_alone(syntax: UID, number: str) -> None:
    """The same one for the same number, whatever spaces, case or width; another one with another key; none without."""
    stream = spooled(example(AccessionNumber=number, SpecificCharacterSet="ISO_IR 192"), syntax)
    found = header(stream, instance_id="", location="", node_id="", key=b"k" * 32)
    assert found.accession_token == accession_token("A0123/7", b"k" * 32)
    assert accession_token("A0123/7", b"j" * 32) != found.accession_token != accession_token("A0124/7", b"k" * 32)
    assert "0123" not in repr(found).replace(found.accession_token, "").replace(found.sha256, "").replace(str(WHEN), "")
    assert read(stream).accession_token == ""


@pytest.mark.parametrize("number", [b"", b"  ", b"\xc4\xe0", b"\0\0"])
def test_what_is_no_accession_number_has_no_token(number: bytes) -> None:
    """Nothing, spaces, and what is neither ASCII nor UTF-8."""
    stream = io.BytesIO(file_meta(CT, "1.2.3.4", ExplicitVRLittleEndian, SENDER) + b"".join((
        b"\x08\0\x16\0UI\x1a\0" + CT.encode() + b"\0", b"\x08\0\x18\0UI\x08\x001.2.3.4\0",
        b"\x08\0\x50\0SH" + struct.pack("<H", len(number)) + number,
    )))
    assert header(stream, instance_id="", location="", node_id="", key=b"k" * 32).accession_token == ""


def test_a_file_meta_of_before_names_no_acceptor() -> None:
    """The time alone stood there; it is read as it was."""
    stream = spooled(example())
    before = stream.getvalue().replace(f" {os.getpid()}".encode(), b"\0" * (1 + len(str(os.getpid()))), 1)
    found = read(io.BytesIO(before))
    assert (found.received_at, found.acceptor_pid) == (WHEN, 0)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_peek(syntax: UID) -> None:
    """The peek gives what the data set says of itself, wherever it begins."""
    raw = encoded(example(), syntax)
    assert peek(io.BytesIO(raw), 0, syntax) == peek(io.BytesIO(b"x" * 400 + raw), 400, syntax) == (CT, "1.2.3.4")


def test_file_meta_is_read_by_pydicom() -> None:
    """The file meta is valid by PS3.10: pydicom reads every element of it, and the length says where it ends."""
    stream = spooled(example())
    meta = pydicom.dcmread(stream).file_meta
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert (meta.SourceApplicationEntityTitle, meta.ReceivingApplicationEntityTitle) == ("MODALITY", "DICOMNODE")
    assert meta.SourcePresentationAddress == "dicom://10.1.2.3"
    assert meta.ReceivingPresentationAddress == "dicom://[::1]:104"
    assert meta.PrivateInformation.rstrip(b"\0").decode() == f"2026-11-20T17:44:50.123456+00:00 {os.getpid()}"
    assert data_set_start(stream) == len(stream.getvalue()) - len(encoded(example(), ExplicitVRLittleEndian))


def test_group_2_in_the_data_set_is_no_file_meta() -> None:
    """A sender that puts file meta elements into the data set does not become another sender."""
    forged = file_meta(CT, "1.2.3.4", ExplicitVRLittleEndian, Sender("FORGED", "X", "9.9.9.9", WHEN))[132 + 12:]
    raw = encoded(example(), ExplicitVRLittleEndian)
    found = read(io.BytesIO(file_meta(CT, "1.2.3.4", ExplicitVRLittleEndian, SENDER) + forged + raw))
    assert (found.calling_ae, found.sop_instance_uid, found.size_bytes) == ("MODALITY", "1.2.3.4", len(forged) + len(raw))


def test_ipv6_sender() -> None:
    """An IPv6 address survives the round trip."""
    assert read(spooled(example(), sender=Sender("A", "B", "fe80::1", WHEN))).address == "fe80::1"


def test_own_result_needs_maker_and_node() -> None:
    """Only an object of this very node is its own result."""
    ds = example(Manufacturer=MANUFACTURER, DeviceSerialNumber="node-1")
    assert read(spooled(ds), node_id="node-1").own_result is True
    assert read(spooled(ds), node_id="node-2").own_result is False


def test_dropped_in_by_hand(tmp_path: Path) -> None:
    """A file without our file meta works: no sender, time of the file."""
    path = tmp_path / "x.dcm"
    path.write_bytes((FILES / "CT_small.dcm").read_bytes())
    with path.open("rb") as stream:
        found = header(stream, instance_id="id", location="l", node_id="")
    assert (found.calling_ae, found.address) == ("CLUNIE1", "")
    assert abs(found.received_at.timestamp() - path.stat().st_mtime) < 1


@pytest.mark.parametrize(
    ("given_", "expected"),
    [("ct", "CT"), ("C\r\nT", ""), ("X" * 17, ""), ("MR\\CT", "MR"), ("", ""), ("DOE JOHN", ""), ("DOE", "")],
)
def test_modality_is_of_a_closed_set(given_: str, expected: str) -> None:
    """Modality is one defined term, or nothing: a peer's text gets no further."""
    ds = example()
    ds.add_new(0x00080060, "LO", given_)
    assert read(spooled(ds)).modality == expected


@pytest.mark.parametrize("value", ["", "../../etc/passwd", "1.2\n3", "1" * 65, "Smith^John"])
def test_no_uid_is_no_instance(value: str) -> None:
    """What is no UID is refused by name of the tag; its text is in no error."""
    ds = example()
    ds[0x0008, 0x0018] = pydicom.DataElement(0x00080018, "UT", value)
    raw, syntax = io.BytesIO(encoded(ds, ExplicitVRLittleEndian)), ExplicitVRLittleEndian
    for call, error in ((lambda: peek(raw, 0, syntax), CannotUnderstand), (lambda: read(spooled(ds)), Undecodable)):
        with pytest.raises(error) as caught:
            call()
        assert value == "" or value not in str(caught.value)


def test_deflated_bomb_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peek inflates a megabyte at most, however much there is."""
    head = struct.pack("<HH2sHL", 0x0008, 0x0001, b"UN", 0, 1 << 30)
    squeeze = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    raw = squeeze.compress(head) + b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(64)) + squeeze.flush()
    seen: list[int] = []
    skipping = elements.deflated

    def counted(stream: io.BytesIO, limit: int | None = None) -> elements.Source:
        source = skipping(stream, limit)
        return elements.Source(lambda n: (seen.append(n), source.read(n))[1], source.skip)

    monkeypatch.setattr("dicomnode.header.deflated", counted)
    with pytest.raises(CannotUnderstand):
        peek(io.BytesIO(raw), 0, DeflatedExplicitVRLittleEndian)
    assert sum(seen) < 1 << 10


def test_nesting_bomb() -> None:
    """Sequences nested without end are refused, not followed."""
    level = struct.pack("<HH2sHL", 0x0008, 0x0006, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(CannotUnderstand, match="nested"):
        peek(io.BytesIO(level * 1000), 0, ExplicitVRLittleEndian)


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.glob("*.dcm")))
def test_agrees_with_pydicom(name: str) -> None:
    """For every sample that pydicom reads, the four UIDs are the same."""
    path = FILES / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        keywords = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        expected = tuple(str(ds.get(keyword, "")) for keyword in keywords)
    with path.open("rb") as stream:
        if not all(expected[:2]):
            with pytest.raises(Undecodable):
                header(stream, instance_id="", location="", node_id="")
            return
        if name == "ExplVR_BigEndNoMeta.dcm":
            pytest.skip("big endian without file meta: nothing says so, it goes to quarantine")
        found = header(stream, instance_id="", location="", node_id="")
    assert (found.sop_class_uid, found.sop_instance_uid, found.study_instance_uid, found.series_instance_uid) == expected


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(SYNTAXES), st.integers(0, 600))
def test_any_bytes(noise: bytes, syntax: UID, cut: int) -> None:
    """Whatever the bytes are, there is an Instance or our error, nothing else."""
    whole = spooled(example(), syntax).getvalue()
    for raw in (whole[:cut] + noise, file_meta(CT, "1.2", syntax, SENDER) + noise, noise):
        with contextlib.suppress(Undecodable):
            read(io.BytesIO(raw))
        with contextlib.suppress(CannotUnderstand):
            peek(io.BytesIO(raw), min(cut, len(raw)), syntax)

"""The acceptor against real senders: what is promised is on disk, what is refused leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import socket
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.pdu_primitives import P_DATA

from dicomnode import contexts, dimse, log
from dicomnode.errors import BadSetting, CannotListen
from dicomnode.header import data_set_start, header
from dicomnode.scp import receive, run_acceptor
from dicomnode.scp.door import Door, Flood
from dicomnode.settings import LogSettings, Peer
from dicomnode.spool import Spool
from dicomnode.upper import driver
from tests.integration.acceptor import Node, acceptor, settings
from tests.knocks import associate_rq
from tests.peers import DCMSEND, ECHOSCU, NO_DELAY, STORESCU, free_port, listens, pipeline, run, wait_for

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
CT, MR = FILES / "CT_small.dcm", FILES / "MR_small.dcm"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """An acceptor that takes calls of MODALITY from loopback only."""
    peers = {
        "modality": Peer(ae_title="MODALITY", calls_from=("127.0.0.1",)),
        "elsewhere": Peer(ae_title="ELSEWHERE", calls_from=("192.0.2.0/24",)),
        "silent": Peer(ae_title="SILENT"),
    }
    with acceptor(settings(tmp_path, peers=peers)) as running:
        yield running


def call(program: str, node: Node, *paths: object, calling: str = "MODALITY", called: str = "DICOMNODE", **more: Any) -> Any:
    """Send with a program of DCMTK."""
    return run(program, "-v", "-aet", calling, "-aec", called, *more.pop("options", ()), "127.0.0.1", node.port, *paths, **more)


def associate(node: Node, *classes: str, syntaxes: tuple[str, ...] = (contexts.EXPLICIT, contexts.IMPLICIT)) -> Any:
    """An association of pynetdicom to the node."""
    ae = AE(ae_title="MODALITY")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    for sop_class in classes or (CT_CLASS,):
        ae.add_requested_context(sop_class, list(syntaxes))
    assoc = ae.associate("127.0.0.1", node.port, ae_title=node.settings.node.ae_title)
    assert assoc.is_established
    return assoc


def data_set(path: Path) -> bytes:
    """The bytes behind preamble and file meta."""
    with path.open("rb") as stream:
        stream.seek(data_set_start(stream))
        return stream.read()


# -- who may come in
def test_echo(node: Node) -> None:
    """C-ECHO is answered with success."""
    assert run(ECHOSCU, "-aet", "MODALITY", "-aec", "DICOMNODE", "127.0.0.1", node.port).returncode == 0


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [
        ("MODALITY", "WRONG", "Called AE Title Not Recognized"),
        ("UNKNOWN", "DICOMNODE", "Calling AE Title Not Recognized"),
        ("SILENT", "DICOMNODE", "Calling AE Title Not Recognized"),
        ("ELSEWHERE", "DICOMNODE", "No Reason"),
    ],
)
def test_rejected(node: Node, calling: str, called: str, reason: str) -> None:
    """Strangers are rejected for good, each with the standard's reason, and leave nothing."""
    answer = call(STORESCU, node, CT, calling=calling, called=called)
    text = answer.stdout + answer.stderr
    assert answer.returncode != 0
    assert "Rejected Permanent" in text
    assert reason in text
    assert node.kept() == node.leftovers() == []


@pytest.mark.parametrize(
    ("title", "address", "expected"),
    [
        ("MODALITY", "127.0.0.1", None),
        ("MODALITY", "::ffff:127.0.0.1", None),
        ("MODALITY", "127.0.0.2", dimse.REJECT_NO_REASON),
        ("ELSEWHERE", "192.0.2.77", None),
        ("ELSEWHERE", "not an address", dimse.REJECT_NO_REASON),
        ("modality", "127.0.0.1", dimse.REJECT_CALLING_AE),
        ("", "127.0.0.1", dimse.REJECT_CALLING_AE),
    ],
)
def test_door(node: Node, title: str, address: str, expected: tuple[int, int, int] | None) -> None:
    """AE title and address must both be those of a peer that may call."""
    rejection = Door(node.settings, lambda: 1).judge("a", title, "DICOMNODE", address)
    assert (rejection and rejection.code) == expected


def test_another_application_context(node: Node) -> None:
    """What is not DICOM's is rejected as that (1/1/2)."""
    with socket.create_connection(("127.0.0.1", node.port)) as sock:
        sock.sendall(associate_rq(calling="MODALITY").replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2"))
        assert sock.recv(10) == bytes((3, 0, 0, 0, 0, 4, 0, 1, 1, 2))


def test_strangers_who_stay_after_their_rejection_take_room(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was rejected and does not go costs a thread and a descriptor: there are never more of them than may wait."""
    monkeypatch.setattr(driver, "LINGER_S", 60)
    with contextlib.ExitStack() as strangers:
        answers = []
        for _ in range(150):
            sock = strangers.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            with contextlib.suppress(OSError):
                sock.sendall(associate_rq(calling="UNKNOWN"))
                answers.append(sock.recv(10)[:1])
        assert answers.count(b"\x03") == node.settings.scp.max_associations == node.door.waiting()
    wait_for(lambda: node.door.waiting() == 0, what="they have gone")


def test_a_storm_of_rejections_does_not_fill_the_log() -> None:
    """Twenty lines of an address in ten seconds, then a count; others are told as before, and addresses without end are not."""
    now = [0.0]
    flood = Flood(lambda: now[0])
    assert [flood.line("192.0.2.1") for _ in range(50)] == [0] * 20 + [None] * 30
    assert [flood.line("192.0.2.2"), flood.line("192.0.2.2")] == [30, 0]
    assert sum(flood.line(f"2001:db8::{number}") is not None for number in range(1000)) == 254
    now[0] = 10.0
    assert flood.line("192.0.2.1") == 746


def test_limit_of_associations(tmp_path: Path) -> None:
    """Beyond the limit an association is rejected for now (2/3/2); when one leaves, the next comes in."""
    with acceptor(settings(tmp_path, open_=True, scp={"max_associations": 1})) as node:
        first = associate(node)
        answer = run(ECHOSCU, "-v", "-aec", "DICOMNODE", "127.0.0.1", node.port)
        assert "Rejected Transient" in answer.stdout + answer.stderr
        assert "Local Limit Exceeded" in answer.stdout + answer.stderr
        first.release()
        node.quiet()
        assert run(ECHOSCU, "-aec", "DICOMNODE", "127.0.0.1", node.port).returncode == 0


def test_low_disk_rejects_for_now(tmp_path: Path) -> None:
    """Below min_free_bytes associations are rejected as congestion, which senders repeat."""
    with acceptor(settings(tmp_path, open_=True, scp={"min_free_bytes": 1 << 62})) as node:
        answer = run(ECHOSCU, "-v", "-aec", "DICOMNODE", "127.0.0.1", node.port)
        assert "Temporary Congestion" in answer.stdout + answer.stderr


# -- what is kept
def test_bytes_as_sent(node: Node) -> None:
    """The data set is stored byte for byte, and the file says who sent it."""
    assert call(STORESCU, node, CT).returncode == 0
    (kept,) = node.kept()
    with kept.open("rb") as stream:
        found = header(stream, instance_id=kept.stem, location="", node_id="")
    assert (found.calling_ae, found.called_ae, found.address) == ("MODALITY", "DICOMNODE", "127.0.0.1")
    sent, stored = pydicom.dcmread(CT), pydicom.dcmread(kept)
    assert (stored.PixelData, stored.PatientName) == (sent.PixelData, sent.PatientName)
    assert node.leftovers() == []


def test_bytes_of_a_stored_file_are_sent_unchanged(node: Node, tmp_path: Path) -> None:
    """A sender that does not re-encode: the SHA-256 of the data set is the same on both ends."""
    assoc = associate(node)
    source = tmp_path / "source.dcm"
    source.write_bytes(CT.read_bytes())
    try:
        primitive = _store_request(source)
        assoc._reactor_checkpoint.clear()
        wait_for(lambda: assoc._is_paused)
        assoc.dimse.send_msg(primitive, 1)
        _, response = assoc.dimse.get_msg(block=True)
        assoc._reactor_checkpoint.set()
        assert response.Status == dimse.SUCCESS
    finally:
        assoc.release()
    (kept,) = node.kept()
    assert hashlib.sha256(data_set(kept)).digest() == hashlib.sha256(data_set(source)).digest()


def _store_request(path: Path, sop_class: str = "", sop_instance: str = "", raw: bytes | None = None) -> Any:
    from pynetdicom.dimse_primitives import C_STORE

    meta = pydicom.dcmread(path, stop_before_pixels=True)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = UID(sop_class or meta.SOPClassUID)
    request.AffectedSOPInstanceUID = UID(sop_instance or meta.SOPInstanceUID)
    request.DataSet = io.BytesIO(data_set(path) if raw is None else raw)
    return request


def _store(node: Node, request: Any, *classes: str) -> int:
    """Send one C-STORE as it is and give the status."""
    assoc = associate(node, *classes)
    try:
        assoc._reactor_checkpoint.clear()
        wait_for(lambda: assoc._is_paused)
        assoc.dimse.send_msg(request, 1)
        _, response = assoc.dimse.get_msg(block=True)
        assoc._reactor_checkpoint.set()
        return int(response.Status)
    finally:
        assoc.release()
        node.quiet()


SAMPLES = sorted(
    path for path in FILES.glob("*.dcm")
    if path.stem in {
        "CT_small", "JPEG2000", "JPEG-lossy", "JPEG-LL", "JPEGLSNearLossless_08", "JPGLosslessP14SV1_1s_1f_8b", "MR_small_RLE",
        "MR_small_bigendian", "MR_small_implicit", "MR_small_jpeg_ls_lossless", "MR_small_jp2klossless", "SC_rgb_rle_32bit",
        "image_dfl", "693_J2KI", "693_J2KR", "SC_rgb_jpeg_dcmtk", "SC_rgb_dcmtk_+eb+cr", "HTJ2K_08_RGB", "HTJ2KLossless_08_RGB",
        "JPGExtended", "examples_jpeg2k", "rtdose_rle", "reportsi", "waveform_ecg",
    }
)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_transfer_syntax(node: Node, path: Path) -> None:
    """Every transfer syntax that the node decodes is taken as the sender has it, without a byte changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = pydicom.dcmread(path, stop_before_pixels=True)
        syntax = str(meta.file_meta.TransferSyntaxUID)
        assoc = associate(node, str(meta.SOPClassUID), syntaxes=(syntax,))
        try:
            request = _store_request(path)
            assoc._reactor_checkpoint.clear()
            wait_for(lambda: assoc._is_paused)
            assoc.dimse.send_msg(request, 1)
            _, response = assoc.dimse.get_msg(block=True)
            assoc._reactor_checkpoint.set()
        finally:
            assoc.release()
    assert response.Status == dimse.SUCCESS
    (kept,) = node.kept()
    assert data_set(kept) == data_set(path)
    with kept.open("rb") as stream:
        assert header(stream, instance_id="", location="", node_id="").transfer_syntax_uid == syntax


def test_syntax_samples(node: Node, shared_data: Path) -> None:
    """Every sample of the collection whose context we accept is taken by dcmsend, one association each."""
    refused = {}
    paths = sorted(path for path in (shared_data / "dicom" / "syntaxes").rglob("*") if path.suffix.lower() == ".dcm")
    good = []
    for path in paths:
        with path.open("rb") as stream:
            try:
                found = header(stream, instance_id="", location="", node_id="")
            except Exception:  # noqa: BLE001, S112 - not every sample is a data set
                continue
            stream.seek(128)
            ours = contexts.answer(found.sop_class_uid, [[found.transfer_syntax_uid]])
            if stream.read(4) != b"DICM" or path.stat().st_size > 20_000_000 or found.transfer_syntax_uid not in ours:
                continue
        good.append(path)
        answer = call(DCMSEND, node, path, options=("--decompress-never",))
        if answer.returncode or "with status SUCCESS  : 1" not in answer.stdout + answer.stderr:
            refused[path.name] = (answer.stdout + answer.stderr)[-900:]
    assert good
    # DCMTK itself does not read or send some of them, or names other UIDs in its command; what it sent, we took.
    ours_refused = {
        name: text for name, text in refused.items()
        if "C-STORE Response" in text and "differs from the one in the transfer list" not in text
    }
    assert ours_refused == {}
    assert len(node.kept()) == len(good) - len(refused)


def test_duplicates_are_taken_every_time(node: Node) -> None:
    """A storm of the same instance from four senders is answered success each time, and each file is whole."""
    with_repeat = ("--repeat", "10")
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(call(STORESCU, node, CT, options=with_repeat))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.returncode for answer in answers] == [0] * 4
    assert len(node.kept()) == 40
    assert {path.stat().st_size for path in node.kept()} == {node.kept()[0].stat().st_size}
    assert len({hashlib.sha256(data_set(path)).hexdigest() for path in node.kept()}) == 1


# -- what is refused
def test_mismatch(node: Node) -> None:
    """A data set of another SOP Instance, or another SOP Class, than the command says is answered 0xA900."""
    assert _store(node, _store_request(CT, sop_instance="1.2.3")) == dimse.DATASET_MISMATCH
    assert _store(node, _store_request(MR, sop_class=CT_CLASS)) == dimse.DATASET_MISMATCH
    assert node.kept() == node.leftovers() == []


@pytest.mark.parametrize(
    "raw", [b"\x00", b"rubbish rubbish", data_set(CT)[:60], b"\xff" * 4096], ids=["nul", "text", "cut", "ones"],
)
def test_unreadable(node: Node, raw: bytes) -> None:
    """What cannot be read up to SOP Instance UID is answered 0xC000."""
    assert _store(node, _store_request(CT, raw=raw)) == dimse.CANNOT_UNDERSTAND
    assert node.kept() == node.leftovers() == []


def test_damage_further_in_is_taken(node: Node) -> None:
    """A data set that is broken behind SOP Instance UID is acknowledged: it is set aside later, in sight."""
    assert _store(node, _store_request(CT, raw=data_set(CT)[:400])) == dimse.SUCCESS
    assert [len(data_set(path)) for path in node.kept()] == [400]


def test_uids_far_into_the_data_set(node: Node, tmp_path: Path) -> None:
    """What stands before SOP Instance UID may be long: the file is looked at then, not only its beginning."""
    ds = pydicom.dcmread(CT)
    ds.ImageType = ["ORIGINAL", "PRIMARY", *["LONG_AND_LONGER"] * 1000]
    source = tmp_path / "long.dcm"
    ds.save_as(source)
    assert _store(node, _store_request(source)) == dimse.SUCCESS
    assert [data_set(path) for path in node.kept()] == [data_set(source)]


def test_malformed_samples(node: Node, shared_data: Path) -> None:
    """No malformed file stops the acceptor; each is answered, and what is refused leaves nothing."""
    outcomes = []
    for path in sorted((shared_data / "dicom" / "malformed").rglob("*")):
        if path.is_file() and path.stat().st_size < 5_000_000:
            raw = path.read_bytes()
            outcomes.append(_store(node, _store_request(CT, raw=raw[132:] if raw[128:132] == b"DICM" else raw or b"\0")))
    assert set(outcomes) <= {dimse.CANNOT_UNDERSTAND, dimse.DATASET_MISMATCH, dimse.SUCCESS}
    assert len(node.kept()) == outcomes.count(dimse.SUCCESS)
    assert node.leftovers() == []
    assert run(ECHOSCU, "-aet", "MODALITY", "-aec", "DICOMNODE", "127.0.0.1", node.port).returncode == 0


def test_reserve(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below reserve_bytes an instance is answered 0xA700 and nothing is kept; with room again it is taken."""
    monkeypatch.setattr(node.spool, "free_bytes", lambda: 9)
    object.__setattr__(node.settings.scp, "reserve_bytes", 10)
    assert _store(node, _store_request(CT)) == dimse.OUT_OF_RESOURCES
    assert node.kept() == node.leftovers() == []
    monkeypatch.setattr(node.spool, "free_bytes", lambda: 10)
    assert _store(node, _store_request(CT)) == dimse.SUCCESS


def test_disk_fills_while_receiving(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC in the middle of a data set is answered 0xA700, not an abort, and leaves nothing."""
    real, left = receive.os.writev, [10_000]

    def full(file: int, buffers: list[memoryview]) -> int:
        taken = bytes(b"".join(buffers))[:left[0]]
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= len(taken)
        return real(file, [taken])

    monkeypatch.setattr(receive.os, "writev", full)
    assert _store(node, _store_request(CT)) == dimse.OUT_OF_RESOURCES
    assert node.kept() == node.leftovers() == []


def test_commit_fails(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the spool cannot make safe is not acknowledged; a defect is answered 0x0110 and leaves nothing."""
    def broken(*_: object) -> str:
        raise RuntimeError("a defect")

    monkeypatch.setattr(node.spool, "commit", broken)
    assert _store(node, _store_request(CT)) == dimse.PROCESSING_FAILURE
    assert node.kept() == node.leftovers() == []


def test_private_class_and_syntax_are_refused_by_context(node: Node) -> None:
    """A SOP Class or transfer syntax that we do not know is refused in the negotiation, others beside it are taken."""
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context("1.2.3.4.5", [contexts.EXPLICIT])
    ae.add_requested_context(CT_CLASS, ["1.2.3.4.6"])
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.4", [contexts.EXPLICIT])
    assoc = ae.associate("127.0.0.1", node.port, ae_title="DICOMNODE")
    try:
        assert [str(cx.abstract_syntax) for cx in assoc.accepted_contexts] == ["1.2.840.10008.5.1.4.1.1.4"]
        assert {cx.result for cx in assoc.rejected_contexts} == {3, 4}
    finally:
        assoc.release()


@pytest.mark.parametrize(
    ("proposed", "expected"),
    [
        (["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"], "1.2.840.10008.1.2.1"),
        (["1.2.840.10008.1.2"], "1.2.840.10008.1.2"),
        (["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"], "1.2.840.10008.1.2.4.70"),
        (["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1"], "1.2.840.10008.1.2.4.50"),
        (["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"], "1.2.840.10008.1.2.1"),
        (["1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.50"], "1.2.840.10008.1.2.4.91"),
    ],
)
def test_order_of_syntaxes(proposed: list[str], expected: str) -> None:
    """Lossless compression first, lossy only as the sender prefers it, then Explicit VR, Implicit VR last."""
    ours = contexts.answer(CT_CLASS, [proposed])
    assert next(syntax for syntax in ours if syntax in proposed) == expected


def test_every_storage_class(node: Node) -> None:
    """Every Storage SOP Class of the standard is accepted."""
    classes = sorted(contexts.storage_classes())
    assert len(classes) > 190
    for start in range(0, len(classes), 128):
        group = classes[start:start + 128]
        assoc = associate(node, *group)
        accepted = len(assoc.accepted_contexts)
        assoc.release()
        assert accepted == len(group)


# -- what breaks off
def _half_sent(node: Node) -> Any:
    """An association that has sent a C-STORE command and half of its data set."""
    assoc = associate(node)
    assoc._reactor_checkpoint.clear()
    wait_for(lambda: assoc._is_paused)
    request = _store_request(CT)
    from pynetdicom.dimse_messages import C_STORE_RQ

    message = C_STORE_RQ()
    message.primitive_to_message(request)
    fragments = list(message.encode_msg(1, 16384))
    for fragment in fragments[:-1]:
        assert isinstance(fragment, P_DATA)
        assoc.dul.send_pdu(fragment)
    wait_for(node.leftovers, what="the data set is on its way")
    return assoc


def test_abort_in_the_middle(node: Node) -> None:
    """A sender that aborts inside a data set leaves no file, and the next one is served."""
    assoc = _half_sent(node)
    assoc._reactor_checkpoint.set()
    assoc.abort()
    node.quiet()
    assert node.kept() == node.leftovers() == []
    assert call(STORESCU, node, CT).returncode == 0


def test_cut_in_the_middle_of_a_pdu(node: Node) -> None:
    """A connection that breaks inside a PDU leaves no file."""
    assoc = _half_sent(node)
    sock = assoc.dul.socket.socket
    sock.sendall(bytes.fromhex("0400000010000000") + b"half")
    sock.shutdown(socket.SHUT_RDWR)
    assoc._reactor_checkpoint.set()
    node.quiet()
    assoc.abort()
    assert node.kept() == node.leftovers() == []


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.0\r\n\r\n", bytes.fromhex("0100ffffffff") + b"x" * 10, bytes.fromhex("04000000000a") + b"\0" * 10,
        b"\x01", b"",
    ],
    ids=["http", "endless", "early data", "one byte", "nothing"],
)
def test_rubbish_on_the_port(node: Node, raw: bytes) -> None:
    """Whatever is sent to the port, the next sender is served and nothing is left."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        assert run(ECHOSCU, "-aet", "MODALITY", "-aec", "DICOMNODE", "127.0.0.1", node.port).returncode == 0
    node.quiet()
    assert node.leftovers() == []


def test_pdu_longer_than_agreed_is_cut_off(node: Node) -> None:
    """A P-DATA-TF that claims gigabytes ends the association at once, without memory for it."""
    assoc = associate(node)
    assoc.dul.socket.socket.sendall(bytes.fromhex("0400ffffff00"))
    node.quiet()
    assoc.abort()
    assert node.leftovers() == []


# -- the process
def test_drain_lets_a_running_association_end(tmp_path: Path) -> None:
    """Told to stop, the acceptor closes its port, lets the running association finish, and says so."""
    config = settings(tmp_path, open_=True)
    stop, codes = threading.Event(), []
    thread = threading.Thread(target=lambda: codes.append(run_acceptor(config, stop)))
    thread.start()
    wait_for(lambda: listens(config.node.port), what="the acceptor listens")
    node = Node(config, Spool(config.node.state_dir), Door(config, lambda: 1))
    assoc = associate(node)
    stop.set()
    wait_for(lambda: not listens(config.node.port), what="the port is closed")
    assert assoc.send_c_store(pydicom.dcmread(CT)).Status == dimse.SUCCESS
    assoc.release()
    thread.join(15)
    assert codes == [0]
    assert len(node.kept()) == 1


def test_drain_aborts_what_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An association that does not end by itself is aborted, and its half data set is gone."""
    monkeypatch.setattr("dicomnode.scp.association.DRAIN_S", 0.3)
    config = settings(tmp_path, open_=True)
    stop = threading.Event()
    thread = threading.Thread(target=run_acceptor, args=(config, stop))
    thread.start()
    wait_for(lambda: listens(config.node.port), what="the acceptor listens")
    node = Node(config, Spool(config.node.state_dir), Door(config, lambda: 1))
    assoc = _half_sent(node)
    started = time.monotonic()
    stop.set()
    thread.join(15)
    assert not thread.is_alive()
    assert time.monotonic() - started < 10
    assoc._reactor_checkpoint.set()
    assoc.abort()
    assert node.kept() == node.leftovers() == []


def test_leftovers_of_a_dead_process_go_at_start(tmp_path: Path) -> None:
    """What a killed acceptor left in tmp is deleted by the next one."""
    config = settings(tmp_path)
    spool = Spool(config.node.state_dir)
    left = spool.root / "tmp" / "x.00000000-0000-0000-0000-000000000000.1.1.deadbeef.part"
    left.write_bytes(b"half")
    stop = threading.Event()
    stop.set()
    run_acceptor(config, stop, spool)
    assert not left.exists()


def test_port_in_use(tmp_path: Path) -> None:
    """A port that is taken is no fault of the configuration: the error names it, and the supervisor tries again."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port}"):
            run_acceptor(settings(tmp_path, port=port), threading.Event())


# -- peers that ask for too much
def test_silent_connections_are_few_and_shut_nobody_out(tmp_path: Path) -> None:
    """Connections that say nothing, or claim a long PDU, cost a bounded number of threads; a known peer still comes in."""
    peers = {"modality": Peer(ae_title="MODALITY", calls_from=("127.0.0.1",))}
    config = settings(tmp_path, peers=peers)
    config = config.model_copy(update={"scp": config.scp.model_copy(update={"max_associations": 10, "acse_timeout_s": 1.0})})
    with acceptor(config) as node:
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(60)]
        try:
            for one in silent:
                with contextlib.suppress(OSError):
                    one.sendall(b"\x01\x00" + (200_000).to_bytes(4, "big"))
            time.sleep(0.5)
            # Half of the room of 20 is one address's, a thread each.
            assert threading.active_count() - before <= 10 + 2
            # The handshake ends after a second, however the bytes come.
            wait_for(lambda: threading.active_count() <= before, 15, "the silent ones are gone")
        finally:
            for one in silent:
                one.close()
        assert call(STORESCU, node, CT).returncode == 0


def test_connect_and_close_leaves_nothing(node: Node) -> None:
    """Health checks of a load balancer, hundreds of them, leave no thread and no descriptor behind."""
    descriptors = Path("/proc/self/fd")
    before = threading.active_count(), len(list(descriptors.iterdir()))
    for _ in range(200):
        socket.create_connection(("127.0.0.1", node.port)).close()
    wait_for(
        lambda: threading.active_count() <= before[0] and len(list(descriptors.iterdir())) <= before[1], 30, "all is let go",
    )
    assert call(STORESCU, node, CT).returncode == 0


def test_a_handshake_byte_by_byte_ends_in_time(tmp_path: Path) -> None:
    """A peer that sends a byte now and then does not keep its connection beyond the time for the whole request."""
    config = settings(tmp_path)
    config = config.model_copy(update={"scp": config.scp.model_copy(update={"acse_timeout_s": 1.0})})
    with acceptor(config) as node, socket.create_connection(("127.0.0.1", node.port)) as slow:
        started = time.monotonic()
        with contextlib.suppress(OSError):
            slow.sendall(b"\x01\x00" + (500).to_bytes(4, "big"))
            while time.monotonic() - started < 10:
                slow.sendall(b"\x00")
                time.sleep(0.1)
        assert time.monotonic() - started < 5


def test_a_sender_that_does_not_wait_is_slowed(node: Node) -> None:
    """Asynchronous operations are not negotiated: of requests without end few files are open, and none is lost."""
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    peak = pipeline(node.port, [CT] * 100, lambda: len(list(descriptors.iterdir())))
    assert peak - before < 20
    node.quiet()
    assert len(node.kept()) == 100
    assert node.leftovers() == []


def test_many_requests_in_one_pdu_are_cut_off(node: Node) -> None:
    """Whole C-STOREs by the dozen inside one PDU, which nobody may send, end the association and leave nothing."""
    from pynetdicom.dimse_messages import C_STORE_RQ

    assoc = associate(node)
    items = b""
    for _ in range(100):
        message = C_STORE_RQ()
        message.primitive_to_message(_store_request(CT, raw=b"\0" * 8))
        for fragment in message.encode_msg(1, 16384):
            for context_id, data in fragment.presentation_data_value_list:
                items += (len(data) + 1).to_bytes(4, "big") + bytes((context_id,)) + data
    assoc.dul.socket.socket.sendall(b"\4\0" + len(items).to_bytes(4, "big") + items)
    node.quiet()
    assoc.abort()
    assert node.kept() == node.leftovers() == []


def test_a_stock_sender_does_not_wait_for_acknowledgements(node: Node) -> None:
    """A sender with Nagle's algorithm is hardly slower than one without: else each instance would cost it 40 ms or 80."""
    stock = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}

    def send(env: dict[str, str]) -> float:
        line = [STORESCU, "-aet", "MODALITY", "-aec", "DICOMNODE", "127.0.0.1", str(node.port), *[str(CT)] * 100]
        started = time.perf_counter()
        assert subprocess.run(line, env=env, check=False, timeout=60).returncode == 0
        return time.perf_counter() - started

    times = [(send(stock), send(NO_DELAY)) for _ in range(3)]
    assert min(with_nagle - without for with_nagle, without in times) < 2


def test_a_silent_connection_does_not_slow_others(node: Node) -> None:
    """While others say nothing, or half a PDU, instances of a busy association are answered as before."""
    def send() -> float:
        started = time.perf_counter()
        assert call(STORESCU, node, *[CT] * 30).returncode == 0
        return time.perf_counter() - started

    alone = min(send() for _ in range(3))
    with contextlib.ExitStack() as stack:
        for half in (b"", b"\1\0\0\0\1\0half"):
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port))).sendall(half)
        assert min(send() for _ in range(3)) < 2 * alone + 0.5


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, BadSetting, "CAP_NET_BIND_SERVICE"),
        (errno.EADDRINUSE, CannotListen, "another program has the port"),
        (errno.EMFILE, CannotListen, "Too many open files"),
        (errno.EIO, CannotListen, "Input/output error"),
        (errno.EADDRNOTAVAIL, CannotListen, "Cannot assign"),
    ],
)
def test_what_the_system_answers_to_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], words: str,
) -> None:
    """A privilege that is missing is the administrator's; everything else may be better in a while. The log names the port."""
    stream = io.StringIO()
    log.configure(LogSettings(format="json"), "accept", b"k" * 32, stream=stream)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("socket.socket.bind", refuse)
    with pytest.raises(kind, match=words):
        run_acceptor(settings(tmp_path, port=11112), threading.Event())
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (line["event"], line["port"], line["level"]) == ("acceptor_failed", 11112, "error")


def test_connections_that_the_system_cannot_give_are_told_of(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without descriptors the acceptor says so and waits; with them again it goes on."""
    stream = io.StringIO()
    log.configure(LogSettings(format="json"), "accept", b"k" * 32, stream=stream)
    tries = []

    def none_left(_: object) -> None:
        tries.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("dicomnode.scp.acceptor.Listener.accept", none_left)
        with socket.create_connection(("127.0.0.1", node.port)):
            time.sleep(1)
    assert 2 <= len(tries) < 15
    assert stream.getvalue().count("acceptor_failed") == 1
    assert call(STORESCU, node, CT).returncode == 0


def test_log_of_an_instance(node: Node) -> None:
    """The log has one line for the instance and three for the association, with tokens for UIDs and no patient data."""
    stream = io.StringIO()
    log.configure(LogSettings(format="json"), "accept", b"k" * 32, stream=stream)
    assert call(STORESCU, node, CT).returncode == 0
    node.quiet()
    lines = wait_for(lambda: [json.loads(line) for line in stream.getvalue().splitlines() if "released" in stream.getvalue()])
    assert [line["event"] for line in lines] == ["association_accepted", "instance_committed", "association_released"]
    assert lines[1]["sop_instance_uid"].startswith("uid-")
    assert (lines[2]["received"], lines[2]["refused"]) == (1, 0)
    ds = pydicom.dcmread(CT, stop_before_pixels=True)
    assert not any(str(ds[key].value) in stream.getvalue() for key in ("PatientName", "PatientID", "SOPInstanceUID"))


def test_peers_text_does_not_reach_the_log(node: Node) -> None:
    """Control characters in an AE title do not come into the log."""
    stream = io.StringIO()
    log.configure(LogSettings(format="json"), "accept", b"k" * 32, stream=stream)
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as sock:
        sock.sendall(_request(b"DICOMNODE       ", b"EVIL\nLINE\x1b[2J    "))
        sock.settimeout(5)
        answer = sock.recv(10)
    assert answer[:1] in (b"\x03", b"\x07")
    node.quiet()
    assert "EVIL" not in stream.getvalue()


def _request(called: bytes, calling: bytes) -> bytes:
    """An A-ASSOCIATE-RQ for Verification (PS3.8 Table 9-11)."""
    def item(kind: int, value: bytes) -> bytes:
        return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value

    context = bytes((1, 0, 0, 0)) + item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2")
    user = item(0x51, (16384).to_bytes(4, "big")) + item(0x52, b"1.2.3")
    body = b"\0\1\0\0" + called + calling + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    return b"\1\0" + len(body).to_bytes(4, "big") + body


def test_memory_does_not_follow_the_instance(tmp_path: Path) -> None:
    """An acceptor of its own process takes 160 MB without growing by a quarter of that."""
    import sys

    psutil = pytest.importorskip("psutil")
    big = tmp_path / "big.dcm"
    ds = pydicom.dcmread(CT)
    ds.Rows, ds.Columns, ds.NumberOfFrames = 4000, 4000, 5
    ds.PixelData = bytes(4000 * 4000 * 2 * 5)
    ds.save_as(big)
    port = free_port()
    script = (
        "import sys, threading; from pathlib import Path; from tests.integration.acceptor import settings;"
        "from dicomnode.scp import run_acceptor;"
        f"run_acceptor(settings(Path({str(tmp_path)!r}), port={port}, open_=True), threading.Event())"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    try:
        wait_for(lambda: listens(port), what="the acceptor listens")
        before = psutil.Process(child.pid).memory_info().rss
        answer = run(STORESCU, "-aec", "DICOMNODE", "127.0.0.1", port, big, timeout_s=120)
        assert answer.returncode == 0
        after = psutil.Process(child.pid).memory_info().rss
    finally:
        child.kill()
        child.wait()
    assert after - before < 40 << 20


def test_defect_at_the_door_lets_nothing_in(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """When judging itself breaks, no storage is accepted and the log says so."""
    stream = io.StringIO()
    log.configure(LogSettings(format="json"), "accept", b"k" * 32, stream=stream)
    monkeypatch.setattr(node.door, "judge", lambda *_: 1 / 0)
    assert call(STORESCU, node, CT).returncode != 0
    assert node.kept() == []
    assert "ZeroDivisionError" in stream.getvalue()

"""The sender against real and scripted peers: every answer has its outcome, nothing leaves twice or for the wrong peer."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicomnode import contexts, dimse
from dicomnode.errors import AssociationRejected, AssociationRejectedTransient, PeerUnavailable, QueueUnavailable
from dicomnode.records import Delivery, Verdict
from dicomnode.scu import echo, send_files
from dicomnode.scu.handshake import Context
from dicomnode.scu.link import Link
from dicomnode.settings import Peer
from tests.integration.sending import CT, CT_CLASS, J2K, MR, TAKES_CT, Sending, inside
from tests.peers import Scripted, free_port, orthanc, storescp, wait_for


# -- real peers
def test_storescp(tmp_path: Path) -> None:
    """Outputs of several classes and syntaxes arrive at storescp over one association, byte for byte."""
    with storescp(tmp_path / "archive") as archive:
        sending = Sending(tmp_path, {"pacs": inside(archive.port)}, idle_s=5)
        uids = [sending.add(path, "pacs") for path in (CT, MR, J2K, CT)]
        sending.until(lambda: sending.states() == ["delivered"] * 4)
    stored = {path.name.partition(".")[2]: pydicom.dcmread(path) for path in archive.folder.iterdir()}
    assert sorted(stored) == sorted(uids)
    assert stored[uids[0]].PixelData == pydicom.dcmread(CT).PixelData
    done = sending.events("delivery_done")
    assert [line["destination"] for line in done] == ["pacs"] * 4
    assert all(line["dimse_status"] == "0x0000" and line["result_uid"].startswith("uid-") for line in done)


def test_orthanc(tmp_path: Path) -> None:
    """Orthanc has every output in its study, and takes a repeat as delivered."""
    with orthanc(tmp_path / "orthanc") as (port, http):
        sending = Sending(tmp_path, {"pacs": inside(port)})
        for path in (CT, MR, J2K):
            sending.add(path, "pacs")
        sending.until(lambda: sending.states() == ["delivered"] * 3, 30)
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/instances", timeout=10) as answer:
            assert len(json.load(answer)) == 3
        assert send_files([CT, CT], inside(port), "DICOMNODE") == [Verdict("delivered", status=0)] * 2


def test_destination_comes_back(tmp_path: Path) -> None:
    """While nobody listens deliveries wait unattempted and the destination is down, told once; then all arrive."""
    port = free_port()
    sending = Sending(tmp_path, {"pacs": inside(port)})
    for _ in range(3):
        sending.add(CT, "pacs")
    with sending.running():
        wait_for(lambda: sending.queue.destination_state("pacs")[0] == "down")
        time.sleep(1)
        assert [delivery["attempt"] for delivery in sending.deliveries()] == [0, 0, 0]
        with storescp(tmp_path / "archive", port=port):
            wait_for(lambda: sending.states() == ["delivered"] * 3, what=str(sending.states()))
    assert (len(sending.events("destination_down")), len(sending.events("destination_up"))) == (1, 1)
    assert [line["attempt"] for line in sending.events("delivery_done")] == [1, 1, 1]


def test_one_destination_does_not_wait_for_another(tmp_path: Path) -> None:
    """A destination that is down does not keep a delivery from one that is up."""
    with storescp(tmp_path / "archive") as archive:
        sending = Sending(tmp_path, {"dead": inside(free_port()), "pacs": inside(archive.port)})
        sending.add(CT, "dead", "pacs")
        sending.until(lambda: sorted(sending.states()) == ["delivered", "ready"])


# -- every class of answer
@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        (dimse.SUCCESS, "delivered", ""),
        (0xB000, "delivered", ""),
        (0xB007, "delivered", ""),
        (dimse.DUPLICATE_SOP_INSTANCE, "delivered", ""),
        (dimse.OUT_OF_RESOURCES, "deferred", "peer_out_of_resources"),
        (dimse.RESOURCE_LIMITATION, "deferred", "peer_out_of_resources"),
        (dimse.DATASET_MISMATCH, "hold", "refused_by_peer"),
        (dimse.CANNOT_UNDERSTAND, "hold", "refused_by_peer"),
        (0x0122, "hold", "refused_by_peer"),
        (0x0117, "hold", "refused_by_peer"),
    ],
)
def test_status(tmp_path: Path, status: int, state: str, reason: str) -> None:
    """Each class of status has its outcome."""
    with Scripted(status=status).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)}, first_delay_s=60)
        sending.add(CT, "pacs")
        sending.until(lambda: sending.states() == [state])
    (delivery,) = sending.deliveries()
    assert (delivery["reason"] or "", peer.associations) == (reason, 1)


@pytest.mark.parametrize(("kind", "level"), [("sr", "info"), ("original", "warning")])
def test_duplicate_of_an_original_is_doubtful(tmp_path: Path, kind: str, level: str) -> None:
    """0x0111 for an original says that the archive has some object of this UID, perhaps another version: a warning."""
    with Scripted(status=dimse.DUPLICATE_SOP_INSTANCE).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        sending.add(CT, "pacs", kind=kind)
        sending.until(lambda: sending.states() == ["delivered"])
    (line,) = sending.events("delivery_done")
    assert (line["level"], line["dimse_status"], line["kind"]) == (level, "0x0111", kind)


def test_retry_opens_a_blocked_lane_at_once(tmp_path: Path) -> None:
    """Who retries by hand has mended the peer: the lane does not wait for its own next look."""
    with Scripted(status=dimse.NOT_AUTHORISED).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        sending.add(CT, "pacs")
        with sending.running():
            wait_for(lambda: sending.queue.destination_state("pacs")[0] == "blocked")
            peer.status = dimse.SUCCESS
            time.sleep(0.5)
            assert sending.states() == ["ready"]
            (row,) = sending.queue.rows()
            sending.queue.retry(str(row["instance_id"]), datetime.now(UTC))
            wait_for(lambda: sending.states() == ["delivered"], 2)


def test_deferred_is_tried_again_and_told_once(tmp_path: Path) -> None:
    """A peer without room is asked again with growing waits; the log says so once; with room the output arrives."""
    with Scripted(status=dimse.OUT_OF_RESOURCES).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        sending.add(CT, "pacs")
        with sending.running():
            wait_for(lambda: len(peer.stored) >= 3)
            peer.status = dimse.SUCCESS
            wait_for(lambda: sending.states() == ["delivered"])
    assert len(sending.events("delivery_deferred")) == 1
    assert sending.events("delivery_done")[0]["attempt"] == len(peer.stored)


def test_not_authorised_blocks(tmp_path: Path) -> None:
    """0x0124 stops the lane: the destination is blocked, its deliveries stay ready."""
    with Scripted(status=dimse.NOT_AUTHORISED).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        sending.add(CT, "pacs")
        sending.add(CT, "pacs")
        with sending.running():
            wait_for(lambda: sending.queue.destination_state("pacs")[0] == "blocked")
            time.sleep(0.7)
    assert (sending.states(), len(peer.stored)) == (["ready", "ready"], 1)
    assert len(sending.events("destination_blocked")) == 1


@pytest.mark.parametrize(("result", "state", "delivery"), [(1, "blocked", "ready"), (2, "up", "deferred")])
def test_rejected_association(tmp_path: Path, result: int, state: str, delivery: str) -> None:
    """An association rejected for good blocks the destination; one rejected for now defers the delivery."""
    def reject(event: Any) -> None:
        event.assoc.acse.send_reject(result, 0x01, 0x01)
        event.assoc.kill()

    with Scripted(on_request=reject).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)}, first_delay_s=60, probe_s=60)
        sending.add(CT, "pacs")
        sending.add(CT, "pacs")
        sending.until(lambda: sending.queue.destination_state("pacs")[0] == state and delivery in sending.states())
        assert sorted(sending.states()) == sorted(["ready", delivery])
        assert peer.associations == 1


def test_abort_instead_of_an_answer(tmp_path: Path) -> None:
    """A peer that aborts inside a C-STORE leaves the outcome unknown: deferred, repeated on a new association, delivered."""
    def abort_first(event: Any) -> None:
        if len(peer.stored) == 1:
            event.assoc.abort()

    peer = Scripted(on_store=abort_first)
    with peer.running(TAKES_CT):
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        uid = sending.add(CT, "pacs")
        sending.until(lambda: sending.states() == ["delivered"])
    assert sending.events("delivery_deferred")[0]["reason"] == "no_status"
    assert (peer.stored, peer.associations) == ([uid, uid], 2)


def test_no_answer_in_time(tmp_path: Path) -> None:
    """A peer that does not answer in time is aborted, the delivery deferred, and the association never used again."""
    def sleep_first(_: Any) -> None:
        if len(peer.stored) == 1:
            time.sleep(2)

    peer = Scripted(on_store=sleep_first)
    with peer.running(TAKES_CT):
        sending = Sending(tmp_path, {"pacs": inside(peer.port)}, timeout_s=0.5)
        sending.add(CT, "pacs")
        sending.until(lambda: sending.states() == ["delivered"])
    assert sending.events("delivery_deferred")[0]["reason"] == "no_status"
    assert peer.associations >= 2


# -- contexts and associations
def test_no_context(tmp_path: Path) -> None:
    """What the peer takes in no context goes on hold; what it takes leaves beside it."""
    with Scripted().running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        sending.add(MR, "pacs")
        sending.add(CT, "pacs")
        sending.until(lambda: sending.states() == ["hold", "delivered"])
    assert sending.deliveries()[0]["reason"] == "no_presentation_context"


def test_no_context_at_all(tmp_path: Path) -> None:
    """A peer that takes nothing of ours is up: the delivery is on hold, the destination is not down."""
    with Scripted().running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        sending.add(MR, "pacs")
        sending.until(lambda: sending.states() == ["hold"])
    assert sending.queue.destination_state("pacs")[0] == "up"


def test_association_is_reused_and_let_go(tmp_path: Path) -> None:
    """Deliveries that follow each other share an association; an idle one is released, a new context opens a new one."""
    takes = TAKES_CT | {"1.2.840.10008.5.1.4.1.1.4": (contexts.EXPLICIT,)}
    with Scripted().running(takes) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)}, idle_s=1)
        with sending.running():
            for count in range(1, 4):
                sending.add(CT, "pacs")
                wait_for(lambda count=count: sending.states().count("delivered") == count)
            assert peer.associations == 1
            sending.add(MR, "pacs")
            wait_for(lambda: sending.states().count("delivered") == 4)
            assert peer.associations == 2
            time.sleep(1.5)
            sending.add(CT, "pacs")
            wait_for(lambda: sending.states().count("delivered") == 5)
            assert peer.associations == 3


def test_probe_of_a_peer_without_verification(tmp_path: Path) -> None:
    """A peer that takes associations and no C-ECHO is up."""
    port = free_port()
    sending = Sending(tmp_path, {"pacs": inside(port)})
    sending.add(CT, "pacs")
    with sending.running():
        wait_for(lambda: sending.queue.destination_state("pacs")[0] == "down")
        with Scripted(port=port).running({CT_CLASS: (contexts.EXPLICIT,)}):
            wait_for(lambda: sending.states() == ["delivered"])


# -- what must not leave
@pytest.mark.parametrize(
    ("name", "identity", "state"),
    [("outside", "kept", "hold"), ("outside", "removed", "delivered"), ("nobody", "removed", "hold")],
)
def test_release_check(tmp_path: Path, name: str, identity: str, state: str) -> None:
    """Nothing that keeps identity leaves for an outside peer, nothing at all for a peer that is not configured."""
    with Scripted().running(TAKES_CT) as peer:
        outside = Peer(ae_title="PEER", host="127.0.0.1", port=peer.port)
        sending = Sending(tmp_path, {"outside": outside})
        sending.add(CT, name, identity=identity)
        sending.until(lambda: sending.states() == [state])
        assert len(peer.stored) == (state == "delivered")
        assert peer.associations == (state == "delivered")


def test_file_missing(tmp_path: Path) -> None:
    """A delivery whose file is gone is on hold, and the next one leaves."""
    with Scripted().running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        uid = sending.add(CT, "pacs")
        sending.add(CT, "pacs")
        (sending.spool.root / "outgoing" / f"{uid}.dcm").unlink()
        sending.until(lambda: sending.states() == ["hold", "delivered"])
    assert sending.deliveries()[0]["reason"] == "file_missing"


def test_peer_that_takes_implicit_only(tmp_path: Path) -> None:
    """An Explicit VR output is encoded anew for a peer that takes Implicit VR alone, its values unchanged."""
    with storescp(tmp_path / "archive", "+xi") as archive:
        sending = Sending(tmp_path, {"pacs": inside(archive.port)})
        uid = sending.add(CT, "pacs")
        sending.until(lambda: sending.states() == ["delivered"])
    stored, source = pydicom.dcmread(next(archive.folder.iterdir())), pydicom.dcmread(CT)
    assert stored.SOPInstanceUID == uid
    assert stored.file_meta.TransferSyntaxUID == contexts.IMPLICIT
    assert stored.PixelData == source.PixelData
    assert str(stored.PatientName) == str(source.PatientName)


def test_file_that_is_none(tmp_path: Path) -> None:
    """A delivery whose file cannot be read as DICOM is on hold and does not stand before the next one."""
    with Scripted().running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        uid = sending.add(CT, "pacs")
        sending.add(CT, "pacs")
        (sending.spool.root / "outgoing" / f"{uid}.dcm").write_bytes(b"nothing" * 100)
        sending.until(lambda: sending.states() == ["hold", "delivered"])
    assert sending.deliveries()[0]["reason"] == "undecodable"


# -- the lane
def test_lane_survives_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw defers the delivery in hand, is logged, and the lane goes on."""
    real, calls = Link.send, []

    def broken(self: Link, path: Path, context: Context, *rest: Any, **more: Any) -> Verdict:
        calls.append(path)
        if len(calls) == 1:
            raise ZeroDivisionError
        return real(self, path, context, *rest, **more)

    monkeypatch.setattr(Link, "send", broken)
    with Scripted().running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        sending.add(CT, "pacs")
        sending.add(CT, "pacs")
        sending.until(lambda: sending.states() == ["delivered"] * 2)
    assert sending.events("defect")[0]["error_type"] == "ZeroDivisionError"


def test_drain(tmp_path: Path) -> None:
    """Told to stop, the lane finishes the C-STORE in hand and gives the others back untried."""
    begun = threading.Event()

    def slowly(_: Any) -> None:
        begun.set()
        time.sleep(0.5)

    with Scripted(on_store=slowly).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        for _ in range(5):
            sending.add(CT, "pacs")
        with sending.running():
            assert begun.wait(10)
    assert sending.states() == ["delivered"] + ["ready"] * 4
    assert [delivery["attempt"] for delivery in sending.deliveries()] == [1, 0, 0, 0, 0]


# -- the client of the commands
def test_echo_reports_what_is_taken(tmp_path: Path) -> None:
    """The report names the SR classes and transfer syntaxes that the peer accepts, and no other."""
    takes = {
        "1.2.840.10008.5.1.4.1.1.88.33": (contexts.IMPLICIT,), CT_CLASS: (contexts.EXPLICIT,),
        contexts.VERIFICATION: (contexts.IMPLICIT,),
    }
    with Scripted().running(takes) as peer:
        report = echo("DICOMNODE", inside(peer.port), 5)
    assert report.echo
    assert report.sr_classes == ("comprehensive",)
    assert report.accepted[CT_CLASS] == (contexts.EXPLICIT,)
    assert sum(map(len, report.accepted.values())) == 2


@pytest.mark.parametrize(("result", "error"), [(1, AssociationRejected), (2, AssociationRejectedTransient)])
def test_echo_raises(result: int, error: type[Exception]) -> None:
    """A rejection is an error with the three numbers of the standard."""
    def reject(event: Any) -> None:
        event.assoc.acse.send_reject(result, 0x01, 0x01)
        event.assoc.kill()

    text = f"result {result}, source 1, reason 1"
    with Scripted(on_request=reject).running(TAKES_CT) as peer, pytest.raises(error, match=text):
        echo("DICOMNODE", inside(peer.port), 5)


def test_nobody_there() -> None:
    """A port that nobody listens on, and a host that has no address, are an unavailable peer."""
    for host, port in (("127.0.0.1", free_port()), ("no-such-host.invalid", 104)):
        with pytest.raises(PeerUnavailable):
            echo("DICOMNODE", Peer(ae_title="PEER", host=host, port=port), 2)


def test_silent_peer_costs_one_timeout() -> None:
    """A peer that takes the connection and says nothing is unavailable after the timeout."""
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(PeerUnavailable):
            echo("DICOMNODE", inside(silent.getsockname()[1]), 0.5)
        assert time.monotonic() - started < 5


def test_send_files(tmp_path: Path) -> None:
    """Each file has its verdict, in order, also what is no DICOM file and what the peer does not take."""
    with Scripted().running(TAKES_CT) as peer:
        told: list[Path] = []
        text = tmp_path / "text.dcm"
        text.write_text("no DICOM")
        verdicts = send_files([CT, text, MR, CT], inside(peer.port), "DICOMNODE", progress=lambda path, _: told.append(path))
    assert [verdict.outcome for verdict in verdicts] == ["delivered", "refused", "refused", "delivered"]
    assert [verdict.reason for verdict in verdicts] == ["", "undecodable", "no_presentation_context", ""]
    assert set(told) == {CT, text, MR}


def test_no_threads_are_left(tmp_path: Path) -> None:
    """Many associations, good and bad, leave no thread behind."""
    before = threading.active_count()
    with Scripted().running(TAKES_CT) as peer:
        for _ in range(5):
            echo("DICOMNODE", inside(peer.port), 5)
            send_files([CT], inside(peer.port), "DICOMNODE")
        with pytest.raises(PeerUnavailable):
            echo("DICOMNODE", inside(free_port()), 1)
    wait_for(lambda: threading.active_count() <= before, 10, "threads have ended")


def test_queue_that_cannot_be_written_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outcome that the queue could not take is kept and told later: the output is sent once, no claim stays open."""
    with Scripted().running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)})
        for _ in range(3):
            sending.add(CT, "pacs")
        real, failures = sending.queue.settle_all, []

        def settle_all(*arguments: Any) -> tuple[Delivery, ...]:
            if len(failures) < 4:
                failures.append(arguments)
                raise QueueUnavailable("busy")
            return real(*arguments)

        monkeypatch.setattr(sending.queue, "settle_all", settle_all)
        sending.until(lambda: sending.states() == ["delivered"] * 3)
    assert len(peer.stored) == 3
    assert [line["reason"] for line in sending.events("store_failed")] == ["queue_unavailable"]  # of four failures

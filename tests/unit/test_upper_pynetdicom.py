"""What the upper layer uses of pynetdicom, and that it acts as pynetdicom's table of PS3.8 has it: an upgrade fails here."""

from __future__ import annotations

import importlib.metadata
import socket
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP, A_RELEASE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification
from pynetdicom.presentation import PresentationContext, build_context

from dicomnode import contexts
from dicomnode.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.scp.receive import Receiver
from dicomnode.scp.session import supported
from dicomnode.upper import handshake, pdata, pdus
from dicomnode.upper.command import Malformed
from dicomnode.upper.driver import Driver, Ended, Limits
from dicomnode.upper.wire import Wire

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def request(*proposed: PresentationContext, longest: int = 32768, version: int = 1) -> bytes:
    """An A-ASSOCIATE-RQ as pynetdicom writes it."""
    primitive: Any = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "MODALITY", "DICOM NODE"
    for number, context in enumerate(proposed):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = list(proposed)
    length = MaximumLengthNotification()
    length.maximum_length_received = longest
    primitive.user_information = [length]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    pdu.protocol_version = version
    return bytes(pdu.encode())


def test_version_is_pinned() -> None:
    """The release that all this was read from, exactly, is what is asked for and what is here."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (line,) = [line for line in project["dependencies"] if line.startswith("pynetdicom")]
    assert line == f"pynetdicom=={importlib.metadata.version('pynetdicom')}" == "pynetdicom==3.0.4"


def test_request_as_pynetdicom_writes_it() -> None:
    """Titles, contexts, version and length of a request are read."""
    raw = request(build_context(CT, [contexts.EXPLICIT, contexts.IMPLICIT]), build_context("1.2.3"), longest=0, version=3)
    found = handshake.read_request(raw[6:])
    assert (found.calling_ae, found.called_ae, found.version, found.max_pdu_bytes) == ("MODALITY", "DICOM NODE", 3, 0)
    assert [(cx.context_id, cx.abstract_syntax) for cx in found.contexts] == [(1, CT), (3, "1.2.3")]
    assert found.contexts[0].transfer_syntax == [contexts.EXPLICIT, contexts.IMPLICIT]


@pytest.mark.parametrize("cut", [0, 10, 67, 80, 150, -1])
def test_a_request_cut_short_is_malformed(cut: int) -> None:
    """Whatever pynetdicom does with rubbish, it comes out as one error."""
    raw = request(build_context(CT))[6:]
    with pytest.raises(Malformed):
        handshake.read_request(raw[:cut])


def test_a_request_with_an_id_twice_is_malformed() -> None:
    """Two contexts of one id cannot be told apart in P-DATA."""
    raw = request(build_context(CT), build_context(MR))
    assert raw.count(b"\x03\0\0\0\x30") == 1
    with pytest.raises(Malformed):
        handshake.read_request(raw.replace(b"\x03\0\0\0\x30", b"\x01\0\0\0\x30")[6:])


def test_acceptance_as_pynetdicom_reads_it() -> None:
    """Pynetdicom's requestor side reads our acceptance; roles and other extensions are not answered."""
    asked = handshake.read_request(request(
        build_context(CT, [contexts.IMPLICIT, contexts.EXPLICIT]), build_context("1.2.3"), build_context(MR, "1.2.4"),
    )[6:])
    results = handshake.negotiate(asked, supported(asked.contexts))
    pdu = A_ASSOCIATE_AC()
    pdu.decode(handshake.acceptance("MODALITY", "DICOMNODE", results, 131072))
    assert [(item.context_id, item.result) for item in pdu.presentation_context] == [(1, 0), (3, 3), (5, 4)]
    assert pdu.presentation_context[0].transfer_syntax == contexts.EXPLICIT
    information = pdu.user_information
    assert information is not None
    assert information.maximum_length == 131072
    assert information.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert information.implementation_version_name == IMPLEMENTATION_VERSION_NAME
    assert len(information.user_data) == 3


def test_fixed_pdus_as_pynetdicom_reads_them() -> None:
    """Rejection, release response and abort."""
    rejection, release, abort = A_ASSOCIATE_RJ(), A_RELEASE_RP(), A_ABORT_RQ()
    rejection.decode(pdus.reject(2, 3, 1))
    assert (rejection.result, rejection.source, rejection.reason_diagnostic) == (2, 3, 1)
    release.decode(pdus.RELEASE_RP_PDU)
    assert release.encode() == pdus.RELEASE_RP_PDU
    abort.decode(pdus.abort(pdus.BY_PROVIDER, pdus.UNEXPECTED_PDU))
    assert (abort.source, abort.reason_diagnostic) == (2, 2)


# -- the machine
def events() -> dict[str, bytes]:
    """An event of PS3.8 Table 9-10 → bytes on the connection that are it."""
    accepted = handshake.acceptance("A", "B", [], 0)
    return {
        "Evt3": accepted, "Evt4": pdus.reject(1, 1, 1), "Evt6": request(build_context(CT)),
        "Evt10": pdata.head(1, 3, 2) + b"ab", "Evt12": bytes(A_RELEASE_RQ().encode()), "Evt13": pdus.RELEASE_RP_PDU,
        "Evt16": pdus.abort(), "Evt19": b"\x09\0\0\0\0\0", "Evt17": b"",
    }


@pytest.fixture
def pair() -> Iterator[tuple[Driver, socket.socket]]:
    """A driver and its peer."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    driver = Driver(Wire(ours), Limits(artim_s=20, pdu_s=20, idle_s=20, max_pdu_bytes=16384))
    with theirs:
        yield driver, theirs
        driver.wire.close()


def play(driver: Driver, peer: socket.socket, raw: bytes) -> tuple[str, bytes, str]:
    """Let the peer send something: the action of PS3.8 that it made, what we wrote, the state."""
    peer.sendall(raw)
    if not raw:
        peer.shutdown(socket.SHUT_WR)
    before = driver.state
    try:
        got: object = driver.request() if before == "Sta2" else bytes(driver.data())
    except Ended as end:
        got = end.how
    state = driver.state
    driver.wire.close()
    return str(got), peer.recv(100), state


ABORT_BY_USER, ABORT_BY_PROVIDER = pdus.abort(), pdus.abort(pdus.BY_PROVIDER)
#: Action → what it looks like from outside: how it ended, what was written (without the reason), next state.
ACTIONS = {
    "AA-1": ("protocol", ABORT_BY_USER, "Sta13"), "AA-2": ("aborted", b"", "Sta1"), "AA-3": ("aborted", b"", "Sta1"),
    "AA-4": ("closed", b"", "Sta1"), "AA-5": ("closed", b"", "Sta1"), "AA-8": ("protocol", ABORT_BY_PROVIDER[:9], "Sta13"),
    # The release is answered at once: AR-2, then Evt14 in Sta8 is AR-4.
    "AR-2": ("released", pdus.RELEASE_RP_PDU, "Sta13"),
}


@pytest.mark.parametrize("event", events())
@pytest.mark.parametrize("state", ["Sta2", "Sta6"])
def test_machine(pair: tuple[Driver, socket.socket], state: str, event: str) -> None:
    """Each PDU, nothing and rubbish, in each state in which we wait, makes the action that the table has."""
    driver, peer = pair
    driver.state = state
    action = TRANSITION_TABLE[event, state]
    got, written, after = play(driver, peer, events()[event])
    if action == "AE-6":
        assert got.startswith("Request(")
        assert (written, after) == (b"", "Sta2")
    elif action == "DT-2":
        assert (got, after) == (str(bytes(events()[event][6:])), "Sta6")
    else:
        how, words, next_state = ACTIONS[action]
        assert (got, written[:len(words)], after) == (how, words, next_state)
        assert bool(written) == bool(words)


def test_sta13_forgets_what_comes_and_ends_when_the_peer_does(pair: tuple[Driver, socket.socket]) -> None:
    """After our last word nothing is answered (AA-6), and the peer may close first (AR-5)."""
    driver, peer = pair
    driver.state = "Sta6"
    driver.abort()
    assert driver.state == "Sta13"
    thread = threading.Thread(target=driver.close)
    thread.start()
    peer.sendall(pdata.head(1, 3, 2) + b"ab")
    assert peer.recv(100) == ABORT_BY_USER
    peer.shutdown(socket.SHUT_WR)
    thread.join(20)
    assert peer.recv(100) == b""


def test_timers() -> None:
    """ARTIM closes a silent connection without a word; an idle association is aborted, and so is half a PDU."""
    for state, raw, answer in (
        ("Sta2", b"", b""), ("Sta2", b"\1\0\0\0", b""), ("Sta6", b"", ABORT_BY_USER), ("Sta6", b"\4\0", ABORT_BY_PROVIDER),
    ):
        ours, theirs = socket.socketpair()
        with theirs:
            driver = Driver(Wire(ours), Limits(artim_s=0.1, pdu_s=0.1, idle_s=0.2, max_pdu_bytes=16384))
            driver.state = state
            theirs.sendall(raw)
            with pytest.raises(Ended, match="timeout"):
                _ = driver.request() if state == "Sta2" else driver.data()
            driver.wire.close()
            theirs.settimeout(20)
            assert theirs.recv(100) == answer


def test_a_message_that_does_not_go_on() -> None:
    """Between two PDUs of one message a peer has the time of a message, not that of an idle association."""
    ours, theirs = socket.socketpair()
    with theirs:
        driver = Driver(Wire(ours), Limits(artim_s=60, pdu_s=0.1, idle_s=60, max_pdu_bytes=16384))
        driver.state = "Sta6"
        receiver = Receiver({1: (CT, contexts.EXPLICIT)}, None, driver.say)  # type: ignore[arg-type]
        theirs.sendall(b"".join(pdata.message(1, bytes(40), 30)[:2]))  # the first of several
        assert not receiver.within
        receiver.take(driver.data(within=receiver.within))
        assert receiver.within
        started = time.monotonic()
        with pytest.raises(Ended, match="timeout"):
            driver.data(within=receiver.within)
        assert time.monotonic() - started < 30
        driver.wire.close()


def test_a_pynetdicom_requestor_is_served() -> None:
    """The whole way once with pynetdicom at the other end: request, acceptance, C-ECHO, release."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends: list[str] = []

        def serve() -> None:
            driver = Driver(Wire(server.accept()[0]), Limits(20, 20, 20, 16384))
            try:
                asked = driver.request()
                results = handshake.negotiate(asked, supported(asked.contexts))
                driver.accept(handshake.acceptance(asked.calling_ae, asked.called_ae, results, 16384))
                receiver = Receiver({1: (contexts.VERIFICATION, contexts.IMPLICIT)}, None, driver.say)  # type: ignore[arg-type]
                while True:
                    receiver.take(driver.data())
            except Ended as end:
                ends.append(end.how)
            driver.close()

        thread = threading.Thread(target=serve)
        thread.start()
        ae = AE(ae_title="MODALITY")
        ae.add_requested_context(contexts.VERIFICATION)
        assoc = ae.associate("127.0.0.1", server.getsockname()[1])
        assert assoc.is_established
        assert assoc.send_c_echo().Status == 0
        assoc.release()
        thread.join(20)
        assert ends == ["released"]

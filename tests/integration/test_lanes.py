"""Lanes: several associations to a destination, what is urgent, windows, caps, and who ends a wait."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicomnode import dimse
from dicomnode.scu import destination, lane
from dicomnode.settings import Peer
from tests.integration.sending import CT, TAKES_CT, Sending, inside
from tests.peers import Scripted, free_port, orthanc, storescp, wait_for


def peer_on(port: int, **more: Any) -> Peer:
    """An inside peer on loopback with settings of its own."""
    return Peer(ae_title="PEER", host="127.0.0.1", port=port, trust="inside", **more)


def large(root: Path, size: int) -> Path:
    """A CT whose pixels take so many bytes."""
    ds = pydicom.dcmread(CT)
    ds.Rows, ds.Columns, ds.PixelData = size // 2000, 1000, bytes(size)
    path = root / "large.dcm"
    ds.save_as(path)
    return path


class Slow:
    """Keeps the first object's answer back until told."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.first = ""

    def __call__(self, event: Any) -> None:
        """Hold up the one."""
        uid = str(event.request.AffectedSOPInstanceUID)
        self.first = self.first or uid
        if uid == self.first:
            self.begun.set()
            self.go_on.wait(15)


# -- several associations
@pytest.mark.parametrize("kind", ["storescp", "orthanc"])
def test_four_associations(tmp_path: Path, kind: str) -> None:
    """Over four associations everything arrives once."""
    if kind == "orthanc":
        with orthanc(tmp_path / "orthanc") as (port, _):
            sending = Sending(tmp_path, {"pacs": peer_on(port, associations=4)})
            for _ in range(40):
                sending.add(CT, "pacs")
            sending.until(lambda: sending.states() == ["delivered"] * 40, 40)
    else:
        with storescp(tmp_path / "archive", "+xa", "--fork") as archive:
            sending = Sending(tmp_path, {"pacs": peer_on(archive.port, associations=4)})
            uids = [sending.add(CT, "pacs") for _ in range(40)]
            sending.until(lambda: sending.states() == ["delivered"] * 40, 40)
            assert sorted(path.name.partition(".")[2] for path in archive.folder.iterdir()) == sorted(uids)
    assert [delivery["attempt"] for delivery in sending.deliveries()] == [1] * 40


def test_a_slow_object_holds_up_nobody(tmp_path: Path) -> None:
    """While one association waits for its answer, everything claimed with that object leaves over another one."""
    slow = Slow()
    with Scripted(on_store=slow).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": peer_on(peer.port, associations=2)}, timeout_s=30)
        for _ in range(8):
            sending.add(CT, "pacs")
        with sending.running():
            wait_for(lambda: sending.states().count("delivered") == 7, what=lambda: str(sending.states()))
            slow.go_on.set()
            wait_for(lambda: sending.states() == ["delivered"] * 8)
    assert (len(peer.stored), peer.associations) == (8, 2)


def test_one_association_is_enough_for_little(tmp_path: Path) -> None:
    """Who has an idle association takes the next delivery; no further ones are opened for it."""
    with Scripted().running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": peer_on(peer.port, associations=4)}, idle_s=10)
        with sending.running():
            for count in range(1, 6):
                sending.add(CT, "pacs")
                wait_for(lambda count=count: sending.states() == ["delivered"] * count)
    assert peer.associations == 1


def test_a_destination_that_takes_fewer_associations(tmp_path: Path) -> None:
    """A further association that is refused defers nothing and marks nobody: those that stand send everything."""
    def one_only(event: Any) -> None:
        if peer.associations > 1:
            event.assoc.acse.send_reject(2, 3, 2)
            event.assoc.kill()

    slow = Slow()
    peer = Scripted(on_request=one_only, on_store=slow)
    with peer.running(TAKES_CT):
        sending = Sending(tmp_path, {"pacs": peer_on(peer.port, associations=3)}, probe_s=60, timeout_s=30)
        for _ in range(6):
            sending.add(CT, "pacs")
        with sending.running():
            assert slow.begun.wait(15)
            wait_for(lambda: sending.events("associations_limited"))
            slow.go_on.set()
            wait_for(lambda: sending.states() == ["delivered"] * 6, what=lambda: str(sending.states()))
            assert sending.queue.destination_state("pacs")[0] == "up"
    assert [delivery["attempt"] for delivery in sending.deliveries()] == [1] * 6
    assert not sending.events("delivery_deferred")


# -- what is urgent
def test_priority_and_urgent_is_next(tmp_path: Path) -> None:
    """What is urgent is next after what is in hand and says so in its request; the others say what the peer's file says."""
    slow, said = Slow(), []

    def store(event: Any) -> None:
        said.append(int(event.request.Priority))
        slow(event)

    with Scripted(on_store=store).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": peer_on(peer.port, priority="low")}, timeout_s=30)
        for _ in range(10):
            sending.add(CT, "pacs")
        with sending.running():
            assert slow.begun.wait(15)
            urgent = [sending.add(CT, "pacs", urgent=True) for _ in range(5)]
            slow.go_on.set()
            wait_for(lambda: sending.states() == ["delivered"] * 15, what=lambda: str(sending.states()))
    places = [peer.stored.index(uid) for uid in urgent]
    assert places[:3] == [1, 2, 3], "urgent ones are next"
    assert 4 not in places, "and every fourth is an ordinary one"
    assert max(places) <= 6
    assert [dimse.PRIORITIES["high"] if peer.stored[i] in urgent else dimse.PRIORITIES["low"] for i in range(15)] == said


# -- windows
def test_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of the window only what is urgent leaves, no association stays open; opening and closing are told once."""
    now = [time_of_day(12, 0)]
    monkeypatch.setattr(destination, "wall_clock", lambda: now[0])
    with Scripted().running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": peer_on(peer.port, windows=("19:00-06:00",))}, idle_s=60)
        ordinary = sending.add(CT, "pacs")
        with sending.running():
            wait_for(lambda: sending.events("window_closed"))
            urgent = sending.add(CT, "pacs", urgent=True)
            wait_for(lambda: peer.stored == [urgent])
            wait_for(lambda: not peer.established(), what="the association is released outside of the window")
            assert sending.states() == ["ready", "delivered"]
            assert sending.deliveries()[0]["attempt"] == 0
            now[0] = time_of_day(23, 30)
            wait_for(lambda: peer.stored == [urgent, ordinary])
            assert peer.established()
            now[0] = time_of_day(6, 0)
            wait_for(lambda: len(sending.events("window_closed")) == 2)
            wait_for(lambda: not peer.established())
    assert len(sending.events("window_opened")) == 1


# -- caps
@pytest.mark.parametrize("associations", [1, 3])
def test_cap(tmp_path: Path, associations: int) -> None:
    """All associations together keep the cap, and an object that takes longer than the timeout is not cut off."""
    size, mbit_s = 400_000, 4.0
    with storescp(tmp_path / "archive", "+xa", "--fork") as archive:
        sending = Sending(
            tmp_path, {"pacs": peer_on(archive.port, associations=associations, max_mbit_s=mbit_s)}, timeout_s=1,
        )
        source = large(tmp_path, size)
        for _ in range(4):
            sending.add(source, "pacs")
        sending.until(lambda: sending.states() == ["delivered"] * 4, 40)
    done = [(datetime.fromisoformat(line["timestamp"]), line["send_ms"] / 1000) for line in sending.events("delivery_done")]
    took_s = (max(at for at, _ in done) - min(at - timedelta(seconds=send_s) for at, send_s in done)).total_seconds()
    assert 4 * size * 8 / 1e6 / took_s == pytest.approx(mbit_s, rel=0.15)
    assert [delivery["attempt"] for delivery in sending.deliveries()] == [1] * 4


def test_cap_of_the_node(tmp_path: Path) -> None:
    """Two destinations share the node's cap by their priority, and neither starves."""
    size = 200_000
    with storescp(tmp_path / "first", "+xa") as first, storescp(tmp_path / "second", "+xa") as second:
        peers = {"first": peer_on(first.port, priority="high"), "second": peer_on(second.port, priority="low")}
        sending = Sending(tmp_path, peers, max_mbit_s=8.0)
        source = large(tmp_path, size)
        for _ in range(20):
            sending.add(source, "first", "second")
        with sending.running():
            def count(to: str) -> int:
                return sum(one["destination"] == to and one["state"] == "delivered" for one in sending.deliveries())

            wait_for(lambda: count("first") >= 16, 60, tick_s=0.02)
            assert 2 <= count("second") <= 7


# -- who ends a wait
def test_a_retry_ends_a_pause(tmp_path: Path) -> None:
    """A peer that had no room for an association is asked at once when a person retries; till then it is left alone."""
    full = [True]

    def reject(event: Any) -> None:
        if full[0]:
            event.assoc.acse.send_reject(2, 3, 1)
            event.assoc.kill()

    with Scripted(on_request=reject).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)}, first_delay_s=60, probe_s=60)
        sending.add(CT, "pacs")
        with sending.running():
            wait_for(lambda: sending.states() == ["deferred"])
            full[0] = False
            sending.add(CT, "pacs")
            time.sleep(0.7)  # it is left alone
            assert peer.associations == 1
            sending.queue.retry(str(sending.queue.rows()[0]["instance_id"]), datetime.now(UTC))
            wait_for(lambda: sending.states() == ["delivered"] * 2)


def test_a_retry_asks_for_a_destination_that_is_down(tmp_path: Path) -> None:
    """It is probed at once, not when its time has come."""
    port = free_port()
    sending = Sending(tmp_path, {"pacs": inside(port)}, first_delay_s=60, probe_s=60)
    sending.add(CT, "pacs")
    with Scripted(port=port, status=dimse.OUT_OF_RESOURCES).running(TAKES_CT):
        sending.until(lambda: sending.states() == ["deferred"])
    sending.add(CT, "pacs")
    with sending.running():
        wait_for(lambda: sending.queue.destination_state("pacs")[0] == "down")
        with Scripted(port=port).running(TAKES_CT):
            sending.queue.retry(str(sending.queue.rows()[0]["instance_id"]), datetime.now(UTC))
            wait_for(lambda: sending.states() == ["delivered"] * 2)


def test_batches_follow_each_other(tmp_path: Path) -> None:
    """While there is something to send a lane never waits for it, though what is urgent is looked for in between."""
    sending = Sending(tmp_path, {"pacs": inside(free_port())})
    for _ in range(20):
        sending.add(CT, "pacs")
    shared = destination.Destination("pacs", sending.settings, sending.queue, sending.owner)
    for number in range(20):
        time.sleep(0.021)
        assert shared.take(0, linked=number > 0) is not None
        shared.reached(0, linked=True)
    assert shared.take(0, linked=True) is None


def test_no_more_is_claimed_than_can_be_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Urgent ones that come faster than they leave stay in the queue, beyond a batch of them."""
    monkeypatch.setattr(destination, "_URGENT_S", 0.0)
    sending = Sending(tmp_path, {"pacs": inside(104)})
    for number in range(2 * destination.BATCH + 40):
        sending.add(CT, "pacs", urgent=number >= destination.BATCH)
    shared = destination.Destination("pacs", sending.settings, sending.queue, sending.owner)
    for number in range(6):
        assert shared.take(0, linked=number > 0) is not None
        shared.reached(0, linked=True)
    assert destination.BATCH < sending.states().count("active") <= 3 * destination.BATCH, sending.states()


def test_what_takes_too_long_at_the_end_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop while a C-STORE takes longer than the drain, the lane cuts it off and gives it back untried."""
    monkeypatch.setattr(lane, "DRAIN_S", 0.2)
    slow = Slow()
    with Scripted(on_store=slow).running(TAKES_CT) as peer:
        sending = Sending(tmp_path, {"pacs": inside(peer.port)}, timeout_s=60)
        sending.add(CT, "pacs")
        with sending.running():
            assert slow.begun.wait(15)
        assert (sending.states(), sending.deliveries()[0]["attempt"]) == (["ready"], 0)
        slow.go_on.set()
    assert not sending.events("defect")

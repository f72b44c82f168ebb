"""The drill's parts without a node: its configuration, its account, its table, its bytes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import dcmread
from rich.console import Console

from dicomnode.commands.init import Forward, compose, set_value
from dicomnode.drill import account, pdu
from dicomnode.drill.account import Account
from dicomnode.drill.archive import Archive
from dicomnode.drill.command import table
from dicomnode.drill.configuration import FIRST, SECOND, built_in, delivers, destinations, scratch
from dicomnode.drill.course import DRILLS, Outcome
from dicomnode.drill.ground import Stream
from dicomnode.drill.modality import Association
from dicomnode.drill.node import until
from dicomnode.drill.pdu import Ended, Rejected, Wrong
from dicomnode.drill.pictures import SOP_CLASS, draw
from dicomnode.rules import Routes
from dicomnode.settings import Settings, load
from tests.peers import wait_for


# -- the configuration
def site(folder: Path) -> Settings:
    """A site with a PACS beyond this machine, a hook, a window and closed doors."""
    files = compose("SITE", 104, Path("/var/lib/site"), [Forward("PACS", "192.0.2.10", 104)])
    files["node.toml"] = set_value(set_value(files["node.toml"], "hook", ["/bin/ring"]), "max_mbit_s", 0.5)
    files["node.toml"] = set_value(files["node.toml"], "max_associations", 7)
    files["peers/pacs.toml"] += 'windows = ["19:00-06:00"]\nmax_mbit_s = 1.0\n'
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return load(folder)


def drilled(settings: Settings, tmp_path: Path, **changes: Any) -> Settings:
    """What `scratch` makes of settings."""
    ports = {name: 20000 + number for number, name in enumerate(destinations(settings))}
    scratch(settings, tmp_path / "drilled", tmp_path / "state", 19999, ports, changes)
    return load(tmp_path / "drilled")


def test_a_drill_does_not_meet_the_limits_of_a_small_site(tmp_path: Path) -> None:
    """Five senders at once are no fault of a node that takes two; wider limits stay."""
    before = site(tmp_path / "site")
    narrow = before.scp.model_copy(update={"max_associations": 20, "max_associations_per_ae": 2})
    after = drilled(before.model_copy(update={"scp": narrow}), tmp_path)
    assert (after.scp.max_associations, after.scp.max_associations_per_ae) == (20, 16)


def test_nothing_of_the_site_is_reached(tmp_path: Path) -> None:
    """Address, port, state, every peer, hook, windows and caps are the drill's; models and rules the site's."""
    before = site(tmp_path / "site")
    after = drilled(before, tmp_path)
    assert (after.node.bind, after.node.port, after.node.state_dir) == ("127.0.0.1", 19999, tmp_path / "state")
    assert {peer.host for peer in after.peers.values()} == {"127.0.0.1", None}
    assert {peer.port for peer in after.peers.values()} == {20000, 20001, 20002, None}
    assert {peer.calls_from for peer in after.peers.values()} == {("127.0.0.1",), ()}
    assert {(peer.windows, peer.max_mbit_s) for peer in after.peers.values()} == {((), 0.0)}
    assert (after.keep.hook, after.send.max_mbit_s) == ((), 0.0)
    assert after.node.ae_title == "SITE"
    assert after.scp.max_associations == 16
    assert not after.node.open
    assert after.routes.rule[1:] == before.routes.rule
    assert after.work == before.work.model_copy(update={"deadline_s": after.work.deadline_s})


def test_changes_go_over_all(tmp_path: Path) -> None:
    """A drill may set single settings, over those of the site and of the drill."""
    after = drilled(built_in(tmp_path / "init"), tmp_path, scp={"min_free_bytes": 123})
    assert after.scp.min_free_bytes == 123
    assert after.scp.dimse_timeout_s == 3


def test_rules_that_make_nothing_get_one(tmp_path: Path) -> None:
    """Where a radiograph of the drill might come to a rule without outputs, a rule of the drill stands first."""
    (tmp_path / "init").mkdir()
    files = compose("SITE", 104, Path("/var/lib/site"), [])
    for name, text in files.items():
        (tmp_path / "init" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "init" / name).write_text(text)
    after = drilled(load(tmp_path / "init"), tmp_path)
    assert [rule.name for rule in after.routes.rule[:2]] == ["drill-two", "drill"]
    assert (after.routes.rule[1].destinations, after.routes.rule[0].destinations) == ((FIRST,), (FIRST, SECOND))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([{"name": "a", "outputs": ["sr"]}], True),
        ([{"name": "a"}], False),
        ([{"name": "a", "modality": ["CT"]}, {"name": "b", "outputs": ["sr"]}], True),
        ([{"name": "a", "body_part": ["spine"]}, {"name": "b", "outputs": ["sr"]}], False),
        ([{"name": "a", "calling_ae": ["CT1"]}, {"name": "b", "outputs": ["sr"]}], True),
        ([{"name": "a", "calling_ae": ["DRILL"], "outputs": ["sr"]}, {"name": "b"}], True),
        ([{"name": "a", "outputs": ["sr"], "uncertain": "hold"}], False),
        ([{"name": "a", "outputs": ["sr"], "trust": "hold"}], False),
    ],
)
def test_whether_rules_deliver(rules: list[dict[str, Any]], expected: bool) -> None:
    """Every body part that a radiograph may be taken for must come to a rule with outputs."""
    assert delivers(Routes.model_validate({"rule": rules})) is expected


# -- the peers
def test_picture_is_an_instance() -> None:
    """A drawn picture is a data set with the UID that it is sent under; no two have the same pixels."""
    first, second = draw(), draw()
    ds = dcmread(BytesIO(first.content), force=True)
    assert (ds.SOPInstanceUID, ds.SOPClassUID) == (first.uid, SOP_CLASS)
    assert len(ds.PixelData) == 2 * ds.Rows * ds.Columns
    assert first.uid != second.uid
    assert first.content[-2000:] != second.content[-2000:]
    assert len(first.uid) == len(second.uid) <= 64


def result_sender(archive: Archive) -> Association:
    """The drill's modality, sending to the drill's archive."""
    return Association(archive.port, "ARCHIVE", "NODE", timeout_s=5)


@pytest.fixture
def archive() -> Any:
    """An archive of the drill."""
    one = Archive("archive")
    yield one
    one.close()


def test_peers_speak_to_each_other(archive: Archive) -> None:
    """Modality and archive understand each other: C-ECHO, C-STORE, release; what came is counted with its digest."""
    picture = draw()
    with result_sender(archive) as association:
        assert association.echo() == 0
        assert association.store(picture) == 0
        assert association.store(picture) == 0
        association.release()
    assert archive.taken == {picture.uid: 2}
    assert len(archive.digests[picture.uid]) == 1
    assert archive.faults == []


@pytest.mark.parametrize(("mood", "code"), [("reject", (1, 1, 1)), ("reject-now", (2, 3, 1))])
def test_archive_rejects(archive: Archive, mood: Any, code: tuple[int, int, int]) -> None:
    """An archive in a bad mood rejects for good or for now."""
    archive.mood = mood
    with pytest.raises(Rejected) as rejected:
        result_sender(archive)
    assert rejected.value.code == code


def test_archive_takes_no_context(archive: Archive) -> None:
    """An archive may accept the association and none of its contexts."""
    archive.mood = "no-contexts"
    with pytest.raises(Wrong, match="does not take"):
        result_sender(archive)


def test_archive_is_silent(archive: Archive) -> None:
    """A silent archive takes an instance, never answers, and has not acknowledged it."""
    archive.mood = "silent"
    with result_sender(archive) as association:
        association.send(draw())
        wait_for(lambda: archive.come == 1)
    assert not archive.taken


def test_archive_sees_a_foreign_data_set(archive: Archive) -> None:
    """An instance whose data set is another's is a fault of who sent it."""
    one, other = draw(), draw()
    with result_sender(archive) as association, pytest.raises(Ended):
        association.store(type(one)(one.uid, other.content))
    assert "data set that is not its own" in wait_for(lambda: archive.faults)[0]


def test_trickle_and_silence_end_when_cut() -> None:
    """A peer that is slow notes when it is cut off, and that it was not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Association(port, "A", "B", ask=False) as slow, listener.accept()[0] as sock:
            assert slow.trickle(pause_s=0.01, longest_s=0.1) == float("inf")
            assert slow.cut_off(0.05) == float("inf")
            sock.close()
            assert slow.cut_off(5) < 5


@pytest.mark.parametrize("sent", [b"HTTP/1.1 400 Bad Request", pdu.pdu(pdu.AC, bytes(68) + b"\x10\0\xff\xff")])
def test_what_is_no_answer_is_told(sent: bytes) -> None:
    """A node that answers with other bytes than a PDU fails a drill, and not the drill's own code."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(Wrong):
            pdu.accepted_of(pdu.read(ours)[1])


@pytest.mark.parametrize(
    ("taken", "failures", "sentence"),
    [
        ([(1.0, 1.5)], [], ""),
        ([(0.5, 1.5), (2.5, 3.5)], [], "no other sender was served"),
        ([(1.0, 1.5)], ["an association was rejected: 2/3/1"], "2/3/1"),
    ],
)
def test_whether_others_were_served(taken: list[tuple[float, float]], failures: list[str], sentence: str) -> None:
    """Others are served when one instance was taken whole while somebody was slow, and none was refused."""
    stream = Stream(None, 0)  # type: ignore[arg-type]
    stream.taken, stream.failures = taken, failures
    if not sentence:
        stream.served(1, 3)
        return
    with pytest.raises(Wrong, match=sentence):
        stream.served(1, 3)


def test_mount_is_seen_by_nobody_else(tmp_path: Path) -> None:
    """The small file system is the drill's alone, has the size that was asked for, and is gone when it is unmounted."""
    code = (
        "import os, sys; from pathlib import Path; from dicomnode.drill import tmpfs\n"
        "folder = Path(sys.argv[1])\n"
        "if not tmpfs.enter() or not tmpfs.mount(folder, 1 << 20): sys.exit(77)\n"
        "(folder / 'inside').touch(); status = os.statvfs(folder); print(status.f_blocks * status.f_frsize, flush=True)\n"
        "sys.stdin.readline(); tmpfs.unmount(folder); print(len(list(folder.iterdir())))\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        size = process.stdout.readline()
        seen = list(tmp_path.iterdir())
        rest, _ = process.communicate("go on\n") if size else ("", "")
    if process.returncode == 77:
        pytest.skip("neither root nor a user namespace here")
    assert (size.strip(), seen, rest.strip()) == (str(1 << 20), [], "0")


# -- the account
class FakeNode:
    """A node that has the rows it is given."""

    def __init__(self, tmp_path: Path) -> None:
        self.state = tmp_path / "state"
        self.found: dict[str, list[dict[str, Any]]] = {}
        self.left: list[Path] = []
        self.patience_s = 0.0

    def add(self, uid: str, **changes: Any) -> dict[str, Any]:
        """Add a row that is as it should be, but for changes, and its file."""
        location = f"incoming/2026010210/20260102T101112131415-0000000{len(self.found)}.dcm"
        path = self.state / "spool" / location
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        delivery = {
            "kind": "sr", "destination": "archive", "sop_instance_uid": f"r-{uid}", "state": "delivered", "reason": "",
        }
        row = {"state": "done", "reason": "", "location": location, "deliveries": [delivery], **changes}
        self.found.setdefault(uid, []).append(row)
        return row

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """All of them."""
        return self.found

    def leftovers(self) -> list[Path]:
        """Files in tmp."""
        return self.left

    def until(self, claim: Callable[[], Any], what: str, tick_s: float = 0.01) -> Any:
        """Wait as a node does that never ends."""
        return until(claim, what, self.patience_s, tick_s)

    def queue(self) -> None:
        """There is none to verify."""
        return


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Account, FakeNode, Any]:
    """One instance that was acknowledged, worked and delivered."""
    books, node = Account(), FakeNode(tmp_path)
    books.sending("1.2")
    books.answered("1.2")
    node.add("1.2")
    taken = SimpleNamespace(name="archive", taken=Counter({"r-1.2": 1}), digests={"r-1.2": {"d"}}, faults=[])
    return books, node, taken


def wrong(scene: tuple[Account, FakeNode, Any]) -> str:
    """What the account says of a scene; empty when it fits."""
    books, node, taken = scene
    try:
        books.check(node, {"archive": taken})  # type: ignore[arg-type]
    except Wrong as fault:
        return str(fault)
    return ""


def test_account_fits(scene: tuple[Account, FakeNode, Any]) -> None:
    """What was acknowledged once, worked once and delivered once is in order."""
    assert wrong(scene) == ""


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"state": "quarantine", "reason": "file_missing"}, "stands as quarantine (file_missing), not as done"),
        ({"state": "hold", "reason": "pixels_differ"}, "stands as hold"),
        ({"state": "waiting"}, "came to no end"),
        ({"deliveries": []}, "nothing was made of it"),
        ({"location": "incoming/2026010210/20260102T101112131415-00000009.dcm"}, "its file"),
    ],
)
def test_account_of_an_instance(scene: tuple[Account, FakeNode, Any], row: dict[str, Any], sentence: str) -> None:
    """Each way in which an acknowledged instance may not have come to its end is told."""
    scene[1].found["1.2"][0].update(row)
    assert sentence in wrong(scene)


@pytest.mark.parametrize(
    ("delivery", "taken", "sentence"),
    [
        ({"state": "hold", "reason": "undecodable"}, 1, "is hold (undecodable), not delivered"),
        ({"state": "deferred"}, 1, "came to no end"),
        ({}, 0, "the archive does not have it"),
        ({}, 2, "came 2 times"),
    ],
)
def test_account_of_a_delivery(
    scene: tuple[Account, FakeNode, Any], delivery: dict[str, Any], taken: int, sentence: str,
) -> None:
    """Each way in which a result may not have arrived, or too often, is told."""
    scene[1].found["1.2"][0]["deliveries"][0].update(delivery)
    scene[2].taken["r-1.2"] = taken
    assert sentence in wrong(scene)


def test_account_of_repeats(scene: tuple[Account, FakeNode, Any]) -> None:
    """A result may come twice only where the drill made it so, and with the same bytes."""
    books, _, taken = scene
    taken.taken["r-1.2"] = 2
    books.again.add("1.2")
    assert wrong(scene) == ""
    taken.digests["r-1.2"].add("other")
    assert "different bytes" in wrong(scene)


def test_account_of_duplicates(scene: tuple[Account, FakeNode, Any]) -> None:
    """Each acknowledged repeat has a row of its own, and no repeat has more rows than it was sent times."""
    books, node, _ = scene
    books.sending("1.2")
    books.answered("1.2")
    assert "came to no end" in wrong(scene)
    node.add("1.2", state="duplicate", deliveries=[])
    assert wrong(scene) == ""
    node.add("1.2", state="duplicate", deliveries=[])
    assert "sent 2 times and has 3 rows" in wrong(scene)


def test_account_of_what_nobody_sent(scene: tuple[Account, FakeNode, Any]) -> None:
    """A row or a result of nothing is told; so is what the archive itself found, and a leftover."""
    books, node, taken = scene
    taken.taken["r-9"] = 1
    assert "result of nothing" in wrong(scene)
    del taken.taken["r-9"]
    taken.faults.append("a data set that is not its own")
    assert "not its own" in wrong(scene)
    taken.faults.clear()
    node.left.append(Path("x"))
    assert "spool/tmp" in wrong(scene)
    node.left.clear()
    node.add("7.7")
    assert "never sent" in wrong(scene)
    assert "7.7" not in books.sent


def test_settling_takes_time(scene: tuple[Account, FakeNode, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What still moves is waited for."""
    row = scene[1].found["1.2"][0]
    row["state"] = "active"
    asked: list[float] = []

    def slept(seconds: float) -> None:
        asked.append(seconds)
        row["state"] = "done"

    monkeypatch.setattr(time, "sleep", slept)
    scene[1].patience_s = 60.0
    account.settle(scene[1], {"1.2": 1})  # type: ignore[arg-type]
    assert len(asked) == 1


# -- the table
def test_table_and_json() -> None:
    """The table names every drill, what was done and its outcome; an outcome as JSON has all that a program needs."""
    good = Outcome(DRILLS[0].name, DRILLS[0].did, True, 1.234, 5.67)
    bad = Outcome(DRILLS[1].name, DRILLS[1].did, False, None, 61.2, "it was lost", "x/node.log")
    console = Console(width=160)
    with console.capture() as printed:
        console.print(table(DRILLS, [good, bad], [one.name for one in DRILLS[:3]]))
    lines = printed.get().splitlines()
    assert all(any(one.did in line for line in lines) for one in DRILLS)
    words = ["pass", "FAIL", "running"]
    assert [word for line in lines for word in words if f" {word} " in line] == words
    assert "1.23" in printed.get()
    assert bad.plain() == {
        "drill": "kill-acceptor", "did": DRILLS[1].did, "passed": False, "recovery_s": None, "seconds": 61.2,
        "wrong": "it was lost", "look": "x/node.log",
    }

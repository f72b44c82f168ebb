"""The worker's decisions, with the real spool and SQLite queue, and a kit that does next to nothing."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest

from dicomnode import log, worker
from dicomnode.certificate.proof import prove
from dicomnode.errors import BadSetting, ConfigError, QueueUnavailable, RedactionUncertain, SpoolFull, StageFailed
from dicomnode.header import header
from dicomnode.image import Image, Redacted
from dicomnode.kitting import build_kit
from dicomnode.outputs.table import OUTPUTS
from dicomnode.pipeline import Kit
from dicomnode.places import Place, Rectangle
from dicomnode.queue import Claim
from dicomnode.queue.owner import Owner, this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Instance, Means, OutputKind, Verdict
from dicomnode.settings import JudgeSettings, LogSettings, SendSettings, Settings, WorkSettings, load
from dicomnode.spool import Spool
from dicomnode.stages.redact.places import Places
from dicomnode.worker import EXIT_DEFECT, MAX_DEFECTS, Worker, run_worker
from tests.unit import fakes
from tests.unit.materials import FINDINGS, marked_dx, pydicom_file, spooled
from tests.unit.spooled import an_id, configured, spoil


class Desk:
    """A worker with its spool, its queue and a kit whose stages the test changes."""

    def __init__(self, root: Path, *outputs: OutputKind) -> None:
        base = load(root / "ae_config") if (root / "ae_config").exists() else configured(root)
        self.settings: Settings = base.model_copy(update={
            "send": SendSettings(first_delay_s=10, max_delay_s=60), "work": WorkSettings(deadline_s=60),
        })
        self.spool = Spool(base.node.state_dir)
        self.queue = SqliteQueue(self.spool.queue_path)
        self.owner = this_process()
        self._numbers = 0
        self.use(fakes.kit(fakes.route(outputs or ("sr", "sc"))))

    def use(self, kit: Kit) -> None:
        """Work with this kit from now on."""
        self.kit = kit
        self.worker = Worker(self.settings, self.spool, self.queue, kit, self.owner)

    def change(self, **more: Any) -> None:
        """Replace stages of the kit; the worker stays the same one."""
        self.kit = dataclasses.replace(self.kit, **more)
        self.worker._kit = self.kit

    def receive(self, data: bytes) -> Instance:
        """Do what acceptor and intake do."""
        self._numbers += 1
        instance_id = an_id(self._numbers)
        tmp = self.spool.temporary(instance_id)
        tmp.write_bytes(spooled(data))
        location = self.spool.commit(tmp, instance_id)
        with self.spool.open(location) as stream:
            one = header(stream, instance_id=instance_id, location=location, node_id="n")
        self.queue.add(one)
        return one

    def row(self, one: Instance) -> dict[str, Any]:
        """What the queue knows of an instance."""
        return dict(self.queue.find(one.instance_id)[0])

    def state(self, one: Instance) -> tuple[str, str]:
        """State and reason."""
        row = self.row(one)
        return row["state"], row["reason"]

    def deliveries(self, one: Instance) -> list[tuple[str, str, str]]:
        """Kind, state and reason of what is to be sent, the latest generation last."""
        return [(row["kind"], row["state"], row["reason"]) for row in self.row(one)["deliveries"]]

    def results(self) -> list[str]:
        """Names of the files in outgoing."""
        return sorted(path.name for path in (self.spool.root / "outgoing").iterdir())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk with SR and SC for one inside peer."""
    made = Desk(tmp_path)
    yield made
    made.queue.close()


@pytest.fixture
def lines() -> Callable[[], list[dict[str, Any]]]:
    """What the log has written."""
    stream = StringIO()
    log.configure(LogSettings(format="json"), "work", b"k" * 32, stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def variant(*, header_only: bool = False, pixel: int = 0, uid: str = "") -> bytes:
    """The marked image again: another header over the same pixels, or one pixel changed."""
    ds = pydicom.dcmread(BytesIO(marked_dx()))
    if header_only:
        ds.SeriesNumber = 99
    if pixel:
        ds.PixelData = pixel.to_bytes(2, "little") + ds.PixelData[2:]
    if uid:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def fresh(number: int) -> bytes:
    """An image of a SOP Instance UID of its own."""
    return variant(uid=f"1.2.3.{number}")


def test_what_the_pipeline_calls_urgent_is_claimed_first(desk: Desk) -> None:
    """The deliveries of an abnormal finding pass those of an instance that came before it."""
    first = desk.receive(fresh(1))
    desk.worker.step()
    desk.change(route=lambda *_: dataclasses.replace(fakes.route(("sr",)), urgent="abnormal"))
    second = desk.receive(fresh(2))
    desk.worker.step()
    claimed = desk.queue.claim_deliveries("pacs", desk.owner, 9, datetime.now(UTC))
    assert [(one.instance_id, one.urgent) for one in claimed] == [
        (second.instance_id, True), (first.instance_id, False), (first.instance_id, False),
    ]


# -- Body Part Examined
SAID = dataclasses.replace(
    fakes.route(("sr",)), picture="pediatric_chest", tag="spine", agreement="disagrees", doubt="", device="dev-0123456789ab",
)


def counts(desk: Desk) -> list[tuple[object, object, object]]:
    """Picture, tag and how often."""
    rows = desk.queue.tags(date(2000, 1, 1), date(2100, 1, 1))
    return [(row["picture"], row["tag"], row["count"]) for row in rows]


def test_a_disagreement_is_told_and_counted_once(desk: Desk, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """With body part, tag, probability and device, and not again when the instance is reworked or comes again."""
    desk.use(fakes.kit(SAID))
    one = desk.receive(fresh(1))
    desk.worker.step()
    (delivery,) = desk.queue.claim_deliveries("pacs", desk.owner, 9, datetime.now(UTC))
    desk.queue.settle(delivery, desk.owner, Verdict("delivered", status=0), datetime.now(UTC))
    assert desk.queue.retry(one.instance_id, datetime.now(UTC)) == 1
    desk.worker.step()
    (told,) = [line for line in lines() if line["event"] == "tag_disagrees"]
    assert (told["body_part"], told["tag"], told["device"], told["instance_id"]) == (
        "pediatric_chest", "spine", SAID.device, one.instance_id,
    )
    assert told["probability"] == round(max(SAID.probabilities.values()), 3)
    assert counts(desk) == [("pediatric_chest", "spine", 1)]
    assert desk.row(one)["tag"] == "spine"


@pytest.mark.parametrize("agreement", ["agrees", "absent", "not_comparable", ""])
def test_what_does_not_disagree_is_not_told(desk: Desk, lines: Callable[[], list[dict[str, Any]]], agreement: Any) -> None:
    """It is counted, where the picture was certain."""
    desk.use(fakes.kit(dataclasses.replace(SAID, agreement=agreement)))
    desk.receive(fresh(1))
    desk.worker.step()
    assert [line for line in lines() if line["event"] == "tag_disagrees"] == []
    assert len(counts(desk)) == bool(agreement)


def test_the_reason_of_doubt_is_in_row_and_log(desk: Desk, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """And what the rule holds can be released, which a retry does not do."""
    doubt = dataclasses.replace(
        fakes.route(("sr",)), body_part="uncertain", doubt="constant", handling="hold", hold="body_part_uncertain",
    )
    desk.use(fakes.kit(doubt))
    one = desk.receive(fresh(1))
    desk.worker.step()
    assert (desk.row(one)["doubt"], desk.row(one)["body_part"]) == ("constant", "uncertain")
    assert next(line for line in lines() if line["event"] == "instance_done")["doubt"] == "constant"
    assert desk.deliveries(one) == [("sr", "hold", "body_part_uncertain")]
    desk.queue.retry(one.instance_id, datetime.now(UTC))
    desk.worker.step()
    assert desk.deliveries(one) == [("sr", "hold", "body_part_uncertain")]
    desk.queue.release(one.instance_id, datetime.now(UTC))
    desk.worker.step()
    assert desk.deliveries(one) == [("sr", "ready", "")]


_DIES = """
import os, signal, sys
from pathlib import Path
from dicomnode.queue import tags, work
from tests.unit import fakes
from tests.unit.test_worker import SAID, Desk
from tests.unit.spooled import configured
when, root = sys.argv[1:]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
desk = Desk(Path(root))
desk.use(fakes.kit(SAID))
if when == "before":
    work.count = die
elif when == "within":
    def count(*given):
        tags.count(*given)
        die()
    work.count = count
elif when == "after":
    finish = desk.queue.finish
    def finished(*given, **more):
        finish(*given, **more)
        die()
    desk.queue.finish = finished
desk.worker.step()
"""


@pytest.mark.parametrize(("when", "first"), [("before", 0), ("within", 0), ("after", 1)])
def test_a_worker_that_is_killed_counts_once(tmp_path: Path, when: str, first: int) -> None:
    """Killed before the count, between count and commit, or after the commit: the next worker makes it one."""
    desk = Desk(tmp_path)
    one = desk.receive(fresh(1))
    done = subprocess.run([sys.executable, "-c", _DIES, when, str(tmp_path)], check=False, timeout=120)
    assert done.returncode == -9
    assert sum(int(str(row[2])) for row in counts(desk)) == first
    desk.queue.reclaim(lambda owner: owner == desk.owner)
    desk.use(fakes.kit(SAID))
    desk.worker.step()
    assert counts(desk) == [("pediatric_chest", "spine", 1)]
    assert desk.state(one)[0] == "done"
    desk.queue.close()


# -- the good way
def test_a_claim_ends_done_with_its_deliveries(desk: Desk, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """SR and SC stand in outgoing under their UIDs, their deliveries are ready, and one line tells of it."""
    one = desk.receive(marked_dx())
    assert desk.worker.step() is True
    row = desk.row(one)
    assert (row["state"], row["attempt"], row["rule"]) == ("done", 1, "chest")
    assert (row["body_part"], row["finding"], row["abnormal"]) == ("pediatric_chest", "pneumonia", True)
    assert desk.deliveries(one) == [("sr", "ready", ""), ("sc", "ready", "")]
    assert desk.results() == sorted(f"{each['sop_instance_uid']}.dcm" for each in row["deliveries"])
    assert len(row["pixel_digest"]) == 64
    done = [line for line in lines() if line["event"] == "instance_done"]
    assert [(line["instance_id"], line["outputs"], line["held"]) for line in done] == [(one.instance_id, 2, 0)]
    assert [line["event"] for line in lines()].count("finding_abnormal") == 1
    assert desk.worker.step() is False


def test_files_stand_before_the_claim_ends(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that says done must never name a file that a crash could keep from being written."""
    seen: list[list[bool]] = []
    finish = desk.queue.finish

    def watched(claim: Claim, owner: Owner, summary: Any, outputs: Any, *rest: Any) -> None:
        seen.append([desk.spool.path(output.location).stat().st_size > 1000 for output in outputs])
        finish(claim, owner, summary, outputs, *rest)

    monkeypatch.setattr(desk.queue, "finish", watched)
    desk.receive(marked_dx())
    desk.worker.step()
    assert seen == [[True, True]]


def test_work_that_died_before_its_end_is_repeated_into_the_same_files(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed worker left in outgoing is overwritten with the same bytes, and nothing stands there twice."""
    one = desk.receive(marked_dx())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(desk.queue, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            desk.worker.step()
    left = {name: (desk.spool.root / "outgoing" / name).read_bytes() for name in desk.results()}
    assert len(left) == 2
    assert len(desk.queue.reclaim(lambda _owner: False)) == 1
    assert desk.worker.step()
    assert desk.state(one)[0] == "done"
    assert {name: (desk.spool.root / "outgoing" / name).read_bytes() for name in desk.results()} == left


def test_an_idle_queue_gives_no_work(desk: Desk) -> None:
    """Without work the step says so, and the process may sleep."""
    assert desk.worker.step() is False


# -- what fails
def test_a_full_disk_defers_with_a_growing_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room is nobody's fault: the instance waits 10 s, 20 s, 40 s and at most 60 s, with a fifth of jitter."""

    def full(*_: object) -> str:
        raise SpoolFull("no room")

    monkeypatch.setattr(desk.spool, "put", full)
    one = desk.receive(marked_dx())
    waits = []
    for attempt in range(1, 6):
        before = datetime.now(UTC)
        assert desk.worker.step()
        row = desk.row(one)
        assert (row["state"], row["reason"], row["attempt"]) == ("deferred", "spool_full", attempt)
        waits.append((datetime.fromisoformat(row["due_at"]) - before).total_seconds())
        assert desk.worker.step() is False, "it is not due yet"
        with desk.queue._transaction() as connection:
            connection.execute("UPDATE instances SET due_at = '2000'")
    for wait, middle in zip(waits, (10, 20, 40, 60, 60), strict=True):
        assert middle * 0.8 <= wait <= middle * 1.2 + 1
    monkeypatch.undo()
    desk.worker.step()
    assert desk.state(one) == ("done", "")


def test_a_thousand_tries_do_not_count_too_far(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest wait stays the longest wait."""
    monkeypatch.setattr(desk.spool, "put", fakes.raising(SpoolFull("no room")))
    one = desk.receive(marked_dx())
    with desk.queue._transaction() as connection:
        connection.execute("UPDATE instances SET attempt = 5000")
    desk.worker.step()
    row = desk.row(one)
    assert (row["state"], row["reason"], desk.worker.defects) == ("deferred", "spool_full", 0)
    assert datetime.fromisoformat(row["due_at"]) < datetime.now(UTC) + timedelta(seconds=73)


def test_a_folder_that_is_closed_to_us_defers(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[dict[str, Any]]],
) -> None:
    """Wrong permissions are the administrator's to mend, and no fault of the images that come meanwhile."""

    def closed(path: Any, *_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def shut(*_: object) -> Any:
        monkeypatch.setattr("os.open", closed)
        return FINDINGS

    one = desk.receive(marked_dx())
    desk.change(infer=shut)
    desk.worker.step()
    monkeypatch.undo()
    assert desk.state(one) == ("deferred", "store_failed")
    assert desk.worker.defects == 0
    told = [(line["reason"], line["actor"]) for line in lines() if line["event"] == "instance_deferred"]
    assert told == [("store_failed", "administrator")]


def test_a_source_that_cannot_be_read_defers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at its opening nor within: a disk that fails is no damage of the image."""
    real = desk.spool.open

    def broken(location: str) -> Any:
        stream = real(location)
        spoil(stream)
        return stream

    one = desk.receive(marked_dx())
    with monkeypatch.context() as patch:
        patch.setattr(desk.spool, "open", broken)
        desk.worker.step()
    assert desk.state(one) == ("deferred", "store_failed")
    assert desk.worker.defects == 0


def test_a_permanent_error_quarantines_with_its_code(desk: Desk, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Damage further in than the door looks is set aside in sight, and says who acts."""
    data = marked_dx()
    broken = desk.receive(data)
    path = desk.spool.path(broken.location)
    path.write_bytes(path.read_bytes()[:-12290])
    sound = desk.receive(fresh(2))
    desk.worker.step()
    desk.worker.step()
    assert desk.state(broken) == ("quarantine", "undecodable")
    assert desk.state(sound) == ("done", "")
    told = [(line["reason"], line["actor"]) for line in lines() if line["event"] == "instance_quarantined"]
    assert told == [("undecodable", "reviewer")]
    assert desk.deliveries(broken) == []


def test_a_missing_file_quarantines(desk: Desk) -> None:
    """A row whose file is gone must not be tried for ever."""
    one = desk.receive(marked_dx())
    desk.spool.path(one.location).unlink()
    desk.worker.step()
    assert desk.state(one) == ("quarantine", "file_missing")


def test_a_failing_stage_quarantines_without_its_text(desk: Desk, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """The row and the log say which stage failed and never what it said."""
    desk.change(route=fakes.raising(ValueError(fakes.MARK)))
    one = desk.receive(marked_dx())
    desk.worker.step()
    assert desk.state(one) == ("quarantine", "stage_failed")
    assert [line["stage"] for line in lines() if line["event"] == "defect"] == ["route"]
    assert "Zzmarker" not in json.dumps(lines()) + json.dumps(desk.row(one), default=str)
    assert desk.worker.defects == 1


def test_a_defect_quarantines_and_counts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error outside the tree sets this instance aside, is counted, and sound work forgets the count."""

    def broken(*_: object) -> str:
        raise ZeroDivisionError(fakes.MARK)

    with monkeypatch.context() as patch:
        patch.setattr(desk.worker, "_put", broken)
        ones = [desk.receive(fresh(number)) for number in range(3)]
        for count in (1, 2, 3):
            assert desk.worker.step()
            assert desk.worker.defects == count
    assert {desk.state(one) for one in ones} == {("quarantine", "stage_failed")}
    sound = desk.receive(fresh(9))
    desk.worker.step()
    assert desk.state(sound)[0] == "done"
    assert desk.worker.defects == 0


@pytest.mark.parametrize("error", [StageFailed("x"), KeyError(fakes.MARK)], ids=["foreseen", "not foreseen"])
def test_an_output_that_cannot_be_written_is_held_alone(desk: Desk, error: Exception) -> None:
    """What fails while an output is written holds that output; the report leaves, and the defect is counted."""

    def late(material: Any) -> Any:
        return dataclasses.replace(OUTPUTS["sc"](material), write=fakes.raising(error))

    desk.change(outputs={**OUTPUTS, "sc": late})
    one = desk.receive(marked_dx())
    desk.worker.step()
    assert desk.state(one)[0] == "done"
    assert desk.deliveries(one) == [("sr", "ready", ""), ("sc", "hold", "stage_failed")]
    assert desk.worker.defects == 1
    assert len(desk.results()) == 1
    assert list((desk.spool.root / "tmp").iterdir()) == []


def test_a_redacted_image_has_a_certificate_in_the_queue(tmp_path: Path) -> None:
    """It was made of the file that was written, bears the seal of the node, and proves it."""
    desk = Desk(tmp_path, "deidentified")
    one = desk.receive(marked_dx())
    assert desk.worker.step()
    row = desk.row(one)
    (certificate,) = row["certificates"]
    (delivery,) = row["deliveries"]
    assert certificate["sop_instance_uid"] == delivery["sop_instance_uid"]
    assert certificate["source"]["pixels"] == row["pixel_digest"]
    with desk.spool.open(one.location) as source, desk.spool.open(delivery["location"]) as made:
        assert prove(Image.open(source), Image.open(made), certificate, key=desk.kit.node.key) == []
    desk.queue.close()


def test_a_redacted_image_that_differs_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel that was changed on the way into the file keeps the image from leaving."""
    desk = Desk(tmp_path, "deidentified")
    put = desk.spool.put

    def spoiled(name: str, write: Callable[[Any], None]) -> str:
        out = BytesIO()
        write(out)
        return put(name, lambda stream: stream.write(out.getvalue()[:-1] + bytes([out.getvalue()[-1] ^ 1])))

    monkeypatch.setattr(desk.spool, "put", spoiled)
    one = desk.receive(marked_dx())
    assert desk.worker.step()
    assert desk.deliveries(one) == [("deidentified", "hold", "stage_failed")]
    assert desk.row(one)["certificates"] == []
    desk.queue.close()


def test_a_held_output_is_told(desk: Desk, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """A person must learn that an output waits for him."""
    desk.change(redact=fakes.raising(RedactionUncertain("x")))
    one = desk.receive(marked_dx())
    desk.worker.step()
    assert desk.deliveries(one) == [("sr", "ready", ""), ("sc", "hold", "redaction_uncertain")]
    told = [(line["kind"], line["reason"], line["level"]) for line in lines() if line["event"] == "output_held"]
    assert told == [("sc", "redaction_uncertain", "error")]


def test_an_output_that_is_given_up_by_rule_is_told(desk: Desk, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """What a document cannot become is in sight: a row, and a line that alarms nobody."""
    desk.change(route=lambda *_: fakes.route(("deidentified", "original")), documents="drop")
    one = desk.receive(pydicom_file("rtplan.dcm"))
    desk.worker.step()
    assert desk.deliveries(one) == [("original", "ready", ""), ("deidentified", "dropped", "no_picture")]
    told = [(line["kind"], line["reason"], line["level"]) for line in lines() if line["event"] == "output_dropped"]
    assert told == [("deidentified", "no_picture", "warning")]
    assert not [line for line in lines() if line["event"] == "output_held"]


def test_an_instance_over_its_deadline_ends_the_process(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else stops a stage that hangs inside a library; the exit code is that of a defect."""
    codes: list[int] = []
    ended = threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr("dicomnode.deadline.os._exit", leave)
    desk.settings = desk.settings.model_copy(update={"work": WorkSettings(deadline_s=0.05)})
    desk.use(fakes.kit(fakes.route(("sr",)), infer=lambda *_: ended.wait(10) and FINDINGS))
    desk.receive(marked_dx())
    desk.worker.step()
    assert codes == [EXIT_DEFECT]


def test_a_long_instance_is_not_a_stuck_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline runs from the last step: ten steps, each within it, take longer than it and end well."""
    monkeypatch.setattr("dicomnode.deadline.os._exit", fakes.raising(fakes.Unwanted))
    desk.settings = desk.settings.model_copy(update={"work": WorkSettings(deadline_s=2)})

    def slowly(image: Image, _frames: object) -> Redacted:
        for number in range(image.frames):
            time.sleep(0.3)
            image.frame(number)
        return fakes.redacted(image)

    desk.use(fakes.kit(fakes.route(("sr", "sc")), redact=slowly))
    one = desk.receive(marked_dx(frames=10))
    desk.worker.step()
    assert desk.state(one) == ("done", "")


_STUCK = """
import ctypes
from dicomnode import deadline
secret = "Zzmarker^Quentin"
deadline.NATIVE_GRACE_S = 0.5
with deadline.deadline("20260301T120000000000-00000001", 0.1):
    ctypes.PyDLL(None).sleep(60)
"""


def test_native_code_that_lets_nothing_run_is_ended_too() -> None:
    """A codec that hangs with the interpreter in its hands leaves our own watchdog no turn; stderr says where it was."""
    ended = subprocess.run([sys.executable, "-c", _STUCK], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode not in (0, EXIT_DEFECT)
    assert 'File "<string>"' in ended.stderr
    assert "Zzmarker" not in ended.stderr


def test_the_deadline_ends_with_the_instance(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that outlived its instance would kill the worker in the middle of another one."""
    monkeypatch.setattr("dicomnode.deadline.os._exit", fakes.raising(fakes.Unwanted))
    ended: list[bool] = []
    monkeypatch.setattr("dicomnode.deadline.faulthandler.cancel_dump_traceback_later", lambda: ended.append(True))
    monkeypatch.setattr("dicomnode.deadline.faulthandler.dump_traceback_later", lambda *_, **__: ended.append(False))
    before = threading.active_count()
    for number in range(3):
        desk.receive(fresh(number))
        desk.worker.step()
    assert threading.active_count() == before
    # Armed at least once for each instance, and nothing is armed behind its end.
    assert ended.count(True) == 3
    assert (ended[0], ended[-1]) == (False, True)


# -- the same SOP Instance UID again
def test_other_header_same_pixels_is_a_duplicate(desk: Desk, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Sameness is UID and pixels: what was worked under another header is not worked again, and the row says why."""
    desk.receive(marked_dx())
    again = desk.receive(variant(header_only=True))
    desk.worker.step()
    desk.worker.step()
    assert desk.state(again) == ("duplicate", "header_differs")
    assert len(desk.results()) == 2
    assert [line["reason"] for line in lines() if line["event"] == "instance_duplicate"] == ["header_differs"]


def test_another_header_is_passed_on_where_originals_are(tmp_path: Path, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """A corrected name reaches the archive; report and picture, which come of the pixels, are not made again."""
    desk = Desk(tmp_path, "sr", "sc", "original")
    desk.change(redact=fakes.redacted)
    first = desk.receive(marked_dx())
    desk.worker.step()
    desk.change(redact=fakes.raising(fakes.Unwanted))
    corrected = desk.receive(variant(header_only=True))
    desk.worker.step()
    assert desk.state(corrected) == ("done", "header_differs")
    assert desk.deliveries(corrected) == [("original", "ready", "")]
    ds = pydicom.dcmread(desk.spool.path(desk.row(corrected)["deliveries"][0]["location"]))
    assert ds.SeriesNumber == 99
    assert len(desk.deliveries(first)) == 3
    told = [line["event"] for line in lines() if line["event"] in {"finding_abnormal", "instance_duplicate"}]
    assert told == ["finding_abnormal"], "of the same pixels it is no news"
    assert [line.get("reason") for line in lines() if line["event"] == "instance_done"] == [None, "header_differs"]
    assert len(desk.queue.untold(9)) == 1
    again = desk.receive(variant(header_only=True))
    assert desk.state(again) == ("duplicate", "")
    desk.queue.close()


def test_a_header_that_a_person_retries_has_everything_made_of_it(tmp_path: Path) -> None:
    """Whoever wants the reports to say the corrected name too says so by a retry of what was passed on."""
    desk = Desk(tmp_path, "sr", "original")
    desk.receive(marked_dx())
    corrected = desk.receive(variant(header_only=True))
    desk.worker.step()
    desk.worker.step()
    sent(desk, "pacs")
    assert desk.queue.retry(corrected.instance_id, datetime.now(UTC)) == 1
    desk.worker.step()
    assert desk.state(corrected) == ("done", "")
    assert [kind for kind, state, _ in desk.deliveries(corrected) if state == "ready"] == ["sr", "original"]
    desk.queue.close()


def sent(desk: Desk, destination: str) -> None:
    """Deliver all that waits."""
    now = datetime.now(UTC)
    for delivery in desk.queue.claim_deliveries(destination, desk.owner, 99, now):
        desk.queue.settle(delivery, desk.owner, Verdict("delivered", status=0), now)


def test_other_pixels_wait_for_a_person_who_can_release_them(desk: Desk) -> None:
    """Both are kept; after the release the second one is worked like any other, pixels redacted."""
    desk.receive(marked_dx())
    other = desk.receive(variant(pixel=4000))
    desk.worker.step()
    desk.worker.step()
    assert desk.state(other) == ("hold", "pixels_differ")
    assert desk.spool.path(other.location).exists()
    desk.change(waive=fakes.raising(fakes.Unwanted))
    assert desk.queue.release(other.instance_id, datetime.now(UTC)) == 1
    desk.worker.step()
    assert desk.state(other)[0] == "done"
    assert desk.deliveries(other) == [("sr", "ready", ""), ("sc", "ready", "")]


def test_a_retry_does_not_accept_other_pixels(desk: Desk) -> None:
    """Only a release says that a person has looked."""
    desk.receive(marked_dx())
    other = desk.receive(variant(pixel=4000))
    desk.worker.step()
    desk.worker.step()
    desk.queue.retry(other.instance_id, datetime.now(UTC))
    desk.worker.step()
    assert desk.state(other) == ("hold", "pixels_differ")


def test_the_same_pixels_as_one_on_hold_are_held_too(desk: Desk) -> None:
    """A resend of what waits for a person under another header must not pass as a duplicate of worked pixels."""
    desk.receive(marked_dx())
    held = desk.receive(variant(pixel=4000))
    resent = desk.receive(variant(pixel=4000, header_only=True))
    for _ in range(3):
        desk.worker.step()
    assert desk.state(held) == desk.state(resent) == ("hold", "pixels_differ")


def test_a_sound_copy_after_a_broken_one_is_worked(desk: Desk) -> None:
    """What was quarantined made nothing, so the copy that follows it is the first."""
    broken = desk.receive(marked_dx())
    path = desk.spool.path(broken.location)
    path.write_bytes(path.read_bytes()[:-12290])
    sound = desk.receive(variant(header_only=True))
    desk.worker.step()
    desk.worker.step()
    assert desk.state(broken)[0] == "quarantine"
    assert desk.state(sound)[0] == "done"


def test_a_sound_copy_after_a_dropped_one_is_worked(desk: Desk) -> None:
    """Dropping gives up one row, not the SOP Instance UID."""
    given_up = desk.receive(marked_dx())
    desk.queue.drop(given_up.instance_id, datetime.now(UTC))
    sound = desk.receive(variant(header_only=True))
    desk.worker.step()
    assert desk.state(sound)[0] == "done"


def test_objects_without_pixels_are_never_taken_for_the_same(desk: Desk) -> None:
    """Two reports of one UID and other bytes: no digest says that they are the same, so a person does."""
    plan = pydicom_file("rtplan.dcm")
    ds = pydicom.dcmread(BytesIO(plan))
    ds.RTPlanLabel = "OTHER"
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    one, two = desk.receive(plan), desk.receive(out.getvalue())
    desk.worker.step()
    desk.worker.step()
    assert desk.state(one)[0] == "done"
    assert desk.state(two) == ("hold", "content_differs")
    desk.queue.release(two.instance_id, datetime.now(UTC))
    desk.worker.step()
    assert desk.state(two)[0] == "done"


def test_one_that_comes_while_the_first_waits_is_deferred_for_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as an earlier one is not ended nothing can be said of the later one; it is asked again soon."""
    desk.receive(marked_dx())
    desk.worker.step()
    second = desk.receive(variant(header_only=True))
    siblings = desk.queue.siblings  # `claim` passes over such a row; it may come between claim and question all the same

    def earlier(one: Instance) -> Any:
        return tuple(dataclasses.replace(sibling, state="waiting") for sibling in siblings(one))

    monkeypatch.setattr(desk.queue, "siblings", earlier)
    before = datetime.now(UTC)
    desk.worker.step()
    row = desk.row(second)
    assert (row["state"], row["reason"]) == ("deferred", "sibling_active")
    assert datetime.fromisoformat(row["due_at"]) - before < timedelta(seconds=worker.SIBLING_S + 1)


# -- the queue fails
def unavailable(*_: object, **__: object) -> Any:
    """A queue that cannot be asked."""
    raise QueueUnavailable("locked")


def test_a_claim_that_the_queue_failed_to_end_is_let_go_and_worked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes rows from the living: the next step gives the row back, uncounted, and works it."""
    one = desk.receive(marked_dx())
    with monkeypatch.context() as patch:
        for name in ("finish", "defer", "quarantine"):
            patch.setattr(desk.queue, name, unavailable)
        assert desk.worker.step()
    assert desk.state(one)[0] == "active"
    assert desk.worker.step()
    row = desk.row(one)
    assert (row["state"], row["attempt"], row["deaths"]) == ("done", 1, 0)
    assert len(row["deliveries"]) == 2


def test_a_defect_that_the_queue_cannot_note_is_let_go_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quarantine that fails must not leave the row with a process that forgot it."""
    one = desk.receive(marked_dx())
    with monkeypatch.context() as patch:
        patch.setattr(desk.worker, "_put", fakes.raising(ZeroDivisionError()))
        patch.setattr(desk.queue, "quarantine", unavailable)
        desk.worker.step()
    assert desk.state(one)[0] == "active"
    desk.worker.step()
    assert desk.state(one)[0] == "done"


def test_an_unreachable_queue_is_told_once_and_asked_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[dict[str, Any]]],
) -> None:
    """A queue that is locked ends no worker."""
    one = desk.receive(marked_dx())
    with monkeypatch.context() as patch:
        patch.setattr(desk.queue, "claim", unavailable)
        assert desk.worker.step() is False
        assert desk.worker.step() is False
    assert [line["reason"] for line in lines() if line["event"] == "store_failed"] == ["queue_unavailable"]
    desk.worker.step()
    assert desk.state(one)[0] == "done"
    monkeypatch.setattr(desk.queue, "claim", unavailable)
    assert desk.worker.step() is False
    assert [line["reason"] for line in lines() if line["event"] == "store_failed"] == ["queue_unavailable"] * 2


def test_a_finish_that_fails_once_defers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is not lost: it is due again after the first wait."""
    one = desk.receive(marked_dx())
    monkeypatch.setattr(desk.queue, "finish", unavailable)
    desk.worker.step()
    assert desk.state(one) == ("deferred", "queue_unavailable")


def test_a_lost_claim_drops_the_result(desk: Desk, lines: Callable[[], list[dict[str, Any]]]) -> None:
    """When another process has the row now, this one makes no deliveries and changes nothing."""
    one = desk.receive(marked_dx())
    thief = Owner("boot", 1, 1)

    def steal(*_: object) -> Any:
        desk.queue.reclaim(lambda _owner: False)
        assert desk.queue.claim(thief, datetime.now(UTC)) is not None
        return FINDINGS

    desk.change(infer=steal)
    desk.worker.step()
    row = desk.row(one)
    assert (row["state"], row["attempt"], row["deliveries"]) == ("active", 2, [])
    assert desk.worker.defects == 0
    assert [line["reason"] for line in lines() if line["event"] == "instance_deferred"] == ["lease_lost"]


# -- names and generations
def test_originals_are_named_by_instance(tmp_path: Path) -> None:
    """Two originals of one UID and other pixels, both released, must not overwrite each other."""
    desk = Desk(tmp_path, "original")
    first, second = desk.receive(marked_dx()), desk.receive(variant(pixel=4000))
    desk.worker.step()
    desk.worker.step()
    desk.queue.release(second.instance_id, datetime.now(UTC))
    desk.worker.step()
    uid = first.sop_instance_uid
    assert desk.results() == sorted(f"{uid}-{one.instance_id}.dcm" for one in (first, second))
    for one in (first, second):
        name = f"{uid}-{one.instance_id}.dcm"
        assert (desk.spool.root / "outgoing" / name).read_bytes() == desk.spool.path(one.location).read_bytes()
        assert desk.deliveries(one) == [("original", "ready", "")]
    desk.queue.close()


def test_a_release_reworks_with_the_next_generation(desk: Desk) -> None:
    """The held picture alone is made, without redaction; what has left stays what it was."""
    desk.change(redact=fakes.raising(RedactionUncertain("x")))
    one = desk.receive(marked_dx())
    desk.worker.step()
    (old, held) = desk.row(one)["deliveries"]
    assert (old["kind"], held["state"]) == ("sr", "hold")
    desk.queue.release(one.instance_id, datetime.now(UTC))
    assert desk.worker.step()
    row = desk.row(one)
    assert (row["state"], row["generation"]) == ("done", 1)
    made = [(each["kind"], each["generation"], each["state"]) for each in row["deliveries"]]
    assert made == [("sr", 0, "ready"), ("sc", 1, "ready")]
    assert (row["finding"], row["abnormal"]) == ("pneumonia", True)


def test_a_rework_on_purpose_names_what_it_replaces(desk: Desk) -> None:
    """A retry of what was delivered makes everything anew, and the new report names the one before it."""
    one = desk.receive(marked_dx())
    desk.worker.step()
    sent(desk, "pacs")
    (old, _) = desk.row(one)["deliveries"]
    assert desk.queue.retry(one.instance_id, datetime.now(UTC)) == 1
    assert desk.worker.step()
    made = {each["kind"]: each for each in desk.row(one)["deliveries"] if each["generation"] == 1}
    assert set(made) == {"sr", "sc"}
    assert made["sr"]["sop_instance_uid"] != old["sop_instance_uid"]
    ds = pydicom.dcmread(desk.spool.path(made["sr"]["location"]))
    (series,) = ds.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old["sop_instance_uid"]


def test_a_rework_of_an_outside_report_names_no_inside_one(tmp_path: Path) -> None:
    """A UID of the other side would lead from the nameless report to the patient's."""
    desk = Desk(tmp_path)
    desk.use(fakes.kit(fakes.route(("sr",), ("pacs", "partner"))))
    one = desk.receive(marked_dx())
    desk.worker.step()
    old = {each["destination"]: each["sop_instance_uid"] for each in desk.row(one)["deliveries"]}
    sent(desk, "pacs")
    sent(desk, "partner")
    desk.queue.retry(one.instance_id, datetime.now(UTC))
    desk.worker.step()
    new = {each["destination"]: each["location"] for each in desk.row(one)["deliveries"] if each["generation"] == 1}
    for name, other in (("pacs", "partner"), ("partner", "pacs")):
        data = desk.spool.path(new[name]).read_bytes()
        assert old[name].encode() in data
        assert old[other].encode() not in data
    desk.queue.close()


def test_an_original_of_a_malformed_uid_is_passed_on(tmp_path: Path) -> None:
    """A leading zero was taken at the door: it does no harm here either."""
    desk = Desk(tmp_path, "original")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = desk.receive(variant(uid="1.2.840.0012.5"))
    desk.worker.step()
    assert desk.deliveries(one) == [("original", "ready", "")]
    assert desk.worker.defects == 0
    desk.queue.close()


def test_a_retry_reworks_and_redacts_again(desk: Desk) -> None:
    """Only a release waives redaction: the next generation of a retry is judged like the first."""
    desk.change(redact=fakes.raising(RedactionUncertain("x")), waive=fakes.raising(fakes.Unwanted))
    one = desk.receive(marked_dx())
    desk.worker.step()
    desk.queue.retry(one.instance_id, datetime.now(UTC))
    assert desk.worker.step()
    assert desk.row(one)["generation"] == 1
    assert ("sc", "hold", "redaction_uncertain") in desk.deliveries(one)


# -- the process
@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Kit], tuple[Desk, threading.Event]]]:
    """Give `run_worker` a kit of ours."""

    def prepare(kit: Kit) -> tuple[Desk, threading.Event]:
        desk = Desk(tmp_path)
        monkeypatch.setattr("dicomnode.worker.build_kit", lambda *_, **__: kit)
        return desk, stop

    stop = threading.Event()
    rescue = threading.Timer(60, stop.set)  # a worker that does not end by itself fails its test, not the run
    rescue.start()
    yield prepare
    rescue.cancel()


def test_too_many_defects_in_a_row_end_the_process(
    process: Callable[[Kit], tuple[Desk, threading.Event]], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After 13 the process itself is suspect: it ends with 70, and the rest of the queue is left for a fresh one."""
    desk, stop = process(fakes.kit(fakes.route(("sr",))))
    ones = [desk.receive(fresh(number)) for number in range(MAX_DEFECTS + 2)]
    monkeypatch.setattr(Worker, "_put", fakes.raising(ZeroDivisionError()))
    assert run_worker(desk.settings, stop) == EXIT_DEFECT == 70
    assert [desk.state(one)[0] for one in ones] == ["quarantine"] * 13 + ["waiting"] * 2
    desk.queue.close()


def test_a_worker_that_is_told_to_stop_ends_what_it_has_in_hand(process: Callable[[Kit], tuple[Desk, threading.Event]]) -> None:
    """Draining finishes the claimed instance, takes no other and ends with 0."""

    def last(*_: object) -> Any:
        stop.set()
        return FINDINGS

    desk, stop = process(fakes.kit(fakes.route(("sr",)), infer=last))
    one, two = desk.receive(fresh(1)), desk.receive(fresh(2))
    assert run_worker(desk.settings, stop) == 0
    assert (desk.state(one)[0], desk.state(two)[0]) == ("done", "waiting")
    desk.queue.close()


def test_redaction_is_built_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rectangles by device reach it, and in header mode a judge: the worker's way to its socket. Strict mode has none."""
    place = Place(manufacturer="A", model="B", rows=9, columns=9, rectangles=(Rectangle(x=0, y=0, w=9, h=9),))
    judge = JudgeSettings(url="http://127.0.0.1/v1", model="tiny")
    built: list[dict[str, Any]] = []

    def redact(**arguments: Any) -> None:
        built.append(arguments)
        raise BadSetting("no more is built")

    monkeypatch.setattr("dicomnode.kitting.load_models", lambda *_: {})
    monkeypatch.setattr("dicomnode.kitting.Redact", redact)
    base = configured(tmp_path)
    for mode in ("header", "strict"):
        settings = base.model_copy(
            update={"work": WorkSettings(redaction=mode, models_dir=tmp_path), "judge": judge, "places": (place,)},
        )
        with pytest.raises(BadSetting):
            run_worker(settings, threading.Event())
    header, strict = built
    assert (header["mode"], header["appeal"].name, header["places"].digest) == ("header", "tiny", Places([place]).digest)
    assert (strict["mode"], strict["appeal"], strict["places"].digest) == ("strict", None, Places([place]).digest)
    assert header["models"] == tmp_path


def test_results_by_other_means_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another network, reader, allow-list or mode makes another digest of the kit, from which UIDs of results are derived."""
    model = SimpleNamespace(card=SimpleNamespace(reference="r@1", model_dump_json=str, maps=()))
    monkeypatch.setattr("dicomnode.kitting.load_models", lambda *_: {settings.routes.router: model})
    monkeypatch.setattr("dicomnode.kitting.build_router", lambda *_: None)
    settings = configured(tmp_path)
    base = Means("strict", "text-gate@1 text-detector@1", "tesseract 5 text-reader@1", "ab" * 32)
    others = (
        {"detector": "text-gate@1 text-detector@2"}, {"reader": "tesseract 6"}, {"allow_list": "cd" * 32}, {"mode": "header"},
        {"places": "ef" * 32}, {"judge": "tiny"},
    )
    digests = []
    for means in (base, base, *(dataclasses.replace(base, **other) for other in others)):
        monkeypatch.setattr("dicomnode.kitting.Redact", lambda means=means, **_: SimpleNamespace(means=means, waive=None))
        digests.append(build_kit(settings, "n", b"k" * 32).digest)
    assert digests[0] == digests[1]
    assert len({*digests}) == 1 + len(others)


def test_a_kit_that_cannot_be_built_ends_the_start(tmp_path: Path) -> None:
    """A stage that is missing is never left out: the worker refuses to start."""
    empty = tmp_path / "models"
    empty.mkdir()
    settings = configured(tmp_path).model_copy(update={"work": WorkSettings(models_dir=empty)})
    with pytest.raises(ConfigError):
        build_kit(settings, "n", b"k" * 32)
    with pytest.raises(ConfigError):
        run_worker(settings, threading.Event())

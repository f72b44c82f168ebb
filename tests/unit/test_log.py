"""The log: what passes the gate, what does not, and that it never raises in service."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from dicomnode import log
from dicomnode.errors import BadSetting, Refused, StageFailed
from dicomnode.events import EVENTS, KEYS
from dicomnode.settings import LogSettings

NAME = "MUELLER^HANS"
UID = "1.2.826.0.1.3680043.8.498.1"
Lines = Callable[[], list[dict[str, object]]]


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Lines:
    """Configure the log as JSON in service and give a function that reads what was written."""
    settings = LogSettings.model_validate(getattr(request, "param", {}))
    stream = io.StringIO()
    log.strict(on=False)
    log.configure(settings, "test", b"key", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_has_head_and_catalogue_order(lines: Lines) -> None:
    """A line starts with time, level, event, process and pid, and its keys come in the order of the catalogue."""
    log.get_logger("accept").info("instance_committed", size_bytes=7, instance_id="i")
    (line,) = lines()
    assert list(line) == ["timestamp", "level", "event", "process", "pid", "instance_id", "size_bytes"]
    assert (line["level"], line["process"]) == ("info", "accept")
    assert list(line) == [key for key in KEYS if key in line]


def test_unknown_key_is_dropped_and_counted_in_service(lines: Lines) -> None:
    """A key outside the catalogue does not leave, its value neither, and the line says that something was taken out."""
    log.get_logger().info("instance_done", patient_name=NAME, count=1)
    (line,) = lines()
    assert (line["dropped"], line["count"]) == (1, 1)
    assert NAME not in json.dumps(line)


def test_unknown_event_is_not_shown(lines: Lines) -> None:
    """An event outside the catalogue, as a formatted text would be, is replaced."""
    log.get_logger().info(f"worked {NAME}")
    (line,) = lines()
    assert (line["event"], line["dropped"]) == ("unlisted_event", 1)
    assert NAME not in json.dumps(line)


def test_gate_raises_in_tests() -> None:
    """Under test the gate raises and remembers, so that a loop that catches everything does not hide it."""
    with pytest.raises(log.UnlistedError, match="patient_name"):
        log.get_logger().error("instance_done", patient_name=NAME)
    assert len(log.violations()) == 1
    log.strict(on=True)


@pytest.mark.parametrize("value", [object(), {"a": 1}, b"bytes", [[1]], list(range(100))])
def test_only_plain_values_pass(lines: Lines, value: object) -> None:
    """Mappings, bytes, nested or long lists and objects are taken out: their repr could hold anything."""
    log.get_logger().info("instance_done", count=value)
    (line,) = lines()
    assert "count" not in line
    assert line["dropped"] == 1


@pytest.mark.parametrize(("value", "written"), [
    ("a\r\nb\x1b[31m\u202e\u2028", "a\ufffd\ufffdb\ufffd[31m\ufffd\ufffd"),
    ("x" * 300, "x" * 199 + "…"),
    ("\udc80", "\ufffd"),
    (float("nan"), None),
    (0.123456, 0.1235),
    (("a", 1), ["a", 1]),
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
])
def test_values_are_made_safe(lines: Lines, value: object, written: object) -> None:
    """Control and direction characters are replaced, long texts cut, numbers are JSON."""
    log.get_logger().info("instance_done", address=value)
    assert lines()[0]["address"] == written


def test_reason_is_one_word(lines: Lines) -> None:
    """A sentence where a code belongs is taken out, because it may have come from a data set."""
    log.get_logger().info("instance_held", reason=f"name {NAME} found")
    assert "reason" not in lines()[0]


def test_uids_are_keyed_tokens(lines: Lines) -> None:
    """A UID is written as a token that the key's holder can compute and nobody else."""
    log.get_logger().info("instance_done", sop_instance_uid=UID)
    token = lines()[0]["sop_instance_uid"]
    assert token == log.uid_token(UID, b"key")
    assert token != log.uid_token(UID, b"other key")
    assert str(token).startswith("uid-")
    assert len(str(token)) == 16


@pytest.mark.parametrize("lines", [{"uids": "plain"}], indirect=True)
def test_uids_are_plain_when_set(lines: Lines) -> None:
    """log.uids = "plain" writes UIDs as they are."""
    log.get_logger().info("instance_done", result_uid=UID)
    assert lines()[0]["result_uid"] == UID


def test_foreign_error_shows_type_and_frames_only(lines: Lines) -> None:
    """The text of a foreign error, which may quote a data set, never leaves; its type and place do."""
    try:
        int(NAME)
    except ValueError:
        log.get_logger().exception("defect")
    (line,) = lines()
    assert line["error_type"] == "ValueError"
    assert str(line["traceback"]).count("test_log.py") == 1
    assert NAME not in json.dumps(line)


def test_own_error_shows_code_actor_and_cause(lines: Lines) -> None:
    """An error of ours shows its code and who acts, and the type of the foreign error behind it."""
    try:
        try:
            int(NAME)
        except ValueError as error:
            raise StageFailed("infer") from error
    except StageFailed as error:
        log.get_logger().error("instance_quarantined", exc_info=error)
    (line,) = lines()
    assert (line["reason"], line["actor"], line["error_type"]) == ("stage_failed", "developer", "ValueError")
    assert NAME not in json.dumps(line)


def test_text_of_configuration_error_alone_is_shown(lines: Lines) -> None:
    """The administrator reads which file and key is wrong; other errors of ours keep their text."""
    log.get_logger().error("config_rejected", exc_info=BadSetting("node.toml: scp.port: unknown key"))
    log.get_logger().error("instance_refused", exc_info=Refused("text"))
    first, second = lines()
    assert first["message"] == "node.toml: scp.port: unknown key"
    assert "message" not in second


def test_library_record_loses_its_text(lines: Lines) -> None:
    """A record of another library shows logger, place and a keyed digest, and repeats are not written again."""
    for _ in range(3):
        logging.getLogger("highdicom").warning("Patient's name %s", NAME)
    (line,) = lines()
    assert (line["event"], line["logger"]) == ("library_message", "highdicom")
    assert str(line["source"]).startswith("unit/test_log.py:")
    assert NAME not in json.dumps(line)


def test_warning_loses_its_text(lines: Lines) -> None:
    """A Python warning shows its category and place."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = log._warned
        warnings.warn(f"value {NAME}", UserWarning, stacklevel=1)
    (line,) = lines()
    assert (line["logger"], line["error_type"]) == ("warnings", "UserWarning")
    assert NAME not in json.dumps(line)


def test_uncaught_error_of_a_thread_loses_its_text(lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody caught is a line `defect`, not a traceback with its text on stderr."""
    thread = threading.Thread(target=int, args=(NAME,))
    thread.start()
    thread.join()
    assert lines()[0]["event"] == "defect"
    assert NAME not in "".join(capsys.readouterr())


def test_levels_below_the_set_one_are_not_written(lines: Lines) -> None:
    """log.level is the least level that is written."""
    logger = log.get_logger()
    logger.debug("stage_done")
    logger.warning("disk_low")
    assert [line["event"] for line in lines()] == ["disk_low"]


def test_never_raises_in_service() -> None:
    """A closed stream, and a value that fails while it is looked at, do not stop the caller."""
    class Bad(str):  # noqa: SLOT000
        def __str__(self) -> str:
            raise RuntimeError

    stream = io.StringIO()
    log.strict(on=False)
    log.configure(LogSettings(), "test", b"key", stream=stream)
    log.get_logger().info("node_started", address=Bad("x"))
    stream.close()
    log.get_logger().info("node_started")


def test_before_configure_lines_go_to_stderr_through_the_gate() -> None:
    """A command that sets up nothing keeps its stdout clean, and the gate stands."""
    code = (
        "from dicomnode import log\n"
        f"log.get_logger().warning('instance_held', patient='{NAME}', sop_instance_uid='{UID}')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    assert "instance_held" in ran.stderr
    assert NAME not in ran.stderr
    assert UID not in ran.stderr


def test_text_for_a_terminal_is_coloured(capsys: pytest.CaptureFixture[str]) -> None:
    """log.format = "text" writes coloured lines for a person."""
    log.configure(LogSettings(format="text"), "test", b"key")
    log.get_logger().info("node_started", version="1")
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "node_started" in out


def test_catalogue_is_described() -> None:
    """Every event and key has a meaning, in a sentence."""
    for meaning in (*EVENTS.values(), *KEYS.values()):
        assert meaning.endswith(".")

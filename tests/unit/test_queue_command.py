"""``dicomnode queue``: shows what is there, does what it is told, says who did it."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dicomnode.commands.queue import app
from dicomnode.errors import BadSetting, NotFound
from dicomnode.keeper.chores import Chores
from dicomnode.keeper.ledger import SIDES, audit
from dicomnode.queue import Owner
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Held, Verdict
from dicomnode.settings import Settings
from dicomnode.spool import Spool

from .queue_contract import ME, NOW, SUMMARY, claimed, instance, one_delivery, output, worked
from .spooled import an_id, configured, receive

ONE, TWO, THREE = (instance(number).instance_id for number in (1, 2, 3))
HELD = Held("sc", ("pacs",), "redaction_uncertain")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node that has never run."""
    return configured(tmp_path)


def run(settings: Settings, *words: str) -> Result:
    """Run ``dicomnode queue``; errors of ours are in the result's exception, as cli.py gets them."""
    return CliRunner().invoke(app, [*words, "-c", str(settings.directory)])


def records(result: Result) -> list[dict[str, object]]:
    """The JSON lines of a command that came through."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def received(spool: Spool, queue: SqliteQueue, number: int = 1) -> None:
    """A file with its row; the ids of both agree."""
    receive(spool, number)
    queue.add(instance(number))


# -- showing
def test_a_node_that_never_ran_has_nothing_and_nothing_is_made(settings: Settings) -> None:
    """Root who looks leaves no file that the node could not open later."""
    for words in ((), ("list",)):
        result = run(settings, *words)
        assert (result.exit_code, result.stdout) == (0, "")
    for words in (("show", ONE), ("verify",), ("retry", ONE)):
        assert isinstance(run(settings, *words).exception, NotFound)
    assert not settings.node.state_dir.exists()


def test_bad_configuration_is_a_config_error(tmp_path: Path) -> None:
    """Which cli.py ends with 78."""
    result = CliRunner().invoke(app, ["-c", str(tmp_path / "nowhere")])
    assert isinstance(result.exception, BadSetting)


def test_the_summary_counts_states_and_destinations(settings: Settings, queue: SqliteQueue) -> None:
    """As a table, and as lines of JSON with the same facts."""
    worked(queue, instance(1), [output()])
    queue.add(instance(2))
    queue.set_destination("pacs", "down", "peer_unavailable", NOW)
    table = run(settings).stdout
    assert all(word in table for word in ("waiting", "done", "1000", "to pacs", "lane down", "peer_unavailable"))
    found = records(run(settings, "--json"))
    assert {"of": "instances", "state": "waiting", "count": 1, "bytes": 1000, "oldest": NOW.isoformat()} in found
    assert {"to": "pacs", "state": "ready", "count": 1, "urgent": 0, "oldest": NOW.isoformat()} in found
    assert {"to": "pacs", "lane": "down", "reason": "peer_unavailable", "since": NOW.isoformat()} in found


def test_the_summary_says_which_window_is_closed(settings: Settings, queue: SqliteQueue) -> None:
    """A destination outside of its windows is told with them; one inside is not."""
    worked(queue, instance(1), [output()])
    soon, later = (datetime.now().astimezone() + timedelta(hours=hours) for hours in (11, 12))
    closed, always = f"{soon:%H:%M}-{later:%H:%M}", f"{later:%H:%M}-{soon:%H:%M}"
    path = settings.directory / "peers" / "pacs.toml"
    before = path.read_text()
    path.write_text(f'{before}windows = ["{closed}"]\n')
    assert {"to": "pacs", "state": "window closed", "reason": closed} in records(run(settings, "--json"))
    assert closed in run(settings).stdout
    path.write_text(f'{before}windows = ["{always}"]\n')
    assert "window" not in run(settings).stdout


def test_list_shows_what_is_asked_for(settings: Settings, queue: SqliteQueue) -> None:
    """By state, oldest first, up to the limit, in full on a pipe."""
    worked(queue, instance(1), [output()], [HELD])
    queue.add(instance(2))
    queue.add(instance(3))
    assert [row["instance_id"] for row in records(run(settings, "list", "--json", "--limit", "2"))] == [ONE, TWO]
    table = run(settings, "list", "--state", "hold").stdout
    assert "sc to pacs: hold" in table
    assert ONE in table
    assert TWO not in table
    assert run(settings, "list", "--state", "nonsense").exit_code == 2


def test_what_is_urgent_is_shown(settings: Settings, queue: SqliteQueue) -> None:
    """In the list, in show and in the summary, for people and for programs."""
    queue.add(instance(1))
    queue.finish(claimed(queue), ME, dataclasses.replace(SUMMARY, urgent=True), [output()], [], NOW)
    worked(queue, instance(2), [output(2)])
    assert "sr to pacs: ready, urgent" in run(settings, "list").stdout
    assert "ready, urgent" in run(settings, "show", ONE).stdout
    assert "ready, urgent" not in run(settings, "show", TWO).stdout
    (row,) = records(run(settings, "show", ONE, "--json"))
    assert row["deliveries"][0]["urgent"] is True  # type: ignore[index]
    summary = records(run(settings, "--json"))
    assert {"to": "pacs", "state": "ready", "count": 2, "urgent": 1, "oldest": NOW.isoformat()} in summary


@pytest.mark.parametrize("key", [ONE, "1.2.1", "2.25.1"])
def test_show_finds_an_instance_by_each_of_its_names(settings: Settings, queue: SqliteQueue, key: str) -> None:
    """With its deliveries, and the token by which the log calls it."""
    worked(queue, instance(1), [output()])
    (row,) = records(run(settings, "show", key, "--json"))
    assert (row["instance_id"], row["body_part"]) == (ONE, "spine")
    assert str(row["log_token"]).startswith("uid-")
    assert "2.25.1" in run(settings, "show", key).stdout


def test_show_of_nothing_is_an_error(settings: Settings, queue: SqliteQueue) -> None:
    """Which cli.py ends with 1."""
    assert isinstance(run(settings, "show", "1.2.3.4").exception, NotFound)


# -- acting
def test_an_act_is_recorded_with_its_person(settings: Settings, queue: SqliteQueue) -> None:
    """In the queue, in show and in the log on stderr."""
    worked(queue, instance(1), [], [HELD])
    result = run(settings, "release", ONE)
    assert (result.exit_code, result.stdout) == (0, f"{ONE}: release, 1 row changed\n")
    assert '"event": "queue_changed"' in result.stderr
    (act,) = queue.find(ONE)[0]["acts"]  # type: ignore[misc]
    assert (act["what"], act["who"]) == ("release", getpass.getuser())
    assert f"{getpass.getuser()}: release" in run(settings, "show", ONE).stdout
    assert claimed(queue, now=datetime.now(UTC)).waived


def test_who_called_sudo_is_named(settings: Settings, queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's account says nothing about who acted."""
    monkeypatch.setenv("SUDO_USER", "anna")
    queue.add(instance(1))
    run(settings, "drop", ONE, "--yes")
    (act,) = queue.find(ONE)[0]["acts"]  # type: ignore[misc]
    assert act["who"] == f"anna as {getpass.getuser()}"


def test_retry_all_takes_what_waits_for_people(settings: Settings, queue: SqliteQueue) -> None:
    """Of the given states only, when some are given."""
    for number, end in ((1, queue.hold), (2, queue.quarantine)):
        queue.add(instance(number))
        end(claimed(queue), ME, "undecodable")
    worked(queue, instance(3), [output()])
    queue.settle(one_delivery(queue), ME, Verdict("refused", "refused_by_peer"), NOW)
    found = records(run(settings, "retry", "--all", "--state", "quarantine", "--json"))
    assert found == [{"instance_id": TWO, "act": "retry", "changed": 1}]
    found = records(run(settings, "retry", "--all", "--json"))
    assert [one["instance_id"] for one in found] == [ONE, THREE]


def test_a_retry_of_what_was_delivered_is_a_rework_that_the_help_tells_of(settings: Settings, queue: SqliteQueue) -> None:
    """Whoever asks for it must know what it does."""
    worked(queue, instance(1), [output()])
    queue.settle(one_delivery(queue), ME, Verdict("delivered", status=0), NOW)
    assert run(settings, "retry", ONE).stdout == f"{ONE}: retry, 1 row changed\n"
    assert claimed(queue, now=datetime.now(UTC)).generation == 1
    help_ = " ".join(CliRunner().invoke(app, ["retry", "--help"], env={"COLUMNS": "300"}).stdout.split())
    assert "worked anew from the start" in help_


def test_a_uid_of_several_means_what_waits_for_a_person(settings: Settings, queue: SqliteQueue) -> None:
    """The retry of a held resend does not make the first one's results anew."""
    worked(queue, instance(1, uid="1.2"), [output()])
    queue.settle(one_delivery(queue), ME, Verdict("delivered", status=0), NOW)
    queue.add(instance(2, uid="1.2"))
    queue.hold(claimed(queue), ME, "pixels_differ")
    assert [one["instance_id"] for one in records(run(settings, "retry", "1.2", "--json"))] == [TWO]
    assert [row["state"] for row in queue.rows()] == ["done", "waiting"]


def test_the_answer_of_a_destination_that_had_it_already_is_shown(settings: Settings, queue: SqliteQueue) -> None:
    """0x0111 for an original: it counts as delivered, but the archive may hold another version."""
    worked(queue, instance(1), [output(kind="original")])
    queue.settle(one_delivery(queue), ME, Verdict("delivered", status=0x0111), NOW)
    assert "0x0111" in run(settings, "show", ONE).stdout


def test_an_unknown_key_fails_after_the_others_are_done(settings: Settings, queue: SqliteQueue) -> None:
    """One typing error does not cost the rest."""
    queue.add(instance(1))
    result = run(settings, "drop", "1.2.3.4", ONE, "--yes")
    assert result.exit_code == 1
    assert "1.2.3.4" in result.stderr
    assert queue.find(ONE)[0]["state"] == "dropped"


@pytest.mark.parametrize("words", [("drop", ONE), ("retry",), ("release",), ("retry", ONE, "--all"), ("drop",)])
def test_what_is_not_clearly_meant_is_not_done(settings: Settings, queue: SqliteQueue, words: tuple[str, ...]) -> None:
    """Dropping needs a yes; naming nothing is no way to mean everything."""
    queue.add(instance(1))
    assert run(settings, *words).exit_code == 2
    assert queue.find(ONE)[0]["state"] == "waiting"


# -- verify
def breaches(settings: Settings) -> list[object]:
    """What verify finds."""
    result = run(settings, "verify", "--json")
    *found, account = [json.loads(line) for line in result.stdout.splitlines()]
    assert account["breaches"] == len(found)
    assert account["accepted"] == account["acknowledged"] + account["unanswered"]
    assert account["accepted"] == sum(account[side] for side in (*SIDES, "gone"))
    assert result.exit_code == (1 if found else 0)
    return [one["breach"] for one in found]


def test_verify_accounts_for_everything_that_was_accepted(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """Each on one side; a file that waits for its row is waiting."""
    received(spool, queue, 1)
    queue.finish(claimed(queue), ME, SUMMARY, [], [], NOW)
    received(spool, queue, 2)
    queue.finish(claimed(queue), ME, SUMMARY, [], [HELD], NOW)
    received(spool, queue, 3)
    queue.quarantine(claimed(queue), ME, "undecodable")
    receive(spool, 4)
    for number in (1, 2, 4):
        spool.receipt(an_id(number))
    assert breaches(settings) == []
    table = run(settings, "verify").stdout
    assert table.endswith(
        "accepted 4 = 1 delivered + 1 waiting + 1 held + 1 quarantined + 0 duplicate + 0 own + 0 dropped; sound\n",
    )
    found = [line.split()[:2] for line in table.splitlines()]
    assert ["acknowledged", "3"] in found
    assert ["=", "accepted"] in found
    assert ["quarantined", "1"] in found


def test_verify_finds_what_was_acknowledged_and_is_gone(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """A receipt without row and file is a loss; a row whose receipt is gone, or that never had one, is none."""
    received(spool, queue, 1)
    for number in (1, 2):
        spool.receipt(an_id(number))
    received(spool, queue, 3)
    assert breaches(settings) == [f"{TWO} was acknowledged and is gone: it has neither a row nor a file"]
    account = json.loads(run(settings, "verify", "--json").stdout.splitlines()[-1])
    assert [account[name] for name in ("accepted", "acknowledged", "unanswered", "waiting", "gone")] == [3, 2, 1, 2, 1]
    assert " + 1 gone; 1 breach\n" in run(settings, "verify").stdout


def test_verify_is_sound_after_rows_were_forgotten(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """Receipts go before their rows, so what is forgotten on purpose is no loss; what waits keeps its row without one."""
    received(spool, queue, 1)
    queue.finish(claimed(queue), ME, SUMMARY, [], [], NOW)
    received(spool, queue, 2)
    for number in (1, 2):
        spool.receipt(an_id(number))
    far = datetime(2099, 1, 1, tzinfo=UTC)
    spool.remove(instance(1).location)
    queue.removed([instance(1).location])
    Chores(settings, spool, queue).forget(far)
    assert [row["instance_id"] for row in queue.rows()] == [TWO]
    assert breaches(settings) == []


def test_a_loss_that_is_none_is_not_told(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """What came while verify was looking has its file, or went from there to quarantine."""
    found = spool.incoming
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(spool), "incoming", lambda _: list(found())[:0])
        receive(spool, 1)
        spool.quarantine(receive(spool, 2))
        for number in (1, 2):
            spool.receipt(an_id(number))
        patch.setattr(type(spool), "quarantined", lambda _: [])
        assert audit(spool, queue, NOW).gone == 0


def test_what_a_person_calls_urgent_goes_first(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """Of what is to be worked and of what is to be sent; who said so is kept, and twice is once."""
    for number in (1, 2):
        received(spool, queue, number)
    assert run(settings, "urgent", TWO).stdout == f"{TWO}: urgent, 1 row changed\n"
    assert run(settings, "urgent", TWO).stdout == f"{TWO}: urgent, 0 rows changed\n"
    claim = claimed(queue)
    assert claim.instance.instance_id == TWO
    queue.finish(claim, ME, SUMMARY, [output(2)], [], NOW)
    queue.finish(claimed(queue), ME, SUMMARY, [output(1)], [], NOW)
    assert [one.instance_id for one in queue.claim_deliveries("pacs", ME, 1, NOW)] == [TWO]
    worked(queue, instance(3), [output(3)])
    assert run(settings, "urgent", "2.25.3").exit_code == 0
    assert [one.instance_id for one in queue.claim_deliveries("pacs", ME, 1, NOW)] == [THREE]
    (act,) = queue.find(THREE)[0]["acts"]  # type: ignore[misc]
    assert (act["what"], act["who"]) == ("urgent", getpass.getuser())


def test_verify_finds_a_missing_source(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """Of a waiting instance, and of a done one whose output a person has still to release."""
    received(spool, queue, 2)
    queue.finish(claimed(queue), ME, SUMMARY, [], [HELD], NOW)
    queue.add(instance(1))
    assert [ONE in str(breach) for breach in breaches(settings)] == [True]
    spool.remove(instance(2).location)
    assert [TWO in str(breach) for breach in breaches(settings)] == [False, True]


def test_verify_finds_a_missing_result(settings: Settings, queue: SqliteQueue) -> None:
    """Of a delivery that has not ended; afterwards the file may go."""
    worked(queue, instance(1), [output()])
    (breach,) = breaches(settings)
    assert "the sr for pacs is ready, but its file is missing" in str(breach)
    queue.settle(one_delivery(queue), ME, Verdict("delivered", status=0), NOW)
    assert breaches(settings) == []


def test_verify_finds_strangers_and_files_without_a_row(
    settings: Settings, spool: Spool, queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that stands there longer than intake takes."""
    location = receive(spool)
    (spool.root / "quarantine" / "note.txt").write_text("")
    assert breaches(settings) == ["quarantine/note.txt is no file of the node"]
    os.utime(spool.path(location), (1, 1))
    assert f"{location} has no row" in breaches(settings)


def test_verify_finds_a_claim_of_a_dead_process(settings: Settings, spool: Spool, queue: SqliteQueue) -> None:
    """That nobody takes back, because no keeper runs."""
    received(spool, queue, 1)
    queue.claim(Owner("an earlier life of this machine", 1, 1), NOW)
    (breach,) = breaches(settings)
    assert "dead" in str(breach)

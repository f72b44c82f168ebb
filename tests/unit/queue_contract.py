"""What every backend of the queue must do: subclass `QueueContract` and give a fixture ``queue``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pytest

from dicomnode.errors import LeaseLost, NotFound
from dicomnode.queue import Claim, Name, Needed, NewOutput, Owner, Queue, Reclaimed, Settled, Summary, Traced
from dicomnode.records import Delivery, Held, Identity, Instance, OutputKind, Verdict

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
ME = Owner("boot", 100, 1000)
OTHER = Owner("boot", 200, 2000)
SUMMARY = Summary("spine", 0.9, "rule", "model 1", "fracture", 0.7, abnormal=False, regions=2, pixel_digest="px",
                  stage_ms={"route": 1.5}, findings=({"model": "model", "version": "1", "finding": "fracture"},))
#: Of a picture that was certain.
SAID = dataclasses.replace(SUMMARY, picture="spine", tag="abdomen", agreement="disagrees", device="dev-a")
SR = "1.2.840.10008.5.1.4.1.1.88.34"
DELIVERED = Verdict("delivered", status=0)


def instance_id(number: int) -> str:
    """The id of the instance of this number, in the order of numbers."""
    return f"20260301T12{number // 60:02d}{number % 60:02d}000000-{number:08x}"


def instance(number: int = 1, *, uid: str = "", sha256: str = "", own: bool = False) -> Instance:
    """The instance of this number; its SOP Instance UID and bytes are its own unless given."""
    own_id = instance_id(number)
    return Instance(
        instance_id=own_id, sop_class_uid="1.2.840.10008.5.1.4.1.1.2", sop_instance_uid=uid or f"1.2.{number}",
        series_instance_uid="1.3", study_instance_uid="1.4", transfer_syntax_uid="1.2.840.10008.1.2.1", modality="CT",
        calling_ae="MODALITY", called_ae="DICOMNODE", address="127.0.0.1", received_at=NOW,
        location=f"incoming/2026030112/{own_id}.dcm", size_bytes=1000, sha256=sha256 or f"{number:064x}", own_result=own,
    )


def output(
    number: int = 1, destinations: Sequence[str] = ("pacs",), kind: OutputKind = "sr", identity: Identity = "kept",
) -> NewOutput:
    """A result whose file stands in outgoing/."""
    return NewOutput(
        kind, SR, f"2.25.{number}", "1.2.840.10008.1.2.1", identity, f"outgoing/2.25.{number}.dcm", tuple(destinations),
    )


def claimed(queue: Queue, owner: Owner = ME, now: datetime = NOW) -> Claim:
    """The next claim, which must be there."""
    claim = queue.claim(owner, now)
    assert claim is not None
    return claim


def worked(queue: Queue, one: Instance, outputs: Sequence[NewOutput] = (), held: Sequence[Held] = ()) -> Claim:
    """Add and finish."""
    queue.add(one)
    claim = claimed(queue)
    assert claim.instance == one
    queue.finish(claim, ME, SUMMARY, outputs, held, NOW)
    return claim


def state_of(queue: Queue, one: Instance) -> object:
    """The state of an instance's row."""
    return queue.find(one.instance_id)[0]["state"]


def deliveries_of(queue: Queue, one: Instance) -> list[tuple[object, object, object]]:
    """(kind, destination, state) of an instance's deliveries."""
    deliveries = queue.find(one.instance_id)[0]["deliveries"]
    assert isinstance(deliveries, list)
    return [(row["kind"], row["destination"], row["state"]) for row in deliveries]


def one_delivery(queue: Queue, now: datetime = NOW, owner: Owner = ME) -> Delivery:
    """Claim the one delivery that is due for the archive."""
    (delivery,) = queue.claim_deliveries("pacs", owner, 10, now)
    return delivery


def several(queue: Queue, first: int, last: int, *, urgent: bool) -> None:
    """Instances of these numbers, each with one delivery to the archive."""
    for number in range(first, last + 1):
        queue.add(instance(number))
        queue.finish(claimed(queue), ME, dataclasses.replace(SUMMARY, urgent=urgent), [output(number)], [], NOW)


def counted(queue: Queue) -> list[tuple[object, ...]]:
    """What the queue has counted of Body Part Examined, of all days."""
    names = ("device", "picture", "tag", "agreement", "count", "instance_id")
    return [tuple(row[name] for name in names) for row in queue.tags(date(2000, 1, 1), date(2100, 1, 1))]


def kinds(batch: Sequence[Delivery]) -> str:
    """A letter for each delivery: urgent or ordinary."""
    return "".join("U" if one.urgent else "O" for one in batch)


class QueueContract:
    """The claims that hold for every backend."""

    # -- intake
    def test_adding_twice_changes_nothing(self, queue: Queue) -> None:
        """Intake may be repeated, also after the instance was worked."""
        assert queue.add(instance()) == "waiting"
        assert queue.add(instance()) is None
        queue.finish(claimed(queue), ME, SUMMARY, [], [], NOW)
        assert queue.add(instance()) is None
        assert state_of(queue, instance()) == "done"

    def test_an_instance_comes_back_from_its_row_as_it_went_in(self, queue: Queue) -> None:
        """Nothing of the record is lost or rounded, times neither."""
        queue.add(instance())
        assert claimed(queue).instance == instance()

    def test_own_results_are_not_worked(self, queue: Queue) -> None:
        """What this node made and a PACS sent back is acknowledged and left alone."""
        assert queue.add(instance(own=True)) == "own"
        assert queue.claim(ME, LATER) is None

    def test_a_resend_of_the_same_bytes_is_worked_once(self, queue: Queue) -> None:
        """Also while the first one still waits, and after a second resend."""
        queue.add(instance(1, uid="1.2", sha256="a"))
        assert queue.add(instance(2, uid="1.2", sha256="a")) == "duplicate"
        queue.finish(claimed(queue), ME, SUMMARY, [], [], NOW)
        assert queue.add(instance(3, uid="1.2", sha256="a")) == "duplicate"
        assert queue.claim(ME, LATER) is None

    def test_other_bytes_under_the_same_uid_or_the_same_bytes_under_another_are_no_duplicate(self, queue: Queue) -> None:
        """Sameness needs both."""
        queue.add(instance(1, uid="1.2", sha256="a"))
        assert queue.add(instance(2, uid="1.2", sha256="b")) == "waiting"
        assert queue.add(instance(3, uid="1.3", sha256="a")) == "waiting"

    @pytest.mark.parametrize("end", ["drop", "quarantine"])
    def test_a_resend_of_what_was_given_up_is_worked(self, queue: Queue, end: str) -> None:
        """A dropped or quarantined row, alone or with a duplicate of it, makes no duplicate."""
        first = instance(1, uid="1.2", sha256="a")
        queue.add(first)
        queue.add(instance(2, uid="1.2", sha256="a"))
        if end == "drop":
            queue.drop(first.instance_id, NOW)
        else:
            queue.quarantine(claimed(queue), ME, "undecodable")
        assert queue.add(instance(3, uid="1.2", sha256="a")) == "waiting"

    def test_a_resend_of_what_was_given_up_after_it_was_worked_is_worked_and_delivered(self, queue: Queue) -> None:
        """A person dropped every delivery; the same result of the instance that comes then is sent."""
        worked(queue, instance(1, uid="1.2", sha256="a"), [output(1, ("pacs", "lab"))])
        queue.add(instance(2, uid="1.2", sha256="a"))
        queue.drop(instance(1).instance_id, NOW)
        again, other = instance(3, uid="1.2", sha256="a"), instance(4, uid="1.2", sha256="b")
        assert queue.siblings(other) == ()
        assert queue.add(again) == "waiting"
        queue.finish(claimed(queue), ME, SUMMARY, [output(1, ("pacs", "lab"))], [], NOW)
        assert deliveries_of(queue, again) == [("sr", "pacs", "ready"), ("sr", "lab", "ready")]
        assert queue.verify() == ()

    def test_a_resend_of_what_was_given_up_in_part_is_worked_once(self, queue: Queue) -> None:
        """One delivery that stands says that the instance was worked, and so does a route without outputs."""
        worked(queue, instance(1, uid="1.2", sha256="a"), [output(1, ("pacs", "lab"))])
        queue.settle(one_delivery(queue), ME, DELIVERED, NOW)
        queue.drop(instance(1).instance_id, NOW)
        assert queue.add(instance(2, uid="1.2", sha256="a")) == "duplicate"
        worked(queue, instance(3, uid="1.3", sha256="a"))
        assert queue.add(instance(4, uid="1.3", sha256="a")) == "duplicate"

    def test_an_unreadable_file_has_a_row_in_quarantine(self, queue: Queue) -> None:
        """It is in sight, it is not worked, and telling it twice changes nothing."""
        for reason in ("undecodable", "stage_failed"):
            queue.add_unreadable(instance().instance_id, "quarantine/x.dcm", 5, NOW, reason)
        (row,) = queue.find(instance().instance_id)
        assert (row["state"], row["reason"], row["size_bytes"]) == ("quarantine", "undecodable", 5)
        assert queue.claim(ME, LATER) is None
        assert queue.known(instance().instance_id)

    # -- claims
    def test_the_oldest_is_claimed_first_and_by_one_only(self, queue: Queue) -> None:
        """Order is that of reception, whatever the order of intake."""
        for number in (3, 1, 2):
            queue.add(instance(number))
        claims = [claimed(queue, owner) for owner in (ME, OTHER, ME)]
        assert [claim.instance for claim in claims] == [instance(1), instance(2), instance(3)]
        assert queue.claim(ME, LATER) is None

    def test_a_claim_counts_its_attempt_at_once(self, queue: Queue) -> None:
        """So a process that dies has counted."""
        queue.add(instance())
        first = claimed(queue)
        queue.defer(first, ME, "spool_full", NOW)
        assert (first.attempt, claimed(queue, OTHER).attempt) == (1, 2)

    def test_a_deferred_instance_comes_back_when_it_is_due_and_not_before(self, queue: Queue) -> None:
        """Neither early nor behind younger ones once it is due."""
        queue.add(instance(1))
        queue.defer(claimed(queue), ME, "spool_full", LATER)
        queue.add(instance(2))
        assert state_of(queue, instance(1)) == "deferred"
        assert claimed(queue).instance == instance(2)
        assert queue.claim(ME, LATER - timedelta(microseconds=1)) is None
        assert claimed(queue, now=LATER).instance == instance(1)

    def test_instances_of_one_uid_are_worked_one_after_another(self, queue: Queue) -> None:
        """While the first is active or deferred the second waits, others do not."""
        first, second, third = instance(1, uid="1.2"), instance(2, uid="1.2"), instance(3)
        for one in (first, second, third):
            queue.add(one)
        claim = claimed(queue)
        assert claimed(queue).instance == third
        assert queue.claim(ME, NOW) is None
        queue.defer(claim, ME, "spool_full", LATER)
        assert queue.claim(ME, NOW) is None
        queue.finish(claimed(queue, now=LATER), ME, SUMMARY, [], [], LATER)
        assert claimed(queue).instance == second

    @pytest.mark.parametrize("end", ["finish", "defer", "hold", "quarantine", "duplicate"])
    def test_a_claim_ends_once_and_by_its_owner_only(self, queue: Queue, end: str) -> None:
        """Whoever lost the row, by death or by a person, changes nothing any more."""
        queue.add(instance())
        claim = claimed(queue)
        acts = {
            "finish": lambda owner: queue.finish(claim, owner, SUMMARY, [output()], [], NOW),
            "defer": lambda owner: queue.defer(claim, owner, "spool_full", LATER),
            "hold": lambda owner: queue.hold(claim, owner, "pixels_differ"),
            "quarantine": lambda owner: queue.quarantine(claim, owner, "undecodable"),
            "duplicate": lambda owner: queue.duplicate(claim, owner, "px"),
        }
        with pytest.raises(LeaseLost):
            acts[end](OTHER)
        assert state_of(queue, instance()) == "active"
        acts[end](ME)
        after = queue.find(instance().instance_id)
        with pytest.raises(LeaseLost):
            acts[end](ME)
        assert queue.find(instance().instance_id) == after

    def test_a_result_that_comes_after_the_row_was_taken_back_is_dropped(self, queue: Queue) -> None:
        """The claim of a former attempt ends nothing, though the same process holds the row again."""
        queue.add(instance())
        late = claimed(queue)
        queue.reclaim(lambda _: False)
        again = claimed(queue)
        with pytest.raises(LeaseLost):
            queue.finish(late, ME, SUMMARY, [output()], [], NOW)
        queue.finish(again, ME, SUMMARY, [output()], [], NOW)
        assert deliveries_of(queue, instance()) == [("sr", "pacs", "ready")]

    def test_siblings_are_earlier_rows_of_the_same_uid_that_matter(self, queue: Queue) -> None:
        """Done ones with their pixels, held and waiting ones; not the instance itself, own, dropped or quarantined ones."""
        done, held, gone, quarantined, me = (instance(n, uid="1.2") for n in range(1, 6))
        worked(queue, done)
        queue.add(held)
        queue.hold(claimed(queue), ME, "pixels_differ", "py")
        queue.add(gone)
        queue.drop(gone.instance_id, NOW)
        queue.add(quarantined)
        queue.hold(claimed(queue), ME, "pixels_differ", "pz")
        queue.retry(quarantined.instance_id, NOW)
        queue.quarantine(claimed(queue), ME, "undecodable")
        queue.add(me)
        queue.add(instance(6, uid="1.2"))
        found = [(one.instance_id, one.state, one.pixel_digest) for one in queue.siblings(me)]
        assert found == [(done.instance_id, "done", "px"), (held.instance_id, "hold", "py")]

    # -- results
    def test_done_comes_with_its_deliveries(self, queue: Queue) -> None:
        """One for each destination of each output, held ones on hold; the summary is kept."""
        held = Held("sc", ("pacs", "lab"), "redaction_uncertain")
        worked(queue, instance(), [output(1, ("pacs", "lab"))], [held])
        assert deliveries_of(queue, instance()) == [
            ("sr", "pacs", "ready"), ("sr", "lab", "ready"), ("sc", "pacs", "hold"), ("sc", "lab", "hold"),
        ]
        (row,) = queue.find(instance().instance_id)
        assert (row["state"], row["body_part"], row["stage_ms"]) == ("done", "spine", {"route": 1.5})
        assert [one.location for one in queue.claim_deliveries("pacs", ME, 10, NOW)] == ["outgoing/2.25.1.dcm"]
        assert queue.verify() == ()

    def test_what_is_given_up_by_rule_ends_as_dropped(self, queue: Queue) -> None:
        """It waits for nobody, and its row says why."""
        given_up = Held("deidentified", ("pacs",), "no_picture", dropped=True)
        worked(queue, instance(), [], [given_up, Held("sc", ("pacs",), "redaction_uncertain")])
        assert sorted(deliveries_of(queue, instance())) == [("deidentified", "pacs", "dropped"), ("sc", "pacs", "hold")]
        assert queue.verify() == ()

    def test_a_note_stands_on_a_row_that_was_passed_on_or_is_a_duplicate(self, queue: Queue) -> None:
        """Other headers over the same pixels are in sight; the same bytes are nothing to note."""
        queue.add(instance(1, uid="1.2"))
        queue.finish(claimed(queue), ME, SUMMARY, [output(kind="original")], [], NOW, "header_differs")
        queue.add(instance(2, uid="1.2"))
        queue.duplicate(claimed(queue), ME, "px")
        queue.add(instance(3, uid="1.2", sha256=instance(1).sha256))
        found = [(row["state"], row["reason"]) for row in queue.rows()]
        assert found == [("done", "header_differs"), ("duplicate", "header_differs"), ("duplicate", "")]

    def test_a_finish_that_fails_midway_leaves_the_claim_as_it_was(self, queue: Queue) -> None:
        """There is no instance that is done with half of its deliveries."""
        queue.add(instance())
        claim = claimed(queue)
        bad = dataclasses.replace(output(2), kind="no such kind")  # type: ignore[arg-type]
        with pytest.raises(Exception, match=r"(?i)constraint"):
            queue.finish(claim, ME, SUMMARY, [output(1), bad], [], NOW)
        assert (state_of(queue, instance()), deliveries_of(queue, instance())) == ("active", [])
        queue.finish(claim, ME, SUMMARY, [output(1)], [], NOW)

    def test_a_result_is_delivered_once_to_each_destination(self, queue: Queue) -> None:
        """The same result UID made by another row adds no delivery; an original of another instance does."""
        worked(queue, instance(1, uid="1.2"), [output(1), output(7, kind="original")])
        worked(queue, instance(2, uid="1.2"), [output(1, ("pacs", "lab")), output(7, kind="original")])
        assert deliveries_of(queue, instance(1)) == [("sr", "pacs", "ready"), ("original", "pacs", "ready")]
        assert deliveries_of(queue, instance(2)) == [("sr", "lab", "ready"), ("original", "pacs", "ready")]
        assert queue.verify() == ()

    # -- deliveries
    def test_deliveries_go_by_destination_oldest_first(self, queue: Queue) -> None:
        """A lane gets its own, as many as it asks for, each to one owner."""
        for number in (1, 2, 3):
            worked(queue, instance(number), [output(number), output(number + 10, ("lab",))])
        first = queue.claim_deliveries("pacs", ME, 2, NOW)
        assert [one.instance_id for one in first] == [instance(1).instance_id, instance(2).instance_id]
        assert [one.attempt for one in first] == [1, 1]
        assert [one.instance_id for one in queue.claim_deliveries("pacs", OTHER, 2, NOW)] == [instance(3).instance_id]
        assert queue.claim_deliveries("pacs", ME, 2, NOW) == ()
        assert queue.waiting_destinations() == {"pacs": 3, "lab": 3}

    def test_urgent_deliveries_go_first_and_every_fourth_is_ordinary(self, queue: Queue) -> None:
        """Each kind by its age; of a batch of several a quarter is ordinary, rounded up."""
        several(queue, 1, 20, urgent=False)
        several(queue, 21, 40, urgent=True)
        batch = queue.claim_deliveries("pacs", ME, 10, NOW)
        assert kinds(batch) == "UUUOUUUOUO"
        assert [one.instance_id for one in batch if one.urgent] == [instance(n).instance_id for n in range(21, 28)]
        assert [one.instance_id for one in batch if not one.urgent] == [instance(n).instance_id for n in (1, 2, 3)]

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 7, 16])
    def test_nothing_ordinary_starves_behind_urgent_deliveries_that_never_end(self, queue: Queue, limit: int) -> None:
        """However small the batches and however many urgent ones come: in any four in succession is an ordinary one."""
        several(queue, 1, 12, urgent=False)
        sent, number = "", 20
        while sent.count("O") < 12:
            several(queue, number, number + limit - 1, urgent=True)  # as many come as are claimed
            number += limit
            batch = queue.claim_deliveries("pacs", ME, limit, NOW)
            sent += kinds(batch)
            for delivery in batch:
                queue.settle(delivery, ME, DELIVERED, NOW)
        assert "UUUU" not in sent[: sent.rindex("O")]
        assert sent.startswith("U"), "what is urgent goes first all the same"

    def test_many_claims_end_in_one_go(self, queue: Queue) -> None:
        """Each as `settle` ends it; of one whose claim has ended the caller learns, and the others end all the same."""
        several(queue, 1, 3, urgent=False)
        first, second, third = queue.claim_deliveries("pacs", ME, 8, NOW)
        queue.settle(second, ME, DELIVERED, NOW)
        ends = [Settled(first, DELIVERED, NOW), Settled(second, DELIVERED, NOW)]
        assert queue.settle_all([*ends, Settled(third, Verdict("deferred", "no_status"), NOW, LATER)], ME) == (second,)
        assert sorted(str(one["state"]) for row in queue.rows() for one in row["deliveries"]) == [  # type: ignore[attr-defined]
            "deferred", "delivered", "delivered",
        ]
        assert queue.claim_deliveries("pacs", ME, 8, NOW) == ()
        assert [one.delivery_id for one in queue.claim_deliveries("pacs", ME, 8, LATER)] == [third.delivery_id]

    def test_a_persons_act_is_seen_by_the_lanes(self, queue: Queue) -> None:
        """A retry since then, for this destination, by a person."""
        several(queue, 1, 1, urgent=False)
        (delivery,) = queue.claim_deliveries("pacs", ME, 8, NOW)
        queue.settle(delivery, ME, Verdict("deferred", "no_status"), NOW, LATER)
        assert not queue.retried("pacs", NOW - timedelta(hours=1))
        queue.retry(delivery.instance_id, NOW, "a person")
        assert queue.retried("pacs", NOW - timedelta(hours=1))
        assert not queue.retried("pacs", NOW)
        assert not queue.retried("lab", NOW - timedelta(hours=1))

    def test_without_urgent_deliveries_the_others_have_every_place_and_the_reverse(self, queue: Queue) -> None:
        """A share that nobody needs is not kept free."""
        several(queue, 1, 3, urgent=False)
        assert kinds(queue.claim_deliveries("pacs", ME, 8, NOW)) == "OOO"
        several(queue, 4, 9, urgent=True)
        assert kinds(queue.claim_deliveries("pacs", ME, 8, NOW)) == "UUUUUU"

    def test_outside_of_a_send_window_urgent_deliveries_alone_are_claimed(self, queue: Queue) -> None:
        """Deferred ones when due; the others stay as they are."""
        several(queue, 1, 3, urgent=False)
        assert queue.claim_deliveries("pacs", ME, 8, NOW, urgent_only=True) == ()
        several(queue, 4, 5, urgent=True)
        first, second = queue.claim_deliveries("pacs", ME, 8, NOW, urgent_only=True)
        queue.settle(first, ME, Verdict("deferred", "no_status"), NOW, LATER)
        queue.unclaim(second, ME)
        for now, due in ((NOW, second), (LATER, first)):
            (again,) = queue.claim_deliveries("pacs", ME, 8, now, urgent_only=True)
            assert again.delivery_id == due.delivery_id
        assert kinds(queue.claim_deliveries("pacs", ME, 8, LATER)) == "OOO"

    def test_a_delivery_that_is_held_and_sent_again_stays_urgent(self, queue: Queue) -> None:
        """What it is does not change with what befalls it."""
        several(queue, 1, 1, urgent=True)
        queue.settle(one_delivery(queue), ME, Verdict("refused", "refused_by_peer"), NOW)
        queue.retry(instance(1).instance_id, NOW)
        assert one_delivery(queue).urgent
        (row,) = queue.find(instance(1).instance_id)
        assert row["deliveries"][0]["urgent"] is True  # type: ignore[index]

    @pytest.mark.parametrize(("verdict", "state", "reason"), [
        (DELIVERED, "delivered", ""),
        (Verdict("delivered", status=0x0111), "delivered", ""),
        (Verdict("deferred", "peer_unavailable"), "deferred", "peer_unavailable"),
        (Verdict("refused", "refused_by_peer", 0xA900), "hold", "refused_by_peer"),
        (Verdict("blocked", "association_rejected", 0x0124), "ready", "association_rejected"),
    ])
    def test_a_verdict_ends_the_claim(self, queue: Queue, verdict: Verdict, state: str, reason: str) -> None:
        """Each outcome has its state, and its reason and status are kept."""
        worked(queue, instance(), [output()])
        delivery = one_delivery(queue)
        queue.settle(delivery, ME, verdict, NOW, LATER)
        (row,) = queue.find(delivery.sop_instance_uid)
        kept = row["deliveries"][0]  # type: ignore[index]
        assert (kept["state"], kept["reason"], kept["status"]) == (state, reason, verdict.status)
        with pytest.raises(LeaseLost):
            queue.settle(delivery, ME, DELIVERED, NOW)

    def test_a_deferred_delivery_is_due_at_its_time(self, queue: Queue) -> None:
        """Not before, and its attempts count on."""
        worked(queue, instance(), [output()])
        queue.settle(one_delivery(queue), ME, Verdict("deferred", "no_status"), NOW, LATER)
        assert queue.claim_deliveries("pacs", ME, 10, LATER - timedelta(seconds=1)) == ()
        assert one_delivery(queue, LATER).attempt == 2

    def test_a_delivery_given_back_untried_has_not_counted(self, queue: Queue) -> None:
        """The rest of a batch loses nothing when its lane stops."""
        worked(queue, instance(), [output()])
        delivery = one_delivery(queue)
        queue.unclaim(delivery, ME)
        with pytest.raises(LeaseLost):
            queue.unclaim(delivery, ME)
        assert one_delivery(queue).attempt == 1

    def test_a_delivery_expires_unless_it_is_delivered_held_or_in_hand(self, queue: Queue) -> None:
        """A lifetime that is over sets aside what waits; a retry gives a new lifetime."""
        for number in (1, 2, 3, 4):
            worked(queue, instance(number), [output(number)])
        sent, refused, in_hand = queue.claim_deliveries("pacs", ME, 3, NOW)
        queue.settle(sent, ME, DELIVERED, NOW)
        queue.settle(refused, ME, Verdict("refused", "refused_by_peer"), NOW)
        day = timedelta(days=1)
        assert queue.expire(day, NOW + day) == ()
        assert [one.instance_id for one in queue.expire(day, NOW + day * 2)] == [instance(4).instance_id]
        assert in_hand.instance_id == instance(3).instance_id
        assert deliveries_of(queue, instance(4)) == [("sr", "pacs", "expired")]
        assert queue.retry(instance(4).instance_id, NOW + day * 2) == 1
        assert queue.expire(day, NOW + day * 2) == ()
        assert one_delivery(queue, NOW + day * 2).instance_id == instance(4).instance_id

    def test_the_state_of_a_destination_is_kept(self, queue: Queue) -> None:
        """Up until told; since counts from the change of state; a change of reason is told too."""
        assert queue.destination_state("pacs") == ("up", "", None)
        assert queue.set_destination("pacs", "down", "peer_unavailable", NOW)
        assert not queue.set_destination("pacs", "down", "peer_unavailable", LATER)
        assert queue.set_destination("pacs", "down", "association_rejected_transient", LATER)
        assert queue.destination_state("pacs") == ("down", "association_rejected_transient", NOW)
        assert queue.set_destination("pacs", "up", "", LATER)
        assert queue.destination_state("pacs") == ("up", "", LATER)

    # -- the dead
    def test_rows_of_the_living_are_left_and_of_the_dead_taken_back(self, queue: Queue) -> None:
        """Each claim is judged by its own owner."""
        queue.add(instance(1))
        queue.add(instance(2))
        claimed(queue, ME)
        claimed(queue, OTHER)
        (taken,) = queue.reclaim(lambda owner: owner == ME)
        assert taken == Reclaimed("instance", instance(2).instance_id, attempt=1, set_aside=False)
        assert (state_of(queue, instance(1)), state_of(queue, instance(2))) == ("active", "waiting")

    def test_the_third_death_on_an_instance_is_quarantine(self, queue: Queue) -> None:
        """Deaths count, attempts that ended in order between them do not; a retry by a person starts afresh."""
        queue.add(instance())
        for _ in range(5):
            queue.defer(claimed(queue), ME, "spool_full", NOW)
        for death in (1, 2, 3):
            claimed(queue)
            (taken,) = queue.reclaim(lambda _: False)
            assert taken.set_aside == (death == 3)
        (row,) = queue.find(instance().instance_id)
        assert (row["state"], row["reason"]) == ("quarantine", "died_thrice")
        assert queue.retry(instance().instance_id, NOW) == 1
        claimed(queue)
        assert [taken.set_aside for taken in queue.reclaim(lambda _: False)] == [False]

    def test_the_third_death_on_a_delivery_is_hold_but_its_batch_is_innocent(self, queue: Queue) -> None:
        """Only the oldest of a dead lane's deliveries was in hand; what waited behind it goes on."""
        for number in (1, 2):
            worked(queue, instance(number), [output(number)])
        for _ in range(3):
            assert len(queue.claim_deliveries("pacs", ME, 10, NOW)) == 2
            taken = queue.reclaim(lambda _: False)
        assert [(one.kind, one.set_aside) for one in taken] == [("delivery", True), ("delivery", False)]
        assert deliveries_of(queue, instance(1)) == [("sr", "pacs", "hold")]
        assert deliveries_of(queue, instance(2)) == [("sr", "pacs", "ready")]

    def test_the_first_of_a_dead_batch_counts_the_death_in_the_order_of_sending(self, queue: Queue) -> None:
        """An urgent delivery that kills its sender is set aside, not the ordinary one that is older and waited behind it."""
        several(queue, 1, 2, urgent=False)
        several(queue, 3, 3, urgent=True)
        for _ in range(3):
            assert kinds(queue.claim_deliveries("pacs", ME, 10, NOW)) == "UOO"
            queue.reclaim(lambda _: False)
        states = [deliveries_of(queue, instance(number))[0][2] for number in (1, 2, 3)]
        assert states == ["ready", "ready", "hold"]

    def test_a_living_process_can_let_go_of_what_it_could_not_end(self, queue: Queue) -> None:
        """Its own rows only, of one destination only, and neither try nor death is counted."""
        for number in (1, 2):
            worked(queue, instance(number), [output(number, ("pacs", "lab"))])
        queue.claim_deliveries("pacs", ME, 1, NOW)
        queue.claim_deliveries("pacs", OTHER, 1, NOW)
        queue.claim_deliveries("lab", ME, 1, NOW)
        assert queue.let_go(ME, "pacs") == 1
        assert [(one.instance_id, one.attempt) for one in queue.claim_deliveries("pacs", OTHER, 9, NOW)] == [
            (instance(1).instance_id, 1),
        ]
        queue.add(instance(3))
        claim = claimed(queue)
        assert (queue.let_go(OTHER), queue.let_go(ME)) == (0, 1)
        assert claimed(queue, OTHER).attempt == claim.attempt == 1

    # -- keeping
    def test_files_are_removable_when_all_is_delivered_and_their_time_is_over(self, queue: Queue) -> None:
        """A source waits for every delivery, a result for every destination; a note that they are gone ends it."""
        worked(queue, instance(), [output(1, ("pacs", "lab"))])
        after = NOW + timedelta(hours=2)
        queue.settle(one_delivery(queue), ME, DELIVERED, LATER)
        assert queue.removable(after) == ()
        (other,) = queue.claim_deliveries("lab", ME, 1, NOW)
        queue.settle(other, ME, DELIVERED, LATER)
        assert queue.removable(LATER) == ()
        removable = (("source", instance().location), ("result", "outgoing/2.25.1.dcm"))
        assert queue.removable(after) == removable
        assert instance().instance_id in queue.locations()
        assert queue.results() == {"outgoing/2.25.1.dcm"}
        queue.removed(location for _, location in removable)
        assert (queue.removable(after), queue.locations(), queue.results()) == ((), {}, frozenset())

    @pytest.mark.parametrize("state", ["waiting", "active", "deferred", "hold", "quarantine", "held output", "refused"])
    def test_the_file_of_what_has_not_ended_is_never_removable(self, queue: Queue, state: str) -> None:
        """However old it is."""
        queue.add(instance())
        if state != "waiting":
            claim = claimed(queue)
            if state == "deferred":
                queue.defer(claim, ME, "spool_full", NOW)
            elif state in ("hold", "quarantine"):
                {"hold": queue.hold, "quarantine": queue.quarantine}[state](claim, ME, "undecodable")
            elif state == "held output":
                queue.finish(claim, ME, SUMMARY, [], [Held("sc", ("pacs",), "redaction_uncertain")], NOW)
            elif state == "refused":
                queue.finish(claim, ME, SUMMARY, [output()], [], NOW)
                queue.settle(one_delivery(queue), ME, Verdict("refused", "refused_by_peer"), NOW)
        assert queue.removable(datetime(2099, 1, 1, tzinfo=UTC)) == ()
        assert queue.forget(datetime(2099, 1, 1, tzinfo=UTC)) == 0

    def test_files_of_duplicates_own_results_and_dropped_instances_are_removable(self, queue: Queue) -> None:
        """They are ended without a delivery."""
        queue.add(instance(1, uid="1.2", sha256="a"))
        queue.add(instance(2, uid="1.2", sha256="a"))
        queue.add(instance(3, own=True))
        queue.add(instance(4))
        queue.drop(instance(4).instance_id, NOW)
        gone = [location for _, location in queue.removable(datetime(2099, 1, 1, tzinfo=UTC))]
        assert gone == [instance(n).location for n in (2, 3, 4)]

    def test_rows_are_forgotten_only_when_their_files_are_gone(self, queue: Queue) -> None:
        """Then with their deliveries and the acts on them, and only when old enough."""
        far = datetime(2099, 1, 1, tzinfo=UTC)
        worked(queue, instance(1), [output()])
        queue.settle(one_delivery(queue), ME, DELIVERED, NOW)
        queue.add(instance(2))
        assert queue.forget(far) == 0
        queue.removed(location for _, location in queue.removable(far))
        assert queue.forget(NOW) == 0
        assert queue.forget(far) == 1
        assert (queue.find(instance(1).instance_id), len(queue.rows())) == ((), 1)

    def test_an_abnormal_finding_is_told_until_it_was_told(self, queue: Queue) -> None:
        """Each once, with what a hook needs and no more."""
        queue.add(instance(1))
        queue.finish(claimed(queue), ME, dataclasses.replace(SUMMARY, abnormal=True), [], [], NOW)
        worked(queue, instance(2))
        told = {"instance_id": instance(1).instance_id, "model": "model 1", "finding": "fracture", "probability": 0.7}
        assert queue.untold(10) == (told,)
        queue.told([instance(1).instance_id])
        assert queue.untold(10) == ()

    @pytest.mark.parametrize(("finding", "news"), [("fracture", 0), ("mass", 1)])
    def test_a_finding_that_is_found_again_is_no_news(self, queue: Queue, finding: str, news: int) -> None:
        """Neither in a rework nor under another header; another finding is."""
        abnormal = dataclasses.replace(SUMMARY, abnormal=True)
        queue.add(instance(1))
        queue.finish(claimed(queue), ME, abnormal, [], [], NOW)
        queue.told([instance(1).instance_id])
        queue.retry(instance(1).instance_id, NOW)
        queue.finish(claimed(queue), ME, dataclasses.replace(abnormal, finding=finding), [], [], NOW)
        queue.add(instance(2))
        queue.finish(claimed(queue), ME, abnormal, [output(kind="original")], [], NOW, "header_differs")
        assert len(queue.untold(10)) == news

    def test_what_waits_for_people_is_counted_once_an_instance(self, queue: Queue) -> None:
        """On hold, in quarantine, or done with an output on hold."""
        assert queue.aside() == (0, ())
        worked(queue, instance(1), [], [Held("sc", ("pacs", "lab"), "redaction_uncertain")])
        queue.add(instance(2))
        queue.hold(claimed(queue), ME, "pixels_differ")
        queue.add(instance(3))
        assert queue.aside() == (2, (instance(1).location, instance(2).location))

    def test_what_is_kept_for_people_are_sources_and_results(self, queue: Queue) -> None:
        """A result on hold is kept with its source, one that is delivered is not; what was dropped is kept no more."""
        worked(queue, instance(1), [output(1), output(2)])
        first, second = queue.claim_deliveries("pacs", ME, 2, NOW)
        queue.settle(first, ME, Verdict("refused", "refused_by_peer"), NOW)
        queue.settle(second, ME, DELIVERED, NOW)
        assert queue.aside() == (1, (instance(1).location, first.location))
        queue.drop(instance(1).instance_id, NOW)
        assert queue.aside() == (0, ())

    def test_the_day_is_counted(self, queue: Queue) -> None:
        """What came, what went, what waits."""
        worked(queue, instance(1), [output(1, ("pacs", "lab"))], [Held("sc", ("pacs",), "redaction_uncertain")])
        queue.settle(one_delivery(queue), ME, DELIVERED, NOW)
        queue.add(instance(2))
        queue.add_unreadable(instance(3).instance_id, "quarantine/x.dcm", 5, NOW, "undecodable")
        counted = {"received": 3, "delivered": 1, "waiting": 2, "held": 1, "quarantined": 1}
        assert queue.day(NOW - timedelta(hours=1)) == counted
        assert queue.day(LATER) == {**counted, "received": 0, "delivered": 0}

    # -- people
    def test_an_instance_is_found_by_each_of_its_names(self, queue: Queue) -> None:
        """Its id, its SOP Instance UID, a result's UID."""
        worked(queue, instance(), [output()])
        for key in (instance().instance_id, "1.2.1", "2.25.1"):
            assert [row["instance_id"] for row in queue.find(key)] == [instance().instance_id]
        assert queue.find("") == queue.find("1.2") == ()

    # -- the ledger
    def test_everything_that_happens_is_in_the_history(self, queue: Queue) -> None:
        """From intake to the removal of files: old state, new state, reason, destination and status, in order."""
        queue.add(instance())
        queue.defer(claimed(queue), ME, "spool_full", NOW)
        queue.finish(claimed(queue), ME, SUMMARY, [output(1)], [Held("sc", ("lab",), "redaction_uncertain")], NOW)
        queue.settle(one_delivery(queue), ME, Verdict("deferred", "peer_out_of_resources", 0xA701), NOW, NOW)
        queue.settle(one_delivery(queue), ME, DELIVERED, LATER)
        queue.drop(instance().instance_id, LATER, "anna")
        queue.removed([instance().location, "outgoing/2.25.1.dcm"])
        events = queue.history(instance().instance_id)
        sr, sc = ("sr", "pacs"), ("sc", "lab")
        assert [(e["kind"], e["destination"], e["old"], e["new"], e["reason"], e["status"]) for e in events] == [
            ("", "", "", "waiting", "", None),
            ("", "", "waiting", "active", "", None),
            ("", "", "active", "deferred", "spool_full", None),
            ("", "", "deferred", "active", "", None),
            ("", "", "active", "done", "", None),
            (*sr, "", "ready", "", None),
            (*sc, "", "hold", "redaction_uncertain", None),
            (*sr, "ready", "active", "", None),
            (*sr, "active", "deferred", "peer_out_of_resources", 0xA701),
            (*sr, "deferred", "active", "", None),
            (*sr, "active", "delivered", "", 0),
            (*sc, "hold", "dropped", "redaction_uncertain", None),
            ("", "", "done", "removed", "", None),
            (*sr, "delivered", "removed", "", None),
        ]
        assert events[10]["at"] == LATER.isoformat()
        assert [str(e["who"]).startswith("person anna") for e in events].count(True) == 1
        assert events[11]["who"] == "person anna"

    @pytest.mark.parametrize("act", ["retry", "release", "drop"])
    def test_what_a_person_did_is_in_the_history_with_the_account(self, queue: Queue, act: str) -> None:
        """And what the node does next is its own again."""
        queue.add(instance())
        queue.hold(claimed(queue), ME, "pixels_differ")
        {"retry": queue.retry, "release": queue.release, "drop": queue.drop}[act](instance().instance_id, LATER, "anna")
        event = queue.history(instance().instance_id)[-1]
        assert (event["old"], event["who"], event["at"]) == ("hold", "person anna", LATER.isoformat())
        queue.add(instance(2))
        assert "person" not in str(queue.history(instance(2).instance_id)[0]["who"])

    def test_a_death_and_a_giving_back_are_told_apart(self, queue: Queue) -> None:
        """Of an instance and of a delivery."""
        queue.add(instance())
        claimed(queue)
        queue.let_go(ME)
        claimed(queue)
        queue.reclaim(lambda _: False)
        queue.finish(claimed(queue), ME, SUMMARY, [output()], [], NOW)
        queue.unclaim(one_delivery(queue), ME)
        one_delivery(queue)
        queue.reclaim(lambda _: False)
        ends = [(e["kind"], e["new"]) for e in queue.history(instance().instance_id) if e["old"] == "active"]
        assert ends == [("", "given back"), ("", "waiting"), ("", "done"), ("sr", "given back"), ("sr", "ready")]

    def test_what_comes_again_and_again_is_told_once_with_its_times(self, queue: Queue) -> None:
        """A destination that is down for days does not fill the ledger; another reason is another event."""
        worked(queue, instance(), [output()])
        before = len(queue.history(instance().instance_id))
        for minute in range(50):
            now = NOW + timedelta(minutes=minute)
            reason = "peer_unavailable" if minute < 40 else "no_status"
            queue.settle(one_delivery(queue, now), ME, Verdict("deferred", reason), now + timedelta(seconds=1), now)
        told = queue.history(instance().instance_id)[before:]
        assert [(e["old"], e["new"], e["reason"], e["times"]) for e in told] == [
            ("ready", "active", "", 1), ("active", "deferred", "peer_unavailable", 40), ("deferred", "active", "", 49),
            ("active", "deferred", "no_status", 10),
        ]
        assert [told[1]["at"], told[1]["last_at"]] == [
            (NOW + timedelta(minutes=minute, seconds=1)).isoformat() for minute in (0, 39)
        ]

    def test_the_history_goes_with_its_row_and_only_then(self, queue: Queue) -> None:
        """A row that is taken away to be read anew keeps it; one that is forgotten does not."""
        queue.add_unreadable(instance(1).instance_id, "quarantine/x.dcm", 5, NOW, "undecodable")
        queue.retry(instance(1).instance_id, NOW, "anna")
        queue.add(instance(1))
        assert [e["new"] for e in queue.history(instance(1).instance_id)] == ["quarantine", "deleted", "waiting"]
        queue.drop(instance(1).instance_id, NOW)
        queue.removed([instance(1).location])
        assert queue.forget(datetime(2099, 1, 1, tzinfo=UTC)) == 1
        assert queue.history(instance(1).instance_id) == ()

    def test_a_held_output_that_is_made_again_is_replaced(self, queue: Queue) -> None:
        """Its place goes, its history stays."""
        worked(queue, instance(), [], [Held("sc", ("pacs",), "redaction_uncertain")])
        queue.release(instance().instance_id, NOW, "anna")
        told = queue.history(instance().instance_id)[-2:]
        assert [(e["kind"], e["old"], e["new"], e["who"]) for e in told] == [
            ("sc", "hold", "replaced", "person anna"), ("", "done", "waiting", "person anna"),
        ]

    def test_an_instance_is_traced_by_whatever_people_call_it(self, queue: Queue) -> None:
        """By each name alone, with the sides of the account, the newest up to the limit."""
        one = dataclasses.replace(instance(1), series_instance_uid="1.3.1", accession_token="acc-1")  # noqa: S106
        worked(queue, one, [output(1)])
        other = dataclasses.replace(instance(2), study_instance_uid="1.5", calling_ae="CT 2")
        queue.add(other)
        names: list[tuple[Name, str, list[int]]] = [
            ("instance id", one.instance_id, [1]), ("SOP Instance UID", "1.2.2", [2]), ("result UID", "2.25.1", [1]),
            ("Series Instance UID", "1.3.1", [1]), ("Study Instance UID", "1.5", [2]), ("Accession Number", "acc-1", [1]),
            ("calling AE title", "ct 2", [2]), ("destination", "PACS", [1]),
        ]
        for name, value, found in names:
            traced = queue.trace(name, value, 0)
            assert traced.ids == tuple(instance(number).instance_id for number in found)
            assert traced.sides == {"waiting": 1}
            assert queue.trace(name, value + "0", 0) == queue.trace(name, "", 0) == Traced({}, ())
        assert set(queue.names()) == {
            ("1.2.1", one.instance_id), ("2.25.1", one.instance_id), ("1.2.2", other.instance_id),
        }

    def test_of_many_the_newest_are_traced_and_all_are_counted(self, queue: Queue) -> None:
        """Each on its side."""
        worked(queue, instance(1))
        worked(queue, instance(2), [], [Held("sc", ("pacs",), "undecodable")])
        for number in (3, 4):
            queue.add(instance(number))
        found = Traced({"delivered": 1, "held": 1, "waiting": 2}, (instance(3).instance_id, instance(4).instance_id))
        assert queue.trace("Study Instance UID", "1.4", 2) == found

    # -- the account
    def test_every_instance_is_on_one_side_of_the_account(self, queue: Queue) -> None:
        """What is done is delivered when everything of it has ended, held when a person must look."""
        assert queue.accounts() == {}
        for number in range(1, 6):
            worked(queue, instance(number), [output(number)] if number < 5 else [])
        sent, refused, dropped, _ = queue.claim_deliveries("pacs", ME, 4, NOW)
        queue.settle(sent, ME, DELIVERED, NOW)
        queue.settle(refused, ME, Verdict("refused", "refused_by_peer"), NOW)
        queue.drop(dropped.instance_id, NOW)
        queue.add(instance(6, own=True))
        queue.add(instance(7, uid="1.2.5", sha256=instance(5).sha256))
        queue.add(instance(8))
        queue.add_unreadable(instance(9).instance_id, "quarantine/x.dcm", 5, NOW, "undecodable")
        queue.add(instance(10))
        queue.drop(instance(10).instance_id, NOW)
        assert queue.accounts() == {
            "delivered": 3, "held": 1, "waiting": 2, "own": 1, "duplicate": 1, "quarantined": 1, "dropped": 1,
        }
        assert queue.unknown([instance(n).instance_id for n in (10, 11, 1, 12)]) == (
            instance(11).instance_id, instance(12).instance_id,
        )
        assert [claim.owner for claim in queue.claims()] == [ME]

    def test_files_are_needed_until_everything_that_counts_on_them_has_ended(self, queue: Queue) -> None:
        """The source of what is to be worked, also for an output that is held; a result until it is taken."""
        worked(queue, instance(1), [output(1)], [Held("sc", ("lab",), "redaction_uncertain")])
        queue.add(instance(2))
        one, two = instance(1), instance(2)
        assert set(queue.needed()) == {
            Needed(one.instance_id, "done", "", "", one.location),
            Needed(one.instance_id, "ready", "sr", "pacs", "outgoing/2.25.1.dcm"),
            Needed(two.instance_id, "waiting", "", "", two.location),
        }
        queue.settle(one_delivery(queue), ME, DELIVERED, NOW)
        queue.drop(one.instance_id, NOW)
        queue.finish(claimed(queue), ME, SUMMARY, [], [], NOW)
        assert queue.needed() == ()

    def test_what_a_person_hastens_goes_first_from_then_on(self, queue: Queue) -> None:
        """Work and deliveries, those that are still to be made too; what has ended stays as it is."""
        for number in (1, 2, 3):
            queue.add(instance(number))
        assert queue.hasten(instance(3).instance_id, NOW, "anna") == 1
        claim = claimed(queue)
        assert claim.instance == instance(3)
        queue.finish(claim, ME, SUMMARY, [output(3)], [Held("sc", ("pacs",), "undecodable")], NOW)
        assert queue.find(instance(3).instance_id)[0]["acts"][0]["what"] == "urgent"  # type: ignore[index]
        assert kinds(queue.claim_deliveries("pacs", ME, 9, NOW)) == "U"
        assert queue.hasten(instance(3).instance_id, NOW) == 0
        queue.finish(claimed(queue), ME, SUMMARY, [output(1)], [], NOW)
        assert queue.hasten(instance(1).instance_id, NOW) == 1
        assert [e["new"] for e in queue.history(instance(1).instance_id)][-1] == "urgent"

    def test_rows_are_listed_by_state_of_instance_or_delivery(self, queue: Queue) -> None:
        """Oldest first, no more than asked for."""
        worked(queue, instance(1), [output()])
        queue.add(instance(2))
        queue.add(instance(3))
        assert [row["instance_id"] for row in queue.rows()] == [instance(n).instance_id for n in (1, 2, 3)]
        assert [row["instance_id"] for row in queue.rows(states=["waiting"], limit=1)] == [instance(2).instance_id]
        assert [row["instance_id"] for row in queue.rows(states=["ready", "hold"])] == [instance(1).instance_id]

    def test_certificates_are_kept_with_the_instance(self, queue: Queue) -> None:
        """One for each object, of every generation, found by any of its names; the same object made again has one."""
        made = dataclasses.replace(output(1, kind="deidentified", identity="removed"), certificate={"certificate": 1, "a": [2]})
        claim = worked(queue, instance(1), [made, output(2)])
        assert queue.find("2.25.1")[0]["certificates"] == [{"certificate": 1, "a": [2]}]
        assert "certificates" not in queue.rows()[0]
        assert worked(queue, instance(2)).instance.instance_id != claim.instance.instance_id
        assert queue.find(instance(2).instance_id)[0]["certificates"] == []
        for _ in (1, 2):
            (delivery,) = queue.claim_deliveries("pacs", ME, 1, NOW)
            queue.settle(delivery, ME, DELIVERED, NOW)
        queue.retry(instance(1).instance_id, NOW)
        again = [dataclasses.replace(made, certificate={"certificate": 1, "a": [number]}) for number in (3, 4)]
        again[1] = dataclasses.replace(again[1], sop_instance_uid="2.25.3", location="outgoing/2.25.3.dcm")
        queue.finish(claimed(queue), ME, SUMMARY, again, [], NOW)
        found = queue.find(instance(1).instance_id)[0]["certificates"]
        assert found == [{"certificate": 1, "a": [3]}, {"certificate": 1, "a": [4]}]

    def test_a_claim_that_was_lost_keeps_no_certificate(self, queue: Queue) -> None:
        """It is written with the end of the work, or not at all."""
        queue.add(instance())
        claim = claimed(queue)
        queue.let_go(ME)
        with pytest.raises(LeaseLost):
            queue.finish(claim, ME, SUMMARY, [dataclasses.replace(output(), certificate={"certificate": 1})], [], NOW)
        assert queue.find(instance().instance_id)[0]["certificates"] == []

    def test_counts_are_by_state_and_destination(self, queue: Queue) -> None:
        """Instances with bytes and the oldest, deliveries, each lane."""
        worked(queue, instance(1), [output(1, ("pacs", "lab"))])
        queue.add(instance(2))
        queue.set_destination("pacs", "down", "peer_unavailable", NOW)
        counts = queue.counts()
        assert counts["instances"]["waiting"] == {"count": 1, "bytes": 1000, "oldest": NOW.isoformat()}
        assert counts["deliveries"]["ready"] == {"count": 2, "oldest": NOW.isoformat()}
        assert counts["to pacs"]["ready"] == {"count": 1, "urgent": 0, "oldest": NOW.isoformat()}
        assert counts["to pacs"]["lane"] == {"state": "down", "reason": "peer_unavailable", "since": NOW.isoformat()}

    def test_retry_works_again_under_the_same_rules(self, queue: Queue) -> None:
        """From hold: nothing is waived or accepted; who did it is kept."""
        queue.add(instance())
        queue.hold(claimed(queue), ME, "pixels_differ")
        assert queue.retry(instance().instance_id, NOW, "anna") == 1
        claim = claimed(queue)
        assert (claim.attempt, claim.generation, claim.waived, claim.accepted) == (1, 0, False, False)
        (row,) = queue.find(instance().instance_id)
        assert row["acts"] == [{"at": NOW.isoformat(), "who": "anna", "what": "retry", "rows": 1}]

    @pytest.mark.parametrize("reason", ["redaction_uncertain", "text_left_after_blanking"])
    def test_release_waives_what_redaction_holds(self, queue: Queue, reason: str) -> None:
        """A person answers for what redaction is not sure of, and for what its second look has found."""
        worked(queue, instance(), [], [Held("sc", ("pacs",), reason)])
        queue.release(instance().instance_id, NOW, "anna")
        assert claimed(queue).waived

    def test_retry_opens_the_lane_of_a_blocked_destination(self, queue: Queue) -> None:
        """Who retries has mended something: the sender need not wait for its slow probe; other lanes stay as they are."""
        worked(queue, instance(), [output()])
        queue.set_destination("pacs", "blocked", "association_rejected", NOW)
        queue.set_destination("lab", "blocked", "association_rejected", NOW)
        queue.retry(instance().instance_id, LATER)
        assert queue.destination_state("pacs") == ("up", "", LATER)
        assert queue.destination_state("lab")[0] == "blocked"

    def test_who_opened_a_lane_is_kept(self, queue: Queue) -> None:
        """Also where nothing else changed: what waited was ready all the time."""
        queue.add(instance(1))
        queue.finish(claimed(queue), ME, SUMMARY, [output(1)], [], NOW)
        queue.set_destination("pacs", "blocked", "association_rejected", NOW)
        assert queue.retry(instance(1).instance_id, NOW, "anna") == 1
        (row,) = queue.find(instance(1).instance_id)
        assert [(act["who"], act["what"]) for act in row["acts"]] == [("anna", "retry")]  # type: ignore[attr-defined]
        assert queue.retry(instance(1).instance_id, NOW, "anna") == 0

    def test_retry_of_a_held_output_makes_the_next_generation_without_waiving(self, queue: Queue) -> None:
        """Redaction is asked again; the former results are named, the empty place on hold is gone."""
        worked(queue, instance(), [output()], [Held("sc", ("pacs",), "redaction_uncertain")])
        assert queue.retry(instance().instance_id, NOW) == 1
        claim = claimed(queue)
        assert (claim.generation, claim.waived) == (1, False)
        assert claim.predecessors == (("sr", "kept", SR, "2.25.1"),)
        queue.finish(claim, ME, SUMMARY, [output(2, kind="sc")], [], NOW)
        assert deliveries_of(queue, instance()) == [("sr", "pacs", "ready"), ("sc", "pacs", "ready")]
        assert queue.verify() == ()

    @pytest.mark.parametrize("act", ["retry", "release"])
    def test_only_what_was_held_is_made_again(self, queue: Queue, act: str) -> None:
        """By kind and destination, as long as it takes; what was sent and found stays as it is."""
        held = [Held("sc", ("pacs", "lab"), "redaction_uncertain"), Held("deidentified", ("study",), "undecodable")]
        worked(queue, instance(), [output()], held)
        {"retry": queue.retry, "release": queue.release}[act](instance().instance_id, NOW)
        asked = frozenset({("sc", "pacs"), ("sc", "lab"), ("deidentified", "study")})
        claim = claimed(queue)
        assert claim.only == asked
        queue.quarantine(claim, ME, "stage_failed")
        queue.retry(instance().instance_id, NOW)
        claim = claimed(queue)
        assert (claim.only, claim.generation) == (asked, 1)
        empty = dataclasses.replace(SUMMARY, model="", finding="", finding_probability=0.0, regions=0, findings=())
        queue.finish(claim, ME, empty, [output(2, ("pacs", "lab"), "sc")], [held[1]], NOW)
        (row,) = queue.find(instance().instance_id)
        assert (row["model"], row["finding"], row["regions"]) == ("model 1", "fracture", 2)
        assert row["findings"] == list(SUMMARY.findings)
        assert deliveries_of(queue, instance()) == [
            ("sr", "pacs", "ready"), ("sc", "pacs", "ready"), ("sc", "lab", "ready"), ("deidentified", "study", "hold"),
        ]
        assert queue.verify() == ()

    def test_retry_of_what_was_delivered_is_a_rework_on_purpose(self, queue: Queue) -> None:
        """The next generation makes everything, an original too; each result of each side is named for its own."""
        outputs = [output(1), output(2, ("study",), identity="removed"), output(7, kind="original")]
        worked(queue, instance(), outputs)
        for destination in ("pacs", "study"):
            assert queue.retry(instance().instance_id, NOW) == 0, "something is still to be sent"
            for delivery in queue.claim_deliveries(destination, ME, 9, NOW):
                queue.settle(delivery, ME, DELIVERED, NOW)
        assert queue.retry(instance().instance_id, NOW, "anna") == 1
        claim = claimed(queue)
        assert (claim.generation, claim.only, claim.waived) == (1, None, False)
        assert claim.predecessors == (("sr", "kept", SR, "2.25.1"), ("sr", "removed", SR, "2.25.2"))
        queue.finish(claim, ME, SUMMARY, [output(3), output(7, kind="original")], [Held("sc", ("pacs",), "undecodable")], NOW)
        assert deliveries_of(queue, instance())[3:] == [
            ("sr", "pacs", "ready"), ("original", "pacs", "ready"), ("sc", "pacs", "hold"),
        ]
        assert queue.verify() == ()

    def test_the_generation_before_is_named_of_what_was_not_made_in_between_the_last_one(self, queue: Queue) -> None:
        """After a work on some outputs only: one predecessor each, never a dropped one, never an older one beside it."""
        worked(queue, instance(), [output(1)], [Held("sc", ("pacs",), "undecodable")])
        queue.settle(one_delivery(queue), ME, DELIVERED, NOW)
        for number in (2, 3):
            queue.retry(instance().instance_id, NOW)
            outputs = [output(number, kind="sc")] if number == 2 else [output(4), output(number, kind="sc")]
            queue.finish(claimed(queue), ME, SUMMARY, outputs, [], NOW)
            for delivery in queue.claim_deliveries("pacs", ME, 9, NOW):
                queue.settle(delivery, ME, DELIVERED, NOW)
        queue.retry(instance().instance_id, NOW)
        claim = claimed(queue)
        assert claim.generation == 3
        assert set(claim.predecessors) == {("sr", "kept", SR, "2.25.4"), ("sc", "kept", SR, "2.25.3")}

    def test_nothing_is_reworked_whose_source_is_gone(self, queue: Queue) -> None:
        """Retention has ended it."""
        worked(queue, instance())
        queue.removed([instance().location])
        assert queue.retry(instance().instance_id, NOW) == 0

    def test_release_waives_redaction_and_stays_waived(self, queue: Queue) -> None:
        """The person's word holds for this instance, also when a later retry works it again."""
        worked(queue, instance(), [], [Held("sc", ("pacs",), "redaction_uncertain")])
        assert queue.release(instance().instance_id, NOW) == 1
        claim = claimed(queue)
        assert (claim.generation, claim.waived, claim.accepted) == (1, True, False)
        queue.quarantine(claim, ME, "stage_failed")
        queue.retry(instance().instance_id, NOW)
        assert claimed(queue).waived

    def test_release_waives_nothing_for_what_could_not_be_looked_at(self, queue: Queue) -> None:
        """Undecodable is never clean: it is only tried again."""
        worked(queue, instance(), [], [Held("sc", ("pacs",), "undecodable")])
        assert queue.release(instance().instance_id, NOW) == 1
        assert not claimed(queue).waived

    @pytest.mark.parametrize("reason", ["body_part_uncertain", "tag_disagrees"])
    @pytest.mark.parametrize("act", ["retry", "release"])
    def test_release_settles_what_a_rule_held(self, queue: Queue, act: str, reason: str) -> None:
        """A person has looked; a retry has not. Redaction is another question."""
        worked(queue, instance(), [], [Held("sc", ("pacs",), reason)])
        assert {"retry": queue.retry, "release": queue.release}[act](instance().instance_id, NOW) == 1
        claim = claimed(queue)
        assert (claim.settled, claim.waived) == (act == "release", False)

    # -- Body Part Examined
    def test_what_picture_and_tag_said_is_counted_by_device(self, queue: Queue) -> None:
        """Equal words of one device share a row that names the newest instance; the row of the instance has them too."""
        for number, change in enumerate(({}, {}, {"tag": "chest"}, {"device": "dev-b"}, {"agreement": ""}), 1):
            queue.add(instance(number))
            queue.finish(claimed(queue), ME, dataclasses.replace(SAID, **change), [], [], NOW)
        assert counted(queue) == [
            ("dev-a", "spine", "abdomen", "disagrees", 2, instance_id(2)),
            ("dev-a", "spine", "chest", "disagrees", 1, instance_id(3)),
            ("dev-b", "spine", "abdomen", "disagrees", 1, instance_id(4)),
        ]
        row = queue.find(instance(1).instance_id)[0]
        assert {key: row[key] for key in ("picture", "tag", "agreement", "doubt", "device")} == {
            "picture": "spine", "tag": "abdomen", "agreement": "disagrees", "doubt": "", "device": "dev-a",
        }

    def test_an_instance_is_counted_once(self, queue: Queue) -> None:
        """Deaths before the end count nothing, and neither does a rework, a release or another header of the same pixels."""
        queue.add(instance(1))
        for _ in range(2):
            claimed(queue, OTHER)
            queue.reclaim(lambda owner: owner != OTHER)
        assert counted(queue) == []
        queue.finish(claimed(queue), ME, SAID, [], [Held("sc", ("pacs",), "tag_disagrees")], NOW)
        queue.release(instance(1).instance_id, NOW)
        queue.finish(claimed(queue), ME, SAID, [output(1)], [], NOW)
        queue.settle(one_delivery(queue), ME, DELIVERED, NOW)
        queue.retry(instance(1).instance_id, NOW)
        queue.finish(claimed(queue), ME, SAID, [output(2)], [], NOW)
        queue.add(instance(2, uid="1.2.1"))
        queue.finish(claimed(queue), ME, SAID, [], [], NOW, "header_differs")
        assert [row[-2] for row in counted(queue)] == [1]

    def test_a_claim_that_was_lost_counts_nothing(self, queue: Queue) -> None:
        """Count and end of the work are one transaction."""
        queue.add(instance())
        claim = claimed(queue, OTHER)
        queue.reclaim(lambda owner: owner != OTHER)
        with pytest.raises(LeaseLost):
            queue.finish(claim, OTHER, SAID, [], [], NOW)
        assert counted(queue) == []

    def test_counts_outlive_their_instances(self, queue: Queue) -> None:
        """The keeper forgets the instance; the counts of its day go by their own age."""
        queue.add(instance())
        queue.finish(claimed(queue), ME, SAID, [], [], NOW)
        queue.removed([instance().location])
        assert queue.forget(LATER) == 1
        assert [row[-2] for row in counted(queue)] == [1]
        assert (queue.forget_tags(NOW.date()), queue.forget_tags(NOW.date() + timedelta(days=1))) == (0, 1)
        assert counted(queue) == []

    @pytest.mark.parametrize(("first", "last", "found"), [(0, 1, 1), (-9, 0, 0), (1, 9, 0), (-1, 9, 1)])
    def test_counts_are_asked_for_by_the_day_of_reception(self, queue: Queue, first: int, last: int, found: int) -> None:
        """Whenever it was worked: the last day is not in it."""
        queue.add(instance())
        queue.finish(claimed(queue), ME, SAID, [], [], NOW + timedelta(days=3))
        assert len(queue.tags(NOW.date() + timedelta(days=first), NOW.date() + timedelta(days=last))) == found

    @pytest.mark.parametrize("reason", ["pixels_differ", "content_differs"])
    def test_release_of_what_differs_accepts_it_and_waives_no_redaction(self, queue: Queue, reason: str) -> None:
        """Two different holds, two different words of a person."""
        queue.add(instance())
        queue.hold(claimed(queue), ME, reason)
        assert queue.release(instance().instance_id, NOW) == 1
        claim = claimed(queue)
        assert (claim.accepted, claim.waived) == (True, False)

    @pytest.mark.parametrize("act", ["retry", "release"])
    def test_a_refused_delivery_is_sent_again(self, queue: Queue, act: str) -> None:
        """The very result, from its first attempt, without working the instance again."""
        worked(queue, instance(), [output()])
        queue.settle(one_delivery(queue), ME, Verdict("refused", "refused_by_peer", 0xA900), NOW)
        assert {"retry": queue.retry, "release": queue.release}[act](instance().instance_id, NOW) == 1
        assert one_delivery(queue).attempt == 1
        assert state_of(queue, instance()) == "done"

    def test_acts_on_what_has_ended_change_nothing(self, queue: Queue) -> None:
        """Delivered stays delivered unless it is retried, a duplicate stays one, and no act is noted."""
        worked(queue, instance(1, uid="1.2", sha256="a"), [output()])
        queue.settle(one_delivery(queue), ME, DELIVERED, NOW)
        queue.add(instance(2, uid="1.2", sha256="a"))
        for one, acts in ((instance(1), [queue.release, queue.drop]), (instance(2), [queue.retry, queue.release, queue.drop])):
            assert {act(one.instance_id, NOW) for act in acts} == {0}
            assert queue.find(one.instance_id)[0]["acts"] == []

    def test_drop_ends_everything_that_has_not_ended(self, queue: Queue) -> None:
        """Deliveries too; the worker or sender that has one in hand loses it; a dropped one never comes back."""
        worked(queue, instance(1), [output(1, ("pacs", "lab"))], [Held("sc", ("pacs",), "redaction_uncertain")])
        delivery = one_delivery(queue)
        assert queue.drop(instance(1).instance_id, NOW) == 3
        with pytest.raises(LeaseLost):
            queue.settle(delivery, ME, DELIVERED, NOW)
        queue.add(instance(2))
        claim = claimed(queue)
        assert queue.drop(instance(2).instance_id, NOW) == 1
        with pytest.raises(LeaseLost):
            queue.finish(claim, ME, SUMMARY, [output(2)], [], NOW)
        assert queue.retry(instance(2).instance_id, NOW) == 0
        assert queue.claim(ME, LATER) is None

    def test_retry_of_an_unreadable_file_has_it_read_again(self, queue: Queue) -> None:
        """Its row goes, so that the next intake finds the file without one; the act is still known then."""
        one = instance()
        queue.add_unreadable(one.instance_id, "quarantine/x.dcm", 5, NOW, "undecodable")
        assert queue.retry(one.instance_id, NOW, "anna") == 1
        assert not queue.known(one.instance_id)
        assert queue.add(one) == "waiting"
        assert queue.find(one.instance_id)[0]["acts"] != []

    @pytest.mark.parametrize("act", ["retry", "release", "drop", "hasten"])
    def test_acting_on_nothing_is_told(self, queue: Queue, act: str) -> None:
        """A mistyped id is not a success."""
        with pytest.raises(NotFound):
            getattr(queue, act)("20260301T120000000000-ffffffff", NOW)

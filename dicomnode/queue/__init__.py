"""The queue: what is to be done with which instance, and where its outputs go. This module is the protocol.

**Way** The keeper adds instances (`Queue.add`), a worker claims one at a time and ends the claim by exactly one of
`finish`, `defer`, `hold`, `quarantine` or `duplicate`; the sender claims deliveries and settles each with its `Verdict`.
A claim counts the attempt when it is taken and names its owner; `reclaim` gives back what dead owners hold. The commands
of ``dicomnode queue`` use the last group of methods.

**States** instance ``waiting → active → done``, else ``deferred``, ``hold``, ``quarantine``, ``duplicate``, ``own``,
``dropped``; delivery ``ready → active → delivered``, else ``deferred``, ``hold``, ``expired``, ``dropped``.

Rows of one SOP Instance UID are worked one after another: `claim` passes over an instance while another one with its UID
is active, or an earlier one is still to be worked.

**Fails** Ending a claim that is no longer held raises `LeaseLost`; naming what is not there raises `NotFound`; a backend
that cannot answer raises `QueueUnavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Literal, Protocol

from dicomnode.queue.items import (
    Claim,
    Claimed,
    InstanceState,
    Name,
    Names,
    Needed,
    NewOutput,
    Owner,
    Reclaimed,
    Settled,
    Sibling,
    Summary,
    Traced,
)
from dicomnode.records import Delivery, Held, Instance, Verdict

__all__ = [
    "Claim", "Claimed", "InstanceState", "Name", "Names", "Needed", "NewOutput", "Owner", "Queue", "Reclaimed",
    "Settled", "Sibling", "Summary", "Traced",
]


class Queue(Protocol):
    """What every backend does; `tests/unit/queue_contract.py` holds each to it."""

    # -- intake (keeper)
    def add(self, instance: Instance) -> InstanceState | None:
        """Insert a row, or do nothing and give None when ``instance_id`` has one.

        The state is ``own`` for an own result; ``duplicate`` when an earlier row (not dropped, not quarantined) has the
        same SOP Instance UID and the same sha256; else ``waiting``. A duplicate alone, whose original was dropped or
        quarantined, makes no duplicate, nor does a done instance whose deliveries were all dropped by a person.
        """
        ...

    def add_unreadable(self, instance_id: str, location: str, size_bytes: int, received_at: datetime, reason: str) -> None:
        """Insert a ``quarantine`` row for a file whose header cannot be read; nothing is done when it has a row."""
        ...

    def locations(self) -> Mapping[str, str]:
        """Every ``instance_id`` whose file is still kept, with its location."""
        ...

    def known(self, instance_id: str) -> bool:
        """Say whether this instance has a row."""
        ...

    # -- work (worker)
    def claim(self, owner: Owner, now: datetime) -> Claim | None:
        """Take the oldest row that is waiting, or deferred and due; its attempt is counted now."""
        ...

    def siblings(self, instance: Instance) -> tuple[Sibling, ...]:
        """Earlier rows of the same SOP Instance UID that a later one is to be compared with, oldest first.

        These are, were or will be worked, or are on hold. What was quarantined, is own or a duplicate, or was given up
        (dropped, or done with all its deliveries dropped) made nothing: whatever follows it is the first.
        """
        ...

    def finish(
        self, claim: Claim, owner: Owner, summary: Summary, outputs: Sequence[NewOutput], held: Sequence[Held], now: datetime,
        reason: str = "",
    ) -> None:
        """End the claim as ``done`` and make its deliveries (held ones in state hold), in one transaction; the certificates of
        its outputs are kept in the same one.

        A delivery that exists already (same output UID and destination, not dropped) is left as it is. Of a claim of some
        outputs only, what was not asked again (the finding, the regions) stays as it was found before. A finding is told
        once, also when it is found again. ``reason`` is a note on the row: ``header_differs``.
        """
        ...

    def defer(self, claim: Claim, owner: Owner, reason: str, due: datetime) -> None:
        """End the claim; the instance is due again at ``due``."""
        ...

    def hold(self, claim: Claim, owner: Owner, reason: str, pixel_digest: str = "") -> None:
        """End the claim; the instance waits for a person."""
        ...

    def quarantine(self, claim: Claim, owner: Owner, reason: str) -> None:
        """End the claim; the instance cannot be worked."""
        ...

    def duplicate(self, claim: Claim, owner: Owner, pixel_digest: str) -> None:
        """End the claim; the same pixels were worked under another header already, so its reason is ``header_differs``."""
        ...

    # -- delivery (sender)
    def claim_deliveries(
        self, destination: str, owner: Owner, limit: int, now: datetime, *, urgent_only: bool = False,
    ) -> tuple[Delivery, ...]:
        """Take up to ``limit`` due deliveries of one destination, in the order in which they are to be sent; their attempts
        are counted now.

        Urgent ones go first, each kind by age. While ordinary ones are due, one in four of those that are claimed in
        succession is ordinary at least, over all claims, and of a batch of several a quarter, rounded up. With
        ``urgent_only``, as outside of a send window, ordinary ones are left.
        """
        ...

    def settle(
        self, delivery: Delivery, owner: Owner, verdict: Verdict, now: datetime, due: datetime | None = None,
    ) -> None:
        """End the claim on a delivery; ``due`` says when a deferred one is tried again.

        A ``blocked`` verdict returns it to ready (the lane stops by `set_destination`). A deferred one never counts as death.
        """
        ...

    def settle_all(self, ends: Sequence[Settled], owner: Owner) -> tuple[Delivery, ...]:
        """End many claims as `settle` ends one, in one transaction; gives those whose claim had ended already."""
        ...

    def unclaim(self, delivery: Delivery, owner: Owner) -> None:
        """Give a claimed delivery back untried, its attempt uncounted."""
        ...

    def expire(self, lifetime: timedelta, now: datetime) -> tuple[Delivery, ...]:
        """Set aside deliveries that are older than ``lifetime`` and neither delivered nor held."""
        ...

    def waiting_destinations(self) -> Mapping[str, int]:
        """Destinations with deliveries not yet ended, and how many."""
        ...

    def destination_state(self, name: str) -> tuple[Literal["up", "down", "blocked"], str, datetime | None]:
        """State, reason and since when; ``up`` when never set."""
        ...

    def set_destination(self, name: str, state: Literal["up", "down", "blocked"], reason: str, now: datetime) -> bool:
        """Record the state of a destination; True when it changed."""
        ...

    def retried(self, destination: str, after: datetime) -> bool:
        """Say whether a person has retried or released something for this destination since then."""
        ...

    # -- both
    def let_go(self, owner: Owner, destination: str | None = None) -> int:
        """Give back what this owner still holds, uncounted, and give how many rows: instances, or with ``destination`` the
        deliveries to it.

        For a process that lives on after the queue failed it while it ended a claim: nobody else takes a row from the living.
        """
        ...

    # -- keeping (keeper)
    def reclaim(self, alive: Callable[[Owner], bool]) -> tuple[Reclaimed, ...]:
        """Take back rows of owners that are not alive; the third death on one instance is quarantine, on one delivery hold.

        Of the deliveries that a dead owner had claimed together, only the first that it had not ended counts a death: that
        one was in hand.
        """
        ...

    def removable(self, before: datetime) -> tuple[tuple[str, str], ...]:
        """(kind, location) of files whose rows ended before ``before``: sources of done, duplicate, own or dropped
        instances whose deliveries are all delivered or dropped, and results delivered to all.
        """
        ...

    def removed(self, locations: Iterable[str]) -> None:
        """Note that these files are gone."""
        ...

    def forget(self, before: datetime) -> int:
        """Delete rows of instances whose files are gone and that ended before ``before``; gives how many."""
        ...

    def results(self) -> frozenset[str]:
        """Locations of the results that rows still count on; a file that is not among them belongs to nobody."""
        ...

    def untold(self, limit: int) -> tuple[Mapping[str, object], ...]:
        """Abnormal findings that nobody was told of yet: instance_id, model, finding, probability; oldest first."""
        ...

    def told(self, instance_ids: Iterable[str]) -> None:
        """Note that these findings were told."""
        ...

    def aside(self) -> tuple[int, tuple[str, ...]]:
        """How many instances wait for a person, by themselves or by an output, and the locations of the files that are
        kept for that: their sources, and the results on hold or expired.
        """
        ...

    def day(self, after: datetime) -> Mapping[str, int]:
        """What came and went since ``after``, and what waits now: received, delivered, waiting, held, quarantined."""
        ...

    # -- people (`dicomnode queue`)
    def rows(self, *, states: Sequence[str] = (), limit: int = 0) -> tuple[Mapping[str, object], ...]:
        """Instances with their deliveries as plain mappings, oldest first; 0 is no limit.

        An instance is in a state when it or one of its deliveries is.
        """
        ...

    def find(self, key: str) -> tuple[Mapping[str, object], ...]:
        """Instances by instance_id, source SOP Instance UID or result UID, with ``deliveries``, ``acts`` and
        ``certificates``; oldest first.
        """
        ...

    def counts(self) -> Mapping[str, Mapping[str, Mapping[str, object]]]:
        """Per state ``count``, ``oldest`` and ``bytes`` (instances only), for ``instances``, ``deliveries`` and for each
        destination as ``to <name>``, there with ``urgent``; and ``lane`` has state, reason and since of the destination.
        """
        ...

    def retry(self, instance_id: str, now: datetime, who: str = "") -> int:
        """Work or send again under the same rules: a deferred, held or quarantined instance becomes waiting, a held,
        expired or deferred delivery with a file becomes ready; outputs held before they were made make the instance
        waiting with the next generation, in which they alone are made. The row of an unreadable file is deleted: the next
        intake reads it again. Gives the number of rows changed, lanes that were blocked among them; what ``who`` did is kept,
        as for release and drop.

        Of a done instance of which everything has ended (delivered or dropped) and whose source is still kept, this is a
        rework on purpose: the next generation makes everything anew, each report naming the one before it.
        """
        ...

    def release(self, instance_id: str, now: datetime, who: str = "") -> int:
        """A person has looked: an instance on hold is worked although its pixels differ, outputs held by redaction are
        made with redaction waived (next generation), a delivery on hold is sent. Gives the number of rows changed.

        Redaction is waived for ``redaction_uncertain`` and ``text_left_after_blanking`` alone, and what a rule holds for
        ``body_part_uncertain`` or ``tag_disagrees`` is settled by it; what cannot be decoded was not looked at, so outputs
        held for any other reason are made again under the same rules.
        """
        ...

    def drop(self, instance_id: str, now: datetime, who: str = "") -> int:
        """A person gives up: everything not yet ended of this instance becomes ``dropped``."""
        ...

    def hasten(self, instance_id: str, now: datetime, who: str = "") -> int:
        """A person wants it to go first: everything of this instance that has not ended becomes urgent, and what will be
        made of it. Gives the number of rows changed.
        """
        ...

    # -- the ledger (`dicomnode where`)
    def trace(self, name: Name, value: str, limit: int) -> Traced:
        """The instances that a name stands for, no more than ``limit`` of the newest by id; 0 is no limit.

        An Accession Number is asked for by its token. Letter case does not count in AE titles and destinations.
        """
        ...

    def names(self) -> Names:
        """Every SOP Instance UID of a source or result, with its instance."""
        ...

    def history(self, instance_id: str) -> tuple[Mapping[str, object], ...]:
        """All that happened to an instance and its deliveries, in order, also when its row was taken away to be read anew.

        Each has ``at`` and ``last_at``, how many ``times``, ``delivery_id`` (0: the instance itself), ``kind``,
        ``destination``, ``old``, ``new``, ``reason``, ``status`` and ``who``: an owner's text, or ``person`` and an account.
        """
        ...

    # -- Body Part Examined (`dicomnode report tags`)
    def tags(self, since: date, until: date) -> tuple[Mapping[str, object], ...]:
        """How often which device called a body part what, in the days from ``since`` up to and without ``until`` (UTC, by
        reception): ``calling_ae``, ``device``, ``picture``, ``tag``, ``agreement``, ``count``, and the newest ``instance_id``.

        Counted are instances whose picture was certain, each once, when its work first ended; one that came again under
        another header is not. Counts stay when their instances are forgotten.
        """
        ...

    def forget_tags(self, before: date) -> int:
        """Remove the counts of days before this one; gives how many rows."""
        ...

    # -- the account (`dicomnode queue verify`)
    def accounts(self) -> Mapping[str, int]:
        """How many instances are on each side of the account: delivered, waiting, held, quarantined, duplicate, own,
        dropped. One that is done is delivered when all its deliveries have ended.
        """
        ...

    def unknown(self, ids: Sequence[str]) -> tuple[str, ...]:
        """Those of these instance ids that have no row."""
        ...

    def needed(self) -> tuple[Needed, ...]:
        """The files that rows which have not ended count on."""
        ...

    def claims(self) -> tuple[Claimed, ...]:
        """Everything that a process has in hand."""
        ...

    def verify(self) -> tuple[str, ...]:
        """Breaches of the invariants that rows alone show (active without owner, done without its deliveries, ...)."""
        ...

    def close(self) -> None:
        """Close the connection of this process."""
        ...

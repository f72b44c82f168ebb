"""What the lanes to one destination share: what is to be sent next, and whether anything may leave at all.

**Way** The lanes take from one pool of claimed deliveries, so that a slow object holds up nobody but the lane that sends it.
The pool has the order of the queue; what is urgent is looked for besides, and is next. A destination that cannot be reached is
*down*: its deliveries go back unattempted and one C-ECHO every ``send.probe_s`` asks for it. One that refuses us as a whole is
*blocked* and asked every `BLOCKED_PROBE_S`. One that has no room for an association is left alone for ``send.probe_s``. A
person who retries or releases something for it ends any of these waits. Outside of its windows only urgent deliveries are
taken; the others wait in the queue, unclaimed.

**Fails** A queue that cannot be asked raises `Transient`.

**Limits** A C-STORE that is under way when the window closes is finished. The times of windows are those of the machine's wall
clock: where an hour is skipped or comes twice, so it is in the window.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import UTC, datetime
from datetime import time as time_of_day
from typing import Literal

from dicomnode import contexts
from dicomnode.errors import AssociationRejected, DicomNodeError
from dicomnode.log import get_logger
from dicomnode.queue import Owner, Queue
from dicomnode.records import Delivery
from dicomnode.scu.handshake import MAX_CONTEXTS, Context
from dicomnode.scu.link import implicit
from dicomnode.scu.settling import Settling
from dicomnode.settings import Settings

#: Deliveries claimed at a time.
BATCH = 16
#: Without work the queue is asked this often, seconds, and for the state of the destination.
IDLE_S = 0.2
#: Between two deliveries is looked for what is urgent, where the last look is so long ago, seconds.
_URGENT_S = 0.02
#: A person's act is looked for this often while we wait, seconds.
_ACTS_S = 1.0
#: A destination that refuses us as a whole is asked again this often, seconds.
BLOCKED_PROBE_S = 600.0
#: So many urgent ones that came later go before what was claimed earlier, then one of these.
_URGENT_RUN = 3

log = get_logger("send")


def wall_clock() -> time_of_day:
    """The local time of day."""
    return datetime.now().astimezone().time()


class Destination:
    """One destination, for all its lanes."""

    def __init__(self, name: str, settings: Settings, queue: Queue, owner: Owner) -> None:
        self.name = name
        self.peer = settings.peers.get(name)
        self.settling = Settling(name, settings.send, queue, owner)
        self._probe_s = settings.send.probe_s
        self._queue = queue
        self._owner = owner
        self._changed = threading.Condition()
        self._pool: deque[Delivery] = deque()
        self._urgent: deque[Delivery] = deque()
        self._urgent_run = 0
        self._next_claim = self._next_look = 0.0
        #: Lanes that have an association, and those of them that found nothing to do.
        self._linked: set[int] = set()
        self._idle: set[int] = set()
        #: A lane is opening its association: what comes of it tells whether there is room for another.
        self._opening: int | None = None
        #: Contexts that deliveries have needed, newest last.
        self._known: dict[Context, None] = {}
        self._state = "up"
        self._state_at = self._next_probe = self._pause_until = 0.0
        self._probing = False
        self._waits_since = datetime.now(UTC)
        self._next_acts = 0.0
        self._open = True

    # -- what is next
    def take(self, lane: int, *, linked: bool) -> Delivery | None:
        """Give a lane its next delivery; None when there is nothing for it to do now.

        A lane without an association opens one, which it ends by `reached`; one lane at a time does.
        """
        with self._changed:
            self._idle.discard(lane)
            if not linked and self._opening is not None:
                return None
            delivery = self._next(linked=linked) if self._may_send() else None
            if delivery is not None and not linked:
                self._opening = lane
            if delivery is None and linked:
                self._idle.add(lane)
            return delivery

    def _next(self, *, linked: bool) -> Delivery | None:
        self._claim()
        if not linked and len(self._idle) >= len(self._pool) + len(self._urgent):
            if self._idle:  # who has an association goes first
                self._changed.notify_all()
            return None
        if self._urgent and (self._urgent_run < _URGENT_RUN or not self._pool):
            self._urgent_run += 1
            return self._urgent.popleft()
        if not self._pool:
            return None
        delivery = self._pool.popleft()
        self._urgent_run = self._urgent_run + 1 if delivery.urgent else 0
        return delivery

    def _claim(self) -> None:
        """Fill the pool when it is empty; else look for what is urgent, every so often."""
        now, empty = time.monotonic(), not self._pool and not self._urgent
        if now < (self._next_claim if empty else self._next_look) or len(self._urgent) >= BATCH:
            return
        found = self._queue.claim_deliveries(
            self.name, self._owner, BATCH, datetime.now(UTC), urgent_only=not empty or not self._open,
        )
        (self._pool if empty else self._urgent).extend(found)
        self._next_look = now + _URGENT_S
        if empty:
            self._next_claim = 0.0 if found else now + IDLE_S
        for delivery in found:
            self.remember((delivery.sop_class_uid, delivery.transfer_syntax_uid))
        if len(found) > 1:
            self._changed.notify_all()

    def back(self, delivery: Delivery) -> None:
        """Take back what a lane could not try; another one does."""
        with self._changed:
            self._pool.appendleft(delivery)
            self._changed.notify_all()

    def give_back(self, *, urgent_too: bool = True) -> None:
        """Give everything claimed and not in hand back to the queue, or only what is not urgent."""
        with self._changed:
            kept = [] if urgent_too else [delivery for delivery in self._pool if delivery.urgent]
            self.settling.give_back(*(delivery for delivery in self._pool if delivery not in kept))
            self._pool = deque(kept)
            if urgent_too:
                self.settling.give_back(*self._urgent)
                self._urgent.clear()

    def wait(self, seconds: float) -> None:
        """Let a lane without work wait until there may be some."""
        with self._changed:
            self._changed.wait(seconds)

    # -- associations
    def reached(self, lane: int, *, linked: bool) -> None:
        """Note whether a lane has an association for what it took."""
        with self._changed:
            if linked:
                self._linked.add(lane)
            if self._opening == lane:
                self._opening = None
                self._changed.notify_all()

    def unlinked(self, lane: int) -> None:
        """Note that a lane has no association any more."""
        with self._changed:
            self._linked.discard(lane)
            self._idle.discard(lane)

    def others_linked(self, lane: int) -> int:
        """How many other lanes have an association."""
        with self._changed:
            return len(self._linked - {lane})

    def remember(self, context: Context) -> None:
        """Propose this context from now on."""
        with self._changed:
            for one in (implicit(context), context) if context[1] == contexts.EXPLICIT else (context,):
                self._known.pop(one, None)
                self._known[one] = None
            while len(self._known) > MAX_CONTEXTS:
                del self._known[next(iter(self._known))]

    def known(self) -> set[Context]:
        """What to propose."""
        with self._changed:
            return set(self._known)

    # -- whether anything may leave
    @property
    def open(self) -> bool:
        """False outside of the windows."""
        return self._open

    def _may_send(self) -> bool:
        if self.peer is None:
            return True  # what is for nobody goes on hold
        now = time.monotonic()
        if now >= self._state_at + IDLE_S:
            state, _, _ = self._queue.destination_state(self.name)
            if state == "up" and self._state != "up":
                self._pause_until = 0.0
            self._state, self._state_at = state, now
        self._look_at_window()
        if self._state == "up" and now >= self._pause_until:
            return True
        if now >= self._next_acts:
            self._next_acts = now + _ACTS_S
            if self._queue.retried(self.name, self._waits_since):
                self._pause_until = self._next_probe = 0.0
                self._waits_since = datetime.now(UTC)
        self.give_back()
        return False

    def _look_at_window(self) -> None:
        is_open = self.peer is None or self.peer.sends_at(wall_clock())
        if is_open != self._open:
            self._open = is_open
            log.info("window_opened" if is_open else "window_closed", destination=self.name)
        if not is_open:
            self.give_back(urgent_too=False)

    def pause(self) -> None:
        """Leave it alone for a while: it has no room for an association."""
        with self._changed:
            self._waits_since = datetime.now(UTC)
            self._pause_until = time.monotonic() + self._probe_s
            self.give_back()

    def mark(self, state: Literal["down", "blocked"], error: DicomNodeError) -> None:
        """Send nothing more until a probe comes through, or a person has mended something."""
        with self._changed:
            self.again(state)
            if self._state != state:
                self._waits_since = datetime.now(UTC)
            self._state, self._state_at = state, time.monotonic()
            self.give_back()
        if self._queue.set_destination(self.name, state, error.code, datetime.now(UTC)):
            if state == "down":
                log.warning("destination_down", destination=self.name, reason=error.code)
            else:
                log.error("destination_blocked", destination=self.name, reason=error.code)

    def refused(self, error: DicomNodeError) -> None:
        """Mark what an error of the association as a whole means."""
        self.mark("blocked" if isinstance(error, AssociationRejected) else "down", error)

    def begin_probe(self) -> str:
        """Give the state when it is time to ask for it, and this lane's turn; ended by `end_probe`."""
        with self._changed:
            if self.peer is None or self._state == "up" or self._probing or time.monotonic() < self._next_probe:
                return ""
            self._probing = True
            return self._state

    def end_probe(self) -> None:
        """Note that a probe has ended, whatever came of it."""
        with self._changed:
            self._probing = False

    def again(self, state: str) -> None:
        """Ask again when it is time."""
        self._next_probe = time.monotonic() + (self._probe_s if state == "down" else BLOCKED_PROBE_S)

    def up(self) -> None:
        """It answers."""
        changed = self._queue.set_destination(self.name, "up", "", datetime.now(UTC))
        with self._changed:
            self._state, self._pause_until = "up", 0.0
            self._changed.notify_all()
        if changed:
            log.info("destination_up", destination=self.name)

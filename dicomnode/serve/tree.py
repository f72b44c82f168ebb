"""The places of the tree, each with a child that is kept running, and the order in which all of it ends.

**Way** `Tree.tick` is called ten times a second: it hears the children, starts again who has ended, cuts off who had to end and
did not, and tells systemd how the node is. `Tree.drain` ends the acceptors first, so that nothing new comes, then the others.

**Fails** See `dicomnode.serve`. A port that another program has is tried again while the other roles run.

**Limits** The clock of the tree stands still while the master itself does not run (a machine that sleeps, a debugger): then no
child is called stuck for what was nobody's fault.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dicomnode import listening, notify
from dicomnode.errors import EXIT_CONFIG, ConfigError, DicomNodeError
from dicomnode.log import get_logger
from dicomnode.roles import RETIRE
from dicomnode.serve.child import Child
from dicomnode.settings import Settings
from dicomnode.snapshot import Snapshot

#: What brings work in comes first, and is drained first; the judge starts before the workers that ask it, and ends after them.
ROLES = ("accept", "judge", "work", "send", "keep")
#: A child that lived this long starts afresh without a pause, seconds.
GROWN_UP_S = 10.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
#: Time to drain before a child is cut off, seconds: for the acceptors, and then for all the others.
DRAIN_S = 30.0
#: An acceptor that was replaced may keep its associations so long, seconds; what is idle ends by `scp.network_timeout_s`.
RETIRE_S = 3600.0
#: Beyond the time that its settings give its work, a child that was replaced may take so long, seconds.
_GRACE_S = 15.0
#: More than this between two ticks is no time of the children, seconds.
_LONGEST_TICK_S = 1.0
#: While the node starts or drains, systemd is asked to wait this much longer, seconds.
_EXTEND_S = 60.0

log = get_logger("serve")


@dataclass(slots=True)
class Place:
    """Where a child of a role belongs: the settings it is to run by, and when it may start again."""

    role: str
    plan: Snapshot
    child: Child | None = None
    pause_s: float = FIRST_PAUSE_S
    not_before: float = 0.0
    #: Its last child ended with 78.
    unfit: bool = False
    #: Nobody is to be started here now.
    empty: bool = False

    @property
    def ready(self) -> bool:
        """True when its child has said that it works."""
        return self.child is not None and self.child.ready


def wanted(settings: Settings, role: str) -> int:
    """Give how many children of a role these settings ask for."""
    counts = {"accept": settings.scp.acceptors, "work": settings.work.workers, "judge": int(settings.asks_judge)}
    return counts.get(role, 1)


class Tree:
    """All children, those in their places and those that are leaving."""

    def __init__(self, plan: Snapshot, roles: Sequence[str]) -> None:
        self.plan = plan
        self.roles = tuple(role for role in ROLES if role in roles)
        self.places = [Place(role, plan) for role in self.roles for _ in range(wanted(plan.settings, role))]
        self.leaving: list[Child] = []
        #: Beside the child of a place, to follow it when it is ready.
        self.joining: list[Child] = []
        self.was_ready = False
        self.seats = os.memfd_create("dicomnode-seats", os.MFD_CLOEXEC)
        self.now = 0.0
        self._ticked = time.monotonic()
        self._socket: socket.socket | None = None
        self._listen_at, self._listen_pause_s, self._told = 0.0, FIRST_PAUSE_S, ""
        self._status = ""

    # -- running
    def tick(self) -> int | None:
        """Take one look at everything; an exit code ends the master."""
        now = time.monotonic()
        self.now += min(now - self._ticked, _LONGEST_TICK_S)
        self._ticked = now
        try:
            self._listen()
        except ConfigError as error:
            log.critical("config_rejected", message=str(error), actor=error.actor)
            return EXIT_CONFIG
        for place in self.places:
            if self._look(place) == EXIT_CONFIG and not self.was_ready:
                return EXIT_CONFIG
            if place.child is None and not place.empty and self.now >= place.not_before:
                self._start(place)
        for child in self.joining:
            child.listen(self.now)
        self._see_off()
        self._tell()
        return None

    def spawn(self, role: str, plan: Snapshot) -> Child:
        """Start a child; raises OSError when the system has no room for it."""
        extra = {}
        if role == "accept" and self._socket is not None:
            extra = {listening.DESCRIPTOR: self._socket.fileno(), listening.SEATS: self.seats}
        return Child(role, plan, self.now, extra)

    def _listen(self) -> None:
        """Have the socket, before the first acceptor; one that cannot be had now is tried again."""
        if self._socket is not None or "accept" not in self.roles or self.now < self._listen_at:
            return
        try:
            self._socket = listening.own(self.plan.settings.node)
        except DicomNodeError as error:
            self._listen_pause_s = min(self._listen_pause_s * 2, LONGEST_PAUSE_S)
            self._listen_at = self.now + self._listen_pause_s
            if str(error) != self._told:
                self._told = str(error)
                log.error("acceptor_failed", port=self.plan.settings.node.port, reason=error.code, message=self._told)
            if isinstance(error, ConfigError):
                raise

    def _start(self, place: Place) -> None:
        if place.role == "accept" and self._socket is None:
            return
        try:
            place.child = self.spawn(place.role, place.plan)
        except OSError as error:
            self._pause(place, FIRST_PAUSE_S)
            log.error("child_exited", role=place.role, error_type=type(error).__name__, actor="administrator")

    def _look(self, place: Place) -> int | None:
        """Hear the child of a place; its exit code when it has ended, for which it was not asked."""
        child = place.child
        if child is None:
            return None
        child.listen(self.now)
        if (code := child.poll()) is None:
            if child.ready:
                place.unfit = False
            return None
        self._pause(place, self.now - child.started)
        place.child, place.unfit = None, code == EXIT_CONFIG
        write = log.error if place.unfit else log.warning
        write("child_exited", role=place.role, child_pid=child.process.pid, exit_code=code)
        return code

    def _pause(self, place: Place, lived_s: float) -> None:
        place.pause_s = min(place.pause_s * 2, LONGEST_PAUSE_S) if lived_s < GROWN_UP_S else FIRST_PAUSE_S
        place.not_before = self.now + place.pause_s

    # -- leaving
    def retire(self, child: Child) -> None:
        """Let a child end that another one follows: nothing that it has in hand is broken off before its own time is over."""
        settings = child.plan.settings
        term: signal.Signals = signal.SIGTERM
        if child.role == "accept" and child.ready:
            term, child.end_by = RETIRE, self.now + RETIRE_S
        elif child.role == "work":
            child.end_by = self.now + settings.work.deadline_s + _GRACE_S
        elif child.role == "judge":
            child.end_by = self.now + settings.judge.timeout_s + _GRACE_S
        else:
            child.end_by = self.now + settings.send.timeout_s + _GRACE_S
        child.tell(term)
        self.leaving.append(child)

    def _see_off(self) -> None:
        for child in tuple(self.leaving):
            child.listen(self.now)
            if child.poll() is not None:
                self.leaving.remove(child)
            elif child.end_by is not None and self.now >= child.end_by:
                if child.role == "accept" and self.now < child.end_by + DRAIN_S:
                    child.tell(signal.SIGTERM)
                else:
                    child.end_by = None
                    child.cut()

    def drain(self) -> None:
        """End the acceptors, so that nothing new comes, then all the others at once, and last the judge that workers ask."""
        if self._socket is not None:
            self._socket.close()
        children = [*self.leaving, *self.joining, *(place.child for place in self.places if place.child is not None)]
        _end([child for child in children if child.role == "accept"])
        _end([child for child in children if child.role not in {"accept", "judge"}])
        _end([child for child in children if child.role == "judge"])

    # -- systemd
    def all_ready(self) -> bool:
        """Say whether every place has a child that works."""
        return all(place.ready for place in self.places)

    def _tell(self) -> None:
        if not any(child.stuck for child in self._children()):
            notify.alive()
        filled = {place.role for place in self.places}
        counts = {
            role: sum(place.ready for place in self.places if place.role == role) for role in self.roles if role in filled
        }
        status = ", ".join(f"{role} {count}" for role, count in counts.items())
        if self._told and self._socket is None:
            status += f"; {self._told}"
        if status != self._status:
            self._status = status
            notify.status(status)
        if self.was_ready:
            return
        if self.all_ready():
            self.was_ready = True
            log.info("node_ready", count=len(self.places))
            notify.ready()
        else:
            notify.extend_s(_EXTEND_S)

    def _children(self) -> Iterable[Child]:
        yield from self.leaving
        yield from self.joining
        yield from (place.child for place in self.places if place.child is not None)


def _end(children: Sequence[Child]) -> None:
    """Tell these to end, and cut off who has not in time."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.tell(signal.SIGTERM)
    _wait(lambda: all(child.poll() is not None for child in running), DRAIN_S)
    for child in running:
        if child.poll() is None:
            child.cut()
            child.process.wait()
            child.poll()


def _wait(claim: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not claim() and time.monotonic() < deadline:
        notify.alive()
        notify.extend_s(_EXTEND_S)
        time.sleep(0.05)

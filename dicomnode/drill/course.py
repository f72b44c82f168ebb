"""The course of drills: which there are, and how one after the other is done, on one node as long as that is sound.

**Way** `Course.run` gives the `Outcome` of each drill at its end. Every drill ends with the account of all that its node has
acknowledged. After a failed drill the next one gets a new node: what one has broken must not fail the others.

**Fails** It does not: what the node does wrong is an outcome. When a new node does not start, the drills that are left fail
with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dicomnode.drill import disk, kills, misuse, tmpfs
from dicomnode.drill.ground import Ground
from dicomnode.drill.pdu import Ended, Rejected, Wrong
from dicomnode.errors import DicomNodeError
from dicomnode.settings import Settings

#: Does it and gives the seconds until the node was well again.
Act = Callable[[Ground], float]


@dataclass(frozen=True, slots=True)
class Drill:
    """One thing that goes wrong."""

    name: str
    did: str
    act: Act


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a drill."""

    drill: str
    did: str
    passed: bool
    #: Time until the node was well again, and of the drill as a whole, seconds.
    recovery_s: float | None
    seconds: float
    #: On failure, what is wrong in one sentence, and where to look.
    wrong: str = ""
    look: str = ""

    def plain(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)


DRILLS = (
    Drill("start", "a node is started; one instance from the door to the archive", kills.start),
    Drill("kill-acceptor", "SIGKILL of an acceptor in the midst of a C-STORE", kills.acceptor),
    Drill("kill-keeper", "SIGKILL of the keeper while files come in", kills.keeper),
    Drill("kill-worker", "SIGKILL of a worker in the midst of an instance", kills.worker),
    Drill("kill-sender", "SIGKILL of the sender in the midst of a C-STORE", kills.sender),
    Drill("kill-supervisor", "SIGKILL of the supervisor; started again", kills.supervisor),
    Drill("slow-sender", "senders that are silent, stall in mid-PDU or send a byte at a time", misuse.slow_sender),
    Drill("slow-destination", "a destination that does not answer, then slowly", misuse.slow_destination),
    Drill("abort", "A-ABORT, RST and a bare close in the midst of a P-DATA-TF", misuse.aborts),
    Drill("refused", "a destination that takes no context, or rejects for good or for now", misuse.refusals),
    Drill("storm", "one instance 240 times from 5 senders at once", misuse.storm),
)
#: These have nodes of their own.
FULL_DISK, STOP = "full-disk", "stop"
NAMES = (*(drill.name for drill in DRILLS), STOP, FULL_DISK)


class Course:
    """The drills that were asked for, on scratch nodes below one folder."""

    def __init__(
        self, root: Path, settings: Settings, names: Sequence[str], *, own_mounts: bool, patience_s: float,
    ) -> None:
        self._root, self._settings, self._names, self._own_mounts = root, settings, names, own_mounts
        self._patience_s = patience_s
        self._ground: Ground | None = None
        self._made = 0
        self._broken = ""

    def close(self) -> None:
        """End every process and thread at once."""
        self._leave()

    def drills(self) -> Iterator[Drill]:
        """The drills in their order."""
        last = (
            Drill(STOP, "SIGTERM with work in hand: drained, ended with 0", _stop),
            self._disk(),
        )
        return (drill for drill in (*DRILLS, *last) if drill.name in self._names)

    def run(self, begin: Callable[[Drill], None]) -> Iterator[Outcome]:
        """Do them; ``begin`` is told of each before."""
        for drill in self.drills():
            begin(drill)
            started = time.monotonic()
            recovery_s, wrong = None, self._broken
            try:
                if not wrong:
                    recovery_s = drill.act(self._standing(drill))
                    if drill.name != STOP and self._ground is not None:
                        self._ground.check()
            except (Wrong, Ended, DicomNodeError, OSError) as fault:
                wrong = str(fault) or type(fault).__name__
            except Rejected as rejected:
                wrong = f"an association was rejected: {rejected}"
            look = str(self._ground.node.log) if wrong and self._ground is not None else ""
            seconds = round(time.monotonic() - started, 1)
            if wrong or drill.name == STOP:
                self._leave()
            recovery = None if wrong or recovery_s is None else round(recovery_s, 2)
            yield Outcome(drill.name, drill.did, not wrong, recovery, seconds, wrong, look)

    def _standing(self, drill: Drill) -> Ground:
        """Give the node that runs, or a new one."""
        if drill.name == FULL_DISK:
            self._stop()
        if self._ground is None:
            self._made += 1
            root = self._root / f"node-{self._made}"
            state = root / "state"
            state.mkdir(parents=True, mode=0o750)
            if drill.name == FULL_DISK and drill.act is not disk.marks and not tmpfs.mount(state, disk.SIZE):
                raise Wrong("a tmpfs of the drill's own cannot be mounted")
            self._ground = Ground(root, self._settings, state, self._patience_s)
            if drill.name == FULL_DISK:
                self._ground.configure(disk.MARKS)
            try:
                self._ground.node.start()
            except Wrong as wrong:
                self._broken = f"a new node does not start: {wrong}"
                raise
        return self._ground

    def _stop(self) -> None:
        if self._ground is not None:
            ground, self._ground = self._ground, None
            with suppress(Wrong):
                ground.node.stop()
            ground.close()

    def _leave(self) -> None:
        if self._ground is not None:
            self._ground.close()
            self._ground = None

    def _disk(self) -> Drill:
        if self._own_mounts:
            return Drill(FULL_DISK, "a tmpfs of 96 MiB filled to the last byte, then freed", _full)
        return Drill(FULL_DISK, "watermarks above what is free, then below (no mount of our own here)", disk.marks)


def _full(ground: Ground) -> float:
    return disk.full(ground, ground.node.state)


def _stop(ground: Ground) -> float:
    ground.send(2)
    started = time.monotonic()
    ground.node.stop()
    return time.monotonic() - started

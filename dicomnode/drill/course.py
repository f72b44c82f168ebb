"""The course of drills: which there are, and how one after the other is done, on one node as long as that is sound.

**Way** `Course.run` gives the `Outcome` of each drill at its end. Every drill ends with the account of all that its node has
acknowledged. After a failed drill the next one gets a new node: what one has broken must not fail the others. Processes hang
for about a minute before they are replaced, so that drill begins first, on a node of its own, and ends last.

**Fails** It does not: what the node does wrong is an outcome. When a new node does not start, the drills that are left fail
with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dicomnode.drill import care, disk, kills, misuse, tmpfs
from dicomnode.drill.care import Hung
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
    Drill("reload", "SIGHUP with a broken configuration and with a good one, while others send", care.reload),
    Drill("storm", "one instance 240 times from 5 senders at once", misuse.storm),
)
#: The first ends its node, the others have nodes of their own.
STOP, FULL_DISK, STUCK = "stop", "full-disk", "stuck"
NAMES = (*(drill.name for drill in DRILLS), STOP, FULL_DISK, STUCK)
_FAULTS = (Wrong, Ended, Rejected, DicomNodeError, OSError)


class Course:
    """The drills that were asked for, on scratch nodes below one folder."""

    def __init__(
        self, root: Path, settings: Settings, names: Sequence[str], *, own_mounts: bool, patience_s: float,
    ) -> None:
        self._root, self._settings, self._own_mounts, self._patience_s = root, settings, own_mounts, patience_s
        last = (Drill(STOP, "SIGTERM with work in hand: drained, ended with 0", _stop), self._disk(), self._stuck())
        #: Those asked for, in their order.
        self.drills = tuple(drill for drill in (*DRILLS, *last) if drill.name in names)
        #: Every node that runs; the one of the drill that is going on; the one that most drills share.
        self._grounds: list[Ground] = []
        self._at: Ground | None = None
        self._shared: Ground | None = None
        self._hung: Hung | None = None
        self._hung_at: Ground | None = None
        self._hung_wrong = self._broken = ""

    def close(self) -> None:
        """End every process and thread at once."""
        while self._grounds:
            self._leave(self._grounds[-1])

    def run(self, begin: Callable[[Drill], None]) -> Iterator[Outcome]:
        """Do them; ``begin`` is told of each before."""
        for drill in self.drills:
            if drill.name == STUCK:
                begin(drill)
                self._hang()
        for drill in self.drills:
            begin(drill)
            started = time.monotonic()
            recovery_s, wrong = None, ""
            try:
                recovery_s = round(self._do(drill), 2)
            except _FAULTS as fault:
                wrong = str(fault) or type(fault).__name__
            look = str(self._at.node.log) if wrong and self._at is not None else ""
            seconds = round(time.monotonic() - started, 1)
            if wrong or drill.name in (STOP, FULL_DISK, STUCK):
                self._leave(self._at)
            yield Outcome(drill.name, drill.did, not wrong, recovery_s, seconds, wrong, look)

    def _do(self, drill: Drill) -> float:
        """Do one drill on the node that it needs, and give the seconds until that was well again."""
        if self._broken:
            raise Wrong(self._broken)
        if drill.name == FULL_DISK:
            self._leave(self._shared)
            self._make(small_disk=self._own_mounts)
        elif drill.name == STUCK:
            self._at = self._hung_at
        elif self._shared is None:
            self._shared = self._make()
        else:
            self._at = self._shared
        if self._at is None:
            raise Wrong(self._hung_wrong)
        recovery_s = drill.act(self._at)
        if drill.name != STOP:
            self._at.check()
        return recovery_s

    def _make(self, *, small_disk: bool = False) -> Ground:
        """Start a new node."""
        root = self._root / f"node-{len(list(self._root.glob('node-*'))) + 1}"
        state = root / "state"
        state.mkdir(parents=True, mode=0o750)
        if small_disk and not tmpfs.mount(state, disk.SIZE):
            raise Wrong("a tmpfs of the drill's own cannot be mounted")
        self._at = ground = Ground(root, self._settings, state, self._patience_s)
        self._grounds.append(ground)
        if small_disk:
            ground.configure(disk.MARKS)
        try:
            ground.node.start()
            ground.node.until_ready()
        except Wrong as wrong:
            self._broken = f"a new node does not start: {wrong}"
            raise
        return ground

    def _leave(self, ground: Ground | None) -> None:
        if ground in self._grounds:
            self._grounds.remove(ground)
            ground.close()
            tmpfs.unmount(ground.node.state)  # where there is none this does nothing
        if ground is self._shared:
            self._shared = None

    def _hang(self) -> None:
        try:
            self._hung_at = self._make()
            self._hung = Hung(self._hung_at)
            self._hung.hang()
        except _FAULTS as fault:
            self._hung_wrong = str(fault) or type(fault).__name__

    def _stuck(self) -> Drill:

        def replaced(_: Ground) -> float:
            if self._hung is None or self._hung_wrong:
                raise Wrong(self._hung_wrong)
            return self._hung.replaced()

        return Drill(STUCK, "SIGSTOP of an acceptor in a C-STORE and of a worker in an instance", replaced)

    def _disk(self) -> Drill:
        if self._own_mounts:
            return Drill(FULL_DISK, "a tmpfs of 96 MiB filled to the last byte, then freed", disk.full)
        return Drill(FULL_DISK, "watermarks above what is free, then below (no mount of our own here)", disk.marks)


def _stop(ground: Ground) -> float:
    ground.send(2)
    started = time.monotonic()
    ground.node.stop()
    return time.monotonic() - started

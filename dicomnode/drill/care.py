"""Drills of the supervisor's care: a process that hangs is replaced, a reload refuses nobody, a wrong one changes nothing.

**Way** A hanging process is one that was stopped by SIGSTOP: it neither works nor dies. The supervisor's patience with one is
close to a minute, so `hang` begins before the other drills, on a node of its own, and `replaced` looks at its end.
"""

from __future__ import annotations

import signal
import time
from datetime import datetime

from dicomnode.drill import kills
from dicomnode.drill.ground import Ground
from dicomnode.drill.modality import Association
from dicomnode.drill.node import ROLES
from dicomnode.drill.pdu import Wrong
from dicomnode.drill.pictures import Picture, draw

#: From the stop of a worker in an instance to the end of the instance, seconds: the deadline of an instance in the
#: drill's configuration, what the supervisor waits beyond, and a start.
_LONGEST_S = 120.0
#: Between two instances during a reload, seconds: it takes a while, and what was received is to be worked after it.
_PAUSE_S = 1.0
#: A connection of a process that was replaced ends within this, seconds.
_CUT_S = 5.0


class Hung:
    """An acceptor that hangs in a C-STORE and a worker that hangs in an instance."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._started = 0.0
        self._pids: dict[int, str] = {}
        self._half: tuple[Association, Picture] | None = None
        self._uid = ""

    def hang(self) -> None:
        """Stop both; others are served meanwhile."""
        ground = self._ground
        ground.until_delivered(ground.send(2))
        picture, association = draw(), ground.associate()
        self._half = association, picture
        ground.account.sending(picture.uid)
        association.begin(picture)
        self._stop("accept", kills.receiver(ground))
        (self._uid,) = ground.send()
        self._stop("work", kills.owner(ground, self._uid))
        self._started = time.time()

    def _stop(self, role: str, pid: int) -> None:
        self._ground.node.signal(pid, signal.SIGSTOP)
        self._pids[pid] = role

    def replaced(self) -> float:
        """See that both were replaced, and give the seconds until the instance of the worker was delivered."""
        ground, settings = self._ground, self._ground.settings
        counts = {"accept": settings.scp.acceptors, "work": settings.work.workers}
        for pid, role in self._pids.items():
            ground.node.until(
                lambda pid=pid, role=role: pid not in (now := ground.node.pids(role)) and len(now) == counts[role],  # type: ignore[misc]
                f"a process of `dicomnode {role}` that hangs is not replaced", _LONGEST_S,
            )
        if self._half is not None:
            association, picture = self._half
            if association.cut_off(_CUT_S) == float("inf"):
                raise Wrong("the sender of half an instance was left hanging when its acceptor was replaced")
            association.close()
            ground.until_taken(picture)
        ground.until_delivered([self._uid])
        row = ground.node.row(self._uid)
        ended = [datetime.fromisoformat(str(one["since"])).timestamp() for one in row["deliveries"]] if row is not None else []
        return max(ended, default=time.time()) - self._started


def reload(ground: Ground) -> float:
    """SIGHUP with a broken configuration, then with a good one, while somebody sends all the time."""
    node = ground.node
    with ground.stream(_PAUSE_S) as stream:
        before, since = {role: node.pids(role) for role in ROLES}, node.mark()
        path = node.config / "node.toml"
        good = path.read_text(encoding="utf-8")
        path.write_text(good + "\n[no-such-section]\n", encoding="utf-8")
        node.signal(node.pid, signal.SIGHUP)
        node.until(lambda: node.events("config_rejected", since), "a broken configuration is not rejected")
        path.write_text(good, encoding="utf-8")
        if {role: node.pids(role) for role in ROLES} != before:
            raise Wrong("a broken configuration changed the processes that run")
        ground.configure({"keep": {"summary_at": "06:59"}})
        started = time.monotonic()
        node.reload()
        ended = time.monotonic()
        for role, pids in before.items():
            node.until(
                lambda role=role, pids=pids: not set(pids) & set(node.pids(role)),  # type: ignore[misc]
                f"a process of `dicomnode {role}` still runs by the old configuration",
            )
    stream.served(started, ended)
    return ended - started

"""Drills in which a process is killed in the midst of its work (SIGKILL, as the kernel does when memory is short).

**Way** Each gives the seconds from the kill until the node does again what the dead process did.
"""

from __future__ import annotations

import re
import signal
import time

from dicomnode.drill.configuration import FIRST
from dicomnode.drill.ground import Ground
from dicomnode.drill.pdu import Wrong
from dicomnode.drill.pictures import draw

#: A worker may end an instance before the kill: that many tries to meet it in one.
_TRIES = 5


def start(ground: Ground) -> float:
    """From nothing to the first result in the archive."""
    started = time.monotonic()
    ground.until_delivered(ground.send())
    return time.monotonic() - started


def acceptor(ground: Ground) -> float:
    """An acceptor dies while it receives."""
    before = len(ground.node.pids("accept"))
    picture = draw()
    with ground.associate() as association:
        ground.account.sending(picture.uid)
        association.begin(picture)
        pid = receiver(ground)
        ground.node.signal(pid, signal.SIGKILL)
        recovery = ground.until_taken(draw())
        if association.cut_off(10.0) == float("inf"):
            raise Wrong("the sender of half an instance was left hanging when its acceptor died")
    ground.until_taken(picture)
    ground.node.until(
        lambda: pid not in (now := ground.node.pids("accept")) and len(now) == before,
        "a dead acceptor is not replaced", 30,
    )
    return recovery


def receiver(ground: Ground) -> int:
    """Give the acceptor that receives now: it names itself in the temporary file."""

    def writer() -> int:
        here = set(ground.node.pids("accept"))
        found = [int(pid) for path in ground.node.leftovers() for pid in re.findall(r"\.(\d+)\.", path.name)]
        return next((pid for pid in found if pid in here), 0)

    return ground.node.until(writer, "no acceptor writes a file of an instance that is half sent", 10)


def keeper(ground: Ground) -> float:
    """The keeper dies while files come in."""
    pid = ground.node.one("keep")
    uids = ground.send(2)
    ground.node.signal(pid, signal.SIGKILL)
    started = time.monotonic()
    uids += ground.send(4)
    ground.node.until(lambda: all(ground.node.row(uid) for uid in uids), "received files get no row")
    return time.monotonic() - started


def worker(ground: Ground) -> float:
    """A worker dies in the midst of an instance."""
    for _ in range(_TRIES):
        (uid,) = ground.send()
        pid = owner(ground, uid)
        ground.node.signal(pid, signal.SIGKILL)
        started = time.monotonic()
        ground.until_delivered([uid])
        row = ground.node.row(uid)
        if row is not None and row["deaths"]:
            return time.monotonic() - started
    raise Wrong(f"a worker was killed {_TRIES} times and its instance shows no death")


def owner(ground: Ground, uid: str) -> int:
    """Give the worker that has an instance in hand."""

    def claimed() -> int:
        row = ground.node.row(uid)
        text = str(row["owner"] or "") if row is not None and row["state"] == "active" else ""
        return int(text.split(":")[1]) if text else 0

    return ground.node.until(claimed, "no worker takes an instance", tick_s=0.005)


def sender(ground: Ground) -> float:
    """The sender dies in the midst of a C-STORE."""
    archive = ground.archives[FIRST]
    come = archive.come
    archive.mood = "silent"
    try:
        (uid,) = ground.send(calling="DRILL2")
        ground.node.until(lambda: archive.come > come, "nothing is sent to the archive")
        ground.node.signal(ground.node.one("send"), signal.SIGKILL)
    finally:
        archive.mood = "take"
    started = time.monotonic()
    ground.account.again.add(uid)
    ground.until_delivered([uid])
    return time.monotonic() - started


def supervisor(ground: Ground) -> float:
    """The supervisor dies; a service manager starts the node again."""
    ground.send(2)
    started = time.monotonic()
    ground.node.kill_supervisor()
    ground.node.start()
    ground.until_taken(draw())
    return time.monotonic() - started

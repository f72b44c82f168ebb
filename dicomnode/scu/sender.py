"""The sender: lanes, each in a thread of its own, for every destination that has deliveries.

**Way** `run_sender` asks the queue which destinations have deliveries and starts the lanes that do not run yet, as many for a
destination as its peer's file says. On ``stop`` every lane finishes the C-STORE in hand, what is left is given back, and the
associations are released. A sign of life is given when every lane has got on (`notify.Together`).

**Limits** A lane that has run once stays until the sender stops. One sender runs per node. When a sender dies, one claimed
delivery of a destination counts the death; with several associations another one may have been its cause.
"""

from __future__ import annotations

import threading
import time
from functools import partial

from dicomnode import __version__, notify
from dicomnode.errors import Transient
from dicomnode.log import get_logger
from dicomnode.queue import Queue
from dicomnode.queue.owner import this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.roles import Stop
from dicomnode.scu.destination import Destination
from dicomnode.scu.lane import DRAIN_S, Lane
from dicomnode.scu.pace import Paces
from dicomnode.scu.settling import Trouble
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: New destinations are looked for this often, seconds.
LOOK_S = 0.5
#: Beyond the time for what is in hand, a lane has this long to end, seconds.
GRACE_S = 5.0
#: Every lane gets on at least this often, or the process is stuck, seconds.
WATCHDOG_S = 60.0

log = get_logger("send")


def run_sender(settings: Settings, stop: Stop, spool: Spool | None = None, queue: Queue | None = None) -> int:
    """Send until ``stop`` is set and give the exit code."""
    spool = spool or Spool(settings.node.state_dir)
    ours = queue is None
    queue = queue or SqliteQueue(spool.queue_path)
    owner = this_process()
    paces, signs, trouble = Paces(settings), notify.Together(), Trouble()
    threads: dict[str, list[threading.Thread]] = {}
    notify.watchdog_s(WATCHDOG_S)
    notify.ready()
    log.info("sender_started", version=__version__, config_digest=settings.digest[:12])
    try:
        while not stop.is_set():
            signs.alive("sender")
            for name in _waiting(queue, trouble):
                if name not in threads:
                    destination = Destination(name, settings, queue, owner)
                    threads[name] = []
                    for number in range(destination.peer.associations if destination.peer else 1):
                        sign = partial(signs.alive, f"{len(threads)}-{number}")
                        lane = Lane(destination, number, settings, spool, paces, stop, sign)
                        thread = threading.Thread(target=lane.run, name=f"lane-{len(threads)}-{number}", daemon=True)
                        threads[name].append(thread)
                        thread.start()
            stop.wait(LOOK_S)
        signs.leave("sender")
    finally:
        deadline = time.monotonic() + DRAIN_S + GRACE_S
        for thread in (one for lanes in threads.values() for one in lanes):
            thread.join(max(0.0, deadline - time.monotonic()))
        if ours:
            queue.close()
        log.info("sender_stopped")
    return 0


def _waiting(queue: Queue, trouble: Trouble) -> tuple[str, ...]:
    try:
        return tuple(queue.waiting_destinations())
    except Transient as error:
        trouble.tell(error)
        return ()

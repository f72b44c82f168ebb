"""The sender: a lane, in a thread of its own, for every destination that has deliveries.

**Way** `run_sender` asks the queue which destinations have deliveries and starts the lanes that do not run yet. On ``stop``
every lane finishes the C-STORE in hand, gives back what it has not tried, and releases its association.

**Limits** A lane that has run once stays until the sender stops. One sender runs per node.
"""

from __future__ import annotations

import threading
import time

from dicomnode import __version__, notify
from dicomnode.errors import Transient
from dicomnode.log import get_logger
from dicomnode.queue import Queue
from dicomnode.queue.owner import this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.roles import Stop
from dicomnode.scu.lane import Lane
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: New destinations are looked for this often, seconds.
LOOK_S = 0.5
#: Beyond the wait for a peer's answer, a lane has this long to end, seconds.
GRACE_S = 5.0
#: The queue is asked at least this often, or the process is stuck, seconds.
WATCHDOG_S = 60.0

log = get_logger("send")


def run_sender(settings: Settings, stop: Stop, spool: Spool | None = None, queue: Queue | None = None) -> int:
    """Send until ``stop`` is set and give the exit code."""
    spool = spool or Spool(settings.node.state_dir)
    ours = queue is None
    queue = queue or SqliteQueue(spool.queue_path)
    owner = this_process()
    threads: dict[str, threading.Thread] = {}
    notify.watchdog_s(WATCHDOG_S)
    notify.ready()
    log.info("sender_started", version=__version__, config_digest=settings.digest[:12])
    try:
        while not stop.is_set():
            notify.alive()
            for name in _waiting(queue):
                if name not in threads:
                    lane = Lane(name, settings, spool, queue, owner, stop)
                    threads[name] = threading.Thread(target=lane.run, name=f"lane-{len(threads)}", daemon=True)
                    threads[name].start()
            stop.wait(LOOK_S)
    finally:
        deadline = time.monotonic() + settings.send.timeout_s + GRACE_S
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if ours:
            queue.close()
        log.info("sender_stopped")
    return 0


def _waiting(queue: Queue) -> tuple[str, ...]:
    try:
        return tuple(queue.waiting_destinations())
    except Transient as error:
        log.warning("store_failed", reason=error.code)
        return ()

"""`dicomnode serve`: the master of the node's processes; starts them, watches them, replaces them, drains them.

**Way** As nginx does it. The master holds the listening socket, the approved configuration (`snapshot.py`) and the table of
seats, and hands them to its children: `scp.acceptors` times ``accept``, `work.workers` times ``work``, one ``send``, one
``keep``, one ``judge`` where a model is asked, or those of them that ``--only`` names. Each is the same command that also
runs alone. A child that ends is started again, after a pause that doubles while it keeps dying young; one that shows no
progress in its time is killed. SIGTERM drains: the acceptors first, so that nothing new comes, then the others, last the
judge. SIGHUP reloads (`reload.py`).

**Fails** Before the node was ready for the first time, a child that ends with 78 (a configuration that it cannot use) or a
port that can never be had ends the master with 78 too. Later that is told and tried again: what runs is worth more.

**Standard** sd_notify(3): READY when every child is ready, WATCHDOG while none is stuck.

**Limits** When the master dies, its children get SIGTERM from the kernel and end by themselves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dicomnode import __version__, notify
from dicomnode.log import get_logger
from dicomnode.repository import approve
from dicomnode.roles import RELOAD, Stop, asked
from dicomnode.serve.locks import take_locks
from dicomnode.serve.reload import Reload
from dicomnode.serve.tree import ROLES, Tree
from dicomnode.settings import Settings
from dicomnode.snapshot import Snapshot

__all__ = ["ROLES", "run_supervisor", "take_locks"]

TICK_S = 0.1

log = get_logger("serve")


def run_supervisor(settings: Settings, stop: Stop, roles: Sequence[str] = ROLES) -> int:
    """Keep the roles running until told to stop; gives the exit code."""
    tree = Tree(Snapshot(approve(settings)), roles)
    log.info(
        "node_started", version=__version__, called_ae=settings.node.ae_title, port=settings.node.port,
        workers=settings.work.workers, config_digest=settings.digest[:12],
    )
    reload = Reload(tree)
    code = None
    try:
        while code is None and not stop.is_set():
            if asked(RELOAD):
                reload.ask()
            code = tree.tick()
            if code is None and tree.was_ready:
                reload.tick()
            stop.wait(TICK_S)
    finally:
        notify.stopping()
        reload.end()
        tree.drain()
        log.info("node_stopped")
        os.close(tree.seats)
    return code or 0

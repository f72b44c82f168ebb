"""Every acknowledged instance accounted for: in the queue, in the spool and in the archives, as often as allowed.

**Way** `settle` waits until nothing moves any more, `Account.check` compares. The account is the drill's own: it knows what
was answered 0x0000, what came to its archives, and believes the node in neither. `dicomnode queue verify` is asked as well.

**Fails** `Wrong` with the first thing that does not fit.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from dicomnode.drill.archive import Archive
from dicomnode.drill.node import Node, Row
from dicomnode.drill.pdu import Wrong
from dicomnode.keeper.ledger import audit
from dicomnode.spool import Spool

_OPEN = frozenset({"waiting", "active", "deferred", "ready"})


class Account:
    """What one node has acknowledged since it was made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: SOP Instance UID → how often it was answered 0x0000, and how often it was sent.
        self.acknowledged: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        #: UIDs whose results an archive may have been given more than once: its sender died or lost its patience.
        self.again: set[str] = set()

    def sending(self, uid: str) -> None:
        """Note a try, before it."""
        with self._lock:
            self.sent[uid] = self.sent.get(uid, 0) + 1

    def answered(self, uid: str) -> None:
        """Note a success."""
        with self._lock:
            self.acknowledged[uid] = self.acknowledged.get(uid, 0) + 1

    def check(self, node: Node, archives: Mapping[str, Archive]) -> None:
        """Wait until everything has come to its end and see that nothing is missing or too much."""
        settle(node, dict(self.acknowledged))
        rows = node.rows()
        for uid in tuple(self.acknowledged):
            self._instance(uid, rows.get(uid, []), node, archives)
        for uid in rows.keys() - self.sent.keys():
            raise Wrong(f"{uid} has a row and was never sent")
        results = {str(one["sop_instance_uid"]) for group in rows.values() for row in group for one in row["deliveries"]}
        for archive in archives.values():
            for uid in archive.taken.keys() - results:
                raise Wrong(f"{archive.name} was sent {uid}, which is a result of nothing")
            if archive.faults:
                raise Wrong(archive.faults[0])
        node.until(lambda: not node.leftovers(), "files that nobody writes any more stay in spool/tmp")
        queue = node.queue()
        breaches = audit(Spool(node.state), queue, datetime.now(UTC)).breaches if queue is not None else ()
        if breaches:
            raise Wrong(f"`dicomnode queue verify` finds: {breaches[0]}")

    def _instance(self, uid: str, rows: Sequence[Row], node: Node, archives: Mapping[str, Archive]) -> None:
        done = [row for row in rows if row["state"] == "done"]
        states = sorted(str(row["state"]) for row in rows)
        if len(done) != 1 or set(states) - {"done", "duplicate"}:
            reasons = sorted({str(row["reason"]) for row in rows if row["reason"]})
            raise Wrong(
                f"{uid} was acknowledged and stands as {', '.join(states) or 'nothing'} ({', '.join(reasons) or 'no reason'}), "
                "not as done",
            )
        if len(states) > self.sent[uid]:
            raise Wrong(f"{uid} was sent {self.sent[uid]} times and has {len(states)} rows")
        if len(states) < self.acknowledged[uid]:
            raise Wrong(f"{uid} was acknowledged {self.acknowledged[uid]} times and has {len(states)} rows")
        if not done[0]["deliveries"]:
            raise Wrong(f"{uid} was worked and nothing was made of it")
        for row in rows:
            if not (node.state / "spool" / str(row["location"])).is_file():
                raise Wrong(f"{uid} was acknowledged and its file {row['location']} is gone before its retention")
        for one in done[0]["deliveries"]:
            self._delivery(uid, one, archives)

    def _delivery(self, uid: str, one: Row, archives: Mapping[str, Archive]) -> None:
        name, result = str(one["destination"]), str(one["sop_instance_uid"])
        what = f"the {one['kind']} of {uid} for {name}"
        if one["state"] != "delivered":
            raise Wrong(f"{what} is {one['state']} ({one['reason'] or 'no reason'}), not delivered")
        taken = archives[name].taken[result]
        if not taken:
            raise Wrong(f"{what} is called delivered, and the archive does not have it")
        if taken > 1 and uid not in self.again:
            raise Wrong(f"{what} came {taken} times")
        if len(archives[name].digests[result]) > 1:
            raise Wrong(f"{what} came twice under one UID with different bytes")


def settle(node: Node, wanted: Mapping[str, int]) -> None:
    """Wait until these instances, each with at least so many rows, and all that was made of them have ended, well or not."""
    left: set[str] = set()

    def ended() -> bool:
        rows = node.rows()
        left.clear()
        left.update(
            uid for uid, count in wanted.items() if len(rows.get(uid, ())) < count or any(_moves(row) for row in rows[uid])
        )
        return not left

    try:
        node.until(ended, "not settled", tick_s=0.1)
    except Wrong:
        first = min(left)
        states = [f"{row['state']} {row['reason']}".strip() for row in node.rows().get(first, [])]
        raise Wrong(
            f"{len(left)} acknowledged instances came to no end within {node.patience_s:.0f} s; the first, {first}, stands as "
            f"{', '.join(states) or 'nothing: no row was made of it'}",
        ) from None


def _moves(row: Row) -> bool:
    return row["state"] in _OPEN or any(one["state"] in _OPEN for one in row["deliveries"])

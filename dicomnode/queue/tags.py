"""What the queue remembers of Body Part Examined, in SQL: how often which device called a body part what.

**Way** `count` adds an instance to the row of its day, device and words, in the transaction that ends its work for the first
time; `Tags.tags` sums the rows of a period. No row is of one instance, so they stay when instances are forgotten.

**Limits** Days are UTC, by the time of reception. A day has at most `MOST_DEVICES` devices; what further ones send is counted
under `OTHERS`, so that a sender that changes its name with each image fills no disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import date, timedelta

from dicomnode.queue.database import Database
from dicomnode.queue.items import Summary
from dicomnode.records import Instance

#: Devices of one day that have rows of their own.
MOST_DEVICES = 500
#: In place of AE title and token of all others.
OTHERS = "(others)"
_EPOCH = date(1970, 1, 1)
_KNOWN = "SELECT 1 FROM tags WHERE day = ? AND calling_ae = ? AND device = ? LIMIT 1"
_DEVICES = "SELECT count(*) FROM (SELECT DISTINCT calling_ae, device FROM tags WHERE day = ?)"
_COUNT = """
INSERT INTO tags (day, calling_ae, device, picture, tag, agreement, count, instance_id) VALUES (?, ?, ?, ?, ?, ?, 1, ?)
ON CONFLICT DO UPDATE SET count = count + 1, instance_id = max(instance_id, excluded.instance_id)
"""
_SUMS = """
SELECT calling_ae, device, picture, tag, agreement, sum(count) AS count, max(instance_id) AS instance_id FROM tags
WHERE day >= ? AND day < ?
GROUP BY calling_ae, device, picture, tag, agreement ORDER BY calling_ae, device, count DESC, picture, tag
"""


def count(connection: sqlite3.Connection, instance: Instance, summary: Summary) -> None:
    """Count an instance whose picture was certain, within the transaction that ends its work."""
    if not summary.agreement:
        return
    day = _day(instance.received_at.date())
    sender = instance.calling_ae, summary.device
    if not connection.execute(_KNOWN, (day, *sender)).fetchone():
        (devices,) = connection.execute(_DEVICES, (day,)).fetchone()
        if devices >= MOST_DEVICES:
            sender = OTHERS, OTHERS
    connection.execute(_COUNT, (day, *sender, summary.picture, summary.tag, summary.agreement, instance.instance_id))


class Tags(Database):
    """What ``dicomnode report tags`` asks."""

    def tags(self, since: date, until: date) -> tuple[Mapping[str, object], ...]:
        """How often which device called a body part what, from ``since`` up to and without ``until``."""
        return tuple(dict(row) for row in self._all(_SUMS, (_day(since), _day(until))))

    def forget_tags(self, before: date) -> int:
        """Remove the counts of days before this one."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM tags WHERE day < ?", (_day(before),)).rowcount


def _day(day: date) -> int:
    return (day - _EPOCH) // timedelta(days=1)

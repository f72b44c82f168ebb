"""The queue's memory, in SQL: which instances a name stands for, and what happened to each.

**Way** Triggers of the schema write the table ``history`` at every change of a row (``migrations/003.sql``); here it is only
read. An instance that is forgotten takes its history with it.

**Limits** What happened before version 3 of the queue is not told. A Series Instance UID, an AE title and a destination are
looked for row by row, which takes a second in a million.
"""

from __future__ import annotations

from collections.abc import Mapping

from dicomnode.queue import Name, Names, Traced
from dicomnode.queue.database import Database, from_db

#: Kind of name → the instances that it stands for.
_BY: Mapping[Name, str] = {
    "instance id": "SELECT instance_id FROM instances WHERE instance_id = :value",
    "SOP Instance UID": "SELECT instance_id FROM instances WHERE sop_instance_uid = :value",
    "result UID": """
        SELECT DISTINCT instance_id FROM deliveries
        WHERE sop_instance_uid = :value AND location <> '' AND kind <> 'original'""",
    "Series Instance UID": "SELECT instance_id FROM instances WHERE series_instance_uid = :value",
    "Study Instance UID": "SELECT instance_id FROM instances WHERE study_instance_uid = :value",
    "Accession Number": "SELECT instance_id FROM instances WHERE accession_token = :value AND accession_token <> ''",
    "calling AE title": "SELECT instance_id FROM instances WHERE calling_ae = :value COLLATE NOCASE",
    "destination": "SELECT DISTINCT instance_id FROM deliveries WHERE destination = :value COLLATE NOCASE",
}
_EVENTS = """
SELECT h.at, h.last_at, h.times, h.delivery_id, h.kind, h.destination, h.old, h.new, h.reason, h.status, a.name AS who
FROM history AS h LEFT JOIN actors AS a USING (actor_id) WHERE h.instance_id = ? ORDER BY h.event
"""


class History(Database):
    """What ``dicomnode where`` asks."""

    def trace(self, name: Name, value: str, limit: int) -> Traced:
        """Give the instances that a name stands for, the newest ones by id."""
        sides = self._all(
            f"SELECT account, count(*) FROM accounts WHERE instance_id IN ({_BY[name]}) GROUP BY account ORDER BY account",  # noqa: S608 - constants
            {"value": value},
        )
        if not sides:
            return Traced({}, ())
        newest = self._all(f"{_BY[name]} ORDER BY instance_id DESC LIMIT :limit", {"value": value, "limit": limit or -1})
        return Traced({row[0]: row[1] for row in sides}, tuple(sorted(row[0] for row in newest)))

    def names(self) -> Names:
        """Give every SOP Instance UID of a source or result with its instance: for tokens of the log, which hide it."""
        rows = self._all(
            "SELECT sop_instance_uid, instance_id FROM instances WHERE sop_instance_uid <> '' "
            "UNION SELECT sop_instance_uid, instance_id FROM deliveries WHERE location <> ''",
        )
        return tuple((row[0], row[1]) for row in rows)

    def history(self, instance_id: str) -> tuple[Mapping[str, object], ...]:
        """Give what happened to an instance and its deliveries, in order; times are ISO 8601."""
        return tuple(
            {**dict(row), "at": from_db(row["at"]).isoformat(), "last_at": from_db(row["last_at"]).isoformat()}
            for row in self._all(_EVENTS, (instance_id,))
        )

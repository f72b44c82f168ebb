"""The queue's side of the account, in SQL: what is where, which files rows count on, and where rows contradict themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from dicomnode.queue import Claimed, Needed
from dicomnode.queue.database import Database, from_db, owner_of

_UNKNOWN = """
SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM instances WHERE instance_id = value)
"""
_NEEDED = """
SELECT instance_id, state, '' AS kind, '' AS destination, location FROM instances
WHERE state IN ('waiting', 'active', 'deferred', 'hold', 'quarantine')
UNION
SELECT i.instance_id, i.state, '', '', i.location FROM deliveries AS d JOIN instances AS i USING (instance_id)
WHERE d.state = 'hold' AND d.location = ''
UNION ALL
SELECT instance_id, state, kind, destination, location FROM deliveries
WHERE state IN ('ready', 'active', 'deferred', 'hold', 'expired') AND location <> ''
ORDER BY instance_id
"""
_CLAIMED = """
SELECT instance_id, owner, since FROM instances WHERE owner IS NOT NULL
UNION ALL SELECT instance_id, owner, since FROM deliveries WHERE owner IS NOT NULL
ORDER BY instance_id
"""
#: What rows alone must never show; each query gives the ids that break it.
_BREACHES: tuple[tuple[str, str], ...] = (
    ("is active without an owner", "SELECT instance_id FROM instances WHERE state = 'active' AND owner IS NULL"),
    ("is deferred without a time", "SELECT instance_id FROM instances WHERE state = 'deferred' AND due_at IS NULL"),
    ("has a delivery that is active without an owner", """
        SELECT instance_id FROM deliveries WHERE state = 'active' AND owner IS NULL"""),
    ("is done, but a delivery that was made with it is not there", """
        SELECT instance_id FROM instances AS i WHERE state = 'done'
        AND made > (SELECT count(*) FROM deliveries AS d WHERE d.instance_id = i.instance_id)"""),
    ("has deliveries although it was never worked", """
        SELECT instance_id FROM instances AS i WHERE state IN ('duplicate', 'own') AND EXISTS (
            SELECT 1 FROM deliveries AS d WHERE d.instance_id = i.instance_id)"""),
    ("has lost its file before it was ended", """
        SELECT instance_id FROM instances
        WHERE file_gone = 1 AND state IN ('waiting', 'active', 'deferred', 'hold', 'quarantine')"""),
    ("has an output whose file was removed before it was delivered", """
        SELECT instance_id FROM deliveries
        WHERE file_gone = 1 AND location <> '' AND state NOT IN ('delivered', 'dropped')"""),
)


class Account(Database):
    """What `keeper.ledger` asks."""

    def accounts(self) -> Mapping[str, int]:
        """How many instances are on each side."""
        return {row[0]: row[1] for row in self._all("SELECT account, count(*) FROM accounts GROUP BY account")}

    def unknown(self, ids: Sequence[str]) -> tuple[str, ...]:
        """Those of these instances that have no row."""
        return tuple(row[0] for row in self._all(_UNKNOWN, (json.dumps(list(ids)),)))

    def needed(self) -> tuple[Needed, ...]:
        """The files that rows which have not ended count on."""
        return tuple(Needed(*row) for row in self._all(_NEEDED))

    def claims(self) -> tuple[Claimed, ...]:
        """Everything that a process has in hand."""
        return tuple(Claimed(row[0], owner_of(row[1]), from_db(row[2])) for row in self._all(_CLAIMED))

    def verify(self) -> tuple[str, ...]:
        """Breaches of the invariants that rows alone show."""
        breaches = [f"queue.sqlite: {row[0]}" for row in self._all("PRAGMA quick_check(10)") if row[0] != "ok"]
        breaches += [f"queue.sqlite: a row of {row[0]} refers to nothing" for row in self._all("PRAGMA foreign_key_check")]
        for what, sql in _BREACHES:
            breaches += [f"{row[0]} {what}" for row in self._all(sql)]
        return tuple(breaches)

"""The spool: files that are safe once they have their name, what lies there, and the room on its disk.

**Way** `Spool` is put together from its groups of duties: `folders` (the state directory, the node's identity), `promise`
(commit, put, quarantine), `shelf` (open, list, remove, sweep), `receipts` and `room`. Names are ours alone (`names`), the only
fsync of the tree is in `disk`. docs/durability.md argues the order of its writes.

**Limits** One local file system.
"""

from __future__ import annotations

from dicomnode.spool.folders import NodeIdentity, read_identity
from dicomnode.spool.names import FOLDERS, hour_of, new_id
from dicomnode.spool.promise import Promise
from dicomnode.spool.receipts import Receipts
from dicomnode.spool.room import Room
from dicomnode.spool.shelf import Kept

__all__ = ["FOLDERS", "Kept", "NodeIdentity", "Spool", "hour_of", "new_id", "read_identity"]


class Spool(Promise, Receipts, Room):
    """Everything that the node keeps in its state directory beside the queue."""

"""The queue in one SQLite file beside the spool: the default backend, put together from its groups of questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicomnode.queue.account import Account
from dicomnode.queue.deliveries import Deliveries
from dicomnode.queue.history import History
from dicomnode.queue.keeping import Keeping
from dicomnode.queue.people import People
from dicomnode.queue.tags import Tags
from dicomnode.queue.work import Work

if TYPE_CHECKING:
    from dicomnode.queue import Queue


class SqliteQueue(Work, Deliveries, Keeping, People, Account, History, Tags):
    """`dicomnode.queue.Queue` by SQLite; opening, versions and limits are `database.Database`'s."""


if TYPE_CHECKING:

    def _is_a_queue(queue: SqliteQueue) -> Queue:
        return queue

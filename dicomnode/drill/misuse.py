"""Drills in which a peer misbehaves: slow, silent, gone in mid-PDU, refusing, or sending the same thing for ever."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from dicomnode.drill.archive import Mood
from dicomnode.drill.configuration import ANSWER_S, CALLING_TWO, FIRST, SECOND, STALL_S
from dicomnode.drill.ground import Ground
from dicomnode.drill.pdu import Ended, Rejected, Wrong
from dicomnode.drill.pictures import draw

#: Beyond its timeout a peer is cut off within this, seconds.
_GRACE_S = 5.0
_SENDERS, _TIMES = 5, 48
#: How a destination refuses, and how the queue shows it.
_REFUSALS: Mapping[Mood, str] = {"no-contexts": "hold", "reject": "blocked", "reject-now": "deferred"}


def slow_sender(ground: Ground) -> float:
    """A byte at a time, and silence in the midst of a PDU: cut off in time, while others are served."""
    longest = STALL_S + _GRACE_S
    with (
        ground.stream() as stream, ground.connect() as knocking, ground.connect() as trickling,
        ground.associate() as stalled, ground.associate() as dripping, ThreadPoolExecutor(4) as pool,
    ):
        since, half, dripped = time.monotonic(), draw(), draw()
        for picture in (half, dripped):
            ground.account.sending(picture.uid)
        stalled.begin(half)
        rest = dripping.begin(dripped)
        cut = {
            "sends nothing": pool.submit(knocking.cut_off, longest),
            "sends its association request a byte at a time": pool.submit(trickling.trickle, longest_s=longest),
            "stops in the midst of a P-DATA-TF": pool.submit(stalled.cut_off, longest),
            "sends a P-DATA-TF a byte at a time": pool.submit(dripping.trickle, rest, longest_s=longest),
        }
        took = {who: one.result() for who, one in cut.items()}
    for who, seconds in took.items():
        if seconds > longest:
            raise Wrong(f"a peer that {who} was not cut off within {longest:.0f} s")
    stream.served(since, since + min(took.values()))
    return max(took.values())


def slow_destination(ground: Ground) -> float:
    """A destination that does not answer, and then answers slowly: the other one is served meanwhile."""
    second = ground.archives[SECOND]
    come, since = second.come, ground.node.mark()
    second.mood = "silent"
    try:
        uids = ground.send(3, CALLING_TWO)
        ground.node.until(lambda: second.come > come, "nothing is sent to the destination that does not answer")
        first = ground.archives[FIRST]
        ground.node.until(
            lambda: all(_has(ground, uid, FIRST) for uid in uids),
            f"a destination that does not answer keeps {first.name} from what is for it",
        )
        if any(_has(ground, uid, SECOND) for uid in uids):
            raise Wrong("what a destination never answered is called delivered")
        ground.node.until(
            lambda: ground.node.events("delivery_deferred", since), "a destination that does not answer is not given up",
            ANSWER_S * 6,
        )
    finally:
        second.mood = "slow"
    started = time.monotonic()
    ground.account.again |= set(uids)
    try:
        ground.until_delivered(uids)
    finally:
        second.mood = "take"
    return time.monotonic() - started


def _has(ground: Ground, uid: str, destination: str) -> bool:
    row = ground.node.row(uid)
    mine = [one for one in row["deliveries"] if one["destination"] == destination] if row is not None else []
    return bool(mine) and all(one["state"] == "delivered" for one in mine)


def aborts(ground: Ground) -> float:
    """A-ABORT, RST and a bare close in the midst of a P-DATA-TF: nothing is left."""
    longest = 0.0
    for how in ("abort", "reset", "close"):
        picture = draw()
        ground.account.sending(picture.uid)
        with ground.associate() as association:
            association.begin(picture)
            ground.node.until(ground.node.leftovers, "an instance that is half sent is not being written", 10)
            getattr(association, how)()
        started = time.monotonic()
        what = f"{how} in the midst of a P-DATA-TF leaves a file in spool/tmp"
        ground.node.until(lambda: not ground.node.leftovers(), what, 30)
        longest = max(longest, time.monotonic() - started)
        ground.send()
        if ground.node.row(picture.uid) is not None:
            raise Wrong(f"an instance that was cut by {how} has a row")
    return longest


def refusals(ground: Ground) -> float:
    """A destination that takes no context, or rejects: in sight, and delivered once it is mended."""
    second = ground.archives[SECOND]
    longest = 0.0
    try:
        for mood, state in _REFUSALS.items():
            second.mood = mood
            second.forget_peers()  # what is open may be used on
            (uid,) = ground.send(calling=CALLING_TWO)
            _in_sight(ground, uid, state, mood)
            second.mood = "take"
            started = time.monotonic()
            if state != "deferred":
                ground.node.command("queue", "retry", uid)
            ground.until_delivered([uid])
            longest = max(longest, time.monotonic() - started)
    finally:
        second.mood = "take"
    return longest


def _in_sight(ground: Ground, uid: str, state: str, mood: str) -> None:
    """Wait until the queue shows what a destination did."""

    def shown() -> bool:
        queue, row = ground.node.queue(), ground.node.row(uid)
        if queue is None or row is None or row["state"] != "done":
            return False
        if state == "blocked":
            return queue.destination_state(SECOND)[0] == "blocked"
        return any(one["state"] == state for one in row["deliveries"] if one["destination"] == SECOND)

    ground.node.until(shown, f"a destination that answers with {mood} is not shown as {state} in the queue", 30)


def storm(ground: Ground) -> float:
    """The same instance from several senders at once, again and again."""
    picture = draw()

    def sends() -> None:
        with ground.associate() as association:
            for _ in range(_TIMES):
                if status := ground.store(association, picture):
                    raise Wrong(f"a duplicate was answered 0x{status:04X}")
            association.release()

    started = time.monotonic()
    with ThreadPoolExecutor(_SENDERS) as pool:
        for one in [pool.submit(sends) for _ in range(_SENDERS)]:
            try:
                one.result()
            except (Ended, Rejected) as fault:
                raise Wrong(f"a sender of duplicates was not served: {fault}") from None
    ground.check()
    return time.monotonic() - started

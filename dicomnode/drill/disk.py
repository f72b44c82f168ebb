"""The drill of the full disk: refused at the door in time, nothing acknowledged lost, well again by itself.

**Way** Where the system lets us mount a small tmpfs of our own (`tmpfs`), the state directory lies on it and a ballast file
takes its room until writes fail with ENOSPC. Where not, the watermarks are set above what is free, which shows the answers
at the door but no failing write; the drill says which it was.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from dicomnode.drill.ground import Ground
from dicomnode.drill.pdu import Ended, Rejected, Wrong
from dicomnode.drill.pictures import draw

#: Room of the file system and marks, bytes: associations are refused below the first mark, instances below the second.
SIZE, MIN_FREE, RESERVE = 96 << 20, 24 << 20, 12 << 20
MARKS = {"scp": {"min_free_bytes": MIN_FREE, "reserve_bytes": RESERVE}}
CONGESTION = (2, 3, 1)
OUT_OF_RESOURCES = 0xA700
#: Time in which the node meets a disk that takes nothing, seconds.
_FULL_S = 3.0


def full(ground: Ground) -> float:
    """The disk fills up under the node, to the last byte, and is freed again."""
    state = ground.node.state
    ballast = state / "ballast"
    ground.until_delivered(ground.send())
    with ground.associate() as inside:
        _fill(ballast, state, (MIN_FREE + RESERVE) // 2)
        _refused(ground)
        for _ in range(3):
            if status := ground.store(inside, draw()):
                raise Wrong(f"above the reserve an open association was answered 0x{status:04X}")
        _fill(ballast, state, 0)
        if (status := ground.store(inside, draw())) != OUT_OF_RESOURCES:
            raise Wrong(f"on a full disk a C-STORE was answered 0x{status:04X}, not 0xA700")
        time.sleep(_FULL_S)
        _refused(ground)
        with contextlib.suppress(Ended):
            inside.release()
    ballast.unlink()
    started = time.monotonic()
    ground.until_taken(draw())
    ground.check()
    return time.monotonic() - started


def _fill(ballast: Path, state: Path, leave: int) -> None:
    """Take all room but ``leave`` bytes."""
    with ballast.open("ab") as file:
        for chunk in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while _free(state) > leave:
                    os.write(file.fileno(), bytes(chunk))


def _free(state: Path) -> int:
    status = os.statvfs(state)
    return status.f_bavail * status.f_frsize


def _refused(ground: Ground) -> None:
    """See that a new association is rejected for now."""

    def refused() -> bool:
        try:
            with ground.associate() as one:
                one.release()
        except Rejected as rejected:
            if rejected.code != CONGESTION:
                raise Wrong(f"short of disk: {rejected}, not 2/3/1") from None
            return True
        return False

    ground.node.until(refused, "below scp.min_free_bytes associations are taken", 10)


def marks(ground: Ground) -> float:
    """The marks lie above what is free, first the one for instances, then that for associations, and below it again."""
    free = _free(ground.root)
    ground.configure({"scp": {"min_free_bytes": 0, "reserve_bytes": 4 * free}})
    ground.node.reload()
    with ground.associate() as association:
        if (status := ground.store(association, draw())) != OUT_OF_RESOURCES:
            raise Wrong(f"below scp.reserve_bytes a C-STORE was answered 0x{status:04X}, not 0xA700")
    ground.node.stop()  # a reload takes no configuration that would close the door
    ground.configure({"scp": {"min_free_bytes": 4 * free}})
    ground.node.start(refusing=True)
    ground.node.until_ready()
    _refused(ground)
    ground.configure()
    started = time.monotonic()
    ground.node.reload()
    ground.until_taken(draw())
    return time.monotonic() - started

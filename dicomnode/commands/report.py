"""``dicomnode report tags``: how often the devices of a site fill in Body Part Examined as their pictures are.

**Way** The queue counts each picture that the router was certain of once, by day, calling AE title and device
(`queue/tags.py`); here the counts of a period are summed. ``wrong`` names another region than the picture shows. A chest whose
patient's age makes it another chest than the picture's is counted apart (``age``), for the attribute says CHEST and is right.
``absent`` names no body part, ``not comparable`` several, or what the site's router has no word for. Beside ``wrong`` stands
its share of what could be compared, with the Wilson interval of 95 %.

**Fails** A queue that was never made is `NotFound`.

**Limits** The picture is taken for the truth, and the router errs too: what its card says of its errors is below what a report
can tell. Pictures that came again are counted once, rework is not counted. A device is a token, so that no name of a room or
device stands in the queue; ``dicomnode route FILE -c DIR --json`` gives the token of the device that made a file,
``dicomnode where`` with the instance shown what the node knows of the newest one. Days are UTC.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from dicomnode.commands.options import DEFAULT_CONFIG, Config, Json, print_json
from dicomnode.commands.queue_print import bare_table, wide_console
from dicomnode.errors import NotFound
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.settings import load

app = typer.Typer(no_args_is_help=True, help="What the node has counted.")

Since = Annotated[str | None, typer.Option("--since", metavar="YYYY-MM-DD", help="First day, UTC; default: 30 days ago.")]
Until = Annotated[str | None, typer.Option("--until", metavar="YYYY-MM-DD", help="Last day, UTC; default: today.")]
_DAYS = 30
#: Confusions that are shown to people; --json has all.
_SHOWN = 3
_CHESTS = frozenset({"adult_chest", "pediatric_chest"})
#: Of the normal distribution, two-sided 95 %.
_Z = 1.959964


@app.callback()
def report() -> None:
    """Hold the group together while it has one command."""


@dataclass(slots=True)
class Device:
    """What was counted of one device."""

    calling_ae: str
    device: str
    right: int = 0
    wrong: int = 0
    age: int = 0
    absent: int = 0
    not_comparable: int = 0
    #: (tag, picture) → how often, and the newest instance.
    confusions: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    @property
    def pictures(self) -> int:
        """All that were counted."""
        return self.right + self.wrong + self.age + self.absent + self.not_comparable

    @property
    def compared(self) -> int:
        """Those of which the attribute named a region that could be compared."""
        return self.right + self.wrong + self.age

    def ordered(self) -> list[tuple[str, str, int, str]]:
        """Tag, picture, how often and the newest instance, the most frequent first."""
        return sorted(
            ((tag, picture, count, newest) for (tag, picture), (count, newest) in self.confusions.items()),
            key=lambda one: (-one[2], one[:2]),
        )

    def told(self) -> dict[str, object]:
        """What a program is told."""
        share, interval = wilson(self.wrong, self.compared)
        return {
            "calling_ae": self.calling_ae, "device": self.device or None, "pictures": self.pictures, "right": self.right,
            "wrong": self.wrong, "age": self.age, "absent": self.absent, "not_comparable": self.not_comparable,
            "wrong_share": share, "wrong_interval": interval,
            "confusions": [
                {"tag": tag, "picture": picture, "count": count, "newest": newest}
                for tag, picture, count, newest in self.ordered()
            ],
        }


@app.command("tags")
def tags(since: Since = None, until: Until = None, config: Config = DEFAULT_CONFIG, json: Json = False) -> None:
    """Say for each device how often Body Part Examined was right, wrong, absent or not comparable with the picture.

    Counted are pictures of which the router was certain, each once; the picture is taken for the truth, and the router errs as
    often as its card says. Wrong: names another region; its share of what could be compared stands beside it with a 95 %
    interval. Age: says CHEST, and the patient's age makes it another chest than the picture shows. Absent: names no body part.
    Not comparable: names several, or what the router has no word for. A device is a token, for names of rooms are kept nowhere:
    `dicomnode route FILE --config DIR --json` gives that of the device that made a file, `dicomnode where` with the instance in
    brackets what is known of the newest one.
    """
    today = datetime.now(UTC).date()
    last = _day(until, "--until") or today
    first = _day(since, "--since") or last - timedelta(days=_DAYS)
    if first > last:
        raise typer.BadParameter("the first day is after the last one", param_hint="--since")
    settings = load(config)
    path = settings.node.state_dir / "queue.sqlite"
    if not path.exists():
        raise NotFound(f"{path}: there is no queue yet; the node makes it when it starts")
    queue = SqliteQueue(path, read_only=True)
    try:
        rows = queue.tags(first, last + timedelta(days=1))
    finally:
        queue.close()
    devices = sorted(by_device(rows), key=lambda one: (-one.wrong, one.calling_ae, one.device))
    if json:
        for device in devices:
            print_json({"since": f"{first}", "until": f"{last}", **device.told()})
        return
    _print(devices, first, last)


def by_device(rows: Iterable[Mapping[str, object]]) -> Iterator[Device]:
    """Sum the rows of `Queue.tags` by device."""
    devices: dict[tuple[str, str], Device] = {}
    for row in rows:
        name = str(row["calling_ae"]), str(row["device"])
        device = devices.setdefault(name, Device(*name))
        tag, picture, count = str(row["tag"]), str(row["picture"]), int(str(row["count"]))
        match row["agreement"]:
            case "agrees":
                device.right += count
                continue
            case "absent":
                device.absent += count
                continue
            case "not_comparable":
                device.not_comparable += count
                continue
        if {tag, picture} == _CHESTS:
            device.age += count
        else:
            device.wrong += count
        before, newest = device.confusions.get((tag, picture), (0, ""))
        device.confusions[tag, picture] = before + count, max(newest, str(row["instance_id"]))
    yield from devices.values()


def wilson(hits: int, of: int) -> tuple[float | None, tuple[float, float] | None]:
    """Give a share and its Wilson interval of 95 %, None of nothing."""
    if not of:
        return None, None
    share, square = hits / of, _Z * _Z / of
    middle, half = share + square / 2, _Z * math.sqrt(share * (1 - share) / of + square / of / 4)
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return round(share, 4), (round(max(0.0, low), 4), round(min(1.0, high), 4))


def _print(devices: list[Device], first: date, last: date) -> None:
    table = bare_table(
        "from", "device", "pictures", "right", "wrong", "of compared", "age", "absent", "not comparable", "most frequent",
    )
    for column in table.columns[2:9]:
        column.justify = "right"
    for device in devices:
        share, interval = wilson(device.wrong, device.compared)
        often = "; ".join(
            f"{tag} is {picture}: {count} ({newest})" for tag, picture, count, newest in device.ordered()[:_SHOWN]
        )
        table.add_row(
            device.calling_ae, device.device or "-", str(device.pictures), str(device.right), str(device.wrong),
            f"{share:.1%} ({interval[0]:.1%} to {interval[1]:.1%})" if share is not None and interval else "",
            str(device.age), str(device.absent), str(device.not_comparable), often,
        )
    typer.echo(f"Body Part Examined against certain pictures, {first} to {last}")
    wide_console().print(table)
    if not devices:
        typer.echo("no picture was counted in this time", file=sys.stderr)


def _day(text: str | None, option: str) -> date | None:
    try:
        return date.fromisoformat(text) if text is not None else None
    except ValueError:
        raise typer.BadParameter("a day is YYYY-MM-DD", param_hint=option) from None

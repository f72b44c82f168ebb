"""The looks at one instance: at every frame, and again at what was blanked of it.

**Way** `Inspection.regions` looks at the frames one after the other and has the lines of all of them read together. Frames
that are equal share one look. Then it looks again at what was blanked; what is still found is blanked too, and looked at
again.

**Fails** `Undecodable` and `UnsupportedTransferSyntax` for a frame that cannot be seen; `RedactionUncertain` for one that
cannot be judged in time, and for what is left at the last look. Where a person answers for that, it stays and `doubted` says
so.

**Limits** Of an instance of many frames each is decoded twice, when anything in it is blanked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import RedactionUncertain, TextLeft
from dicomnode.image import Image
from dicomnode.records import Region
from dicomnode.stages.redact import second
from dicomnode.stages.redact.line import Line, Place
from dicomnode.stages.redact.regions import regions, without_inner
from dicomnode.stages.redact.reuse import Recent, digest
from dicomnode.stages.redact.views import stack

if TYPE_CHECKING:
    from dicomnode.stages.redact.detect import Eyes
    from dicomnode.stages.redact.marks import Mark, Marker
    from dicomnode.stages.redact.reading import Reader

#: How often what the second look finds is blanked and looked at again.
_ROUNDS = 2
#: Lines that wait to be read: their pixels are kept so long.
_WAIT = 400


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame as the networks see it."""

    views: NDArray[np.uint8]
    #: What the views were made of.
    values: tuple[NDArray[Any], ...]
    colour: bool


@dataclass(eq=False)
class _Look:
    """What was seen in a frame, or in several that are equal."""

    #: Lines, and the keys under which the reader has them.
    lines: list[tuple[Line, bytes]]
    #: Of each line; None until they are judged, and when they cannot be.
    marks: list[list[Mark]] | None = None


@dataclass(frozen=True)
class _Forgiven:
    """What cannot be judged is no error where a person answers for it."""

    looks: Inspection

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not (self.looks.vouched and isinstance(error, RedactionUncertain)):
            return False
        self.looks.doubted = True
        return True


@dataclass
class Inspection:
    """Looks at one instance."""

    image: Image
    marker: Marker
    reader: Reader
    #: Of the first look, and of the second.
    eyes: Eyes
    again: Eyes
    #: Of the clock `time.monotonic`.
    deadline: float
    frame_s: float
    #: A person answers for what cannot be judged.
    vouched: bool
    doubted: bool = False
    _last: tuple[int, Seen] | None = field(default=None, repr=False)

    def regions(self, numbers: Sequence[int], more: Iterable[Region] = ()) -> list[Region]:
        """Give what must be blanked in these frames.

        Parameters
        ----------
        more
            What must be in any case.
        """
        looks = self._first(numbers)
        self.eyes.forget()
        self._judge(looks.values())
        found: dict[int, list[Region]] = {number: [] for number in numbers}
        for region in more:
            place = self.image.fit(region.frame, (region.x, region.y, region.w, region.h))
            found[region.frame].append(Region(region.frame, *place, region.reason))
        for number, look in looks.items():
            found[number] += regions(look.marks or (), self.image, number)
        self._second(looks, found)
        return [region for number in numbers for region in without_inner(found[number])]

    def identifies(self, plane: NDArray[np.uint8]) -> bool:
        """Say whether something in a plane, (rows, cols) with bright ink, must go."""
        with self._forgiven():
            self._left()
            views = np.dstack([plane] * 3)
            look = self._asked(Seen(views, (), colour=False), self.eyes(views))
            self._read(1)
            self._judge([look])
            return any(mark.reason for marks in look.marks or () for mark in marks)
        return False

    def _first(self, numbers: Sequence[int]) -> dict[int, _Look]:
        looks: dict[int, _Look] = {}
        known: Recent[bytes, _Look] = Recent()
        since = 0
        for number in numbers:
            seen = self._seen(number)
            key = digest(*seen.values)
            look = known.get(key)
            if look is None:
                look = _Look([])
                with self._forgiven():
                    self._left()
                    look = self._asked(seen, self.eyes(seen.views, seen.values))
                known.put(key, look)
            # The next frame needs its room.
            del seen
            looks[number] = look
            since += 1
            if self.vouched or self.reader.waiting >= _WAIT:
                self._read(since)
                since = 0
        self._read(max(1, since))
        return looks

    def _asked(self, seen: Seen, lines: Sequence[Line]) -> _Look:
        """Ask for the lines of a frame to be read."""
        return _Look([(line, self.reader.want(seen.views, line, colour=seen.colour, values=seen.values)) for line in lines])

    def _seen(self, number: int) -> Seen:
        """Render a frame; the last one is kept, for a single frame is looked at twice."""
        if self._last is None or self._last[0] != number:
            self._last = None
            shown = self.image.picture(number)
            if shown.ndim == 3:
                seen = Seen(shown, (shown,), colour=True)
            else:
                values, falls, _ = self.image.stored(number)
                seen = Seen(stack(values, shown, falls=falls), (values, shown), colour=False)
            self._last = number, seen
        return self._last[1]

    def _read(self, frames: int) -> None:
        """Read the lines of so many frames that wait for it."""
        with self._forgiven():
            self.reader.read(min(self._left(), self.frame_s * frames))

    def _judge(self, looks: Iterable[_Look]) -> None:
        """Judge what was read, of all frames together."""
        fresh = list({id(look): look for look in looks if look.marks is None}.values())
        readings = []
        for look in fresh:
            with self._forgiven():
                readings.append([self.reader.get(key, line) for line, key in look.lines])
                continue
            readings.append([])
        marks = iter(self.marker.marks([reading for own in readings for reading in own]))
        for look, own in zip(fresh, readings, strict=True):
            look.marks = [next(marks) for _ in own]

    def _second(self, looks: Mapping[int, _Look], found: dict[int, list[Region]]) -> None:
        """Look again at what was blanked, and add to it what is still to be found there."""
        fresh = {number: list(own) for number, own in found.items() if own}
        known = {number: [mark for marks in looks[number].marks or () for mark in marks] for number in fresh}
        for last in (*[False] * _ROUNDS, True):
            again = {number: self._look_again(number, found[number], own, known[number]) for number, own in fresh.items()}
            self._read(max(1, len(again)))
            self._judge(again.values())
            fresh = {}
            for number, look in again.items():
                marks = look.marks or []
                known[number] += [mark for own in marks for mark in own]
                if more := regions(marks, self.image, number):
                    fresh[number] = more
                    found[number] += more
            if not fresh:
                return
            if last and not self.vouched:
                raise TextLeft("text is still found after blanking")
        self.doubted = True

    def _look_again(self, number: int, blanked: Sequence[Region], fresh: Sequence[Region], known: Sequence[Mark]) -> _Look:
        with self._forgiven():
            self._left()
            seen = self._seen(number)
            views = second.blanked(seen.views, blanked, colour=seen.colour)
            values = tuple(second.painted(one, blanked, 0) for one in seen.values)
            within = [Place(r.x, r.y, r.w, r.h) for r in fresh]
            stays = [mark.place for mark in known if mark.reason is None]
            lines = second.news(self.again(views, values, within), blanked, stays)
            return self._asked(replace(seen, views=views, values=values), lines)
        return _Look([])

    def _left(self) -> float:
        """Give the seconds that are left."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise RedactionUncertain("the time for one instance is spent")
        return left

    def _forgiven(self) -> _Forgiven:
        return _Forgiven(self)

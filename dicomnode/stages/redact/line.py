"""Places in a frame: a rectangle, a line of text that was seen, a word that was read.

**Way** All count from the top left pixel of the frame. What holds text has no repr, so that it reaches no log.

**Fails** Nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A rectangle."""

    x: int
    y: int
    w: int
    h: int

    @property
    def right(self) -> int:
        """First column behind it."""
        return self.x + self.w

    @property
    def bottom(self) -> int:
        """First row below it."""
        return self.y + self.h

    @property
    def area(self) -> int:
        """Pixels that it holds."""
        return self.w * self.h

    def shared(self, other: Place) -> int:
        """Pixels that both hold."""
        width = min(self.right, other.right) - max(self.x, other.x)
        height = min(self.bottom, other.bottom) - max(self.y, other.y)
        return max(0, width) * max(0, height)

    def grown(self, by: int) -> Place:
        """The same with so many pixels more on each side; it may reach beyond the frame."""
        return Place(self.x - by, self.y - by, self.w + 2 * by, self.h + 2 * by)


@dataclass(frozen=True, slots=True)
class Line(Place):
    """A line of text that was seen."""

    #: It runs upwards or downwards.
    vertical: bool
    #: 0 to 1.
    score: float

    @property
    def thickness(self) -> int:
        """Height of its text."""
        return self.w if self.vertical else self.h


@dataclass(frozen=True, slots=True, repr=False)
class Word(Place):
    """A word that was read."""

    #: 0 to 100.
    confidence: float
    text: str

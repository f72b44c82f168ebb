"""A classifier that is asked about many pictures in one batch, by whoever has many at hand.

**Way** While `collecting`, a question is noted and put off by `Later`; then all noted are asked at once. Asked again about
the same picture, which its image keeps, the answer is there. So the stage that asks decides as always what is asked about.

**Fails** Asked about nothing that was noted it asks alone, so nothing depends on what was collected.

**Limits** Pictures of one batch are kept until the next. One thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from dicomnode.errors import StageFailed
from dicomnode.stages.unit import Array

#: Gives the probabilities of each of some pictures.
Ask = Callable[[Sequence[Array]], Sequence[Mapping[str, float]]]


class Later(Exception):
    """The question was noted; it will be answered when it is asked again."""


class Together:
    """The classifier."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._noted: list[Array] | None = None
        #: By identity; the picture is kept, so that no other gets its place.
        self._answers: dict[int, tuple[Array, Mapping[str, float]]] = {}

    def __call__(self, picture: Array) -> Mapping[str, float]:
        """Answer about one picture; raises `Later` while collecting."""
        if (known := self._answers.get(id(picture))) is not None:
            return known[1]
        if self._noted is None:
            return self._ask([picture])[0]
        self._noted.append(picture)
        raise Later("this picture is asked about with others")

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note questions, and ask them together at the end."""
        self._answers, self._noted = {}, []
        try:
            yield
        finally:
            noted, self._noted = self._noted, None
        try:
            answers = self._ask(noted) if noted else ()
        except StageFailed:  # one of them: each is asked alone, and tells by itself
            return
        self._answers = {id(picture): (picture, answer) for picture, answer in zip(noted, answers, strict=True)}

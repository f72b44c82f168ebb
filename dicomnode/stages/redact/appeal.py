"""The interface of a further judge: somebody who may know what nobody here knows.

**Way** `Redact` asks an `Appeal` in header mode, once for an instance, about the texts whose reason is *unknown*: never about
what matched the header, a date, a number or a rule, and never about what is on the allow-list. In strict mode it asks nobody.

**Fails** Never: who is asked answers ``phi`` for every text when there is any trouble.

**Limits** What stands behind it is none of a stage's business: no disk, row or socket is known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

Verdict = Literal["phi", "harmless"]


class Appeal(Protocol):
    """Judges texts that nobody knows."""

    @property
    def name(self) -> str:
        """Name of the model that is asked, for the record of the means."""
        ...

    def __call__(self, texts: Sequence[str]) -> list[Verdict]:
        """Give one verdict for each text, in their order."""
        ...

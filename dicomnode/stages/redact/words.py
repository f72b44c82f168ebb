"""The allow-list: technical words, labels and units that may stay in a picture.

**Way** `Words.load` reads ``words.txt`` of this package, or the text that it is given.

**Fails** `BadSetting` with the number of the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from dicomnode.errors import BadSetting

_KINDS = ("word", "label", "unit")


@dataclass(frozen=True, slots=True)
class Words:
    """Lower-case words by kind; ``words.txt`` says what the kinds mean."""

    word: frozenset[str]
    label: frozenset[str]
    unit: frozenset[str]

    @classmethod
    def load(cls, text: str | None = None) -> Words:
        """Read the list; raises `BadSetting` when a line begins with no kind."""
        if text is None:
            text = files(__package__).joinpath("words.txt").read_text("utf-8")
        found: dict[str, set[str]] = {kind: set() for kind in _KINDS}
        for number, line in enumerate(text.splitlines(), 1):
            kind, *words = line.split("#")[0].lower().split() or [""]
            if kind and kind not in _KINDS:
                raise BadSetting(f"words.txt, line {number}: begins with none of {', '.join(_KINDS)}")
            if kind:
                found[kind] |= set(words)
        return cls(*(frozenset(found[kind]) for kind in _KINDS))

    def __contains__(self, text: str) -> bool:
        """Say whether a word stays by itself."""
        return text in self.word or text in self.label or text in self.unit

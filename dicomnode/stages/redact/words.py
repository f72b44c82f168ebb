"""What the judge knows of words: those that may stay in a picture, and those that say that a person is near.

**Way** `Words.load` reads ``words.txt`` of this package; the list of a site takes the place of the kinds that stay, those that
identify hold in any case.

**Fails** `BadSetting` with the number of the line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

from dicomnode.errors import BadSetting
from dicomnode.stages.redact.misread import one_slip, plain

#: Kinds of titles: what stands behind them.
FIELDS = ("field-person", "field-id", "field-date", "field-age", "field-place", "field-contact")
_STAY = ("word", "label", "unit", "beside")
_IDENTIFY = (*FIELDS, "field-of", "staff", "degree", "particle", "institution", "street", "name")
#: A shorter word has too many neighbours to be taken for a misread one.
_FORGIVEN = 5


@dataclass(frozen=True, slots=True)
class Words:
    """Lower-case words without accents by kind; ``words.txt`` says what the kinds mean."""

    word: frozenset[str]
    label: frozenset[str]
    unit: frozenset[str]
    #: Words that stay beside one of these only.
    beside: dict[str, frozenset[str]]
    #: The kind of field of each title.
    titles: dict[str, str]
    #: The other kinds that identify.
    kinds: dict[str, frozenset[str]]
    #: Technical words of some length, by what is left of them without one letter.
    _forgiving: dict[str, list[str]] = field(repr=False, compare=False)

    @classmethod
    def load(cls, text: str | None = None) -> Words:
        """Read the list; raises `BadSetting` when a line begins with no kind."""
        package = packaged()
        found = _read(package)
        if text is not None:
            own = _read(text)
            found = {kind: (own[kind] if kind in _STAY else found[kind] + own[kind]) for kind in found}
        beside: dict[str, set[str]] = {}
        for line in found["beside"]:
            words, _, companions = line.partition("|")
            for word in words.split():
                beside.setdefault(word, set()).update(companions.split())
        sets = {kind: frozenset(word for line in lines for word in line.split()) for kind, lines in found.items()}
        stay = (sets["word"] | sets["label"]) - sets["name"]
        titles = {word: kind for kind in FIELDS for word in sets[kind]}
        forgiving: dict[str, list[str]] = {}
        for word in (*stay, *titles, *sets["institution"]):
            if len(word) >= _FORGIVEN and word.isalpha():
                for short in _shorter(word):
                    forgiving.setdefault(short, []).append(word)
        return cls(
            sets["word"], sets["label"], sets["unit"], {word: frozenset(some) for word, some in beside.items()}, titles,
            {kind: sets[kind] for kind in _IDENTIFY if kind not in FIELDS}, forgiving,
        )  # fmt: skip

    def __contains__(self, text: str) -> bool:
        """Say whether a word stays by itself."""
        return text in self.word or text in self.label or text in self.unit or text in self.titles

    def meant(self, text: str) -> list[str]:
        """Give the known words that a word of some length may be a misread one of; none for names."""
        if len(text) < _FORGIVEN or text in self.kinds["name"]:
            return []
        found = {word for short in _shorter(text) for word in self._forgiving.get(short, ())}
        return [word for word in found if one_slip(text, word)]


def _shorter(word: str) -> set[str]:
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}


@lru_cache(1)
def packaged() -> str:
    """The list of the package, in the form of ``words.txt``."""
    return files(__package__).joinpath("words.txt").read_text("utf-8")


def _read(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {kind: [] for kind in (*_STAY, *_IDENTIFY)}
    for number, line in enumerate(text.splitlines(), 1):
        kind, _, rest = ("" if line.startswith("#") else plain(line).strip()).partition(" ")
        if kind and kind not in found:
            raise BadSetting(f"words.txt, line {number}: begins with none of {', '.join(found)}")
        if kind:
            found[kind].append(rest)
    return found

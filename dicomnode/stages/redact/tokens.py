"""The words of a line as the judge sees them: cut at marks, and each with what its neighbours make of it.

**Way** `tokens` cuts ``W:400`` and ``Name:Doe`` in two. `technical` says which tokens stay: words of the allow-list, words that
stay beside others, misread ones, and numbers with a label, a unit or a place in a series.

**Fails** Nothing.

**Limits** A technical word that is a name too stays beside its companions, unless the header holds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicomnode.stages.redact.misread import distance, fold, listed, plain
from dicomnode.stages.redact.numbers import Shape, digits, is_ruler, repaired, shape
from dicomnode.stages.redact.words import Words

_EDGE = ".,:;()[]{}<>|\"'*=~_!?`´«»•·—–"
_CUT = re.compile(r"(?<=[A-Za-zÀ-ÿ#%)])([:=])(?=[^:=\s/])")
_BETWEEN = listed("x × / - of to +/- ± , ~ * bis von sur de di + : a")
#: Digits of a number that a technical word explains, and of one that a label explains.
_SMALL, _NUMBER = 3, 4
#: Units that are written large only as something else: sex, a view.
_SMALL_UNITS = frozenset(("m", "f", "w", "d", "a", "c"))


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """One piece of a word of the picture; no repr, so that its text reaches no log."""

    #: Of the word that it is a piece of.
    word: int
    text: str
    #: Lower case without accents and without marks at the ends.
    plain: str
    folded: str
    #: A colon or the like stands behind: a title.
    titled: bool
    shape: Shape | None

    @property
    def letters(self) -> bool:
        """Whether it is made of letters, but for marks."""
        return bool(self.folded) and self.shape is None


def tokens(line: Sequence[str], words: Words) -> list[Token]:
    """Cut the words of a line."""
    found: list[Token] = []
    for number, word in enumerate(line):
        pieces = [word]
        if (":" in word or "=" in word) and not word[:1].isdigit() and "://" not in word:
            pieces = [piece for piece in _CUT.sub(r"\1 ", word).split() if piece]
        for piece in pieces:
            bare = plain(piece).strip(_EDGE)
            titled = piece.rstrip(" .").endswith((":", "=", "#", ";"))
            found.append(Token(number, piece, bare, fold(piece), titled, shape(piece, words)))
    return found


class Context:
    """Which tokens of a line are technical.

    Parameters
    ----------
    foreign
        Whether a token may be something of the header: it is never taken for a misread word.
    """

    def __init__(self, line: Sequence[Token], words: Words, foreign: Callable[[Token], bool], *, aged: bool) -> None:
        self._line, self._words, self._aged = line, words, aged
        self.sure = [self._is_sure(token) for token in line]
        self._misread = [not sure and self._is_misread(token, foreign) for token, sure in zip(line, self.sure, strict=True)]
        self.stays = [self.sure[i] or self._misread[i] for i in range(len(line))]
        for i in range(len(line)):
            if not self.stays[i]:
                self.stays[i] = self._is_beside(i)
        numbers = [token for token in line if token.folded]
        ruler = is_ruler([token.plain for token in numbers])
        #: Numbers that a label or unit explains.
        self.measured = [False] * len(line)
        for i in range(len(line)):
            if line[i].shape == "bare":
                self.measured[i] = self._is_measured(i)
                self.stays[i] = self.measured[i] or ruler or self._is_small(line[i])
            elif line[i].shape == "stays":
                self.measured[i] = not line[i].plain.isdigit() or self._is_measured(i)
            elif line[i].shape == "odd" and not self.stays[i]:
                behind = line[i + 1].plain if i + 1 < len(line) else ""
                self.stays[i] = self.measured[i] = repaired(line[i].text, words, behind)

    def meant(self, token: Token) -> bool:
        """Say whether a token is a technical word by itself, as it stands."""
        return token.plain in self._words or token.plain.rstrip("s") in self._words

    def _is_sure(self, token: Token) -> bool:
        words, text = self._words, token.plain
        if not token.folded:
            return True  # a lone mark says nothing
        if token.shape is not None:
            return token.shape == "stays"
        if text in words or text.strip("-/+#%") in words or (len(text) == 1 and text.isascii()):
            return True
        pieces = [piece for piece in re.split(r"[-/_:&+,()]", text) if piece]
        return len(pieces) > 1 and "." not in text and all(piece in words or len(piece) == 1 for piece in pieces)

    def _is_misread(self, token: Token, foreign: Callable[[Token], bool]) -> bool:
        text = token.plain
        if not token.letters or len(text) < 3 or not text.isascii():
            return False
        if token.titled and len(text) >= 3 and text not in self._words.kinds["name"]:
            for word in self._words.titles:
                if abs(len(word) - len(text)) <= 1 and word[0] == text[0] and distance(word, text) <= 1:
                    return not foreign(token)
        return bool(self._words.meant(text)) and not foreign(token)

    def _is_beside(self, i: int) -> bool:
        companions = self._words.beside.get(self._line[i].plain)
        if companions is None:
            return False
        for j in (i - 1, i + 1, i + 2, i - 2):
            if 0 <= j < len(self._line) and (abs(i - j) == 1 or self.stays[(i + j) // 2]):
                other = self._line[j]
                if (other.plain in companions and not (other.text.endswith(".") and len(other.plain) == 1)) or (
                    "#" in companions and abs(i - j) == 1 and other.shape in ("bare", "stays")
                ):
                    return True
        return False

    def _is_measured(self, i: int) -> bool:
        """Say whether what stands beside a bare number explains it."""
        size = digits(self._line[i].plain)
        behind = self._line[i + 1] if i + 1 < len(self._line) else None
        return bool(behind and self.is_unit(behind)) or (i > 0 and self._follows(i, size)) or self._leads(i, size)

    def _follows(self, i: int, size: int) -> bool:
        """Say whether what stands in front of a number explains it: a label, a technical word, a measured number."""
        words, before = self._words, self._line[i - 1]
        if before.folded and before.plain in words.label and (before.plain not in words.titles or before.plain in words.word):
            return True
        if before.shape is None and before.plain not in words.titles and self.stays[i - 1] and len(before.folded) > 1:
            return size <= (_NUMBER if before.titled else _SMALL)
        if i > 1 and before.plain in _BETWEEN | {""} and self._explained(i - 2):
            return True
        return before.shape in ("bare", "stays") and self.measured[i - 1] and size <= _NUMBER

    def _leads(self, i: int, size: int) -> bool:
        """Say whether what stands behind a number explains it: another number, or a technical word."""
        line, words = self._line, self._words
        if i + 1 >= len(line):
            return False
        behind = line[i + 1]
        if i + 2 < len(line) and behind.text in _BETWEEN and line[i + 2].shape is not None:
            last = line[i + 3] if i + 3 < len(line) else None
            return line[i + 2].shape == "stays" or bool(last and self.is_unit(last)) or behind.text in ("of", "x", "×", "von")
        word = behind.shape is None and len(behind.folded) >= _SMALL and behind.plain not in words.titles
        return word and self.stays[i + 1] and size <= _SMALL

    def _explained(self, i: int) -> bool:
        return self._line[i].shape in ("bare", "stays") and (self.measured[i] or self._line[i].shape == "stays")

    def is_unit(self, token: Token) -> bool:
        """Say whether a token is a unit."""
        text = token.plain
        if text in _SMALL_UNITS:
            return token.text[:1].islower()
        return text in self._words.unit or text in ("rn", "rnm", "mrn", "crn", "rnas", "rns")

    def _is_small(self, token: Token) -> bool:
        """A number of two digits says nothing when the header knows the age, and this is not it."""
        return self._aged and token.plain.isdigit() and len(token.plain) <= 2 and token.plain[0] != "0"

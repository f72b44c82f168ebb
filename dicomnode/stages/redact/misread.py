"""What OCR confuses: texts in one alphabet, edit distance, and sets of texts that are asked for near ones.

**Way** `fold` makes two writings of one text equal, `alike` two readings. `Near` holds many texts and finds those that are
within the edit distance that their length allows, by the pairs of letters they share: only few are ever compared.

**Fails** Nothing.

**Limits** Cyrillic and Greek letters become Latin ones, other scripts stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

#: Letters that Unicode does not take apart.
_LATIN = {
    "ß": "ss",
    "ẞ": "SS",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
    "ð": "d",
    "Ð": "D",
    "æ": "ae",
    "Æ": "AE",
    "œ": "oe",
    "Œ": "OE",
    "þ": "th",
    "Þ": "TH",
    "ı": "i",
    "µ": "u",
    "μ": "u",
}
#: Letters of other alphabets, and what they are in ours; _ is none.
_OTHERS = (
    (
        "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґ",
        "a b v g d e e zh z i i k l m n o p r s t u f kh ts ch sh shch _ y _ e yu ya i i e g",
    ),
    ("αβγδεζηθικλνξοπρσςτυφχψω", "a v g d e z i th i k l n x o p r s s t y f ch ps o"),
)
_SAID = {a: b.strip("_") for letters, sounds in _OTHERS for a, b in zip(letters, sounds.split(), strict=True)}
_ASCII = str.maketrans({**_LATIN, **_SAID, **{letter.upper(): sound for letter, sound in _SAID.items()}})
_WRITTEN_OUT = str.maketrans({"Ä": "AE", "Ö": "OE", "Ü": "UE", "Å": "AA", "Ø": "OE"})
#: Letters and digits that OCR takes for one another.
_ALIKE = str.maketrans("OQDILJSBZG", "0001115826")
_PAIRS = (("RN", "M"), ("VV", "W"), ("NN", "M"))
#: Lower-case letters of one look.
_LOOKS = ("oecag0q", "il1tjf", "nhrmu", "bh6", "vyuw", "s58", "z27", "a4", "gq9", "bd8", "pr", "kx", "ef")
_SHORTEST = 4


def listed(text: str) -> frozenset[str]:
    """Take a list of words apart."""
    return frozenset(text.split())


@lru_cache(4096)
def fold(text: str) -> str:
    """Upper case without accents, letters and digits only; a stroke among letters is an I."""
    if "|" in text or "!" in text:
        text = re.sub(r"[|!](?=\w)|(?<=\w)[|!]", "I", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.translate(_ASCII))
    return "".join(c for c in text.upper() if c.isalnum())


def plain(text: str) -> str:
    """Lower case without accents, marks kept."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.translate(_ASCII)).lower()
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def writings(text: str) -> set[str]:
    """Fold a text, also with its umlauts written out: MULLER and MUELLER."""
    return {fold(text), fold(unicodedata.normalize("NFC", text).upper().translate(_WRITTEN_OUT))}


@lru_cache(4096)
def alike(folded: str) -> str:
    """Give all readings of one text the same form."""
    for pair, one in _PAIRS:
        folded = folded.replace(pair, one)
    return folded.translate(_ALIKE)


def distance(a: str, b: str) -> int:
    """Edit distance (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def near(word: str, part: str) -> bool:
    """Say whether a folded word of a picture may be a reading of a folded text: a piece of it, or it with slips."""
    if part in word or word in part:
        return True
    if abs(len(word) - len(part)) > 3:
        return False
    a, b = alike(word), alike(part)
    longest = max(len(word), len(part))
    allowed = 1 if longest < 6 else 2 if longest < 10 else 3
    return abs(len(a) - len(b)) <= allowed and distance(a, b) <= allowed


def one_slip(a: str, b: str) -> bool:
    """Say whether two lower-case words differ by one letter that is missing or looks like the other."""
    if a == b:
        return True
    if abs(len(a) - len(b)) > 1:
        return alike(fold(a)) == alike(fold(b))
    if len(a) == len(b):
        apart = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
        return len(apart) == 1 and (len(a) >= 7 or any(x in looks and y in looks for looks in _LOOKS for x, y in apart))
    return distance(a, b) == 1


def pairs(text: str) -> set[str]:
    """Give the pairs of neighbouring letters, with the ends."""
    marked = f"^{text}$"
    return {marked[i : i + 2] for i in range(len(marked) - 1)}


class Near:
    """Texts of at least four letters, asked for those near to a word."""

    __slots__ = ("_always", "_holders", "_texts")

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = [text for text in texts if len(text) >= _SHORTEST]
        self._holders: dict[str, list[int]] = {}
        #: Of too few pairs to be found by them.
        self._always: list[int] = []
        for number, text in enumerate(self._texts):
            found = pairs(alike(text))
            if len(found) < 5 and len(text) > len(found) - 1:
                self._always.append(number)
                continue
            for pair in found:
                self._holders.setdefault(pair, []).append(number)

    def candidates(self, word: str) -> list[str]:
        """Texts that share three pairs with the word: every near one does, and few others."""
        shared: dict[int, int] = {}
        for pair in pairs(alike(word)):
            for number in self._holders.get(pair, ()):
                shared[number] = shared.get(number, 0) + 1
        return [self._texts[number] for number, count in shared.items() if count >= 3] + [self._texts[i] for i in self._always]

    def find(self, word: str) -> str | None:
        """Give a text that the folded word may be a reading of."""
        if len(word) < _SHORTEST:
            return None
        return next((text for text in self.candidates(word) if near(word, text)), None)

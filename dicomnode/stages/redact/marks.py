"""What becomes of what was read: for each word, and for what could not be read, whether it goes and why.

**Way** `Marker.marks` has the words of a line judged and applies the mode: in strict mode unknown words, words that were read
poorly, ink that no word accounts for and lines that nobody could read go; in header mode they stay, but for what an `Appeal`
says identifies. What another rendering of the line shows of the header goes in any mode.

**Fails** Nothing.

**Limits** A name that was read, surely, as a word of the allow-list stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from dicomnode.stages.redact.judge import UNKNOWN, judge
from dicomnode.stages.redact.known import Known, fold
from dicomnode.stages.redact.line import Line, Place, Word
from dicomnode.stages.redact.reading import Reading, is_text
from dicomnode.stages.redact.words import Words

Mode = Literal["strict", "header"]
#: Gives for each text whether it identifies.
Ask = Callable[[Sequence[str]], Sequence[bool]]
#: A word that is read less surely may be another one; one that stays needs more where the network read its line badly.
_SURE, _HEARD = 50.0, 45.0
#: Width of a letter in thicknesses of its line, at most.
_WIDE = 1.6
#: A number of so many digits identifies also where a misread word beside it makes it look like a measurement.
_DIGITS = re.compile(r"\D?\d[\d-]{5,}\D?")
#: In thicknesses: words that stand no farther apart are written in one.
_ONE = 0.75
#: A technical word that was read so surely is no part of a name beside it.
_PLAIN = 75.0
#: In thicknesses: what may be without a word at the ends of a line, and between two words.
_EDGE, _SPACE = 0.9, 1.5
#: In thicknesses: how much shorter than its text a line may have been seen.
_SHORT = 0.3
#: What another rendering must be read with to count, and how many letters: fewer are in the header by chance.
_OTHER, _TELLING = 50.0, 3


@dataclass(frozen=True, slots=True)
class Mark:
    """One place of a frame that was judged."""

    place: Place
    #: Why it goes, a reason of `records.Region`; None when it stays.
    reason: str | None
    #: Of what stays: it was read, so that no margin reaches into it.
    read: bool = True


@dataclass(frozen=True, slots=True)
class Marker:
    """Judges readings."""

    mode: Mode
    words: Words
    facts: Known
    #: Asked in header mode about texts that nobody knows; None when there is nobody.
    ask: Ask | None = None

    def marks(self, readings: Sequence[Reading]) -> list[list[Mark]]:
        """Judge lines; gives what is marked in each, words from left to right."""
        reasons = [judge([word.text for word in reading.words], self.facts, self.words) for reading in readings]
        if self.mode == "header":
            reasons = self._appealed(readings, reasons)
        return [self._line(reading, own) for reading, own in zip(readings, reasons, strict=True)]

    def _appealed(self, readings: Sequence[Reading], reasons: list[list[str | None]]) -> list[list[str | None]]:
        """Ask about words that stand side by side and that nobody knows, together."""
        runs: list[tuple[int, int, int]] = []
        for number, own in enumerate(reasons):
            edges = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(own)) if (a in UNKNOWN) != (b in UNKNOWN)), len(own)]
            runs += [(number, begin, end) for begin, end in pairwise(edges) if end > begin and own[begin] in UNKNOWN]
        texts = [" ".join(word.text for word in readings[number].words[begin:end]) for number, begin, end in runs]
        answers = self.ask(texts) if self.ask is not None and texts else [False] * len(texts)
        for (number, begin, end), phi in zip(runs, answers, strict=True):
            reasons[number][begin:end] = ["model" if phi else None] * (end - begin)
        return reasons

    def _line(self, reading: Reading, reasons: Sequence[str | None]) -> list[Mark]:
        strict = self.mode == "strict"
        if not is_text(reading.line, reading.heard):
            return []
        if not reading.words:
            return [Mark(reading.extent, "unreadable" if strict else None, read=False)]
        own = [self._reason(reading, word, reason) for word, reason in zip(reading.words, reasons, strict=True)]
        if strict:
            own = self._spread(reading, self._of_places(reading, own))
        found = [Mark(word, reason) for word, reason in zip(reading.words, own, strict=True)]
        if strict:
            found = _to_the_end(reading.line, found)
            found += [Mark(place, "unreadable") for place in reading.strays]
            found += [Mark(place, "unreadable") for place in _unsaid(reading, found)]
        found += [
            Mark(word, "header-match") for word in reading.others
            if word.confidence >= _OTHER and len(fold(word.text)) >= _TELLING
            and judge([word.text], self.facts, self.words) == ["header-match"]
        ]
        return found

    def _of_places(self, reading: Reading, reasons: Sequence[str | None]) -> list[str | None]:
        """Let a word that names a kind of institution go: a long name goes on in the next line, where it stands alone."""
        words, own = [word.text.strip() for word in reading.words], list(reasons)
        for i, text in enumerate(words):
            title = any(later.endswith(":") for later in words[i : i + 2])
            if own[i] is None and not title and _plain(text) in self.words.kinds["institution"]:
                own[i] = "institution"
        return own

    def _spread(self, reading: Reading, reasons: Sequence[str | None]) -> list[str | None]:
        """Let what goes take along what is written in one with it: the rest of a string may only look harmless.

        Titles of fields stay, and so does what stands a wide gap apart.
        """
        words, own = reading.words, list(reasons)
        bound = {i for i, word in enumerate(words) if own[i] is not None or not self._is_apart(word)}
        order = range(1, len(words))
        for i, j in [*((i - 1, i) for i in order), *((i, i - 1) for i in reversed(order))]:
            near = _between(reading.line, words[i], words[j]) <= _ONE * reading.line.thickness
            if own[i] is not None and own[j] is None and {i, j} <= bound and near:
                own[j] = "unknown-text"
        return own

    def _is_apart(self, word: Word) -> bool:
        """Say whether a word names a field, whose value follows, or is a technical one, surely read."""
        plain = _plain(word.text)
        if plain.endswith((":", "=", "#")):
            return True
        telling = any(plain in self.words.kinds[kind] for kind in ("institution", "staff", "street", "particle", "degree"))
        return word.confidence >= _PLAIN and plain in self.words and not telling

    def _reason(self, reading: Reading, word: Word, reason: str | None) -> str | None:
        if self.mode == "header":
            return reason
        if reason is None or reason in UNKNOWN:
            sure = word.confidence >= (_SURE if reason or reading.heard >= _HEARD else _PLAIN)
            if not sure or not _fits(reading, word):
                return "unreadable"
            if reason is None and _DIGITS.fullmatch(word.text):
                return "number"
            return "unknown-text" if reason else None
        return reason


def _plain(text: str) -> str:
    return text.lower().strip(".,;()[]")


def _span(line: Line, place: Place) -> tuple[int, int]:
    """Where a place begins and ends along its line."""
    return (place.y, place.bottom) if line.vertical else (place.x, place.right)


def _fits(reading: Reading, word: Word) -> bool:
    """Say whether a word is about as long as its letters are wide; two letters do not fill a line."""
    begin, end = _span(reading.line, word)
    return end - begin <= (_WIDE * max(1, len(word.text)) + 1) * reading.line.thickness


def _between(line: Line, one: Place, other: Place) -> int:
    """Pixels between two words of a line, along it."""
    (begin, end), (start, stop) = _span(line, one), _span(line, other)
    return max(begin, start) - min(end, stop)


def _to_the_end(line: Line, found: Sequence[Mark]) -> list[Mark]:
    """Let the first and the last word that go reach beyond the line: it is sometimes seen a little short, and so are they."""
    beyond = int(_SHORT * line.thickness)
    first = min(found, key=lambda mark: _span(line, mark.place)[0])
    last = max(found, key=lambda mark: _span(line, mark.place)[1])
    ended: list[Mark] = []
    for mark in found:
        place = mark.place
        left, top, right, bottom = place.x, place.y, place.right, place.bottom
        if mark.reason is not None and mark is first:
            left, top = (left, min(top, line.y - beyond)) if line.vertical else (min(left, line.x - beyond), top)
        if mark.reason is not None and mark is last and line.vertical:
            bottom = max(bottom, line.bottom + beyond)
        elif mark.reason is not None and mark is last:
            right = max(right, line.right + beyond)
        ended.append(replace(mark, place=Place(left, top, right - left, bottom - top)))
    return ended


def _unsaid(reading: Reading, found: Sequence[Mark]) -> list[Place]:
    """Give the parts of a line that no word accounts for: what was seen there and not read may be anything."""
    line, extent = reading.line, reading.extent
    along = _span(line, line)
    spans = sorted(_span(line, mark.place) for mark in found)
    gaps: list[tuple[int, int]] = []
    at, least = along[0], _EDGE * line.thickness
    for begin, end in (*spans, (along[1], along[1])):
        if begin - at > (least if at == along[0] or begin == along[1] else _SPACE * line.thickness):
            gaps.append((at, begin))
        at = max(at, end)
    return [
        Place(extent.x, begin, extent.w, end - begin) if line.vertical else Place(begin, extent.y, end - begin, extent.h)
        for begin, end in gaps
    ]

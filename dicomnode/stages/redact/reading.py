"""Reads the lines of an instance: what stands in each, where each word begins and ends, and what could not be read.

**Way** `Reader.want` takes a line with the pixels that it is made of; lines of the same pixels, in whatever frame, are one.
`Reader.read` asks the network (`letters`) for each that was not read before, and Tesseract for all of them in one process; what
neither could read well goes to Tesseract once more, in other renderings (`strip`). Of all readings of a line the surest counts,
the others are kept beside it. The edges of words are those of the ink.

**Fails** `RedactionUncertain` as `ocr`.

**Limits** A word of another line that touches the line is read with it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import RedactionUncertain
from dicomnode.stages.redact.letters import Letters
from dicomnode.stages.redact.line import Line, Place, Word
from dicomnode.stages.redact.ocr import Tesseract
from dicomnode.stages.redact.ocr import Word as Raw
from dicomnode.stages.redact.reuse import Recent, digest
from dicomnode.stages.redact.slip import slip
from dicomnode.stages.redact.strip import BORDER_PX, TARGET_PX, Strip, cut, margin_of

#: What makes a line one, and not anatomy, for something long and for a single glyph: how surely it was seen, and how surely the
#: network read letters there. Chosen on drawn val pictures: of 912 places with text and 346 without.
_LONG = ((0.85, 0.0), (0.6, 15.0), (0.5, 25.0), (0.45, 60.0))
_SHORT = ((0.85, 0.0), (0.4, 60.0))
#: So many times as long as thick is more than a glyph; thinner than so many pixels is no letter.
_GLYPH, _THIN = 2.0, 5
#: A way of turning a line that is read so much worse is the wrong one.
_WORSE = 25.0
#: A line whose reading is less sure is rendered once more.
_SURE = 80.0
#: A reading that is less sure does not say how many letters there are.
_FAIR = 60.0
#: Pages that go to one process, so that pictures do not pile up.
_PAGES = 240
#: How many lines are remembered of one instance.
_LINES = 4096
#: In thicknesses of the line: ink this near to a word is its own, at most so far beyond its box; the slack of a boundary.
_NEAR, _FAR, _SLACK = 0.3, 0.6, 0.35
#: Ink that no word accounts for: its least area in squared thicknesses, and its least height.
_STRAY_AREA, _STRAY_HEIGHT = 0.03, 0.35
#: How far the glyphs of a line reach beyond it at most, in thicknesses, and pixels of the smallest part of one.
_BEYOND, _SPECK = 0.1, 2


def is_text(line: Line, heard: float) -> bool:
    """Say whether a line is one, and not anatomy, by how surely it was seen and letters were read in it (0 to 100)."""
    kinds = _LONG if max(line.w, line.h) >= _GLYPH * line.thickness else _SHORT
    return line.thickness >= _THIN and any(line.score >= seen and heard >= least for seen, least in kinds)


@dataclass(frozen=True, slots=True, repr=False)
class Reading:
    """What stands in a line; places are those of the frame."""

    line: Line
    #: From left to right, of the surest rendering; none when nothing could be read.
    words: tuple[Word, ...]
    #: Ink that no word accounts for.
    strays: tuple[Place, ...]
    #: Words of the other renderings.
    others: tuple[Word, ...]
    #: The line with the glyphs that reach beyond it.
    extent: Place
    #: How surely the network read letters at all, 0 to 100.
    heard: float = 0.0

    def moved(self, x: int, y: int) -> Reading:
        """The same, so many columns and rows further."""

        def go(place: Any) -> Any:
            return replace(place, x=place.x + x, y=place.y + y)

        return Reading(
            go(self.line), tuple(map(go, self.words)), tuple(map(go, self.strays)), tuple(map(go, self.others)),
            go(self.extent), self.heard,
        )


class Reader:
    """Reads the lines of one instance."""

    def __init__(self, tesseract: Tesseract, letters: Letters) -> None:
        self._tesseract, self._letters = tesseract, letters
        self._known: Recent[bytes, Reading] = Recent(_LINES)
        self._wanted: dict[bytes, list[Strip]] = {}

    @property
    def waiting(self) -> int:
        """Lines that are wanted and not read yet."""
        return len(self._wanted)

    def want(
        self, views: NDArray[np.uint8], line: Line, *, colour: bool, values: Sequence[NDArray[Any]] = (),
    ) -> bytes:
        """Ask for a line; gives the key under which `get` has it after `read`.

        Parameters
        ----------
        views
            (rows, cols, 3) of the frame.
        values
            What the views were made of, each (rows, cols, ...): views depend on the whole frame, these only on their place.
        """
        margin = margin_of(line)
        wide = line.grown(margin)
        place = (slice(max(0, wide.y), max(0, wide.bottom)), slice(max(0, wide.x), max(0, wide.right)))
        key = digest(*(one[place] for one in values or (views,)), np.array([margin, line.w, line.h, line.vertical]))
        if self._known.get(key) is None and key not in self._wanted:
            strips = cut(views, line, colour=colour)
            self._wanted[key] = [replace(strip, line=replace(line, x=0, y=0)) for strip in strips]
        return key

    def get(self, key: bytes, line: Line) -> Reading:
        """Give the reading of a line that was asked for."""
        reading = self._known.get(key)
        if reading is None:
            raise RedactionUncertain("there are more lines of text than can be remembered")
        return reading.moved(line.x, line.y)

    def read(self, timeout_s: float) -> None:
        """Read what is wanted; raises `RedactionUncertain` when that fails or takes longer; what was read is remembered."""
        end = time.monotonic() + timeout_s
        wanted, self._wanted = self._wanted, {}
        if not wanted:
            return
        heard = {id(strip): [self._heard(strip)] for strips in wanted.values() for strip in strips}
        sure = {key: max(_mean(heard[id(strip)][0]) for strip in strips) for key, strips in wanted.items()}
        texts = {
            key: self._upright(strips, heard) for key, strips in wanted.items() if is_text(strips[0].line, sure[key])
        }
        first = self._tried([(strip, strip.page) for strips in texts.values() for strip in strips], end)
        unsure = [strips for strips in texts.values() if not _sure(strips, heard) and not _sure(strips, first)]
        more = self._tried([(strip, strip.other_page) for strips in unsure for strip in strips], end)
        for key, strips in wanted.items():
            found = [
                (strip, words) for strip in texts.get(key, strips) for of in (heard, first, more)
                for words in of.get(id(strip), ())
            ]
            self._known.put(key, replace(_best(found), heard=sure[key]))

    @staticmethod
    def _upright(strips: list[Strip], heard: dict[int, list[list[Raw]]]) -> list[Strip]:
        """Leave out the ways of turning a line in which the network reads it much worse."""
        sure = [_mean(heard[id(strip)][0]) for strip in strips]
        return [strip for strip, own in zip(strips, sure, strict=True) if own >= max(sure) - _WORSE]

    def _heard(self, strip: Strip) -> list[Raw]:
        """Ask the network for a strip; places are those of its page, as Tesseract gives them."""
        rows, cols = strip.views.shape[:2]
        margin = strip.margin
        cut_ = slip(strip.views, (margin, margin, cols - margin, rows - margin))
        found = []
        for word in self._letters.read(cut_.picture):
            left, right = (BORDER_PX + strip.scale * (cut_.left + cut_.scale * at) for at in (word.left, word.right))
            found.append(Raw(0, int(left), BORDER_PX, max(1, round(right - left)), TARGET_PX, word.confidence, word.text))
        return found

    def _tried(self, pages: list[tuple[Strip, NDArray[np.uint8]]], end: float) -> dict[int, list[list[Raw]]]:
        """Read pages; gives by strip the words of each of its pages."""
        found: dict[int, list[list[Raw]]] = {}
        for start in range(0, len(pages), _PAGES):
            some = pages[start : start + _PAGES]
            words: list[list[Raw]] = [[] for _ in some]
            for word in self._tesseract.read([page for _, page in some], max(0.001, end - time.monotonic()), lines=True):
                words[word.page].append(word)
            for (strip, _), read in zip(some, words, strict=True):
                found.setdefault(id(strip), []).append(read)
        return found


def _letters(text: str) -> int:
    return len(re.sub(r"[\W_]", "", text))


def _text(words: Sequence[Raw]) -> str:
    return "".join(word.text for word in words)


def _score(words: Sequence[Raw], most: int) -> float:
    """How surely a rendering was read: the confidence of its words by their letters, less where others gave more."""
    letters = [_letters(word.text) for word in words]
    if not (own := sum(letters)):
        return 0.0
    sure = sum(word.confidence * n for word, n in zip(words, letters, strict=True)) / own
    return sure * (0.5 + 0.5 * min(1.0, own / max(1, most)))


def _mean(words: Sequence[Raw]) -> float:
    return sum(word.confidence for word in words) / len(words) if words else 0.0


def _edges(strip: Strip, word: Raw) -> tuple[int, int]:
    """Columns of the strip at which a word of a page begins and ends."""
    left, right = (word.x - BORDER_PX) / strip.scale, (word.x + word.w - BORDER_PX) / strip.scale
    cols = strip.views.shape[1]
    first = min(max(0, int(left)), cols - 1)
    return first, max(first + 1, min(cols, int(np.ceil(right))))


def _sure(strips: Sequence[Strip], tried: dict[int, list[list[Raw]]]) -> bool:
    return any(_score(words, 0) >= _SURE for strip in strips for words in tried[id(strip)])


def _best(tried: Sequence[tuple[Strip, list[Raw]]]) -> Reading:
    """Make the reading of a line of all of its renderings."""
    # Of what was read at all surely: noise has letters without end.
    most = max((sum(_letters(word.text) for word in words) for _, words in tried if _mean(words) >= _FAIR), default=0)
    order = sorted(tried, key=lambda one: -_score(one[1], most))
    # The network runs words together that stand close: of the same letters, surely read, more words are the better reading.
    same = [one for one in order[1:] if _text(one[1]) == _text(order[0][1]) and _score(one[1], most) >= _SURE]
    taken = max([order[0], *same], key=lambda one: len(one[1]))
    strip, raw = taken
    words, strays = _placed(strip, raw)
    others = [word for one in order if one is not taken for word in _placed(*one)[0]]
    whole = _extent(strip, 0, strip.views.shape[1])
    return Reading(strip.line, tuple(words), tuple(strays), tuple(others), whole)


def _placed(strip: Strip, raw: Sequence[Raw]) -> tuple[list[Word], list[Place]]:
    """Give words the edges of their ink, and the places of ink that belongs to none of them."""
    size, margin, cols = strip.thickness, strip.margin, strip.views.shape[1]
    rows = strip.ink[margin : margin + size]
    ink = rows.sum(axis=0) >= max(1, int(0.06 * size))
    raw = sorted(raw, key=lambda word: word.x)
    edges = [_edges(strip, word) for word in raw]
    cuts = [0, *(_gap(ink, left[1], right[0], size) for left, right in pairwise(edges)), cols]
    cuts = np.maximum.accumulate(cuts).tolist()
    words: list[Word] = []
    taken = np.zeros(cols, bool)
    for word, (left, right), low, high in zip(raw, edges, cuts, cuts[1:], strict=False):
        if high <= low:
            continue
        begin = min(max(left, low), high - 1)
        begin, end = _reach(ink, begin, max(begin + 1, min(right, high)), low, high, size)
        place = _extent(strip, begin, end)
        words.append(Word(place.x, place.y, place.w, place.h, word.confidence, word.text))
        taken[max(0, begin - int(_NEAR * size)) : end + int(_NEAR * size)] = True
    return words, _strays(strip, rows, ink & ~taken)


def _gap(ink: NDArray[np.bool_], end: int, begin: int, size: int) -> int:
    """Find the column that divides two words: the middle of the widest gap in the ink about where they meet."""
    slack = max(2, int(_SLACK * size))
    low, high = max(0, min(end, begin) - slack), min(ink.size, max(end, begin) + slack)
    runs = _runs(~ink[low:high])
    if not runs:
        return (end + begin) // 2
    first, last = max(runs, key=lambda run: run[1] - run[0])
    return low + (first + last) // 2


def _reach(ink: NDArray[np.bool_], begin: int, end: int, low: int, high: int, size: int) -> tuple[int, int]:
    """Let a word reach to the end of the ink that goes on from it."""
    near, far = max(2, int(_NEAR * size)), int(_FAR * size)
    least, most = max(low, begin - far), min(high, end + far)
    while True:
        before, behind = ink[max(least, begin - near) : begin], ink[end : min(most, end + near)]
        if before.any():
            begin = max(least, begin - near) + int(before.argmax())
        if behind.any():
            end += behind.size - int(behind[::-1].argmax())
        if not (before.any() or behind.any()):
            return begin, end


def _strays(strip: Strip, rows: NDArray[np.bool_], ink: NDArray[np.bool_]) -> list[Place]:
    """Give the places of ink that is large enough for a letter."""
    size, margin = strip.thickness, strip.margin
    found: list[Place] = []
    inside = ink.copy()
    inside[: margin // 2], inside[-(margin // 2) :] = False, False
    near = max(1, int(_NEAR * size))
    joined = cv2.dilate(inside.astype(np.uint8)[None], np.ones((1, 2 * near + 1), np.uint8))[0] > 0
    for begin, end in _runs(joined):
        part = rows[:, begin:end] & inside[begin:end]
        high = np.nonzero(part.any(axis=1))[0]
        if part.sum() >= max(3, _STRAY_AREA * size * size) and high.size and high[-1] - high[0] + 1 >= _STRAY_HEIGHT * size:
            found.append(_extent(strip, begin, end))
    return found


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First column and the one behind the last of each run."""
    steps = np.flatnonzero(np.diff(np.concatenate(([0], mask.view(np.uint8), [0]))))
    return list(zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True))


def _extent(strip: Strip, begin: int, end: int) -> Place:
    """The place of some columns of the line, from the uppermost ink of its glyphs to the lowest.

    Lines are seen a little larger than they are, so the glyphs lie within, but for `_BEYOND`; without ink all of it is taken.
    """
    size, margin = strip.thickness, strip.margin
    beyond = 1 + int(_BEYOND * size)
    first, last = max(0, margin - beyond), min(strip.ink.shape[0], margin + size + beyond)
    ink = np.ascontiguousarray(strip.ink[first:last, begin:end], np.uint8)
    stats = cv2.connectedComponentsWithStats(ink, connectivity=8)[2][1:] if ink.size else np.zeros((0, 5), np.int32)
    low, high = margin + size // 4 - first, margin + size - size // 4 - first
    glyphs = [
        (y, y + h) for _, y, _, h, area in stats.tolist()
        if area >= _SPECK and ((y < high and y + h > low) or (y >= beyond and y + h <= beyond + size))
    ]
    if not glyphs:
        return strip.place(begin, margin, end, margin + size)
    top, bottom = first + min(y for y, _ in glyphs), first + max(y for _, y in glyphs)
    return strip.place(begin, top, end, bottom)

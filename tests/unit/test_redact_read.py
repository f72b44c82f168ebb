"""Unit: what stands in a line, how surely, where its words begin and end, and what becomes of what could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.errors import RedactionUncertain
from dicomnode.stages.redact.known import known
from dicomnode.stages.redact.letters import ALPHABET, Heard, Letters, decoded
from dicomnode.stages.redact.line import Line, Place, Word
from dicomnode.stages.redact.marks import Mark, Marker
from dicomnode.stages.redact.ocr import Word as Raw
from dicomnode.stages.redact.reading import Reader, Reading
from dicomnode.stages.redact.slip import STEP, slip
from dicomnode.stages.redact.strip import BORDER_PX, TARGET_PX
from dicomnode.stages.redact.views import stack
from dicomnode.stages.redact.words import Words
from tests.unit import pictures


# -- the answer of the network
def answer(text: str, sure: float = 0.9, **less: float) -> NDArray[np.float32]:
    """Probabilities that say a text, each letter for two steps and nothing for one; ``_`` is nothing alone."""
    said = np.full((len(ALPHABET) + 1, 3 * len(text)), 0.001, np.float32)
    for i, letter in enumerate(text):
        wanted = 0 if letter == "_" else ALPHABET.index(letter) + 1
        said[wanted, 3 * i : 3 * i + 2] = less.get(letter, sure)
        said[0, 3 * i + 2] = 0.95
    return said


def test_runs_count_once_and_blanks_end_words() -> None:
    """Letters that are there twice are told apart by nothing between them."""
    assert [word.text for word in decoded(answer("ANNA 47"))] == ["ANNA", "47"]
    assert [word.text for word in decoded(answer("  A__B "))] == ["AB"]
    assert decoded(answer("____")) == []
    assert decoded(np.zeros((len(ALPHABET) + 1, 0), np.float32)) == []


def test_words_know_their_columns() -> None:
    """From the first step of the first letter to the end of the last."""
    one, other = decoded(answer("AB C"))
    assert (one.left, one.right) == (0, 5 * STEP)
    assert (other.left, other.right) == (9 * STEP, 11 * STEP)


def test_the_least_sure_letter_counts() -> None:
    """A word of which one letter is a guess is no sure word."""
    (sure,), (unsure,) = decoded(answer("ABCD")), decoded(answer("ABCD", C=0.3))
    assert sure.confidence == pytest.approx(90, abs=0.1)
    assert unsure.confidence == pytest.approx(100 * (0.5 * (3 * 0.9 + 0.3) / 4 + 0.5 * 0.3), abs=0.1)


def test_what_was_read_has_no_representation() -> None:
    """Its text reaches no log."""
    (word,) = decoded(answer("QUISTGAARD"))
    assert "QUISTGAARD" not in repr(word)
    assert "QUISTGAARD" not in repr(Word(0, 0, 1, 1, 90, "QUISTGAARD"))
    assert "QUISTGAARD" not in repr(reading("QUISTGAARD"))


@pytest.mark.parametrize("scale", [0.5, 0.8])
def test_the_shipped_network_reads_drawn_text(scale: float) -> None:
    """Name, number and date."""
    letters = Letters.load()
    for text in ("QUISTGAARD", "4481907", "17.04.1961"):
        views, line = drawn(text, scale)
        words = letters.read(slip(views, (line.x, line.y, line.right, line.bottom)).picture)
        assert "".join(word.text for word in words) == text


# -- of several readings one counts
class Says:
    """In the place of both readers: says what it is told, a list of words and confidences for each page."""

    def __init__(self, *pages: list[tuple[str, float]], heard: list[tuple[str, float]] = []) -> None:  # noqa: B006
        self.pages, self.heard_ = list(pages), heard
        self.asked: list[int] = []

    def read(self, what: Any, _timeout_s: float = 0.0, *, lines: bool = False) -> Any:
        """As `Tesseract.read`, and as `Letters.read` of one slip."""
        if not lines:
            cols = what.shape[1]
            step = cols / max(1, len(self.heard_))
            return [Heard(t, c, i * step, (i + 1) * step) for i, (t, c) in enumerate(self.heard_)]
        self.asked.append(len(what))
        found = []
        for number, page in enumerate(what):
            said = self.pages.pop(0) if self.pages else []
            width = (page.shape[1] - 2 * BORDER_PX) / max(1, len(said))
            found += [
                Raw(number, round(BORDER_PX + i * width), BORDER_PX, round(width), TARGET_PX, c, t)
                for i, (t, c) in enumerate(said)
            ]
        return found


def drawn(text: str, scale: float = 0.7) -> tuple[NDArray[np.uint8], Line]:
    """Views with one line of text, and its line."""
    grey = pictures.anatomy().astype(np.uint8)
    ink = np.zeros_like(grey)
    cv2.putText(ink, text, (30, 120), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 2 if scale > 0.6 else 1, cv2.LINE_AA)
    x, y, w, h = cv2.boundingRect(ink)
    grey = np.maximum(grey, ink)
    return stack(grey, grey, falls=False), Line(x - 2, y - 2, w + 4, h + 4, vertical=False, score=0.95)


def read(says: Says, text: str = "AB CD") -> Reading:
    """Have one drawn line read."""
    views, line = drawn(text)
    reader = Reader(says, says)  # type: ignore[arg-type]
    key = reader.want(views, line, colour=False)
    reader.read(60)
    return reader.get(key, line)


def said(found: Reading) -> list[str]:
    """Its words."""
    return [word.text for word in found.words]


def test_the_surest_reading_counts_and_the_others_are_kept() -> None:
    """Of the network and of Tesseract."""
    found = read(Says([("A8", 60.0), ("C0", 60.0)], heard=[("AB", 95.0), ("CD", 95.0)]))
    assert said(found) == ["AB", "CD"]
    assert {word.text for word in found.others} == {"A8", "C0"}
    assert found.heard == 95.0
    other = read(Says([("AB", 97.0), ("CD", 97.0)], heard=[("A8", 50.0)]))
    assert said(other) == ["AB", "CD"]


def test_words_that_ran_together_are_told_apart_by_a_sure_reading() -> None:
    """The same letters, more words; not where the reading is poor, nor where it has other letters."""
    heard = [("ABCD", 99.0)]
    found = read(Says([("AB", 90.0), ("CD", 90.0)], heard=heard))
    assert said(found) == ["AB", "CD"]
    assert [word.text for word in found.others] == ["ABCD"]
    assert said(read(Says([("AB", 50.0), ("CD", 50.0)], heard=heard))) == ["ABCD"]
    assert said(read(Says([("AB", 90.0), ("CO", 90.0)], heard=heard))) == ["ABCD"]


def test_other_renderings_are_read_where_neither_was_sure() -> None:
    """And only there: they cost."""
    sure, unsure = Says([("AB", 50.0)], heard=[("ABCD", 90.0)]), Says([("AB", 50.0)], heard=[("AD", 40.0)])
    read(sure)
    assert sure.asked == [1]
    read(unsure)
    assert unsure.asked == [1, 1]


def test_nothing_that_was_read_is_nothing() -> None:
    """A line without words is one that could not be read."""
    assert read(Says()).words == ()


class SaysAt(Says):
    """Tesseract that says words at columns of the frame, and a network that says nothing."""

    def __init__(self, line: Line, *words: tuple[str, int, int]) -> None:
        super().__init__()
        self.line, self.words = line, words

    def read(self, what: Any, _timeout_s: float = 0.0, *, lines: bool = False) -> Any:
        """As both."""
        if not lines:
            return []
        scale, margin = TARGET_PX / self.line.h, int(self.line.h / 2)
        return [
            Raw(number, round(BORDER_PX + (left - self.line.x + margin) * scale), BORDER_PX,
                round((right - left) * scale), TARGET_PX, 97.0, text)
            for number, _ in enumerate(what) for text, left, right in self.words
        ]


def read_at(text: str, *words: tuple[str, int, int]) -> tuple[Reading, list[int]]:
    """Have a drawn line read with words at columns; gives the columns of its ink too."""
    views, line = drawn(text)
    ink = views[line.y : line.bottom, line.x : line.right, 0] > 200
    says = SaysAt(line, *words)
    reader = Reader(says, says)  # type: ignore[arg-type]
    key = reader.want(views, line, colour=False)
    reader.read(60)
    return reader.get(key, line), (np.flatnonzero(ink.any(axis=0)) + line.x).tolist()


def test_words_reach_to_the_edges_of_their_ink() -> None:
    """A reader says roughly where words are; what is blanked holds their glyphs, and not those of the next word."""
    found, cols = read_at("AB    CD", ("AB", 36, 48), ("CD", 84, 98))
    gap = int(np.diff(cols).argmax())
    one, other = found.words
    wanted = [cols[0], cols[gap] + 1, cols[gap + 1], cols[-1] + 1]
    assert [one.x, one.right, other.x, other.right] == pytest.approx(wanted, abs=2)
    assert found.strays == ()


def test_ink_that_no_word_accounts_for_is_stray() -> None:
    """A word that a reader left out is there all the same."""
    found, cols = read_at("AB           CD", ("AB", 34, 54))
    assert said(found) == ["AB"]
    (stray,) = found.strays
    assert cols[0] + 60 < stray.x
    assert stray.right >= cols[-1]


def test_lines_of_the_same_pixels_are_read_once() -> None:
    """In whatever frame, at whatever place; each has its own place in what comes back."""
    views, line = drawn("AB CD")
    moved = np.roll(views, (40, 20), axis=(0, 1))
    says = Says([("AB", 97.0), ("CD", 97.0)])
    reader = Reader(says, says)  # type: ignore[arg-type]
    there = replace(line, x=line.x + 20, y=line.y + 40)
    one, other = reader.want(views, line, colour=False), reader.want(moved, there, colour=False)
    assert one == other
    assert reader.waiting == 1
    reader.read(60)
    assert reader.waiting == 0
    first, second = reader.get(one, line), reader.get(one, there)
    assert [(w.x + 20, w.y + 40) for w in first.words] == [(w.x, w.y) for w in second.words]
    assert reader.want(views, line, colour=False) == one
    assert reader.waiting == 0
    assert says.asked == [1]


def test_a_reading_that_failed_is_not_remembered() -> None:
    """What was not read the first time is not taken for read the second time."""
    views, line = drawn("AB CD")

    class Fails(Says):
        def read(self, _what: Any, _timeout_s: float = 0.0, *, lines: bool = False) -> Any:
            if lines:
                raise RedactionUncertain("tesseract took too long")
            return []

    reader = Reader(Fails(), Fails())  # type: ignore[arg-type]
    key = reader.want(views, line, colour=False)
    with pytest.raises(RedactionUncertain):
        reader.read(60)
    with pytest.raises(RedactionUncertain):
        reader.get(key, line)
    reader.want(views, line, colour=False)
    assert reader.waiting == 1


# -- what becomes of it
LINE = Line(100, 50, 200, 20, vertical=False, score=0.95)


def word(text: str, x: int, w: int, confidence: float = 95.0) -> Word:
    """A word in `LINE`."""
    return Word(x, 50, w, 20, confidence, text)


def reading(*texts: str, **more: Any) -> Reading:
    """A reading of `LINE` that its words fill."""
    width = 200 // max(1, len(texts))
    words = tuple(word(text, 100 + i * width, width - 6) for i, text in enumerate(texts))
    return replace(Reading(LINE, words, (), (), LINE, heard=95.0), **more)


def marks(mode: Any, *readings: Reading, ask: Any = None) -> list[list[Mark]]:
    """Judge against an invented patient."""
    ds = Dataset()
    ds.PatientName, ds.PatientID = pictures.NAME, pictures.PATIENT_ID
    return Marker(mode, Words.load(None), known(ds), ask).marks(readings)


def reasons(found: Sequence[Mark]) -> list[str | None]:
    """Why each goes."""
    return [mark.reason for mark in found]


def test_modes_differ_in_what_nobody_knows() -> None:
    """Unknown words go in strict mode; what the header says goes in both; the allow-list stays."""
    lines = reading("QUISTGAARD"), reading("WILMAHOLG"), reading("PORTABLE", "SUPINE")
    assert [reasons(own) for own in marks("strict", *lines)] == [["header-match"], ["unknown-text"], [None, None]]
    assert [reasons(own) for own in marks("header", *lines)] == [["header-match"], [None], [None, None]]


def test_what_is_read_poorly_goes_in_strict_mode() -> None:
    """A harmless word that is a guess may be a name."""
    poor = replace(reading(), words=(word("PORTABLE", 100, 200, confidence=30.0),))
    assert reasons(marks("strict", poor)[0]) == ["unreadable"]
    assert reasons(marks("header", poor)[0]) == [None]


def test_a_line_that_nobody_could_read_goes_in_strict_mode() -> None:
    """As a whole; in header mode it stays, and no margin stops at it."""
    (strict,), (header,) = marks("strict", reading()), marks("header", reading())
    assert [(mark.place, mark.reason) for mark in strict] == [(LINE, "unreadable")]
    assert [(mark.place, mark.reason, mark.read) for mark in header] == [(LINE, None, False)]


def test_strays_go_in_strict_mode() -> None:
    """Ink that no word accounts for may be anything."""
    stray = Place(250, 50, 30, 20)
    lines = reading("PORTABLE", strays=(stray,))
    assert [(m.place, m.reason) for m in marks("strict", lines)[0] if m.reason] == [(stray, "unreadable")]
    assert reasons(marks("header", lines)[0]) == [None]


@pytest.mark.parametrize(
    ("words", "gap"),
    [
        ((("PORTABLE", 100, 60),), (160, 300)),  # at the end
        ((("PORTABLE", 240, 60),), (100, 240)),  # at the beginning
        ((("PORTABLE", 100, 60), ("AP", 250, 50)), (160, 250)),  # between two words
        ((("PORTABLE", 110, 80), ("AP", 215, 75)), None),  # as words stand
    ],
)
def test_what_was_seen_and_not_read_goes_in_strict_mode(
    words: tuple[tuple[str, int, int], ...], gap: tuple[int, int] | None
) -> None:
    """A part of a line that no word accounts for."""
    lines = reading(words=tuple(word(*one) for one in words))
    gone = [m for m in marks("strict", lines)[0] if m.reason]
    assert [(m.place.x, m.place.right, m.reason) for m in gone] == ([(*gap, "unreadable")] if gap else [])
    assert not [m for m in marks("header", lines)[0] if m.reason]


def test_what_another_rendering_shows_of_the_header_goes() -> None:
    """In any mode: the surest reading is not always the right one."""
    other = word("QUISTGAARD", 110, 150)
    for mode in ("strict", "header"):
        assert "header-match" in reasons(marks(mode, reading("PORTABLE", others=(other,)))[0])
        assert "header-match" not in reasons(marks(mode, reading("PORTABLE", others=(replace(other, confidence=20.0),)))[0])


def test_what_is_no_text_stays() -> None:
    """Seen faintly, and the network read no letters: a rib or the edge of a plate."""
    faint = replace(LINE, score=0.4)
    assert marks("strict", reading(line=faint, extent=faint, heard=5.0)) == [[]]
    assert marks("strict", reading("WILMAHOLG", line=faint, heard=5.0)) == [[]]
    assert reasons(marks("strict", reading("WILMAHOLG", heard=0.0))[0]) == ["unknown-text"]


def test_only_what_nobody_knows_is_asked_about() -> None:
    """In header mode, words side by side together; strong ones and harmless ones are nobody's question."""
    asked: list[list[str]] = []

    def ask(texts: Sequence[str]) -> list[bool]:
        asked.append(list(texts))
        return ["WILMAHOLG" in text for text in texts]

    lines = reading("PORTABLE", "WILMAHOLG", "KARINHOLG"), reading("QUISTGAARD"), reading("BERTAHOLG")
    found = [reasons(own) for own in marks("header", *lines, ask=ask)]
    assert asked == [["WILMAHOLG KARINHOLG", "BERTAHOLG"]]
    assert found == [[None, "model", "model"], ["header-match"], [None]]
    asked.clear()
    marks("strict", *lines, ask=ask)
    assert asked == []


def test_text_that_runs_upwards_is_read_both_ways() -> None:
    """Nobody knows which way is up; the line is cut out turned."""
    views, line = drawn("ABCDEF")
    turned = np.ascontiguousarray(np.rot90(views))
    upright = Line(line.y, views.shape[1] - line.right, line.h, line.w, vertical=True, score=0.95)
    says = Says([("ABCDEF", 97.0)], [("JOGB", 30.0)])
    reader = Reader(says, says)  # type: ignore[arg-type]
    key = reader.want(turned, upright, colour=False)
    reader.read(60)
    (found,) = reader.get(key, upright).words
    assert says.asked[0] == 2
    assert found.text == "ABCDEF"
    assert found.h > 3 * found.w

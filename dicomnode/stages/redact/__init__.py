"""Redaction: finds text in the pixels, decides what identifies a person, and says what must be blanked.

**Way** For every frame: `pages` prepares pictures in which drawn strokes stand out, `ocr` reads them, `lines` puts the words
together, `judge` decides against what the header says (`known`) and the allow-list (`words`), `blank` makes rectangles.
Frames and pages that are equal are read once (`reuse`). `Redacted` blanks when its frames are asked for. Overlays are judged,
icons always go.

**Fails** `ProgramMissing` when it is built; `Undecodable` and `UnsupportedTransferSyntax` for pixels that cannot be seen,
`RedactionUncertain` for text that cannot be judged in the time there is: all of them hold the outputs of pixels, none lets
one pass.

**Standard** PS3.15 E.3.1 (Clean Pixel Data Option).

**Limits** Text that is not horizontal, and text that Tesseract does not find, stays; ``benchmarks/redaction.py`` says how
much. So nothing that is made of the result may claim that no text is burned in. Burned In Annotation (0028,0301) is never
believed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadSetting, RedactionUncertain
from dicomnode.image import Image, Redacted
from dicomnode.records import Region
from dicomnode.stages.redact.blank import Judged, black, regions
from dicomnode.stages.redact.judge import UNKNOWN, judge
from dicomnode.stages.redact.known import Known, known
from dicomnode.stages.redact.lines import lines
from dicomnode.stages.redact.ocr import Tesseract
from dicomnode.stages.redact.overlays import overlays
from dicomnode.stages.redact.pages import Page, pages
from dicomnode.stages.redact.reuse import Reader, Recent, digest
from dicomnode.stages.redact.words import Words

__all__ = ["Redact"]

#: Grey levels by which renderings may differ and still show the same text.
_ALIKE = 16
_MODES = ("strict", "header")
#: What was done, VR LO: no more is claimed, for text that is not horizontal is not looked for.
_METHODS = {
    "strict": "Horizontal text found by OCR blanked (strict mode)",
    "header": "Horizontal text found by OCR blanked (header mode)",
}
#: Some of it could not be judged, and a person answers for that.
_UNSURE = "Text found by OCR blanked where it could be read"
_RELEASED = "; released"


@dataclass(frozen=True, slots=True)
class _Task:
    """What holds for one instance."""

    facts: Known
    read: Reader
    #: Of the clock `time.monotonic`.
    deadline: float
    #: A person answers for what cannot be judged: it is no error, and nothing is found there.
    vouched: bool

    def left(self) -> float:
        """Give the seconds that are left."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise RedactionUncertain("the time for one instance is spent")
        return left


class Redact:
    """The stage: built once, keeps nothing of an instance.

    Parameters
    ----------
    mode
        ``strict``: text that nobody knows counts as identifying. ``header``: only what the header says, dates and long
        numbers.
    lang
        Languages of Tesseract, joined by ``+``.
    words
        The allow-list, as text in the form of ``words.txt``; None for the list of the package.
    frame_s, budget_s
        Time for reading one frame, and one instance; what takes longer is uncertain, so that it ends held and not again and
        again.

    Raises
    ------
    ProgramMissing
        Tesseract, or a language of it, is not installed.
    BadSetting
        There is no such mode, or the list cannot be read.
    """

    name = "redact"

    def __init__(
        self, mode: str = "strict", lang: str = "eng", words: str | None = None, *,
        frame_s: float = 120.0, budget_s: float = 7200.0,
    ) -> None:
        if mode not in _MODES:
            raise BadSetting(f"redaction must be one of {', '.join(_MODES)}")
        self._mode = mode
        self._words = Words.load(words)
        self._tesseract = Tesseract(lang)
        self._frame_s = frame_s
        self._budget_s = budget_s

    def __call__(self, image: Image, frames: Sequence[int] | None = None) -> Redacted:
        """Find what must go.

        Parameters
        ----------
        frames
            The frames that will be shown; the result gives no other. None for all.

        Raises
        ------
        Undecodable, UnsupportedTransferSyntax
            A frame cannot be seen.
        RedactionUncertain
            There is nothing to look at, text cannot be judged, or the time is spent.
        """
        if image.unread:
            raise RedactionUncertain("an element of the header is too large to be looked at")
        return self._redacted(image, frames, vouched=False)

    def waive(self, image: Image, frames: Sequence[int] | None = None) -> Redacted:
        """Redact an image that a person has looked at and released: what is found goes, what is uncertain stays.

        Raises
        ------
        Undecodable, UnsupportedTransferSyntax
            A frame cannot be seen.
        RedactionUncertain
            There is nothing to look at.
        """
        return self.vouched(self._redacted(image, frames, vouched=True))

    @staticmethod
    def vouched(redacted: Redacted) -> Redacted:
        """Say that a person answers for the text that redaction has left standing."""
        return replace(redacted, method=f"{redacted.method}{_RELEASED}", released=True)

    def _redacted(self, image: Image, frames: Sequence[int] | None, *, vouched: bool) -> Redacted:
        if not image.has_pixels:
            raise RedactionUncertain("the instance has no pixels to look at")
        spec, reader = image.spec, Reader(self._tesseract.read)
        task = _Task(known(image.dataset), reader, time.monotonic() + self._budget_s, vouched)
        found: list[Region] = []
        read: Recent[bytes, list[Judged]] = Recent()
        whole = not image.unread
        for number in range(image.frames) if frames is None else sorted(set(frames)):
            array, shown = image.frame(number), image.picture(number)
            key = digest(array, shown)
            judged = read.get(key)
            if judged is None:
                judged = self._look(array, shown, task)
                if judged is None:
                    whole = False
                    continue
                read.put(key, judged)
            found += regions(judged, number, spec.rows, spec.columns, even=spec.subsampled)
        dropped = overlays(image, strict=self._mode == "strict", identifies=lambda plane: self._identifies(plane, task))
        return Redacted(
            image=image,
            regions=(*found, *dropped.regions),
            method=_METHODS[self._mode] if whole else _UNSURE,
            black=black(image),
            overlays=dropped.groups,
            strict=self._mode == "strict" and whole,
            seen=None if frames is None else frozenset(frames),
        )

    def _look(self, array: NDArray[Any], shown: NDArray[np.uint8], task: _Task) -> list[Judged] | None:
        """Judge the text of one frame, in the full range of its values and as it is displayed; None when that cannot be done
        and a person answers for it.
        """
        try:
            left = task.left()
            if shown.ndim == 3:
                return self._judge(pages(shown), left, task)
            whole = _full_range(array)
            made = pages(whole)
            if not _alike(whole, shown):
                made += pages(shown)
            return self._judge(made, left, task)
        except RedactionUncertain:
            if task.vouched:
                return None
            raise

    def _judge(self, made: list[Page], left: float, task: _Task) -> list[Judged]:
        words = task.read([page.picture for page in made], min(left, self._frame_s))
        judged: list[Judged] = []
        for line in lines(made, words, task.facts.matches):
            reasons = judge([box.text for box in line], task.facts, self._words)
            judged += zip(line, map(self._counts, reasons), strict=True)
        return judged

    def _counts(self, reason: str | None) -> str | None:
        """What nobody knows goes in strict mode as unknown text, and stays in header mode."""
        if reason in UNKNOWN:
            return "unknown-text" if self._mode == "strict" else None
        return reason

    def _identifies(self, plane: NDArray[np.uint8], task: _Task) -> bool:
        try:
            return any(reason is not None for _, reason in self._judge(pages(plane), task.left(), task))
        except RedactionUncertain:
            if task.vouched:
                return False
            raise


def _full_range(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Stretch all stored values over the scale: text usually lies at its ends."""
    values = np.nan_to_num(array.astype(np.float32))
    first, last = float(values.min()), float(values.max())
    return np.asarray(np.rint((values - first) * (255 / max(last - first, 1e-12))), np.uint8)


def _alike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Say whether two renderings show the same, be one of them turned; then one of them is enough."""
    apart = min(cv2.absdiff(one, other).max(), cv2.absdiff(one, 255 - other).max())
    return bool(apart <= _ALIKE)

"""Redaction: finds text in the pixels, decides what identifies a person, and says what must be blanked.

**Way** For every frame: `views` renders it, `detect` says where lines of text are, `reading` reads them, all lines of an
instance together, `marks` has each word judged against what the header says (`known`) and the allow-list (`words`), `regions`
makes rectangles. What was blanked is then looked at again (`second`). What is equal in neighbouring frames is seen and read
once. Rectangles of the configuration are added, overlays are judged, icons always go.

**Fails** `ProgramMissing` and `MissingModel` when it is built; `Undecodable` and `UnsupportedTransferSyntax` for pixels that
cannot be seen, `RedactionUncertain` for text that cannot be judged in the time there is, and for what is still left after the
second look: all of them hold the outputs of pixels, none lets one pass.

**Standard** PS3.15 E.3.1 (Clean Pixel Data Option).

**Limits** Text that the networks do not see, at the first look and at the second, stays; docs/redaction.md says how much.
Burned In Annotation (0028,0301) of the source is never believed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dicomnode.errors import BadSetting, RedactionUncertain
from dicomnode.image import Image, Redacted
from dicomnode.records import Means
from dicomnode.stages.redact.appeal import Appeal
from dicomnode.stages.redact.blank import black
from dicomnode.stages.redact.detect import Detector
from dicomnode.stages.redact.inspection import Inspection
from dicomnode.stages.redact.known import known
from dicomnode.stages.redact.letters import Letters
from dicomnode.stages.redact.marks import Marker, Mode
from dicomnode.stages.redact.ocr import Tesseract
from dicomnode.stages.redact.overlays import overlays
from dicomnode.stages.redact.places import Places
from dicomnode.stages.redact.reading import Reader
from dicomnode.stages.redact.words import Words, packaged

__all__ = ["Redact"]

_MODES = ("strict", "header")
#: What was done, VR LO: no more is claimed, for what the networks do not see stays.
_METHODS = {
    "strict": "Text found by detector and OCR blanked (strict mode)",
    "header": "Text found by detector and OCR blanked (header mode)",
}
#: Some of it could not be judged, and a person answers for that.
_UNSURE = "Text found by OCR blanked where it could be read"
_RELEASED = "; released"


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
    models
        Folder of the networks that find and read text; None for those of the package.
    appeal
        Asked in header mode about texts that nobody knows; what it calls PHI goes.
    places
        Rectangles by device that go as well.
    frame_s, budget_s
        Time for reading one frame, and one instance; what takes longer is uncertain, so that it ends held and not again and
        again.

    Raises
    ------
    ProgramMissing
        Tesseract, or a language of it, is not installed.
    MissingModel, BadCard
        The networks are not there, or do not open.
    BadSetting
        There is no such mode, or the list cannot be read.
    """

    name = "redact"

    def __init__(
        self, mode: str = "strict", lang: str = "eng", words: str | None = None, *, models: Path | None = None,
        appeal: Appeal | None = None, places: Places | None = None, frame_s: float = 120.0, budget_s: float = 7200.0,
    ) -> None:
        if mode not in _MODES:
            raise BadSetting(f"redaction must be one of {', '.join(_MODES)}")
        self._mode: Mode = "strict" if mode == "strict" else "header"
        self._words = Words.load(words)
        self._tesseract = Tesseract(lang)
        self._detector = Detector.load(models)
        self._letters = Letters.load(models)
        self._appeal, self._places = appeal, places
        #: By what it redacts, before it has looked at anything: results that were made by other means are others.
        self.means = Means(
            mode=self._mode,
            detector=self._detector.version,
            reader=f"{self._tesseract.version} {self._letters.version}",
            allow_list=hashlib.sha256((words or packaged()).encode()).hexdigest(),
            places=places.digest if places else "",
            judge=appeal.name if appeal and self._mode == "header" else "",
        )
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
        numbers = list(range(image.frames)) if frames is None else sorted(set(frames))
        looks = Inspection(
            image=image,
            marker=Marker(self._mode, self._words, known(image.dataset), self._asks),
            reader=Reader(self._tesseract, self._letters),
            eyes=self._detector.eyes(),
            again=self._detector.eyes(),
            deadline=time.monotonic() + self._budget_s,
            frame_s=self._frame_s,
            vouched=vouched,
        )
        found = looks.regions(numbers, self._places.regions(image, numbers) if self._places else ())
        dropped = overlays(image, strict=self._mode == "strict", identifies=looks.identifies)
        whole = not image.unread and not looks.doubted
        return Redacted(
            image=image,
            regions=(*found, *dropped.regions),
            method=_METHODS[self._mode] if whole else _UNSURE,
            black=black(image),
            overlays=dropped.groups,
            strict=self._mode == "strict" and whole,
            seen=None if frames is None else frozenset(frames),
            means=replace(self.means, second_look="waived" if looks.doubted else "clean"),
        )

    def _asks(self, texts: Sequence[str]) -> list[bool]:
        if self._appeal is None:
            return [False] * len(texts)
        return [answer == "phi" for answer in self._appeal(texts)]

"""Reads a line with a network that knows letters, where Tesseract fails: small, faint, of strange typefaces, over anatomy.

**Way** `Letters.read` asks for one line cut out by `slip` and takes the likeliest class at each step along it; runs count once,
class 0 is nothing (connectionist temporal classification, Graves et al., ICML 2006). Words end at blanks.

**Fails** `MissingModel`, `BadCard` when the network is not there, is not as its card says, does not answer for `ALPHABET` or
answers its sample otherwise; `StageFailed` when onnxruntime gives up.

**Limits** Latin letters. Where a letter is said to be is a letter's width off at times, so the edges of words are for the ink
to say. It sees a few letters at a time and knows no words, so that it completes none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadCard, MissingModel, StageFailed
from dicomnode.repository import load_reader_model
from dicomnode.stages.redact.slip import HEIGHT, STEP, slip
from dicomnode.stages.redact.views import stack
from dicomnode.stages.session import Port, Provider, Session
from dicomnode.text_cards import ReaderFolder

#: Class 1 and on, in order; class 0 is nothing.
ALPHABET = "".join(chr(code) for code in range(32, 127)) + "°µÄÖÜäöüßéè"
_VIEWS = 3
#: How much the least sure letter of a word counts beside the mean of all.
_LEAST = 0.5


@dataclass(frozen=True, slots=True, repr=False)
class Heard:
    """One word; it has no repr, so that its text reaches no log."""

    text: str
    #: 0 to 100.
    confidence: float
    #: Columns of the slip at which it begins and ends.
    left: float
    right: float


class Letters:
    """The network, opened once; thread-safe, since its session is."""

    def __init__(self, folder: ReaderFolder, *, provider: Provider = "cpu", threads: int = 1) -> None:
        """Open the graph.

        Raises
        ------
        BadCard, DigestMismatch
            The graph is not the one of the card, takes and gives something else than the card says, or knows other letters.
        """
        self.folder, self.card = folder, folder.card
        if self.card.alphabet != ALPHABET:
            raise BadCard(f"{folder.path / 'card.toml'}: alphabet: is not that of this node; teach it with this version")
        self._session = Session(folder.onnx, sha256=self.card.sha256, provider=provider, threads=threads)
        taken = Port(self.card.input, "float32", (None, _VIEWS, HEIGHT, None))
        given = Port(self.card.output, "float32", (None, len(ALPHABET) + 1, None))
        if self._session.inputs != (taken,) or self._session.outputs != (given,):
            ports = "; ".join(map(str, (*self._session.inputs, *self._session.outputs)))
            raise BadCard(f"{folder.onnx}: takes and gives {ports}; the card wants {taken}; {given}")

    @classmethod
    def load(cls, models: Path | None = None) -> Letters:
        """Open that of a folder, or the one that the node brings; raises as `load_reader_model` and `check_sample`."""
        made = cls(load_reader_model(models))
        made.check_sample()
        return made

    @property
    def version(self) -> str:
        """``name@version``."""
        return self.card.reference

    @property
    def provider(self) -> str:
        """The execution provider that the session itself reports first."""
        return self._session.provider

    def read(self, line: NDArray[np.uint8]) -> list[Heard]:
        """Read one line, (rows, cols, 3) as `slip.slip` cuts it."""
        return decoded(self.answer(line))

    def answer(self, line: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the probabilities along one line, (classes, cols / STEP)."""
        given = np.ascontiguousarray(line.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        (said,) = self._session.run([self.card.output], {self.card.input: given})
        return np.asarray(said[0], np.float32)

    def sample_answer(self) -> tuple[str, float]:
        """Read the card's picture; gives what stands there, and how sure that is, 0 to 1."""
        picture = cv2.imread(str(self.folder.sample), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise MissingModel(f"{self.folder.sample}: is no picture")
        grey = np.asarray(picture, np.uint8)
        rows, cols = grey.shape
        words = self.read(slip(stack(grey, grey, falls=False), (0, 0, cols, rows)).picture)
        sure = float(np.mean([word.confidence for word in words])) / 100 if words else 0.0
        return " ".join(word.text for word in words), sure

    def check_sample(self) -> float:
        """Read the card's picture; gives how far its sureness is from what the card says.

        Raises
        ------
        BadCard
            It reads something else, or is less or more sure than the card allows.
        """
        sample = self.card.sample
        try:
            text, sure = self.sample_answer()
        except StageFailed as error:
            raise BadCard(f"{self.folder.sample}: the sample is not answered: {error}") from error
        off = abs(sure - sample.confidence)
        if text != sample.text or not off <= sample.tolerance:
            raise BadCard(f"{self.folder.sample}: reads otherwise than the card says, or is off by {off:.3f}")
        return off


def decoded(said: NDArray[np.float32]) -> list[Heard]:
    """Give the words of an answer, (classes, steps) probabilities."""
    best = said.argmax(axis=0)
    words: list[Heard] = []
    letters: list[tuple[str, float, float, float]] = []
    steps = len(best)
    begin = 0
    while begin < steps:
        end = begin + 1
        while end < steps and best[end] == best[begin]:
            end += 1
        if best[begin]:
            letter = ALPHABET[best[begin] - 1]
            if letter == " ":
                words += _word(letters)
                letters = []
            else:
                sure = float(said[best[begin], begin:end].max())
                letters.append((letter, sure, begin * STEP, end * STEP))
        begin = end
    return words + _word(letters)


def _word(letters: list[tuple[str, float, float, float]]) -> list[Heard]:
    if not letters:
        return []
    sure = [one[1] for one in letters]
    confidence = 100 * ((1 - _LEAST) * float(np.mean(sure)) + _LEAST * min(sure))
    return [Heard("".join(one[0] for one in letters), confidence, letters[0][2], letters[-1][3])]

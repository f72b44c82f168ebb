"""One network that finds text: its graph opened, held against its card and its sample.

**Way** `TextModel` opens the graph; `session` is for who asks tile by tile, `answer` asks about a whole frame. `check_sample`
asks about the card's picture and holds means of the answer against those that stand in the card.

**Fails** `BadCard` when the graph is not as its card says, or answers its sample otherwise; `StageFailed` when onnxruntime
gives up.

**Limits** `answer` pads a frame to multiples of 32 by its own edge.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import BadCard, MissingModel, StageFailed
from dicomnode.stages.redact.views import stack
from dicomnode.stages.session import Port, Provider, Session
from dicomnode.text_cards import GRID, TextFolder

#: Sides that the networks take are multiples of this.
MULTIPLE = 32
_VIEWS = 3


class TextModel:
    """One open network; thread-safe, since its session is."""

    def __init__(self, folder: TextFolder, *, provider: Provider = "cpu", threads: int = 1) -> None:
        """Open the graph.

        Raises
        ------
        BadCard, DigestMismatch
            The graph is not the one of the card, or takes and gives something else than the card says.
        """
        self.folder, self.card = folder, folder.card
        self.session = Session(folder.onnx, sha256=self.card.sha256, provider=provider, threads=threads)
        inputs, outputs = self.session.inputs, {port.name: port for port in self.session.outputs}
        taken = Port(self.card.input, "float32", (None, _VIEWS, None, None))
        if inputs != (taken,):
            raise BadCard(f"{folder.onnx}: takes {'; '.join(map(str, inputs))}; the card wants {taken}")
        given = outputs.get(self.card.output)
        if given is None or given.dtype != "float32" or len(given.shape) != len(taken.shape) or given.shape[1] != 1:
            raise BadCard(f"{folder.onnx}: has no output {self.card.output} of one channel; the card names it")

    @property
    def provider(self) -> str:
        """The execution provider that the session itself reports first."""
        return self.session.provider

    def answer(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Say of a frame, (rows, cols, 3) uint8 as `views.views` gives it, where text is; (rows / step, cols / step), upwards.

        Raises
        ------
        StageFailed
            onnxruntime gives up, or the answer is none.
        """
        rows, cols = views.shape[:2]
        padded = np.pad(views, ((0, -rows % MULTIPLE), (0, -cols % MULTIPLE), (0, 0)), mode="edge")
        tensor = np.ascontiguousarray(padded.transpose(2, 0, 1), np.float32)[np.newaxis] / np.float32(255)
        (found,) = self.session.run([self.card.output], {self.card.input: tensor})
        wanted = (1, 1, padded.shape[0] // self.card.step, padded.shape[1] // self.card.step)
        if found.shape != wanted or not np.isfinite(found).all():
            raise StageFailed(f"model {self.card.name}: the answer is not one value for each {self.card.step} pixels each way")
        return np.asarray(found[0, 0, : -(-rows // self.card.step), : -(-cols // self.card.step)], np.float32)

    def sample_answer(self) -> list[list[float]]:
        """Ask about the card's picture; gives means over equal parts of the answer, by rows."""
        picture = cv2.imread(str(self.folder.sample), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise MissingModel(f"{self.folder.sample}: is no picture")
        grey = np.asarray(picture, np.uint8)
        found = self.answer(stack(grey, grey, falls=False))
        return [[float(part.mean()) for part in np.array_split(row, GRID, axis=1)] for row in np.array_split(found, GRID)]

    def check_sample(self) -> float:
        """Ask about the card's picture; gives the largest difference from what the card says.

        Raises
        ------
        BadCard
            The difference is larger than the card allows.
        """
        sample = self.card.sample
        try:
            off = float(np.abs(np.array(self.sample_answer()) - np.array(sample.answer)).max())
        except StageFailed as error:
            raise BadCard(f"{self.folder.sample}: the sample is not answered: {error}") from error
        if not off <= sample.tolerance:
            raise BadCard(f"{self.folder.sample}: the answer is off by {off:.3f}, the card allows {sample.tolerance}")
        return off

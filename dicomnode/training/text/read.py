"""Teach the network that reads lines, by connectionist temporal classification (CTC, Graves et al., ICML 2006).

**Way** Processes draw lines (`slips`), each from its own seed; those of a batch are made as wide as its widest by their last
column. What val counts is lines that are read to the letter by `letters.decoded`, as redaction reads them.

**Fails**, **Limits** As `course`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dicomnode.stages.redact.letters import ALPHABET, decoded
from dicomnode.stages.redact.slip import STEP
from dicomnode.training.text.course import Course, Plan, load_best
from dicomnode.training.text.fonts import Face, Typecase
from dicomnode.training.text.grounds import Grounds
from dicomnode.training.text.learn import to_unit
from dicomnode.training.text.network import Reader
from dicomnode.training.text.slips import encode, make_slip

CLASSES = len(ALPHABET) + 1
Drawn = tuple[NDArray[np.uint8], str]


class Lines(NamedTuple):
    """A batch of lines."""

    #: uint8 (n, 3, HEIGHT, cols).
    slips: Tensor
    #: Answers along each, without those of what was put on.
    widths: Tensor
    #: Classes of all texts, one after the other, and how many each has.
    classes: Tensor
    lengths: Tensor
    texts: list[str]


class Slips(Dataset[Drawn]):
    """Lines by number; each is drawn from its own seed."""

    def __init__(self, grounds: Grounds, faces: list[Face], seed: int, first: int, count: int) -> None:
        self._grounds, self._faces = grounds, Typecase(faces)
        self._seed, self._first, self._count = seed, first, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Drawn:
        """Draw one, with its text."""
        cv2.setNumThreads(1)
        return make_slip(self._grounds, self._faces, np.random.default_rng((self._seed, self._first + number)))


def together(drawn: Sequence[Drawn]) -> Lines:
    """Put lines into one batch."""
    widest = max(made.shape[1] for made, _ in drawn)
    slips = [np.pad(made, ((0, 0), (0, widest - made.shape[1]), (0, 0)), mode="edge") for made, _ in drawn]
    classes = [encode(text) or [] for _, text in drawn]
    return Lines(
        torch.from_numpy(np.ascontiguousarray(np.stack(slips).transpose(0, 3, 1, 2))),
        torch.tensor([made.shape[1] // STEP for made, _ in drawn]),
        torch.tensor([one for row in classes for one in row]), torch.tensor([len(row) for row in classes]),
        [text for _, text in drawn],
    )


class ReadRun(Course[Lines]):
    """All that changes while it learns to read."""

    clip = 5.0

    def __init__(self, plan: Plan, out: Path, device: torch.device) -> None:
        super().__init__(lambda: {"reader": Reader(CLASSES)}, plan, out, device)

    def batches(self, grounds: Grounds, faces: list[Face], workers: int) -> Iterator[Lines]:
        """Give the batches that are left."""
        batch, left = self._plan.batch, self._plan.steps - self.step
        drawn = Slips(grounds, faces, self._plan.seed, self.step * batch, left * batch)
        if left:
            yield from DataLoader(
                drawn, batch_size=batch, num_workers=workers, prefetch_factor=4 if workers else None, collate_fn=together,
            )

    def learn(self, batch: Lines) -> tuple[float, ...]:
        """Take one step; gives the loss."""
        self.begin()
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            said = self.networks["reader"](to_unit(batch.slips, self._device))
        chances = functional.log_softmax(said.float(), dim=1).permute(2, 0, 1)
        classes = batch.classes.to(self._device)
        loss = functional.ctc_loss(chances, classes, batch.widths, batch.lengths, zero_infinity=True)
        self.follow(loss)
        return (float(loss.detach()),)

    def look(self, tried: Sequence[Lines]) -> tuple[Mapping[str, float], float]:
        """Count what is read to the letter, and what is but for case and blanks."""
        network = self.averages["reader"].eval()
        exact, loose, count = 0, 0, 0
        for batch in tried:
            with torch.inference_mode():
                said = torch.softmax(network(to_unit(batch.slips, self._device)), dim=1).cpu().numpy()
            for row, width, text in zip(said, batch.widths.tolist(), batch.texts, strict=True):
                read = " ".join(word.text for word in decoded(row[:, :width]))
                exact += read == text
                loose += _bare(read) == _bare(text)
                count += 1
        return {"lines": count, "exact": exact / count, "loose": loose / count}, exact / count


def _bare(text: str) -> str:
    return text.replace(" ", "").casefold()


def teach_reader(
    train: tuple[Grounds, list[Face]], val: tuple[Grounds, list[Face]], plan: Plan, out: Path, *,
    resume: bool, device: torch.device, workers: int = 1,
) -> Reader:
    """Teach it; gives the network with the averaged weights of the best look at val; else as `learn.teach`."""
    out.mkdir(parents=True, exist_ok=True)
    run = ReadRun(plan, out, device)
    if resume:
        run.resume()
    tried = list(DataLoader(Slips(*val, plan.seed + 1, 0, plan.val), batch_size=plan.batch, collate_fn=together))
    run.go(run.batches(*train, workers), tried)
    reader = Reader(CLASSES)
    load_best(out, device, reader=reader)
    return reader

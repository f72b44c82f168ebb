"""Compares two images frame by frame: what lies outside of the regions must be equal, what lies inside blank.

**Way** `Frames.look` decodes frame after frame of both images, two at a time in memory, and keeps digests and the first fault
of each kind.

**Fails** `Undecodable` and `UnsupportedTransferSyntax`, when a frame does not decode; what differs is no error but a `Fault`.

**Standard** PS3.15 E.3.1 (Clean Pixel Data Option).

**Limits** Both images are decoded by this program: of a lossy syntax another decoder may make other values, of both alike.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomnode.certificate.record import Area
from dicomnode.image import Image, codecs
from dicomnode.image.blocks import inner

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that does not agree: a closed word, and in pixels the first place, counted from 0."""

    check: str
    says: str
    frame: int | None = None
    row: int | None = None
    column: int | None = None


def head(image: Image) -> bytes:
    """What every digest of pixels begins with: frames, rows, columns, samples as 64-bit numbers, little endian; the type."""
    sizes = struct.pack("<4Q", image.frames, image.rows, image.columns, image.samples)
    return sizes + codecs.dtype(image.spec).name.encode("ascii")


def colours(image: Image, number: int = 0) -> str:
    """Photometric interpretation of decoded values: chrominance stands at each pixel, however it was stored."""
    return image.decoded_photometric(number).replace("YBR_FULL_422", "YBR_FULL")


@dataclass(slots=True)
class Frames:
    """One pass over an original and what was made of it; both of the same frames, rows, columns, samples and type."""

    original: Image
    result: Image
    areas: Sequence[Area]
    #: What stands in the regions, one value for each sample, and how far from it a decoded value may lie.
    blank: Sequence[float]
    near: float = 0.0
    #: Columns and rows at the edge of what is blanked in which it need not stand.
    rim: int = 0
    #: False where the digest of the original is not wanted.
    source: bool = True
    faults: list[Fault] = field(default_factory=list)
    _digests: dict[str, Any] = field(default_factory=dict)

    def look(self, progress: Callable[[], object] = lambda: None) -> Frames:
        """Go through all frames; ``progress`` is called after each."""
        start = head(self.original)
        self._digests = {name: hashlib.sha256(start) for name in ("source", "pixels", "untouched")}
        for number in range(self.original.frames):
            self._frame(number)
            progress()
        return self

    @property
    def source_pixels(self) -> str:
        """SHA-256 of the original's pixels, as `Image.pixel_digest` has it."""
        return str(self._digests["source"].hexdigest())

    @property
    def pixels(self) -> str:
        """SHA-256 of the result's pixels, as `Image.pixel_digest` has it."""
        return str(self._digests["pixels"].hexdigest())

    @property
    def untouched(self) -> str:
        """SHA-256 of the original's pixels that lie in no region.

        `head`, then for each frame in order the values of the pixels that lie in no region of that frame: row by row from the
        top, from left to right, all samples of a pixel together, each value little endian.
        """
        return str(self._digests["untouched"].hexdigest())

    def _frame(self, number: int) -> None:
        before, after = _plain(self.original.frame(number)), _plain(self.result.frame(number))
        own = [area for area in self.areas if area.first <= number <= area.last]
        if self.source:
            self._digests["source"].update(before.data)
        self._digests["pixels"].update(after.data)
        if colours(self.original, number) != colours(self.result, number):
            self._note("photometric", "the decoded values are of another photometric interpretation", number)
        outside = np.ones(before.shape[:2], np.bool_)
        for area in own:
            outside[area.y : area.y + area.h, area.x : area.x + area.w] = False
        kept = before[outside] if own else before
        self._digests["untouched"].update(kept.data)
        if not np.array_equal(_bits(kept), _bits(after[outside] if own else after)):
            row, column = _first(_pixels(_bits(before) != _bits(after)) & outside)
            self._note("outside", "a pixel outside of the regions has another value", number, row, column)
        self._inside(after, own, inner(~outside, self.rim, self.rim), number)

    def _inside(self, after: Array, own: Sequence[Area], inside: Array, number: int) -> None:
        """Every value in a region is the blank one."""
        black = np.asarray(self.blank if after.ndim == 3 else self.blank[0], np.float64)
        for area in own:
            place = slice(area.y, area.y + area.h), slice(area.x, area.x + area.w)
            apart = _pixels(np.abs(after[place].astype(np.float64) - black) > self.near) & inside[place]
            if apart.any():
                row, column = _first(apart)
                self._note("inside", "a pixel inside of a region is not blank", number, area.y + row, area.x + column)
                return

    def _note(self, check: str, says: str, frame: int, row: int | None = None, column: int | None = None) -> None:
        """Keep the first fault of a kind."""
        if all(fault.check != check for fault in self.faults):
            self.faults.append(Fault(check, says, frame, row, column))


def _plain(array: Array) -> Array:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def _bits(array: Array) -> Array:
    """The same cells as whole numbers: equal bits are equal, also those of what is not a number."""
    return array.view(f"<u{array.dtype.itemsize}")


def _pixels(cells: Array) -> Array:
    """What holds for any sample of a pixel."""
    return np.asarray(cells.any(axis=-1) if cells.ndim == 3 else cells)


def _first(apart: Array) -> tuple[int, int]:
    row, column = np.unravel_index(int(apart.argmax()), apart.shape)
    return int(row), int(column)

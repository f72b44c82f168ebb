"""An instance as it was received: its header, and its frames on demand.

**Way** `Image.open` reads the header of a seekable Part 10 file and remembers where the pixel data lie; frames are read and
decoded one at a time, when asked for, and each that is asked for is told to the ``progress`` of the caller.

**Fails** `Undecodable` and `UnsupportedTransferSyntax`, whose messages quote neither the data set nor a codec. A description
of pixels that makes no sense raises when pixels are asked for, not before: the header is good for a report.

**Standard** PS3.3 C.7.6.3 (Image Pixel Module), PS3.5 section 8.

**Limits** Not for several threads. The stream stays the caller's and must stay open. Elements behind the pixel data are not
seen.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset

from dicomnode.errors import Undecodable
from dicomnode.image import codecs, jpeg, render
from dicomnode.image.blocks import Blocks
from dicomnode.image.file import Parsed, guard, parse
from dicomnode.image.frames import Frames, index
from dicomnode.image.spec import Spec, spec
from dicomnode.records import Instance

#: A frame up to this size is kept until another one is asked for; as it is stored up to the second.
_KEEP_MAX_BYTES, _KEEP_RAW_MAX_BYTES = 256 << 20, 32 << 20
Made = TypeVar("Made")


class Image:
    """One instance: its header, and its frames on demand."""

    def __init__(
        self, parsed: Parsed, instance: Instance | None = None, progress: Callable[[], object] = lambda: None,
    ) -> None:
        self._parsed = parsed
        self._progress = progress
        self._spec, self._nonsense = _described(parsed)
        self._frames: Frames | None = None
        self._last: tuple[int, NDArray[Any], str] | None = None
        self._raw: tuple[int, bytes] | None = None
        self._blocked: tuple[int, Blocks | None] | None = None
        self._made: dict[Callable[..., Any], Any] = {}
        #: What intake said of the instance; None for a file outside the node.
        self.instance = instance

    @classmethod
    def open(
        cls, source: BinaryIO, instance: Instance | None = None, progress: Callable[[], object] = lambda: None,
    ) -> Image:
        """Read the header of a Part 10 file; the pixel data stay where they are.

        Parameters
        ----------
        source
            Seekable; it must stay open as long as frames are asked for.
        progress
            Called whenever a frame is read.

        Raises
        ------
        Undecodable
            The header cannot be read. Pixels that cannot be as they are described raise when they are asked for.
        """
        return cls(parse(source), instance, progress)

    def once(self, make: Callable[[Image], Made]) -> Made:
        """Give what ``make`` makes of this image, made when it is first asked for and kept until `forget`."""
        if make not in self._made:
            self._made[make] = make(self)
        made: Made = self._made[make]
        return made

    def forget(self) -> None:
        """Let go of what was made by `once`; the last frame stays, for what comes next asks for it again."""
        self._made.clear()
        self._blocked = None

    @property
    def dataset(self) -> Dataset:
        """The data set up to, and without, the pixel data; elements may still be raw."""
        return self._parsed.dataset

    @property
    def file_meta(self) -> FileMetaDataset:
        """Group 2, empty when the file has none."""
        return self._parsed.meta

    @property
    def transfer_syntax_uid(self) -> str:
        """UID of the transfer syntax."""
        return self._parsed.transfer_syntax_uid

    @property
    def left_out(self) -> frozenset[int]:
        """Tags of elements that were too large to be read; `dataset` does not hold them."""
        return self._parsed.left_out

    @property
    def unread(self) -> bool:
        """True when an element that may hold text was too large to be read."""
        return self._parsed.unread

    @property
    def has_pixels(self) -> bool:
        """True with Pixel Data, Float Pixel Data or Double Float Pixel Data."""
        return self._parsed.pixels is not None

    @property
    def spec(self) -> Spec:
        """What the Image Pixel Module says; raises `Undecodable` without pixels and when it makes no sense."""
        if self._spec is None:
            raise Undecodable(self._nonsense or "the instance has no pixel data")
        return self._spec

    @property
    def frames(self) -> int:
        """Number of frames, 0 without pixels that make sense; the other attributes likewise."""
        return self._spec.frames if self._spec else 0

    @property
    def shown(self) -> int:
        """Index, from 0, of the frame that stands for the image, to models and in reports and captures: the middle one."""
        return max(0, self.frames - 1) // 2

    @property
    def rows(self) -> int:
        """Rows of a frame, 0 without pixels."""
        return self._spec.rows if self._spec else 0

    @property
    def columns(self) -> int:
        """Columns of a frame, 0 without pixels."""
        return self._spec.columns if self._spec else 0

    @property
    def samples(self) -> int:
        """Samples per pixel, 1 or 3; 0 without pixels."""
        return self._spec.samples if self._spec else 0

    @property
    def photometric(self) -> str:
        """Photometric Interpretation (0028,0004) of the header, ``""`` without pixels."""
        return self._spec.photometric if self._spec else ""

    def decoded_photometric(self, index: int = 0) -> str:
        """Photometric interpretation of the values of `frame`: JPEG 2000 undoes YBR_RCT and YBR_ICT."""
        return self._decode(index)[1]

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the rectangles, counted from the top left pixel, of which a place to be blanked is made, at the
        most: `fit` gives what it takes at one place.
        """
        if self._spec is None:
            return 1, 1
        found = self._blocks(0)
        return found.cell if found is not None else (1, 2 if self._spec.subsampled else 1)

    def fit(self, index: int, place: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Give the smallest rectangle around a place of frame ``index`` that can be blanked with no pixel outside it changing.

        Parameters
        ----------
        place
            x, y, width and height.

        Returns
        -------
        x, y, width, height, within the frame.

        Raises
        ------
        Undecodable
            The frame cannot be had.
        """
        if not 0 <= index < self.frames:
            raise Undecodable("there is no such frame")
        found = self._blocks(index)
        if found is not None:
            return found.fit(place)
        x, y, w, h = place
        left, top, right, bottom = max(0, x), max(0, y), min(self.columns, x + w), min(self.rows, y + h)
        if self.spec.subsampled:
            left, right = left // 2 * 2, -(-right // 2) * 2
        return left, top, max(0, right - left), max(0, bottom - top)

    def _blocks(self, index: int) -> Blocks | None:
        """The blocks of a frame of which some can be blanked in the code stream; None for all other frames."""
        if self.transfer_syntax_uid not in jpeg.SYNTAXES:
            return None
        if self._blocked is None or self._blocked[0] != index:
            self._blocked = index, jpeg.taken(self.raw_frame(index), self.spec)
        return self._blocked[1]

    def raw_frame(self, index: int) -> bytes:
        """Give frame ``index`` as it is stored: native cells, or the joined fragments of its code stream."""
        if not 0 <= index < self.frames:
            raise Undecodable("there is no such frame")
        if self._raw is not None and self._raw[0] == index:
            return self._raw[1]
        self._progress()
        if self._frames is None:
            assert self._parsed.pixels is not None  # noqa: S101 - there are frames
            with guard("the frames cannot be found"):
                self._frames = _index(self._parsed, self.spec)
        with guard("a frame cannot be read"):
            raw = self._frames.raw(index)
        # A deflated data set cannot go back but by starting again.
        self._raw = (index, raw) if len(raw) <= _KEEP_RAW_MAX_BYTES else None
        return raw

    def frame(self, index: int) -> NDArray[Any]:
        """Decode frame ``index``: stored values in their own colour space, read-only.

        Returns
        -------
        (rows, cols) or (rows, cols, 3) of uint8 to uint64, int8 to int64, float32 or float64, as Bits Allocated and Pixel
        Representation say. Bits outside Bits Stored are 0 or sign.

        Raises
        ------
        Undecodable, UnsupportedTransferSyntax
        """
        return self._decode(index)[0]

    def _decode(self, index: int) -> tuple[NDArray[Any], str]:
        if self._last is not None and self._last[0] == index:
            return self._last[1], self._last[2]
        self._last = None  # before the next one takes its room
        array, photometric = codecs.decode(self.raw_frame(index), self.spec, index)
        array.flags.writeable = False
        self._last = (index, array, photometric) if array.nbytes <= _KEEP_MAX_BYTES else None
        return array, photometric

    def has_strays(self, index: int) -> bool:
        """Say whether a native frame carries bits outside Bits Stored, where overlays of old hide."""
        if not codecs.may_stray(self.spec):
            return False
        settled = self.frame(index)
        with guard("native pixel data cannot be decoded"):
            return codecs.strays(self.raw_frame(index), self.spec, index, settled)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Render frame ``index`` for display: (rows, cols) grey or (rows, cols, 3) RGB, 0 is black.

        Modality LUT and the first window or VOI LUT are applied, MONOCHROME1 is turned, palettes and YBR are resolved.
        """
        array, photometric = self._decode(index)
        with guard("a frame cannot be rendered"):
            if self.samples == 1 and photometric != "PALETTE COLOR":
                return render.grey(array, self.spec, self.dataset, index)
            return render.colour(array, self.spec, self.dataset, photometric)

    def stored(self, index: int) -> tuple[NDArray[Any], bool, tuple[int, int] | None]:
        """Give frame ``index`` of one sample as `frame` does, and what its values mean.

        Returns
        -------
        values, falls, padding
            Whether low values are shown bright, and the first and last value that are padding, None without such.
        """
        values = self.frame(index)
        return values, render.falls(self.spec, self.dataset, index), render.padding(self.spec, self.dataset, index)

    def pixel_digest(self) -> str:
        """SHA-256 over shape, type and decoded values of every frame, ``""`` without pixels.

        The same values in another lossless syntax give the same digest.
        """
        if not self.has_pixels:
            return ""
        digest = hashlib.sha256()
        digest.update(struct.pack("<4Q", self.frames, self.rows, self.columns, self.samples))
        digest.update(codecs.dtype(self.spec).name.encode())
        for number in range(self.frames):
            array = self.frame(number)
            digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).data)
        return digest.hexdigest()


def _described(parsed: Parsed) -> tuple[Spec | None, str]:
    """Give the description of the pixels, or none and what is wrong with it."""
    if parsed.pixels is None:
        return None, ""
    try:
        with guard("the description of the pixels cannot be read"):
            return spec(parsed, parsed.pixels), ""
    except Undecodable as error:
        return None, str(error)


def _index(parsed: Parsed, described: Spec) -> Frames:
    assert parsed.pixels is not None  # noqa: S101 - `Image.spec` has asked
    return index(parsed, parsed.pixels, described)

"""What of an image may leave: its frames without what identifies a person (`Redacted`), and these in bytes (`Coded`).

**Way** `Redacted` blanks regions when a frame is asked for, and gives no frame that was not looked at. `Coded` says in which
syntax its frames are written and makes them one after the other.

**Fails** `StageFailed` for a frame that was not looked at; what `Image` raises.

**Standard** PS3.15 E.3.1 (Clean Pixel Data Option), PS3.3 C.7.6.3.

**Limits** What was not found by detection may still stand in the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomnode.errors import StageFailed
from dicomnode.image.file import guard
from dicomnode.image.received import Image
from dicomnode.records import Means, Region

#: Icon Image Sequence and Graphic Annotation Sequence: what is drawn in the header never leaves.
_DRAWN = frozenset((0x00880200, 0x00700001))
#: Reasons of rectangles that lie beside the pixels.
_BESIDE = frozenset(("overlay", "graphic"))


@dataclass(frozen=True, slots=True)
class Redacted:
    """An image whose pixels may leave: blanked where they identify a person, every other value as it was.

    Born in `stages/redact` and nowhere else. What was not found by detection may still stand in the pixels.
    """

    image: Image = field(repr=False)
    regions: tuple[Region, ...]
    #: How it was redacted, in words for De-identification Method (0012,0063); VR LO.
    method: str
    #: Stored value that shows as black, one for each sample.
    black: tuple[float, ...] = field(repr=False)
    #: Groups of overlays (60xx) and curves (50xx) that must not leave.
    overlays: tuple[int, ...] = ()
    #: True when detection ran and unknown text counted as identifying.
    strict: bool = False
    #: True when a person has looked at the pixels and vouches for what redaction is not sure of.
    released: bool = False
    #: The frames that were looked at, None for all; no other can be had from here.
    seen: frozenset[int] | None = None
    #: By what; None: nothing says that there was a second look, and the pixels do not leave for outside.
    means: Means | None = None
    _by_frame: Mapping[int, tuple[Region, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort the rectangles by frame, once: each frame asks for its own."""
        found: dict[int, list[Region]] = {}
        for region in self.regions:
            if region.reason not in _BESIDE:
                found.setdefault(region.frame, []).append(region)
        object.__setattr__(self, "_by_frame", {frame: tuple(own) for frame, own in found.items()})

    def need(self, index: int) -> None:
        """Raise `StageFailed` for a frame that was not looked at."""
        if self.seen is not None and index not in self.seen:
            raise StageFailed("a frame is asked for that redaction has not looked at")

    def regions_of(self, index: int) -> tuple[Region, ...]:
        """Rectangles of one frame that are blanked in its pixels; those of overlays and graphics are not."""
        return self._by_frame.get(index, ())

    @property
    def clean(self) -> bool:
        """True when all that can be had from here was looked at, text that nobody knows counted as identifying, and a second
        look at the blanked pixels found nothing left.
        """
        return self.strict and self.means is not None and self.means.second_look == "clean"

    @property
    def touched(self) -> bool:
        """True when any frame is blanked anywhere."""
        return bool(self._by_frame)

    def frame(self, index: int) -> NDArray[Any]:
        """Decode frame ``index`` and blank its regions; shapes, types and errors as of `Image.frame`, and as `need`."""
        self.need(index)
        array = self.image.frame(index)
        regions = self.regions_of(index)
        if not regions:
            return array
        array = array.copy()
        for r in regions:
            array[r.y : r.y + r.h, r.x : r.x + r.w] = self.black if array.ndim == 3 else self.black[0]
        return array

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Render frame ``index`` for display, as `Image.picture` does, its regions black; raises as `need` does."""
        self.need(index)
        picture = self.image.picture(index).copy()
        for r in self.regions_of(index):
            picture[r.y : r.y + r.h, r.x : r.x + r.w] = 0
        return picture

    def clean_dataset(self) -> Dataset:
        """Copy the header without icons, graphic annotations, and the overlays and curves that hold text."""
        clean = Dataset()
        dropped = {*_DRAWN, *(tag for tag in map(int, self.image.dataset.keys()) if tag >> 16 in self.overlays)}
        for tag in self.image.dataset.keys():  # noqa: SIM118 - a Dataset iterates over elements
            if int(tag) not in dropped:
                clean[tag] = self.image.dataset.get_item(tag)
        with guard("nested icons cannot be removed"):
            _clear(clean)
        return clean


def _clear(dataset: Dataset) -> None:
    """Remove them below the top level too; items are copied, the source keeps its own."""
    for tag in list(dataset.keys()):
        if dataset[tag].VR == "SQ" and any(map(_draws, dataset[tag].value)):
            items = [Dataset(dict(item.items())) for item in dataset[tag].value]
            for item in items:
                for drawn in _DRAWN:
                    item.pop(drawn, None)
                _clear(item)
            dataset.add_new(tag, "SQ", items)


def _draws(item: Dataset) -> bool:
    """Say whether an item has one of them, at any depth."""
    return any(tag in _DRAWN or (item[tag].VR == "SQ" and any(map(_draws, item[tag].value))) for tag in list(item.keys()))


@dataclass(frozen=True, slots=True)
class Coded:
    """Redacted frames in the form in which they are written."""

    redacted: Redacted
    transfer_syntax_uid: str
    #: Photometric Interpretation (0028,0004) of what `frames` gives.
    photometric: str
    is_encapsulated: bool
    #: Value representation of the pixel data: OB, OW, OF or OD.
    vr: str
    #: Elements of the Image Pixel Module that the coded frames need, by keyword; they replace those of the source.
    attributes: Mapping[str, str | int]
    make: Callable[[], Iterator[bytes]] = field(repr=False)
    #: What was done to the code streams, for Derivation Description (0008,2111); empty when there is nothing to say.
    derivation: str = ""

    def frames(self) -> Iterator[bytes]:
        """Give the frames one after the other: code streams, or native pieces that make Pixel Data when joined.

        Raises
        ------
        Undecodable, StageFailed
            While it runs: a frame does not decode, or what was encoded does not decode to the same values.
        """
        return self.make()

"""What is drawn over a picture and does not lie in its pixels: overlays, curves, graphic annotations, icons."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.image import Image, Redacted
from dicomnode.outputs import part10
from dicomnode.records import Region
from dicomnode.stages.encode import Encode
from dicomnode.stages.redact.blank import black
from dicomnode.stages.redact.overlays import overlays
from tests.unit import pictures

NAME = "QUISTGAARD^MARLENE"


def opened(ds: Dataset, values: Any) -> Image:
    """A native file of it."""
    return pictures.image(pictures.part10(ds, values.tobytes()))


def redacted(image: Image, *regions: Region, identifies: bool = True, strict: bool = False) -> Redacted:
    """What redaction gives when nothing is found in the pixels."""
    dropped = overlays(image, strict=strict, identifies=lambda _plane: identifies)
    return Redacted(image, (*regions, *dropped.regions), "test", black(image), dropped.groups)


def written(given: Redacted) -> tuple[bytes, Image]:
    """The file with its own header."""
    out = BytesIO()
    part10.write(out, given.clean_dataset(), Encode()(given))
    return out.getvalue(), pictures.image(out.getvalue())


@pytest.mark.parametrize("blanked", [False, True])
@pytest.mark.parametrize("high_bit", [11, 12])
def test_an_overlay_in_the_bits_of_the_pixels_goes_with_its_group(high_bit: int, blanked: bool) -> None:
    """Its bit is cleared from the pixels whether anything else is blanked or not, and no value changes by that."""
    low = high_bit - 11
    values = np.random.default_rng(3).integers(0, 4096, (20, 30)).astype(np.uint16) << low
    ink = np.zeros((20, 30), np.uint16)
    ink[4:9, 3:20] = 1
    ds = pictures.dataset(values, bits_stored=12, HighBit=high_bit)
    for element, vr, value in ((0x10, "US", 20), (0x11, "US", 30), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
                               (0x100, "US", 16), (0x102, "US", 14)):  # fmt: skip
        ds.add_new(0x60000000 | element, vr, value)
    given = redacted(opened(ds, values | ink << 14), *([Region(0, 2, 2, 4, 4, "date")] if blanked else []))
    assert given.overlays == (0x6000,)
    data, again = written(given)
    assert not [tag for tag in again.dataset if tag.tag.group == 0x6000]
    np.testing.assert_array_equal(np.frombuffer(again.raw_frame(0), "<u2").reshape(20, 30) & (1 << 14), 0)
    kept = np.ones((20, 30), bool)
    kept[2:6, 2:6] = not blanked
    np.testing.assert_array_equal(again.frame(0)[kept], values[kept])
    assert (again.spec.high_bit, len(data) > 0) == (high_bit, True)


def annotation(**text: Any) -> Dataset:
    """One layer of graphics with one text."""
    drawn, layer = Dataset(), Dataset()
    for keyword, value in {"UnformattedTextValue": NAME, **text}.items():
        setattr(drawn, keyword, value)
    layer.GraphicLayer = "LAYER"
    layer.TextObjectSequence = [drawn]
    return layer


def test_graphic_annotations_go_and_say_where_they_stood() -> None:
    """Text objects, also compound ones and those deep in the header, leave in no mode; their place is that of the text."""
    values = np.zeros((40, 60), np.uint8)
    ds = pictures.dataset(values)
    boxed = annotation(
        BoundingBoxAnnotationUnits="PIXEL", BoundingBoxTopLeftHandCorner=[11, 6], BoundingBoxBottomRightHandCorner=[30, 15],
    )
    layer = Dataset()
    figure, compound = Dataset(), Dataset()
    figure.GraphicAnnotationUnits, figure.GraphicData = "PIXEL", [50.0, 30.0, 500.0, 31.0]
    compound.CompoundGraphicType = "RULER"
    compound.CompoundGraphicUnits, compound.GraphicData = "DISPLAY", [0.1, 0.2, 0.3, 0.4]
    layer.GraphicObjectSequence, layer.CompoundGraphicSequence = [figure], [compound]
    ds.GraphicAnnotationSequence = [boxed, layer]
    inner, outer = Dataset(), Dataset()
    inner.GraphicAnnotationSequence = [annotation()]
    outer.ReferencedImageSequence = [inner]
    ds.ReferencedSeriesSequence = [outer]
    given = redacted(opened(ds, values), identifies=False)
    assert given.regions == (
        Region(0, 10, 5, 20, 10, "graphic"), Region(0, 49, 29, 11, 2, "graphic"), Region(0, 0, 0, 60, 40, "graphic"),
    )
    assert not given.touched
    data, again = written(given)
    assert NAME.encode() not in data
    assert again.dataset.ReferencedSeriesSequence[0].ReferencedImageSequence[0] == Dataset()
    assert given.image.dataset.ReferencedSeriesSequence[0].ReferencedImageSequence[0].GraphicAnnotationSequence


def test_graphics_that_cannot_be_read_go_all_the_same() -> None:
    """A place that is no number is everywhere."""
    values = np.zeros((40, 60), np.uint8)
    ds = pictures.dataset(values, GraphicAnnotationSequence=[annotation(AnchorPointAnnotationUnits="PIXEL")])
    ds.GraphicAnnotationSequence[0].TextObjectSequence[0].add_new(0x00700014, "FL", [float("nan"), 1.0])
    given = redacted(opened(ds, values))
    assert given.regions == (Region(0, 0, 0, 60, 40, "graphic"),)
    assert "GraphicAnnotationSequence" not in given.clean_dataset()


def test_curves_go() -> None:
    """A curve (50xx) may trace letters, and has a label and a description."""
    values = np.zeros((40, 60), np.uint8)
    ds = pictures.dataset(values)
    ds.add_new(0x50020022, "LO", NAME)
    ds.add_new(0x50023000, "OW", b"\0" * 20)
    given = redacted(opened(ds, values))
    assert given.regions == (Region(0, 0, 0, 60, 40, "graphic"),)
    data, again = written(given)
    assert NAME.encode() not in data
    assert not [tag for tag in again.dataset if tag.tag.group == 0x5002]


def test_icons_go_however_deep_they_lie() -> None:
    """Below items that have none themselves, too."""
    values = np.zeros((8, 8), np.uint8)
    icon, deep, middle = Dataset(), Dataset(), Dataset()
    icon.ImageComments, icon.Rows = "QUISTGAARD", 1
    deep.IconImageSequence = [icon]
    middle.ReferencedImageSequence = [deep]
    ds = pictures.dataset(values, ReferencedSeriesSequence=[middle])
    data, _ = written(redacted(opened(ds, values)))
    assert b"QUISTGAARD" not in data

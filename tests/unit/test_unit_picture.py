"""The unit picture: the same whatever bits, sign, polarity, offset or padding the stored values have; and its size."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomnode.errors import StageFailed
from dicomnode.stages.look import look
from dicomnode.stages.unit import percentiles, shown, shrinking, to_unit
from tests.unit import pictures

RNG = np.random.default_rng(11)


def film(rows: int = 150, cols: int = 120, bits: int = 12) -> Any:
    """Soft shapes with grain that use nearly all of the range, unsigned."""
    soft = cv2.GaussianBlur(RNG.normal(size=(rows, cols)), (0, 0), rows / 12)
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    top = (1 << bits) - 1
    return np.clip(soft * top * 0.9 + top * 0.04 + RNG.normal(0, top / 200, soft.shape), 1, top - 1).astype(np.uint16)


FILM, LARGE = film(), film(2103, 1500)
BYTE = (FILM >> 4).astype(np.uint8)

#: Stored otherwise, the very same picture: bit for bit.
EXACT = {
    "white is low": (FILM, 4095 - FILM, "MONOCHROME1"),
    "signed": (FILM, FILM.astype(np.int16) - 2048, "MONOCHROME2"),
    "signed, white is low": (FILM, 2047 - FILM.astype(np.int16), "MONOCHROME1"),
    "offset": (FILM, FILM + 30000, "MONOCHROME2"),
    "whole range, signed": (FILM * 16, (FILM.astype(np.int32) * 16 - 32768).astype(np.int16), "MONOCHROME2"),
    "32 bits": (FILM, FILM.astype(np.uint32), "MONOCHROME2"),
    "32 bits, signed, offset": (FILM, FILM.astype(np.int32) - 2_000_000_000, "MONOCHROME2"),
    "64 bits": (FILM, FILM.astype(np.uint64) + 2**63, "MONOCHROME2"),
    "bytes in words": (BYTE, BYTE.astype(np.uint16), "MONOCHROME2"),
    "signed bytes": (BYTE, (BYTE.astype(np.int16) - 128).astype(np.int8), "MONOCHROME2"),
    "bytes, white is low": (BYTE, 255 - BYTE, "MONOCHROME1"),
    "grey in colours": (BYTE, np.dstack([BYTE] * 3), "RGB"),
    "grey in deep colours": (FILM, np.dstack([FILM] * 3), "RGB"),
    "large, white is low": (LARGE, 4095 - LARGE, "MONOCHROME1"),
    "large, signed": (LARGE, LARGE.astype(np.int16) - 2048, "MONOCHROME2"),
    "large, grey in colours": (LARGE, np.dstack([LARGE] * 3), "RGB"),
}
#: The same picture up to rounding: other grey levels, and averages of other whole numbers.
NEAR = {
    "16 bits": (FILM, FILM.astype(np.uint16) * 16, "MONOCHROME2"),
    "float": (FILM, FILM / 4095, "MONOCHROME2"),
    "float, white is low": (FILM, -FILM.astype(np.float32), "MONOCHROME1"),
    "32 bits, all used": (FILM, FILM.astype(np.uint32) << 20, "MONOCHROME2"),
    "32 bits, signed, all used": (FILM, (FILM.astype(np.int64) << 20) - 2**31, "MONOCHROME1"),
    "8 bits": (FILM, BYTE, "MONOCHROME2"),
    "large, 16 bits": (LARGE, LARGE * 16, "MONOCHROME2"),
    "large, 8 bits": (LARGE, (LARGE >> 4).astype(np.uint8), "MONOCHROME2"),
    "large, float": (LARGE, LARGE.astype(np.float32), "MONOCHROME2"),
}


@pytest.mark.parametrize("name", EXACT)
def test_same_picture_bit_for_bit(name: str) -> None:
    """What is another way to store the same values gives the same picture, bit for bit."""
    plain, stored, photometric = EXACT[name]
    np.testing.assert_array_equal(to_unit(stored, photometric), to_unit(plain))


@pytest.mark.parametrize("name", NEAR)
def test_same_picture_nearly(name: str) -> None:
    """Other grey levels of the same picture give the same picture up to half a level."""
    plain, stored, photometric = NEAR[name]
    expected = to_unit(plain)
    if name == "32 bits, signed, all used":
        expected = 1 - expected
    np.testing.assert_allclose(to_unit(stored, photometric), expected, atol=0.004 if "8 bits" in name else 5e-4)


@pytest.mark.parametrize(
    ("shape", "by"),
    [((10, 2047), 1), ((2048, 10), 2), ((2500, 2048), 2), ((4280, 3520), 4), ((3071, 7), 2), ((5000, 2), 2), ((4000, 1), 1)],
)
def test_large_frames_are_shrunk_by_whole_numbers(shape: tuple[int, int], by: int) -> None:
    """A side of 1024 to 2047 pixels stays, as far as the other has any."""
    assert shrinking(*shape) == by
    assert to_unit(np.arange(shape[0] * shape[1]).reshape(shape)).shape == (shape[0] // by, shape[1] // by)
    assert shown(*shape) == (shape[0] // by * by, shape[1] // by * by)


def test_shrinking_averages_blocks() -> None:
    """Each pixel of the picture is the mean of its block, stretched, also where that is no whole number."""
    frame = RNG.integers(100, 140, (3100, 2048)).astype(np.uint8)
    means = frame[:3099, :2046].reshape(1033, 3, 682, 3).mean(axis=(1, 3))
    bottom, top = np.percentile(means, [0.5, 99.5])
    np.testing.assert_allclose(to_unit(frame), np.clip((means - bottom) / (top - bottom), 0, 1), atol=0.003)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("size", [1, 10])
def test_padding_is_black_and_does_not_count(photometric: str, size: int) -> None:
    """A picture with padding around it is that picture with black around it."""
    picture = np.kron(film(200, 150), np.ones((size, size), np.uint16)) + 20000
    around = np.zeros((size * 300, size * 250), bool)
    around[size * 50 : size * 250, size * 40 : size * 190] = True
    padded = np.full(around.shape, 65000 if photometric == "MONOCHROME1" else 3, np.uint16)
    padded[around] = picture.ravel()
    value = int(padded[0, 0])
    by = shrinking(*around.shape)
    inner = to_unit(padded, photometric, padding=(value, value))
    whole = around.reshape(around.shape[0] // by, by, around.shape[1] // by, by).all(axis=(1, 3))
    part = around.reshape(whole.shape[0], by, whole.shape[1], by).any(axis=(1, 3))
    assert not inner[~part].any()
    expected = to_unit(picture, photometric)
    if by == 1:
        np.testing.assert_allclose(inner[whole], expected.ravel(), atol=1e-6)
    else:
        assert inner[whole].mean() == pytest.approx(expected.mean(), abs=0.01)
    without = to_unit(padded, photometric)
    assert abs(without[whole].std() - expected.std()) > 0.02


def test_padding_that_is_everywhere_or_nowhere() -> None:
    """Then it is as if it was not declared."""
    np.testing.assert_array_equal(to_unit(FILM, padding=(0, 0)), to_unit(FILM))
    np.testing.assert_array_equal(to_unit(FILM, padding=(4095, 0)), to_unit(FILM))


def test_window_with_either_polarity() -> None:
    """A window is in stored values, also where white is low."""
    frame = np.array([[0, 94, 95, 99, 104, 105, 255]], dtype=np.int16)
    expected = np.array([0, 0, 0.05, 0.45, 0.95, 1, 1])
    np.testing.assert_allclose(to_unit(frame, window=(100, 11))[0], expected, atol=1e-6)
    np.testing.assert_allclose(to_unit(frame, "MONOCHROME1", window=(100, 11))[0], 1 - expected, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value: float) -> None:
    """One value that is no number is found."""
    frame = FILM.astype(np.float32)
    frame[100, 100] = value
    with pytest.raises(StageFailed):
        to_unit(frame)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("kind", ["u2", "i2", "f4"])
def test_percentiles_are_numpys(count: int, kind: str) -> None:
    """They are found faster, not otherwise."""
    values = (RNG.normal(0, 900, (count, 3)) + 3000).astype(kind)
    for pair in ((0.5, 99.5), (0, 100), (50, 50), (1, 99)):
        assert percentiles(values, *pair) == pytest.approx(tuple(np.percentile(values, pair)))


def lut(descriptor: list[int], values: Any) -> Sequence:
    """One item of a Modality or VOI LUT Sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "US", [int(value) for value in values])
    item.ModalityLUTType = "US"
    return Sequence([item])


RISING, FALLING = np.arange(4096), np.arange(4095, -1, -1)
#: Header, and whether low values are shown bright.
DISPLAY = {
    "nothing": ({}, False),
    "window": ({"WindowCenter": "2000", "WindowWidth": "100"}, False),
    "white is low": ({"PhotometricInterpretation": "MONOCHROME1"}, True),
    "identity": ({"PresentationLUTShape": "IDENTITY"}, False),
    "inverse": ({"PresentationLUTShape": "INVERSE"}, True),
    "as DX says it twice": ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
    "slope": ({"RescaleSlope": "2", "RescaleIntercept": "-1024"}, False),
    "negative slope": ({"RescaleSlope": "-1", "RescaleIntercept": "4095"}, True),
    "negative slope, white is low": (
        {"RescaleSlope": "-1", "RescaleIntercept": "0", "PhotometricInterpretation": "MONOCHROME1"},
        False,
    ),
    "VOI LUT": ({"VOILUTSequence": lut([4096, 0, 16], RISING)}, False),
    "falling VOI LUT": ({"VOILUTSequence": lut([4096, 0, 16], FALLING)}, True),
    "falling VOI LUT beside a window": (
        {"VOILUTSequence": lut([4096, 0, 16], FALLING), "WindowCenter": "2000", "WindowWidth": "3000"},
        False,
    ),
    "falling modality LUT": ({"ModalityLUTSequence": lut([4096, 0, 16], FALLING)}, True),
    "nonsense": ({"VOILUTSequence": lut([4096, 0, 16], [1, 2])}, False),
}


@pytest.mark.parametrize("name", DISPLAY)
def test_the_look_has_the_polarity_of_the_display(name: str) -> None:
    """Which way up the values are shown decides, not how far they are stretched; and the display picture agrees."""
    header, turned = DISPLAY[name]
    image = pictures.image(pictures.native(FILM, bits_stored=12, **header))
    expected = to_unit(FILM, "MONOCHROME1" if turned else "MONOCHROME2")
    np.testing.assert_array_equal(look(image), expected)
    if name != "nonsense":
        assert np.corrcoef(image.picture(0).ravel(), expected.ravel())[0, 1] > 0.2


@pytest.mark.parametrize(
    ("stored", "header"),
    [
        (FILM, {"PixelPaddingValue": 0}),
        (FILM, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 12}),
        (FILM.astype(np.int16) - 2000, {"PixelPaddingValue": -2000}),
    ],
)
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_padding_of_the_header(stored: Any, header: dict[str, int], syntax: str) -> None:
    """Pixel Padding Value is found with the sign of the pixels, in any byte order and without a VR."""
    values = stored.copy()
    values[:40] = header["PixelPaddingValue"]
    ds = pictures.dataset(values, bits_stored=12)
    for keyword, value in header.items():
        ds.add_new(keyword, "SS" if values.dtype.kind == "i" else "US", value)
    order = ">" if syntax.endswith(".2.2") else "<"
    data = pictures.part10(ds, values.astype(values.dtype.newbyteorder(order)).tobytes(), syntax)
    low = header["PixelPaddingValue"]
    expected = to_unit(values, padding=(low, header.get("PixelPaddingRangeLimit", low)))
    assert np.abs(expected - to_unit(values)).max() > 0.01
    np.testing.assert_array_equal(look(pictures.image(data)), expected)

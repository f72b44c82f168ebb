from __future__ import annotations

import logging
import struct
import tracemalloc
import zlib
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.errors import DicomNodeError, Undecodable, UnsupportedTransferSyntax
from dicomnode.image import Image
from dicomnode.image.file import Inflated
from dicomnode.image.spec import FRAMES_MAX
from tests.unit import pictures

RNG = np.random.default_rng(3)


def values(dtype: str, shape: tuple[int, ...], bits: int) -> Any:
    """Random values of that many bits."""
    low = -(1 << (bits - 1)) if dtype[0] == "i" else 0
    return RNG.integers(low, low + (1 << bits), shape).astype(dtype)


@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 12), ("i2", 16), ("u4", 32)])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, "1.2.840.10008.1.2.1", DeflatedExplicitVRLittleEndian])
def test_native_frames_are_the_values_that_went_in(dtype: str, bits: int, syntax: str) -> None:
    """Each frame of a native object has its values, in every native little-endian syntax."""
    array = values(dtype, (3, 20, 14), bits)
    data = pictures.part10(pictures.dataset(array, bits_stored=bits, frames=3), array.tobytes(), syntax)
    image = pictures.image(data)
    assert (image.frames, image.rows, image.columns, image.samples) == (3, 20, 14, 1)
    for number in (2, 0, 1):
        np.testing.assert_array_equal(array[number], image.frame(number))
        assert array.dtype == image.frame(number).dtype


def test_big_endian_frames_are_the_values_that_went_in() -> None:
    """Explicit VR Big Endian is put in order: 16-bit cells, and 8-bit cells of an odd frame in swapped words."""
    wide, narrow = values("u2", (8, 6), 16), values("u1", (2, 3, 3), 8)
    data = pictures.part10(pictures.dataset(wide), wide.astype(">u2").tobytes(), ExplicitVRBigEndian)
    np.testing.assert_array_equal(wide, pictures.image(data).frame(0))
    swapped = bytearray(narrow.tobytes())
    swapped[0::2], swapped[1::2] = swapped[1::2], swapped[0::2]
    data = pictures.part10(pictures.dataset(narrow, frames=2), bytes(swapped), ExplicitVRBigEndian, "OW")
    image = pictures.image(data)
    np.testing.assert_array_equal(narrow, np.stack([image.frame(0), image.frame(1)]))


def test_planar_and_subsampled_colours_come_as_pixels() -> None:
    """Planar Configuration 1 and YBR_FULL_422 give (rows, cols, 3)."""
    rgb = values("u1", (6, 8, 3), 8)
    ds = pictures.dataset(rgb, "RGB", PlanarConfiguration=1)
    image = pictures.image(pictures.part10(ds, np.moveaxis(rgb, -1, 0).tobytes()))
    np.testing.assert_array_equal(rgb, image.frame(0))
    stored = values("u1", (6, 4, 4), 8)
    image = pictures.image(pictures.part10(pictures.dataset(rgb, "YBR_FULL_422"), stored.tobytes()))
    np.testing.assert_array_equal(stored[..., 1], image.frame(0)[:, 1::2, 0])
    np.testing.assert_array_equal(stored[..., 2], image.frame(0)[:, 0::2, 1])
    np.testing.assert_array_equal(stored[..., 2], image.frame(0)[:, 1::2, 1])


def test_single_bits_run_on_from_frame_to_frame() -> None:
    """Frames of 1 bit that fill no whole byte are found at their bit."""
    bits = values("u1", (3, 5, 5), 1)
    ds = pictures.dataset(bits, frames=3, BitsAllocated=1, BitsStored=1, HighBit=0)
    image = pictures.image(pictures.part10(ds, np.packbits(bits.reshape(-1), bitorder="little").tobytes()))
    np.testing.assert_array_equal(bits, np.stack([image.frame(i) for i in range(3)]))


def test_bits_outside_bits_stored_are_no_values() -> None:
    """What stands above Bits Stored is cleared, signs are extended, and the image says that something was there."""
    array = values("u2", (4, 4), 12)
    image = pictures.image(pictures.part10(pictures.dataset(array, bits_stored=12), (array | 0x5000).tobytes()))
    np.testing.assert_array_equal(array, image.frame(0))
    assert image.has_strays(0)
    signed = values("i2", (4, 4), 12)
    image = pictures.image(pictures.part10(pictures.dataset(signed, bits_stored=12), (signed & 0x0FFF).tobytes()))
    np.testing.assert_array_equal(signed, image.frame(0))


def test_digest_is_of_the_values_not_of_the_coding() -> None:
    """The same values give the same digest in RLE, JPEG-LS and native; one other value gives another."""
    array = values("u2", (16, 12), 12)
    plain = pictures.native(array, bits_stored=12)
    digest = pictures.image(plain).pixel_digest()
    for syntax in (RLELossless, JPEGLSLossless):
        ds = pydicom.dcmread(BytesIO(plain))
        ds.compress(syntax, generate_instance_uid=False)
        stream = BytesIO()
        ds.save_as(stream)
        assert digest == pictures.image(stream.getvalue()).pixel_digest()
    array[3, 3] ^= 1
    assert digest != pictures.image(pictures.native(array, bits_stored=12)).pixel_digest()


@pytest.mark.parametrize("table", [True, False])
def test_fragments_are_put_together(table: bool) -> None:
    """A frame in several fragments is joined, with and without a Basic Offset Table."""
    frames = [b"\xff\xd8\xff" + bytes([i]) * 7 + b"\xff\xd9" for i in range(3)]
    from pydicom.encaps import encapsulate

    ds = pictures.dataset(np.zeros((3, 4, 4), np.uint8), frames=3)
    pixels = encapsulate(frames, fragments_per_frame=2, has_bot=table)
    image = pictures.image(pictures.part10(ds, pixels, JPEGBaseline8Bit, "OB"))
    assert list(frames) == [image.raw_frame(i) for i in range(3)]


@pytest.mark.parametrize("table", [True, False])
def test_frames_that_nobody_declared_are_undecodable(table: bool) -> None:
    """Pixel data with more frames than Number of Frames are refused: nobody would look at the others."""
    frames = [b"\xff\xd8\xff" + bytes([i]) * 7 + b"\xff\xd9" for i in range(3)]
    ds = pictures.dataset(np.zeros((1, 4, 4), np.uint8), frames=1)
    image = pictures.image(pictures.encapsulated(ds, frames, JPEGBaseline8Bit, table=table))
    with pytest.raises(Undecodable):
        image.raw_frame(0)


@pytest.mark.parametrize("table", [True, False])
def test_fragments_that_belong_to_no_frame_are_undecodable(table: bool) -> None:
    """A second fragment of an RLE frame, or one behind the end of a JPEG stream, is refused: nobody would look at it."""
    array = np.zeros((4, 4), np.uint8)
    rle = struct.pack("<16L", 1, 64, *[0] * 14) + b"\xf1\0"
    jpeg = b"\xff\xd8\xff" + bytes(7) + b"\xff\xd9"
    for stream, syntax in ((rle, RLELossless), (jpeg, JPEGBaseline8Bit)):
        frames = [stream, b"DOE^JOHN"]
        pixels = struct.pack("<HHL", 0xFFFE, 0xE000, 4 if table else 0) + (b"\0" * 4 if table else b"")
        pixels += b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(part)) + part for part in frames)
        with pytest.raises(Undecodable):
            pictures.image(pictures.part10(pictures.dataset(array), pixels, syntax, "OB")).raw_frame(0)


@pytest.mark.parametrize(
    "odd", [{"SamplesPerPixel": 4}, {"Rows": 0}, {"BitsStored": 99}, {"PhotometricInterpretation": "DOE JOHN"}, {"HighBit": 3}],
)
def test_pixels_that_cannot_be_so_raise_when_they_are_asked_for(odd: dict[str, Any]) -> None:
    """An impossible description costs the pixels, not the instance: the header can be read, and the report made."""
    array = values("u1", (8, 8), 8)
    image = pictures.image(pictures.part10(pictures.dataset(array, **odd), array.tobytes()))
    assert (image.has_pixels, image.frames, image.dataset.Modality) == (True, 0, "OT")
    for ask in (lambda: image.spec, lambda: image.frame(0), lambda: image.picture(0), image.pixel_digest):
        with pytest.raises(Undecodable):
            ask()


def test_too_few_pixels_are_undecodable() -> None:
    """One byte less than declared is refused, and so is a frame that is not there."""
    array = values("u1", (10, 10), 8)
    image = pictures.image(pictures.part10(pictures.dataset(array), array.tobytes()[:-2]))
    with pytest.raises(Undecodable):
        image.frame(0)
    with pytest.raises(Undecodable):
        pictures.image(pictures.native(array)).frame(1)


def test_what_codecs_say_stays_inside(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken code stream gives `Undecodable` without text of codec or patient, and nothing is logged or printed."""
    ds = pictures.dataset(np.zeros((8, 8), np.uint8))
    stream = b"\xff\xd8\xff\xfe\x00\x14" + pictures.NAME.encode() + b"\xff\xd9"
    with caplog.at_level(logging.DEBUG), pytest.raises(Undecodable) as caught:
        pictures.image(pictures.encapsulated(ds, [stream], JPEGBaseline8Bit)).frame(0)
    seen = f"{caught.value} {caught.value.__cause__} {caplog.text} {capsys.readouterr()}"
    assert "Quistgaard" not in seen
    assert "pydicom" not in caplog.text


def test_unknown_syntax_is_unsupported() -> None:
    """A syntax without decoder is named when it is the standard's, and not when it is a peer's."""
    video = "1.2.840.10008.1.2.4.100"
    for syntax, named in ((video, True), ("1.2.826.0.1.3680043.9.5", False)):
        data = pictures.encapsulated(pictures.dataset(np.zeros((8, 8), np.uint8)), [b"\0" * 8], video)
        data = data.replace(video.encode(), syntax.encode())
        with pytest.raises(UnsupportedTransferSyntax) as caught:
            pictures.image(data).frame(0)
        assert named == (syntax in str(caught.value))


def test_window_and_monochrome1_shape_the_picture() -> None:
    """A window maps its ends to black and white; MONOCHROME1 turns the picture."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = pictures.image(pictures.native(ramp, WindowCenter=100, WindowWidth=50)).picture(0)
    assert (picture.reshape(-1)[:75] == 0).all()
    assert (picture.reshape(-1)[125:] == 255).all()
    turned = pictures.image(pictures.native(ramp, "MONOCHROME1", WindowCenter=100, WindowWidth=50)).picture(0)
    np.testing.assert_array_equal(255 - picture, turned)


def test_palette_and_ybr_become_rgb() -> None:
    """Palette indices and YCbCr values are resolved to RGB."""
    ds = pictures.dataset(np.array([[0, 1], [2, 1]], np.uint8), "PALETTE COLOR")
    for i, colour in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [3, 0, 16])
        table = [0, 0, 0]
        table[i] = 0xFFFF
        setattr(ds, f"{colour}PaletteColorLookupTableData", struct.pack("<3H", *table))
    picture = pictures.image(pictures.part10(ds, b"\0\1\2\1")).picture(0)
    np.testing.assert_array_equal([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]], picture)
    ybr = np.array([[[76, 85, 255], [0, 128, 128]]], np.uint8)
    picture = pictures.image(pictures.native(ybr, "YBR_FULL")).picture(0)
    assert np.abs(picture.astype(int) - [[[254, 0, 0], [0, 0, 0]]]).max() <= 1


def test_functional_groups_shape_the_picture_of_their_frame() -> None:
    """In an enhanced object each frame has the window of its own functional group."""
    array = np.tile(np.arange(100, dtype=np.uint8), (2, 2, 1))
    ds = pictures.dataset(array, frames=2)
    groups = []
    for centre in (20, 80):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = centre, 2
        group = Dataset()
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    image = pictures.image(pictures.part10(ds, array.tobytes()))
    assert [int((image.picture(i)[0] == 255).sum()) for i in range(2)] == [80, 20]


def test_bad_elements_do_not_cost_the_image() -> None:
    """An element that cannot be converted is kept as unknown bytes; the image can still be read."""
    data = pictures.native(values("u1", (4, 4), 8), InstanceNumber=123456)
    image = pictures.image(data.replace(b"123456", b"12x456"))
    assert image.frame(0).shape == (4, 4)
    assert image.dataset["InstanceNumber"].value in (b"12x456", "12x456")


def test_deflated_data_that_end_early_are_undecodable() -> None:
    """A deflated data set that is cut is refused."""
    array = values("u1", (64, 64), 8)
    data = pictures.part10(pictures.dataset(array), array.tobytes(), DeflatedExplicitVRLittleEndian)
    with pytest.raises(Undecodable):
        pictures.image(data[:-200]).frame(0)
    assert zlib.crc32(array.tobytes()) == zlib.crc32(pictures.image(data).frame(0).tobytes())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_raise_only_our_errors(data: Any) -> None:
    """Whatever bytes are changed or cut, the file is read or one of our errors is raised."""
    source = bytearray(pictures.native(np.arange(64, dtype=np.uint16).reshape(8, 8), bits_stored=12, WindowCenter=3))
    for _ in range(data.draw(st.integers(1, 6))):
        source[data.draw(st.integers(128, len(source) - 1))] = data.draw(st.integers(0, 255))
    source = source[: data.draw(st.integers(100, len(source)))]
    try:
        image = Image.open(BytesIO(bytes(source)))
        for number in range(min(image.frames, 4)):
            image.picture(number)
            image.has_strays(number)
        if image.frames < 10:
            image.pixel_digest()
    except DicomNodeError as error:
        assert len(str(error)) < 150  # noqa: PT017 - it may be read as well


# -- large things in little memory
def test_a_deflated_image_is_inflated_once_however_often_a_frame_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot go back but by starting again: frame after frame, and each read twice, would take the square of its length."""
    array = values("u2", (12, 64, 64), 12)
    data = pictures.part10(pictures.dataset(array, bits_stored=12, frames=12), array.tobytes(), DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr("dicomnode.image.file._BUFFER_BYTES", 4096)
    image = pictures.image(data)
    image.frame(0)
    started: list[int] = []
    monkeypatch.setattr(Inflated, "_rewind", lambda _self: started.append(1))
    for number in range(12):
        image.frame(number)
        assert not image.has_strays(number)
        assert image.raw_frame(number) == array[number].tobytes()
    assert started == []


def test_offsets_are_read_only_when_there_is_one_for_each_frame() -> None:
    """An offset table as long as the file is passed over."""
    stream = imagecodecs.jpeg_encode(np.zeros((8, 8), np.uint8))
    stream += b"\0" * (len(stream) % 2)
    pixels = struct.pack("<HHL", 0xFFFE, 0xE000, 4 << 20) + bytes(4 << 20)
    pixels += struct.pack("<HHL", 0xFFFE, 0xE000, len(stream)) + stream + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    data = BytesIO(pictures.part10(pictures.dataset(np.zeros((8, 8), np.uint8)), pixels, JPEGBaseline8Bit, "OB"))
    image = Image.open(data)
    tracemalloc.start()
    try:
        assert image.frame(0).shape == (8, 8)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_fragments_beyond_counting_are_undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of empty fragments would fill the memory with their places."""
    monkeypatch.setattr("dicomnode.image.frames.FRAGMENTS_MAX", 10)
    frames = [imagecodecs.jpeg_encode(np.zeros((8, 8), np.uint8))]
    for fragments, fits in ((10, True), (11, False)):
        pixels = encapsulate(frames, fragments_per_frame=fragments, has_bot=False)
        image = pictures.image(pictures.part10(pictures.dataset(np.zeros((8, 8), np.uint8)), pixels, JPEGBaseline8Bit, "OB"))
        if fits:
            assert image.frame(0).shape == (8, 8)
        else:
            with pytest.raises(Undecodable):
                image.frame(0)


def test_frames_beyond_counting_are_undecodable() -> None:
    """Each of them is looked at: a file of single pixels would occupy a worker for days."""
    data = pictures.native(values("u1", (2, 2, 2), 8), frames=FRAMES_MAX + 1)
    with pytest.raises(Undecodable):
        pictures.image(data).frame(0)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_what_is_too_large_in_a_header_is_left_out(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the header, and the pixels behind it, are read as ever; bytes are counted apart from texts and sequences."""
    monkeypatch.setattr("dicomnode.image.file.HEADER_MAX_BYTES", 2000)
    monkeypatch.setattr("dicomnode.image.file.BYTES_MAX_BYTES", 3000)
    array = values("u1", (4, 4), 8)
    ds = pictures.dataset(array, ImageComments="c" * 3000, EncapsulatedDocument=b"d" * 4000, StudyDescription="short")
    item = Dataset()
    item.TextValue = "t" * 2500
    ds.ContentSequence = [item]
    ds["ContentSequence"].is_undefined_length = True
    ds.add_new((0x6000, 0x3000), "OW", bytes(2000))
    image = pictures.image(pictures.part10(ds, array.tobytes(), syntax))
    assert image.left_out == {0x00204000, 0x00420011, 0x0040A730}
    assert image.unread
    assert image.dataset.StudyDescription == "short"
    assert len(image.dataset[0x6000, 0x3000].value) == 2000
    np.testing.assert_array_equal(image.frame(0), array)


def test_what_was_made_of_an_image_is_made_once() -> None:
    """Two stages that look at the same picture share it, until it is let go."""
    image = pictures.image(pictures.native(values("u1", (4, 4), 8)))
    made: list[int] = []

    def make(one: Image) -> int:
        made.append(one.rows)
        return len(made)

    assert [image.once(make), image.once(make)] == [1, 1]
    frame = image.frame(0)
    image.forget()
    assert image.once(make) == 2
    assert image.frame(0) is frame, "what was decoded once is decoded again"


def test_what_is_blanked_is_made_of_cells() -> None:
    """A place grows to what can change alone, within the frame: pairs of columns where they share their colour."""
    grey = pictures.image(pictures.native(np.zeros((8, 12), np.uint8)))
    assert grey.cells == (1, 1)
    assert grey.fit(0, (-2, 3, 6, 9)) == (0, 3, 4, 5)
    ds = pictures.dataset(np.zeros((8, 12, 3), np.uint8), "YBR_FULL_422")
    pairs = pictures.image(pictures.part10(ds, bytes(8 * 12 * 2)))
    assert pairs.cells == (1, 2)
    assert pairs.fit(0, (3, 1, 2, 2)) == (2, 1, 4, 2)
    with pytest.raises(Undecodable):
        grey.fit(1, (0, 0, 1, 1))

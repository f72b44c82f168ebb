from __future__ import annotations

import dataclasses
import struct
from io import BytesIO
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicomnode.errors import StageFailed, UnsupportedTransferSyntax
from dicomnode.image import Image, Redacted, codecs
from dicomnode.outputs import part10
from dicomnode.records import Region
from dicomnode.stages.encode import Encode
from dicomnode.stages.redact.blank import black
from tests.unit import pictures

SECRET = b"DOE^JOHN MRN4711"
REGION = Region(1, 4, 2, 6, 5, "date")
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)


def blanked(image: Image, *regions: Region) -> Redacted:
    """Stand for what redaction gives."""
    return Redacted(image, regions or (REGION,), "test", black(image))


def again(redacted: Redacted) -> Image:
    """Code, write and read again."""
    stream = BytesIO()
    part10.write(stream, redacted.image.dataset, Encode()(redacted))
    return pictures.image(stream.getvalue())


def holds(redacted: Redacted, written: Image, before: list[Any]) -> None:
    """Every value outside the region is as it was, every one inside is black."""
    for number, old in enumerate(before):
        new, mask = written.frame(number), np.zeros(old.shape[:2], bool)
        for r in redacted.regions_of(number):
            mask[r.y : r.y + r.h, r.x : r.x + r.w] = True
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(old[~mask], new[~mask])
        assert (new[mask] == np.array(redacted.black, old.dtype)).all()


@pytest.mark.parametrize("kind", ["u8", "u12", "u16", "i16", "m1", "rgb", "ybr"])
@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless, "1.2.840.10008.1.2.4.201"])
def test_values_outside_the_region_are_exact(kind: str, syntax: str) -> None:
    """In every layout, and native or lossless syntax, only the region changes and the syntax stays."""
    values, described = pictures.burned(kind)
    frames = np.stack([values, np.roll(values, 9, 0), values[::-1]])
    ds = pictures.dataset(frames, frames=3, **described)
    if syntax in NATIVE:
        stored = frames.astype(frames.dtype.newbyteorder(">")) if syntax == ExplicitVRBigEndian else frames
        image = pictures.image(pictures.part10(ds, stored.tobytes(), syntax, "OB" if frames.dtype.itemsize == 1 else "OW"))
    else:
        plain = pictures.image(pictures.native(frames, frames=3, **described)).spec
        spec = type(plain)(**{n: getattr(plain, n) for n in plain.__slots__} | {"transfer_syntax_uid": str(syntax)})
        streams = [codecs.encode(frame, spec, described["photometric"]) for frame in frames]
        image = pictures.image(pictures.encapsulated(ds, streams, syntax))
    redacted = blanked(image)
    written = again(redacted)
    holds(redacted, written, list(frames))
    assert written.transfer_syntax_uid == syntax
    assert written.photometric == described["photometric"]


@pytest.mark.parametrize("planar", [0, 1])
def test_planar_configuration_stays(planar: int) -> None:
    """Native colour keeps its Planar Configuration."""
    rgb, _ = pictures.burned("rgb")
    stored = np.moveaxis(rgb, -1, 0) if planar else rgb
    ds = pictures.dataset(rgb, "RGB", PlanarConfiguration=planar)
    image = pictures.image(pictures.part10(ds, np.ascontiguousarray(stored).tobytes()))
    redacted = blanked(image, Region(0, 5, 5, 9, 9, "date"))
    written = again(redacted)
    assert written.dataset.PlanarConfiguration == planar
    holds(redacted, written, [rgb])


def test_subsampled_colour_stays_subsampled() -> None:
    """YBR_FULL_422 is written as YBR_FULL_422, and only the region's pairs change."""
    stored = np.random.default_rng(1).integers(0, 256, (8, 6, 4)).astype(np.uint8)
    ds = pictures.dataset(np.zeros((8, 12, 3), np.uint8), "YBR_FULL_422")
    image = pictures.image(pictures.part10(ds, stored.tobytes()))
    redacted = blanked(image, Region(0, 4, 2, 4, 3, "date"))
    written = again(redacted)
    assert written.photometric == "YBR_FULL_422"
    expected = stored.copy()
    expected[2:5, 2:4] = (0, 0, 128, 128)
    assert expected.tobytes() == written.raw_frame(0)


def test_palette_is_blanked_with_its_darkest_entry() -> None:
    """In a palette image black is the index of the darkest colour."""
    ds = pictures.dataset(np.zeros((4, 4), np.uint8), "PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [4, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", np.array([9000, 40000, 70, 60000], "<u2").tobytes())
    image = pictures.image(pictures.part10(ds, bytes(range(4)) * 4))
    redacted = blanked(image, Region(0, 0, 0, 2, 2, "date"))
    assert redacted.black == (2,)
    holds(redacted, again(redacted), [np.tile(np.arange(4, dtype=np.uint8), (4, 1))])


def test_black_fits_the_photometric_interpretation() -> None:
    """Black is the least value, the greatest in MONOCHROME1, the negative end of signed values, and neutral chroma in YBR."""
    for kind, expected in (("u12", (0,)), ("m1", (4095,)), ("i16", (-32768,)), ("rgb", (0, 0, 0)), ("ybr", (0, 128, 128))):
        values, described = pictures.burned(kind)
        assert expected == black(pictures.image(pictures.native(values, **described)))


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(("syntax", "becomes"), [
    (JPEG2000, JPEG2000Lossless), (JPEGLSNearLossless, JPEGLSLossless), (HTJ2K, HTJ2KLossless),
    ("1.2.840.10008.1.2.4.55", JPEGLosslessSV1),
])  # fmt: skip
def test_lossy_sources_keep_their_decoded_values(syntax: str, becomes: str, colour: bool) -> None:
    """What is not blanked in its code stream is stored in the lossless syntax of its family, as it decodes, and says so."""
    values, _ = pictures.burned("rgb" if colour else "u8")
    values = values.copy()
    values[..., -1] //= 2
    if syntax == JPEG2000:
        stream = imagecodecs.jpeg2k_encode(values, level=30, reversible=False, mct=False, codecformat="j2k")
    elif syntax == JPEGLSNearLossless:
        stream = imagecodecs.jpegls_encode(values, level=3)
    elif syntax == HTJ2K:
        stream = imagecodecs.htj2k_encode(values, reversible=False, rgb=False if colour else None)
    else:
        stream = cv2.imencode(".jpg", values, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    photometric = ("YBR_FULL" if syntax.endswith("55") else "RGB") if colour else "MONOCHROME2"
    ds = pictures.dataset(values, photometric, LossyImageCompression="01", LossyImageCompressionRatio=9)
    image = pictures.image(pictures.encapsulated(ds, [stream], syntax))
    if colour and syntax.endswith("55"):
        with pytest.raises(UnsupportedTransferSyntax):
            image.frame(0)
        return
    before = image.frame(0).copy()
    redacted = blanked(image, Region(0, 41, 31, 50, 20, "date"))
    written = again(redacted)
    assert written.transfer_syntax_uid == becomes
    assert written.photometric == photometric
    assert (written.dataset.LossyImageCompression, written.dataset.LossyImageCompressionRatio) == ("01", 9)
    assert "without further loss" in written.dataset.DerivationDescription
    holds(redacted, written, [before])


def test_what_no_codec_of_the_family_holds_becomes_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the lossless syntax cannot hold the values, they are stored as they are."""
    values, _ = pictures.burned("u8")
    image = pictures.image(pictures.encapsulated(
        pictures.dataset(values), [imagecodecs.jpeg2k_encode(values, codecformat="j2k")], JPEG2000,
    ))
    redacted = blanked(image, Region(0, 1, 1, 3, 3, "date"))
    monkeypatch.setattr(codecs, "encode", lambda *_given: b"")
    written = again(redacted)
    assert written.transfer_syntax_uid == ExplicitVRLittleEndian
    holds(redacted, written, [values])


@pytest.mark.parametrize("syntax", sorted(codecs.LOSSLESS))
def test_untouched_frames_are_coded_anew(syntax: str) -> None:
    """Without a region a lossless stream keeps its syntax and values, and nothing of its own bytes: no comment, no tail."""
    values, described = pictures.burned("u12")
    plain = pictures.image(pictures.native(values, **described)).spec
    stream = codecs.encode(values, dataclasses.replace(plain, transfer_syntax_uid=syntax), "MONOCHROME2") + SECRET * 2
    image = pictures.image(pictures.encapsulated(pictures.dataset(values, **described), [stream], syntax))
    coded = Encode()(Redacted(image, (), "test", (0,)))
    assert coded.transfer_syntax_uid == syntax
    assert SECRET not in b"".join(coded.frames())
    np.testing.assert_array_equal(values, again(Redacted(image, (), "test", (0,))).frame(0))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1])
def test_bits_that_nobody_looked_at_do_not_leave(syntax: str) -> None:
    """A mask in the bits above Bits Stored of an encapsulated frame is gone, though nothing was blanked."""
    values = np.random.default_rng(2).integers(0, 4096, (64, 64)).astype(np.uint16)
    plain = pictures.image(pictures.native(values)).spec
    stream = codecs.encode(values | 0x8000, dataclasses.replace(plain, transfer_syntax_uid=str(syntax)), "MONOCHROME2")
    image = pictures.image(pictures.encapsulated(pictures.dataset(values, bits_stored=12), [stream], syntax))
    written = again(Redacted(image, (), "test", (0,)))
    bare = codecs.decode(written.raw_frame(0), dataclasses.replace(written.spec, bits_stored=16, high_bit=15))[0]
    np.testing.assert_array_equal(values, bare)


def segment(marker: int, body: bytes) -> bytes:
    """One segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_image(stream: bytes, values: Any, photometric: str) -> Image:
    """A file of one JPEG Baseline frame."""
    return pictures.image(pictures.encapsulated(pictures.dataset(values, photometric), [stream], JPEGBaseline8Bit))


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(
    ("before", "behind"),
    [(segment(0xFE, SECRET), b""), (segment(0xE1, b"Exif\0\0" + SECRET), b""), (segment(0xEE, b"Adobe" + SECRET), b""),
     (segment(0xDB, b"\x03" + (SECRET * 4)[:64]), b""), (b"", SECRET)],
    ids=["comment", "application", "adobe", "unused-table", "tail"],
)  # fmt: skip
def test_a_lossy_jpeg_is_rebuilt_of_what_is_needed(colour: bool, before: bytes, behind: bytes) -> None:
    """Comments, application data, tables without use and what follows the end are gone; syntax and values stay."""
    values, _ = pictures.burned("rgb" if colour else "u8")
    done, made = cv2.imencode(".jpg", values, [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert done
    stream = made.tobytes()
    image = jpeg_image(stream[:2] + before + stream[2:] + behind, values, "YBR_FULL_422" if colour else "MONOCHROME2")
    redacted = Redacted(image, (), "test", (0,) * image.samples)
    assert image.frame(0).std() > 10
    coded = Encode()(redacted)
    data = b"".join(coded.frames())
    assert coded.transfer_syntax_uid == JPEGBaseline8Bit
    assert SECRET[:8] not in data
    assert len(data) <= len(stream) + 20
    holds(redacted, again(redacted), [image.frame(0)])


def test_a_jpeg_that_may_hide_something_is_not_carried_on() -> None:
    """Bytes behind the last block of a scan are left out; with a picture beyond the edge, the values are stored."""
    values, _ = pictures.burned("u8")
    wide = np.zeros((248, 384), np.uint8)
    wide[:] = 20
    pictures.draw(wide, "QUISTGAARD", 20, 246, 255, scale=0.3)
    done, made = cv2.imencode(".jpg", values)
    stream = made.tobytes()
    hidden = stream[:-2] + SECRET + stream[-2:]
    done, made = cv2.imencode(".jpg", wide)
    assert done
    cropped = made.tobytes().replace(struct.pack(">HH", 248, 384), struct.pack(">HH", 241, 384), 1)
    for data, shape, syntax in ((hidden, values, JPEGBaseline8Bit), (cropped, wide[:241], JPEGLosslessSV1)):
        image = jpeg_image(data, shape, "MONOCHROME2")
        redacted = Redacted(image, (), "test", (0,))
        coded = Encode()(redacted)
        assert coded.transfer_syntax_uid == syntax
        assert ("LossyImageCompression" in coded.attributes) == (syntax == JPEGLosslessSV1)
        assert SECRET not in b"".join(coded.frames())
        holds(redacted, again(redacted), [image.frame(0)])


def test_frames_that_nobody_looked_at_are_not_coded() -> None:
    """When redaction has seen some frames only, no image can be made: the others may show anything."""
    values = np.random.default_rng(2).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    image = pictures.image(pictures.native(values, frames=3))
    coded = Encode()(Redacted(image, (), "test", (0,), seen=frozenset({1})))
    with pytest.raises(StageFailed):
        list(coded.frames())
    np.testing.assert_array_equal(values[1], coded.redacted.frame(1))
    for ask in (coded.redacted.frame, coded.redacted.picture):
        with pytest.raises(StageFailed):
            ask(0)


def test_hidden_bits_do_not_leave() -> None:
    """Bits above Bits Stored, where old overlays hide, are cleared even when nothing was blanked."""
    values = np.random.default_rng(2).integers(0, 4096, (8, 8)).astype(np.uint16)
    image = pictures.image(pictures.part10(pictures.dataset(values, bits_stored=12), (values | 0x8000).tobytes()))
    assert [values.tobytes()] == list(Encode()(Redacted(image, (), "test", (0,))).frames())


def test_single_bits_are_blanked_across_bytes() -> None:
    """Frames of 1 bit that fill no whole byte are written so that each is found again."""
    bits = np.random.default_rng(3).integers(0, 2, (3, 15, 13)).astype(np.uint8)
    ds = pictures.dataset(bits, frames=3, BitsAllocated=1, BitsStored=1, HighBit=0)
    image = pictures.image(pictures.part10(ds, np.packbits(bits.reshape(-1), bitorder="little").tobytes()))
    redacted = blanked(image)
    holds(redacted, again(redacted), list(bits))


def test_an_encoder_that_changes_values_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the encoded frame decodes to other values, nothing is written."""
    values, described = pictures.burned("u8")
    streams = [bytes(encode_array(values, bits_stored=8))]
    image = pictures.image(pictures.encapsulated(pictures.dataset(values, **described), streams, JPEG2000Lossless))
    redacted = blanked(image, Region(0, 1, 1, 3, 3, "date"))
    monkeypatch.setattr(codecs, "encode", lambda *_given: streams[0])
    with pytest.raises(StageFailed):
        list(Encode()(redacted).frames())

from __future__ import annotations

from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.errors import StageFailed
from dicomnode.image import Image, Redacted, codecs
from dicomnode.outputs import part10
from dicomnode.records import Region
from dicomnode.stages.encode import Encode
from dicomnode.stages.redact.blank import black
from tests.unit import pictures

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
    """In every layout and lossless syntax only the region changes; native ones become Explicit VR Little Endian."""
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
    assert written.transfer_syntax_uid == (ExplicitVRLittleEndian if syntax in NATIVE else syntax)


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
def test_lossy_sources_keep_their_decoded_values(colour: bool) -> None:
    """A blanked JPEG becomes native; outside the region its values are those that the JPEG decodes to."""
    values, _ = pictures.burned("rgb" if colour else "u8")
    done, stream = cv2.imencode(".jpg", values, [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert done
    ds = pictures.dataset(values, "YBR_FULL_422" if colour else "MONOCHROME2", LossyImageCompression="01")
    image = pictures.image(pictures.encapsulated(ds, [stream.tobytes()], JPEGBaseline8Bit))
    before = image.frame(0).copy()
    redacted = blanked(image, Region(0, 40, 30, 50, 20, "date"))
    written = again(redacted)
    assert written.transfer_syntax_uid == ExplicitVRLittleEndian
    holds(redacted, written, [before])
    if colour:
        assert np.abs(written.picture(0)[100:].astype(int) - values[100:, :, ::-1]).mean() < 6


def test_untouched_frames_leave_byte_for_byte() -> None:
    """Without a region nothing is coded anew, not even a code stream that we would have written otherwise."""
    values, described = pictures.burned("u8")
    stream = bytes(encode_array(values, bits_stored=8))
    stream += b"\0" * (len(stream) % 2)
    image = pictures.image(pictures.encapsulated(pictures.dataset(values, **described), [stream], JPEG2000Lossless))
    coded = Encode()(Redacted(image, (), "test", (0,)))
    assert ([stream], JPEG2000Lossless) == (list(coded.frames()), coded.transfer_syntax_uid)


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

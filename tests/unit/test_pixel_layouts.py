"""Every layout of pixels: what is blanked shows black, every other value is as it was, and other readers agree."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import struct
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from dicomnode.errors import Undecodable
from dicomnode.image import Image, Redacted, codecs
from dicomnode.outputs import part10
from dicomnode.records import Region
from dicomnode.stages.encode import Encode
from dicomnode.stages.redact.blank import black
from tests.unit import pictures

ROWS, COLUMNS, FRAMES = 37, 46, 3
REGIONS = (Region(0, 3, 2, 7, 9, "date"), Region(2, 0, 15, 11, 8, "person"))
#: Photometric interpretation, type, Bits Stored, High Bit.
GREY = (
    ("MONOCHROME2", "u1", 8, 7), ("MONOCHROME1", "u1", 8, 7), ("MONOCHROME2", "i1", 8, 7), ("MONOCHROME2", "u1", 6, 5),
    ("MONOCHROME2", "u2", 10, 9), ("MONOCHROME1", "u2", 12, 11), ("MONOCHROME2", "i2", 12, 11), ("MONOCHROME2", "u2", 16, 15),
    ("MONOCHROME1", "i2", 16, 15),
)
ELSEWHERE = (
    ("MONOCHROME2", "u2", 12, 15), ("MONOCHROME1", "u2", 10, 13), ("MONOCHROME2", "i2", 12, 14), ("MONOCHROME2", "u4", 32, 31),
    ("MONOCHROME1", "u4", 20, 19),
)
COLOUR = (("RGB", "u1", 8, 7), ("YBR_FULL", "u1", 8, 7), ("RGB", "u2", 16, 15), ("RGB", "u2", 12, 11))
NATIVE = tuple(map(str, (
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
)))


def values(kind: str, bits: int, high_bit: int, samples: int = 1, seed: int = 11) -> Any:
    """Frames of any values, each in its place within the cell."""
    rng = np.random.default_rng(seed)
    low, high = (-(1 << bits - 1), 1 << bits - 1) if kind[0] == "i" else (0, 1 << bits)
    shape = (FRAMES, ROWS, COLUMNS) if samples == 1 else (FRAMES, ROWS, COLUMNS, samples)
    return (rng.integers(low, high, shape) << high_bit + 1 - bits).astype(kind)


def described(array: Any, photometric: str, bits: int, high_bit: int, **more: Any) -> Dataset:
    """The header of three frames."""
    return pictures.dataset(array, photometric, bits, frames=FRAMES, HighBit=high_bit, **more)


def redacted(image: Image) -> Redacted:
    """Stand for what redaction gives."""
    return Redacted(image, REGIONS, "test", black(image))


def written(given: Redacted) -> tuple[bytes, Image]:
    """Code, write and read again."""
    out = BytesIO()
    part10.write(out, given.image.dataset, Encode()(given))
    return out.getvalue(), pictures.image(out.getvalue())


def holds(given: Redacted, again: Image) -> None:
    """All outside is equal, all inside is black, and the darkest that can be shown."""
    assert again.frames == given.image.frames
    for number in range(again.frames):
        mask = np.zeros((ROWS, COLUMNS), bool)
        for r in given.regions_of(number):
            mask[r.y : r.y + r.h, r.x : r.x + r.w] = True
        before, after = given.image.frame(number), again.frame(number)
        assert before.dtype == after.dtype
        assert before[~mask].tobytes() == after[~mask].tobytes()
        if mask.any():
            assert (after[mask] == np.array(given.black, after.dtype)).all()
            assert (again.picture(number)[mask] == 0).all()


def pydicom_agrees(data: bytes, again: Image) -> None:
    """Another reader finds the same values."""
    ds = pydicom.dcmread(BytesIO(data))
    theirs = pydicom.pixels.pixel_array(ds, raw=True)
    ours = np.stack([again.frame(number) for number in range(again.frames)])
    np.testing.assert_array_equal(theirs.reshape(ours.shape).astype(ours.dtype), ours)


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize(("photometric", "kind", "bits", "high_bit"), [*GREY, *ELSEWHERE])
def test_native_grey(photometric: str, kind: str, bits: int, high_bit: int, syntax: str) -> None:
    """All native syntaxes keep syntax, type and place of the values in their cells; an odd number of bytes is padded."""
    array = values(kind, bits, high_bit)
    stored = array.astype(array.dtype.newbyteorder(">")) if syntax == uid.ExplicitVRBigEndian else array
    ds = described(array, photometric, bits, high_bit)
    image = pictures.image(pictures.part10(ds, stored.tobytes(), syntax))
    np.testing.assert_array_equal(image.frame(1), array[1])
    given = redacted(image)
    data, again = written(given)
    assert (again.transfer_syntax_uid, again.spec.high_bit) == (syntax, high_bit)
    holds(given, again)
    if high_bit == bits - 1:  # pydicom does not look at High Bit
        pydicom_agrees(data, again)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize(("photometric", "kind", "bits", "high_bit"), COLOUR)
def test_native_colour(photometric: str, kind: str, bits: int, high_bit: int, syntax: str, planar: int) -> None:
    """Colours by pixel and by plane, in all native syntaxes."""
    array = values(kind, bits, high_bit, 3)
    stored = np.ascontiguousarray(np.moveaxis(array, -1, 1) if planar else array)
    stored = stored.astype(stored.dtype.newbyteorder(">")) if syntax == uid.ExplicitVRBigEndian else stored
    ds = described(array, photometric, bits, high_bit, PlanarConfiguration=planar)
    image = pictures.image(pictures.part10(ds, stored.tobytes(), syntax))
    np.testing.assert_array_equal(image.frame(1), array[1])
    given = redacted(image)
    _, again = written(given)
    assert (again.transfer_syntax_uid, again.dataset.PlanarConfiguration, again.photometric) == (syntax, planar, photometric)
    holds(given, again)


@pytest.mark.parametrize("syntax", sorted(codecs.LOSSLESS))
@pytest.mark.parametrize(("photometric", "kind", "bits", "high_bit"), [*GREY, *COLOUR])
def test_lossless_syntaxes(photometric: str, kind: str, bits: int, high_bit: int, syntax: str) -> None:
    """Every lossless syntax is written as it came, whatever is in it."""
    if bits > 8 and photometric == "RGB" and syntax.endswith((".57", ".70", "1.2.5")):
        bits = high_bit + 1
    samples = 3 if photometric in ("RGB", "YBR_FULL") else 1
    array = values(kind, bits, high_bit, samples)
    ds = described(array, photometric, bits, high_bit)
    plain = pictures.image(pictures.part10(ds, array.tobytes())).spec
    spec = dataclasses.replace(plain, transfer_syntax_uid=syntax, encapsulated=True)
    streams = [codecs.encode(frame, spec, photometric) for frame in array]
    image = pictures.image(pictures.encapsulated(described(array, photometric, bits, high_bit), streams, syntax))
    np.testing.assert_array_equal(image.frame(1), array[1])
    given = redacted(image)
    data, again = written(given)
    assert (again.transfer_syntax_uid, again.photometric) == (syntax, photometric)
    holds(given, again)
    if not syntax.endswith((".201", ".202")) and not (bits < 8 and syntax.endswith((".57", ".70"))):  # there gdcm aborts
        pydicom_agrees(data, again)


def test_subsampled_colour_and_odd_columns() -> None:
    """Native YBR_FULL_422 changes by pairs of columns; with an odd number of columns it is undecodable, so never clean."""
    stored = np.random.default_rng(5).integers(0, 256, (FRAMES, ROWS, COLUMNS // 2, 4)).astype(np.uint8)
    ds = described(np.zeros((FRAMES, ROWS, COLUMNS, 3), np.uint8), "YBR_FULL_422", 8, 7)
    image = pictures.image(pictures.part10(ds, stored.tobytes()))
    regions = tuple(
        Region(r.frame, *image.fit(r.frame, (r.x, r.y, r.w, r.h)), r.reason) for r in REGIONS
    )
    given = Redacted(image, regions, "test", black(image))
    _, again = written(given)
    holds(given, again)
    assert again.photometric == "YBR_FULL_422"
    odd = pictures.dataset(np.zeros((ROWS, 25, 3), np.uint8), "YBR_FULL_422")
    with pytest.raises(Undecodable):
        pictures.image(pictures.part10(odd, bytes(ROWS * 26 * 2))).frame(0)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_numbers_with_a_point(kind: str) -> None:
    """Float and Double Float Pixel Data: black is the least that there is, and what is no number stays as it is."""
    array = np.random.default_rng(7).normal(size=(ROWS, COLUMNS)).astype(kind)
    array[20, 20] = np.nan
    ds = pictures.dataset(array)
    for keyword in ("BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    setattr(ds, "FloatPixelData" if kind == "f4" else "DoubleFloatPixelData", array.tobytes())
    out = BytesIO()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    image = pictures.image(out.getvalue())
    given = Redacted(image, REGIONS[:1], "test", black(image))
    _, again = written(given)
    holds(given, again)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless])
def test_single_bits(syntax: str) -> None:
    """Masks of 1 bit, frames of which fill no whole byte."""
    array = np.random.default_rng(3).integers(0, 2, (FRAMES, ROWS, COLUMNS)).astype(np.uint8)
    ds = described(array, "MONOCHROME2", 1, 0, BitsAllocated=1)
    if syntax == uid.RLELossless:
        streams = []
        for frame in array:
            packed = imagecodecs.packbits_encode(np.packbits(frame.reshape(-1), bitorder="little").tobytes())
            streams.append(struct.pack("<16L", 1, 64, *[0] * 14) + packed + b"\0" * (len(packed) % 2))
        image = pictures.image(pictures.encapsulated(ds, streams, syntax))
    else:
        image = pictures.image(pictures.part10(ds, np.packbits(array.reshape(-1), bitorder="little").tobytes(), syntax))
    np.testing.assert_array_equal(image.frame(1), array[1])
    given = redacted(image)
    _, again = written(given)
    holds(given, again)


def fragmented(streams: list[bytes], *, extended: bool) -> tuple[bytes, dict[str, bytes]]:
    """Frames in several fragments, without a table or with an Extended Offset Table."""
    body, offsets, at = b"", [], 0
    for stream in streams:
        padded = stream + b"\0" * (len(stream) % 2)
        offsets.append(at)
        for piece in itertools.batched(padded, 200) if hasattr(itertools, "batched") else _pieces(padded):
            data = bytes(piece)
            body += struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data
            at += 8 + len(data)
    table = {"ExtendedOffsetTable": struct.pack(f"<{FRAMES}Q", *offsets),
             "ExtendedOffsetTableLengths": struct.pack(f"<{FRAMES}Q", *map(len, streams))} if extended else {}  # fmt: skip
    return struct.pack("<HHL", 0xFFFE, 0xE000, 0) + body, table


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + 200] for at in range(0, len(data), 200)]


@pytest.mark.parametrize("extended", [False, True])
def test_frames_in_several_fragments(extended: bool) -> None:
    """However a frame was cut in pieces, it is written as one; the old table does not stay."""
    array = values("u2", 12, 11)
    plain = pictures.image(pictures.part10(described(array, "MONOCHROME2", 12, 11), array.tobytes())).spec
    spec = dataclasses.replace(plain, transfer_syntax_uid=str(uid.JPEG2000Lossless), encapsulated=True)
    body, table = fragmented([codecs.encode(frame, spec, "MONOCHROME2") for frame in array], extended=extended)
    ds = described(array, "MONOCHROME2", 12, 11, **table)
    for keyword in table:
        ds[keyword].VR = "OV"
    image = pictures.image(pictures.part10(ds, body, uid.JPEG2000Lossless, "OB"))
    np.testing.assert_array_equal(image.frame(2), array[2])
    given = redacted(image)
    data, again = written(given)
    assert "ExtendedOffsetTable" not in again.dataset
    holds(given, again)
    pydicom_agrees(data, again)


@pytest.mark.parametrize("syntax", [*NATIVE, uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless])
def test_dcmtk_reads_what_is_written(syntax: str, tmp_path: Path) -> None:
    """The tools of DCMTK show the same picture before and after, outside of the region."""
    tool = {uid.RLELossless: "dcmdrle", uid.JPEGLSLossless: "dcmdjpls", uid.JPEGLosslessSV1: "dcmdjpeg"}.get(
        uid.UID(syntax), "dcmconv",
    )
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} of DCMTK is not installed")
    array = values("u2", 12, 11)
    ds = described(array, "MONOCHROME2", 12, 11)
    plain = pictures.image(pictures.part10(ds, array.tobytes())).spec
    if syntax in NATIVE:
        stored = array.astype(">u2") if syntax == uid.ExplicitVRBigEndian else array
        image = pictures.image(pictures.part10(ds, stored.tobytes(), syntax))
    else:
        spec = dataclasses.replace(plain, transfer_syntax_uid=str(syntax), encapsulated=True)
        streams = [codecs.encode(frame, spec, "MONOCHROME2") for frame in array]
        image = pictures.image(pictures.encapsulated(described(array, "MONOCHROME2", 12, 11), streams, syntax))
    data, again = written(redacted(image))
    source, target = tmp_path / "in.dcm", tmp_path / "out.dcm"
    source.write_bytes(data)
    subprocess.run([tool, str(source), str(target)], check=True, capture_output=True)
    theirs = pydicom.dcmread(target).pixel_array
    np.testing.assert_array_equal(theirs, np.stack([again.frame(number) for number in range(FRAMES)]))

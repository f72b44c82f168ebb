"""Blanking in the coefficients of a JPEG: every other coefficient stays, with every sampling, and no decoder sees a change."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import PIL.Image
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1

from dicomnode.certificate import certify
from dicomnode.errors import StageFailed
from dicomnode.image import Image, Redacted, jpeg
from dicomnode.image.huffman import Table
from dicomnode.image.jpeg_parts import parts
from dicomnode.outputs import part10
from dicomnode.records import Region
from dicomnode.stages.encode import Encode
from dicomnode.stages.redact.blank import black
from tests.unit import pictures

SAMPLINGS = {"444": 0x111111, "422": 0x211111, "420": 0x221111, "440": 0x121111}
REACHES = {"444": (0, 0), "422": (1, 0), "420": (1, 1), "440": (0, 1)}
ROWS, COLUMNS = 121, 203
PLACE = (37, 29, 62, 17)


def colours() -> Any:
    """A picture of 8 bits in which no two blocks are alike."""
    rng = np.random.default_rng(5)
    soft = np.dstack([cv2.GaussianBlur(rng.normal(size=(ROWS, COLUMNS)), (0, 0), 3) for _ in range(3)])
    return np.clip(128 + soft * 350, 0, 255).astype(np.uint8)


def stream(sampling: str = "", *options: int) -> bytes:
    """A JPEG of it, grey without a sampling."""
    picture = colours()
    chosen = [cv2.IMWRITE_JPEG_QUALITY, 85, *options]
    if sampling:
        chosen += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling]]
    done, made = cv2.imencode(".jpg", picture if sampling else picture[..., 0], chosen)
    assert done
    return bytes(made.tobytes())


def samples_of(data: bytes) -> int:
    """Components of a sequential JPEG."""
    return data[max(data.find(b"\xff\xc0\0"), data.find(b"\xff\xc1\0")) + 9]


def described(data: bytes) -> Any:
    """What the header must say for it."""
    colour = samples_of(data) == 3
    values = np.zeros((ROWS, COLUMNS, 3) if colour else (ROWS, COLUMNS), np.uint16)
    return pictures.image(pictures.native(values, "RGB" if colour else "MONOCHROME2")).spec


def image(*streams: bytes, photometric: str = "", syntax: str = JPEGBaseline8Bit, bits: int = 8) -> Image:
    """A file of these frames."""
    colour = samples_of(streams[0]) == 3
    values = np.zeros((ROWS, COLUMNS, 3) if colour else (ROWS, COLUMNS), np.uint8 if bits == 8 else np.uint16)
    named = photometric or ("YBR_FULL_422" if colour else "MONOCHROME2")
    ds = pictures.dataset(values, named, bits, LossyImageCompression="01", LossyImageCompressionRatio=7)
    if len(streams) > 1:
        ds.NumberOfFrames = len(streams)
    return pictures.image(pictures.encapsulated(ds, list(streams), syntax))


def blanked(source: Image, *places: tuple[int, int, int, int], frame: int = 0) -> Redacted:
    """Stand for what redaction gives."""
    regions = tuple(Region(frame, *source.fit(frame, place), "date") for place in places)
    return Redacted(source, regions, "test", black(source))


def written(redacted: Redacted) -> tuple[Image, Dataset]:
    """Code, write and read again."""
    out = BytesIO()
    part10.write(out, redacted.image.dataset, Encode()(redacted))
    again = pictures.image(out.getvalue())
    return again, again.dataset


def mask_of(redacted: Redacted, frame: int = 0) -> Any:
    """What may change."""
    mask = np.zeros((ROWS, COLUMNS), bool)
    for r in redacted.regions_of(frame):
        mask[r.y : r.y + r.h, r.x : r.x + r.w] = True
    return mask


Block = tuple[int, ...]


def coefficients(data: bytes) -> list[dict[tuple[int, int], Block]]:
    """Decode a baseline JPEG of one scan code by code: for each component its blocks. Plain and slow, a second opinion."""
    taken = parts(data, described(data))
    (scan,) = taken.scans
    tables = {body[0]: words(body) for body in scan.tables}
    components = taken.components
    numbers = {one.name: number for number, one in enumerate(components)}
    members = [(numbers[scan.header[1 + 2 * i]], scan.header[2 + 2 * i]) for i in range(scan.header[0])]
    first = components[0]
    unit = (8, 8) if len(members) == 1 else (8 * first.across, 8 * first.down)
    wide, high = -(-COLUMNS // unit[0]), -(-ROWS // unit[1])
    found: list[dict[tuple[int, int], Block]] = [{} for _ in components]
    for stretch, data_ in enumerate(re.split(rb"\xff[\xd0-\xd7]", scan.data)):
        bits = iter(np.unpackbits(np.frombuffer(data_.replace(b"\xff\0", b"\xff"), np.uint8)).tolist())
        before = [0, 0, 0]
        begin = stretch * taken.restart
        for m in range(begin, min(wide * high, begin + (taken.restart or wide * high))):
            for number, names in members:
                across, down = (1, 1) if len(members) == 1 else (components[number].across, components[number].down)
                for v, h in itertools.product(range(down), range(across)):
                    own = block(bits, tables[names >> 4], tables[16 | names & 15], before[number])
                    before[number] = own[0]
                    found[number][m // wide * down + v, m % wide * across + h] = own
    return found


def words(body: bytes) -> dict[str, int]:
    """The codes of a Huffman table as text (ISO/IEC 10918-1 Annex C)."""
    made, code, at = {}, 0, 17
    for length in range(1, 17):
        for _ in range(body[length]):
            made[f"{code:0{length}b}"] = body[at]
            code, at = code + 1, at + 1
        code <<= 1
    return made


def block(bits: Iterator[int], direct: dict[str, int], alternating: dict[str, int], before: int) -> Block:
    """Decode one block."""

    def symbol(table: dict[str, int]) -> int:
        word = ""
        while word not in table:
            word += str(next(bits))
        return table[word]

    def number(size: int) -> int:
        value = int("0" + "".join(str(next(bits)) for _ in range(size)), 2)
        return value if not size or value >> size - 1 else value - (1 << size) + 1

    values, at = [before + number(symbol(direct)), *[0] * 63], 1
    while at < 64 and (name := symbol(alternating)):
        at += name >> 4
        values[at] = number(name & 15)
        at += 1
    return tuple(values)


KINDS = {
    "grey": (stream(), ""), "grey-restarts": (stream("", cv2.IMWRITE_JPEG_RST_INTERVAL, 5), ""),
    "grey-own-tables": (stream("", cv2.IMWRITE_JPEG_OPTIMIZE, 1), ""),
    **{name: (stream(name), name) for name in SAMPLINGS},
    "420-restarts": (stream("420", cv2.IMWRITE_JPEG_RST_INTERVAL, 3), "420"),
    "422-own-tables": (stream("422", cv2.IMWRITE_JPEG_OPTIMIZE, 1), "422"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_other_coefficient_stays(kind: str) -> None:
    """Blocks within the region have the black of their component alone, all others every coefficient, and it is shorter."""
    data, sampling = KINDS[kind]
    source = image(data)
    redacted = blanked(source, PLACE)
    again, ds = written(redacted)
    (region,), reach = redacted.regions, REACHES.get(sampling, (0, 0))
    assert again.transfer_syntax_uid == JPEGBaseline8Bit
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 7)
    assert "coefficients" in ds.DerivationDescription
    old, new = coefficients(data), coefficients(again.raw_frame(0))
    components = parts(data, source.spec).components
    changed = 0
    for one, before, after in zip(components, old, new, strict=True):
        across, down = (8 * components[0].across // one.across, 8 * components[0].down // one.down)
        assert before.keys() == after.keys()
        for (row, column), values in before.items():
            left, top, right, bottom = column * across, row * down, (column + 1) * across, (row + 1) * down
            inner = region.x <= left and region.y <= top and region.x + region.w >= right and region.y + region.h >= bottom
            if inner:
                changed += values != after[row, column]
                assert not any(after[row, column][1:])
            else:
                assert values == after[row, column]
    assert changed > 20
    assert len(again.raw_frame(0)) < len(data)
    # No wider than whole units and the columns that colour is drawn out into.
    unit = (8 * components[0].across, 8 * components[0].down)
    assert region.w <= (PLACE[2] // unit[0] + 2) * unit[0] + 2 * reach[0]
    assert region.h <= (PLACE[3] // unit[1] + 2) * unit[1] + 2 * reach[1]


def of_dcmtk(again: Image, folder: Path) -> Any:
    """As dcmj2pnm shows it."""
    if shutil.which("dcmj2pnm") is None:
        pytest.skip("dcmj2pnm of DCMTK is not installed")
    source, target = folder / "in.dcm", folder / "out.ppm"
    colour = again.samples == 3
    values = np.zeros((ROWS, COLUMNS, 3) if colour else (ROWS, COLUMNS), np.uint8)
    ds = pictures.dataset(values, "YBR_FULL_422" if colour else "MONOCHROME2")
    source.write_bytes(pictures.encapsulated(ds, [again.raw_frame(0)], JPEGBaseline8Bit))
    subprocess.run(["dcmj2pnm", str(source), str(target)], check=True, capture_output=True)
    return cv2.imread(str(target), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("decoder", ["node", "turbo", "pillow", "dcmtk"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_decoder_sees_a_change_outside_the_region(kind: str, decoder: str, tmp_path: Path) -> None:
    """Whoever decodes finds every pixel outside the region as it was, and black within, but for colour drawn into its edge."""
    data, sampling = KINDS[kind]
    source = image(data)
    redacted = blanked(source, PLACE, (150, 100, 80, 80))
    again, _ = written(redacted)
    ask: dict[str, Callable[[Image], Any]] = {
        "node": lambda given: given.frame(0),
        "turbo": lambda given: cv2.imdecode(np.frombuffer(given.raw_frame(0), np.uint8), cv2.IMREAD_UNCHANGED),
        "pillow": lambda given: np.asarray(PIL.Image.open(BytesIO(given.raw_frame(0)))),
        "dcmtk": lambda given: of_dcmtk(given, tmp_path),
    }
    before, after, mask = ask[decoder](source), ask[decoder](again), mask_of(redacted)
    assert before.shape == after.shape
    np.testing.assert_array_equal(before[~mask], after[~mask])
    across, down = (2 * side for side in REACHES.get(sampling, (0, 0)))
    for r in redacted.regions:
        bottom, right = (r.y + r.h - down, r.x + r.w - across)
        bottom, right = ROWS if r.y + r.h == ROWS else bottom, COLUMNS if r.x + r.w == COLUMNS else right
        shown = after[r.y + down : bottom, r.x + across : right]
        assert (shown == (redacted.black if decoder == "node" and sampling else 0)).all()


@pytest.mark.parametrize("kind", ["420", "422"])
def test_grey_places_of_a_colour_picture_keep_to_small_blocks(kind: str) -> None:
    """Where colour is neutral already, the region is made of 8 x 8 pixels and nothing is drawn out of it."""
    picture = colours()
    picture[:, 60:] = picture[:, 60:, :1]
    done, made = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[kind]])
    assert done
    source = image(made.tobytes())
    assert source.fit(0, (105, 41, 30, 6)) == (104, 40, 32, 8)
    redacted = blanked(source, (105, 41, 30, 6))
    again, _ = written(redacted)
    assert again.transfer_syntax_uid == JPEGBaseline8Bit
    before, after, mask = source.frame(0), again.frame(0), mask_of(redacted)
    np.testing.assert_array_equal(before[~mask], after[~mask])
    assert (after[mask] == redacted.black).all()
    assert source.cells == ((16, 16) if kind == "420" else (8, 16))


def test_monochrome1_becomes_its_brightest_value() -> None:
    """Black of MONOCHROME1 is 255."""
    source = image(stream(), photometric="MONOCHROME1")
    redacted = blanked(source, PLACE)
    again, _ = written(redacted)
    assert again.transfer_syntax_uid == JPEGBaseline8Bit
    assert (again.frame(0)[mask_of(redacted)] == 255).all()


def test_components_of_rgb_become_zero() -> None:
    """A JPEG of red, green and blue as such: all three are 0."""
    data = imagecodecs.jpeg_encode(colours(), level=85, colorspace="RGB", outcolorspace="RGB")
    source = image(data, photometric="RGB")
    redacted = blanked(source, PLACE)
    again, ds = written(redacted)
    assert (again.transfer_syntax_uid, ds.PhotometricInterpretation) == (JPEGBaseline8Bit, "RGB")
    mask = mask_of(redacted)
    np.testing.assert_array_equal(source.frame(0)[~mask], again.frame(0)[~mask])
    assert (again.frame(0)[mask] == 0).all()


def test_twelve_bits_stay_extended() -> None:
    """A sequential JPEG of 12 bits is blanked in its coefficients as one of 8 is."""
    data = imagecodecs.jpeg_encode(colours()[..., 0].astype(np.uint16) * 16, level=90, bitspersample=12)
    source = image(data, syntax=JPEGExtended12Bit, bits=12)
    redacted = blanked(source, PLACE)
    again, _ = written(redacted)
    mask = mask_of(redacted)
    assert again.transfer_syntax_uid == JPEGExtended12Bit
    np.testing.assert_array_equal(source.frame(0)[~mask], again.frame(0)[~mask])
    assert (again.frame(0)[mask] == 0).all()
    assert source.frame(0).max() > 3000


def test_each_frame_has_its_own_places() -> None:
    """Of several frames those without a region stay byte for byte but for what no decoder needs."""
    data = [stream("420"), stream("422"), stream("444")]
    source = image(*data)
    redacted = blanked(source, PLACE, frame=1)
    again, _ = written(redacted)
    assert again.transfer_syntax_uid == JPEGBaseline8Bit
    for number in range(3):
        mask = mask_of(redacted, number)
        np.testing.assert_array_equal(source.frame(number)[~mask], again.frame(number)[~mask])
    assert mask_of(redacted, 1).any()
    assert (again.frame(1)[40, 60] == (0, 128, 128)).all()


def test_colour_of_a_quarter_of_the_columns_is_stored_without_loss() -> None:
    """Decoders differ in how they draw out a factor of four: such a JPEG is not blanked in its coefficients."""
    picture = cv2.imencode(".jpg", colours(), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x411111])[1].tobytes()
    source = image(picture)
    redacted = blanked(source, PLACE)
    assert redacted.regions[0] == Region(0, *PLACE, "date")
    again, _ = written(redacted)
    assert again.transfer_syntax_uid == JPEGLosslessSV1
    mask = mask_of(redacted)
    np.testing.assert_array_equal(source.frame(0)[~mask], again.frame(0)[~mask])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_blanked_in_coefficients_gets_a_certificate(kind: str) -> None:
    """The file that was written agrees with what redaction says of it."""
    source = image(KINDS[kind][0])
    redacted = blanked(source, PLACE, (150, 100, 80, 80))
    out, coded = BytesIO(), Encode()(redacted)
    part10.write(out, source.dataset, coded)
    made = certify(out, coded, "1")
    assert made["coding"] == "coefficients"
    elsewhere = dataclasses.replace(redacted, regions=(Region(0, 8, 8, 16, 16, "date"),))
    with pytest.raises(StageFailed):
        certify(out, dataclasses.replace(coded, redacted=elsewhere), "1")


def test_a_region_that_is_no_whole_block_is_stored_without_loss() -> None:
    """Blocks that reach out of a region are not blanked: the decoded values are, and exactly they."""
    source = image(stream("420"))
    redacted = Redacted(source, (Region(0, *PLACE, "date"),), "test", black(source))
    again, ds = written(redacted)
    assert again.transfer_syntax_uid == JPEGLosslessSV1
    assert ds.PhotometricInterpretation == "YBR_FULL"
    mask = mask_of(redacted)
    np.testing.assert_array_equal(source.frame(0)[~mask], again.frame(0)[~mask])
    assert (again.frame(0)[mask] == redacted.black).all()


@pytest.mark.parametrize("hidden", [b"QUISTGAARD", b"\0" * 40, b"\xff\0" * 9])
def test_what_stands_behind_the_last_code_does_not_leave(hidden: bytes) -> None:
    """Bytes between the last block and the marker are not copied."""
    data = stream("420", cv2.IMWRITE_JPEG_RST_INTERVAL, 5)
    place = data.index(b"\xff\xd1")
    source = image(data[:place] + hidden + data[place:-2] + hidden + data[-2:])
    for redacted in (Redacted(source, (), "test", black(source)), blanked(source, PLACE)):
        again, _ = written(redacted)
        assert again.transfer_syntax_uid == JPEGBaseline8Bit
        assert hidden not in again.raw_frame(0)
        assert len(again.raw_frame(0)) <= len(data) + 24


def test_a_code_that_a_table_lacks_is_put_behind_the_others() -> None:
    """A new symbol takes no code from the others, and the code of all ones stays free."""
    body = bytes([0x10]) + bytes([0, 2, 1, 0, *[0] * 12]) + bytes([5, 6, 7])
    table, more = Table(body), Table(body).with_symbol(0)
    for symbol in (5, 6, 7):
        np.testing.assert_array_equal(table.code(symbol), more.code(symbol))
    assert more.code(0).tolist() == [1, 0, 1]
    full = table
    for symbol in range(20, 33):
        full = full.with_symbol(symbol)
    codes = ["".join(map(str, full.code(s).tolist())) for s in (5, 6, 7, *range(20, 33))]
    assert not any(a != b and b.startswith(a) for a in codes for b in codes)
    assert all("0" in code for code in codes)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_streams_are_not_understood_or_the_same(seed: int) -> None:
    """A stream with wrong bytes raises nothing: it stays what it decodes to, or is not taken."""
    data = bytearray(stream("420", cv2.IMWRITE_JPEG_RST_INTERVAL, 7))
    rng = np.random.default_rng(seed)
    for at in rng.integers(len(data) // 2, len(data), 3):
        data[at] = rng.integers(0, 256)
    whole = image(stream("420"))
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[32:48, 32:96] = True
    for made in (jpeg.rebuilt(bytes(data), whole.spec), jpeg.rebuilt(bytes(data), whole.spec, mask)):
        assert made is None or made[:2] == struct.pack(">H", 0xFFD8)

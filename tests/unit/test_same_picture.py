"""Same picture, same answer, by the router that ships: exactly, however a picture is stored; mostly, however it is shown."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.cards import find_models
from dicomnode.image import codecs
from dicomnode.stages.infer import Model
from dicomnode.stages.look import look
from dicomnode.training.datasets import ROUTER, read_examples, read_picture
from dicomnode.training.export import draw_phantom
from dicomnode.training.robustness import CHANGES, as_markdown, measure
from tests.unit import pictures

MODELS = Path(__file__).parents[2] / "models"
#: The least share of val pictures whose answer may stay under each change, for the router that ships: one table for all, to be
#: set anew with a new version from `python benchmarks/robustness.py`.
FLOORS = {
    "turned by 90 degrees": 0.94,
    "turned by 180 degrees": 0.95,
    "turned by 270 degrees": 0.94,
    "mirrored": 0.97,
    "shown inverted": 0.96,
    "black border": 0.97,
    "grey border": 0.97,
    "white border": 0.97,
    "padded to a square": 0.97,
    "collimated": 0.96,
    "letters burned in": 0.97,
    "gamma 0.5": 0.97,
    "gamma 2": 0.98,
    "narrow window": 0.97,
    "16 grey levels": 0.97,
    "contrast enhanced (CLAHE)": 0.96,
    "JPEG, quality 40": 0.97,
    "128 pixels": 0.97,
}
#: Pictures of each class that the floors are tested on; the table of the docs is made of all.
OF_EACH_CLASS = 16


@pytest.fixture(scope="module")
def router() -> Model:
    """The newest version that ships."""
    return Model(find_models(MODELS)["bodypart-router"])


def answer(router: Model, data: bytes) -> dict[str, float]:
    """What the router says of a file."""
    return router.probabilities(look(pictures.image(data)))


def trunk() -> Any:
    """The phantom in 12 bits, with grain in the lower ones, no value at the ends of the range."""
    grain = np.random.default_rng(4).integers(0, 16, (448, 384), dtype=np.uint16)
    return (cv2.resize(draw_phantom(), (384, 448)).astype(np.uint16) << 4 | grain).clip(2, 4093)


def large() -> Any:
    """The same large enough to be shrunk, sides no multiple of anything."""
    return cv2.resize(trunk(), (1801, 2111), interpolation=cv2.INTER_LINEAR)


PICTURES = {"trunk": trunk(), "large": large(), "grain": np.random.default_rng(5).integers(1, 4095, (97, 61), dtype=np.uint16)}
Stored = Callable[[Any], bytes]


def native(syntax: str) -> Stored:
    """A file of 12 bits in a native syntax."""
    kind = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    return lambda values: pictures.part10(pictures.dataset(values, bits_stored=12), values.astype(kind).tobytes(), syntax)


def coded(syntax: str) -> Stored:
    """A file of 12 bits in a lossless syntax."""

    def make(values: Any) -> bytes:
        spec = pictures.image(pictures.native(values, bits_stored=12)).spec
        spec = replace(spec, transfer_syntax_uid=str(syntax), encapsulated=True)
        stream = codecs.encode(values, spec, spec.photometric)
        return pictures.encapsulated(pictures.dataset(values, bits_stored=12), [stream], syntax)

    return make


def described(photometric: str = "MONOCHROME2", **header: Any) -> Stored:
    """A native file with more in its header."""
    return lambda values: pictures.native(values, photometric, 12, **header)


def lut(values: Any) -> Sequence:
    """A VOI LUT of 12 bits."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "US", [int(value) for value in values])
    return Sequence([item])


def signed(values: Any) -> bytes:
    """CT-like: signed, with a rescale."""
    return pictures.native(values.astype(np.int16) - 2048, "MONOCHROME2", 12, RescaleIntercept="1024", RescaleSlope="1")


def strays(values: Any) -> bytes:
    """With an overlay of old in the bits above Bits Stored."""
    hidden = values.copy()
    hidden[10:20, 10:20] |= 0x8000
    return pictures.native(hidden, "MONOCHROME2", 12)


def raised(values: Any) -> bytes:
    """The 12 bits above, as High Bit 15 says."""
    return pictures.native(values << 4, "MONOCHROME2", 12, HighBit=15)


def among_frames(values: Any) -> bytes:
    """The middle one of three frames, the others being something else."""
    frames = np.stack([values[::-1], values, values[:, ::-1] // 3])
    return pictures.native(frames, "MONOCHROME2", 12, frames=3)


#: How the values of 12 bits may be stored; each gives the very same answer as a plain native file.
STORED: dict[str, Stored] = {
    "implicit VR": native(ImplicitVRLittleEndian),
    "big endian": native(ExplicitVRBigEndian),
    "deflated": native(DeflatedExplicitVRLittleEndian),
    "RLE": coded(RLELossless),
    "JPEG lossless": coded(JPEGLosslessSV1),
    "JPEG-LS": coded(JPEGLSLossless),
    "JPEG 2000": coded(JPEG2000Lossless),
    "HTJ2K": coded(HTJ2KLossless),
    "white is low": lambda values: pictures.native(4095 - values, "MONOCHROME1", 12),
    "white is low, as DX says it": lambda values: pictures.native(
        4095 - values, "MONOCHROME1", 12, PresentationLUTShape="INVERSE",
    ),
    "presentation LUT inverse": lambda values: pictures.native(4095 - values, bits_stored=12, PresentationLUTShape="INVERSE"),
    "falling VOI LUT": lambda values: pictures.native(
        4095 - values, bits_stored=12, VOILUTSequence=lut(range(4095, -1, -1)),
    ),
    "VOI LUT": described(VOILUTSequence=lut(np.sqrt(np.arange(4096) * 4095))),
    "window": described(WindowCenter="1500", WindowWidth="800"),
    "two windows": described(WindowCenter=["1500", "40"], WindowWidth=["800", "400"], VOILUTFunction="SIGMOID"),
    "identity": described(PresentationLUTShape="IDENTITY"),
    "padding that is not there": described(PixelPaddingValue=0),
    "signed with rescale": signed,
    "signed, white is low": lambda values: pictures.native(2047 - values.astype(np.int16), "MONOCHROME1", 12),
    "32 bits": lambda values: pictures.native(values.astype(np.uint32), bits_stored=32),
    "bits above the stored": strays,
    "16 bits with an offset": lambda values: pictures.native(values + 1000),
    "frame of a multi-frame object": among_frames,
}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", STORED)
def test_however_it_is_stored(router: Model, name: str, picture: str) -> None:
    """The picture for the models, and so the answer, is the same bit for bit."""
    values = PICTURES[picture]
    plain, other = (pictures.image(make(values)) for make in (described(), STORED[name]))
    assert look(plain).std() > 0.1
    np.testing.assert_array_equal(look(other), look(plain))
    assert answer(router, STORED[name](values)) == answer(router, described()(values))


def palette(values: Any) -> bytes:
    """Grey levels by way of a palette that holds them backwards."""
    ramp = np.arange(255, -1, -1, dtype=np.uint16) * 257
    more: dict[str, Any] = {}
    for colour in ("Red", "Green", "Blue"):
        more[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        more[f"{colour}PaletteColorLookupTableData"] = ramp.astype("<u2").tobytes()
    return pictures.native(255 - values, "PALETTE COLOR", **more)


def colours(values: Any) -> Any:
    """Three equal planes."""
    return np.dstack([values] * 3)


#: How a picture of 8 bits may be captured in colour; each gives the very same answer as the grey one.
CAPTURED: dict[str, Stored] = {
    "RGB": lambda values: pictures.native(colours(values), "RGB"),
    "RGB in planes": lambda values: pictures.part10(
        pictures.dataset(colours(values), "RGB", PlanarConfiguration=1), np.stack([values] * 3).tobytes(),
    ),
    "YBR_FULL": lambda values: pictures.native(np.dstack([values, *[np.full_like(values, 128)] * 2]), "YBR_FULL"),
    "palette": palette,
    "16 bits allocated": lambda values: pictures.native(values.astype(np.uint16), bits_stored=8),
    "8 bits, white is low": lambda values: pictures.native(255 - values, "MONOCHROME1"),
    "signed bytes": lambda values: pictures.native((values.astype(np.int16) - 128).astype(np.int8)),
}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", CAPTURED)
def test_however_it_is_captured(router: Model, name: str, picture: str) -> None:
    """A grey picture in colours is that picture, bit for bit."""
    values = (PICTURES[picture] >> 4).astype(np.uint8)
    np.testing.assert_array_equal(
        look(pictures.image(CAPTURED[name](values))), look(pictures.image(pictures.native(values))),
    )
    assert answer(router, CAPTURED[name](values)) == answer(router, pictures.native(values))


#: Other values for the same picture; the answer is the same but for rounding.
REWRITTEN: dict[str, Stored] = {
    "8 bits": lambda values: pictures.native((values >> 4).astype(np.uint8)),
    "10 bits": lambda values: pictures.native(values >> 2, bits_stored=10),
    "16 bits": lambda values: pictures.native(values * 16),
    "high bit 15": raised,
    "doubled and moved": lambda values: pictures.native(values * 2 + 77),
    "signed 16 bits": lambda values: pictures.native((values.astype(np.int32) * 16 - 32768).astype(np.int16)),
    "32 bits, all used": lambda values: pictures.native(values.astype(np.uint32) << 20),
    "8 bits in colours": lambda values: pictures.native(colours((values >> 4).astype(np.uint8)), "RGB"),
}


@pytest.mark.parametrize("picture", ["trunk", "large"])
@pytest.mark.parametrize("name", REWRITTEN)
def test_however_deep_it_is(router: Model, name: str, picture: str) -> None:
    """Bit depth, offset and scale change no probability by more than rounding does, and fewer bits not the answer.

    Of the even areas of a drawing few bits leave one grey value, so that ranks, and with them probabilities, move more than
    they do in a radiograph: the table of changes below has those ("16 grey levels").
    """
    values = PICTURES[picture]
    expected, got = answer(router, described()(values)), answer(router, REWRITTEN[name](values))
    if name.startswith(("8 bits", "10 bits")):
        assert max(got, key=got.__getitem__) == max(expected, key=expected.__getitem__)
    else:
        assert got == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("value", [0, 4095])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_declared_padding_is_a_margin(router: Model, value: int, photometric: str) -> None:
    """A picture that was padded to a larger frame, and says so, gets nearly the answer of the picture alone."""
    values = trunk()
    around = np.full((560, 470), value, np.uint16)
    around[40:488, 40:424] = values if photometric == "MONOCHROME2" else 4095 - values
    got = answer(router, pictures.native(around, photometric, 12, PixelPaddingValue=value))
    expected = answer(router, described()(values))
    assert max(got, key=lambda key: got[key]) == max(expected, key=lambda key: expected[key])
    assert got == pytest.approx(expected, abs=0.15)


def test_however_it_is_shown(router: Model, shared_data: Path) -> None:
    """Turned, mirrored, inverted, framed, lettered or dimmed: as many answers stay as the table of floors wants."""
    assert set(FLOORS) == set(CHANGES)
    known = {label.key for label in router.card.labels}
    examples = [one for one in read_examples(shared_data / "MANIFEST.csv", ROUTER) if one.split == "val" and one.label in known]
    # The same on every machine, and of every source: by a number that the name gives.
    examples.sort(key=lambda one: zlib.crc32(one.path.name.encode()))
    chosen = [one for label in sorted(known) for one in [e for e in examples if e.label == label][:OF_EACH_CLASS]]
    stored = [np.rint(read_picture(one.path) * 255).astype(np.uint8) for one in chosen]
    rows = measure(router, stored, [one.label for one in chosen])
    assert rows[0].right >= 0.9
    below = {row.change: (row.same, FLOORS[row.change]) for row in rows[1:] if row.same < FLOORS[row.change]}
    assert below == {}


def test_the_table_of_changes(router: Model) -> None:
    """Each change makes another picture of it, and the table has a row for each, rates counted by hand."""
    picture = cv2.resize(draw_phantom(), (300, 260))
    others = [np.asarray(change(picture)) for change in CHANGES.values()]
    assert [name for name, other in zip(CHANGES, others, strict=True) if np.array_equal(other, picture)] == []
    assert {other.dtype for other in others} == {np.dtype(np.uint8)}
    labels = [label.key for label in router.card.labels]
    rows = measure(router, [picture, picture], [labels[0], labels[1]])
    assert [row.change for row in rows] == ["unchanged", *CHANGES]
    assert (rows[0].same, rows[0].pictures) == (1, 2)
    assert {row.same for row in rows} <= {0, 1}
    assert {row.right for row in rows} <= {0, 0.5}
    assert as_markdown(rows).count("\n") == len(rows) + 2

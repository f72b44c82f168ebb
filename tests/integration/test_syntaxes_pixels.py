"""Every transfer syntax and layout of the trial data: decoded as pydicom decodes, blanked, coded, written, read again."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from dicomnode.errors import DicomNodeError, Undecodable, UnsupportedTransferSyntax
from dicomnode.image import Image, Redacted, codecs, jpeg
from dicomnode.outputs import part10
from dicomnode.records import Region
from dicomnode.stages.encode import Encode
from dicomnode.stages.redact.blank import black

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
FOLDERS = ("syntaxes", "burned_in", "multiframe_seg_sr", "radiograph_hires", "radiograph_lores")
FILES = [p for f in FOLDERS for p in sorted((DATA / f).rglob("*")) if p.is_file() and p.suffix not in {".csv", ".jpg"}]
MALFORMED = [p for p in sorted((DATA / "malformed").rglob("*")) if p.is_file()]
#: No decoder can make sense of it: a delimiter was written into its code stream.
BROKEN = {"JPEG2000-embedded-sequence-delimiter.dcm"}

pytestmark = pytest.mark.skipif(not FILES, reason="../shared/data/dicom is absent")


def header_of(image: Image) -> Dataset:
    """The header, with the identity that some trial files lack."""
    ds = Dataset()
    ds.update(image.dataset)
    ds.setdefault("SOPClassUID", SecondaryCaptureImageStorage)
    ds.setdefault("SOPInstanceUID", "1.2.3.4")
    return ds


def name(path: Path) -> str:
    """Name a file in reports."""
    return str(path.relative_to(DATA))[-70:]


def reference(path: Path) -> NDArray[Any] | None:
    """All frames as pydicom alone decodes them; None when it cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(pixel_array(pydicom.dcmread(path), raw=True))
        except Exception:  # noqa: BLE001 - then there is nothing to compare with
            return None


@pytest.mark.parametrize("path", FILES, ids=name)
def test_decoded_values_are_those_of_pydicom(path: Path) -> None:
    """Every frame that pydicom decodes has the same values here, and every picture is uint8 of the frame's shape."""
    with path.open("rb") as source:
        try:
            image = Image.open(source)
            frames = [image.frame(i) for i in range(image.frames)]
        except (Undecodable, UnsupportedTransferSyntax):
            assert path.name in BROKEN or reference(path) is None
            return
        expected = reference(path)
        if expected is not None and frames:
            expected = expected if image.frames > 1 else expected[None]
            assert all(np.array_equal(a, b) for a, b in zip(expected, frames, strict=True))
        for i in range(min(3, image.frames)):
            assert image.picture(i).dtype == np.uint8
            assert image.picture(i).shape[:2] == (image.rows, image.columns)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_the_region_changes(path: Path) -> None:
    """Blanked, coded, written and read again by pydicom and by us, every value outside the region is as it was."""
    with path.open("rb") as source:
        try:
            image = Image.open(source)
            frames = [image.frame(i).copy() for i in range(min(image.frames, 6))]
        except DicomNodeError:
            return
        if not frames:
            return
        x, y = image.columns // 4 // 2 * 2, image.rows // 4
        w, h = max(2, image.columns // 3 // 2 * 2), max(1, image.rows // 3)
        region = Region(0, x, y, min(w, image.columns - x), min(h, image.rows - y), "unknown-text")
        redacted = Redacted(image, (region,), "test", black(image))
        coded = Encode()(redacted)
        if sum(frame.nbytes for frame in frames) > 16 << 20 and coded.is_encapsulated:
            pytest.skip("large: other files prove the same syntax faster")
        stream = BytesIO()
        part10.write(stream, header_of(image), coded)
    again = Image.open(BytesIO(stream.getvalue()))
    for i, before in enumerate(frames):
        after = again.frame(i)
        assert after.dtype == before.dtype
        mask = np.zeros(before.shape[:2], bool)
        if i == 0:
            mask[region.y : region.y + region.h, region.x : region.x + region.w] = True
        np.testing.assert_array_equal(before[~mask], after[~mask])
        if i == 0:
            assert (after[mask] == np.array(redacted.black, before.dtype)).all()
    # Black, or the darkest that a palette has; an inverting VOI LUT may turn it.
    if "VOILUTSequence" not in image.dataset:
        y, x = region.y, region.x
        assert again.picture(0)[y : y + region.h, x : x + region.w].max() <= again.picture(0).min() + 16


@pytest.mark.parametrize("path", FILES, ids=name)
def test_untouched_frames_keep_their_values(path: Path) -> None:
    """Without regions native pixel data leave as stored, lossless ones in their syntax, and no value of any changes."""
    with path.open("rb") as source:
        try:
            image = Image.open(source)
            image.frame(0)
        except DicomNodeError:
            return
        coded = Encode()(Redacted(image, (), "test", (0,) * image.samples))
        syntax = image.transfer_syntax_uid
        if not image.spec.encapsulated or (syntax in codecs.LOSSLESS and image.spec.bits_allocated > 1):
            assert coded.transfer_syntax_uid == syntax
        elif syntax not in jpeg.SYNTAXES:
            # In the lossless syntax of its family, where that can hold the values.
            assert coded.transfer_syntax_uid in (codecs.LOSSLESS_OF.get(str(syntax)), ExplicitVRLittleEndian)
        if not image.spec.encapsulated and image.spec.bits_allocated > 1 and not image.has_strays(0):
            assert next(iter(coded.frames())) == image.raw_frame(0)
        stream = BytesIO()
        part10.write(stream, header_of(image), coded)
        assert Image.open(BytesIO(stream.getvalue())).pixel_digest() == image.pixel_digest()


def test_most_lossy_jpegs_stay_jpegs() -> None:
    """The proof that a rebuilt JPEG hides nothing holds for nearly all real ones, so that they do not grow."""
    kept = []
    for path in FILES:
        with path.open("rb") as source:
            try:
                image = Image.open(source)
                if image.transfer_syntax_uid not in jpeg.SYNTAXES:
                    continue
                image.frame(0)
            except DicomNodeError:
                continue
            coded = Encode()(Redacted(image, (), "test", (0,) * image.samples))
            kept.append(coded.transfer_syntax_uid == image.transfer_syntax_uid)
    assert len(kept) > 10
    assert np.mean(kept) > 0.8


@pytest.mark.parametrize("path", MALFORMED, ids=name)
def test_malformed_files_are_undecodable_or_read(path: Path) -> None:
    """A malformed file raises `Undecodable` or is read; no other exception leaves."""
    with path.open("rb") as source:
        try:
            image = Image.open(source)
            for i in range(image.frames):
                image.frame(i)
                image.picture(i)
        except (Undecodable, UnsupportedTransferSyntax) as error:
            assert len(str(error)) < 120  # noqa: PT017 - it may be read as well

"""Secondary captures: the picture, its caption, and whose it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pydicom import config
from pydicom.dataset import Dataset

from dicomnode.errors import RedactionUncertain, StageFailed, Undecodable
from dicomnode.outputs import caption, capture, sc
from tests.unit.materials import (
    CHARSETS,
    UNSURE,
    clean,
    grey,
    marked_dx,
    material,
    pydicom_file,
    read,
    shown,
    traces,
    written,
)


def colour(rows: int = 96, cols: int = 64) -> np.ndarray:
    """A grey ramp in colours."""
    return np.dstack([grey(rows, cols)] * 3)


@pytest.mark.parametrize("identity", ["kept", "removed"])
def test_repeats(identity):
    """The same material gives the same bytes, letters included."""
    first, second = (written(sc.build(material(marked_dx(), identity, picture=grey()))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("clean", [True, False])
def test_burned_in_annotation_is_no_only_where_the_pixels_are_clean(clean):
    """Of a frame that a second look found clean; else nobody can say."""
    ds = read(sc.build(dataclasses.replace(material(marked_dx()), coded=shown(grey(), clean=clean))))
    assert ds.get("BurnedInAnnotation") == ("NO" if clean else None)


@pytest.mark.parametrize("picture", [grey(), colour()], ids=["grey", "colour"])
def test_picture_is_whole_and_the_caption_below(picture):
    """The caption stands under the picture, whose pixels are those of redaction, enlarged; nothing is written over it."""
    ds = read(sc.build(material(marked_dx(), picture=picture)))
    pixels = ds.pixel_array
    large = caption.scale(picture)
    left = (pixels.shape[1] - large.shape[1]) // 2
    assert np.array_equal(pixels[: large.shape[0], left : left + large.shape[1]], large)
    assert (pixels[large.shape[0] :] > 128).any()
    assert ds.PhotometricInterpretation == ("MONOCHROME2" if picture.ndim == 2 else "RGB")


@pytest.mark.parametrize(
    ("rows", "cols", "longest"),
    [(3000, 2000, 1024), (2000, 3000, 1024), (700, 600, 700), (128, 100, 512), (64, 64, 256), (1, 9, 36)],
)
def test_longest_side(rows, cols, longest):
    """Large pictures come down to 1024, small ones up to 512 or four times."""
    assert max(caption.scale(grey(rows, cols)).shape) == longest


def test_pixels_come_out_square():
    """A pixel twice as high as wide gives a picture twice as high."""
    assert caption.scale(grey(100, 100), aspect=2.0).shape == (512, 256)
    assert caption.scale(grey(100, 100), aspect=0.5).shape == (256, 512)
    spaced = Dataset()
    spaced.PixelSpacing = [2, 1]
    assert capture.aspect(spaced) == 2
    assert capture.aspect(Dataset()) == 1


def test_caption_tells_the_result():
    """A result changes the caption and not the picture."""
    told = read(sc.build(material(marked_dx(), picture=grey()))).pixel_array
    unsure = read(sc.build(material(marked_dx(), picture=grey(), route=UNSURE, findings=()))).pixel_array
    high = caption.scale(grey()).shape[0]
    assert np.array_equal(told[:high], unsure[:high])
    assert told[high:].shape != unsure[high:].shape or not np.array_equal(told[high:], unsure[high:])


def test_long_lines_fit():
    """The longest label that a card may have is not cut at the edge."""
    lines = ["x" * 72]
    canvas = caption.below(grey(10, 10), lines)
    assert canvas[:, -4:].max() == 0
    assert canvas[10:].max() == 255


def test_middle_frame_is_asked_for():
    """Of a multi-frame source the middle frame is shown and named."""
    asked = []

    def picture(frame):
        asked.append(frame)
        return grey()

    ds = read(sc.build(material(marked_dx(frames=5), coded=shown(picture))))
    assert asked == [2]
    assert ds.SourceImageSequence[0].ReferencedFrameNumber == 3


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_inside_keeps_the_patient(charset):
    """Inside, the capture files under the patient, in the source's character set."""
    ds = read(sc.build(material(marked_dx(charset), picture=grey())))
    assert ds.PatientName == CHARSETS[charset].name
    assert (ds.PatientID, ds.AccessionNumber) == ("ZZID4711", "ZZACC0815")


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_outside_knows_nobody(charset):
    """Outside, no name, number, date or UID of the patient occurs in the bytes, in any encoding."""
    data = written(sc.build(material(marked_dx(charset), "removed", picture=np.zeros((64, 64), np.uint8))))
    assert [trace for trace in traces(charset) if trace in data] == []
    assert b"1.2.826.0.1.3680043.9.99" not in data
    assert b"20310709" not in data


def test_caption_names_nobody():
    """Two patients with the same result get the same pixels."""
    one, other = (read(sc.build(material(marked_dx(c), picture=grey()))).PixelData for c in ("ascii", "utf-8"))
    assert one == other


def test_lost_stays_lost():
    """A source that was compressed with loss gives a capture that says so, with ratio and method."""
    lossy = read(sc.build(material(pydicom_file("SC_rgb_jpeg_dcmtk.dcm"), picture=colour())))
    assert (lossy.LossyImageCompression, lossy.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(lossy.LossyImageCompressionRatio) >= 1
    assert read(sc.build(material(marked_dx(), picture=grey()))).LossyImageCompression == "00"


def test_odd_number_of_bytes_is_padded():
    """Pixel Data has even length whatever the size of the picture."""
    ds = read(sc.build(material(marked_dx(), picture=grey(515, 513))))
    assert len(ds.PixelData) % 2 == 0
    assert len(ds.PixelData) - ds.Rows * ds.Columns in (0, 1)


@pytest.mark.parametrize("identity", ["kept", "removed"])
def test_lossy_methods_are_those_of_the_standard(identity):
    """What a peer writes as the method of compression does not get into the capture unless it is a defined term."""
    stuff = material(marked_dx(), identity, picture=grey())
    stuff.image.dataset.LossyImageCompression = "01"
    for method, expected in (("DOE^JOHN", None), ("ISO_10918_1", "ISO_10918_1")):
        with config.disable_value_validation():
            stuff.image.dataset.LossyImageCompressionMethod = method
        assert read(sc.build(stuff)).get("LossyImageCompressionMethod") == expected


def test_numbers_outside_count():
    """An instance number that is too large for a count, and may be a date of birth, does not leave."""
    for identity, expected in (("kept", 19570823), ("removed", 1)):
        stuff = material(marked_dx(), identity, picture=grey())
        stuff.image.dataset.InstanceNumber = 19570823
        assert expected == read(sc.build(stuff)).InstanceNumber


def test_header_mode_does_not_leave():
    """Pixels in which unknown text may stand go inside only, or outside when a person has released them."""
    with pytest.raises(RedactionUncertain):
        sc.build(material(marked_dx(), "removed", coded=shown(grey(), strict=False)))
    sc.build(material(marked_dx(), "removed", coded=shown(grey(), strict=False, released=True)))
    sc.build(material(marked_dx(), coded=shown(grey(), strict=False)))


def test_real_pixels_are_shown():
    """The picture comes from redaction's display picture: what is bright there is bright in the capture."""
    stuff = material(pydicom_file("CT_small.dcm"))
    coded = clean(stuff.image)
    pixels = read(sc.build(dataclasses.replace(stuff, coded=coded))).pixel_array
    assert np.array_equal(pixels[:512, :512], caption.scale(coded.redacted.picture(0)))


def test_no_redacted_pixels_no_capture():
    """Without redaction's pixels there is no picture; it is refused, not made of others."""
    with pytest.raises(StageFailed):
        sc.build(material(marked_dx()))


def test_own_result_is_marked():
    """Manufacturer and serial number tell the node that this is its own when it comes back."""
    assert material(written(sc.build(material(marked_dx(), picture=grey())))).instance.own_result


def test_errors_of_the_pixels_keep_their_name():
    """Pixels that turn out undecodable while they are drawn hold the capture as what they are."""

    def picture(_frame):
        raise Undecodable

    with pytest.raises(Undecodable):
        sc.build(material(marked_dx(), coded=shown(picture)))

"""Pictures become tensors in one way, whatever bit depth, sign, colour or polarity they are stored in."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dicomnode.errors import BadCard, StageFailed
from dicomnode.records import Placement
from dicomnode.stages import preprocess
from dicomnode.stages.preprocess import STEPS, chain
from dicomnode.stages.unit import percentiles, to_unit

STEPS_OF_OURS = [
    ("crop_margins", {"contrast": 0.04, "at_most": 0.35}),
    ("percentile_window", {"low": 1.0, "high": 99.0}),
    ("resize", {"rows": 48, "cols": 48, "keep_aspect": True}),
    ("standardise", {}),
    ("add_channel", {}),
]


def film(rows=96, cols=80):
    """8-bit picture with a gradient, a disc and grain, and an even dark margin."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[:rows, :cols]
    picture = 60 + 100 * x / cols + 60 * (np.hypot(y - rows / 2, x - cols / 2) < 20) + random.normal(0, 6, (rows, cols))
    picture[:8] = picture[:, :6] = 10
    return np.clip(picture, 0, 255).astype(np.uint8)


SAME_PICTURE = {
    "16 bit": (film().astype(np.uint16) * 257, "MONOCHROME2"),
    "12 bit": (film().astype(np.uint16) * 16, "MONOCHROME2"),
    "signed": (film().astype(np.int16) * 8 - 1024, "MONOCHROME2"),
    "8 bit, white is low": (255 - film(), "MONOCHROME1"),
    "16 bit, white is low": (65535 - film().astype(np.uint16) * 257, "MONOCHROME1"),
    "signed, white is low": (-(film().astype(np.int16) * 8), "MONOCHROME1"),
    "padded value": (255 - film(), "MONOCHROME1 "),
    "colour capture": (np.repeat(film()[:, :, None], 3, axis=2), "RGB"),
    "float": (film() / 255.0, "MONOCHROME2"),
}


@pytest.mark.parametrize("name", SAME_PICTURE)
def test_same_picture_same_tensor(name):
    """The same picture stored otherwise gives the same tensor."""
    run = chain(STEPS_OF_OURS)
    expected = run(to_unit(film()))
    assert expected.std() == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(run(to_unit(*SAME_PICTURE[name])), expected, atol=2e-4)


def test_polarity_matters():
    """Without the turn of MONOCHROME1 the tensor would be another one."""
    run = chain(STEPS_OF_OURS)
    assert np.abs(run(to_unit(255 - film())) - run(to_unit(film()))).max() > 1


def test_unit_range_and_type():
    """A frame becomes float32 in 0..1 and uses all of it, in spite of a few extreme pixels."""
    frame = film().astype(np.uint16)
    frame[50, 40] = 65535
    unit = to_unit(frame)
    assert unit.dtype == np.float32
    assert unit.shape == frame.shape
    assert (unit.min(), unit.max()) == (0, 1)
    assert unit.std() > 0.2


@pytest.mark.parametrize("value", [0, 7, 65535])
@pytest.mark.parametrize("photometric_interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_constant_frame(value, photometric_interpretation):
    """A constant frame says nothing: zeros, in either polarity."""
    frame = np.full((20, 30), value, dtype=np.uint16)
    assert not to_unit(frame, photometric_interpretation).any()
    assert not chain(STEPS_OF_OURS)(to_unit(frame)).any()


def test_small_subject_on_even_ground():
    """A subject smaller than the percentiles is still seen."""
    frame = np.zeros((200, 200), dtype=np.uint8)
    frame[100:105, 100:105] = 200
    assert to_unit(frame).max() == 1


def test_window_is_the_standards_linear_function():
    """Window centre 100, width 11: PS3.3 C.11.2.1.2.1 puts 0 at 94.5 and 1 at 104.5."""
    frame = np.array([[0, 94, 95, 99, 104, 105, 255]], dtype=np.int16)
    np.testing.assert_allclose(to_unit(frame, window=(100, 11))[0], [0, 0, 0.05, 0.45, 0.95, 1, 1], atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 8, 8), (8, 8, 4), (2, 8, 8, 3)])
def test_no_frame(shape):
    """What is no single frame is refused."""
    with pytest.raises(StageFailed):
        to_unit(np.zeros(shape, dtype=np.uint8))


def test_not_finite():
    """Values that are not finite are refused."""
    with pytest.raises(StageFailed):
        to_unit(np.array([[0.0, np.nan], [1.0, 2.0]]))


def test_big_frame_is_sampled():
    """Percentiles of a big frame come from a grid of its pixels and stay close to those of all."""
    frame = np.random.default_rng(0).integers(0, 4096, (2000, 1500), dtype=np.uint16)
    low, high = percentiles(frame, 0.5, 99.5)
    assert (low, high) == pytest.approx((20.5, 4075), abs=6)


def test_crop_margins_cuts_even_margins_only():
    """Even margins go, the picture stays; nothing goes from a picture without margins."""
    inner = np.random.default_rng(1).random((60, 50), dtype=np.float32)
    framed = np.full((100, 90), 0.1, dtype=np.float32)
    framed[20:80, 25:75] = inner
    np.testing.assert_allclose(preprocess.crop_margins(framed)[0].shape, inner.shape, atol=2)
    assert preprocess.crop_margins(inner)[0].shape == inner.shape


def test_crop_margins_keeps_its_limit():
    """No side loses more than the share that is allowed."""
    framed = np.zeros((100, 100), dtype=np.float32)
    framed[90:95, 90:95] = np.random.default_rng(1).random((5, 5))
    assert preprocess.crop_margins(framed, at_most=0.25)[0].shape == (70, 70)


@pytest.mark.parametrize(("shape", "inner"), [((100, 50), (40, 20)), ((50, 100), (20, 40)), ((10, 10), (40, 40))])
def test_resize_keeps_aspect(shape, inner):
    """The picture is centred on a dark ground with its ratio kept."""
    resized, _ = preprocess.resize(np.ones(shape, dtype=np.float32), rows=40, cols=40)
    assert resized.shape == (40, 40)
    assert ((resized > 0).any(axis=1).sum(), (resized > 0).any(axis=0).sum()) == inner
    np.testing.assert_array_equal(resized, resized[::-1, ::-1])


def test_resize_stretches():
    """Without keep_aspect the whole tensor is picture."""
    resized, place = preprocess.resize(np.ones((100, 50), dtype=np.float32), rows=32, cols=40, keep_aspect=False)
    np.testing.assert_allclose(resized, np.ones((32, 40)), atol=1e-5)
    assert place == Placement(0, 0, 100, 50)


def test_placement_composes():
    """A place on a picture that itself lies on another is given in the other's pixels."""
    inner = Placement(10, 20, 30, 40)
    assert Placement(5, 6, 200, 100).of(inner, 100, 100) == Placement(25, 26, 60, 40)
    assert Placement(0, 0, 7, 9).of(Placement(0, 0, 3, 2), 3, 2) == Placement(0, 0, 7, 9)


@pytest.mark.parametrize("frame", [None, (960, 1200)])
def test_chain_says_where_its_tensor_lies(frame):
    """A spot of the frame is found in the tensor where the placement says, margins cut and padding added."""
    picture = 0.8 * np.random.default_rng(3).random((240, 300), dtype=np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), 4) * 4 - 1.2
    picture[:60] = picture[:, :30] = 0.1
    picture[150:156, 200:206] = 1.0
    steps = [("crop_margins", {}), ("resize", {"rows": 96, "cols": 96}), ("add_channel", {})]
    tensor, place = chain(steps).placed(picture, frame)
    np.testing.assert_array_equal(tensor, chain(steps)(picture))
    enlarged = 1 if frame is None else 4
    assert place.top < 60 * enlarged  # the wide picture is padded above and below
    assert (place.left, place.left + place.width) == pytest.approx((30 * enlarged, 300 * enlarged), abs=3 * enlarged)
    down, across = np.unravel_index(tensor[0].argmax(), (96, 96))
    found = place.top + (down + 0.5) * place.height / 96, place.left + (across + 0.5) * place.width / 96
    assert found == pytest.approx((153 * enlarged, 203 * enlarged), abs=3 * enlarged)


GREY_SCALES = {
    "gamma 0.45": lambda x: x**0.45,
    "gamma 2.2": lambda x: x**2.2,
    "s curve": lambda x: 1 / (1 + np.exp(-6 * (x - 0.5))),
    "window": lambda x: 0.3 + 0.4 * x,
}


@pytest.mark.parametrize("name", GREY_SCALES)
def test_equalise_undoes_any_rising_grey_scale(name):
    """Ranks do not see window, gamma or curve; polarity turns them over."""
    picture = cv2.GaussianBlur(film(224, 224).astype(np.float32), (0, 0), 2)
    picture = 0.05 + 0.9 * (picture - picture.min()) / (picture.max() - picture.min())
    expected = preprocess.equalise(picture)
    assert expected.dtype == np.float32
    assert (expected.min(), expected.max(), expected.mean()) == pytest.approx((0.05, 1, 0.5), abs=0.05)
    changed = GREY_SCALES[name](picture).astype(np.float32)
    np.testing.assert_allclose(preprocess.equalise(changed), expected, atol=4e-3)  # 16 bits end in the dark
    np.testing.assert_allclose(preprocess.equalise(1 - picture), 1 - expected, atol=2e-3)


def test_equalise_ranks():
    """Ranks by hand: equal values share the middle of theirs; a constant picture is all middle."""
    picture = np.array([[0.1, 0.7], [0.7, 0.2]], np.float32)
    np.testing.assert_allclose(preprocess.equalise(picture), [[0.125, 0.75], [0.75, 0.375]])
    np.testing.assert_array_equal(preprocess.equalise(np.full((3, 4), 0.3, np.float32)), 0.5)


def test_equalise_before_padding():
    """`fit` gives the size to which `resize` adds nothing but its ground."""
    picture = film(90, 60).astype(np.float32) / 255
    fitted = preprocess.fit(picture, 48, 48)
    assert fitted.shape == (48, 32)
    padded, place = preprocess.resize(fitted, 48, 48)
    np.testing.assert_array_equal(padded[:, 8:40], fitted)
    assert place == Placement(0, -8, 48, 48)


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ([("sharpen", {})], "sharpen"),
        ([("resize", {"rows": 4})], "cols"),
        ([("resize", {"rows": 4, "cols": 4, "depth": 1})], "depth"),
    ],
)
def test_chain_refuses(steps, fault):
    """An unknown step or parameter is a fault of the card that names it."""
    with pytest.raises(BadCard, match=fault):
        chain(steps)


def test_every_step_is_documented():
    """Each name that a card may use has a docstring."""
    assert [name for name, function in STEPS.items() if not function.__doc__] == []


# -- steps of models made elsewhere
def test_resize_short_and_crop_centre():
    """What torchvision calls Resize and CenterCrop: the middle square of the picture, and where it lies."""
    picture = np.zeros((120, 240), np.float32)
    picture[:, 60:180] = 1
    tensor, place = chain([
        ("resize_short", {"size": 60}), ("crop_centre", {"rows": 48, "cols": 48}), ("add_channel", {}),
    ]).placed(picture)
    assert tensor.shape == (1, 48, 48)
    np.testing.assert_array_equal(tensor, 1)
    assert place == Placement(12, 72, 96, 96)


def test_crop_centre_of_a_smaller_picture():
    """What the picture does not cover is dark."""
    made, place = preprocess.crop_centre(np.ones((4, 9), np.float32), rows=8, cols=5)
    assert made.sum() == 4 * 5
    np.testing.assert_array_equal(made[2:6], 1)
    assert place == Placement(-2, 2, 8, 5)


def test_channels_and_ranges():
    """Three equal channels, the ranges that networks are taught with, and the layout of TensorFlow."""
    grey = np.array([[0.0, 0.5], [1.0, 0.485]], np.float32)
    three = preprocess.three_channels(grey)
    np.testing.assert_array_equal(three, preprocess.three_channels(grey[np.newaxis]))
    assert three.shape == (3, 2, 2)
    np.testing.assert_allclose(preprocess.scale(grey, factor=2, offset=-1), grey * 2 - 1)
    normal = preprocess.imagenet(three)
    np.testing.assert_allclose(normal[:, 1, 1], [0, (0.485 - 0.456) / 0.224, (0.485 - 0.406) / 0.225], atol=1e-6)
    last = chain([("three_channels", {}), ("imagenet", {}), ("channels_last", {})])(grey)
    assert last.shape == (2, 2, 3)
    np.testing.assert_allclose(last[1, 1], normal[:, 1, 1])
    with pytest.raises(StageFailed, match="three_channels"):
        preprocess.imagenet(grey[np.newaxis])

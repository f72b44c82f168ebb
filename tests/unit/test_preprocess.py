"""Pictures become tensors in one way, whatever bit depth, sign, colour or polarity they are stored in."""

from __future__ import annotations

import numpy as np
import pytest

from dicomnode.errors import BadCard, StageFailed
from dicomnode.stages import preprocess
from dicomnode.stages.preprocess import STEPS, chain, to_unit

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
    low, high = preprocess._percentiles(frame, 0.5, 99.5)
    assert (low, high) == pytest.approx((20.5, 4075), abs=6)


def test_crop_margins_cuts_even_margins_only():
    """Even margins go, the picture stays; nothing goes from a picture without margins."""
    inner = np.random.default_rng(1).random((60, 50), dtype=np.float32)
    framed = np.full((100, 90), 0.1, dtype=np.float32)
    framed[20:80, 25:75] = inner
    np.testing.assert_allclose(preprocess.crop_margins(framed).shape, inner.shape, atol=2)
    assert preprocess.crop_margins(inner).shape == inner.shape


def test_crop_margins_keeps_its_limit():
    """No side loses more than the share that is allowed."""
    framed = np.zeros((100, 100), dtype=np.float32)
    framed[90:95, 90:95] = np.random.default_rng(1).random((5, 5))
    assert preprocess.crop_margins(framed, at_most=0.25).shape == (70, 70)


@pytest.mark.parametrize(("shape", "inner"), [((100, 50), (40, 20)), ((50, 100), (20, 40)), ((10, 10), (40, 40))])
def test_resize_keeps_aspect(shape, inner):
    """The picture is centred on a dark ground with its ratio kept."""
    resized = preprocess.resize(np.ones(shape, dtype=np.float32), rows=40, cols=40)
    assert resized.shape == (40, 40)
    assert ((resized > 0).any(axis=1).sum(), (resized > 0).any(axis=0).sum()) == inner
    np.testing.assert_array_equal(resized, resized[::-1, ::-1])


def test_resize_stretches():
    """Without keep_aspect the whole tensor is picture."""
    resized = preprocess.resize(np.ones((100, 50), dtype=np.float32), rows=32, cols=40, keep_aspect=False)
    np.testing.assert_allclose(resized, np.ones((32, 40)), atol=1e-5)


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

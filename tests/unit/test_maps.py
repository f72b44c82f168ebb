"""Heat maps and masks on their way: from a model whose maps are the picture itself to captures and segmentations."""

from __future__ import annotations

import dataclasses
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from pydicom.uid import SegmentationStorage

from dicomnode.errors import RedactionUncertain, StageFailed
from dicomnode.header import header
from dicomnode.image import Image, Redacted
from dicomnode.outputs import caption, deidentified, geometry, lay, outside_uid, reference, sc, sc_map, seg
from dicomnode.pipeline import process
from dicomnode.records import Finding, Findings, Placement, Region
from dicomnode.stages.encode import Encode
from dicomnode.stages.infer import Infer, open_models
from dicomnode.stages.preprocess import to_unit
from tests.unit import fakes
from tests.unit.materials import (
    CHARSETS,
    FINDINGS,
    LESION,
    MEANS,
    NODE,
    NORMAL,
    PNEUMONIA,
    a_map,
    clean,
    grey,
    mapped,
    marked_dx,
    material,
    pydicom_file,
    read,
    shown,
    spooled,
    traces,
    written,
)

mapper = pytest.importorskip("tests.unit.mapper", reason="the extra `train` is not installed: onnx makes the model")
IDENTITIES = ["kept", "removed"]


def of_clean(source: bytes, identity: str = "kept", **more):
    """A material with the image's own pixels, and with maps over the whole frame."""
    base = material(source, identity, **more)
    found = more.get("findings") or mapped(base.image.rows, base.image.columns)
    return dataclasses.replace(base, coded=clean(base.image), findings=found)


def segments(output) -> np.ndarray:
    """The frames of a segmentation as highdicom reads them, (segments, rows, cols) of bool."""
    stream = BytesIO(written(output))
    found = hd.seg.segread(stream)
    assert isinstance(found, hd.seg.Segmentation)
    frames = found.pixel_array
    return (frames if frames.ndim == 3 else frames[np.newaxis]) > 0


# -- where
FRAMES = {
    "square": (256, 256, (0, 0, 256, 256)),
    "wide": (150, 400, (0, 0, 150, 400)),
    "high": (390, 200, (0, 0, 390, 200)),
    "collimated": (300, 300, (60, 45, 270, 210)),
    "collimated and wide": (200, 500, (40, 100, 190, 480)),
}


@pytest.mark.parametrize("steps", ["{crop}, {stretch}", "{crop}, {fit}", "{fit}"], ids=["crop-stretch", "crop-fit", "fit"])
@pytest.mark.parametrize("name", FRAMES)
def test_a_bright_place_is_marked_where_it_is(tmp_path, name, steps):
    """Cropped, stretched or letter-boxed on its way to the network: the mask lies on the bright place of the frame."""
    for word, step in (("{crop}", mapper.CROP), ("{stretch}", mapper.STRETCH), ("{fit}", mapper.FIT)):
        steps = steps.replace(word, step)
    mapper.write(tmp_path, steps=steps)
    rows, cols, (top, left, bottom, right) = FRAMES[name]
    frame = np.zeros((rows, cols), np.uint16)
    frame[top:bottom, left:right] = np.random.default_rng(3).integers(0, 1200, (bottom - top, right - left))
    box = (top + (bottom - top) // 4, left + (right - left) // 2, top + (bottom - top) // 2, left + (right - left) * 7 // 8)
    frame[box[0] : box[2], box[1] : box[3]] = 4000
    found = Infer(open_models(tmp_path))(to_unit(frame), "lesions", (rows, cols))
    heat, mask = found.maps
    assert (found.items[0].label, found.abnormal, heat.kind, mask.kind) == ("lesion", True, "heat", "mask")
    inside = lay.belongs(lay.Grid(rows, cols, (rows, cols)).values(mask), mask)
    down, across = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    cell = 2 * max(rows, cols) / 64
    off = np.abs(np.array([down[0], across[0], down[-1] + 1, across[-1] + 1]) - box)
    assert off.max() <= 0.6 * cell, (off, cell)
    exact = np.zeros_like(inside)
    exact[box[0] : box[2], box[1] : box[3]] = True
    assert (inside & exact).sum() / (inside | exact).sum() > 0.85


# -- captures
def test_nothing_changes_but_where_something_is_laid():
    """Heat of a quarter changes pixels there alone; the picture elsewhere is that of the plain capture."""
    heat = a_map([[0, 0], [-1, 4]], Placement(0, 0, 96, 64), kind="heat", of=PNEUMONIA)
    one = dataclasses.replace(FINDINGS[0], maps=(heat,))
    base = material(marked_dx(), picture=grey(), findings=(one,))
    plain, laid = read(sc.build(base)).pixel_array, read(sc_map.build(base)).pixel_array
    high, wide = caption.scale(grey()).shape
    left = (laid.shape[1] - wide) // 2
    ours, theirs = laid[:high, left : left + wide], np.dstack([plain[:high, (plain.shape[1] - wide) // 2 :][:, :wide]] * 3)
    changed = (ours != theirs).any(axis=2)
    assert changed[3 * high // 4 :, 3 * wide // 4 :].all()
    assert not changed[: high // 4].any()
    assert not changed[:, : wide // 4].any()


def test_blanked_stays_black():
    """Neither heat nor mask is laid over what redaction has blanked."""
    region = Region(0, 8, 16, 24, 20, "header-match")
    picture = grey()
    picture[16:36, 8:32] = 0
    whole = Placement(0, 0, 96, 64)
    maps = (a_map(np.ones((2, 2)), whole, kind="heat"), a_map(np.ones((2, 2)), whole))
    found = (Findings((LESION,), "m", "1", "", maps),)
    base = material(marked_dx(), "removed", coded=shown(picture, regions=(region,)), findings=found)
    laid = read(sc_map.build(base)).pixel_array
    times = caption.scale(picture).shape[0] / 96
    left = (caption.NARROWEST - caption.scale(picture).shape[1]) // 2
    for panel in (left, caption.NARROWEST + 8 + left):
        hidden = laid[int(17 * times) : int(35 * times), panel + int(9 * times) : panel + int(31 * times)]
        assert hidden.max() == 0
        assert laid[: int(14 * times), panel : panel + 100].max() > 100


@pytest.mark.parametrize("build", [sc_map.build, seg.build], ids=["sc-map", "seg"])
@pytest.mark.parametrize("identity", IDENTITIES)
def test_repeats(build, identity):
    """The same material gives the same bytes."""
    one, two = (written(build(of_clean(marked_dx(), identity))) for _ in range(2))
    assert one == two


def test_only_what_is_reported_has_a_panel():
    """Of a heat map with two labels the abnormal one is shown first; a panel more is wider by itself and the space between."""
    whole = Placement(0, 0, 96, 64)
    maps = tuple(a_map(np.ones((2, 2)), whole, kind="heat", of=one) for one in (NORMAL, PNEUMONIA))
    small = Finding("normal", NORMAL.code, 0.6)
    rare = dataclasses.replace(PNEUMONIA, probability=0.4)
    both = Findings((small, rare), "m", "1", "", maps)
    calm = Findings((small, dataclasses.replace(rare, abnormal=False)), "m", "1", "", maps)
    two, one = (read(sc_map.build(material(marked_dx(), picture=grey(), findings=(f,)))) for f in (both, calm))
    assert (two.Columns, one.Columns) == (2 * caption.NARROWEST + 8, caption.NARROWEST)
    many = read(sc_map.build(material(marked_dx(), picture=grey(), findings=(both,) * 3)))
    assert many.Columns == 4 * caption.NARROWEST + 3 * 8


# -- segmentations
@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("name", ["dx", "CT_small.dcm", "SC_rgb_rle_2frame.dcm", "JPEG2000.dcm", "odd"])
def test_highdicom_reads_the_masks(name, identity):
    """What highdicom reads back is what was laid, cell by cell, also where frames end within a byte."""
    source = {"dx": marked_dx(), "odd": marked_dx(rows=13, cols=7)}.get(name) or pydicom_file(name)
    base = of_clean(source, identity)
    output = seg.build(base)
    frames = segments(output)
    rows, cols = base.image.rows, base.image.columns
    grid = lay.Grid(rows, cols, (rows, cols))
    masks = [one for found in base.findings for one in found.maps if one.kind == "mask"]
    assert frames.shape == (2, rows, cols)
    for frame, mask in zip(frames, masks, strict=True):
        assert np.array_equal(frame, lay.belongs(grid.values(mask), mask))
        assert 0 < frame.mean() < 1


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_segment_says_what_it_is_and_who_made_it(identity):
    """Type, category, algorithm with its digest, threshold; nothing claims a diagnosis."""
    ds = read(seg.build(of_clean(marked_dx(), identity)))
    assert (ds.SOPClassUID, ds.Modality, ds.SegmentationType) == (SegmentationStorage, "SEG", "BINARY")
    lesion, normal = ds.SegmentSequence
    assert lesion.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert lesion.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert normal.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    assert lesion.SegmentDescription == "lesion, 93.0 %; pixels from probability 0.5; not for diagnostic use"
    (algorithm,) = lesion.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("lesions", "2.0")
    assert "ef" * 32 in str(algorithm.AlgorithmParameters)
    assert (ds.Manufacturer, ds.DeviceSerialNumber) == ("dicomnode", NODE.node_id)


def test_inside_and_outside_name_their_own_image():
    """Inside the source and the patient; outside the de-identified image, and nothing of the patient."""
    for identity in IDENTITIES:
        base = of_clean(marked_dx(frames=5), identity)
        ds = read(seg.build(base))
        wanted = reference(base)
        (frame, _) = ds.PerFrameFunctionalGroupsSequence
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        for one in (source, ds.SourceImageSequence[0]):
            assert (one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) == (wanted.sop_class_uid, wanted.sop_instance_uid)
            assert one.ReferencedFrameNumber == 3
        (series,) = ds.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == wanted.series_instance_uid
        assert series.ReferencedInstanceSequence[0].ReferencedSOPClassUID == wanted.sop_class_uid
        assert ds.StudyInstanceUID == wanted.study_instance_uid
    base = dataclasses.replace(of_clean(marked_dx(), "removed"))
    image = deidentified.build(dataclasses.replace(base, coded=Encode()(base.coded.redacted)))
    assert reference(base).sop_instance_uid == image.sop_instance_uid


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_patient_stays_inside(charset):
    """Inside the patient is there in the source's character set; outside no trace of him is, in either kind."""
    assert read(seg.build(of_clean(marked_dx(charset)))).PatientName == CHARSETS[charset].name
    for build in (sc_map.build, seg.build):
        data = written(build(of_clean(marked_dx(charset), "removed")))
        assert [trace for trace in traces(charset) if trace in data] == []


def test_place_in_space_is_the_source_s_where_it_has_one():
    """A CT slice gives position, orientation, spacing and Frame of Reference, outside a derived one; a radiograph none."""
    for identity in IDENTITIES:
        base = of_clean(pydicom_file("CT_small.dcm"), identity)
        source, ds = base.image.dataset, read(seg.build(base))
        plane = ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
        assert np.allclose([*map(float, plane.ImagePositionPatient)], [*map(float, source.ImagePositionPatient)])
        shared = ds.SharedFunctionalGroupsSequence[0]
        assert shared.PixelMeasuresSequence[0].PixelSpacing == source.PixelSpacing
        kept = str(source.FrameOfReferenceUID)
        assert ds.FrameOfReferenceUID == (kept if identity == "kept" else outside_uid(NODE.key, kept))
    radiograph = read(seg.build(of_clean(marked_dx())))
    assert "FrameOfReferenceUID" not in radiograph
    assert "PlanePositionSequence" not in radiograph.PerFrameFunctionalGroupsSequence[0]
    shared = of_clean(pydicom_file("liver_1frame.dcm"))
    assert set(geometry.of_frame(shared)) >= {"ImagePositionPatient", "PixelSpacing", "FrameOfReferenceUID"}


def redacted(image: Image, regions: tuple[Region, ...], *, strict: bool = True, released: bool = False) -> Redacted:
    """The image's own pixels with these regions blanked."""
    return Redacted(image, regions, "m", (0.0,), strict=strict, released=released, means=MEANS)


def test_a_mask_for_outside_is_cut_where_redaction_blanks():
    """A mask may trace letters: outside none of it is left where they were, inside, where they are known, it is whole."""
    whole = a_map(np.ones((2, 2)), Placement(0, 0, 96, 64))
    region = Region(0, 8, 16, 24, 20, "header-match")
    for identity in IDENTITIES:
        base = of_clean(marked_dx(), identity, findings=(Findings((LESION,), "m", "1", "", (whole,)),))
        coded = dataclasses.replace(base.coded, redacted=redacted(base.image, (region,)))
        (frame,) = segments(seg.build(dataclasses.replace(base, coded=coded)))
        assert frame[16:36, 8:32].any() == (identity == "kept")
        frame[16:36, 8:32] = True
        assert frame.all()


def test_outside_wants_pixels_that_somebody_vouches_for():
    """No mask leaves for outside without redaction, or with one of header mode that nobody released."""
    base = of_clean(marked_dx(), "removed")
    with pytest.raises(StageFailed):
        seg.build(dataclasses.replace(base, coded=None))
    loose = dataclasses.replace(base.coded, redacted=redacted(base.image, (), strict=False))
    for build in (seg.build, sc_map.build):
        with pytest.raises(RedactionUncertain):
            build(dataclasses.replace(base, coded=loose))
    assert seg.build(dataclasses.replace(base, identity="kept", coded=None)).identity == "kept"


# -- through the pipeline
def work(kinds, destinations, found, **more):
    """Process the marked radiograph with these findings."""
    stream = BytesIO(spooled(marked_dx()))
    instance = header(stream, instance_id="x", location="x", node_id=NODE.node_id)
    maps = {"chest-findings": frozenset(one.kind for each in found for one in each.maps)}
    kit = fakes.kit(fakes.route(kinds, destinations), infer=lambda *_: found, maps=maps, **more)
    return process(instance, stream, kit)


def test_the_pipeline_makes_what_there_are_maps_for():
    """Heat alone gives a capture, masks a segmentation too, nothing at all neither; an output that is not made is not held."""
    kinds = ("sr", "sc-map", "seg")
    heat, masks = mapped(96, 64)
    for found, made in (((heat, masks), kinds), ((heat,), kinds[:2]), (FINDINGS, kinds[:1]), ((), kinds[:1])):
        result = work(kinds, ("pacs", "partner"), found)
        assert {(one.kind, one.identity) for one in result.outputs} == {(k, i) for k in made for i in IDENTITIES}
        assert result.held == ()


def test_what_redaction_cannot_vouch_for_holds_shapes_for_outside_alone():
    """The segmentation for inside leaves, as a report does."""
    result = work(("sr", "sc-map", "seg"), ("pacs", "partner"), mapped(96, 64), redact=fakes.raising(RedactionUncertain("x")))
    assert {(one.kind, one.identity) for one in result.outputs} == {("sr", "kept"), ("sr", "removed"), ("seg", "kept")}
    assert {(one.kind, one.destinations) for one in result.held} == {
        ("sc-map", ("pacs",)), ("sc-map", ("partner",)), ("seg", ("partner",)),
    }


def test_a_model_that_failed_holds_what_it_would_have_shown():
    """Capture and segmentation with the report; where no model says where, there is nothing to hold."""
    for found, held in ((mapped(96, 64), {"sr", "sc-map", "seg"}), (FINDINGS, {"sr"})):
        maps = {"chest-findings": frozenset(one.kind for each in found for one in each.maps)}
        kit = fakes.kit(fakes.route(("sr", "sc-map", "seg")), infer=fakes.raising(StageFailed("x")), maps=maps)
        stream = BytesIO(spooled(marked_dx()))
        result = process(header(stream, instance_id="x", location="x", node_id=NODE.node_id), stream, kit)
        assert {one.kind for one in result.held} == held
        assert result.outputs == ()


def test_own_segmentations_are_known_when_they_come_back():
    """By maker and serial number, as every result."""
    data = written(seg.build(of_clean(marked_dx())))
    assert header(BytesIO(data), instance_id="x", location="x", node_id=NODE.node_id).own_result

"""The route stage: who decides the body part, and which rule wins."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom import config, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset

from dicomnode.errors import BadRule, StageFailed, Undecodable, UnsupportedTransferSyntax
from dicomnode.image import Image
from dicomnode.records import BODY_PARTS, Instance
from dicomnode.settings import Routes, Rule
from dicomnode.stages.body_part import age_years, from_header
from dicomnode.stages.look import look
from dicomnode.stages.route import RouteStage

INSTANCE = Instance(
    instance_id="x", sop_class_uid="1.2", sop_instance_uid="1.2.3", series_instance_uid="1.2.4", study_instance_uid="1.2.5",
    transfer_syntax_uid="1.2.840.10008.1.2.1", modality="DX", calling_ae="ROOM1", called_ae="DICOMNODE", address="127.0.0.1",
    received_at=datetime(2031, 1, 1, tzinfo=UTC), location="x", size_bytes=1, sha256="ab",
)
REST = Rule(name="rest")
CHILD = {"pediatric_chest": 0.9, "adult_chest": 0.05, "abdomen": 0.02, "spine": 0.02, "other": 0.01}


def header(**elements):
    """A data set with these elements, valid or not."""
    ds = Dataset()
    with config.disable_value_validation():
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
    return ds


def image(ds=None, *, has_pixels=True):
    """What the stage asks of an `Image`."""
    return SimpleNamespace(dataset=ds if ds is not None else header(), has_pixels=has_pixels)


def stage(*rules, answer=CHILD, look=lambda _image: np.zeros((4, 4), np.float32), **routes):
    """A stage with these rules and one that matches all."""
    return RouteStage(Routes(rule=(*rules, REST), **routes), lambda _frame: answer, look)


def instance(**changes):
    """The instance, changed."""
    return dataclasses.replace(INSTANCE, **changes)


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "OT", "SC"])
def test_picture_decides_for_projections(modality):
    """For the modalities of the setting the classifier decides, whatever the header says."""
    route = stage()(instance(modality=modality), image(header(BodyPartExamined="ABDOMEN")))
    assert (route.body_part, route.probability, route.source) == ("pediatric_chest", 0.9, "model")
    assert route.probabilities == CHILD


@pytest.mark.parametrize(
    ("modality", "ds", "has_pixels"),
    [
        ("CT", header(BodyPartExamined="ABDOMEN"), True),
        ("DX", header(BodyPartExamined="ABDOMEN", PresentationIntentType="FOR PROCESSING"), True),
        ("DX", header(BodyPartExamined="ABDOMEN"), False),
        ("", header(BodyPartExamined="ABDOMEN"), True),
    ],
    ids=["modality", "for-processing", "no-pixels", "no-modality"],
)
def test_header_decides_otherwise(modality, ds, has_pixels):
    """The classifier is not even asked about other modalities, raw detector data and objects without pixels."""

    def look(_image):
        raise AssertionError

    route = stage(look=look)(instance(modality=modality), image(ds, has_pixels=has_pixels))
    assert (route.body_part, route.probability, route.source, route.probabilities) == ("abdomen", 1.0, "header", {})


@pytest.mark.parametrize("error", [Undecodable, UnsupportedTransferSyntax])
def test_undecodable_pixels_leave_it_to_the_header(error):
    """Pixels that do not decode stop no route: other outputs may still leave, redaction will hold the pixels."""

    def look(_image):
        raise error

    route = stage(look=look)(INSTANCE, image(header(BodyPartExamined="LSPINE")))
    assert (route.body_part, route.source) == ("spine", "header")


def test_too_little_probability_is_uncertain():
    """Below the setting the best guess is not used, its probability is told."""
    answer = {"abdomen": 0.49, "spine": 0.48, "other": 0.03}
    route = stage(answer=answer, min_probability=0.5)(INSTANCE, image())
    assert (route.body_part, route.probability, route.source) == ("uncertain", 0.49, "model")
    assert stage(answer=answer, min_probability=0.49)(INSTANCE, image()).body_part == "abdomen"


@pytest.mark.parametrize(
    "answer", [{}, {"knee": 1.0}, {"spine": float("nan")}, {"spine": 1.5}, {"spine": -0.1}], ids=str,
)
def test_nonsense_of_the_classifier_fails(answer):
    """What is no probability of a body part becomes an error and not a route."""
    with pytest.raises(StageFailed):
        stage(answer=answer)(INSTANCE, image())


@pytest.mark.parametrize(
    ("conditions", "changes", "wins"),
    [
        ({"modality": ("DX", "CR")}, {}, True),
        ({"modality": ("CT",)}, {}, False),
        ({"body_part": ("pediatric_chest",)}, {}, True),
        ({"body_part": ("adult_chest", "uncertain")}, {}, False),
        ({"calling_ae": ("ROOM1",)}, {}, True),
        ({"calling_ae": ("room1",)}, {}, False),
        ({"modality": ("DX",), "body_part": ("pediatric_chest",), "calling_ae": ("ROOM1",)}, {}, True),
        ({"modality": ("DX",), "body_part": ("pediatric_chest",), "calling_ae": ("ROOM2",)}, {}, False),
        ({"calling_ae": ("ROOM1",)}, {"calling_ae": ""}, False),
    ],
)
def test_a_rule_wins_when_every_condition_holds(conditions, changes, wins):
    """All given conditions must hold; an AE title is compared as it is."""
    rule = Rule(name="first", models=("m",), outputs=("sr",), destinations=("pacs",), **conditions)
    route = stage(rule)(instance(**changes), image())
    assert route.rule == ("first" if wins else "rest")
    assert (route.models, route.outputs, route.destinations) == ((("m",), ("sr",), ("pacs",)) if wins else ((), (), ()))


@pytest.mark.parametrize(("part", "asked"), [
    ("pediatric_chest", ("chest", "all")), ("spine", ("spine", "all")), ("other", ("all",)),
    ("uncertain", ("chest", "spine", "all")),
])
def test_those_models_are_asked_whose_card_names_the_body_part(part, asked):
    """Of several models of a rule; where nobody knows the body part all of them are."""
    rule = Rule(name="first", models=("chest", "spine", "all"), outputs=("sr",), destinations=("pacs",))
    answer = {part: 0.9} if part != "uncertain" else {"spine": 0.1}
    parts = {"chest": ("pediatric_chest", "adult_chest"), "spine": ("spine",)}
    look_at = lambda _image: np.zeros((4, 4), np.float32)  # noqa: E731
    chosen = RouteStage(Routes(rule=(rule,)), lambda _frame: answer, look_at, parts=parts)
    assert chosen(INSTANCE, image()).models == asked


def test_first_match_wins():
    """Of two rules that fit the first one is taken."""
    assert stage(Rule(name="one", modality=("DX",)), Rule(name="two", modality=("DX",)))(INSTANCE, image()).rule == "one"


def test_last_rule_must_match_all():
    """A stage that could leave an instance without a rule is not built."""
    with pytest.raises(BadRule):
        RouteStage(Routes(rule=(Rule(name="only", modality=("DX",)),)), lambda _f: CHILD, lambda _i: np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("elements", "part"),
    [
        ({"BodyPartExamined": "ABDOMEN"}, "abdomen"),
        ({"BodyPartExamined": "ABDOMENPELVIS"}, "abdomen"),
        ({"BodyPartExamined": "CHEST", "PatientAge": "007Y"}, "pediatric_chest"),
        ({"BodyPartExamined": "CHEST", "PatientAge": "014Y"}, "pediatric_chest"),
        ({"BodyPartExamined": "CHEST", "PatientAge": "015Y"}, "adult_chest"),
        ({"BodyPartExamined": "CHEST", "PatientAge": "011M"}, "pediatric_chest"),
        ({"BodyPartExamined": "CHEST", "PatientBirthDate": "20000301", "StudyDate": "20150228"}, "pediatric_chest"),
        ({"BodyPartExamined": "CHEST", "PatientBirthDate": "19500301", "StudyDate": "20150228"}, "adult_chest"),
        ({"BodyPartExamined": "CHEST"}, "uncertain"),
        ({"BodyPartExamined": "CHEST", "PatientAge": "old"}, "uncertain"),
        ({"BodyPartExamined": "CHEST", "PatientBirthDate": "20200101", "StudyDate": "20100101"}, "uncertain"),
        ({"BodyPartExamined": "TSPINE"}, "spine"),
        ({"BodyPartExamined": "KNEE"}, "other"),
        ({"BodyPartExamined": "CHESTABDOMEN", "PatientAge": "050Y"}, "uncertain"),
        ({"BodyPartExamined": "GIBBERISH", "StudyDescription": "CT abdomen and pelvis"}, "abdomen"),
        ({"SeriesDescription": "Chest/Abdomen", "PatientAge": "050Y"}, "uncertain"),
        ({"SeriesDescription": "LWS seitlich"}, "spine"),
        ({"StudyDescription": "Rx tórax", "PatientAge": "050Y"}, "adult_chest"),
        ({"StudyDescription": "Schädel"}, "other"),
        ({"SeriesDescription": "t2_tse_sag"}, "uncertain"),
        ({}, "uncertain"),
    ],
    ids=str,
)
def test_body_part_of_the_header(elements, part):
    """The first text that names a region decides; two regions, or a chest of unknown age, are uncertain."""
    assert part == from_header(header(**elements))


def test_anatomic_region_counts():
    """Anatomic Region Sequence is read when Body Part Examined is silent."""
    assert from_header(header(AnatomicRegionSequence=[header(CodeMeaning="Lumbar spine")])) == "spine"


def test_header_answers_from_the_closed_set():
    """No word of the header becomes a body part."""
    for text in ("CHEST", "; DROP TABLE", "Müller", "abdomen", "\\", "spine\nother"):
        assert from_header(header(StudyDescription=text)) in {*BODY_PARTS, "uncertain"}


def test_age_units():
    """Days, weeks, months and years are told apart."""
    ages = [age_years(header(PatientAge=age)) for age in ("365D", "052W", "012M", "001Y")]
    assert [round(age) for age in ages] == [1, 1, 1, 1]
    assert age_years(header()) is None


def test_an_odd_element_does_not_keep_an_instance_from_its_route():
    """A sequence stored as text names no region and raises nothing."""
    ds = header(BodyPartExamined="")
    ds.add(DataElement(0x00082218, "LO", "CHEST"))
    assert from_header(ds) == "uncertain"


def test_values_that_make_no_picture_leave_it_to_the_header():
    """A frame of values that are not finite is no picture: the header decides."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.BodyPartExamined = "1.2.840.10008.5.1.4.1.1.30", "1.2.3", "ABDOMEN"
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.BitsAllocated = 1, "MONOCHROME2", 32
    ds.add(DataElement(0x7FE00008, "OF", np.full((8, 8), np.nan, np.float32).tobytes()))
    stream = BytesIO()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dcmwrite(stream, ds, enforce_file_format=True)
    route = stage(look=look)(instance(), Image.open(stream))
    assert (route.body_part, route.source) == ("abdomen", "header")

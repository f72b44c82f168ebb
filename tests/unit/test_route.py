"""The route stage: who decides the body part, and which rule wins."""

from __future__ import annotations

import dataclasses
import re
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
from dicomnode.rules import Routes, Rule
from dicomnode.stages.body_part import age_years, from_header
from dicomnode.stages.look import look
from dicomnode.stages.preprocess import to_unit
from dicomnode.stages.route import RouteStage

DX = "1.2.840.10008.5.1.4.1.1.1.1"
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


#: A frame that shows something.
FRAME = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))


def image(ds=None, *, has_pixels=True, side=64):
    """What the stage asks of an `Image`."""
    return SimpleNamespace(dataset=ds if ds is not None else header(), has_pixels=has_pixels, rows=side, columns=side)


def stage(*rules, answer=CHILD, look=lambda _image: FRAME, rest=REST, labels=BODY_PARTS, key=b"", certain_from=None, **routes):
    """A stage with these rules and one that matches all."""
    return RouteStage(
        Routes(rule=(*rules, rest), **routes), lambda _frame: answer, look, labels=labels, key=key, certain_from=certain_from,
    )


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
    ("modality", "has_pixels"), [("CT", True), ("", True), ("DX", False)], ids=["modality", "no-modality", "no-image"],
)
def test_header_decides_otherwise(modality, has_pixels):
    """The classifier is not even asked about other modalities, and objects that are no images."""

    def look(_image):
        raise AssertionError

    route = stage(look=look)(instance(modality=modality), image(header(BodyPartExamined="ABDOMEN"), has_pixels=has_pixels))
    assert (route.body_part, route.probability, route.source, route.probabilities) == ("abdomen", 1.0, "header", {})
    assert (route.picture, route.agreement, route.doubt) == ("", "", "")


def test_a_header_that_says_nothing_is_uncertain():
    """Where the header is to decide and names no region, the reason is the header's."""
    route = stage()(instance(modality="CT"), image())
    assert (route.body_part, route.doubt, route.probability) == ("uncertain", "header_unclear", 0.0)


# -- pictures that cannot be judged
def raises(error):
    """A look that fails."""

    def look(_image):
        raise error

    return look


NOISE = np.random.default_rng(7)
UNJUDGED = {
    "low_probability": {"answer": {"spine": 0.49, "other": 0.48}},
    "undecodable": {"look": raises(Undecodable)},
    "unsupported": {"look": raises(UnsupportedTransferSyntax)},
    "not-finite": {"look": raises(StageFailed)},
    "constant": {"look": lambda _image: np.zeros((300, 200), np.float32)},
    "white": {"look": lambda _image: np.ones((300, 200), np.float32)},
    "mark-on-even-ground": {"look": lambda _image: np.pad(np.ones((6, 9), np.float32), 150)},
    "noise": {"look": lambda _image: to_unit(NOISE.normal(1000, 1, (400, 500)))},
    "two-values": {"look": lambda _image: to_unit(NOISE.integers(100, 102, (2000, 1500)))},
    "too_small": {"side": 31},
    "for_processing": {"ds": header(PresentationIntentType="FOR PROCESSING ")},
    "no_pixels": {"has_pixels": False},
}
DOUBTS = {
    "unsupported": "undecodable", "not-finite": "undecodable", "white": "constant", "mark-on-even-ground": "constant",
    "noise": "constant", "two-values": "constant",
}


@pytest.mark.parametrize("case", UNJUDGED)
def test_a_picture_that_cannot_be_judged_is_uncertain_and_says_why(case):
    """Whatever the header says, and with the probability of the best guess."""
    given = dict(UNJUDGED[case])
    ds = given.pop("ds", header())
    ds.BodyPartExamined = "ABDOMEN"
    of_image = {name: given.pop(name) for name in ("side", "has_pixels") if name in given}
    one = instance(sop_class_uid=DX)
    route = stage(**given)(one, image(ds, **of_image))
    assert (route.body_part, route.doubt, route.picture) == ("uncertain", DOUBTS.get(case, case), "uncertain")
    assert (route.agreement, route.tag, route.hold) == ("", "abdomen", "")
    assert route.probability == (0.49 if case == "low_probability" else 0.0)


@pytest.mark.parametrize(
    "frame",
    [
        FRAME, 1 - FRAME, np.pad(FRAME, 100),
        to_unit(NOISE.normal(0, 300, (500, 500)) + 4000 * np.exp(-np.hypot(*np.mgrid[-2:2:500j, -2:2:500j]))),
    ],
    ids=["ramp", "turned", "padded", "noisy"],
)
def test_a_picture_with_a_form_is_judged(frame):
    """Padding, polarity and noise make no picture even."""
    assert stage(look=lambda _image: frame)(INSTANCE, image()).doubt == ""


@pytest.mark.parametrize(
    ("routes", "card", "threshold"), [(None, None, 0.5), (None, 0.7, 0.7), (0.6, 0.7, 0.6), (0.8, None, 0.8), (0.0, 0.7, 0.0)],
)
def test_the_threshold_is_the_settings_or_the_cards(routes, card, threshold):
    """routes.toml overrides the card; where neither says, it is one half."""
    for probability in (threshold, max(0.0, threshold - 0.01)):
        answer = {"spine": probability, "other": max(0.0, probability - 0.2)}
        route = stage(answer=answer, certain_from=card, min_probability=routes)(INSTANCE, image())
        assert route.body_part == ("spine" if probability >= threshold else "uncertain")


def test_a_router_that_calls_nothing_probable_is_uncertain():
    """One against the rest: every label may be improbable."""
    route = stage(answer=dict.fromkeys(BODY_PARTS, 0.1), certain_from=0.4)(INSTANCE, image())
    assert (route.body_part, route.doubt, route.probability) == ("uncertain", "low_probability", 0.1)


# -- what a rule says of uncertain body parts
SENT = {"outputs": ("sr",), "destinations": ("pacs",)}
LOW = {"pediatric_chest": 0.4, "abdomen": 0.3, "spine": 0.3}
MODELS = (
    Rule(name="child", modality=("DX",), body_part=("pediatric_chest",), models=("pneumonia",), **SENT),
    Rule(name="spine", body_part=("spine",), models=("fracture", "pneumonia"), **SENT),
    Rule(name="ct", modality=("CT",), models=("nodule",), **SENT),
    Rule(name="elsewhere", calling_ae=("ROOM2",), models=("hip",), **SENT),
)


def unsure(**more):
    """A rule for what is uncertain."""
    return Rule(name="unsure", body_part=("uncertain",), models=("general",), **SENT, **more)


@pytest.mark.parametrize("where", ["rule", "routes"])
@pytest.mark.parametrize(
    ("handling", "tag", "rule", "part", "source", "models", "hold"),
    [
        ("default", "LSPINE", "unsure", "uncertain", "model", ("general",), ""),
        ("hold", "LSPINE", "unsure", "uncertain", "model", ("general",), "body_part_uncertain"),
        ("all", "LSPINE", "unsure", "uncertain", "model", ("general", "pneumonia", "fracture"), ""),
        ("tag", "LSPINE", "spine", "spine", "header", ("fracture", "pneumonia"), ""),
        ("tag", "CHEST", "unsure", "uncertain", "model", ("general",), ""),
        ("tag", "CHESTABDOMEN", "unsure", "uncertain", "model", ("general",), ""),
        ("tag", "", "unsure", "uncertain", "model", ("general",), ""),
        ("tag", "UNKNOWN", "unsure", "uncertain", "model", ("general",), ""),
    ],
)
def test_uncertain_is_handled_as_the_rule_says(where, handling, tag, rule, part, source, models, hold):
    """On the rule that takes it, or for all rules; a description beside the attribute changes nothing."""
    last = unsure(uncertain=handling) if where == "rule" else unsure()
    routes = {} if where == "rule" else {"uncertain": handling}
    ds = header(BodyPartExamined=tag, SeriesDescription="Abdomen")
    route = stage(*MODELS, last, answer=LOW, **routes)(INSTANCE, image(ds))
    assert (route.rule, route.body_part, route.source, route.models, route.hold) == (rule, part, source, models, hold)
    assert (route.doubt, route.handling) == ("low_probability", handling)


def test_the_rule_goes_before_all_rules():
    """What the rule says of uncertain body parts overrides what stands for all."""
    route = stage(unsure(uncertain="default"), answer=LOW, uncertain="hold")(INSTANCE, image())
    assert (route.handling, route.hold) == ("default", "")


def test_without_a_rule_for_it_the_last_rule_takes_what_is_uncertain():
    """And goes by what stands for all rules."""
    route = stage(*MODELS, answer=LOW, uncertain="hold")(INSTANCE, image())
    assert (route.rule, route.hold) == ("rest", "body_part_uncertain")


def test_certain_body_parts_are_not_handled():
    """The policy is for what is uncertain alone."""
    route = stage(*MODELS, uncertain="hold")(INSTANCE, image())
    assert (route.rule, route.hold, route.handling) == ("child", "", "")


# -- Body Part Examined against the picture
SPINE = {"spine": 0.9, "other": 0.1}
FIRST = {"name": "first", "body_part": ("spine",), "models": ("fracture",), "outputs": ("sr",), "destinations": ("pacs",)}
OF_TAG = Rule(name="of-tag", body_part=("abdomen",))
AGREEING = {
    "agrees": {"BodyPartExamined": "LSPINE"}, "disagrees": {"BodyPartExamined": "ABDOMEN"},
    "absent": {"BodyPartExamined": "UNKNOWN", "SeriesDescription": "Abdomen"},
    "not_comparable": {"BodyPartExamined": "CHESTABDOMEN"},
}


@pytest.mark.parametrize("where", ["rule", "routes"])
@pytest.mark.parametrize(
    ("trust", "agreement", "rule", "part", "source", "doubt", "hold"),
    [
        ("picture", "agrees", "first", "spine", "model", "", ""),
        ("picture", "disagrees", "first", "spine", "model", "", ""),
        ("picture", "absent", "first", "spine", "model", "", ""),
        ("picture", "not_comparable", "first", "spine", "model", "", ""),
        ("tag", "agrees", "first", "spine", "header", "", ""),
        ("tag", "disagrees", "of-tag", "abdomen", "header", "", ""),
        ("tag", "absent", "first", "spine", "model", "", ""),
        ("tag", "not_comparable", "first", "spine", "model", "", ""),
        ("both", "agrees", "first", "spine", "model", "", ""),
        ("both", "disagrees", "unsure", "uncertain", "model", "tag_disagrees", ""),
        ("both", "absent", "first", "spine", "model", "", ""),
        ("both", "not_comparable", "first", "spine", "model", "", ""),
        ("hold", "agrees", "first", "spine", "model", "", ""),
        ("hold", "disagrees", "first", "spine", "model", "", "tag_disagrees"),
        ("hold", "absent", "first", "spine", "model", "", ""),
        ("hold", "not_comparable", "first", "spine", "model", "", ""),
    ],
)
def test_what_a_rule_trusts(where, trust, agreement, rule, part, source, doubt, hold):
    """Each policy against each agreement of a picture that is certain; a description is no tag."""
    own = {"trust": trust} if where == "rule" else {}
    of_tag = OF_TAG.model_copy(update=own)
    rules = (Rule(**FIRST, **own), of_tag, unsure())
    route = stage(*rules, answer=SPINE, **({} if where == "rule" else {"trust": trust}))(
        INSTANCE, image(header(**AGREEING[agreement])),
    )
    assert (route.rule, route.body_part, route.source, route.doubt, route.hold) == (rule, part, source, doubt, hold)
    assert (route.agreement, route.picture, route.picture_probability, route.trust) == (
        agreement, "spine", 0.9, "picture" if (where, rule) == ("rule", "unsure") else trust,
    )


@pytest.mark.parametrize(
    ("handling", "rule", "part", "hold", "models"),
    [
        ("default", "unsure", "uncertain", "", ("general",)),
        ("hold", "unsure", "uncertain", "body_part_uncertain", ("general",)),
        ("all", "unsure", "uncertain", "", ("general", "fracture")),
        ("tag", "of-tag", "abdomen", "", ()),
    ],
)
def test_both_that_disagree_are_handled_as_uncertain(handling, rule, part, hold, models):
    """Every policy of uncertain body parts works for a disagreement too."""
    rules = (Rule(**FIRST, trust="both"), OF_TAG, unsure(uncertain=handling))
    route = stage(*rules, answer=SPINE)(INSTANCE, image(header(BodyPartExamined="ABDOMEN")))
    assert (route.rule, route.body_part, route.hold, route.models) == (rule, part, hold, models)
    assert (route.doubt, route.agreement) == ("tag_disagrees", "disagrees")


@pytest.mark.parametrize("trust", ["picture", "tag", "both", "hold"])
def test_a_picture_that_is_uncertain_disagrees_with_nothing(trust):
    """There is nothing to compare: what is done says the policy of uncertain body parts, whatever is trusted."""
    ds = header(BodyPartExamined="ABDOMEN")
    route = stage(*MODELS, OF_TAG, unsure(), answer=LOW, trust=trust)(INSTANCE, image(ds))
    assert (route.rule, route.agreement, route.hold) == ("unsure", "", "")
    held = stage(*MODELS, OF_TAG, unsure(), answer=LOW, trust=trust, uncertain="hold")(INSTANCE, image(ds))
    assert (held.rule, held.hold) == ("unsure", "body_part_uncertain")
    by_tag = stage(*MODELS, OF_TAG, unsure(), answer=LOW, trust=trust, uncertain="tag")(INSTANCE, image(ds))
    assert (by_tag.rule, by_tag.source, by_tag.doubt) == ("of-tag", "header", "low_probability")


def test_a_chest_of_unknown_age_against_another_region():
    """Who trusts the tag knows that it is a chest, and not whose."""
    ds = header(BodyPartExamined="CHEST")
    route = stage(answer=SPINE, trust="tag")(INSTANCE, image(ds))
    assert (route.body_part, route.doubt, route.agreement) == ("uncertain", "header_unclear", "disagrees")
    assert stage(trust="tag")(INSTANCE, image(ds)).body_part == "pediatric_chest"


SITE = ("hand", "knee", "spine", "chest", "left_foot")


@pytest.mark.parametrize(
    ("labels", "elements", "picture", "tag", "agreement"),
    [
        (BODY_PARTS, {"BodyPartExamined": "CHEST"}, "adult_chest", "chest", "agrees"),
        (BODY_PARTS, {"BodyPartExamined": "CHEST"}, "pediatric_chest", "chest", "agrees"),
        (BODY_PARTS, {"BodyPartExamined": "CHEST"}, "abdomen", "chest", "disagrees"),
        (BODY_PARTS, {"BodyPartExamined": "CHEST", "PatientAge": "007Y"}, "pediatric_chest", "pediatric_chest", "agrees"),
        (BODY_PARTS, {"BodyPartExamined": "CHEST", "PatientAge": "007Y"}, "adult_chest", "pediatric_chest", "disagrees"),
        (BODY_PARTS, {"BodyPartExamined": "thorax "}, "adult_chest", "chest", "agrees"),
        (BODY_PARTS, {"BodyPartExamined": "HAND"}, "other", "other", "agrees"),
        (BODY_PARTS, {"BodyPartExamined": "HAND"}, "spine", "other", "disagrees"),
        (BODY_PARTS, {"BodyPartExamined": ""}, "spine", "absent", "absent"),
        (BODY_PARTS, {}, "spine", "absent", "absent"),
        (BODY_PARTS, {"BodyPartExamined": "XYZ"}, "spine", "absent", "absent"),
        (BODY_PARTS, {"BodyPartExamined": ["LSPINE", "ABDOMEN"]}, "spine", "several", "not_comparable"),
        (BODY_PARTS, {"StudyDescription": "Abdomen", "ProtocolName": "Abdomen"}, "spine", "absent", "absent"),
        (SITE, {"BodyPartExamined": "HAND"}, "hand", "hand", "agrees"),
        (SITE, {"BodyPartExamined": "HAND"}, "knee", "hand", "disagrees"),
        (SITE, {"BodyPartExamined": "Left Foot"}, "left_foot", "left_foot", "agrees"),
        (SITE, {"BodyPartExamined": "SKULL"}, "hand", "other", "not_comparable"),
        (SITE, {"BodyPartExamined": "SKULL"}, "spine", "other", "disagrees"),
        (SITE, {"BodyPartExamined": "LSPINE"}, "hand", "spine", "disagrees"),
        (SITE, {"BodyPartExamined": "ABDOMEN"}, "hand", "abdomen", "not_comparable"),
        (SITE, {"BodyPartExamined": "CHEST", "PatientAge": "007Y"}, "chest", "chest", "agrees"),
        (SITE, {"BodyPartExamined": "THORAX", "PatientAge": "050Y"}, "chest", "chest", "agrees"),
        (SITE, {"BodyPartExamined": "THORAX"}, "hand", "chest", "disagrees"),
    ],
)
def test_the_tag_alone_is_compared(labels, elements, picture, tag, agreement):
    """One attribute and the age, with the words of the router; what names nothing is absent, not wrong."""
    route = stage(answer={picture: 1.0}, labels=labels)(INSTANCE, image(header(**elements)))
    assert (route.tag, route.agreement) == (tag, agreement)


def test_the_device_is_a_token():
    """The same device has the same token whatever it images, another one another; none without a key or a name."""
    one = {"Manufacturer": "Zzmaker", "ManufacturerModelName": "M1", "StationName": "ROOM 7", "DeviceSerialNumber": "0815"}
    keyed = stage(key=b"k" * 32)
    tokens = [keyed(INSTANCE, image(header(**elements))).device for elements in (
        one, {**one, "Manufacturer": " zzmaker", "PatientName": "Doe"}, {**one, "StationName": "ROOM 8"}, {},
    )]
    assert re.fullmatch(r"dev-[0-9a-f]{12}", tokens[0])
    assert (tokens[1] == tokens[0], tokens[2] == tokens[0], tokens[3]) == (True, False, "")
    assert stage()(INSTANCE, image(header(**one))).device == ""
    assert stage(key=b"x" * 32)(INSTANCE, image(header(**one))).device != tokens[0]


@pytest.mark.parametrize(
    "answer", [{}, {"spine": float("nan")}, {"spine": 1.5}, {"spine": -0.1}], ids=str,
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
    chosen = RouteStage(Routes(rule=(rule,)), lambda _frame: answer, lambda _image: FRAME, parts=parts)
    assert chosen(INSTANCE, image()).models == asked


def test_first_match_wins():
    """Of two rules that fit the first one is taken."""
    assert stage(Rule(name="one", modality=("DX",)), Rule(name="two", modality=("DX",)))(INSTANCE, image()).rule == "one"


def test_last_rule_must_match_all():
    """A stage that could leave an instance without a rule is not built."""
    with pytest.raises(BadRule):
        RouteStage(Routes(rule=(Rule(name="only", modality=("DX",)),)), lambda _f: CHILD, lambda _i: FRAME)


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


def test_values_that_make_no_picture_are_uncertain():
    """A frame of values that are not finite is no picture."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.BodyPartExamined = "1.2.840.10008.5.1.4.1.1.30", "1.2.3", "ABDOMEN"
    ds.Rows = ds.Columns = 64
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.BitsAllocated = 1, "MONOCHROME2", 32
    ds.add(DataElement(0x7FE00008, "OF", np.full((64, 64), np.nan, np.float32).tobytes()))
    stream = BytesIO()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dcmwrite(stream, ds, enforce_file_format=True)
    route = stage(look=look)(instance(), Image.open(stream))
    assert (route.body_part, route.doubt) == ("uncertain", "undecodable")

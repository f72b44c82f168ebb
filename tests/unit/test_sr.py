"""Structured reports: what they say, whose they are, and that they repeat."""

from __future__ import annotations

import dataclasses
from io import BytesIO

import highdicom as hd
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicomnode import uids
from dicomnode.errors import StageFailed
from dicomnode.outputs import deidentified, reference, result_uid, sc, sr, words
from dicomnode.records import Findings
from dicomnode.stages.encode import Encode
from tests.unit.materials import (
    CHARSETS,
    CHEST,
    FINDINGS,
    NODE,
    PNEUMONIA,
    SPINE,
    UNSURE,
    clean,
    marked_dx,
    material,
    pydicom_file,
    read,
    traces,
    written,
)

TID1500 = ["comprehensive-3d", "comprehensive", "enhanced"]


def items(root: Dataset, value: str) -> list[Dataset]:
    """All content items below ``root`` whose concept has this code value."""
    found = []
    for item in root.get("ContentSequence", []):
        if "ConceptNameCodeSequence" in item and item.ConceptNameCodeSequence[0].CodeValue == value:
            found.append(item)
        found += items(item, value)
    return found


@pytest.mark.parametrize("identity", ["kept", "removed"])
@pytest.mark.parametrize("sr_class", sorted(sr.CLASSES))
def test_repeats(sr_class, identity):
    """The same material gives the same bytes, whenever it is worked."""
    first, second = (sr.build(material(marked_dx("latin-1"), identity, sr_class=sr_class)) for _ in range(2))
    assert written(first) == written(second)
    assert first.sop_instance_uid == read(first).SOPInstanceUID == read(first).file_meta.MediaStorageSOPInstanceUID


@pytest.mark.parametrize("sr_class", sorted(sr.CLASSES))
def test_class_is_the_one_asked_for(sr_class):
    """The SOP Class is what the destination takes, in file, data set and record."""
    output = sr.build(material(marked_dx(), sr_class=sr_class))
    assert sr.CLASSES[sr_class] == output.sop_class_uid == read(output).SOPClassUID


@pytest.mark.parametrize("sr_class", TID1500)
def test_highdicom_reads_the_report_back(sr_class):
    """highdicom, which knows TID 1500, finds the finding, its site, its certainty and the source image."""
    report = hd.sr.srread(BytesIO(written(sr.build(material(marked_dx(), sr_class=sr_class)))))
    groups = report.content.get_image_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["body part", "finding 1"]
    body_part, finding = groups
    assert body_part.get_qualitative_evaluations(codes.DCM.TargetRegion)[0].value.value == "pediatric_chest"
    assert finding.finding_type.value == "233604007"
    assert [site.topographical_modifier for site in finding.finding_sites] == [None]
    assert finding.finding_sites[0].value.meaning == "Chest"
    assert [m.value for m in finding.get_measurements(codes.DCM.CertaintyOfFinding)] == [96.8]
    assert [image.referenced_sop_instance_uid for image in finding.source_images] == ["1.2.826.0.1.3680043.9.99.1"]


def test_algorithm_is_identified():
    """Each group names its algorithm with version and digest (TID 4019)."""
    ds = read(sr.build(material(marked_dx())))
    assert [i.TextValue for i in items(ds, "111001")] == ["dicomnode router", "chest-findings"]
    assert [i.TextValue for i in items(ds, "111003")] == [NODE.version, "1.0"]
    assert f"model sha256={'ab' * 32}" in [i.TextValue for i in items(ds, "111002")]


def test_the_router_is_named_with_a_version_of_its_own():
    """Another version of the classifier is another algorithm, whatever the version of the node."""
    routed = dataclasses.replace(CHEST, router="bodypart-router", router_version="7.1.0")
    ds = read(sr.build(dataclasses.replace(material(marked_dx()), route=routed)))
    assert [i.TextValue for i in items(ds, "111001")] == ["bodypart-router", "chest-findings"]
    assert [i.TextValue for i in items(ds, "111003")] == ["7.1.0", "1.0"]


@pytest.mark.parametrize("sr_class", sorted(sr.CLASSES))
@pytest.mark.parametrize("identity", ["kept", "removed"])
def test_says_that_it_is_no_diagnosis(sr_class, identity):
    """Every report says so in a sentence, in its series and in its qualification, and is not verified."""
    ds = read(sr.build(material(marked_dx(), identity, sr_class=sr_class)))
    assert "Not for diagnostic use" in [i.TextValue for i in items(ds, "121106")]
    assert (ds.ContentQualification, ds.VerificationFlag, ds.CompletionFlag) == ("RESEARCH", "UNVERIFIED", "COMPLETE")
    assert "not for diagnostic use" in ds.SeriesDescription


@pytest.mark.parametrize("sr_class", sorted(sr.CLASSES))
def test_uncertain_body_part_has_no_certainty(sr_class):
    """When nothing tells the body part, the report says so and claims no certainty, site or finding."""
    output = sr.build(material(marked_dx(), sr_class=sr_class, route=UNSURE, findings=()))
    ds = read(output)
    assert items(ds, "111012") == items(ds, "363698007") == []
    assert b"Body part: uncertain" in written(output)
    assert b"Model: none applies" in written(output)


def test_header_body_part_has_no_certainty():
    """A body part that the header told comes without a probability, for there is none."""
    ds = read(sr.build(material(marked_dx(), route=SPINE, findings=())))
    assert items(ds, "111012") == []
    assert items(ds, "363698007")[0].ConceptCodeSequence[0].CodeMeaning == "Spine"


def test_rare_probability_is_not_rounded_to_certain():
    """99.99 % is not told as 100 %."""
    sure = Findings((dataclasses.replace(PNEUMONIA, probability=0.9999),), "m", "1", "")
    data = written(sr.build(material(marked_dx(), sr_class="basic-text", findings=(sure,))))
    assert b"99.9 %" in data
    assert b"100.0 %" not in data


@pytest.mark.parametrize("sr_class", sorted(sr.CLASSES))
def test_every_model_is_told(sr_class):
    """Findings of two models stand there each with its model; the groups have their own tracking."""
    effusion = dataclasses.replace(PNEUMONIA, label="effusion", probability=0.2, abnormal=False)
    second = Findings((effusion,), "other-model", "2.0", "cd" * 32)
    data = written(sr.build(material(marked_dx(), sr_class=sr_class, findings=(*FINDINGS, second))))
    for told in (b"pneumonia, 96.8 %", b"effusion, 20.0 %", b"Model: chest-findings 1.0", b"Model: other-model 2.0"):
        assert told in data
    if sr_class != "basic-text":
        ds = pydicom.dcmread(BytesIO(data))
        assert [i.TextValue for i in items(ds, "111001")] == ["dicomnode router", "chest-findings", "other-model"]
        assert len({i.UID for i in items(ds, "112040")}) == 3


def test_multi_frame_names_the_frame():
    """Of a multi-frame source the report names the frame that was looked at."""
    ds = read(sr.build(material(marked_dx(frames=5))))
    frames = [i.ReferencedSOPSequence[0].ReferencedFrameNumber for i in items(ds, "121112")]
    assert frames == [3, 3]


@pytest.mark.parametrize("charset", sorted(CHARSETS))
def test_inside_keeps_the_patient_byte_for_byte(charset):
    """Inside, patient and study come over as sent, in the source's character set."""
    source = marked_dx(charset)
    result = sr.build(material(source))
    ds = read(result)
    assert ds.PatientName == CHARSETS[charset].name
    sent = pydicom.dcmread(BytesIO(source))
    for keyword in ("PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyInstanceUID", "StudyDate"):
        assert ds[keyword].value == sent[keyword].value
    assert ds.OtherPatientIDsSequence[0].PatientID == "ZZID4711"
    raw = pydicom.dcmread(BytesIO(source)).get_item("PatientName")
    assert raw.value in written(result)


@pytest.mark.filterwarnings("ignore:Failed to decode")
def test_inside_keeps_bytes_that_nobody_can_decode():
    """A name whose bytes are none of its character set comes over as it was sent, even after a stage has looked at it."""
    source = marked_dx("utf-8").replace("Ζζ".encode(), b"\xff\xfe\xfd\xfc")
    stuff = material(source)
    assert "μάρκερ" in str(stuff.image.dataset.PatientName)
    assert b"\xff\xfe\xfd\xfc" + "μάρκερ".encode() in written(sr.build(stuff))


@pytest.mark.parametrize("charset", sorted(CHARSETS))
@pytest.mark.parametrize("sr_class", sorted(sr.CLASSES))
def test_outside_knows_nobody(charset, sr_class):
    """Outside, no name, number, date or UID of the patient occurs in the bytes, in any encoding."""
    source = marked_dx(charset)
    assert any(trace in source for trace in traces(charset))
    data = written(sr.build(material(source, "removed", sr_class=sr_class)))
    found = [trace for trace in traces(charset) if trace in data]
    assert found == []
    assert b"1.2.826.0.1.3680043.9.99" not in data
    assert b"20310709" not in data


def test_outside_patient_is_a_stable_pseudonym():
    """The same patient gets the same token, another node's key another one, another patient another one."""
    one, again = (read(sr.build(material(marked_dx(c), "removed"))).PatientID for c in ("ascii", "utf-8"))
    other = read(sr.build(material(pydicom_file("CT_small.dcm"), "removed"))).PatientID
    assert one == again != other
    assert len(one) == 16


def test_outside_report_refers_to_the_deidentified_image():
    """The report for outside names the UID that the de-identified image has, in a study of its own."""
    stuff = material(marked_dx(), "removed")
    ds = read(sr.build(stuff))
    evidence = ds.CurrentRequestedProcedureEvidenceSequence[0]
    named = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == result_uid(stuff, "deidentified", stuff.instance.sop_class_uid) == reference(stuff).sop_instance_uid
    assert evidence.StudyInstanceUID == ds.StudyInstanceUID


@pytest.mark.parametrize("build", [sr.build, sc.build])
def test_outside_results_stand_beside_the_deidentified_image(build):
    """Report and capture name study, class and UID under which the de-identified image really leaves."""
    stuff = material(marked_dx(), "removed")
    stuff = dataclasses.replace(stuff, coded=Encode()(clean(stuff.image).redacted))
    left, result = read(deidentified.build(stuff)), read(build(stuff))
    source = result.get("SourceImageSequence") or items(result, "121112")[0].ReferencedSOPSequence
    assert source[0].ReferencedSOPInstanceUID == left.SOPInstanceUID
    assert source[0].ReferencedSOPClassUID == left.SOPClassUID
    assert result.StudyInstanceUID == left.StudyInstanceUID
    assert result.PatientID == left.PatientID
    if "CurrentRequestedProcedureEvidenceSequence" in result:
        series = result.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        assert series.SeriesInstanceUID == left.SeriesInstanceUID


def test_own_result_is_marked():
    """Manufacturer and serial number tell the node that this is its own when it comes back."""
    assert material(written(sr.build(material(marked_dx())))).instance.own_result


def test_dates_come_from_acceptance():
    """Content date and time are those of acceptance, in the source's offset from UTC; the clock has no part."""
    stuff = material(pydicom_file("CT_small.dcm"))
    assert stuff.image.dataset.TimezoneOffsetFromUTC == "-0500"
    ds = read(sr.build(stuff))
    assert (ds.ContentDate, ds.ContentTime) == ("20310709", "051112")


def test_series_is_shared_and_rework_is_new():
    """Results for one series share a series; the next generation is a new object that names the old one."""
    source = marked_dx()
    old = sr.build(material(source))
    new = sr.build(material(source, generation=1, predecessors=((old.sop_class_uid, old.sop_instance_uid),)))
    first, second = read(old), read(new)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert "PredecessorDocumentsSequence" not in first
    series = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID


def test_failure_quotes_nothing():
    """What fails inside a library comes out as `StageFailed` without its words."""
    broken = material(marked_dx(), route=dataclasses.replace(CHEST, body_part="no\nsuch" * 40))
    with pytest.raises(StageFailed) as caught:
        sr.build(broken)
    assert "such" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(StageFailed):
        sr.build(material(marked_dx(), sr_class="none"))


def test_nothing_of_the_patient_reaches_the_log(caplog, recwarn):
    """Building a report of a marked patient logs and warns without his name."""
    caplog.set_level(0)
    for charset in CHARSETS:
        for identity in ("kept", "removed"):
            sr.build(material(marked_dx(charset), identity))
    assert not [record for record in caplog.records if "arker" in record.getMessage()]
    assert not [warning for warning in recwarn if "arker" in str(warning.message)]


def without(source: bytes, *keywords: str) -> bytes:
    """The same file without some elements."""
    ds = pydicom.dcmread(BytesIO(source))
    for keyword in keywords:
        del ds[keyword]
    stream = BytesIO()
    pydicom.dcmwrite(stream, ds)
    return stream.getvalue()


def test_what_the_source_lacks_is_sent_empty():
    """Elements of type 2 stand in the result though the source has none."""
    ds = read(sr.build(material(without(marked_dx(), "AccessionNumber", "PatientBirthDate"))))
    assert (ds.AccessionNumber, ds.PatientBirthDate) == ("", "")


def test_source_without_study_makes_a_valid_result():
    """An object without study and series gives a result in a study of its own, the same one each time."""
    bare = without(marked_dx(), "StudyInstanceUID", "SeriesInstanceUID")
    first, second = (read(sr.build(material(bare))) for _ in range(2))
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert uids.is_valid(first.StudyInstanceUID)
    assert first.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID == first.StudyInstanceUID


def test_pseudonym_without_patient_id_stands_for_the_study():
    """Two patients without Patient ID do not become one outside."""
    one = material(without(marked_dx(), "PatientID"), "removed")
    other = dataclasses.replace(one, instance=dataclasses.replace(one.instance, study_instance_uid="1.2.3"))
    assert len({read(sr.build(stuff)).PatientID for stuff in (one, other)}) == 2


def test_an_uncertain_body_part_says_why():
    """The reason stands in the sentence, also where the picture could not be asked at all; a header's word is the header's."""
    doubtful = dataclasses.replace(UNSURE, source="header", doubt="for_processing")
    assert words.body_part(doubtful) == "Body part: uncertain (for processing)"
    assert words.body_part(UNSURE) == "Body part: uncertain"
    assert words.body_part(SPINE) == "Body part: spine (header)"

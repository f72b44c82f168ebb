from __future__ import annotations

import dataclasses
import warnings
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicomnode.errors import RedactionUncertain, ReleaseRefused, StageFailed
from dicomnode.image import Redacted
from dicomnode.outputs import Material, deidentified, original, outside_uid, part10, reference, sr, terms
from dicomnode.outputs.allowlist import ALLOWED, take
from dicomnode.records import Means, Region
from dicomnode.stages.encode import Encode
from tests.unit import materials, pictures

REGION = Region(0, 3, 4, 10, 6, "header-match")


def material(
    source: bytes, *regions: Region, strict: bool = True, second_look: Literal["clean", "waived", "none"] = "clean",
    **more: Any,
) -> Material:
    """A material whose pixels were redacted."""
    base = materials.material(source, "removed", **more)
    image = base.image
    means = Means("strict" if strict else "header", "detector@1", "reader 1", "ab" * 32, second_look=second_look)
    black = (0,) * image.samples
    redacted = Redacted(image, regions, "burned-in text redaction, test", black, strict=strict, means=means)
    return dataclasses.replace(base, coded=Encode()(redacted))


@pytest.mark.parametrize("charset", list(materials.CHARSETS))
def test_no_trace_of_the_patient_leaves(charset: str) -> None:
    """Neither name, numbers, dates, private nor nested elements of a marked patient, in any character set, leave."""
    data = materials.written(deidentified.build(material(materials.marked_dx(charset), REGION)))
    head = data[: data.rindex(b"\xe0\x7f\x10\x00")]
    assert [trace for trace in materials.traces(charset) if trace in head] == []


def test_elements_are_of_the_allow_list_or_ours() -> None:
    """Every element that leaves is of the allow-list, or is one that we set."""
    ours = {
        "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
        "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber", "PatientIdentityRemoved",
        "DeidentificationMethod", "LongitudinalTemporalInformationModified", "DeidentificationMethodCodeSequence",
        "DerivationCodeSequence", "BurnedInAnnotation", "PositionReferenceIndicator", "KVP",
        "FrameOfReferenceUID", "PixelData", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions",
    }  # fmt: skip
    ds = materials.read(deidentified.build(material(materials.marked_dx(), REGION)))
    assert set() == {element.keyword for element in ds} - ours - ALLOWED


def test_pixels_and_display_stay() -> None:
    """All values outside the region, and what is needed to display and measure them, are as they were."""
    source = pydicom.dcmread(BytesIO(materials.marked_dx()))
    source.WindowCenter, source.WindowWidth, source.RescaleSlope, source.RescaleIntercept = 40, 400, 2, -1024
    source.PixelSpacing, source.FrameOfReferenceUID = [0.2, 0.3], "1.2.3.4.5"
    stream = BytesIO()
    source.save_as(stream)
    given = material(stream.getvalue(), REGION)
    ds = materials.read(deidentified.build(given))
    before, after = source.pixel_array, ds.pixel_array
    mask = np.zeros(before.shape, bool)
    mask[4:10, 3:13] = True
    np.testing.assert_array_equal(before[~mask], after[~mask])
    assert (after[mask] == 0).all()
    assert [
        ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept, ds.PixelSpacing,
    ] == [40, 400, 2, -1024, [0.2, 0.3]]  # fmt: skip
    assert outside_uid(materials.NODE.key, "1.2.3.4.5") == ds.FrameOfReferenceUID


def codes(ds: Dataset, keyword: str) -> list[str]:
    """Values of the codes of a sequence."""
    return [str(item.CodeValue) for item in ds.get(keyword, ())]


def test_it_says_what_was_done() -> None:
    """The object tells its method in words and codes, and is derived when pixels changed."""
    ds = materials.read(deidentified.build(material(materials.marked_dx(), REGION)))
    assert (ds.PatientIdentityRemoved, ds.ImageType[0], ds.BurnedInAnnotation) == ("YES", "DERIVED", "NO")
    assert list(ds.DeidentificationMethod) == [deidentified.METHOD, "burned-in text redaction, test"]
    assert codes(ds, "DeidentificationMethodCodeSequence") == ["113100", "113101"]
    assert codes(ds, "DerivationCodeSequence") == ["113047"]
    untouched = materials.read(deidentified.build(material(materials.marked_dx())))
    assert (untouched.ImageType[0], untouched.BurnedInAnnotation) == ("ORIGINAL", "NO")
    assert "DerivationCodeSequence" not in untouched


@pytest.mark.parametrize("how", ["waived", "none", "header", "not said"])
def test_clean_pixels_are_claimed_only_where_they_are(how: Any) -> None:
    """Not after a person's release, without a second look, in header mode, or where nobody said by what."""
    look = how if how in ("waived", "none") else "clean"
    given = material(materials.marked_dx(), REGION, strict=how != "header", second_look=look)
    assert given.coded is not None
    redacted = dataclasses.replace(given.coded.redacted, released=True, **({"means": None} if how == "not said" else {}))
    ds = materials.read(deidentified.build(dataclasses.replace(given, coded=Encode()(redacted))))
    assert "BurnedInAnnotation" not in ds
    assert codes(ds, "DeidentificationMethodCodeSequence") == ["113100"]


def test_what_a_header_says_already_stays_beside_it() -> None:
    """Methods and codes of who had the image before are kept, once; the source itself is left as it is."""
    source = pydicom.dcmread(BytesIO(materials.marked_dx()))
    source.DeidentificationMethod = ["one", "two"]
    source.DeidentificationMethodCodeSequence = [deidentified._code("113101", "Clean Pixel Data Option")]
    source.DerivationCodeSequence = [deidentified._code("113085", "Spatial resampling")]
    source.ImageType, source.BurnedInAnnotation = ["ORIGINAL", "SECONDARY", "AXIAL"], "YES"
    stream = BytesIO()
    source.save_as(stream)
    given = material(stream.getvalue(), REGION)
    assert given.coded is not None
    redacted = given.coded.redacted
    ds = redacted.clean_dataset()
    deidentified.say(ds, redacted)
    assert list(ds.DeidentificationMethod) == ["one", "two", redacted.method]
    assert codes(ds, "DeidentificationMethodCodeSequence") == ["113101"]
    assert codes(ds, "DerivationCodeSequence") == ["113085", "113047"]
    assert (list(ds.ImageType), ds.BurnedInAnnotation) == (["DERIVED", "SECONDARY", "AXIAL"], "NO")
    assert codes(given.image.dataset, "DerivationCodeSequence") == ["113085"]
    assert given.image.dataset.BurnedInAnnotation == "YES"


@pytest.mark.parametrize("clean", [True, False])
def test_a_header_that_stays_says_no_more_than_redaction(clean: bool) -> None:
    """Where redaction does not answer for the text that is left, the source's own NO does not stand under its pixels."""
    given = material(materials.marked_dx(), REGION, second_look="clean" if clean else "waived")
    assert given.coded is not None
    ds = given.coded.redacted.clean_dataset()
    ds.BurnedInAnnotation = "NO"
    deidentified.say(ds, given.coded.redacted)
    assert ds.get("BurnedInAnnotation") == ("NO" if clean else None)


def test_it_is_known_when_it_comes_back() -> None:
    """A de-identified image that a peer sends back is an own result, so that it is not worked in a loop."""
    data = materials.written(deidentified.build(material(materials.marked_dx(), REGION)))
    assert materials.material(data).instance.own_result


def test_pixels_are_described_though_the_source_spells_oddly() -> None:
    """What a reader of pixels needs is there, though the source had it in lower case or another value representation."""
    source = pydicom.dcmread(BytesIO(materials.marked_dx()))
    with config.disable_value_validation():
        source.PhotometricInterpretation = "monochrome2"
        del source.HighBit
        source.add(DataElement(0x00280010, "IS", source.Rows))
    stream = BytesIO()
    source.save_as(stream)
    given = material(stream.getvalue())
    ds = materials.read(deidentified.build(given))
    assert (ds.Rows, ds.HighBit, ds.PhotometricInterpretation) == (96, 11, "MONOCHROME2")
    np.testing.assert_array_equal(given.image.frame(0), ds.pixel_array)


def test_header_mode_does_not_vouch_for_pixels() -> None:
    """Pixels redacted in header mode are held; those that a person released leave, without a claim about text."""
    with pytest.raises(RedactionUncertain):
        deidentified.build(material(materials.marked_dx(), REGION, strict=False))
    given = material(materials.marked_dx(), strict=False)
    assert given.coded is not None
    released = dataclasses.replace(given.coded.redacted, released=True)
    ds = materials.read(deidentified.build(dataclasses.replace(given, coded=Encode()(released))))
    assert ds.PatientIdentityRemoved == "YES"


@pytest.mark.parametrize("look", ["none", "waived"])
def test_without_a_clean_second_look_pixels_do_not_leave(look: Any) -> None:
    """Strict mode is not enough; a person's release is."""
    with pytest.raises(RedactionUncertain):
        deidentified.build(material(materials.marked_dx(), REGION, second_look=look))


def test_where_nothing_says_by_what_pixels_do_not_leave() -> None:
    """A redaction that does not say its means may have had no second look."""
    given = material(materials.marked_dx(), REGION)
    assert given.coded is not None
    silent = dataclasses.replace(given.coded.redacted, means=None)
    with pytest.raises(RedactionUncertain):
        deidentified.build(dataclasses.replace(given, coded=Encode()(silent)))


def test_without_redacted_pixels_nothing_is_made() -> None:
    """When redaction holds the pixels there is no de-identified image."""
    with pytest.raises(StageFailed):
        deidentified.build(materials.material(materials.marked_dx(), "removed"))


def test_identity_is_removed_whoever_asks() -> None:
    """Even for an inside peer this kind has derived UIDs and a pseudonym."""
    given = dataclasses.replace(material(materials.marked_dx()), identity="kept")
    output = deidentified.build(given)
    ds = materials.read(output)
    assert output.identity == "removed"
    assert given.instance.study_instance_uid != ds.StudyInstanceUID
    assert ds.PatientName == ds.PatientID != "ZZID4711"


def test_the_same_work_gives_the_same_object_a_rework_another() -> None:
    """Equal material gives equal bytes; the next generation has another SOP Instance UID in the same series."""
    first, second = (material(materials.marked_dx(), REGION, generation=g) for g in (0, 1))
    assert materials.written(deidentified.build(first)) == materials.written(deidentified.build(first))
    a, b = materials.read(deidentified.build(first)), materials.read(deidentified.build(second))
    assert a.SOPInstanceUID != b.SOPInstanceUID
    assert a.SeriesInstanceUID == b.SeriesInstanceUID


def test_its_uids_cannot_be_guessed_from_the_source() -> None:
    """Without the node's key nobody can derive the UID from the source's bytes; results beside it refer to the same one."""
    given = material(materials.marked_dx(), REGION)
    other = dataclasses.replace(given, node=dataclasses.replace(given.node, key=b"x" * 32))
    first, second = (deidentified.build(one).sop_instance_uid for one in (given, other))
    assert first != second
    assert first == reference(given).sop_instance_uid
    assert sr.build(given).sop_instance_uid != sr.build(other).sop_instance_uid


def test_text_in_allowed_elements_does_not_leave() -> None:
    """An allowed attribute with a value that is no defined term or number is left out, nested too."""
    source = Dataset()
    item = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.ImageType, source.RescaleType, source.Modality = ["ORIGINAL", "Zzmarker^Q"], "of Zzmarker", "CT"
        item.ModalityLUTType, item.LUTExplanation = "HU", "Zzmarker"
    source.ModalityLUTSequence = [item]
    clean = take(source, lambda uid: uid)
    assert {"Modality", "ModalityLUTSequence"} == {element.keyword for element in clean}
    assert [element.keyword for element in clean.ModalityLUTSequence[0]] == ["ModalityLUTType"]


def test_standard_words_of_image_type_stay_and_others_go() -> None:
    """Of Image Type the defined terms leave, not what a vendor or a person has added."""
    source = Dataset()
    source.ImageType = ["ORIGINAL", "PRIMARY", "DOE JOHN", "AXIAL"]
    assert list(take(source, lambda uid: uid).ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]


TEXT_ATTRIBUTES = sorted(k for k in ALLOWED if dictionary_VR(k) in ("CS", "LO"))


@pytest.mark.parametrize("keyword", TEXT_ATTRIBUTES)
def test_code_strings_are_of_closed_sets(keyword: str) -> None:
    """No attribute of text takes a name, though it be spelt as a code string; each takes a term of its own."""
    source = Dataset()
    setattr(source, keyword, "DOE JOHN")
    assert keyword not in take(source, lambda uid: uid)
    if keyword not in ("ImageType", "PatientOrientation"):
        setattr(source, keyword, min(terms.CLOSED[keyword]))
        assert keyword in take(source, lambda uid: uid)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [("ViewPosition", "OB", b"DOE^JOHN"), ("ImagePositionPatient", "OB", b"MRN777 1980"), ("Rows", "LO", "DOE^JOHN"),
     ("RescaleSlope", "UN", b"DOE^JOHN"), ("WindowWidth", "DS", "DOE^JOHN"), ("InstanceNumber", "IS", "19570823"),
     ("PixelSpacing", "DS", [1, 2, 3, 4]), ("FrameIncrementPointer", "AT", 0x444F454A), ("LUTData", "OW", b"DOE^JOHN" * 9),
     ("RedPaletteColorLookupTableData", "OB", b"DOE^JOHN"), ("PixelMeasuresSequence", "LO", "DOE^JOHN"),
     ("FrameTime", "DS", float("nan"))],
)  # fmt: skip
def test_values_of_another_kind_do_not_leave(keyword: str, vr: str, value: Any) -> None:
    """A value representation, number of values or size that the standard does not give the attribute: it is left out."""
    source = Dataset()
    with config.disable_value_validation():
        source.add(DataElement(tag_for_keyword(keyword) or 0, vr, value, already_converted=True))
        source.LUTDescriptor = source.RedPaletteColorLookupTableDescriptor = [2, 0, 16]
        assert keyword not in take(source, lambda uid: uid)


def test_tables_stay() -> None:
    """Look-up tables as long as their descriptor says leave."""
    source = Dataset()
    source.LUTDescriptor, source.LUTData = [4, 0, 16], [1, 2, 3, 4]
    source.RedPaletteColorLookupTableDescriptor, source.RedPaletteColorLookupTableData = [4, 0, 16], bytes(8)
    source["LUTDescriptor"].VR = source["RedPaletteColorLookupTableDescriptor"].VR = source["LUTData"].VR = "US"
    assert {e.keyword for e in take(source, lambda uid: uid)} == {e.keyword for e in source}


@pytest.mark.parametrize(
    "name",
    ["JPEG2000_UNC.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm",
     "emri_small_jpeg_ls_lossless.dcm", "SC_rgb_small_odd.dcm"],
)  # fmt: skip
def test_untouched_files_keep_syntax_and_values(name: str) -> None:
    """Files of pydicom in several syntaxes leave in their syntax with the same values."""
    given = material(materials.pydicom_file(name))
    output = deidentified.build(given)
    assert given.instance.transfer_syntax_uid == output.transfer_syntax_uid
    assert given.image.pixel_digest() == pictures.image(materials.written(output)).pixel_digest()


def test_a_stream_that_cannot_go_back_gets_no_offset_table() -> None:
    """Into a pipe the offset table is left empty; the frames are found all the same."""

    class Pipe(BytesIO):
        def seekable(self) -> bool:
            return False

    given = material(materials.pydicom_file("emri_small_jpeg_ls_lossless.dcm"))
    assert given.coded is not None
    pipe = Pipe()
    part10.write(pipe, given.image.dataset, given.coded)
    assert given.image.pixel_digest() == pictures.image(pipe.getvalue()).pixel_digest()


def test_original_passes_unchanged_and_inside_only() -> None:
    """The original has the source's bytes, UID and syntax; for outside it is refused."""
    given = materials.material(materials.marked_dx())
    output = original.build(given)
    given.source.seek(0)
    assert given.source.read() == materials.written(output) == materials.written(output)
    assert (output.sop_instance_uid, output.identity) == (given.instance.sop_instance_uid, "kept")
    with pytest.raises(ReleaseRefused):
        original.build(dataclasses.replace(given, identity="removed"))

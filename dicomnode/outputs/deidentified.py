"""The de-identified image: a new object with redacted pixels and an allow-list of attributes.

**Way** An empty data set takes what `allowlist` lists, derived UIDs, a pseudonym and the words that say what was done. The
frames are written one by one when the output is (`part10`).

**Fails** `StageFailed` when there are no coded pixels or the object cannot be made; `RedactionUncertain` when the pixels of
an image were neither redacted in strict mode, with a clean second look, nor released by a person.

**Standard** PS3.15 Annex E (E.1.1, E.3.1), CID 7050 and 7203; PS3.3 C.12.1, C.7.1.1, C.7.6.1.

**Limits** The Basic Application Level Confidentiality Profile (113100) is claimed for the header: of the attributes of PS3.15
Table E.1-1 none leaves but emptied, replaced or derived anew. Burned In Annotation NO and the Clean Pixel Data Option (113101)
are claimed only where redaction was strict, of every frame, and its second look clean; a person's release claims nothing. Dates
are removed, so times between studies are lost. Modules that the IOD requires beyond image, pixel, display and geometry are
missing: readers of pixels do not need them, validators will say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import BinaryIO, Final

from pydicom.dataset import Dataset

from dicomnode.certificate import certify
from dicomnode.errors import StageFailed
from dicomnode.image import Coded, Image, Redacted
from dicomnode.outputs import allowlist, part10, shell
from dicomnode.outputs.material import Material, NodeFacts, outside_uid, result_uid, series_uid, study_uid
from dicomnode.records import Output

_KIND: Final = "deidentified"
METHOD = "dicomnode attribute allow-list"
#: Of type 2: empty where the source has none that may leave.
_UNKNOWN = ("SeriesNumber", "InstanceNumber", "PatientOrientation")
_EMPTY = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")


def build(material: Material) -> Output:
    """Make the image; the same material gives the same bytes.

    Raises
    ------
    StageFailed
        There are no coded pixels, or the data set cannot be made.
    RedactionUncertain
        Unknown text may still stand in the pixels.
    """
    coded = material.coded
    if coded is None:
        raise StageFailed("deidentified: there are no redacted pixels")
    shell.vouch(coded.redacted)
    # Whoever asks: this kind never carries an identity.
    material = replace(material, identity="removed")
    with shell.guard(_KIND):
        dataset = _dataset(material, coded)
    return Output(
        kind=_KIND,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=coded.transfer_syntax_uid,
        identity="removed",
        destinations=material.destinations,
        write=partial(part10.write, dataset=dataset, coded=coded),
        certify=partial(_certify, coded, material.node),
    )


def _certify(coded: Coded, node: NodeFacts, stream: BinaryIO, pixel_digest: str) -> Mapping[str, object]:
    return certify(stream, coded, node.version, node.key, pixel_digest)


def _dataset(material: Material, coded: Coded) -> Dataset:
    redacted = coded.redacted
    key = material.node.key
    ds = allowlist.take(redacted.clean_dataset(), lambda uid: outside_uid(key, uid))
    _describe(ds, material.image)
    ds.SOPClassUID = material.instance.sop_class_uid
    ds.SOPInstanceUID = result_uid(material, _KIND, material.instance.sop_class_uid)
    ds.StudyInstanceUID = study_uid(material)
    ds.SeriesInstanceUID = series_uid(material, _KIND, material.instance.sop_class_uid)
    ds.PatientName = ds.PatientID = shell.outside_patient(material.image.dataset, material)
    for keyword in _EMPTY:
        setattr(ds, keyword, None)
    _fill(ds)
    shell.sign(ds, material)
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = METHOD
    ds.DeidentificationMethodCodeSequence = [_code("113100", "Basic Application Confidentiality Profile")]
    ds.LongitudinalTemporalInformationModified = "REMOVED"
    say(ds, redacted)
    return ds


def _describe(ds: Dataset, image: Image) -> None:
    """Put in what the pixels cannot do without, where the source has it in a form that does not leave."""
    spec = image.spec
    needed = {"Rows": spec.rows, "Columns": spec.columns, "SamplesPerPixel": spec.samples, "BitsAllocated": spec.bits_allocated}
    if not spec.real:
        needed |= {"BitsStored": spec.bits_stored, "HighBit": spec.high_bit, "PixelRepresentation": int(spec.signed)}
    if spec.samples > 1:
        needed["PlanarConfiguration"] = spec.planar
    if spec.frames > 1:
        needed["NumberOfFrames"] = spec.frames
    for keyword, value in needed.items():
        if keyword not in ds:
            setattr(ds, keyword, value)


def _fill(ds: Dataset) -> None:
    """Say of what general modules want that it is not known."""
    for keyword in _UNKNOWN:
        if keyword not in ds:
            setattr(ds, keyword, None)
    if "Laterality" not in ds and "ImageLaterality" not in ds:
        ds.Laterality = None
    if ds.get("Modality") == "CT":
        ds.KVP = None
    if "FrameOfReferenceUID" in ds:
        ds.PositionReferenceIndicator = None


def say(ds: Dataset, redacted: Redacted) -> None:
    """Say in a header, beside what it says already, what was done to its pixels, and no more than is earned."""
    _put(ds, "DeidentificationMethod", [*_several(ds, "DeidentificationMethod"), redacted.method])
    if redacted.clean:
        _put(ds, "BurnedInAnnotation", "NO")
        _add_code(ds, "DeidentificationMethodCodeSequence", _code("113101", "Clean Pixel Data Option"))
    else:
        # Of a header that stays: nobody here answers for what the source says of its text.
        ds.pop("BurnedInAnnotation", None)
    if redacted.touched:
        # Changed pixels are derived pixels (PS3.3 C.7.6.1.1.2).
        _put(ds, "ImageType", ["DERIVED", *(_several(ds, "ImageType")[1:] or ["PRIMARY"])])
        _add_code(ds, "DerivationCodeSequence", _code("113047", "Pixel by pixel mask"))


def _put(ds: Dataset, keyword: str, value: object) -> None:
    """Set an element anew: one that is there may be the source's own as well."""
    ds.pop(keyword, None)
    setattr(ds, keyword, value)


def _several(ds: Dataset, keyword: str) -> list[str]:
    """Values of an element, none when it is absent or empty."""
    if keyword not in ds or ds[keyword].VM == 0:
        return []
    value = ds[keyword].value
    return [str(one) for one in value] if ds[keyword].VM > 1 else [str(value)]


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _add_code(ds: Dataset, keyword: str, code: Dataset) -> None:
    """Add a code to a sequence of the data set; the items of the source stay its own."""
    there = list(ds[keyword].value or ()) if keyword in ds and ds[keyword].VR == "SQ" else []
    if all(item.get("CodeValue") != code.CodeValue for item in there):
        _put(ds, keyword, [*there, code])

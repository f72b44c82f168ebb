"""The de-identified image: a new object with redacted pixels and an allow-list of attributes.

**Way** An empty data set takes what `allowlist` lists, derived UIDs, a pseudonym and the words that say what was done. The
frames are written one by one when the output is (`part10`).

**Fails** `StageFailed` when there are no coded pixels or the object cannot be made; `RedactionUncertain` when the pixels of
an image were neither redacted in strict mode nor released by a person and the image is for outside.

**Standard** PS3.15 Annex E (E.1.1), PS3.3 C.12.1, C.7.1.1.

**Limits** It claims neither the Basic Application Level Confidentiality Profile nor the Clean Pixel Data Option: detection
finds horizontal text only, so Burned In Annotation is left out and De-identification Method says in words what was done. Dates
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
    shell.sign(ds, material)
    _say_what_was_done(ds, redacted)
    if redacted.touched:
        _derived(ds)
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


def _say_what_was_done(ds: Dataset, redacted: Redacted) -> None:
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = [METHOD, redacted.method]
    ds.LongitudinalTemporalInformationModified = "REMOVED"


def _derived(ds: Dataset) -> None:
    """Changed pixels are derived pixels (PS3.3 C.7.6.1.1.2)."""
    kept = list(ds.ImageType)[1:] if "ImageType" in ds and ds["ImageType"].VM > 1 else ["PRIMARY"]
    ds.ImageType = ["DERIVED", *kept]

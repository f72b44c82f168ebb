"""What all objects of ours have in common: patient, study, series, equipment, SOP Common, and the way into bytes.

**Way** Inside, the patient and study modules are copied from the source byte for byte with their character set; nothing
is decoded, so no name can be spoiled, warned about or logged by a library. Outside, the object starts from an empty data
set: a pseudonym, derived UIDs, empty values where the standard wants the element, and no date of the patient. The builder
adds its own modules and `finish` turns the data set into an `Output`.

**Fails** `StageFailed`, without the text of the library that failed: it may quote a value.

**Standard** PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.3.1, C.7.5.1, C.12.1; PS3.15 E.1.1.

**Limits** Times inside are those of acceptance, in the source's Timezone Offset From UTC or else in the node's own
zone. Clinical trial modules are not copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, cast

from pydicom import config
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicomnode.errors import DicomNodeError, RedactionUncertain, StageFailed
from dicomnode.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.image import Image, Redacted
from dicomnode.outputs import terms
from dicomnode.outputs.material import MAKER, Material, pseudonym, result_uid, series_uid, study_uid
from dicomnode.outputs.words import plain
from dicomnode.records import Output, OutputKind

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement

#: Where a date is required (type 1) and the patient's must not stand.
NO_DATE, NO_TIME = "19000101", "000000"

#: Patient Module, as far as a result needs it.
PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate", "PatientBirthTime", "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar", "PatientAlternativeCalendar", "PatientSex", "QualityControlSubject",
    "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "EthnicGroup", "PatientComments",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription", "PatientBreedCodeSequence",
    "BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
)
#: General Study and Patient Study Modules.
STUDY = (
    "StudyDate", "StudyTime", "ReferringPhysicianName", "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName", "StudyID", "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyDescription",
    "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "RequestingService", "ProcedureCodeSequence",
    "ReasonForPerformedProcedureCodeSequence", "AdmittingDiagnosesDescription", "PatientAge", "PatientSize",
    "PatientWeight", "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "ServiceEpisodeDescription",
    "PatientSexNeutered",
)
#: Elements of type 2: they must stand there, if only empty.
_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)
_SERIES_NUMBERS: dict[str, int] = {"sr": 9001, "sc": 9002, "sc-map": 9003, "seg": 9004}


@contextmanager
def guard(kind: OutputKind) -> Iterator[None]:
    """Turn whatever a library raises into `StageFailed`, which names the kind of output and the type of fault only."""
    try:
        # What we write is checked by our tests; a foreign value that is copied must not be quoted in a warning.
        with config.disable_value_validation():
            yield
    except DicomNodeError:
        raise
    except Exception as error:  # noqa: BLE001 - the stage's border: what a library says may quote a patient
        raise StageFailed(f"{kind}: cannot be built ({type(error).__name__})") from None


def new(material: Material, kind: OutputKind, sop_class_uid: str, modality: str) -> Dataset:
    """Start an object of this kind: everything but its own modules."""
    ds = Dataset()
    if material.identity == "kept":
        # Read anew: stages have decoded elements meanwhile, and what is decoded need not encode to the same bytes.
        _keep_identity(ds, Image.open(material.source).dataset)
    else:
        _remove_identity(ds, material)
    ds.StudyInstanceUID = study_uid(material)
    ds.SeriesInstanceUID = series_uid(material, kind, sop_class_uid)
    ds.SeriesNumber = _SERIES_NUMBERS[kind]
    ds.SeriesDescription = "dicomnode result, not for diagnostic use"
    ds.Modality = modality
    sign(ds, material)
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = result_uid(material, kind, sop_class_uid)
    number = _instance_number(material.image.dataset)
    ds.InstanceNumber = number if material.identity == "kept" or number <= terms.LARGEST_NUMBER else 1
    return ds


def sign(ds: Dataset, material: Material) -> None:
    """Mark an object as made by this very node, by which the node knows it when it comes back."""
    ds.Manufacturer = MAKER
    ds.ManufacturerModelName = MAKER
    ds.DeviceSerialNumber = plain(material.node.node_id, 64)
    ds.SoftwareVersions = plain(material.node.version, 64)


def vouch(redacted: Redacted) -> None:
    """Refuse pixels that may still show a person: what was not judged text by text leaves only when a person says so.

    Raises
    ------
    RedactionUncertain
        They were redacted in header mode, which leaves unknown text standing, or the second look at what was blanked was not
        clean, or nothing says that there was one; and nobody released them.
    """
    if redacted.released:
        return
    if not redacted.strict:
        raise RedactionUncertain("pixels redacted in header mode cannot leave for outside")
    if not redacted.clean:
        raise RedactionUncertain("pixels without a clean second look cannot leave for outside")


def date_and_time(material: Material) -> tuple[str, str]:
    """Date (DA) and time (TM) of the content: of acceptance inside, stand-ins outside, of the clock never."""
    if material.identity == "removed":
        return NO_DATE, NO_TIME
    moment = material.instance.received_at.astimezone(_zone(material.image.dataset))
    return f"{moment:%Y%m%d}", f"{moment:%H%M%S}"


def finish(
    material: Material, kind: OutputKind, ds: Dataset, behind: Callable[[], Iterator[bytes]] = lambda: iter(()),
) -> Output:
    """Write the data set into bytes, once, and give the `Output` that repeats them.

    Parameters
    ----------
    behind
        Gives what is written behind the data set, piece by piece: Pixel Data that are made while they are written.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    ds.file_meta = meta
    # Tells pydicom that raw elements are in this encoding already; else it decodes them and encodes them anew.
    terms = ds.get("SpecificCharacterSet")
    charset = convert_encodings(terms) if terms else None
    ds.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=charset)
    stream = BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True)
    return Output(
        kind=kind,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        identity=material.identity,
        destinations=material.destinations,
        write=_writer(stream.getvalue(), behind),
    )


def _writer(data: bytes, behind: Callable[[], Iterator[bytes]]) -> Callable[[BinaryIO], None]:
    def write(stream: BinaryIO) -> None:
        stream.write(data)
        stream.writelines(behind())

    return write


def _keep_identity(ds: Dataset, source: Dataset) -> None:
    for keyword in ("SpecificCharacterSet", "TimezoneOffsetFromUTC", *PATIENT, *STUDY):
        _copy(ds, source, keyword)
    for keyword in _EMPTY:
        if keyword not in ds:
            setattr(ds, keyword, None)


def _remove_identity(ds: Dataset, material: Material) -> None:
    for keyword in _EMPTY:
        setattr(ds, keyword, None)
    source = material.image.dataset
    ds.PatientName = ds.PatientID = outside_patient(source, material)
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "dicomnode: new object, no element copied"
    ds.LongitudinalTemporalInformationModified = "REMOVED"


def outside_patient(source: Dataset, material: Material) -> str:
    """Give the pseudonym of the source's patient; without a Patient ID it stands for the study alone."""
    patient = str(source.get("PatientID") or "").strip()
    if not patient:
        return pseudonym(material.node.key, "study", material.instance.study_instance_uid)
    return pseudonym(material.node.key, patient, str(source.get("IssuerOfPatientID") or "").strip())


def _copy(ds: Dataset, source: Dataset, keyword: str) -> None:
    """Copy an element as it was sent; raw bytes stay raw, in the source's character set."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword  # noqa: S101 - a slip in the tables above
    if tag not in source:
        return
    element = cast("DataElement | RawDataElement", source.get_item(tag))
    vr = dictionary_VR(tag)
    if isinstance(element, RawDataElement) and vr != "SQ":
        # Implicit VR has no VR to copy, and explicit UN has a wrong one; none of these elements is binary.
        ds[tag] = element._replace(VR=vr, value=element.value or b"", is_implicit_VR=False, is_little_endian=True)
    else:
        ds[tag] = copy.deepcopy(source[tag])


def _zone(source: Dataset) -> timezone | None:
    """The source's offset from UTC, None (the node's own zone) when it has none."""
    try:
        offset = datetime.strptime(str(source.get("TimezoneOffsetFromUTC")).strip(), "%z").utcoffset()
    except ValueError:
        return None
    return timezone(offset or timedelta(0))


def _instance_number(source: Dataset) -> int:
    """The source's Instance Number, 1 when it has none that the standard allows."""
    try:
        number = int(str(source.get("InstanceNumber")))
    except ValueError:
        return 1
    return number if 1 <= number < 2**31 else 1

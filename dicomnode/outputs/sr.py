"""A Structured Report of what the node saw in one instance.

**Way** `build` takes the class that the destination accepts, has the content tree made (`tid1500` or `basic_text`) and
puts the document around it: unverified, complete, with the source as evidence and, after a rework, the report of the
former generation as predecessor. Content Qualification RESEARCH and a sentence say that it is no diagnosis.

**Fails** `StageFailed` when the tree or the document cannot be made.

**Standard** PS3.3 A.35.1 to A.35.3 and A.35.13 (classes), C.17.1 to C.17.3 (modules); PS3.16 TID 1500.

**Limits** One report for each instance, not for each study; no request is named as fulfilled.
"""

from __future__ import annotations

from collections import defaultdict

from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from dicomnode.errors import StageFailed
from dicomnode.outputs import basic_text, shell, tid1500
from dicomnode.outputs.material import MAKER, Material, Reference, reference, series_uid, study_uid
from dicomnode.records import Output

#: SOP Class of each ``sr_class``.
CLASSES = {
    "comprehensive-3d": str(Comprehensive3DSRStorage),
    "comprehensive": str(ComprehensiveSRStorage),
    "enhanced": str(EnhancedSRStorage),
    "basic-text": str(BasicTextSRStorage),
}


def build(material: Material) -> Output:
    """Make the report; the same material gives the same bytes.

    Raises
    ------
    StageFailed
        It cannot be made; the message holds no value of the data set.
    """
    if material.sr_class not in CLASSES:
        raise StageFailed("sr: no such sr_class")
    with shell.guard("sr"):
        ds = shell.new(material, "sr", CLASSES[material.sr_class], "SR")
        _document(ds, material)
        root = basic_text.tree(material) if material.sr_class == "basic-text" else tid1500.tree(material)
        for element in root:
            ds.add(element)
        return shell.finish(material, "sr", ds)


def _document(ds: Dataset, material: Material) -> None:
    """SR Document General Module (PS3.3 C.17.2) and what SR Document Series asks for."""
    ds.ContentDate, ds.ContentTime = shell.date_and_time(material)
    ds.ContentQualification = "RESEARCH"
    ds.CompletionFlag = "COMPLETE"
    ds.VerificationFlag = "UNVERIFIED"
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.PerformedProcedureCodeSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = _hierarchy([reference(material)])
    if material.predecessors:
        ds.PredecessorDocumentsSequence = _hierarchy(_predecessors(material))
    ds.CodingSchemeIdentificationSequence = [_own_scheme()]


def _predecessors(material: Material) -> list[Reference]:
    """Former reports stand in the same study, in the series of their class."""
    study = study_uid(material)
    return [
        Reference(study, series_uid(material, "sr", sop_class_uid), sop_class_uid, sop_instance_uid)
        for sop_class_uid, sop_instance_uid in material.predecessors
    ]


def _hierarchy(references: list[Reference]) -> list[Dataset]:
    """Hierarchical SOP Instance Reference Macro (PS3.3 C.17.2.1)."""
    studies: dict[str, dict[str, list[Dataset]]] = defaultdict(lambda: defaultdict(list))
    for one in references:
        item = Dataset()
        item.ReferencedSOPClassUID = one.sop_class_uid
        item.ReferencedSOPInstanceUID = one.sop_instance_uid
        studies[one.study_instance_uid][one.series_instance_uid].append(item)
    return [_study(uid, series) for uid, series in studies.items()]


def _study(study_instance_uid: str, series: dict[str, list[Dataset]]) -> Dataset:
    study = Dataset()
    study.ReferencedSeriesSequence = []
    for series_instance_uid, instances in series.items():
        item = Dataset()
        item.ReferencedSOPSequence = instances
        item.SeriesInstanceUID = series_instance_uid
        study.ReferencedSeriesSequence.append(item)
    study.StudyInstanceUID = study_instance_uid
    return study


def _own_scheme() -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = tid1500.SCHEME
    item.CodingSchemeName = "dicomnode body parts"
    item.CodingSchemeResponsibleOrganization = MAKER
    return item

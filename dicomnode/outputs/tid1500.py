"""The content tree of a TID 1500 Measurement Report, made with highdicom's templates.

**Way** One measurement group (TID 1501) tells the body part, one more each reported finding: with the finding as a code,
its site, the algorithm that saw it (TID 4019), its certainty in percent, and the source image with the frame that was
looked at. Sentences for people and the statement that this is no diagnosis stand among the qualitative evaluations.
No attribute of the patient comes here: highdicom sees codes, UIDs and words of ours.

**Standard** PS3.16 TID 1500, 1501, 300, 4019, 1002, 1204; CID 100, 4031, 7162, 7551.

**Limits** No Image Library (TID 1600): each group names its source image itself. An object that is no image (RT Dose) is
named as evidence of the document only.
"""

from __future__ import annotations

import highdicom.sr as hd
from highdicom.sr.value_types import ContainerContentItem, ContentSequence
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicomnode import uids
from dicomnode.contexts import is_image
from dicomnode.outputs import words
from dicomnode.outputs.material import MAKER, Material, frame_number, reference
from dicomnode.records import UNCERTAIN, Finding, Findings

#: Coding scheme of our own, for words of the router that no public scheme has.
SCHEME = "99DICOMNODE"
CHEST = hd.CodedConcept("816094009", "SCT", "Chest")
#: Finding sites of the body parts; "other" and "uncertain" have none.
SITES = {
    "abdomen": hd.CodedConcept("818981001", "SCT", "Abdomen"),
    "adult_chest": CHEST,
    "pediatric_chest": CHEST,
    "spine": hd.CodedConcept("421060004", "SCT", "Spine"),
}
ENGLISH = hd.CodedConcept("en", "RFC5646", "English")
_UNDETERMINED = hd.CodedConcept("373068000", "SCT", "Undetermined")
_QUALITATIVE = hd.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
_PERCENT = hd.CodedConcept("%", "UCUM", "Percent")
#: CID 100; every other modality is an imaging procedure, plain radiography too: readers of 2022 do not know its newer code.
_PROCEDURES = {
    "CT": codes.cid100.CTUnspecifiedBodyRegion,
    "MR": codes.cid100.MRIUnspecifiedBodyRegion,
    "NM": codes.cid100.NMUnspecifiedBodyRegion,
    "PT": codes.cid100.PETUnspecifiedBodyRegion,
}


def tree(material: Material) -> Dataset:
    """Give the root container of the report."""
    groups = [_body_part(material)]
    seen = [(one, item) for one in material.findings for item in words.reported(one)]
    groups += [_finding(material, place, one, item) for place, (one, item) in enumerate(seen, start=1)]
    report = hd.MeasurementReport(
        observation_context=hd.ObservationContext(observer_device_context=observer(material)),
        procedure_reported=_PROCEDURES.get(material.instance.modality, codes.cid100.ImagingProcedure),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=hd.LanguageOfContentItemAndDescendants(ENGLISH),
    )
    root: Dataset = report[0]
    root.ContentSequence.append(_statements(material))
    return root


def observer(material: Material) -> hd.ObserverContext:
    """Name the node as the observer; its AE title is for inside only, where it is no news."""
    node = material.node
    device = hd.DeviceObserverIdentifyingAttributes(
        uid=uids.derive("device", node.node_id),
        name=words.plain(node.ae_title) if material.identity == "kept" else MAKER,
        manufacturer_name=MAKER,
        model_name=MAKER,
        serial_number=words.plain(node.node_id, 64),
    )
    return hd.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)


def _body_part(material: Material) -> hd.MeasurementsAndQualitativeEvaluations:
    route = material.route
    known = route.body_part != UNCERTAIN
    value = hd.CodedConcept(route.body_part, SCHEME, route.body_part.replace("_", " ")) if known else _UNDETERMINED
    # What a header says has no certainty; neither has a picture that says nothing.
    certain = route.probability if known and route.source == "model" else None
    router = hd.AlgorithmIdentification(
        name=words.plain(route.router, 64) or "dicomnode router",
        version=words.plain(route.router_version or material.node.version, 64),  # the header is read by the node itself
        parameters=[f"source={route.source}", f"settings sha256={material.settings_digest}"],
        family=codes.cid7162.ArtificialIntelligence if route.source == "model" else None,
    )
    evaluation = hd.QualitativeEvaluation(name=codes.DCM.TargetRegion, value=value)
    return _group(material, "body part", None, router, certain, [evaluation])


def _finding(
    material: Material, place: int, findings: Findings, item: Finding,
) -> hd.MeasurementsAndQualitativeEvaluations:
    model = hd.AlgorithmIdentification(
        name=words.plain(findings.model, 64),
        version=words.plain(findings.version, 64),
        parameters=[f"model sha256={findings.digest}", f"settings sha256={material.settings_digest}"],
        family=codes.cid7162.ArtificialIntelligence,
    )
    code = hd.CodedConcept(item.code.value, item.code.scheme, words.plain(item.code.meaning, 64))
    return _group(material, f"finding {place}", code, model, item.probability, [])


def _group(
    material: Material,
    name: str,
    finding: hd.CodedConcept | None,
    algorithm: hd.AlgorithmIdentification,
    probability: float | None,
    evaluations: list[hd.QualitativeEvaluation],
) -> hd.MeasurementsAndQualitativeEvaluations:
    source = reference(material)
    site = SITES.get(material.route.body_part)
    certainty = []
    if probability is not None:
        value = round(probability * 100, 1)
        certainty.append(hd.Measurement(name=codes.DCM.CertaintyOfFinding, value=value, unit=_PERCENT))
    number = frame_number(material)
    image = hd.SourceImageForMeasurementGroup(
        referenced_sop_class_uid=source.sop_class_uid,
        referenced_sop_instance_uid=source.sop_instance_uid,
        referenced_frame_numbers=[number] if number else None,
    )
    group = hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(uids.derive(source.sop_instance_uid, name), name),
        finding_type=finding,
        finding_sites=[hd.FindingSite(site)] if site else None,
        measurements=certainty,
        qualitative_evaluations=evaluations,
        source_images=[image] if is_image(material.instance.sop_class_uid) else None,
    )
    # highdicom 0.28 takes an algorithm_id for the group and drops it.
    group[0].ContentSequence.extend(algorithm)
    return group


def _statements(material: Material) -> Dataset:
    """What a person is to read, as text: TID 1500 row 12 and 14."""
    lines = [words.DISCLAIMER, words.body_part(material.route), *words.models(material.findings)]
    for one in material.findings:
        whose = f" of {words.plain(one.model, 64)}" if len(material.findings) > 1 else ""
        lines.append(f"All labels{whose}: " + "; ".join(words.finding(item) for item in one.items))
    container = ContainerContentItem(name=_QUALITATIVE, relationship_type=hd.RelationshipTypeValues.CONTAINS)
    container.ContentSequence = ContentSequence(
        [
            hd.TextContentItem(
                name=codes.DCM.Comment, value=line, relationship_type=hd.RelationshipTypeValues.CONTAINS
            )
            for line in lines
        ]
    )
    return container

"""The content tree of a Basic Text SR, for archives that take no richer class.

**Way** The same sentences that the other reports hold, as text under two headings, and a reference to the source image.
The tree claims no template: none fits, and a tree that names one is held to all its rows.

**Standard** PS3.3 A.35.1 (no numbers, no coordinates), PS3.16 TID 1204 and 1002 for the first rows.

**Limits** Certainties are words here; who wants to compute with them takes an Enhanced SR.
"""

from __future__ import annotations

import highdicom.sr as hd
from highdicom.sr.value_types import ContainerContentItem, ContentItem, ContentSequence
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dicomnode.contexts import is_image
from dicomnode.outputs import tid1500, words
from dicomnode.outputs.material import Material, frame_number, reference

_CONTAINS = hd.RelationshipTypeValues.CONTAINS


def tree(material: Material) -> Dataset:
    """Give the root container of the report."""
    root = ContainerContentItem(name=codes.DCM.ImagingMeasurementReport)
    root.ContentSequence = ContentSequence()
    root.ContentSequence.extend(hd.LanguageOfContentItemAndDescendants(tid1500.ENGLISH))
    root.ContentSequence.extend(tid1500.observer(material))
    root.ContentSequence.append(_heading(codes.DCM.Findings, _findings(material)))
    statements = [words.DISCLAIMER, *words.models(material.findings)]
    root.ContentSequence.append(_heading(codes.DCM.Conclusions, [_text(codes.DCM.Comment, s) for s in statements]))
    return root


def _findings(material: Material) -> list[ContentItem]:
    items: list[ContentItem] = [_text(codes.DCM.Finding, words.body_part(material.route))]
    items += [_text(codes.DCM.Finding, words.finding(item)) for one in material.findings for item in one.items]
    if is_image(material.instance.sop_class_uid):
        source, number = reference(material), frame_number(material)
        items.append(
            hd.ImageContentItem(
                name=codes.DCM.SourceImage,
                referenced_sop_class_uid=source.sop_class_uid,
                referenced_sop_instance_uid=source.sop_instance_uid,
                referenced_frame_numbers=[number] if number else None,
                relationship_type=_CONTAINS,
            )
        )
    return items


def _heading(name: Code, items: list[ContentItem]) -> ContainerContentItem:
    container = ContainerContentItem(name=name, relationship_type=_CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container


def _text(name: Code, value: str) -> hd.TextContentItem:
    return hd.TextContentItem(name=name, value=value, relationship_type=_CONTAINS)

"""Where the frame that was looked at lies in the patient, as far as its header says so in full.

**Way** Position, orientation, spacing and thickness come from the header, or of an object with functional groups from those of
the frame. All of them are there and finite, or nothing is given. The Frame of Reference keeps its UID inside
and has a derived one outside, the same that the de-identified image has.

**Fails** Nothing: what cannot be read is not there.

**Standard** PS3.3 C.7.4.1, C.7.6.2, C.7.6.16.2.1, C.7.6.16.2.3, C.7.6.16.2.4.

**Limits** Slides (Image Orientation (Slide)) have none of it here.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.dataset import Dataset

from dicomnode import uids
from dicomnode.outputs.capture import numbers
from dicomnode.outputs.material import Material, outside_uid

_PER_FRAME, _SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
#: Keyword, the functional group that holds it, and how many numbers it has.
_NEEDED = (
    ("ImagePositionPatient", "PlanePositionSequence", 3),
    ("ImageOrientationPatient", "PlaneOrientationSequence", 6),
    ("PixelSpacing", "PixelMeasuresSequence", 2),
    ("SliceThickness", "PixelMeasuresSequence", 1),
)


def of_frame(material: Material) -> Mapping[str, object]:
    """Give the elements that place the frame, by keyword; empty when one is missing."""
    source = material.image.dataset
    frame_of_reference = str(source.get("FrameOfReferenceUID") or "")
    if not uids.is_valid(frame_of_reference):
        return {}
    found: dict[str, object] = {}
    for keyword, group, count in _NEEDED:
        values = _numbers(source, keyword, group, material.image.shown)
        if len(values) == count:
            found[keyword] = [f"{value:.10g}" for value in values] if count > 1 else f"{values[0]:.10g}"
    if len(found) < len(_NEEDED):
        return {}
    kept = material.identity == "kept"
    found["FrameOfReferenceUID"] = frame_of_reference if kept else outside_uid(material.node.key, frame_of_reference)
    return found


def _numbers(source: Dataset, keyword: str, group: str, frame: int) -> list[float]:
    """Numbers of an element: of the header itself, else of the frame's functional groups, its own before the shared ones."""
    if keyword in source:
        return numbers(source, keyword)
    for place, sequence in ((frame, _PER_FRAME), (0, _SHARED)):
        items = source.get(sequence) or []
        if len(items) > place and items[place].get(group):
            return numbers(items[place][group].value[0], keyword)
    return []

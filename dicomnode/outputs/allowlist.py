"""The one table of what a de-identified image may carry: everything else does not leave.

**Way** `take` copies the listed attributes of a source into an empty data set. Values are copied only when they are of the
kind that the attribute must have: numbers, code strings of the standard's alphabet, codes, UIDs (derived anew).

**Fails** Nothing: what cannot be read is left out.

**Standard** PS3.15 Annex E (attribute confidentiality), PS3.3 C.7.6.3, C.11, C.7.6.2, C.7.6.16 (functional groups).

**Limits** Not the Basic Profile: an allow-list is smaller. Descriptions, comments, dates, private elements and acquisition
parameters beyond geometry are all left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

#: VRs that hold numbers or bytes of tables; they cannot hold a name.
_NUMBERS = frozenset(("US", "SS", "UL", "SL", "FD", "FL", "DS", "IS", "AT", "UV", "SV"))
_TABLES = frozenset(("OW", "OB", "US or SS", "US or OW", "US or SS or OW"))
_CODE_STRING = re.compile(r"[A-Z0-9 _]{0,16}")

_PIXEL = """
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored
    HighBit PixelRepresentation PixelAspectRatio SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue
    PixelPaddingRangeLimit RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor
    BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData
    BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
    SegmentedBluePaletteColorLookupTableData LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
"""
_DISPLAY = """
    RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction VOILUTSequence
    LUTDescriptor LUTData ModalityLUTType PresentationLUTShape PixelIntensityRelationship PixelIntensityRelationshipSign
"""
_GEOMETRY = """
    PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing PixelSpacingCalibrationType SliceThickness
    SpacingBetweenSlices ImagePositionPatient ImageOrientationPatient SliceLocation PatientOrientation Laterality
    ImageLaterality ViewPosition PatientPosition EstimatedRadiographicMagnificationFactor
    DistanceSourceToDetector DistanceSourceToPatient FrameTime FrameIncrementPointer RecommendedDisplayFrameRate
"""
_KIND = """
    SOPClassUID Modality ImageType PresentationIntentType ConversionType InstanceNumber SeriesNumber
    AcquisitionNumber
"""
_GROUPS = """
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlanePositionSequence
    PlaneOrientationSequence PixelValueTransformationSequence FrameVOILUTSequence FrameContentSequence
    InStackPositionNumber TemporalPositionIndex DimensionIndexValues FrameAcquisitionNumber
"""
#: Keywords that may leave, nested ones too.
ALLOWED = frozenset(f"{_PIXEL} {_DISPLAY} {_GEOMETRY} {_KIND} {_GROUPS}".split())
#: Code strings and such whose values are taken though they are text: `_CODE_STRING` limits them.
_PLAIN_TEXT = frozenset(("RescaleType", "ModalityLUTType"))
_UIDS = frozenset(("SOPClassUID", "FrameOfReferenceUID", "SynchronizationFrameOfReferenceUID"))


def take(source: Dataset, derive: Callable[[str], str]) -> Dataset:
    """Copy what may leave into an empty data set.

    Parameters
    ----------
    source
        The header, icon and overlays already gone.
    derive
        Gives the UID that stands for an original one outside.
    """
    clean = _copy(source)
    for keyword in ("FrameOfReferenceUID", "SynchronizationFrameOfReferenceUID"):
        value = _get(source, keyword)
        if value is not None and str(value.value):
            setattr(clean, keyword, derive(str(value.value)))
    return clean


def _copy(source: Dataset) -> Dataset:
    clean = Dataset()
    for tag in list(source.keys()):
        keyword = keyword_for_tag(tag)
        if keyword not in ALLOWED:
            continue
        element = _get(source, keyword)
        if element is None:
            continue
        if element.VR == "SQ":
            clean.add_new(tag, "SQ", [_copy(item) for item in element.value])
        elif _safe(element):
            clean.add_new(tag, element.VR, element.value)
    return clean


def _get(source: Dataset, keyword: str) -> DataElement | None:
    try:
        return source[keyword] if keyword in source else None  # noqa: SIM401 - a Dataset's get gives values
    except Exception:  # noqa: BLE001 - an element that cannot be read does not leave
        return None


def _safe(element: DataElement) -> bool:
    """Say whether the value is of a kind that cannot hold a person's text."""
    if element.VR in _NUMBERS or element.VR in _TABLES:
        return not isinstance(element.value, str)
    if element.VR == "UI":
        return element.keyword in _UIDS
    if element.VR == "CS" or element.keyword in _PLAIN_TEXT:
        values: Any = element.value if element.VM > 1 else [element.value]
        return all(_CODE_STRING.fullmatch(str(value or "")) for value in values)
    return False

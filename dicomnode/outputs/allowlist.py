"""The one table of what a de-identified image may carry: everything else does not leave.

**Way** `take` copies the listed attributes of a source into an empty data set. Values are copied only when the element has
the value representation and multiplicity of the dictionary and the value is of the kind that the attribute must have: finite
numbers, defined terms (`terms`), tables as long as they say, UIDs (derived anew). What is text to a person does not leave.

**Fails** Nothing: what cannot be read is left out.

**Standard** PS3.15 Annex E (attribute confidentiality), PS3.3 C.7.6.3, C.11, C.7.6.2, C.7.6.16 (functional groups).

**Limits** Not the Basic Profile: an allow-list is smaller. Descriptions, comments, dates, private elements and acquisition
parameters beyond geometry are all left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicomnode.outputs import terms

#: VRs that hold numbers.
_NUMBERS = frozenset(("US", "SS", "UL", "SL", "FD", "FL", "DS", "IS"))
#: The largest number of any kind that an image has.
_LARGEST = 1e12

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
_UIDS = frozenset(("SOPClassUID", "FrameOfReferenceUID", "SynchronizationFrameOfReferenceUID"))
#: Numbers that count; larger ones may be identifiers.
_COUNTS = frozenset(("InstanceNumber", "SeriesNumber", "AcquisitionNumber", "FrameAcquisitionNumber"))
#: Frame Time, the only pointer that is copied.
_POINTERS = frozenset((0x00181063,))
_TABLES = frozenset(keyword for keyword in ALLOWED if keyword.endswith(("LUTData", "TableData")))
#: Bytes of a look-up table: 65536 entries of 16 bits.
_TABLE_MAX_BYTES = 2 << 16


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
        if not _fits(element):
            continue
        if element.VR == "SQ":
            clean.add_new(tag, "SQ", [_copy(item) for item in element.value])
        elif _is_text(element):
            values = terms.fitting(keyword, [str(value or "") for value in _values(element)])
            if values:
                clean.add_new(tag, element.VR, values if len(values) > 1 else values[0])
        elif _safe(element, source):
            clean.add_new(tag, element.VR, element.value)
    return clean


def _fits(element: DataElement) -> bool:
    """Say whether an element has the value representation and multiplicity that the standard gives it."""
    named = dictionary_VR(element.tag)
    if element.VR not in (named, *named.split(" or ")):
        return False
    if element.VR in ("SQ", "OW", "OB") or isinstance(element.value, bytes):
        return True
    least, _, most = dictionary_VM(element.tag).partition("-")
    count = len(_values(element))
    if most in ("n", "2n", "3n"):
        return count >= int(least)
    return int(least) <= count <= int(most or least)


def _is_text(element: DataElement) -> bool:
    return element.VR in ("CS", "LO")


def _values(element: DataElement) -> list[Any]:
    value: Any = element.value
    if value is None or value == "":
        return []
    return list(value) if element.VM > 1 else [value]


def _get(source: Dataset, keyword: str) -> DataElement | None:
    try:
        return source[keyword] if keyword in source else None  # noqa: SIM401 - a Dataset's get gives values
    except Exception:  # noqa: BLE001 - an element that cannot be read does not leave
        return None


def _safe(element: DataElement, source: Dataset) -> bool:
    """Say whether the value is of a kind that cannot hold a person's text."""
    if isinstance(element.value, bytes):
        return element.keyword in _TABLES and len(element.value) <= _table_bytes(element.keyword, source)
    if element.VR in _NUMBERS or element.VR.startswith("US or"):
        largest = terms.LARGEST_NUMBER if element.keyword in _COUNTS else _LARGEST
        values = _values(element)
        if element.keyword in _TABLES and 2 * len(values) > _table_bytes(element.keyword, source):
            return False
        return all(_is_number(value) and abs(value) <= largest for value in values)
    if element.VR == "AT":
        return all(int(value) in _POINTERS for value in _values(element))
    return element.VR == "UI" and element.keyword in _UIDS and not UID(str(element.value)).is_private


def _is_number(value: Any) -> bool:
    return not isinstance(value, str | bytes) and math.isfinite(value)


def _table_bytes(keyword: str, source: Dataset) -> int:
    """Room that a table may take, by its descriptor; what stands behind the entries is no table."""
    if keyword.startswith("Segmented"):
        return _TABLE_MAX_BYTES
    described = _get(source, keyword.removesuffix("Data") + "Descriptor")
    if described is None or described.VM != 3 or not all(isinstance(value, int) for value in described.value):
        return 0
    return 2 * (abs(described.value[0]) or 1 << 16)

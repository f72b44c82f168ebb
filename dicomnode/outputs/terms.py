"""The words that a code string may say when it leaves: defined terms of the standard, and nothing that a person can type.

**Way** `CLOSED` gives the terms of each attribute that is text; `fitting` gives of a value what may leave.

**Standard** PS3.3 C.7.6.1.1.2 and C.8 (Image Type), C.7.3.1.1.1 (Modality), C.11, C.8.6, C.8.7, C.8.11 and what each names;
PS3.16 CID 4010 (views), 29 to 33 (modalities).

**Limits** Terms of vendors, which Image Type often has, are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dicomnode.header import MODALITIES
from dicomnode.image.spec import PHOTOMETRIC

#: Numbers of instances, series and acquisitions up to this are counts; larger ones may be identifiers.
LARGEST_NUMBER = 99_999
_IMAGE_KINDS = (frozenset(("ORIGINAL", "DERIVED")), frozenset(("PRIMARY", "SECONDARY")))
_PLAIN_TYPES = """
    ORIGINAL DERIVED PRIMARY SECONDARY MIXED AXIAL LOCALIZER CT_LOCALIZER REFORMATTED MPR MIP MAX_IP MIN_IP AVERAGE MEAN MEDIAN
    RESAMPLED VOLUME VOLUME_RENDER SURFACE_RENDER NONE ADD ADDITION SUBTRACT SUBTRACTION MULTIPLICATION DIVISION MASKED
    EDGE_ENHANCEMENT FILTERED QUANTITY MAXIMUM MINIMUM STD_DEVIATION M P R I M_SE M_FFE M_IR PHASE MAGNITUDE REAL IMAGINARY
    ANGIO CARDIAC CINE DIFFUSION FLOW PERFUSION FUNCTIONAL ADC T1 T2 T2_STAR DENSITY WATER FAT STATIC DYNAMIC GATED TOMO
    EMISSION TRANSMISSION STEREO PORTAL SIMULATOR DRR RADIOGRAPH BLANK FLUENCE POST_PROCESSED TOMOSYNTHESIS GENERATED_2D LABEL
    OVERVIEW THUMBNAIL
"""
_SPACED_TYPES = (
    "PROJECTION IMAGE", "VIRTUAL ENDOSCOPY", "WHOLE BODY", "RECON TOMO", "RECON GATED TOMO", "GATED TOMO", "SINGLE PLANE",
    "BIPLANE A", "BIPLANE B",
)
_VIEWS = "AP PA LL RL LLD RLD LLO RLO ML MLO LM LMO CC XCCL XCCM FB SIO ISO CV SPECIMEN RAO LAO RPO LPO AXIAL LATERAL"
_POSITIONS = "HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL"
_CONVERSIONS = "DV DI DF WSD SD SI DRW SYN"
_METHODS = "ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_2 ISO_15444_15 ISO_13818_2 ISO_14496_10 ISO_23008_2 ISO_18181_1"
_UNITS = "OD HU US MGML Z_EFF ED EDW HU_MOD PCT CNTS CPS BQML GML PROPCNTS PROPCPS STDDEV SUV"
#: Terms of each attribute, by keyword.
CLOSED: Mapping[str, frozenset[str]] = {
    "ImageType": frozenset((*_PLAIN_TYPES.split(), *_SPACED_TYPES)),
    "Modality": MODALITIES,
    "PhotometricInterpretation": PHOTOMETRIC,
    "Laterality": frozenset("RL"),
    "ImageLaterality": frozenset("RLUB"),
    "ViewPosition": frozenset(_VIEWS.split()),
    "PatientPosition": frozenset(_POSITIONS.split()),
    "PresentationIntentType": frozenset(("FOR PRESENTATION", "FOR PROCESSING")),
    "ConversionType": frozenset(_CONVERSIONS.split()),
    "RescaleType": frozenset(_UNITS.split()),
    "ModalityLUTType": frozenset(_UNITS.split()),
    "VOILUTFunction": frozenset(("LINEAR", "LINEAR_EXACT", "SIGMOID")),
    "PresentationLUTShape": frozenset(("IDENTITY", "INVERSE")),
    "PixelIntensityRelationship": frozenset(("LIN", "LOG", "DISP")),
    "PixelSpacingCalibrationType": frozenset(("GEOMETRY", "FIDUCIAL")),
    "LossyImageCompression": frozenset(("00", "01")),
    "LossyImageCompressionMethod": frozenset(_METHODS.split()),
}
_DIRECTION = re.compile(r"(?!.*(.).*\1)[APRLHF]{1,3}")


def fitting(keyword: str, values: list[str]) -> list[str]:
    """Give of the values of a text attribute what may leave; nothing when one is no term, of Image Type the terms."""
    if keyword == "PatientOrientation":
        fits: Callable[[Any], Any] = _DIRECTION.fullmatch
    else:
        fits = CLOSED.get(keyword, frozenset()).__contains__
    if keyword == "ImageType":
        whole = len(values) >= 2 and all(value in kind for value, kind in zip(values, _IMAGE_KINDS, strict=False))
        return [value for value in values if fits(value)] if whole else []
    return values if all(fits(value) for value in values) else []

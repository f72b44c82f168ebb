"""The object around a picture that the node drew: a Secondary Capture Image, whatever it shows.

**Way** `make` takes a picture of 8 bits and words of ours, and gives the `Output`. `redacted` gives the pixels that a picture
may be drawn from: they are reached through `Coded`, so no others can come here.

**Fails** `StageFailed` when there are no redacted pixels or the object cannot be made; `RedactionUncertain` when it is for
outside and the pixels were neither redacted in strict mode nor released by a person.

**Standard** PS3.3 A.8.1 (IOD), C.8.6.1 and C.8.6.2 (SC Equipment, SC Image), C.7.6.1 (General Image), C.7.6.3 (Image Pixel).

**Limits** 8 bits, one frame, no measuring: spacing is left out. Patient Orientation and Laterality are sent empty, which
says that they are not known to the capture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, SecondaryCaptureImageStorage

from dicomnode.errors import StageFailed
from dicomnode.image import Redacted
from dicomnode.outputs import caption, shell, terms
from dicomnode.outputs.material import MAKER, Material, frame_number, reference
from dicomnode.records import Output, OutputKind

#: Method and transfer syntaxes that always lose (PS3.3 C.7.6.1.1.5); JPEG 2000 may, its header says.
_LOSSY = {
    str(JPEGBaseline8Bit): "ISO_10918_1",
    str(JPEGExtended12Bit): "ISO_10918_1",
    str(JPEGLSNearLossless): "ISO_14495_1",
}
_METHODS = {**_LOSSY, str(JPEG2000): "ISO_15444_1"}


def make(
    material: Material, kind: OutputKind, draw: Callable[[Material, Redacted], caption.Picture], *, description: str,
) -> Output:
    """Make the object; the same material gives the same bytes.

    Parameters
    ----------
    draw
        Gives the pixels: (rows, cols) or (rows, cols, 3) of uint8.
    description
        Derivation Description (0008,2111), how the pixels came about.

    Raises
    ------
    StageFailed
        There are no redacted pixels, or the object cannot be made; the message holds no value of the data set.
    RedactionUncertain
        It is for outside, and unknown text may still stand in the pixels.
    """
    if material.coded is None:
        raise StageFailed(f"{kind}: there are no redacted pixels")
    redacted = material.coded.redacted
    if material.identity == "removed":
        shell.vouch(redacted)
    with shell.guard(kind):
        ds = shell.new(material, kind, str(SecondaryCaptureImageStorage), "OT")
        _general(ds, material, description)
        # Else it is left out: nobody can say. The caption identifies no one.
        if redacted.clean:
            ds.BurnedInAnnotation = "NO"
        lossy(ds, material)
        _pixels(ds, draw(material, redacted))
        return shell.finish(material, kind, ds)


def _general(ds: Dataset, material: Material, description: str) -> None:
    ds.ConversionType = "WSD"
    ds.SecondaryCaptureDeviceManufacturer = MAKER
    ds.SecondaryCaptureDeviceManufacturerModelName = MAKER
    ds.ContentQualification = "RESEARCH"
    ds.ContentDate, ds.ContentTime = shell.date_and_time(material)
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.DerivationDescription = description
    # 2C: required where the image itself may have a direction or a side; empty says unknown.
    ds.PatientOrientation = None
    ds.Laterality = None
    ds.SourceImageSequence = [_source(material)]


def _source(material: Material) -> Dataset:
    source = reference(material)
    item = Dataset()
    item.ReferencedSOPClassUID = source.sop_class_uid
    item.ReferencedSOPInstanceUID = source.sop_instance_uid
    number = frame_number(material)
    if number:
        item.ReferencedFrameNumber = number
    purpose = Dataset()
    purpose.CodeValue = "121322"
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def lossy(ds: Dataset, material: Material) -> None:
    """Say that information was lost when it was, on the way to us; once 01, always 01 (PS3.3 C.7.6.1.1.5)."""
    source, syntax = material.image.dataset, material.instance.transfer_syntax_uid
    if str(source.get("LossyImageCompression") or "") != "01" and syntax not in _LOSSY:
        ds.LossyImageCompression = "00"
        return
    ds.LossyImageCompression = "01"
    ratio = numbers(source, "LossyImageCompressionRatio") or [_ratio(source, material.instance.size_bytes)]
    methods = terms.fitting("LossyImageCompressionMethod", [str(m) for m in _values(source, "LossyImageCompressionMethod")])
    ds.LossyImageCompressionRatio = [f"{value:.6g}" for value in ratio]
    if methods or syntax in _METHODS:
        ds.LossyImageCompressionMethod = methods or [_METHODS[syntax]]


def _ratio(source: Dataset, size_bytes: int) -> float:
    """Estimate the ratio from the sizes, when the source does not tell it."""
    cells = [int(source.get(k) or 1) for k in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")]
    return max(1.0, float(np.prod(cells)) / 8 / max(1, size_bytes))


def _pixels(ds: Dataset, picture: caption.Picture) -> None:
    colour = picture.ndim == 3
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = picture.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    data = np.ascontiguousarray(picture).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"


def aspect(source: Dataset) -> float:
    """Height of a pixel by its width, as the header has it; 1 when it has none or one that cannot be."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        found = numbers(source, keyword)
        if len(found) == 2 and min(found) > 0:
            ratio = found[0] / found[1]
            return ratio if 0.1 <= ratio <= 10 else 1.0
    return 1.0


def numbers(source: Dataset, keyword: str) -> list[float]:
    """Numbers of an element, none when one of them is not."""
    try:
        found = [float(value) for value in _values(source, keyword)]
    except ValueError:
        return []
    return found if np.isfinite(found).all() else []


def _values(source: Dataset, keyword: str) -> list[Any]:
    value = source.get(keyword)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)

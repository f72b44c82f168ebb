"""A Secondary Capture picture of the result, for people whose viewer shows no reports.

**Way** The redacted picture of the frame that was looked at, brought to a longest side of 1024 pixels, with a band below it
that tells body part, the findings of each model and "not for diagnostic use". Only redacted pixels can come here: they are
reached through `Coded`. The caption is made of words of ours; nothing of the header is drawn.

**Fails** `StageFailed` when there are no redacted pixels or the object cannot be made; `RedactionUncertain` when it is for
outside and the pixels were neither redacted in strict mode nor released by a person.

**Standard** PS3.3 A.8.1 (IOD), C.8.6.1 and C.8.6.2 (SC Equipment, SC Image), C.7.6.1 (General Image), C.7.6.3 (Image Pixel).

**Limits** 8 bits, one frame, no measuring: spacing is left out. Patient Orientation and Laterality are sent empty, which
says that they are not known to the capture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, SecondaryCaptureImageStorage

from dicomnode.errors import StageFailed
from dicomnode.image import Coded
from dicomnode.outputs import caption, shell, terms, words
from dicomnode.outputs.material import MAKER, Material, frame_number, reference
from dicomnode.records import Output

#: Method and transfer syntaxes that always lose (PS3.3 C.7.6.1.1.5); JPEG 2000 may, its header says.
_LOSSY = {
    str(JPEGBaseline8Bit): "ISO_10918_1",
    str(JPEGExtended12Bit): "ISO_10918_1",
    str(JPEGLSNearLossless): "ISO_14495_1",
}
_METHODS = {**_LOSSY, str(JPEG2000): "ISO_15444_1"}


def build(material: Material) -> Output:
    """Make the capture; the same material gives the same bytes.

    Raises
    ------
    StageFailed
        There are no redacted pixels, or the object cannot be made; the message holds no value of the data set.
    RedactionUncertain
        It is for outside, and unknown text may still stand in the pixels.
    """
    coded = material.coded
    if coded is None:
        raise StageFailed("sc: there are no redacted pixels")
    if material.identity == "removed":
        shell.vouch(coded.redacted)
    with shell.guard("sc"):
        ds = shell.new(material, "sc", str(SecondaryCaptureImageStorage), "OT")
        _general(ds, material)
        # Burned In Annotation is left out: detection finds horizontal text only, so NO cannot be vouched for.
        _lossy(ds, material)
        _pixels(ds, draw(material, coded))
        return shell.finish(material, "sc", ds)


def draw(material: Material, coded: Coded) -> caption.Picture:
    """Give the pixels of the capture: (rows, cols) or (rows, cols, 3) of uint8."""
    picture = coded.redacted.picture(material.image.shown)
    lines = [words.body_part(material.route)]
    for findings in material.findings:
        lines += [words.finding(item) for item in words.reported(findings)]
        lines.append(words.model(findings))
    lines.append(f"{words.DISCLAIMER} - {MAKER} {words.plain(material.node.version, 16)}")
    return caption.below(caption.scale(picture, _aspect(material.image.dataset)), lines)


def _general(ds: Dataset, material: Material) -> None:
    ds.ConversionType = "WSD"
    ds.SecondaryCaptureDeviceManufacturer = MAKER
    ds.SecondaryCaptureDeviceManufacturerModelName = MAKER
    ds.ContentQualification = "RESEARCH"
    ds.ContentDate, ds.ContentTime = shell.date_and_time(material)
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.DerivationDescription = "Redacted, windowed and scaled, result set below; not for diagnostic use"
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


def _lossy(ds: Dataset, material: Material) -> None:
    """Say that information was lost when it was, on the way to us; once 01, always 01 (PS3.3 C.7.6.1.1.5)."""
    source, syntax = material.image.dataset, material.instance.transfer_syntax_uid
    if str(source.get("LossyImageCompression") or "") != "01" and syntax not in _LOSSY:
        ds.LossyImageCompression = "00"
        return
    ds.LossyImageCompression = "01"
    ratio = _numbers(source, "LossyImageCompressionRatio") or [_ratio(source, material.instance.size_bytes)]
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


def _aspect(source: Dataset) -> float:
    """Height of a pixel by its width, as the header has it; 1 when it has none or one that cannot be."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        numbers = _numbers(source, keyword)
        if len(numbers) == 2 and min(numbers) > 0:
            aspect = numbers[0] / numbers[1]
            return aspect if 0.1 <= aspect <= 10 else 1.0
    return 1.0


def _numbers(source: Dataset, keyword: str) -> list[float]:
    """Numbers of an element, none when one of them is not."""
    try:
        numbers = [float(value) for value in _values(source, keyword)]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []


def _values(source: Dataset, keyword: str) -> list[Any]:
    value = source.get(keyword)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)

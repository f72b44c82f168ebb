"""A DICOM Segmentation of the masks that the models gave: one BINARY segment for each label of each model.

**Way** highdicom makes the object around a stand-in of the frame that was looked at, eight pixels wide, which has the source's
geometry and no identity; patient and study come as in every object of ours (`shell`). The segments themselves are laid over
the frame while they are written, strip by strip, so that neither size nor number of segments needs memory. They are as large
as the frame and lie on it pixel by pixel. Inside they refer to the source, outside to its de-identified image, and there no
pixel belongs to a segment that redaction has blanked: a mask may have traced letters.

**Fails** `StageFailed` when it cannot be made, or for outside without redacted pixels; `RedactionUncertain` as `capture`.

**Standard** PS3.3 A.51 (IOD), C.8.20.2 (Segmentation Image), C.8.20.3.1, C.7.6.16 (functional groups), C.7.6.17; PS3.5 8.1.1
(cells of one bit); PS3.16 CID 7150 (categories).

**Limits** Of a multi-frame source the frame that was looked at. Heat is evidence without a unit and no mask: `sc-map` shows it.
A Frame of Reference only where the source says position, orientation, spacing and thickness; else Derivation Image alone
tells where the segments lie (A.51.3). The pixels' threshold stands in each Segment Description.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, SegmentationStorage

from dicomnode import uids
from dicomnode.errors import StageFailed
from dicomnode.outputs import capture, geometry, shell, tid1500, words
from dicomnode.outputs.lay import Grid, belongs
from dicomnode.outputs.material import MAKER, Material, frame_number, reference
from dicomnode.records import Findings, Map, Output, Region

_KIND: Final = "seg"
#: Side of the stand-in; what highdicom says of its pixels is replaced.
_SIDE = 8
#: Elements of highdicom's that are ours to say, or that say when rather than what.
_NOT_TAKEN = frozenset(
    ("Rows", "Columns", "PixelData", "SegmentsOverlap", "ContentDate", "ContentTime", "InstanceCreationDate",
     "InstanceCreationTime", "SeriesDate", "SeriesTime", "SpecificCharacterSet", "TimezoneOffsetFromUTC",
     "ContributingEquipmentSequence", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Segment:
    findings: Findings
    map: Map


def build(material: Material) -> Output:
    """Make the segmentation; the same material gives the same bytes.

    Raises
    ------
    StageFailed
        It cannot be made; the message holds no value of the data set.
    RedactionUncertain
        It is for outside, and unknown text may still stand in the pixels.
    """
    cut: tuple[Region, ...] = ()
    if material.identity == "removed":
        if material.coded is None:
            raise StageFailed("seg: there are no redacted pixels")
        shell.vouch(material.coded.redacted)
        cut = material.coded.redacted.regions_of(material.image.shown)
    segments = [_Segment(one, mask) for one in material.findings for mask in one.maps if mask.kind == "mask"]
    with shell.guard(_KIND):
        ds = shell.new(material, _KIND, str(SegmentationStorage), "SEG")
        for element in _made(material, segments):
            if element.keyword not in _NOT_TAKEN and element.tag not in ds:
                ds.add(element)
        _finish(ds, material, segments)
        length = -(-len(segments) * material.image.rows * material.image.columns // 8)
        grid = Grid(material.image.rows, material.image.columns, (material.image.rows, material.image.columns))
        behind = partial(_pixel_data, tuple(segment.map for segment in segments), grid, cut, length)
        return shell.finish(material, _KIND, ds, behind)


def _made(material: Material, segments: Sequence[_Segment]) -> Dataset:
    """What highdicom makes of the stand-in."""
    source = reference(material)
    everything = np.ones((1, _SIDE, _SIDE, len(segments)), dtype=bool)
    made: Dataset = hd.seg.Segmentation(
        source_images=[_stand_in(material)],
        pixel_array=everything,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(material, number, segment) for number, segment in enumerate(segments, start=1)
        ],
        series_instance_uid=source.series_instance_uid,
        series_number=1,
        sop_instance_uid=source.sop_instance_uid,
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=MAKER,
        device_serial_number=MAKER,
        content_label="MASKS",
        content_description="Masks of models, not for diagnostic use",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    return made


def _stand_in(material: Material) -> Dataset:
    """The frame that was looked at, with the UIDs by which the segmentation refers to it, and without a patient."""
    source = reference(material)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Of a class that highdicom knows to have one frame, whatever the source is; `_finish` names the source's own.
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, source.sop_instance_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = source.study_instance_uid, source.series_instance_uid
    ds.Modality = material.instance.modality or "OT"
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
                    "StudyTime", "ReferringPhysicianName"):  # fmt: skip
        setattr(ds, keyword, None)
    ds.Rows = ds.Columns = _SIDE
    ds.SamplesPerPixel, ds.BitsAllocated = 1, 8
    for keyword, value in geometry.of_frame(material).items():
        setattr(ds, keyword, value)
    return ds


def _description(material: Material, number: int, segment: _Segment) -> hd.seg.SegmentDescription:
    findings, mask = segment.findings, segment.map
    site = tid1500.SITES.get(material.route.body_part)
    parameters = {"model sha256": findings.digest, "settings sha256": material.settings_digest}
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=words.plain(mask.label, 64),
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure if mask.of_abnormal
        else codes.SCT.AnatomicalStructure,
        segmented_property_type=hd.sr.CodedConcept(mask.code.value, mask.code.scheme, words.plain(mask.code.meaning, 64)),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=words.plain(findings.model, 64), family=codes.cid7162.ArtificialIntelligence,
            version=words.plain(findings.version, 64), parameters=parameters,
        ),
        tracking_uid=uids.derive(reference(material).sop_instance_uid, "mask", findings.model, mask.label),
        tracking_id=words.plain(f"{findings.model} {mask.label}", 64),
        anatomic_regions=[site] if site else None,
    )
    told = next((words.finding(item) for item in findings.items if item.label == mask.label), mask.label)
    described.SegmentDescription = f"{told}; pixels from probability {mask.threshold:g}; {words.DISCLAIMER.lower()}"
    return described


def _finish(ds: Dataset, material: Material, segments: Sequence[_Segment]) -> None:
    """What the stand-in could not say."""
    ds.Rows, ds.Columns = material.image.rows, material.image.columns
    ds.SegmentsOverlap = "NO" if len(segments) == 1 else "UNDEFINED"
    ds.ContentDate, ds.ContentTime = shell.date_and_time(material)
    if "FrameOfReferenceUID" in ds:
        ds.PositionReferenceIndicator = None
    else:
        ds.PatientOrientation = None  # 2C without a place in space (C.7.6.1): empty says unknown
    capture.lossy(ds, material)
    dimensions = uids.derive(ds.SOPInstanceUID, "dimensions")
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    ds.ContentCreatorName = None
    shared = ds.SharedFunctionalGroupsSequence[0]
    for measures in shared.get("PixelMeasuresSequence") or ():
        measures.pop("SpacingBetweenSlices", None)  # one frame has none
    number = frame_number(material)
    for frame in (ds, *(item for one in ds.PerFrameFunctionalGroupsSequence for item in one.DerivationImageSequence)):
        for source in frame.SourceImageSequence:
            source.ReferencedSOPClassUID = material.instance.sop_class_uid
            if number:
                source.ReferencedFrameNumber = number
    for series in ds.ReferencedSeriesSequence:
        for source in series.ReferencedInstanceSequence:
            source.ReferencedSOPClassUID = material.instance.sop_class_uid


def _pixel_data(masks: Sequence[Map], grid: Grid, cut: Sequence[Region], length: int) -> Iterator[bytes]:
    """Pixel Data with its head: cells of one bit, the first of each byte the lowest, frames without a gap between them."""
    yield b"\xe0\x7f\x10\x00OB\0\0" + (length + length % 2).to_bytes(4, "little")
    rest = np.zeros(0, dtype=bool)
    for mask in masks:
        for strip in grid.strips(mask, cut):
            bits = np.concatenate([rest, belongs(strip, mask).ravel()])
            whole = len(bits) // 8 * 8
            yield np.packbits(bits[:whole], bitorder="little").tobytes()
            rest = bits[whole:]
    yield np.packbits(rest, bitorder="little").tobytes() + b"\0" * (length % 2)

"""What a builder of outputs gets, and the names that all builders must agree on.

**Way** `pipeline.process` fills one `Material` for each output that is to be made and hands it to the builder of its
kind. The builders derive every UID here, so that a report for outside refers to the very de-identified image that leaves
beside it, and so that working an instance twice gives the same bytes twice.

**Fails** Nothing is raised here.

**Standard** PS3.5 Annex B.2 (derived UIDs), PS3.15 Annex E (what may leave).

**Limits** A pseudonym is as secret as the node's key: who holds the key can try patient IDs until one fits.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalIntraOralXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    VLEndoscopicImageStorage,
    VLMicroscopicImageStorage,
    VLPhotographicImageStorage,
    VLSlideCoordinatesMicroscopicImageStorage,
)

from dicomnode import uids
from dicomnode.header import MANUFACTURER
from dicomnode.records import Findings, Identity, Instance, Output, OutputKind, Route

if TYPE_CHECKING:
    from dicomnode.image import Coded, Image

#: Manufacturer and model by which every node knows an object that a dicomnode made.
MAKER = MANUFACTURER

#: Classes whose instances have one frame: a reference must not name a frame, even of an instance that breaks this.
_SINGLE_FRAME = frozenset(
    str(uid)
    for uid in (
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        DigitalMammographyXRayImageStorageForPresentation,
        DigitalMammographyXRayImageStorageForProcessing,
        DigitalIntraOralXRayImageStorageForPresentation,
        DigitalIntraOralXRayImageStorageForProcessing,
        CTImageStorage,
        MRImageStorage,
        UltrasoundImageStorage,
        SecondaryCaptureImageStorage,
        PositronEmissionTomographyImageStorage,
        VLEndoscopicImageStorage,
        VLMicroscopicImageStorage,
        VLSlideCoordinatesMicroscopicImageStorage,
        VLPhotographicImageStorage,
    )
)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the node is called, in outputs and in secret."""

    #: Device Serial Number (0018,1000) of every output: the mark of this very node.
    node_id: str
    ae_title: str
    #: The node's secret, for pseudonyms and for UIDs that leave; never written anywhere.
    key: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that one output is made of."""

    instance: Instance
    image: Image
    #: None when there are no pixels, or when redaction holds them; only the SR can be made then.
    coded: Coded | None
    route: Route
    #: One for each model that was asked.
    findings: tuple[Findings, ...]
    identity: Identity
    #: Names of peers.
    destinations: tuple[str, ...]
    #: ``comprehensive-3d`` | ``comprehensive`` | ``enhanced`` | ``basic-text``
    sr_class: str
    node: NodeFacts
    settings_digest: str
    #: 0 at first, one more with each rework that a person asked for.
    generation: int
    #: The Part 10 file as received, seekable; it stays open until the outputs have been written, and is not ours to close.
    source: BinaryIO
    #: (SOP Class UID, SOP Instance UID) of the same kind of result of the former generation.
    predecessors: tuple[tuple[str, str], ...] = ()


#: Makes one output of one kind.
Builder = Callable[[Material], Output]


@dataclass(frozen=True, slots=True)
class Reference:
    """The image that a result speaks of, by the UIDs under which its reader can find it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def outside_uid(key: bytes, uid: str) -> str:
    """Derive the UID that stands for ``uid`` outside: always the same, and not to be guessed without the node's key."""
    return uids.derive("outside", key.hex(), uid)


def pseudonym(key: bytes, *parts: str) -> str:
    """Derive the token that stands for a patient outside, from Patient ID and its issuer.

    Returns 16 characters of base 32, 80 bits, valid as LO and as PN.
    """
    alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    message = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)
    number = int.from_bytes(hmac.digest(key, b"patient" + message, "sha256")[:10], "big")
    return "".join(alphabet[(number >> shift) & 31] for shift in range(75, -5, -5))


def result_uid(material: Material, kind: OutputKind, sop_class_uid: str) -> str:
    """SOP Instance UID of the result of this kind and class; outside, not to be guessed from the source's bytes."""
    uid = uids.derive(
        material.instance.sha256,
        kind,
        sop_class_uid,
        material.identity,
        material.settings_digest,
        str(material.generation),
    )
    return uid if material.identity == "kept" else outside_uid(material.node.key, uid)


def study_uid(material: Material) -> str:
    """Study Instance UID under which results go: the patient's own inside, a derived one outside."""
    uid = _source_study(material)
    return uid if material.identity == "kept" else outside_uid(material.node.key, uid)


def _source_study(material: Material) -> str:
    """The source's Study Instance UID; what has none makes a study of its own, for results need one (type 1)."""
    instance = material.instance
    return instance.study_instance_uid or uids.derive("study of", instance.sop_instance_uid)


def _source_series(material: Material) -> str:
    """The source's Series Instance UID; what has none makes a series of its own."""
    instance = material.instance
    return instance.series_instance_uid or uids.derive("series of", instance.sop_instance_uid)


def series_uid(material: Material, kind: OutputKind, sop_class_uid: str) -> str:
    """Series Instance UID that all results of one kind for one source series share.

    The de-identified image keeps the grouping of its source, one series to one; results outside hang on the derived
    UID, so that nobody can try whether they belong to a series that he knows.
    """
    uid = _source_series(material)
    if material.identity == "removed":
        uid = outside_uid(material.node.key, uid)
    if kind == "deidentified":
        return uid
    return uids.derive(uid, kind, sop_class_uid, material.identity, material.node.node_id)


def reference(material: Material) -> Reference:
    """Name the image that a result speaks of: the source inside, its de-identified image outside."""
    instance = material.instance
    if material.identity == "kept":
        series = _source_series(material)
        return Reference(study_uid(material), series, instance.sop_class_uid, instance.sop_instance_uid)
    return Reference(
        study_uid(material),
        series_uid(material, "deidentified", instance.sop_class_uid),
        instance.sop_class_uid,
        result_uid(material, "deidentified", instance.sop_class_uid),
    )


def frame_number(material: Material) -> int | None:
    """Number, from 1, by which a reference names the frame that is shown; None where a reference must name none."""
    if material.image.frames <= 1 or material.instance.sop_class_uid in _SINGLE_FRAME:
        return None
    return material.image.shown + 1

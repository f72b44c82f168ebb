"""The certificate of a redacted image: what was blanked, by what means, and the proof that nothing else was.

**Way** `certify` reads what was written, compares it with the original frame by frame (`frames`) and gives the certificate
(`record`). `proof` takes an original, a redacted file and a certificate, and says whether they fit.

**Fails** `StageFailed` when what was written differs from the original outside of the regions: it must not leave.

**Standard** PS3.15 E.3.1 (Clean Pixel Data Option).

**Limits** Of whole images only; a capture shows one frame, scaled and captioned, and has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, BinaryIO

from pydicom.dataset import Dataset

from dicomnode.certificate.frames import Frames, colours
from dicomnode.certificate.record import VERSION, Area, Certificate, Coding, Source, sealed
from dicomnode.errors import StageFailed
from dicomnode.gate import uid_token
from dicomnode.image import Coded, Image, codecs
from dicomnode.image.blocks import RIM
from dicomnode.records import Region

__all__ = ["NEAR", "certify", "rim"]

#: How far from blank a value inside of a region may decode: coefficients are rounded, other codings exact.
NEAR: dict[Coding, float] = {"native": 0.0, "lossless": 0.0, "rebuilt": 0.0, "coefficients": 4.0}


def rim(coding: Coding, samples: int) -> int:
    """Columns and rows at the edge of a region that need not be blank: there decoders mix the colours of blocks."""
    return RIM if coding == "coefficients" and samples > 1 else 0


def certify(stream: BinaryIO, coded: Coded, version: str, key: bytes = b"", pixel_digest: str = "") -> dict[str, Any]:
    """Compare what was written with its original, and give the certificate as plain values.

    Parameters
    ----------
    stream
        The file that was made of ``coded``.
    version
        Of dicomnode.
    key
        Of the node, for token and seal; none without a node.
    pixel_digest
        Of the original, where it is known.

    Raises
    ------
    StageFailed
        The file differs from its original outside of the regions, or is not blank inside.
    Undecodable
        The file does not decode.
    """
    redacted, original, result = coded.redacted, coded.redacted.image, Image.open(stream)
    if _sizes(original) != _sizes(result):
        raise StageFailed("certificate: the redacted image has another size than its original")
    coding = _coding(coded)
    areas = _areas(original, (region for number in range(original.frames) for region in redacted.regions_of(number)))
    edge = rim(coding, original.samples)
    looked = Frames(original, result, areas, redacted.black, NEAR[coding], edge, source=not pixel_digest).look()
    if looked.faults:
        raise StageFailed(f"certificate: {looked.faults[0].says}")
    uid, own = str(original.dataset.get("SOPInstanceUID") or ""), str(result.dataset.get("SOPInstanceUID") or "")
    made = Certificate(
        certificate=VERSION,
        version=version,
        sop_class_uid=str(result.dataset.get("SOPClassUID") or ""),
        sop_instance_uid="" if own == uid else own,
        transfer_syntax_uid=result.transfer_syntax_uid,
        coding=coding,
        frames=original.frames, rows=original.rows, columns=original.columns, samples=original.samples,
        values=codecs.dtype(original.spec).name,
        photometric=colours(original, original.frames - 1),
        blank=redacted.black,
        regions=areas,
        untouched=looked.untouched,
        pixels=looked.pixels,
        overlays=tuple(f"{group:04X}" for group in redacted.overlays),
        icons=_icons(original.dataset),
        method=redacted.method,
        released=redacted.released,
        means=redacted.means,
        source=Source(
            token=uid_token(uid, key) if key else "",
            transfer_syntax_uid=original.transfer_syntax_uid,
            pixels=pixel_digest or looked.source_pixels,
        ),
    )
    return sealed(made, key)


def _sizes(image: Image) -> tuple[object, ...]:
    return image.frames, image.rows, image.columns, image.samples, codecs.dtype(image.spec)


def _coding(coded: Coded) -> Coding:
    """How the pixels were stored."""
    if not coded.is_encapsulated:
        return "native"
    if coded.transfer_syntax_uid in codecs.LOSSLESS:
        return "lossless"
    return "coefficients" if coded.redacted.touched else "rebuilt"


def _areas(image: Image, regions: Iterable[Region]) -> tuple[Area, ...]:
    """Clip rectangles to the frame, and join those that stay where they are from frame to frame."""
    places: dict[tuple[int, int, int, int, str], list[int]] = {}
    for one in regions:
        x, y = max(0, one.x), max(0, one.y)
        w, h = min(image.columns, one.x + one.w) - x, min(image.rows, one.y + one.h) - y
        if w > 0 and h > 0:
            places.setdefault((x, y, w, h, one.reason), []).append(one.frame)
    made: list[Area] = []
    for (x, y, w, h, reason), frames in places.items():
        for _, run in groupby(enumerate(sorted(set(frames))), lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in run]
            made.append(Area(numbers[0], numbers[-1], x, y, w, h, reason))
    return tuple(sorted(made, key=lambda a: (a.first, a.y, a.x, a.last, a.w, a.h, a.reason)))


def _icons(dataset: Dataset) -> int:
    """Count the icons of a header, nested ones too."""
    found = 0
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if element.VR == "SQ":
            found += len(element.value) if element.keyword == "IconImageSequence" else sum(map(_icons, element.value))
    return found

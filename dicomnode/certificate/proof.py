"""The proof that a redacted file is its original but for the regions of its certificate.

**Way** `prove` checks the certificate itself, then sizes and meaning of the pixels, then every pixel of every frame. It gives
what does not agree, the first of each kind; nothing means proven. `chosen` finds the certificate of two files among several.

**Fails** `Undecodable` and `UnsupportedTransferSyntax` when a frame of either file does not decode: nothing is proven then.

**Standard** PS3.15 E.3.1; PS3.3 C.7.6.3 (what pixels mean).

**Limits** What else is in the headers is not compared. Who made a certificate is known by its seal alone, for which the node's
key is needed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dicomnode.certificate import NEAR, rim
from dicomnode.certificate.frames import Fault, Frames, colours
from dicomnode.certificate.record import Area, Certificate, digest, read, seal
from dicomnode.errors import Undecodable
from dicomnode.image import Image, codecs

#: What pixel values mean, in place and colour; where both files have it, it must be the same.
_PALETTE = tuple(
    f"{kind}{colour}PaletteColorLookupTable{part}"
    for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data")) for colour in ("Red", "Green", "Blue")
)
_MEANING = (
    *_PALETTE, "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "RescaleSlope",
    "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape",
)


def certificates(given: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give every certificate in what a JSON file holds, with the path that stands nearest around it."""
    if isinstance(given, Mapping):
        path = str(given.get("path", path))
        if isinstance(given.get("certificate"), int):
            yield path, given
            return
        given = list(given.values())
    if isinstance(given, list):
        for one in given:
            yield from certificates(one, path)


def chosen(
    found: Sequence[tuple[str, Mapping[str, Any]]], original: Image, result: Image, path: str,
) -> Mapping[str, Any] | None:
    """Choose the certificate of these files: the only one, else by the digest of either's pixels, else by the path."""
    if len(found) <= 1:
        return found[0][1] if found else None
    made = result.pixel_digest()
    by_result = [plain for _, plain in found if plain.get("pixels") == made]
    if len(by_result) > 1 or not by_result:
        came = original.pixel_digest()
        among = by_result or [plain for _, plain in found]
        by_source = [plain for plain in among if dict(plain.get("source") or {}).get("pixels") == came]
        by_result = by_source or by_result or [plain for name, plain in found if name == path]
    return by_result[-1] if by_result else None


def prove(
    original: Image, result: Image, plain: Mapping[str, Any], *, key: bytes = b"",
    progress: Callable[[], object] = lambda: None,
) -> list[Fault]:
    """Compare two files and a certificate; gives what does not agree.

    Parameters
    ----------
    key
        Of the node that made the certificate; without one its seal is not asked for.
    progress
        Called after each frame.
    """
    try:
        certificate = read(plain)
    except ValueError as error:
        return [Fault("certificate", str(error))]
    faults = [*_itself(plain, key), *_around(original, result, certificate)]
    if any(fault.check in ("size", "regions") for fault in faults):
        return faults
    coding, edge = certificate.coding, rim(certificate.coding, certificate.samples)
    looked = Frames(original, result, certificate.regions, certificate.blank, NEAR[coding], edge).look(progress)
    faults += looked.faults
    if certificate.source is not None and looked.source_pixels != certificate.source.pixels:
        faults.append(Fault("original", "the certificate was made of another original"))
    if looked.pixels != certificate.pixels:
        faults.append(Fault("result", "the certificate was made of another redacted image"))
    if looked.untouched != certificate.untouched:
        faults.append(Fault("untouched", "the pixels outside of the regions have another digest"))
    return faults


def _itself(plain: Mapping[str, Any], key: bytes) -> Iterator[Fault]:
    """What is wrong with the certificate by itself."""
    if plain.get("digest") != digest(plain):
        yield Fault("digest", "the certificate was changed after it was made")
    if key and not hmac.compare_digest(str(plain.get("seal") or ""), seal(str(plain.get("digest")), key)):
        yield Fault("seal", "the certificate does not bear the seal of this node")


def _around(original: Image, result: Image, certificate: Certificate) -> Iterator[Fault]:
    """What does not agree in sizes, regions, names and meaning of the pixels."""
    told = certificate.frames, certificate.rows, certificate.columns, certificate.samples, certificate.values
    for name, image in (("original", original), ("redacted", result)):
        if _sizes(image) != told:
            yield Fault("size", f"the {name} image has not the frames, size or type of the certificate")
    if len(certificate.blank) != certificate.samples:
        yield Fault("size", "the blank value of the certificate has not as many samples as the image")
    if not all(_makes_sense(area, certificate) for area in certificate.regions):
        yield Fault("regions", "a region of the certificate lies outside of the image, or is none")
    yield from _named(original, result, certificate)
    if colours(result) != certificate.photometric:
        yield Fault("photometric", "the redacted image has another photometric interpretation than the certificate")
    yield from _meaning(original, result)


def _makes_sense(area: Area, certificate: Certificate) -> bool:
    return (
        0 <= area.first <= area.last < certificate.frames
        and 0 <= area.x < area.x + area.w <= certificate.columns and 0 <= area.y < area.y + area.h <= certificate.rows
    )


def _named(original: Image, result: Image, certificate: Certificate) -> Iterator[Fault]:
    if result.transfer_syntax_uid != certificate.transfer_syntax_uid:
        yield Fault("syntax", "the redacted image has another transfer syntax than the certificate")
    if certificate.source is not None and original.transfer_syntax_uid != certificate.source.transfer_syntax_uid:
        yield Fault("syntax", "the original has another transfer syntax than the certificate")
    if _uid(result, "SOPClassUID") != certificate.sop_class_uid:
        yield Fault("class", "the redacted image has another SOP Class than the certificate")
    if _uid(result, "SOPInstanceUID") != (certificate.sop_instance_uid or _uid(original, "SOPInstanceUID")):
        yield Fault("instance", "the redacted image has another SOP Instance UID than the certificate")


def _meaning(original: Image, result: Image) -> Iterator[Fault]:
    if _stored(original) != _stored(result):
        yield Fault("meaning", "bits stored or sign of the pixels differ")
    coloured = original.decoded_photometric() == "PALETTE COLOR"
    for keyword in _MEANING:
        if keyword not in original.dataset:
            continue
        if keyword not in result.dataset:
            if coloured and keyword in _PALETTE:
                yield Fault("meaning", f"{keyword} is missing")
        elif _value(original, keyword) != _value(result, keyword):
            yield Fault("meaning", f"{keyword} differs")


def _sizes(image: Image) -> tuple[object, ...]:
    if not image.has_pixels:
        raise Undecodable("the instance has no pixel data")
    return image.frames, image.rows, image.columns, image.samples, codecs.dtype(image.spec).name


def _stored(image: Image) -> tuple[object, ...]:
    return image.spec.bits_stored, image.spec.signed, image.spec.real


def _uid(image: Image, keyword: str) -> str:
    return str(image.dataset.get(keyword) or "")


def _value(image: Image, keyword: str) -> object:
    """Value of an element, comparable over byte orders."""
    value: Any = image.dataset[keyword].value
    if isinstance(value, bytes) and not image.spec.little:
        return np.frombuffer(value[: len(value) // 2 * 2], ">u2").astype("<u2").tobytes()
    return value

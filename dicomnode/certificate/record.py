"""The certificate of a redacted image as a record, and as JSON.

**Way** `Certificate` holds closed words, sizes, digests and rectangles; `sealed` turns it into a mapping of plain values with
``digest``, SHA-256 over the rest, and with a key ``seal``, HMAC-SHA-256 over that digest. `read` is the way back.

**Fails** `read` raises ``ValueError`` for what is no certificate of this version; its text names fields, never values.

**Standard** RFC 2104 (HMAC), FIPS 180-4 (SHA-256); PS3.15 E.3.1.

**Limits** ``source`` is outside of digest and seal, so that it can be taken away before a certificate is shown outside: with
the redacted picture at hand, names could be tried until the digest of the source's pixels fits. The original itself proves it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from dicomnode.records import Means

#: Version of the form.
VERSION = 1
#: How the pixels were stored: in the open; by a lossless coder; as the code stream came, rebuilt; with blanked coefficients.
Coding = Literal["native", "lossless", "rebuilt", "coefficients"]
_SEAL = b"dicomnode certificate\0"
_APART = frozenset(("digest", "seal", "source"))


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle that is blanked in the frames ``first`` to ``last``; all count from 0."""

    first: int
    last: int
    x: int
    y: int
    w: int
    h: int
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """What tells the original; not to be shown outside."""

    #: Keyed token of its SOP Instance UID, as in the log; ``""`` without a key.
    token: str
    transfer_syntax_uid: str
    #: SHA-256 of its pixels, as `Image.pixel_digest` has it.
    pixels: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was blanked in an image, by what, and digests of what was not."""

    certificate: int
    #: Version of dicomnode.
    version: str
    sop_class_uid: str
    #: Of the result; ``""`` where it is the source's own.
    sop_instance_uid: str
    transfer_syntax_uid: str
    coding: Coding
    frames: int
    rows: int
    columns: int
    samples: int
    #: Type of the decoded values, as numpy calls it.
    values: str
    #: Photometric interpretation of the decoded values.
    photometric: str
    #: Stored value that was put into the regions, one for each sample.
    blank: tuple[float, ...]
    regions: tuple[Area, ...]
    #: SHA-256 of the pixels outside of the regions (`frames.Frames.untouched`).
    untouched: str
    #: SHA-256 of the result's pixels, as `Image.pixel_digest` has it.
    pixels: str
    #: Overlay groups that were taken away, as ``6000``.
    overlays: tuple[str, ...]
    #: Icons that were taken away.
    icons: int
    #: De-identification Method (0012,0063) of the pixels.
    method: str
    #: A person answers for what redaction was not sure of.
    released: bool
    means: Means | None
    source: Source | None


_FORM: TypeAdapter[Certificate] = TypeAdapter(Certificate)


def sealed(certificate: Certificate, key: bytes = b"") -> dict[str, Any]:
    """Give the certificate as plain values, with digest and, where there is a key, seal."""
    # Through JSON: what is read back is what was digested.
    plain: dict[str, Any] = json.loads(json.dumps(asdict(certificate)))
    plain["digest"] = digest(plain)
    if key:
        plain["seal"] = seal(plain["digest"], key)
    return plain


def digest(plain: Mapping[str, Any]) -> str:
    """SHA-256 over everything but ``digest``, ``seal`` and ``source``: JSON in ASCII, keys sorted, no blanks."""
    body = {name: value for name, value in plain.items() if name not in _APART}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def seal(digest_: str, key: bytes) -> str:
    """HMAC by which a node knows its own certificate."""
    return hmac.new(key, _SEAL + digest_.encode("utf-8"), hashlib.sha256).hexdigest()


def outside(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Give the certificate as it may be shown outside: digest and seal hold all the same."""
    return {**plain, "source": None}


def read(plain: Mapping[str, Any]) -> Certificate:
    """Make the record of a certificate.

    Raises
    ------
    ValueError
        It is none of this version; the text says where.
    """
    if plain.get("certificate") != VERSION:
        raise ValueError(f"certificate: only version {VERSION} is known")
    try:
        return _FORM.validate_python(dict(plain))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"{where or 'certificate'}: not as it must be") from None

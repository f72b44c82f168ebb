"""UIDs: validation, and the derivation that makes a repeated work give the same object.

**Standard** PS3.5 section 9 (form), Annex B.2 (UUID-derived UIDs below 2.25).
"""

from __future__ import annotations

import hashlib
import re
import uuid

_LOOK = re.compile(r"[0-9.]{1,64}")
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")


def is_valid(uid: str) -> bool:
    """Say whether ``uid`` has the form of PS3.5 section 9.1: digits and dots, at most 64, no leading zeros."""
    return len(uid) <= 64 and _UID.fullmatch(uid) is not None


def has_look(text: str) -> bool:
    """Say whether a peer's text has the look of a UID: digits and dots, at most 64 (see `dicomnode.header`, Limits)."""
    return _LOOK.fullmatch(text) is not None


def text_of(value: bytes | None) -> str:
    """Give an element's bytes as ASCII text without padding; for UIDs, and what else has the default repertoire."""
    return (value or b"").decode("ascii", "replace").strip(" \0")


def derive(*parts: str) -> str:
    """Derive a UID below ``2.25.`` from the given parts, the same parts giving the same UID for ever.

    For a result the parts are: source SHA-256, output kind, SOP Class UID, identity mode, digest of the models and
    settings used, generation. A crash and repeat thus makes the same object (an archive that has it answers 0x0111,
    which counts as delivered), and a rework on purpose, with its next generation, makes a new one.

    References
    ----------
    PS3.5 Annex B.2. The UUID is of version 8 (RFC 9562): SHA-256 in place of the SHA-1 of version 5.
    """
    # Lengths are hashed too, so that ("ab", "c") and ("a", "bc") differ.
    digest = hashlib.sha256(b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)).digest()[:16]
    number = int.from_bytes(digest, "big")
    number = (number & ~(0xF << 76)) | (0x8 << 76)
    number = (number & ~(0x3 << 62)) | (0x2 << 62)
    return f"2.25.{uuid.UUID(int=number).int}"

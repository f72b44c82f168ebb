"""DIMSE statuses by name, and what a peer's answer to C-STORE means for a delivery.

**Standard** PS3.4 Table B.2-1 (C-STORE), PS3.7 Annex C (general statuses), PS3.8 Table 9-21 (association rejection).
"""

from __future__ import annotations

from dicomnode import errors
from dicomnode.records import Verdict

SUCCESS = 0x0000
#: PS3.7 C.5.7: the peer has this SOP Instance already; for a result of ours that is what we wanted.
DUPLICATE_SOP_INSTANCE = 0x0111
MISTYPED_ARGUMENT = 0x0212
RESOURCE_LIMITATION = 0x0213
NOT_AUTHORISED = 0x0124
SOP_CLASS_NOT_SUPPORTED = 0x0122
INVALID_SOP_INSTANCE = 0x0117
PROCESSING_FAILURE = 0x0110
#: PS3.4 B.2.3
OUT_OF_RESOURCES = 0xA700
DATASET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
COERCION = 0xB000
ELEMENTS_DISCARDED = 0xB006
WARNING_MISMATCH = 0xB007

#: A-ASSOCIATE-RJ (PS3.8 Table 9-21) as result, source, reason.
REJECT_CALLED_AE = (0x01, 0x01, 0x07)
REJECT_CALLING_AE = (0x01, 0x01, 0x03)
REJECT_NO_REASON = (0x01, 0x01, 0x01)
REJECT_CONGESTION = (0x02, 0x03, 0x01)
REJECT_LIMIT = (0x02, 0x03, 0x02)


def text(status: int | None) -> str:
    """The status as logs write it, ``"0xA700"``; ``"none"`` where no response came."""
    return "none" if status is None else f"0x{status:04X}"


def classify(status: int | None) -> Verdict:
    """Say what a C-STORE response status means for the delivery.

    Warnings (0x0001, 0x0107, 0x0116, Bxxx) are delivered; 0x0111 is delivered; A7xx, 0x0213 and no status are tried again;
    0x0124 blocks the destination; everything else is refused for good.
    """
    if status is None:
        return Verdict("deferred", errors.NoStatus.code)
    if status in (SUCCESS, DUPLICATE_SOP_INSTANCE, 0x0001, 0x0107, 0x0116) or status >> 12 == 0xB:
        return Verdict("delivered", status=status)
    if status >> 8 == 0xA7 or status in (RESOURCE_LIMITATION, PROCESSING_FAILURE):
        return Verdict("deferred", errors.PeerOutOfResources.code, status)
    if status == NOT_AUTHORISED:
        return Verdict("blocked", errors.AssociationRejected.code, status)
    return Verdict("refused", errors.RefusedByPeer.code, status)

"""DIMSE statuses by name, and what a peer's answer to C-STORE means for a delivery.

**Standard** PS3.4 Table B.2-1 (C-STORE), PS3.7 Annex C (general statuses), PS3.8 Table 9-21 (association rejection).
"""

from __future__ import annotations

from collections.abc import Mapping

from dicomnode import errors
from dicomnode.records import Verdict

SUCCESS = 0x0000
#: PS3.7 C.5.7: the peer has this SOP Instance already; for a result of ours that is what we wanted.
DUPLICATE_SOP_INSTANCE = 0x0111
RESOURCE_LIMITATION = 0x0213
NOT_AUTHORISED = 0x0124
PROCESSING_FAILURE = 0x0110
SOP_CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNISED_OPERATION = 0x0211
#: PS3.4 B.2.3
OUT_OF_RESOURCES = 0xA700
DATASET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

#: PS3.7 C.4: the operation was done, with a remark; so is every Bxxx of PS3.4 B.2.3.
REQUESTED_OPTIONAL_ATTRIBUTES = 0x0001
ATTRIBUTE_LIST_ERROR = 0x0107
ATTRIBUTE_VALUE_OUT_OF_RANGE = 0x0116
_DELIVERED = frozenset({
    SUCCESS, DUPLICATE_SOP_INSTANCE, REQUESTED_OPTIONAL_ATTRIBUTES, ATTRIBUTE_LIST_ERROR, ATTRIBUTE_VALUE_OUT_OF_RANGE,
})
_AGAIN = frozenset({RESOURCE_LIMITATION, PROCESSING_FAILURE})

#: Priority (0000,0700) of a request, PS3.7 Table 9.3-1, by the names that settings have.
PRIORITIES: Mapping[str, int] = {"medium": 0x0000, "high": 0x0001, "low": 0x0002}

#: A-ASSOCIATE-RJ (PS3.8 Table 9-21) as result, source, reason.
REJECT_CALLED_AE = (0x01, 0x01, 0x07)
REJECT_CALLING_AE = (0x01, 0x01, 0x03)
REJECT_APPLICATION_CONTEXT = (0x01, 0x01, 0x02)
REJECT_NO_REASON = (0x01, 0x01, 0x01)
REJECT_VERSION = (0x01, 0x02, 0x02)
REJECT_CONGESTION = (0x02, 0x03, 0x01)
REJECT_LIMIT = (0x02, 0x03, 0x02)


def text(status: int | None) -> str:
    """The status as logs write it, ``"0xA700"``; ``"none"`` where no response came."""
    return "none" if status is None else f"0x{status:04X}"


def classify(status: int | None) -> Verdict:
    """Say what a C-STORE response status means for the delivery.

    Warnings (0x0001, 0x0107, 0x0116, Bxxx) are delivered; 0x0111 is delivered; A7xx, 0x0213, 0x0110 and no status are tried
    again; 0x0124 blocks the destination; everything else is refused for good.
    """
    if status is None:
        return Verdict("deferred", errors.NoStatus.code)
    if status in _DELIVERED or status >> 12 == 0xB:
        return Verdict("delivered", status=status)
    if status >> 8 == 0xA7 or status in _AGAIN:
        return Verdict("deferred", errors.PeerOutOfResources.code, status)
    if status == NOT_AUTHORISED:
        return Verdict("blocked", errors.AssociationRejected.code, status)
    return Verdict("refused", errors.RefusedByPeer.code, status)

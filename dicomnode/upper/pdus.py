"""Kinds of PDUs, and those that are always the same or nearly.

**Standard** PS3.8 sections 9.3.4 (A-ASSOCIATE-RJ), 9.3.6 and 9.3.7 (release), 9.3.8 (A-ABORT, Table 9-26).
"""

from __future__ import annotations

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(0x01, 0x08)

RELEASE_RQ_PDU = bytes((RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0))
RELEASE_RP_PDU = bytes((RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0))

#: Who aborts: the service-user, who gives no reason, or the service-provider.
BY_USER, BY_PROVIDER = 0, 2
#: Why the service-provider aborts.
NOT_SPECIFIED, UNRECOGNISED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 0, 1, 2, 6


def abort(source: int = BY_USER, reason: int = NOT_SPECIFIED) -> bytes:
    """Give an A-ABORT PDU."""
    return bytes((ABORT, 0, 0, 0, 0, 4, 0, 0, source, reason))


def reject(result: int, source: int, reason: int) -> bytes:
    """Give an A-ASSOCIATE-RJ PDU (PS3.8 Table 9-21)."""
    return bytes((ASSOCIATE_RJ, 0, 0, 0, 0, 4, 0, result, source, reason))

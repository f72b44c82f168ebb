"""What a requestor says and hears before the first C-STORE: association request and its answer.

**Way** `request` gives the bytes of an A-ASSOCIATE-RQ, `agreed` reads the answer. pynetdicom's PDU classes encode and decode;
the socket is not seen here.

**Fails** `agreed` raises what any answer but an acceptance means; `PeerUnavailable` also for one that cannot be read.

**Standard** PS3.8 9.3.2 to 9.3.8, PS3.7 Annex D.3.3 (user information).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import build_context

from dicomnode.errors import (
    AssociationRejected,
    AssociationRejectedTransient,
    DicomNodeError,
    NoPresentationContext,
    PeerUnavailable,
)
from dicomnode.settings import Peer
from dicomnode.upper import pdus
from dicomnode.upper.handshake import APPLICATION_CONTEXT, user_information

#: SOP Class UID and transfer syntax UID.
Context = tuple[str, str]
#: PS3.8 9.3.2.2: presentation context ids are the odd numbers of one byte.
MAX_CONTEXTS = 128
#: What the peer may send us in a PDU; its responses are far smaller.
MAX_PDU_BYTES = 131072

_PERMANENT = 1
#: What every acceptance has before its items (PS3.8 Table 9-17).
_FIXED_BYTES = 68


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the peer accepted."""

    #: Context → its id on this association.
    contexts: dict[Context, int]
    #: Longest PDU that the peer takes, without its head of six bytes; 0 is no limit.
    max_pdu: int


def request(calling_ae: str, peer: Peer, proposed: Sequence[Context]) -> bytes:
    """Give the request; the presentation context ids are 1, 3, 5, ... in the order of ``proposed``."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title, primitive.called_ae_title = calling_ae, peer.ae_title
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in proposed]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    primitive.user_information = user_information(MAX_PDU_BYTES)
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def agreed(kind: int, body: bytes, proposed: Sequence[Context]) -> Agreed:
    """Read the answer; ``body`` is its PDU behind the head of six bytes.

    Raises
    ------
    PeerUnavailable, AssociationRejectedTransient, AssociationRejected
        The peer said no, or nothing that can be read.
    NoPresentationContext
        It accepted the association and none of the contexts.
    """
    if kind != pdus.ASSOCIATE_AC:
        raise _failure(kind, body)
    if len(body) < _FIXED_BYTES:
        raise PeerUnavailable("the peer's acceptance is too short")
    accept = A_ASSOCIATE_AC()
    try:
        accept.decode(bytes((kind, 0)) + len(body).to_bytes(4, "big") + body)
        answers = [(item.context_id or 0, item.result, str(item.transfer_syntax)) for item in accept.presentation_context]
        information = accept.user_information
        max_pdu = int((information.maximum_length if information else 0) or 0)
    except Exception as error:  # noqa: BLE001 - the border to what pynetdicom makes of foreign bytes
        raise PeerUnavailable(f"the peer's acceptance cannot be read ({type(error).__name__})") from None
    taken = {
        proposed[number // 2]: number for number, result, syntax in answers
        if result == 0 and number % 2 and number // 2 < len(proposed) and syntax == proposed[number // 2][1]
    }
    if not taken:
        raise NoPresentationContext("the peer accepted the association and no presentation context")
    return Agreed(taken, max_pdu)


def _failure(kind: int, body: bytes) -> DicomNodeError:
    if kind == pdus.ASSOCIATE_RJ and len(body) >= 4:
        text = f"result {body[1]}, source {body[2]}, reason {body[3]}"
        if body[1] == _PERMANENT:
            return AssociationRejected(f"the peer rejected the association for good: {text}")
        return AssociationRejectedTransient(f"the peer rejected the association for now: {text}")
    return PeerUnavailable("the peer does not answer at its address")

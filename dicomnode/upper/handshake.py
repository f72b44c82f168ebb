"""An association request read, and the acceptance written, with pynetdicom's PDU classes and its negotiation of contexts.

**Way** `read_request` gives a `Request`; `negotiate` answers its presentation contexts by ours; `acceptance` gives the bytes of
the A-ASSOCIATE-AC. Role selection, user identity, asynchronous operations and extended negotiation are not answered, which
PS3.7 Annex D.3.3 lets mean: the default roles, one operation at a time, and no extension.

**Fails** `read_request` raises `command.Malformed`, whatever pynetdicom makes of a peer's bytes.

**Standard** PS3.8 sections 9.3.2 and 9.3.3, PS3.7 Annex D.

**Limits** Written against pynetdicom 3.0.4, which pyproject.toml pins; tests/unit/test_upper_pynetdicom.py holds what is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom import _config
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from dicomnode.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.upper.command import Malformed
from dicomnode.upper.pdus import ASSOCIATE_RQ

#: Of any PDU before the association is accepted: 128 contexts with every transfer syntax of the standard stay below.
ASSOCIATE_MAX_BYTES = 256 << 10
#: The one there is (PS3.7 Annex A.2.1).
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_CALLED, _CALLING, _FIXED_BYTES = slice(4, 20), slice(20, 36), 68

_config.LOG_HANDLER_LEVEL = "none"  # it would decode and print every PDU


@dataclass(frozen=True, slots=True)
class Request:
    """What an A-ASSOCIATE-RQ says."""

    #: As sent, without padding; anything that a peer may write.
    calling_ae: str
    called_ae: str
    #: Bit 0 is the one version there is (PS3.8 Table 9-11).
    version: int
    #: Empty where there is none.
    application_context: str
    contexts: tuple[PresentationContext, ...]
    #: Longest P-DATA-TF PDU that the peer takes; 0 is no limit.
    max_pdu_bytes: int


def read_request(body: bytes) -> Request:
    """Read an A-ASSOCIATE-RQ behind its head of six bytes; raises `Malformed`."""
    if len(body) < _FIXED_BYTES:
        raise Malformed("an association request is too short")
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(bytes((ASSOCIATE_RQ, 0)) + len(body).to_bytes(4, "big") + body)
        proposed = tuple(item.to_primitive() for item in pdu.presentation_context)
        information = pdu.user_information
        application_context = str(pdu.application_context_name or "")
        longest = (information.maximum_length if information is not None else None) or 0
    except Exception as error:  # noqa: BLE001 - the border to what pynetdicom makes of foreign bytes
        raise Malformed(f"an association request cannot be read ({type(error).__name__})") from None
    if len({cx.context_id for cx in proposed}) < len(proposed) or not all(cx.transfer_syntax for cx in proposed):
        raise Malformed("a presentation context id stands twice, or a context has no transfer syntax")
    titles, version = (_text(body[_CALLING]), _text(body[_CALLED])), int.from_bytes(body[:2], "big")
    return Request(*titles, version, application_context, proposed, int(longest))


def negotiate(request: Request, supported: Sequence[PresentationContext]) -> list[PresentationContext]:
    """Answer each proposed context: result 0 with one transfer syntax, or the reason of the refusal."""
    results: list[PresentationContext] = negotiate_as_acceptor(list(request.contexts), list(supported))[0]
    return results


def acceptance(calling_ae: str, called_ae: str, results: Sequence[PresentationContext], max_pdu_bytes: int) -> bytes:
    """Give the A-ASSOCIATE-AC; ``max_pdu_bytes`` is the longest P-DATA-TF PDU that we take."""
    primitive: Any = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title, primitive.called_ae_title = calling_ae, called_ae
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = list(results)
    primitive.user_information = user_information(max_pdu_bytes)
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def user_information(max_pdu_bytes: int) -> list[Any]:
    """Give what we say of ourselves in a request or an acceptance (PS3.7 Annex D.3.3): longest PDU, implementation."""
    length, uid, version = (
        MaximumLengthNotification(), ImplementationClassUIDNotification(), ImplementationVersionNameNotification(),
    )
    length.maximum_length_received = max_pdu_bytes
    uid.implementation_class_uid, version.implementation_version_name = IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
    return [length, uid, version]


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" ")

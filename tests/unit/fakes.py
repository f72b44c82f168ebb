"""Stages that do next to nothing, and the peers that their routes lead to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from dicomnode.image import Image, Redacted
from dicomnode.outputs.table import OUTPUTS
from dicomnode.pipeline import Kit
from dicomnode.records import OutputKind, Route
from dicomnode.settings import Peer
from dicomnode.stages.encode import Encode
from tests.unit.materials import CHEST, FINDINGS, MEANS, NODE

#: Stands in the header of `materials.marked_dx`, and in the errors of stages that fail here.
MARK = "Zzmarker^Quentin"
PEERS = {
    "pacs": Peer(ae_title="PACS", host="127.0.0.1", port=11113, trust="inside"),
    "ris": Peer(ae_title="RIS", host="127.0.0.1", port=11114, trust="inside", sr_class="basic-text"),
    "viewer": Peer(ae_title="VIEWER", host="127.0.0.1", port=11115, trust="inside"),
    "partner": Peer(ae_title="PARTNER", host="127.0.0.1", port=11116),
    "study": Peer(ae_title="STUDY", host="127.0.0.1", port=11117, sr_class="basic-text"),
}


def route(outputs: tuple[OutputKind, ...], destinations: tuple[str, ...] = ("pacs",)) -> Route:
    """A chest that goes where the test wants it."""
    return dataclasses.replace(CHEST, outputs=outputs, destinations=destinations)


def redacted(image: Image, _frames: Sequence[int] | None = None) -> Redacted:
    """What a redaction that found nothing gives."""
    return Redacted(image, (), "found nothing", (0.0,), strict=True, means=MEANS)


def waived(image: Image, _frames: Sequence[int] | None = None) -> Redacted:
    """What a person's release gives."""
    return Redacted(image, (), "released by a person", (0.0,), released=True)


def kit(chosen: Route, **more: Any) -> Kit:
    """Stages that do next to nothing, and the real coder and builders."""
    base = Kit(
        route=lambda _instance, _image: chosen, infer=lambda _image, _route: FINDINGS, redact=redacted, waive=waived,
        encode=Encode(), outputs=OUTPUTS, node=NODE, peers=PEERS, digest="cd" * 32,
        model_digests={FINDINGS[0].reference: "ab" * 32},
    )
    return dataclasses.replace(base, **more)


class Unwanted(BaseException):
    """A stage was called that must not be; no ``except Exception`` swallows it."""


def raising(error: BaseException) -> Callable[..., Any]:
    """A stage that always fails in this way."""

    def stage(*_: object) -> Any:
        raise error

    return stage

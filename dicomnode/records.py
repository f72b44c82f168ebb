"""The records that travel: frozen, slotted, standard library only, without a direct identifier of a person.

**Way** `Instance` is born at intake from a spooled file and goes to logs, rows and workers as it is. `Route`, `Findings`
and `Region` are products of the stages; `Output` is an object that the node made, with the function that writes it;
`Result` is what `pipeline.process` gives back. `Delivery` is one output on its way to one destination, `Verdict` what came
of one try.

**Limits** UIDs are pseudonymous (PS3.15 Annex E), not anonymous: logs carry them as keyed tokens unless the administrator
says otherwise. `Route.body_part` comes from a closed set, never from the text of a header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, BinaryIO, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BODY_PARTS = ("abdomen", "adult_chest", "pediatric_chest", "spine", "other")
#: What stands in place of a body part that neither picture nor header decides.
UNCERTAIN = "uncertain"
#: Why it does: the best guess is too improbable; the picture cannot be decoded; an image has no pixels; the picture is constant
#: or nearly so; it is too small; it is raw detector data; the header, which was to decide, names no region, several, or a chest
#: of unknown age; Body Part Examined names another body part, and the rule wants both to agree.
Doubt = Literal[
    "", "low_probability", "undecodable", "no_pixels", "constant", "too_small", "for_processing", "header_unclear",
    "tag_disagrees",
]
#: What Body Part Examined may say beside a body part: a chest of unknown age, several regions, nothing that names one.
CHEST, SEVERAL, ABSENT = "chest", "several", "absent"
#: Body Part Examined against a picture whose answer is certain; empty where there is no such answer.
Agreement = Literal["", "agrees", "disagrees", "absent", "not_comparable"]
#: What a rule says of a body part that is uncertain, and of Body Part Examined against the picture.
Handling = Literal["default", "hold", "all", "tag"]
TagTrust = Literal["picture", "tag", "both", "hold"]

OutputKind = Literal["sr", "sc", "sc-map", "seg", "deidentified", "original"]
Identity = Literal["kept", "removed"]
Trust = Literal["inside", "outside"]
#: When the outputs of a rule go before all others.
Urgency = Literal["never", "abnormal", "always"]


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP Instance that the node answers for."""

    #: Ours, time-ordered: ``yyyymmddThhmmssffffff-xxxxxxxx`` (UTC); the thread through all logs.
    instance_id: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    #: Modality (0008,0060), upper case, ``""`` when absent.
    modality: str
    calling_ae: str
    called_ae: str
    #: Address of the sender as the socket gave it, ``""`` for a file.
    address: str
    #: Time of acceptance, aware UTC; dates inside outputs come from here, never from the clock.
    received_at: datetime
    #: Path below the spool's root, ``incoming/<yyyymmddhh>/<instance_id>.dcm``.
    location: str
    #: Size of the data set, without preamble and file meta.
    size_bytes: int
    #: SHA-256 of the data set's bytes as sent, without preamble and file meta.
    sha256: str
    #: An SR or SC that this very node made and that came back.
    own_result: bool = False
    #: Keyed token of the Accession Number (0008,0050), which itself is kept nowhere; ``""`` when there is none.
    accession_token: str = ""
    #: Process id of the acceptor that received it, 0 when nobody knows.
    acceptor_pid: int = 0


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8.8): value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a model saw."""

    label: str
    code: Code
    #: 0 to 1, calibrated by the card's temperature.
    probability: float
    #: The card calls this label abnormal and the probability reaches its threshold.
    abnormal: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """The rectangle that an array covers, in pixels of another: where the whole area of a network's input lies on a frame.

    The edges of the top left pixel are 0; the rectangle may reach beyond the frame, where the input was padded.
    """

    top: float
    left: float
    height: float
    width: float

    def of(self, inner: Placement, rows: int, columns: int) -> Placement:
        """Give the place of ``inner``, which lies on the array of (rows, columns) that covers this rectangle."""
        down, across = self.height / rows, self.width / columns
        return Placement(
            self.top + inner.top * down, self.left + inner.left * across, inner.height * down, inner.width * across,
        )


@dataclass(frozen=True, slots=True)
class Map:
    """Where a model sees one of its labels: an array of the network's size over a rectangle of the frame."""

    #: heat: evidence, any number, 0 and below is none; mask: the probability that a pixel belongs, 0..1.
    kind: Literal["heat", "mask"]
    label: str
    code: Code
    #: The card calls this label abnormal.
    of_abnormal: bool
    #: (rows, cols) float32.
    values: NDArray[np.float32]
    place: Placement
    #: mask: a pixel belongs from here on.
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What one model says of one instance; ``items`` in falling probability."""

    items: tuple[Finding, ...]
    model: str
    version: str
    #: SHA-256 of the ONNX file.
    digest: str
    #: Only in the process that asked; no row and no log has them.
    maps: tuple[Map, ...] = field(default=(), repr=False, compare=False)

    @property
    def reference(self) -> str:
        """The model as ``name@version``."""
        return f"{self.model}@{self.version}"

    @property
    def abnormal(self) -> bool:
        """True when any finding is abnormal."""
        return any(item.abnormal for item in self.items)

    @property
    def brief(self) -> Mapping[str, object]:
        """What rows and commands tell of it: the model, and the finding that stands for all of its findings."""
        lead = leading([self])
        return {
            "model": self.model, "version": self.version, "finding": lead[1].label if lead else "",
            "probability": round(lead[1].probability, 4) if lead else 0.0, "abnormal": self.abnormal,
        }


def leading(findings: Sequence[Findings]) -> tuple[Findings, Finding] | None:
    """Choose the finding that stands for all where there is room for one: the most probable abnormal one, else the first."""
    every = [(one, item) for one in findings for item in one.items]
    abnormal = [pair for pair in every if pair[1].abnormal]
    return max(abnormal, key=lambda pair: pair[1].probability) if abnormal else next(iter(every), None)


@dataclass(frozen=True, slots=True)
class Route:
    """What is to be done with an instance, and why."""

    #: A label of the router, one of `BODY_PARTS`, or `UNCERTAIN`.
    body_part: str
    #: Of ``body_part``; 1.0 when the header decided.
    probability: float
    #: Every label of the router with its probability; empty when the picture was not asked.
    probabilities: Mapping[str, float]
    source: Literal["model", "header"]
    #: Name of the rule that won.
    rule: str
    #: Names of the findings models that are to be asked, in the order of the rule.
    models: tuple[str, ...]
    outputs: tuple[OutputKind, ...]
    destinations: tuple[str, ...]
    #: Whether its outputs go first.
    urgent: Urgency = "never"
    #: Name and version of the model that was asked; empty when the header decided.
    router: str = ""
    router_version: str = ""
    #: What the picture alone shows, `UNCERTAIN` when it cannot be judged; empty when it was not to be asked.
    picture: str = ""
    #: What Body Part Examined alone says: a body part, `CHEST`, `SEVERAL` or `ABSENT`.
    tag: str = ""
    agreement: Agreement = ""
    #: Why picture or header decided nothing, also where the rule then had the tag decide.
    doubt: Doubt = ""
    #: Policy that the rule goes by.
    trust: TagTrust = "picture"
    #: What the rule says of uncertain body parts; empty when this one is certain.
    handling: Handling | Literal[""] = ""
    #: Code of the error that holds its outputs until a person has looked; empty when nothing does.
    hold: str = ""
    #: Keyed token of the device that made the image; empty when the header names none or there is no key.
    device: str = ""

    @property
    def picture_probability(self) -> float:
        """Of the picture's best guess, 0 when it was not asked."""
        return max(self.probabilities.values(), default=0.0)


@dataclass(frozen=True, slots=True)
class Region:
    """A blanked rectangle; frame, x and y count from 0, ``reason`` is a closed word, never the text."""

    frame: int
    x: int
    y: int
    w: int
    h: int
    #: ``header-match`` | ``date`` | ``number`` | ``phone`` | ``address`` | ``institution`` | ``person`` | ``unknown-text`` |
    #: ``unreadable`` | ``rule`` | ``model`` | ``overlay`` | ``graphic``
    reason: str


@dataclass(frozen=True, slots=True)
class Means:
    """By what an image was redacted: closed words, versions and digests, nothing of the image."""

    mode: Literal["strict", "header"]
    #: ``name@version`` of the networks that find text, joined by a blank.
    detector: str
    #: The program that reads, with its version.
    reader: str
    #: SHA-256 of the allow-list.
    allow_list: str
    #: SHA-256 of the rectangles by device, ``""`` without.
    places: str = ""
    #: Name of the language model that was asked, ``""`` without.
    judge: str = ""
    #: Whether what is blanked was looked at again, and nothing was left; ``waived`` where a person answers for what was.
    second_look: Literal["clean", "waived", "none"] = "none"


@dataclass(frozen=True, slots=True)
class Output:
    """An object that the node made, ready to be written and sent."""

    kind: OutputKind
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    identity: Identity
    #: Names of peers.
    destinations: tuple[str, ...]
    #: Writes the Part 10 file to a binary stream, frame by frame; may be called again.
    write: Callable[[BinaryIO], None]
    #: Of a redacted image: reads what was written, and with the digest of the source's pixels (``""`` where it is not known)
    #: gives its certificate, or raises when anything differs outside of the regions.
    certify: Callable[[BinaryIO, str], Mapping[str, object]] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Held:
    """An output that must not be made or leave until a person has looked."""

    kind: OutputKind
    destinations: tuple[str, ...]
    #: Code of the error that holds it.
    reason: str
    #: By a rule it does not wait for anybody: it is given up, in sight.
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What `process` gives back for one instance."""

    route: Route
    #: One for each model that was asked.
    findings: tuple[Findings, ...]
    regions: tuple[Region, ...]
    outputs: tuple[Output, ...]
    held: tuple[Held, ...]
    #: SHA-256 over shape, type and decoded values of every frame; ``""`` when there are none or they do not decode.
    pixel_digest: str
    #: Milliseconds per stage.
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    #: The rule says so, or the rule and a finding: the outputs go before others.
    urgent: bool = False


DeliveryState = Literal["ready", "active", "deferred", "delivered", "hold", "expired", "dropped"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One output on its way to one destination."""

    delivery_id: int
    instance_id: str
    kind: OutputKind
    destination: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    identity: Identity
    #: Path below the spool's root, ``outgoing/<sop_instance_uid>.dcm``.
    location: str
    attempt: int
    created_at: datetime
    #: Goes before others of its destination and does not wait for its send windows.
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one try to deliver.

    ``delivered`` (with the status, warnings included), ``deferred`` (reason is a `Transient` code), ``refused`` (reason is
    a `Permanent` code: the delivery goes on hold) or ``blocked`` (the whole destination is refused to us: its lane stops).
    """

    outcome: Literal["delivered", "deferred", "refused", "blocked"]
    reason: str = ""
    #: DIMSE status of the response, None when there was none.
    status: int | None = None

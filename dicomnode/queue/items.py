"""What the queue is asked with and answers with: records that say nothing of how a backend keeps them.

**Limits** Frozen; none holds a text of a header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from dicomnode.records import Agreement, Delivery, Doubt, Identity, Instance, OutputKind, Verdict

InstanceState = Literal["waiting", "active", "deferred", "done", "hold", "quarantine", "duplicate", "own", "dropped"]


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that claims: it is dead when the boot id or the process with this start time is gone."""

    boot_id: str
    pid: int
    #: Field 22 of /proc/<pid>/stat, clock ticks since boot.
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work one instance until it is ended or its owner dies."""

    instance: Instance
    #: Counts from 1; this try included.
    attempt: int
    #: 0 at first; each rework on purpose adds one and so makes new result UIDs.
    generation: int
    #: A person released this instance from redaction hold and vouches for what redaction is not sure of.
    waived: bool
    #: A person released it although its pixels differ from those that came before under its UID.
    accepted: bool
    #: A person released what a rule held for its body part: no policy of a rule holds it again.
    settled: bool
    #: What the generation before made and nobody dropped, (kind, identity, SOP Class UID, SOP Instance UID); for what it
    #: left as it was, the last one that made it. Originals are none.
    predecessors: tuple[tuple[OutputKind, Identity, str, str], ...]
    #: Make only these, (kind, destination): the outputs that were held; None makes everything.
    only: frozenset[tuple[OutputKind, str]] | None


@dataclass(frozen=True, slots=True)
class Sibling:
    """Another row with the same SOP Instance UID that came before."""

    instance_id: str
    state: InstanceState
    pixel_digest: str


@dataclass(frozen=True, slots=True)
class NewOutput:
    """An output whose file stands in outgoing/, to be delivered."""

    kind: OutputKind
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    identity: Identity
    location: str
    destinations: tuple[str, ...]
    #: Of a redacted image.
    certificate: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What `queue show` keeps of a result: no text of a header, no text of the pixels."""

    body_part: str
    probability: float
    rule: str
    model: str
    finding: str
    finding_probability: float
    abnormal: bool
    regions: int
    pixel_digest: str
    stage_ms: Mapping[str, float]
    #: Its deliveries go before others.
    urgent: bool = False
    #: What picture, Body Part Examined and both together said, as `Route` has it.
    picture: str = ""
    tag: str = ""
    agreement: Agreement = ""
    doubt: Doubt = ""
    device: str = ""
    #: One for each model that was asked (`records.Findings.brief`); ``model`` names them all, ``finding`` is the leading one.
    findings: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """How the claim on a delivery ended."""

    delivery: Delivery
    verdict: Verdict
    at: datetime
    #: When a deferred one is tried again.
    due: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """A row taken back from a dead owner."""

    kind: Literal["instance", "delivery"]
    instance_id: str
    attempt: int
    #: True when this was the third death: the instance went to quarantine, the delivery to hold.
    set_aside: bool


@dataclass(frozen=True, slots=True)
class Needed:
    """A file that a row counts on: a source, or with a kind the output for one destination."""

    instance_id: str
    state: str
    kind: str
    destination: str
    location: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row that a process has in hand."""

    instance_id: str
    owner: Owner
    since: datetime


#: What an instance can be asked for by.
Name = Literal[
    "instance id", "SOP Instance UID", "result UID", "Series Instance UID", "Study Instance UID", "Accession Number",
    "calling AE title", "destination",
]
#: (SOP Instance UID, instance id).
Names = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Traced:
    """The instances that a name stands for."""

    #: Side of the account → how many of them; empty when there is none.
    sides: Mapping[str, int]
    #: The newest of them, oldest first.
    ids: tuple[str, ...]

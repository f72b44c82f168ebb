"""The work on one instance as one straight line: read, route, infer, redact, encode, report.

**Way** `process` takes an `Instance`, its bytes and a `Kit`, and gives a `Result` whose outputs write themselves. The `Kit`
is built once per process by `kitting.build_kit`. Order is code and needs are arguments: a pipeline without redaction does
not type-check, because the builders of pixels take `Coded` and only `Redacted` becomes `Coded`.

**Fails** `Undecodable` and `StageFailed` leave when the instance as a whole cannot be worked: the caller quarantines it.
What fails for one output holds that output alone: a report for an inside peer leaves although its picture waits for a
person. A strange exception of a stage becomes `StageFailed`; its text goes nowhere, for it may quote the data set.

**Limits** Knows no disk, row or socket. An instance without pixels gets no report and no picture; only ``original`` applies,
and what is wanted of it without identity is held or given up in sight.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Literal

from dicomnode.contexts import is_image
from dicomnode.errors import DicomNodeError, NoPicture, Permanent, StageFailed, Undecodable
from dicomnode.image import Coded, Image, Redacted
from dicomnode.log import get_logger
from dicomnode.outputs import Builder, Material, NodeFacts
from dicomnode.records import Findings, Held, Identity, Instance, Output, OutputKind, Result, Route
from dicomnode.settings import Peer

#: Kinds that show pixels: held when redaction cannot vouch for them.
PIXEL_KINDS: frozenset[OutputKind] = frozenset({"sc", "sc-map", "deidentified"})
#: Kinds that show what a model answers beyond probabilities, and which maps they are made of.
MAP_KINDS: Mapping[OutputKind, frozenset[str]] = {"sc-map": frozenset({"heat", "mask"}), "seg": frozenset({"mask"})}
#: Kinds that leave with the identity removed, whoever gets them.
NAMELESS_KINDS: frozenset[OutputKind] = frozenset({"deidentified"})


@dataclass(frozen=True, slots=True)
class Kit:
    """The stages, built once per process; each validates itself then and keeps nothing of an instance."""

    route: Callable[[Instance, Image], Route]
    #: Asks every model of the route; one `Findings` for each.
    infer: Callable[[Image, Route], tuple[Findings, ...]]
    #: Takes the frames that will be shown; None is all.
    redact: Callable[[Image, Sequence[int] | None], Redacted]
    #: A person's release in place of `redact`.
    waive: Callable[[Image, Sequence[int] | None], Redacted]
    encode: Callable[[Redacted], Coded]
    outputs: Mapping[OutputKind, Builder]
    node: NodeFacts
    peers: Mapping[str, Peer]
    #: SHA-256 over what shapes every result: version, router and its card, routes, redaction.
    digest: str
    #: SHA-256 of the card of each model, by ``name@version``.
    model_digests: Mapping[str, str]
    #: What becomes of outputs without identity that are wanted of an object without pictures.
    documents: Literal["hold", "drop"] = "hold"
    #: Kinds of maps that a model answers, by the name under which routes have it; none for a model that is not here.
    maps: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """What a person or an earlier generation asks of this work."""

    generation: int = 0
    #: A person vouches for what redaction is not sure of; what it finds is blanked all the same.
    waived: bool = False
    #: A person has looked at what it shows: no policy of a rule holds it.
    settled: bool = False
    #: Results of the former generation, (kind, identity, SOP Class UID, SOP Instance UID).
    predecessors: tuple[tuple[OutputKind, Identity, str, str], ...] = ()
    #: Make only these, (kind, destination), ``"*"`` standing for every destination; None makes all that the route wants.
    only: frozenset[tuple[OutputKind, str]] | None = None
    #: The digest of the pixels when it is known already, None when it is not.
    pixel_digest: str | None = None

    def wants(self, kind: OutputKind, destination: str) -> bool:
        """Say whether this kind is to be made for this destination."""
        return self.only is None or not self.only.isdisjoint({(kind, destination), (kind, "*")})


@dataclass(slots=True)
class _Watch:
    """Times the stages and turns what they should not raise into `StageFailed`."""

    instance_id: str
    progress: Callable[[], object]
    stage_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except DicomNodeError:
            raise
        except Exception as error:  # noqa: BLE001 - the stage wrapper, a place where everything is caught
            get_logger("work").error("defect", instance_id=self.instance_id, stage=name, exc_info=True)
            raise StageFailed(f"stage {name} raised {type(error).__name__}") from None
        finally:
            spent = (time.perf_counter() - started) * 1000
            self.stage_ms[name] = round(self.stage_ms.get(name, 0.0) + spent, 1)
            self.progress()


def process(
    instance: Instance, source: BinaryIO, kit: Kit, order: Order | None = None, progress: Callable[[], object] = lambda: None,
    image: Image | None = None,
) -> Result:
    """Work one instance.

    Parameters
    ----------
    source
        The Part 10 file, seekable; it stays open until the outputs of the result have been written.
    progress
        Called at each step forward, also while the outputs are written: a stage ended, or a frame is asked for.
    image
        Of this source, where it was opened before.

    Raises
    ------
    Undecodable
        The header cannot be parsed.
    StageFailed
        Reading, routing or inference met a defect.
    """
    order = order or Order()
    watch = _Watch(instance.instance_id, progress)
    with watch.stage("read"):
        image = image or Image.open(source, instance, progress)
    with watch.stage("route"):
        route = kit.route(instance, image)
    # An object that is an image by its class, and has none, was cut off: a person must know.
    cut = not image.has_pixels and is_image(instance.sop_class_uid)
    wanted = _groups(route, kit.peers, order, has_pixels=image.has_pixels or cut)
    # What no model answers is not missing: there is nothing to make of it.
    answered = {kind for name in route.models for kind in kit.maps.get(name, ())}
    wanted = [group for group in wanted if group[0] not in MAP_KINDS or answered & MAP_KINDS[group[0]]]
    reported = any(kind != "original" for kind, *_ in wanted)
    withheld = "" if order.settled else route.hold
    findings, trouble = _infer(image, route, kit, watch) if reported and not withheld else ((), "")
    image.forget()  # the picture of the models, which nobody asks for again
    held: list[Held] = [] if image.has_pixels or cut else _documents(route, kit, order)
    if cut:
        trouble = Undecodable.code  # an instance of an image class has no pixel data
    if trouble := withheld or trouble:
        # What should have been seen, or of what, nobody can say: no result may pass as complete. An original claims nothing.
        held += [Held(kind, names, trouble) for kind, _, _, names in wanted if kind != "original"]
        wanted = [group for group in wanted if group[0] == "original"]
    coded, digest = _pixels(image, kit, order, watch, wanted, held)
    outputs: list[Output] = []
    for kind, identity, sr_class, names in wanted:
        if coded is None and _needs_pixels(kind, identity):
            continue
        material = Material(
            instance=instance,
            image=image,
            coded=coded,
            route=route,
            findings=findings,
            identity=identity,
            destinations=names,
            sr_class=sr_class,
            node=kit.node,
            settings_digest=digest_of(kit.digest, *([kit.model_digests.get(one.reference, "") for one in findings] or [""])),
            generation=order.generation,
            source=source,
            predecessors=_predecessors(order, kind, identity),
        )
        try:
            with watch.stage("report"):
                outputs.append(kit.outputs[kind](material))
        except Permanent as error:
            held.append(Held(kind, names, error.code))
    regions = coded.redacted.regions if coded is not None else ()
    urgent = route.urgent == "always" or (route.urgent == "abnormal" and any(one.abnormal for one in findings))
    return Result(route, findings, regions, tuple(outputs), tuple(held), digest, watch.stage_ms, urgent)


def _documents(route: Route, kit: Kit, order: Order) -> list[Held]:
    """What is wanted without identity of an object without pictures: its text cannot be cleaned here, so it never leaves."""
    wanted = _groups(route, kit.peers, order, has_pixels=True)
    drop = kit.documents == "drop"
    return [Held(kind, names, NoPicture.code, dropped=drop) for kind, _, _, names in wanted if kind in NAMELESS_KINDS]


def _predecessors(order: Order, kind: OutputKind, identity: Identity) -> tuple[tuple[str, str], ...]:
    """What this output replaces: results of its own kind for the same side, for a UID of the other side tells too much."""
    return tuple((sop_class, uid) for k, side, sop_class, uid in order.predecessors if (k, side) == (kind, identity))


def _infer(image: Image, route: Route, kit: Kit, watch: _Watch) -> tuple[tuple[Findings, ...], str]:
    """What the models see, and the code of what kept them from it."""
    try:
        with watch.stage("infer"):
            return kit.infer(image, route), ""
    except Permanent as error:
        return (), error.code


def _pixels(
    image: Image,
    kit: Kit,
    order: Order,
    watch: _Watch,
    wanted: list[Group],
    held: list[Held],
) -> tuple[Coded | None, str]:
    """Redact and encode when an output needs it; what cannot be vouched for is held, never passed."""
    try:
        with watch.stage("digest"):
            digest = image.pixel_digest() if order.pixel_digest is None else order.pixel_digest
    except Permanent:
        digest = ""  # redaction meets the same pixels and holds them
    if not any(_needs_pixels(kind, identity) for kind, identity, *_ in wanted):
        return None, digest
    try:
        with watch.stage("redact"):
            # A secondary capture shows one frame; only a whole image needs them all read.
            whole = any(kind == "deidentified" for kind, *_ in wanted)
            redacted = (kit.waive if order.waived else kit.redact)(image, None if whole else [image.shown])
        with watch.stage("encode"):
            return kit.encode(redacted), digest
    except Permanent as error:
        held += [Held(kind, names, error.code) for kind, identity, _, names in wanted if _needs_pixels(kind, identity)]
        return None, digest


def _needs_pixels(kind: OutputKind, identity: Identity) -> bool:
    """Say whether an output needs redaction: a shape for outside may trace letters, so it is cut where they are blanked."""
    return kind in PIXEL_KINDS or (kind == "seg" and identity == "removed")


#: kind, identity, SR class, names of destinations: one object is made for each.
Group = tuple[OutputKind, Identity, str, tuple[str, ...]]


def _groups(route: Route, peers: Mapping[str, Peer], order: Order, *, has_pixels: bool) -> list[Group]:
    """The objects that a route asks for: destinations that get the very same object share it."""
    groups: dict[tuple[OutputKind, Identity, str], list[str]] = {}
    for kind in route.outputs:
        if not has_pixels and kind != "original":
            continue
        for name in filter(partial(order.wants, kind), route.destinations):
            inside = peers[name].trust == "inside" and kind not in NAMELESS_KINDS
            sr_class = peers[name].sr_class if kind == "sr" else ""
            groups.setdefault((kind, "kept" if inside else "removed", sr_class), []).append(name)
    return [(kind, identity, sr_class, tuple(names)) for (kind, identity, sr_class), names in groups.items()]


def digest_of(*parts: str) -> str:
    """SHA-256 over the parts, in hexadecimal."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()

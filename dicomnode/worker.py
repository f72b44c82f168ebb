"""The worker: claims an instance, runs the pipeline, puts the results in the spool, ends the claim.

**Way** claim → open the spooled file → `process` → ``outgoing/`` files first → `Queue.finish` in one transaction. A worker
killed anywhere leaves files that the next work overwrites with the same bytes, because result UIDs are derived.

**Fails** `Transient` defers the instance with backoff; `Permanent` sets it aside with the code of its error; anything else is
a defect: logged with its frames, quarantined, and after 13 in a row the process ends, for the supervisor to start a fresh one.
An instance that gets nowhere for ``work.deadline_s`` ends the process (`deadline`): that death counts on the instance, the
third quarantines it.

**Resend** of a SOP Instance UID with other bytes: the same pixels under another header are not worked again, but an original
that the route wants is passed on, for it may carry a corrected name; other pixels, or other content where there are no pixels
to compare, wait for a person. The row says so as its reason.

**Limits** A process works one instance at a time; more workers are more processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from dicomnode import __version__, notify
from dicomnode.deadline import EXIT_DEFECT, NATIVE_GRACE_S, deadline
from dicomnode.errors import (
    ContentDiffers,
    DicomNodeError,
    HeaderDiffers,
    LeaseLost,
    Permanent,
    PixelsDiffer,
    SiblingActive,
    StageFailed,
    Transient,
)
from dicomnode.image import Image
from dicomnode.judging import appeal_of
from dicomnode.kitting import build_kit
from dicomnode.log import get_logger
from dicomnode.pipeline import Kit, Order, process
from dicomnode.queue import Claim, NewOutput, Queue, Summary
from dicomnode.queue.owner import Owner, this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Held, Output, OutputKind, Result, leading
from dicomnode.roles import Stop
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: Without work the queue is asked this often, seconds.
IDLE_S = 0.2
#: Wait for a row of the same SOP Instance UID that another worker has in hand, seconds.
SIBLING_S = 2.0
#: Defects in a row after which the process itself is suspect (Postfix's number).
MAX_DEFECTS = 13
#: Beyond the deadline of an instance, this process is stuck outside of any instance, seconds.
WATCHDOG_S = 30.0

_WAITING = ("waiting", "active", "deferred")
#: What is passed on of an instance whose header alone is new.
_ORIGINALS: frozenset[tuple[OutputKind, str]] = frozenset({("original", "*")})

log = get_logger("work")


def run_worker(settings: Settings, stop: Stop) -> int:
    """Work until told to stop; gives the exit code."""
    spool = Spool(settings.node.state_dir)
    identity = spool.identity()
    kit = build_kit(settings, identity.node_id, identity.key, appeal=appeal_of(settings))
    queue = SqliteQueue(spool.queue_path)
    worker = Worker(settings, spool, queue, kit, this_process())
    # An instance in hand has its own deadline, which tells the log which one it was; the supervisor looks after it.
    notify.watchdog_s(settings.work.deadline_s + NATIVE_GRACE_S + WATCHDOG_S)
    notify.ready()
    for model, _, version in (reference.partition("@") for reference in kit.model_digests):
        log.info("model_opened", model=model, model_version=version, provider=settings.work.provider)
    log.info("worker_started", version=__version__, config_digest=settings.digest[:12], provider=settings.work.provider)
    try:
        while not stop.is_set():
            notify.alive()
            if not worker.step():
                stop.wait(IDLE_S)
            if worker.defects >= MAX_DEFECTS:
                return EXIT_DEFECT
        return 0
    finally:
        queue.close()
        log.info("worker_stopped")


class Worker:
    """One process's hands: everything needed to take a step, and the count of defects in a row."""

    def __init__(self, settings: Settings, spool: Spool, queue: Queue, kit: Kit, owner: Owner) -> None:
        self._settings = settings
        self._spool = spool
        self._queue = queue
        self._kit = kit
        self._owner = owner
        self._stray = False
        #: Why the queue could not be asked when it was asked last; told when it changes.
        self._trouble = ""
        self.defects = 0

    def step(self) -> bool:
        """Work one instance; False when none was due or the queue could not be asked."""
        try:
            if self._stray:
                # The queue failed while a claim was ended: nobody takes rows from the living, so we give it back.
                self._queue.let_go(self._owner)
                self._stray = False
            claim = self._queue.claim(self._owner, datetime.now(UTC))
        except Transient as error:
            self._stray = True
            if error.code != self._trouble:
                log.warning("store_failed", reason=error.code)
            self._trouble = error.code
            return False
        self._trouble = ""
        if claim is None:
            return False
        instance_id = claim.instance.instance_id
        with deadline(instance_id, self._settings.work.deadline_s) as progress:
            try:
                self.defects = 0 if self._work(claim, progress) else self.defects + 1
            except Transient as error:
                self._stray = True
                log.warning("store_failed", instance_id=instance_id, reason=error.code)
            except Exception:  # the outer loop: one of the places where everything is caught
                self.defects += 1
                log.error("defect", instance_id=instance_id, attempt=claim.attempt, exc_info=True)
                try:
                    self._queue.quarantine(claim, self._owner, StageFailed.code)
                except DicomNodeError:
                    self._stray = True
        return True

    def _work(self, claim: Claim, progress: Callable[[], object]) -> bool:
        """Take one instance through; False when a stage failed, for then this process itself may be broken."""
        started = time.perf_counter()
        instance_id = claim.instance.instance_id
        try:
            with self._spool.open(claim.instance.location) as source:
                # What was worked once was compared then.
                differs, digest = (None, "") if claim.accepted or claim.generation else self._compare(claim, source, progress)
                if differs in (PixelsDiffer, ContentDiffers):
                    self._hold(claim, differs, digest)
                    return True
                only = claim.only if differs is None else _ORIGINALS
                known = None if differs is None else digest
                order = Order(claim.generation, claim.waived, claim.settled, claim.predecessors, only, known)
                result = process(claim.instance, source, self._kit, order, progress)
                if differs is not None and not result.outputs and not result.held:
                    self._duplicate(claim, digest)
                    return True
                outputs, held = self._put(instance_id, result, progress)
            note = differs.code if differs is not None else ""
            self._queue.finish(claim, self._owner, _summary(result), outputs, held, datetime.now(UTC), note)
        except LeaseLost as error:
            log.warning("instance_deferred", instance_id=instance_id, attempt=claim.attempt, reason=error.code)
        except Transient as error:
            self._defer(claim, error)
        except Permanent as error:
            self._queue.quarantine(claim, self._owner, error.code)
            log.error(
                "instance_quarantined", instance_id=instance_id, attempt=claim.attempt, reason=error.code, actor=error.actor
            )
            return not isinstance(error, StageFailed)
        else:
            _tell(claim, result, held, note, round((time.perf_counter() - started) * 1000, 1))
            return all(one.reason != StageFailed.code for one in held)
        return True

    def _compare(
        self, claim: Claim, source: BinaryIO, progress: Callable[[], object],
    ) -> tuple[type[DicomNodeError] | None, str]:
        """Say how this instance differs from those that came before it under its UID, None when it is the first; and the
        digest of its pixels.

        Raises
        ------
        SiblingActive
            The earlier one is still being worked, so nothing can be said yet.
        """
        siblings = self._queue.siblings(claim.instance)
        if not siblings:
            return None, ""
        if any(sibling.state in _WAITING for sibling in siblings):
            raise SiblingActive("an earlier instance with this SOP Instance UID is still being worked")
        image = Image.open(source, claim.instance, progress)
        try:
            digest = image.pixel_digest()
        except Permanent:
            digest = ""  # not to be compared, so not the same
        source.seek(0)
        if digest and any(sibling.pixel_digest == digest for sibling in siblings if sibling.state != "hold"):
            return HeaderDiffers, digest
        return PixelsDiffer if image.has_pixels else ContentDiffers, digest

    def _hold(self, claim: Claim, differs: type[DicomNodeError], digest: str) -> None:
        self._queue.hold(claim, self._owner, differs.code, digest)
        one = claim.instance
        log.error(
            "instance_held", instance_id=one.instance_id, sop_instance_uid=one.sop_instance_uid, reason=differs.code,
            actor=differs.actor,
        )

    def _duplicate(self, claim: Claim, digest: str) -> None:
        self._queue.duplicate(claim, self._owner, digest)
        one = claim.instance
        log.info(
            "instance_duplicate", instance_id=one.instance_id, sop_instance_uid=one.sop_instance_uid,
            reason=HeaderDiffers.code,
        )

    def _put(self, instance_id: str, result: Result, progress: Callable[[], object]) -> tuple[list[NewOutput], list[Held]]:
        """Write the outputs to the spool; one that cannot be written for good is held, a disk that fails defers all."""
        outputs: list[NewOutput] = []
        held = list(result.held)
        for output in result.outputs:
            try:
                location = self._spool.put(_name(output, instance_id), output.write)
                certificate = None
                if output.certify is not None:
                    with self._spool.open(location) as made:
                        certificate = output.certify(made, result.pixel_digest)
            except Transient:
                raise
            except Exception as error:  # an output that breaks while it is written is held, the others leave
                if not isinstance(error, Permanent):
                    log.error("defect", instance_id=instance_id, kind=output.kind, exc_info=True)
                code = error.code if isinstance(error, Permanent) else StageFailed.code
                held.append(Held(output.kind, output.destinations, code))
                continue
            progress()
            outputs.append(
                NewOutput(
                    output.kind, output.sop_class_uid, output.sop_instance_uid, output.transfer_syntax_uid, output.identity,
                    location, output.destinations, certificate,
                )
            )
        return outputs, held

    def _defer(self, claim: Claim, error: Transient) -> None:
        delay = SIBLING_S if isinstance(error, SiblingActive) else self._settings.send.delay_s(claim.attempt)
        due = datetime.now(UTC) + timedelta(seconds=delay)
        self._queue.defer(claim, self._owner, error.code, due)
        log.warning(
            "instance_deferred", instance_id=claim.instance.instance_id, attempt=claim.attempt, reason=error.code,
            actor=error.actor, next_attempt_at=due.isoformat(timespec="seconds"),
        )


def _name(output: Output, instance_id: str) -> str:
    """Name of the file below outgoing/: originals of one UID may differ, so they carry the instance too."""
    return f"{output.sop_instance_uid}-{instance_id}" if output.kind == "original" else output.sop_instance_uid


def _summary(result: Result) -> Summary:
    lead, route = leading(result.findings), result.route
    return Summary(
        body_part=route.body_part, probability=round(route.probability, 4), rule=route.rule,
        model=", ".join(f"{one.model} {one.version}" for one in result.findings), finding=lead[1].label if lead else "",
        finding_probability=round(lead[1].probability, 4) if lead else 0.0,
        abnormal=any(one.abnormal for one in result.findings), findings=tuple(one.brief for one in result.findings),
        regions=len(result.regions), pixel_digest=result.pixel_digest, stage_ms=result.stage_ms, urgent=result.urgent,
        picture=route.picture, tag=route.tag, agreement=route.agreement, doubt=route.doubt, device=route.device,
    )


def _tell(claim: Claim, result: Result, held: list[Held], note: str, work_ms: float) -> None:
    """The canonical line of the instance in this process, and what a person must know beside it."""
    instance, route = claim.instance, result.route
    wait_ms = round((datetime.now(UTC) - instance.received_at).total_seconds() * 1000 - work_ms, 1)
    log.info(
        "instance_done", instance_id=instance.instance_id, sop_instance_uid=instance.sop_instance_uid,
        modality=instance.modality, body_part=route.body_part, doubt=route.doubt or None,
        probability=round(route.probability, 3), rule=route.rule, model=", ".join(one.model for one in result.findings) or None,
        model_version=", ".join(one.version for one in result.findings) or None,
        findings=sum(len(one.items) for one in result.findings), regions=len(result.regions), outputs=len(result.outputs),
        held=sum(not one.dropped for one in held),
        attempt=claim.attempt, generation=claim.generation, reason=note or None, work_ms=work_ms, wait_ms=wait_ms,
    )
    if route.agreement == "disagrees" and not claim.generation and not note:
        log.info(
            "tag_disagrees", instance_id=instance.instance_id, calling_ae=instance.calling_ae, body_part=route.picture,
            probability=round(route.picture_probability, 3), rule=route.rule, tag=route.tag, device=route.device or None,
        )
    for item in held:
        if item.dropped:
            log.warning("output_dropped", instance_id=instance.instance_id, kind=item.kind, reason=item.reason)
        else:
            log.error("output_held", instance_id=instance.instance_id, kind=item.kind, reason=item.reason, actor="reviewer")
    if claim.only is None and not note:  # otherwise it was told before
        for one in result.findings:
            if one.abnormal:
                log.warning("finding_abnormal", instance_id=instance.instance_id, model=one.model)

"""The worker: claims an instance, runs the pipeline, puts the results in the spool, ends the claim.

**Way** claim → open the spooled file → `process` → ``outgoing/`` files first → `Queue.finish` in one transaction. A worker
killed anywhere leaves files that the next work overwrites with the same bytes, because result UIDs are derived.

**Fails** `Transient` defers the instance with backoff; `Permanent` sets it aside with the code of its error; anything else is
a defect: logged with its frames, quarantined, and after 13 in a row the process ends, for the supervisor to start a fresh one.
An instance over its deadline ends the process at once: that death counts on the instance, the third quarantines it.

**Limits** A process works one instance at a time; more workers are more processes.
"""

from __future__ import annotations

import os
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from dicomnode import __version__
from dicomnode.errors import DicomNodeError, LeaseLost, Permanent, PixelsDiffer, SiblingActive, StageFailed, Transient
from dicomnode.image import Image
from dicomnode.kitting import build_kit
from dicomnode.log import get_logger
from dicomnode.pipeline import Kit, Order, process
from dicomnode.queue import Claim, NewOutput, Queue, Summary
from dicomnode.queue.owner import Owner, this_process
from dicomnode.queue.sqlite import SqliteQueue
from dicomnode.records import Held, Output, Result
from dicomnode.roles import Stop
from dicomnode.settings import Settings
from dicomnode.spool import Spool

#: Without work the queue is asked this often, seconds.
IDLE_S = 0.2
#: Wait for a row of the same SOP Instance UID that another worker has in hand, seconds.
SIBLING_S = 2.0
#: Defects in a row after which the process itself is suspect (Postfix's number).
MAX_DEFECTS = 13
#: Exit code after too many defects or a passed deadline (EX_SOFTWARE).
EXIT_DEFECT = 70

_MADE_NOTHING = ("quarantine", "dropped", "own")
_WAITING = ("waiting", "active", "deferred")

log = get_logger("work")


def run_worker(settings: Settings, stop: Stop) -> int:
    """Work until told to stop; gives the exit code."""
    spool = Spool(settings.node.state_dir)
    identity = spool.identity()
    kit = build_kit(settings, identity.node_id, identity.key)
    queue = SqliteQueue(spool.queue_path)
    worker = Worker(settings, spool, queue, kit, this_process())
    log.info("worker_started", version=__version__, config_digest=settings.digest[:12], provider=settings.work.provider)
    try:
        while not stop.is_set():
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
            log.warning("store_failed", reason=error.code)
            return False
        if claim is None:
            return False
        watchdog = threading.Timer(self._settings.work.deadline_s, _overdue, (claim.instance.instance_id,))
        watchdog.daemon = True
        watchdog.start()
        try:
            self._work(claim)
            self.defects = 0
        except Transient as error:
            self._stray = True
            log.warning("store_failed", instance_id=claim.instance.instance_id, reason=error.code)
        except Exception:  # the outer loop: one of the places where everything is caught
            self.defects += 1
            log.error("defect", instance_id=claim.instance.instance_id, attempt=claim.attempt, exc_info=True)
            try:
                self._queue.quarantine(claim, self._owner, StageFailed.code)
            except DicomNodeError:
                self._stray = True
        finally:
            watchdog.cancel()
        return True

    def _work(self, claim: Claim) -> None:
        started = time.perf_counter()
        instance_id = claim.instance.instance_id
        try:
            with self._spool.open(claim.instance.location) as source:
                if not claim.accepted and not self._first_of_its_kind(claim, source):
                    return
                order = Order(claim.generation, claim.waived, claim.predecessors)
                result = process(claim.instance, source, self._kit, order)
                outputs, held = self._put(instance_id, result)
            summary = _summary(result)
            self._queue.finish(claim, self._owner, summary, outputs, held, datetime.now(UTC))
        except LeaseLost as error:
            log.warning("instance_deferred", instance_id=instance_id, attempt=claim.attempt, reason=error.code)
        except Transient as error:
            self._defer(claim, error)
        except Permanent as error:
            self._queue.quarantine(claim, self._owner, error.code)
            log.error(
                "instance_quarantined", instance_id=instance_id, attempt=claim.attempt, reason=error.code, actor=error.actor
            )
        else:
            _tell(claim, result, held, round((time.perf_counter() - started) * 1000, 1))

    def _first_of_its_kind(self, claim: Claim, source: BinaryIO) -> bool:
        """A resend whose header differs: the same pixels are worked once, other pixels wait for a person.

        Raises
        ------
        SiblingActive
            The earlier one is still being worked, so nothing can be said yet.
        """
        # What was quarantined or dropped made nothing: a sound copy that follows it is the first.
        siblings = [one for one in self._queue.siblings(claim.instance) if one.state not in _MADE_NOTHING]
        if not siblings:
            return True
        if any(sibling.state in _WAITING for sibling in siblings):
            raise SiblingActive("an earlier instance with this SOP Instance UID is still being worked")
        try:
            digest = Image.open(source, claim.instance).pixel_digest()
        except Permanent:
            digest = ""  # not to be compared, so not the same
        source.seek(0)
        instance_id = claim.instance.instance_id
        if digest and any(sibling.pixel_digest == digest for sibling in siblings if sibling.state != "hold"):
            self._queue.duplicate(claim, self._owner, digest)
            log.info("instance_duplicate", instance_id=instance_id, sop_instance_uid=claim.instance.sop_instance_uid)
            return False
        self._queue.hold(claim, self._owner, PixelsDiffer.code, digest)
        log.error(
            "instance_held",
            instance_id=instance_id,
            sop_instance_uid=claim.instance.sop_instance_uid,
            reason=PixelsDiffer.code,
            actor=PixelsDiffer.actor,
        )
        return False

    def _put(self, instance_id: str, result: Result) -> tuple[list[NewOutput], list[Held]]:
        """Write the outputs to the spool; one that cannot be written for good is held, no room defers the instance."""
        outputs: list[NewOutput] = []
        held = list(result.held)
        for output in result.outputs:
            try:
                location = self._spool.put(_name(output, instance_id), output.write)
            except Permanent as error:
                held.append(Held(output.kind, output.destinations, error.code))
                continue
            outputs.append(
                NewOutput(
                    output.kind,
                    output.sop_class_uid,
                    output.sop_instance_uid,
                    output.transfer_syntax_uid,
                    output.identity,
                    location,
                    output.destinations,
                )
            )
        return outputs, held

    def _defer(self, claim: Claim, error: Transient) -> None:
        if isinstance(error, SiblingActive):
            delay = SIBLING_S
        else:
            send = self._settings.send
            delay = min(send.first_delay_s * 2 ** (claim.attempt - 1), send.max_delay_s)
            delay *= random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
        due = datetime.now(UTC) + timedelta(seconds=delay)
        self._queue.defer(claim, self._owner, error.code, due)
        log.warning(
            "instance_deferred",
            instance_id=claim.instance.instance_id,
            attempt=claim.attempt,
            reason=error.code,
            next_attempt_at=due.isoformat(timespec="seconds"),
        )


def _name(output: Output, instance_id: str) -> str:
    """Name of the file below outgoing/: originals of one UID may differ, so they carry the instance too."""
    return f"{output.sop_instance_uid}-{instance_id}" if output.kind == "original" else output.sop_instance_uid


def _overdue(instance_id: str) -> None:
    """Called when an instance passed its deadline: nothing can stop a stage inside a library but the end of the process."""
    log.error("deadline_passed", instance_id=instance_id)
    os._exit(EXIT_DEFECT)


def _summary(result: Result) -> Summary:
    top = result.findings.items[0] if result.findings.items else None
    return Summary(
        body_part=result.route.body_part,
        probability=round(result.route.probability, 4),
        rule=result.route.rule,
        model=f"{result.findings.model} {result.findings.version}".strip(),
        finding=top.label if top else "",
        finding_probability=round(top.probability, 4) if top else 0.0,
        abnormal=result.findings.abnormal,
        regions=len(result.regions),
        pixel_digest=result.pixel_digest,
        stage_ms=result.stage_ms,
    )


def _tell(claim: Claim, result: Result, held: list[Held], work_ms: float) -> None:
    """The canonical line of the instance in this process, and what a person must know beside it."""
    instance = claim.instance
    wait_ms = round((datetime.now(UTC) - instance.received_at).total_seconds() * 1000 - work_ms, 1)
    log.info(
        "instance_done",
        instance_id=instance.instance_id,
        sop_instance_uid=instance.sop_instance_uid,
        modality=instance.modality,
        body_part=result.route.body_part,
        probability=round(result.route.probability, 3),
        rule=result.route.rule,
        model=result.findings.model or None,
        model_version=result.findings.version or None,
        findings=len(result.findings.items),
        regions=len(result.regions),
        outputs=len(result.outputs),
        held=len(held),
        attempt=claim.attempt,
        generation=claim.generation,
        work_ms=work_ms,
        wait_ms=wait_ms,
    )
    for item in held:
        log.error("output_held", instance_id=instance.instance_id, kind=item.kind, reason=item.reason, actor="reviewer")
    if result.findings.abnormal:
        log.warning("finding_abnormal", instance_id=instance.instance_id, model=result.findings.model)

"""The role ``judge``: takes questions of the workers at its socket and asks the model.

**Way** One thread accepts, one answers each connection. When the model could not be reached, or was too slow, several times
in a row, it is left alone for a while and the answer is "failed" at once, so that a dead endpoint costs an instance nothing.

**Fails** A question that cannot be answered gets ``{"failed": reason}``; nothing but that word goes to the log, and only when
it changes. A key that cannot be read is a `BadSetting`: exit 78.

**Limits** So many questions at a time; further connections are closed, which means ``phi`` to who asks.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from dicomnode import notify
from dicomnode.judging import wire
from dicomnode.judging.endpoint import Endpoint, NoVerdict
from dicomnode.log import get_logger
from dicomnode.roles import Stop
from dicomnode.settings import Settings

#: Longest time in which a stop goes unnoticed, seconds.
_TICK_S = 0.5
#: The accepting thread shows no life for this long: it is stuck, seconds.
_WATCHDOG_S = 60.0
#: Questions at a time.
_MOST = 64
#: Who connects sends its question in this time, seconds.
_QUESTION_S = 5.0
#: So many times in a row the model did not answer in time, or at all; then it is left alone for so long, seconds.
_PATIENCE, _REST_S = 3, 30.0
_ABSENT = frozenset({"timeout", "unreachable"})

log = get_logger("judge")


def run_judge(settings: Settings, stop: Stop) -> int:
    """Judge until told to stop; gives the exit code."""
    bench = Bench(Endpoint(settings), settings.judge.model)
    door = wire.Door(settings.node.state_dir)
    seats = threading.BoundedSemaphore(_MOST)
    threads: set[threading.Thread] = set()

    def serve(connection: socket.socket) -> None:
        try:
            with connection:
                bench.answer(connection, settings.judge.timeout_s)
        finally:
            threads.discard(threading.current_thread())
            seats.release()

    try:
        notify.watchdog_s(_WATCHDOG_S)
        notify.ready()
        log.info("judge_started", model=settings.judge.model, config_digest=settings.digest[:12])
        while not stop.is_set():
            notify.alive()
            connection = door.accept(_TICK_S)
            if connection is None:
                continue
            if not seats.acquire(blocking=False):
                connection.close()
                continue
            thread = threading.Thread(target=serve, args=(connection,), daemon=True)
            threads.add(thread)
            thread.start()
    finally:
        door.close()
        until = time.monotonic() + settings.judge.timeout_s
        for thread in tuple(threads):
            thread.join(max(0.0, until - time.monotonic()))
        log.info("judge_stopped")
    return 0


class Bench:
    """Asks the model for whoever connects, and remembers of it only whether it works."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint = endpoint
        self._model = model
        self._lock = threading.Lock()
        #: Why there was no verdict the last time.
        self._trouble = ""
        self._absent, self._rest_until = 0, 0.0

    def answer(self, connection: socket.socket, timeout_s: float) -> None:
        """Answer the question of one connection."""
        with contextlib.suppress(OSError, wire.Odd):  # who asks has gone, or is none of ours: nobody waits for an answer
            texts = wire.receive_texts(connection, time.monotonic() + _QUESTION_S)
            message: dict[str, object]
            try:
                self._rested()
                message = {"verdicts": self._endpoint(texts)}
            except NoVerdict as error:
                message = {"failed": str(error)}
            self._remember(str(message.get("failed", "")))
            wire.send(connection, message, time.monotonic() + min(timeout_s, _QUESTION_S))

    def _rested(self) -> None:
        """Raise while the model is left alone."""
        with self._lock:
            if time.monotonic() < self._rest_until:
                raise NoVerdict(self._trouble)

    def _remember(self, trouble: str) -> None:
        with self._lock:
            before, self._trouble = self._trouble, trouble
            resting = time.monotonic() < self._rest_until
            self._absent = self._absent + (not resting) if trouble in _ABSENT else 0
            if self._absent >= _PATIENCE and not resting:
                self._rest_until = time.monotonic() + _REST_S
        if trouble and trouble != before:
            log.warning("judge_failed", model=self._model, reason=trouble, actor="administrator")
        elif before and not trouble:
            log.info("judge_ready", model=self._model)

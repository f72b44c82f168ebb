"""Ends the process when the instance in hand gets nowhere: nothing else stops a stage that hangs inside a library.

**Way** `deadline` watches for the length of a with block and gives what is to be called at each step forward; a step is a stage
or a frame that ended, so that a long instance is not taken for a stuck one. Two clocks: our own thread tells the log which
instance it was; native code that lets no thread of Python run is ended by a thread of C, `NATIVE_GRACE_S` later, which writes
the frames to stderr and no values. Each step is passed on to whoever started the process (`notify`).

**Fails** By `os._exit`.

**Limits** What steps forward for ever is not stopped: every loop over frames has an end (`image.spec.FRAMES_MAX`), and reading
text has its own time (``work.redact_max_s``).
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dicomnode import notify
from dicomnode.log import get_logger

#: Exit code after too many defects or a passed deadline (EX_SOFTWARE).
EXIT_DEFECT = 70
#: Native code that holds the interpreter lets no thread of Python run; so much later the process is ended without Python.
NATIVE_GRACE_S = 5.0
#: The descriptor: what stands for it in Python may have been replaced.
_STDERR = 2

log = get_logger("work")


@contextmanager
def deadline(instance_id: str, seconds: float) -> Iterator[Callable[[], None]]:
    """Watch an instance until the with block ends; what is given is to be called at each step forward."""
    clock = _Clock(instance_id, seconds)
    clock.start()
    try:
        yield clock.progress
    finally:
        clock.end()


class _Clock:
    """The two threads that watch one instance, and when they would end it."""

    def __init__(self, instance_id: str, seconds: float) -> None:
        self._instance_id = instance_id
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
        self._due, self._armed_at = 0.0, float("-inf")

    def start(self) -> None:
        """Begin to watch."""
        self.progress()
        self._thread.start()

    def progress(self) -> None:
        """Begin anew, for a step was taken."""
        now = time.monotonic()
        self._due = now + self._seconds
        # Each arming starts a thread of C, and frames come by the thousand.
        if now - self._armed_at > NATIVE_GRACE_S / 2:
            self._armed_at = now
            faulthandler.dump_traceback_later(self._seconds + NATIVE_GRACE_S, exit=True, file=_STDERR)
        notify.alive()

    def end(self) -> None:
        """Watch no longer."""
        faulthandler.cancel_dump_traceback_later()
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while (left := self._due - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        log.error("deadline_passed", instance_id=self._instance_id)
        os._exit(EXIT_DEFECT)

"""The command of the setting ``keep.hook``: how the node tells somebody.

**Way** The command gets one JSON object on stdin: ``event``, ``time`` and what belongs to the event, never a name, a date
of birth or a UID. Its output is not read.

**Fails** Never: a command that cannot run, fails or takes too long is logged, and killed with its children.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime

from dicomnode.log import get_logger

#: A command that takes longer is killed, seconds.
LONGEST_S = 20.0

log = get_logger("keep")


def run_hook(argv: Sequence[str], event: str, facts: Mapping[str, object], now: datetime, longest_s: float = LONGEST_S) -> bool:
    """Run the command and say whether it ended with 0; without a command nothing is done."""
    if not argv:
        return False
    text = json.dumps({"event": event, "time": now.isoformat(timespec="seconds"), **facts}) + "\n"
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
    except OSError as error:
        log.error("hook_failed", hook=event, error_type=type(error).__name__, reason="not_started", actor="administrator")
        return False
    with process:
        try:
            process.communicate(text.encode(), timeout=longest_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.error("hook_failed", hook=event, reason="timeout", actor="administrator")
            return False
    if process.returncode != 0:
        log.error("hook_failed", hook=event, reason="exit_code", exit_code=process.returncode, actor="administrator")
        return False
    log.info("hook_run", hook=event)
    return True

"""The judge as a worker sees it: a function from texts to verdicts, which never fails.

**Way** `SocketAppeal` hands the texts of an instance, each once, to the judge over its socket, and waits as long as
``judge.timeout_s`` and a second.

**Fails** Never: no judge, no time, an answer of another length or with other words means ``phi`` for every text. That the judge
cannot be reached is told when it begins, not for each instance. One that has not answered in time is stuck, for it keeps its
own limit: it is left alone for a while, so that an instance, which asks several times, waits for it once.

**Limits** Of one instance `MOST_TEXTS` different texts are asked, each up to `LONGEST_TEXT` characters; others are ``phi``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from dicomnode.judging import wire
from dicomnode.log import get_logger
from dicomnode.settings import Settings
from dicomnode.stages.redact.appeal import Appeal, Verdict

#: Beyond the judge's own time, seconds: what it has to say of its trouble should still be heard.
_GRACE_S = 1.0
#: A judge that did not answer in time is left alone for so long, seconds.
_REST_S = 30.0

log = get_logger("work")


class SocketAppeal:
    """Asks the judge of one state directory."""

    def __init__(self, state_dir: Path, name: str, timeout_s: float) -> None:
        self._state_dir = state_dir
        self._name = name
        self._timeout_s = timeout_s
        #: What kept us from the judge when it was asked last; told when it changes.
        self._trouble = ""
        self._rest_until = 0.0

    @property
    def name(self) -> str:
        """See `Appeal.name`."""
        return self._name

    def __call__(self, texts: Sequence[str]) -> list[Verdict]:
        """See `Appeal.__call__`."""
        asked = [text for text in dict.fromkeys(texts) if text and len(text) <= wire.LONGEST_TEXT][: wire.MOST_TEXTS]
        if not asked:
            return wire.all_phi(texts)
        found = dict(zip(asked, self._ask(asked), strict=True))
        return [found.get(text, "phi") for text in texts]

    def _ask(self, texts: list[str]) -> list[Verdict]:
        now = time.monotonic()
        if now < self._rest_until:
            return wire.all_phi(texts)
        until = now + self._timeout_s + _GRACE_S
        trouble = ""
        verdicts: list[Verdict] | None = None
        try:
            with wire.connect(self._state_dir, until) as connection:
                wire.send(connection, {"texts": texts}, until)
                verdicts = wire.receive_verdicts(connection, len(texts), until)
        except TimeoutError:
            trouble = "timeout"
            self._rest_until = time.monotonic() + _REST_S
        except OSError:
            trouble = "unreachable"
        except wire.Odd:
            trouble = "odd_answer"
        if trouble not in ("", self._trouble):
            log.warning("judge_failed", model=self._name, reason=trouble, actor="administrator")
        self._trouble = trouble
        return wire.all_phi(texts) if verdicts is None else verdicts


def appeal_of(settings: Settings) -> Appeal | None:
    """Give the further judge that these settings name; None when there is none, or nothing to ask it in strict mode."""
    if not settings.asks_judge:
        return None
    return SocketAppeal(settings.node.state_dir, settings.judge.model, settings.judge.timeout_s)

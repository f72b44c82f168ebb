"""SIGHUP: load, check, and change over all at once or not at all.

**Way** The files are read by the master and become a snapshot; ``dicomnode check`` looks that snapshot over in a process of its
own. Only when nothing is wrong are the children replaced, place by place: a new one starts and is ready before the old one is
told to end, so acceptors never stop accepting; sender and keeper, of which there is one a node, follow each other. An old
acceptor takes no more connections and ends with its last association, an old worker ends its instance. A SIGHUP during a reload
is heard when that one is through, with the files as they are then.

**Fails** What is wrong is told by ``config_rejected`` and the old configuration stays, in every child. What cannot change while
the node runs (`FIXED`) is named and refused. A child that cannot run by what was approved turns everything back.

**Standard** sd_notify(3): RELOADING, then READY, in either case.

**Limits** Between the first and the last place, new and old settings run beside each other, for some seconds. A master that
runs some of the roles checks what those use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator

from dicomnode import log as logs
from dicomnode import notify, snapshot
from dicomnode.errors import EXIT_CONFIG, BadSetting, ConfigError, DicomNodeError
from dicomnode.log import get_logger
from dicomnode.repository import approve
from dicomnode.serve.child import START_S, Child
from dicomnode.serve.tree import FIRST_PAUSE_S, LONGEST_PAUSE_S, Place, Tree, wanted
from dicomnode.settings import Settings, load
from dicomnode.snapshot import Snapshot
from dicomnode.spool import Spool

#: Settings of [node] that a running node keeps: its socket is open there, its spool lies there.
FIXED = ("state_dir", "bind", "port")
#: One for the whole node: the old one ends before the new one starts.
_SINGLE = frozenset({"send", "keep"})
#: `dicomnode check` may take this long, seconds.
_CHECK_S = 600.0
_NO_CHECK = "the check of the configuration cannot be started now"

log = get_logger("serve")

#: Goes on by one step at each tick.
Steps = Generator[None, None, None]


class _UnfitError(Exception):
    """A child does not run by the new settings; its text is for the log."""


class Reload:
    """The reloads of a tree, one after the other."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._asked = False
        self._steps: Steps | None = None

    def ask(self) -> None:
        """Reload, at once or after the reload that is going on."""
        self._asked = True

    def tick(self) -> None:
        """Go on by a step."""
        if self._steps is None and self._asked:
            self._asked = False
            self._steps = self._run()
        if self._steps is not None and next(self._steps, self) is self:
            self._steps = None

    def end(self) -> None:
        """Leave off: the node stops."""
        if self._steps is not None:
            self._steps.close()

    def _run(self) -> Steps:
        tree = self._tree
        notify.reloading()
        old = tree.plan
        try:
            settings = load(old.settings.directory)
            _refuse_fixed(old.settings, settings)
            key = Spool(settings.node.state_dir).identity().key
            new = Snapshot(approve(settings))
        except (DicomNodeError, OSError) as error:
            _reject(str(error), old)
            notify.ready()
            return
        try:
            yield from _check(new, tree.roles)
            yield from self._replace(new)
        except _UnfitError as error:
            _reject(str(error), old)
            yield from self._back(old)
            new.close()
        else:
            tree.plan = new
            logs.configure(settings.log, "serve", key)
            old.close()
            log.info("config_reloaded", config_digest=settings.digest[:12])
        notify.ready()

    def _replace(self, new: Snapshot) -> Steps:
        """Give every place a child of the new settings, and as many places to each role as they ask for."""
        tree = self._tree
        for role in tree.roles:
            places = [place for place in tree.places if place.role == role]
            count = wanted(new.settings, role)
            for place in places[:count]:
                yield from self._change(place, new)
            for _ in range(count - len(places)):
                place = Place(role, new)
                tree.places.append(place)
                yield from self._until_ready(place)
            for place in places[count:]:
                self._remove(place)

    def _back(self, old: Snapshot) -> Steps:
        """Give every place a child of the old settings again, at once; what waits to be accepted waits until one is ready."""
        tree = self._tree
        for role in tree.roles:
            places = [place for place in tree.places if place.role == role]
            count = wanted(old.settings, role)
            for place in places[:count]:
                place.empty = False
                if place.plan is not old:
                    place.plan, place.not_before = old, 0.0
                    if place.child is not None:
                        tree.retire(place.child)
                        place.child = None
            for place in places[count:]:
                self._remove(place)
            tree.places.extend(Place(role, old) for _ in range(count - len(places)))
        give_up = tree.now + START_S
        while not tree.all_ready() and tree.now < give_up:
            yield

    def _remove(self, place: Place) -> None:
        self._tree.places.remove(place)
        if place.child is not None:
            self._tree.retire(place.child)

    def _change(self, place: Place, new: Snapshot) -> Steps:
        tree = self._tree
        if place.role in _SINGLE:
            place.empty = True
            if (old := place.child) is not None:
                place.child = None
                tree.retire(old)
                while old in tree.leaving:
                    yield
            place.plan, place.empty, place.unfit, place.not_before = new, False, False, 0.0
            yield from self._until_ready(place)
            return
        fresh = yield from self._fresh(place.role, new)
        if place.child is not None:
            tree.retire(place.child)
        place.plan, place.child, place.unfit = new, fresh, False

    def _fresh(self, role: str, new: Snapshot) -> Generator[None, None, Child]:
        """Start a child beside the old one and wait until it is ready."""
        tree, pause_s = self._tree, FIRST_PAUSE_S
        give_up = tree.now + START_S
        while tree.now < give_up:
            try:
                fresh = tree.spawn(role, new)
            except OSError:  # no room for a process now
                fresh = None
            if fresh is not None:
                tree.joining.append(fresh)
                while (code := fresh.poll()) is None and not fresh.ready:
                    yield
                tree.joining.remove(fresh)
                if code is None:
                    return fresh
                log.warning("child_exited", role=role, child_pid=fresh.process.pid, exit_code=code)
                if code == EXIT_CONFIG:
                    raise _UnfitError(_unfit(role))
            until, pause_s = tree.now + pause_s, min(pause_s * 2, LONGEST_PAUSE_S)
            while tree.now < until:
                yield
        raise _UnfitError(_unfit(role))

    def _until_ready(self, place: Place) -> Steps:
        """Wait for the child that the tree starts in a place."""
        give_up = self._tree.now + START_S
        while not place.ready:
            if place.unfit or self._tree.now >= give_up:
                raise _UnfitError(_unfit(place.role))
            yield


def _unfit(role: str) -> str:
    return f"a new process of the role {role!r} does not run by this configuration; its own lines say why"


def _refuse_fixed(old: Settings, new: Settings) -> None:
    changed = [name for name in FIXED if getattr(old.node, name) != getattr(new.node, name)]
    if changed:
        names = ", ".join(f"node.{name}" for name in changed)
        raise BadSetting(f"{new.directory / 'node.toml'}: {names} cannot change while the node runs; restart it for that")


def _reject(text: str, kept: Snapshot) -> None:
    log.error(
        "config_rejected", message=text, config_digest=kept.settings.digest[:12], actor=ConfigError.actor,
    )


def _check(new: Snapshot, roles: tuple[str, ...]) -> Steps:
    """Have the snapshot looked over; raises `_UnfitError` with everything that is wrong, or when that cannot be known now."""
    only = [part for role in roles for part in ("--only", role)]
    line = [sys.executable, "-m", "dicomnode", "check", "--json", *only, "-c", str(new.settings.directory.resolve())]
    environment = {**os.environ, snapshot.DESCRIPTOR: str(new.descriptor)}
    try:
        answers = os.memfd_create("dicomnode-check")
    except OSError as error:
        raise _UnfitError(f"{_NO_CHECK} ({error.strerror})") from None
    with os.fdopen(answers, "w+b") as found:
        try:
            process = subprocess.Popen(
                line, env=environment, stdin=subprocess.DEVNULL, stdout=found, stderr=found, pass_fds=(new.descriptor,),
            )
        except OSError as error:
            raise _UnfitError(f"{_NO_CHECK} ({error.strerror})") from None
        give_up = time.monotonic() + _CHECK_S
        try:
            while process.poll() is None and time.monotonic() < give_up:
                yield
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            found.seek(0)
            raise _UnfitError(_faults(found.read()) or f"the check of the configuration ended with {process.returncode}")


def _faults(output: bytes) -> str:
    faults = []
    for line in output.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and answer.get("outcome") == "fault":
            faults.append(f"{answer.get('about')}: {answer.get('detail')}")
    return "; ".join(faults)

"""The story of one instance: each event of the ledger as a sentence with its time and its author, and what must be done now.

**Way** `story` turns a row of `Queue.find` and the events of `Queue.history` into plain mappings, which ``dicomnode where``
prints. The first event is the reception, which the file of the instance itself tells; the others are of the ledger. Who acts
comes from the error tree, by the reason that stands on the row.

**Limits** A role is told from what was done: only the keeper takes in, only workers and senders claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from dicomnode.errors import BodyPartUncertain, DicomNodeError, DiedThrice, RedactionUncertain, TagDisagrees, TextLeft
from dicomnode.keeper.ledger import deliveries_of
from dicomnode.settings import Peer

Event = Mapping[str, object]
#: (state, reason, since) of a destination.
Lane = Callable[[str], tuple[str, str, datetime | None]]

#: (old, new) → what happened to the instance; None stands for any old state.
_WORK: Mapping[tuple[str | None, str], str] = {
    ("", "waiting"): "taken in, waits for a worker",
    ("", "duplicate"): "taken in: a duplicate of what came before, nothing is made",
    ("", "own"): "taken in: a result of this node that came back",
    ("", "quarantine"): "cannot be read, set aside",
    (None, "active"): "claimed to be worked",
    ("active", "done"): "worked",
    ("active", "deferred"): "put off",
    ("active", "hold"): "held for a person",
    ("active", "quarantine"): "cannot be worked, set aside",
    ("active", "duplicate"): "a duplicate by its pixels, nothing is made",
    ("active", "given back"): "given back unworked",
    ("active", "waiting"): "its process died, taken back",
    (None, "waiting"): "to be worked again",
    (None, "dropped"): "given up",
    (None, "removed"): "source file removed after its retention",
    (None, "deleted"): "row taken away, the file is read anew",
    (None, "urgent"): "made urgent",
}
#: The same of a delivery.
_SENT: Mapping[tuple[str | None, str], str] = {
    ("", "ready"): "made, to be sent",
    ("", "hold"): "held before it was made",
    (None, "active"): "claimed to be sent",
    ("active", "delivered"): "delivered",
    ("active", "deferred"): "not taken for now",
    ("active", "hold"): "held for a person",
    ("active", "given back"): "given back unsent",
    ("active", "ready"): "its process died, taken back",
    (None, "ready"): "to be sent again",
    (None, "expired"): "not taken within its lifetime, set aside",
    (None, "dropped"): "given up",
    (None, "removed"): "result file removed after its retention",
    (None, "replaced"): "to be made by the next work",
    (None, "urgent"): "made urgent",
}
_BY_KEEPER = frozenset({
    "taken in, waits for a worker", "its process died, taken back", _WORK["", "duplicate"], _WORK["", "own"],
    _WORK["", "quarantine"], _WORK[None, "removed"], _SENT[None, "removed"], _SENT[None, "expired"],
})
#: Reasons for which a person's look is what is wanted; all others are tried again once mended.
_RELEASED = frozenset({RedactionUncertain.code, TextLeft.code, BodyPartUncertain.code, TagDisagrees.code})
#: Instance states in which nobody need do anything, and what is awaited.
_NEXT = {
    "waiting": "waits for a worker", "active": "is being worked", "deferred": "is worked again when due",
    "duplicate": "came before, nothing is made of it", "own": "is a result of this node", "dropped": "was given up",
}


def story(row: Event, events: Sequence[Event], peers: Mapping[str, Peer], lane: Lane) -> dict[str, object]:
    """Give timeline, present state and who must act."""
    return {
        "timeline": [_received(row), *(_told(event, peers) for event in events)],
        "now": list(_now(row, peers, lane)),
    }


def _received(row: Event) -> dict[str, object]:
    by = {"calling_ae": row["calling_ae"], "address": row["address"], "role": "acceptor", "pid": row["acceptor_pid"] or None}
    return {"at": row["received_at"], "what": f"received as {row['called_ae']}" if row["called_ae"] else "received", "by": by}


def _told(event: Event, peers: Mapping[str, Peer]) -> dict[str, object]:
    old, new, reason = str(event["old"]), str(event["new"]), str(event["reason"])
    table = _SENT if event["delivery_id"] else _WORK
    what = table.get((old, new)) or table.get((None, new)) or f"{old} to {new}"
    if (old, new) == ("active", "ready") and reason:
        what = "not sent: the destination refuses this node"
    told: dict[str, object] = {"at": event["at"], "what": what, "by": _author(str(event["who"] or ""), event, what)}
    if event["times"] != 1:
        told |= {"until": event["last_at"], "times": event["times"]}
    if event["delivery_id"]:
        peer = peers.get(str(event["destination"]))
        told |= {"output": event["kind"], "destination": event["destination"], "ae_title": peer.ae_title if peer else None}
    if reason:
        told["reason"] = reason
    if isinstance(event["status"], int):
        told["status"] = f"0x{event['status']:04X}"
    return told


def _author(who: str, event: Event, what: str) -> dict[str, object]:
    if who.startswith("person "):
        return {"person": who.removeprefix("person ")}
    if what in _BY_KEEPER or event["reason"] == DiedThrice.code:
        role = "keeper"
    elif event["delivery_id"] and event["old"]:
        role = "sender"
    else:
        role = "worker"
    pid = who.split(":")[-2:-1]
    return {"role": role, "pid": int(pid[0]) if pid else None}


def _now(row: Event, peers: Mapping[str, Peer], lane: Lane) -> Iterator[dict[str, object]]:
    key, state, reason = str(row["instance_id"]), str(row["state"]), str(row["reason"])
    if state in ("hold", "quarantine"):
        acts = f"dicomnode queue retry {key}" if state == "quarantine" else f"dicomnode queue release {key}, or drop"
        yield {"of": "instance", "state": state, "reason": reason, "since": row["since"], "who": actor(reason), "acts": acts}
    elif state != "done":
        yield {"of": "instance", "state": state, "what": _NEXT[state], "reason": reason, "since": row["since"], "who": "nobody"}
    elif not row["deliveries"]:
        yield {"of": "instance", "state": state, "what": "nothing was to be sent", "since": row["since"], "who": "nobody"}
    for one in deliveries_of(row):
        yield _of_delivery(key, one, peers, lane)


def _of_delivery(key: str, one: Event, peers: Mapping[str, Peer], lane: Lane) -> dict[str, object]:
    name, state, reason = str(one["destination"]), str(one["state"]), str(one["reason"])
    peer = peers.get(name)
    told: dict[str, object] = {
        "of": one["kind"], "destination": name, "ae_title": peer.ae_title if peer else None, "state": state,
        "urgent": one["urgent"], "since": one["since"], "who": "nobody",
    }
    if isinstance(one["status"], int):
        told["status"] = f"0x{one['status']:04X}"
    if state in ("hold", "expired"):
        act = "release" if reason in _RELEASED else "retry"
        return told | {"reason": reason, "who": actor(reason), "acts": f"dicomnode queue {act} {key}, or drop"}
    if state in ("ready", "deferred"):
        way, why, since = lane(name)
        told |= {"reason": reason, "due_at": one["due_at"]}
        if peer is None:
            return told | {"what": "no such peer is configured any more", "who": "administrator"}
        if way != "up":
            waits = "is probed until it answers" if way == "down" else "refuses this node"
            told["destination_since"] = since.isoformat() if since else None
            if way == "blocked":
                told["acts"] = f"once it takes this node, dicomnode queue retry {key}"
            return told | {"what": f"the destination is {way} ({why}) and {waits}", "who": "administrator"}
        if not one["urgent"] and not peer.sends_at(datetime.now().astimezone().time()):
            return told | {"what": f"waits for the window {', '.join(peer.windows)}; dicomnode queue urgent {key} sends it now"}
    return told


def actor(reason: str) -> str:
    """Say who acts on a reason: the word of the error tree, a reviewer for what it does not know."""
    return _ACTORS.get(reason, "reviewer")


def _errors(base: type[DicomNodeError]) -> Iterator[type[DicomNodeError]]:
    for leaf in base.__subclasses__():
        yield leaf
        yield from _errors(leaf)


_ACTORS = {error.code: str(error.actor) for error in _errors(DicomNodeError)}

"""How ``dicomnode queue`` prints: tables for people, one JSON object a line for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import typer
from rich.console import Console
from rich.table import Table

from dicomnode.commands.options import print_json
from dicomnode.keeper.ledger import Audit, deliveries_of
from dicomnode.spool import Spool

#: A table in a pipe is not cut to 80 columns.
_PIPE_WIDTH = 180
_SIDES = {
    "delivered": "worked, and every output taken by its destination or dropped", "waiting": "to be worked or sent",
    "held": "a person must look", "quarantined": "cannot be worked", "duplicate": "was there before",
    "own": "a result of this node that came back", "dropped": "given up by a person",
}


def print_summary(
    counts: Mapping[str, Mapping[str, Mapping[str, object]]], spool: Spool, *, as_json: bool,
) -> None:
    """Print what `Queue.counts` gives."""
    not_taken = sum(1 for _ in spool.incoming()) if not counts["instances"] else None
    table = bare_table("what", "state", "count", "urgent", "bytes", "oldest", "reason")
    for group, states in counts.items():
        for state, facts in states.items():
            if as_json:
                print_json(_fact(group, state, facts))
                continue
            shown = f"lane {facts['state']}" if state == "lane" else state
            oldest = facts.get("since") if state == "lane" else facts.get("oldest")
            table.add_row(
                group, shown, _text(facts.get("count")), _text(facts.get("urgent") or None), _text(facts.get("bytes")),
                age(oldest), _text(facts.get("reason")),
            )
    if not as_json:
        wide_console().print(table)
        if not_taken:
            typer.echo(f"{not_taken} files have no row yet; the keeper takes them in")


def _fact(group: str, state: str, facts: Mapping[str, object]) -> dict[str, object]:
    whose = {"to": group.removeprefix("to ")} if group.startswith("to ") else {"of": group}
    if state == "lane":
        return {**whose, "lane": facts["state"], "reason": facts["reason"], "since": facts["since"]}
    return {**whose, "state": state, **facts}


def print_row(row: Mapping[str, object]) -> None:
    """Print one row of `Queue.find` with its outputs and the acts on it."""
    table = bare_table("key", "value", title=str(row["instance_id"]))
    for name, value in row.items():
        if name not in {"deliveries", "acts", "instance_id", "certificates"}:
            table.add_row(name, _text(value))
    console = wide_console()
    console.print(table)
    deliveries = bare_table("output", "to", "state", "reason", "status", "attempt", "result UID")
    for one in deliveries_of(row):
        status = f"0x{one['status']:04X}" if isinstance(one["status"], int) else ""
        deliveries.add_row(*(_text(cell) for cell in (
            one["kind"], one["destination"], f"{one['state']}{', urgent' * bool(one['urgent'])}", one["reason"], status,
            one["attempt"], one["sop_instance_uid"],
        )))
    if deliveries.row_count:
        console.print(deliveries)
    certificates = row["certificates"]
    for one in certificates if isinstance(certificates, list) else []:
        means = one["means"] or {}
        told = f"{means.get('mode', '')} {means.get('second_look', '')}".strip()
        console.print(f"certificate of {one['sop_instance_uid']}: {len(one['regions'])} regions, {one['coding']}, {told}")
    acts = row["acts"]
    for act in acts if isinstance(acts, list) else []:
        console.print(f"{act['at']}  {act['who']}: {act['what']} ({act['rows']} rows)", markup=False, highlight=False)


def print_account(found: Audit, *, as_json: bool) -> None:
    """Print what `audit` found: what was accepted on one side, where it is on the other."""
    if as_json:
        print_json({
            "accepted": found.accepted, "acknowledged": found.acknowledged, "unanswered": found.unanswered, **found.accounts,
            "gone": found.gone, "breaches": len(found.breaches),
        })
        return
    table = bare_table("account", "instances", "")
    table.columns[1].justify = "right"
    table.add_row("acknowledged", str(found.acknowledged), "by receipts, written before the sender was answered")
    table.add_row("without receipt", str(found.unanswered), "the answer was not sent, or older than the receipts")
    table.add_row("= accepted", str(found.accepted), "", end_section=True)
    for side, count in found.accounts.items():
        table.add_row(side, str(count), _SIDES[side])
    table.add_row("gone", str(found.gone), "acknowledged, and neither a row nor a file")
    table.add_row("= accounted", str(sum(found.accounts.values()) + found.gone), "")
    wide_console().print(table)
    breaches = f"{len(found.breaches)} breach{'es' * (len(found.breaches) != 1)}"
    typer.echo(
        f"accepted {found.accepted} = " + " + ".join(f"{n} {name}" for name, n in found.accounts.items())
        + (f" + {found.gone} gone" if found.gone else "") + f"; {breaches if found.breaches else 'sound'}",
    )


def bare_table(*columns: str, title: str | None = None) -> Table:
    """Give a table without lines, whose cells are folded rather than cut."""
    table = Table(title=title, box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def wide_console() -> Console:
    """Give a console that takes no cell for markup."""
    return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def age(value: object) -> str:
    """Give the time since an ISO 8601 time, to the second; empty for anything else."""
    if not isinstance(value, str):
        return ""
    passed = max(datetime.now(UTC) - datetime.fromisoformat(value), timedelta(0))
    return str(timedelta(seconds=int(passed.total_seconds())))

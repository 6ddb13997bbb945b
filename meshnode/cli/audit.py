"""The verbs about the audit log: checking it, reading it, and what this node remembers of others' logs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click
import msgspec

from meshnode.cli import client
from meshnode.cli.render import Screen
from meshnode.cli.verb import verb
from meshnode.control.audit import (
    Heard,
    last_lines,
    lines_on,
    own_key,
    raise_if_broken,
    read_heads,
    verify_log,
)
from meshnode.errors import NotRunning
from meshnode.observe.audit_check import Report
from meshnode.seams import Seams, in_thread
from meshnode.trust.audit import Line
from meshwire.ids import node_id, to_text

LINES_SHOWN = 20
SHORT = 8


class Held(msgspec.Struct, frozen=True):
    """What `audit_heads` answers."""

    own: tuple[Heard, ...]
    others: tuple[Heard, ...]


class AuditReport(Report, frozen=True, kw_only=True):
    """What `audit verify` prints: the report, whether all is `intact`, and the node's public `key` in hex."""

    intact: bool
    key: str


@click.group()
def audit() -> None:
    """Show where every request went, and that nobody has changed that since."""


@audit.command("verify")
@click.option(
    "--heads",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also hold it against this file, made by `audit heads --json` on other nodes.",
)
@verb
async def verify_verb(screen: Screen, home: Path, *, heads: Path | None) -> None:
    """Check the whole log, and name the first line that is not as it was written.

    It is held against the head that the node signed, and, if the node runs, against what its neighbours remember.
    """
    heard = list(await in_thread(lambda: read_heads(heads))) if heads is not None else []
    with suppress(NotRunning):  # then its neighbours cannot be asked
        heard += (await client.call(home, "audit_heads", {}, Held)).own
    report = await verify_log(home, heard, Seams())
    told = AuditReport(intact=report.intact, key=own_key(home).hex(), **msgspec.structs.asdict(report))
    screen.json(told)
    for line in _told(report):
        screen.line(line)
    raise_if_broken(report)


@audit.command("tail")
@click.option(
    "-n", "--lines", default=LINES_SHOWN, show_default=True, type=click.IntRange(1), help="How many."
)
@verb
async def tail_verb(screen: Screen, home: Path, *, lines: int) -> None:
    """Show the last lines."""
    _show(screen, await in_thread(lambda: last_lines(home, lines)))


@audit.command("show")
@click.argument("what")
@verb
async def show_verb(screen: Screen, home: Path, *, what: str) -> None:
    """Show everything about one request.

    WHAT is the node's id for it, which the response has as x-mesh-job, or as x-request-id where the client named none
    of its own; or the number of a line.
    """
    found = await in_thread(lambda: lines_on(home, what))
    for line in found:
        screen.json(line)
        screen.facts(_facts(line))


@audit.command("heads")
@verb
async def heads_verb(screen: Screen, home: Path) -> None:
    """Show what this node remembers of the others' logs.

    With --json it is what `audit verify --heads` takes on another node: keep it where nobody there can write.
    """
    held = await client.call(home, "audit_heads", {}, Held)
    for one in held.others:
        screen.json(one)
    mine = to_text(node_id(own_key(home)))
    rows = [(one.node[:SHORT], "this node" if one.by == mine else one.by[:SHORT]) for one in held.others]
    if rows:
        screen.table(("NODE", "REMEMBERED BY"), rows)
    else:
        screen.line("No other node has named the head of an audit log yet.")


def _told(report: Report) -> list[str]:
    if not report.lines:
        return ["The audit log has no lines." if report.intact else "The audit log has no lines that count."]
    state = "are as they were written" if report.intact else "were read before the first that is not"
    lines = [f"Lines {report.first} to {report.last} {state}; the signed head is line {report.head}."]
    if report.unacknowledged or report.unfinished_bytes:
        lines.append(
            f"Behind it: {report.unacknowledged} lines, {report.unfinished_bytes} bytes of a write that did not end."
        )
    others = (
        f"{report.remembered} heads that other nodes remember"
        if report.remembered
        else "no other node's memory"
    )
    return [*lines, f"Held against {others}."]


def _show(screen: Screen, lines: list[Line]) -> None:
    for line in lines:
        screen.json(line)
    if not lines:
        screen.line("The audit log has no lines.")
        return
    columns = ("LINE", "WHEN", "REQUEST", "CLASS", "DECISION", "WHERE", "RUNG", "TRUST", "WEIGHTS", "REASON")
    screen.table(columns, [_row(line) for line in lines])


def _row(line: Line) -> tuple[str, ...]:
    return (
        str(line.n),
        line.at[:19],
        line.request,
        line.privacy,
        line.decision,
        line.where[:SHORT],
        line.rung,
        line.trust,
        line.weights[:SHORT],
        line.reason,
    )


def _facts(line: Line) -> dict[str, str]:
    return {
        "line": str(line.n),
        "when": line.at,
        "request": line.request,
        "class": line.privacy,
        "decision": line.decision,
        "rung": line.rung,
        "where": line.where,
        "path": " → ".join(line.path),
        "trust": line.trust,
        "model": line.model,
        "weights": line.weights,
        "reason": line.reason,
    }

"""`meshnode logs`: what the running node has logged and logs, or what one has left in its home's file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import msgspec

from meshnode.cli import client
from meshnode.cli.render import Screen
from meshnode.cli.verb import verb
from meshnode.control.logs import (
    MISSED,
    FollowArguments,
    LogRecord,
    LogsArguments,
    Shown,
    before,
    last_logged,
    record_of,
)
from meshnode.errors import NotRunning
from meshnode.observe.log import FILE_NAME, Level
from meshnode.observe.log_file import log_path
from meshnode.observe.tail import LINES_MAX
from meshnode.seams import in_thread

LINES_SHOWN = 50
LINES_ASKED_MAX = 1_000_000
SECONDS = 19  # characters of a time up to its seconds
INDENT = " " * 4


@click.command()
@click.option(
    "-n",
    "--lines",
    default=LINES_SHOWN,
    show_default=True,
    type=click.IntRange(0, LINES_ASKED_MAX),
    help="How many of the last.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Those that are at least so grave.",
)
@verb
async def logs(screen: Screen, home: Path, *, lines: int, follow: bool, level: str) -> None:
    """Show what the node has logged; prompts and answers never are.

    A running node is asked for its last 200 lines; older ones, and those of a node that runs no more, come from
    node.log in its home. A node that is started at a terminal writes that file; one that the system keeps running
    logs to the system, and `meshnode service status` says how to see that.
    """
    least = cast("Level", level)
    try:
        last = await _show_running(screen, home, lines, least)
    except NotRunning:
        if follow:
            raise
        await _show_left(screen, home, lines, least)
        return
    if follow:
        await _follow(screen, home, last, least)


async def _show_running(screen: Screen, home: Path, count: int, level: Level) -> int:
    """The last lines of the running node; the number of its newest."""
    kept: list[dict[str, Any]] = []
    asked = LogsArguments(min(count, LINES_MAX), level)
    take = partial(_keep, kept)
    shown = await client.call(home, "logs", msgspec.structs.asdict(asked), Shown, take)
    if count > LINES_MAX and kept:
        older = await in_thread(lambda: list(before(last_logged(home, count, level), kept)))
        room = count - len(kept)
        kept = [*(dict(fields) for fields in older[-room:]), *kept]
    _show_all(screen, kept)
    return shown.last


def _keep(kept: list[dict[str, Any]], event: dict[str, Any]) -> None:
    kept.append(event["fields"])


async def _show_left(screen: Screen, home: Path, count: int, level: Level) -> None:
    """The last lines that a node left in its file. Raises NotRunning where there is none."""
    if not log_path(home).exists():
        raise NotRunning(
            f"No node runs from {home}, and none has left a {FILE_NAME} there.",
            hint="Start one with `meshnode up`, or name its --home; what the system keeps running logs to the "
            "system: see `meshnode service status`.",
        )
    kept = await in_thread(lambda: last_logged(home, count, level))
    screen.line(f"No node runs from {home}; the last lines in {log_path(home)}:")
    _show_all(screen, kept)


async def _follow(screen: Screen, home: Path, last: int, level: Level) -> None:
    def show(event: dict[str, Any]) -> None:
        if event["event"] == MISSED:
            lost = {"level": "warning", "event": "lines were logged faster than they were read"}
            _show(screen, record_of({**lost, "lines": event["lines"]}))
        else:
            _show(screen, record_of(event["fields"]))

    arguments = FollowArguments(last, level)
    await client.call(home, "logs_follow", msgspec.structs.asdict(arguments), type(None), show)


def _show_all(screen: Screen, kept: list[dict[str, Any]]) -> None:
    for fields in kept:
        _show(screen, record_of(fields))
    if not kept:
        screen.line("Nothing of that level has been logged.")


def _show(screen: Screen, record: LogRecord) -> None:
    screen.json(record)
    said = " ".join(f"{name}={_plain(value)}" for name, value in record.fields.items() if name != "exception")
    when = record.time[:SECONDS].replace("T", " ")
    room = f"{record.room}: " if record.room else ""
    screen.line(f"{when}  {record.level:<7}  {room}{record.event}  {said}".rstrip())
    for line in str(record.fields.get("exception", "")).splitlines():
        screen.line(INDENT + line)


def _plain(value: object) -> str:
    """A value as one word, in quotes where it has spaces."""
    text = str(value)
    return f'"{text}"' if not text or any(char.isspace() for char in text) else text

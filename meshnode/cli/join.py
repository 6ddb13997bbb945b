"""`meshnode join`: let the running node join a mesh, or start one that does."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from meshnode.cli import client
from meshnode.cli.first import ask_when_ready
from meshnode.cli.options import node_options
from meshnode.cli.render import Screen
from meshnode.cli.up import Teller, run_here
from meshnode.cli.verb import verb
from meshnode.config import ENV_TICKET
from meshnode.control.join import parse_target
from meshnode.control.verbs import JoinArguments
from meshnode.errors import BadRequest, NotRunning

TARGET_BYTES_MAX = 4096
HINT = f"Give it as an argument, as - for standard input, with --ticket-file, or in {ENV_TICKET}."


@click.command("join")
@click.argument("target", required=False)
@click.option("--ticket-file", type=click.Path(path_type=Path), help="Read the ticket from this file.")
@click.option("--via", default="", help="Use this address instead of those in the ticket: ws://HOST:PORT.")
@click.option("--leave", is_flag=True, help="Give up the mesh that the running node is in.")
@click.option(
    "--ask", default="", help="Ask this as soon as the mesh can answer; a node that is started runs on."
)
@verb
@node_options
async def join(
    screen: Screen,
    home: Path,
    target: str | None,
    ticket_file: Path | None,
    via: str,
    leave: bool,
    ask: str,
    **flags: Any,
) -> None:
    """Join the mesh of a ticket, or the open mesh at an address.

    TARGET is a ticket (mesh1…) or the address of a node in an open mesh; `-` reads it from standard input. A
    node that runs already is told to join; otherwise one is started, as `meshnode up` does.
    """
    wanted = read_target(target, ticket_file)
    parse_target(wanted)  # what is no ticket is refused before a node starts
    arguments = msgspec.structs.asdict(JoinArguments(wanted, leave, via))
    try:
        joined = await client.call(home, "join", arguments, dict[str, Any], Teller(screen))
    except NotRunning:
        await run_here(screen, home, flags, join=wanted, via=via, ask=ask)
        return
    screen.json({"event": "joined", **joined})
    screen.line(f"Joined{': ' + str(joined['mesh']) if joined.get('mesh') else ''}.")
    if ask:
        await ask_when_ready(screen, home, ask)


def read_target(target: str | None, ticket_file: Path | None) -> str:
    """The ticket or address from wherever it was given. Raises BadRequest when there is none, or two."""
    if target and ticket_file:
        raise BadRequest("A ticket was given twice.", hint=HINT, param="target")
    if ticket_file:
        return _from_file(ticket_file)
    if target == "-":
        return _cleaned(sys.stdin.read(TARGET_BYTES_MAX + 1))
    return _cleaned(target or os.environ.get(ENV_TICKET, ""))


def _from_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return _cleaned(file.read(TARGET_BYTES_MAX + 1))
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} cannot be read: {error}.", param="ticket-file") from error


def _cleaned(text: str) -> str:
    if not text.strip():
        raise BadRequest("There is no ticket.", hint=HINT, param="target")
    if len(text) > TARGET_BYTES_MAX:
        raise BadRequest("That is too long for a ticket.", hint=HINT, param="target")
    return text.strip()

"""What there is to say about a service, whichever system keeps it. It writes nothing and starts nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from meshnode.errors import BadRequest

Command = tuple[str, ...]
NAME_PATTERN = r"^[a-z][a-z0-9-]{0,31}$"
STOP_SPARE_S = 15  # beyond the time that answers get to end: for the worker and the links


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the service is to run: the node of `home`, as `user` (empty: whoever installs it).

    `system` has it run without anybody being logged in; `drain_s` is how long a node that stops lets answers go on.
    """

    home: Path
    name: str = "meshnode"
    system: bool = False
    user: str = ""
    drain_s: int = 5

    @property
    def command(self) -> Command:
        """What starts the node: this very Python, which finds this very meshnode."""
        return (sys.executable, "-m", "meshnode.cli.main", "up", "--home", str(self.home))


@dataclass(frozen=True, slots=True)
class Unit:
    """A file for the system's service manager, and the commands that go with it, each run by whoever installs.

    `running` says whether that manager runs here at all; it does not in most containers.
    """

    path: Path
    content: bytes
    start: tuple[Command, ...]
    stop: tuple[Command, ...]
    forget: tuple[Command, ...]
    query: Command
    logs: str
    running: bool
    note: str = ""


def check_text(wanted: Wanted) -> None:
    """Raises BadRequest for a path or user that cannot stand in such a file."""
    for text in (*wanted.command, wanted.user):
        if not text.isprintable() and text:
            raise BadRequest(
                f"{text!r} has characters that a service's file cannot hold.",
                hint="Choose another --home.",
                param="home",
            )

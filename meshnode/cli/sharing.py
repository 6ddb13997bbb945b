"""The verbs about spare cycles: pause and resume what a running node does for others."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from meshnode.cli import client
from meshnode.cli.render import Screen, duration
from meshnode.cli.verb import verb
from meshnode.control.invite import duration_s
from meshnode.control.sharing import PauseArguments
from meshnode.observe.snapshot import SharingView


@click.command()
@click.option(
    "--all", "everything", is_flag=True, help="Run nothing here, not even this node's own requests."
)
@click.option("--for", "for_", default="", help="For how long: 30m, 12h, 7d; until `resume` if not given.")
@verb
async def pause(screen: Screen, home: Path, *, everything: bool, for_: str) -> None:
    """Take no work of other nodes; what runs for them goes on elsewhere, at once."""
    arguments = PauseArguments(everything, duration_s(for_) if for_ else 0)
    paused = await client.call(home, "pause", msgspec.structs.asdict(arguments), SharingView)
    screen.json(paused)
    screen.line(sharing_line(paused))


@click.command()
@verb
async def resume(screen: Screen, home: Path) -> None:
    """Take back `pause`; what the settings forbid stays forbidden."""
    resumed = await client.call(home, "resume", {}, SharingView)
    screen.json(resumed)
    screen.line(sharing_line(resumed))


def sharing_line(sharing: SharingView) -> str:
    """What a node takes of others' work, why, and for how long."""
    why = f": {'; '.join(sharing.why)}" if sharing.why else ""
    left = f" ({duration(sharing.left_s)} more)" if sharing.left_s is not None else ""
    untold = f"; this system does not tell what {', '.join(sharing.untold)} needs" if sharing.untold else ""
    return f"{sharing.state}{why}{left}{untold}"

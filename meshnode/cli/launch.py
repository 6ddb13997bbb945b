"""`meshnode launch`: start a tool that uses this node's API, or say what it would have to be told."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click
import msgspec

from meshnode.cli import client
from meshnode.cli.complete import choices, models_offered
from meshnode.cli.render import Screen
from meshnode.cli.tools import TOOLS, Target, Tool, for_any
from meshnode.cli.verb import verb
from meshnode.config import ENV_KEY
from meshnode.errors import BadRequest, ModelNotFound, NotRunning
from meshnode.observe.snapshot import Snapshot

NO_KEY = "unused"  # a node on loopback asks for none, but many programs will not start without one
OTHERS = "`meshnode launch --env` prints what most other programs need."


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool is started with: its `command` (empty where it is any), and the variables that are set for it."""

    tool: str
    command: tuple[str, ...]
    environment: dict[str, str]


@click.command(epilog=f"The tools: {', '.join(TOOLS)}.")
@click.argument("tool", required=False, shell_complete=choices(TOOLS))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--model",
    default="",
    shell_complete=models_offered,
    help="The model that it is to use; the first one on offer if not given.",
)
@click.option("--print", "show", is_flag=True, help="Only show what would be set and run.")
@click.option("--env", "exports", is_flag=True, help="Print exports for a shell, for any tool.")
@verb
async def launch(
    screen: Screen,
    home: Path,
    *,
    tool: str | None,
    arguments: tuple[str, ...],
    model: str,
    show: bool,
    exports: bool,
) -> None:
    """Start TOOL so that it uses this node's API; what stands after -- goes to the tool.

    Nothing of the tool's own settings is changed. Where the API asks for a key, it is taken from the environment
    variable MESHNODE_API_KEY, and is part of what --print and --env show.
    """
    known = _known(tool) if tool or not exports else None
    target = _target(await client.status(home), model, any_model=known is None)
    if known is None:
        setup = Setup(tool="", command=(), environment=dict(for_any(target)))
    else:
        command = (known.program, *known.arguments(target), *arguments)
        setup = Setup(tool=tool or "", command=command, environment=dict(known.variables(target)))
    if exports or show:
        _tell(screen, setup, with_command=show)
        return
    _start(setup, known)


def _known(name: str | None) -> Tool:
    if name and name in TOOLS:
        return TOOLS[name]
    said = f"There is no tool {name[:40]!r} here." if name else "Which tool?"
    raise BadRequest(said, hint=f"There are: {', '.join(TOOLS)}. {OTHERS}", param="tool")


def _target(seen: Snapshot, model: str, *, any_model: bool) -> Target:
    """The API of this node, and the model asked for or the first one on offer that costs nothing."""
    if not seen.api_url:
        raise NotRunning("The node's API is not up yet.", hint="See `meshnode status`.")
    offered = [one.name for one in seen.models if not one.cloud]
    if not (model or offered or any_model):
        raise ModelNotFound("No model is on offer.", hint="Bring one: meshnode pull smollm2:135m")
    return Target(seen.api_url, os.environ.get(ENV_KEY) or NO_KEY, model or next(iter(offered), ""))


def _tell(screen: Screen, setup: Setup, *, with_command: bool) -> None:
    screen.json(setup)
    for name, value in setup.environment.items():
        screen.text(f"export {name}={shlex.quote(value)}\n")
    if with_command and setup.command:
        screen.text(f"{shlex.join(setup.command)}\n")


def _start(setup: Setup, tool: Tool | None) -> None:
    """Become the tool, so that the terminal and its signals are the tool's. Raises BadRequest if it is not here."""
    program = shutil.which(setup.command[0])
    if program is None or tool is None:
        page = f" {tool.page} says how it is installed." if tool else ""
        raise BadRequest(
            f"{setup.command[0]} is not installed, or not in PATH.{page}", hint=OTHERS, param="tool"
        )
    sys.stdout.flush()
    try:
        os.execve(program, setup.command, {**os.environ, **setup.environment})  # noqa: S606 - that is what it is for
    except OSError as error:
        raise BadRequest(f"{program} cannot be started: {error.strerror}.", param="tool") from error

"""The verbs: write the file, have the service manager start it, take both back, say how it is."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import trio

from meshnode import config
from meshnode.cli.render import Screen
from meshnode.cli.service import launchd, systemd
from meshnode.cli.service.unit import NAME_PATTERN, Command, Unit, Wanted
from meshnode.cli.verb import verb
from meshnode.errors import BadRequest, NotAllowed, ServiceFailed
from meshnode.seams import in_thread

COMMAND_S = 90.0
OUTPUT_CHARACTERS_MAX = 500
C = TypeVar("C", bound=Callable[..., Any])


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """A service: its file, whether that is `installed`, and whether the manager `runs` it.

    `state` is the manager's own word, empty where none runs here; `commands` are what is still to be run by hand.
    """

    path: str
    installed: bool
    runs: bool = False
    state: str = ""
    commands: tuple[str, ...] = ()
    content: str = ""


@click.group()
def service() -> None:
    """Have the system keep this node running, with systemd or launchd."""


def _options(command: C) -> C:
    name = click.option("--name", default="meshnode", show_default=True, help="What the service is called.")
    system = click.option("--system", is_flag=True, help="For the whole system; needs root.")
    return name(system(command))


@service.command()
@_options
@click.option("--user", default="", help="With --system: whom it runs as; the home's owner if not given.")
@click.option("--print", "show", is_flag=True, help="Only show the file and the commands.")
@click.option("--force", is_flag=True, help="Replace a file that says something else.")
@verb
async def install(
    screen: Screen, home: Path, *, name: str, system: bool, user: str, show: bool, force: bool
) -> None:
    """Write the service's file, and start it where the service manager runs.

    The node takes its settings from config.toml in its home; MESHNODE_* variables of this terminal are not taken
    along. Where no service manager runs, as in most containers, it says with which commands to start it.
    """
    drain_s = config.load(home, {}, os.environ).api_drain_s
    wanted = Wanted(home, _checked(name), system, user or (_owner(home) if system else ""), drain_s)
    unit = _unit(wanted)
    if show:
        _show(screen, unit)
        return
    await in_thread(lambda: _write(unit, force=force))
    if unit.running:
        await _run_all(unit.start)
    commands = () if unit.running else _spelled(unit.start)
    view = ServiceView(path=str(unit.path), installed=True, runs=unit.running, commands=commands)
    screen.json(view)
    screen.line(f"Wrote {unit.path}.")
    _tell_next(screen, unit, view)


@service.command()
@_options
@verb
async def uninstall(screen: Screen, home: Path, *, name: str, system: bool) -> None:
    """Stop the service and remove its file; the node's home stays."""
    unit = _unit(Wanted(home, _checked(name), system))
    there = unit.path.exists()
    if there and unit.running:
        await _run_all(unit.stop)
    if there:
        await in_thread(lambda: _remove(unit))
    if there and unit.running:
        await _run_all(unit.forget)
    screen.json(ServiceView(path=str(unit.path), installed=False))
    screen.line(f"Removed {unit.path}." if there else f"There is no {unit.path}.")


@service.command("status")
@_options
@verb
async def status_verb(screen: Screen, home: Path, *, name: str, system: bool) -> None:
    """Say whether the service is installed and running."""
    unit = _unit(Wanted(home, _checked(name), system))
    there = unit.path.exists()
    code, said = await _run(unit.query) if there and unit.running else (1, "")
    state = (said.splitlines() or [""])[0] if there and unit.running else ""
    commands = _spelled(unit.start) if there and code else ()
    view = ServiceView(path=str(unit.path), installed=there, runs=code == 0, state=state, commands=commands)
    screen.json(view)
    if not there:
        screen.line(f"Not installed: there is no {unit.path}. `meshnode service install` writes it.")
        return
    screen.line(f"{unit.path}: {state or 'no service manager runs here'}")
    _tell_next(screen, unit, view)


def _unit(wanted: Wanted) -> Unit:
    return launchd.unit(wanted) if sys.platform == "darwin" else systemd.unit(wanted)


def _checked(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadRequest(
            f"{name[:40]!r} is no name for a service.",
            hint="Lowercase letters, digits and hyphens, 32 at most.",
            param="name",
        )
    return name


def _owner(home: Path) -> str:
    """Who is to run the node: whoever owns the home, or the one who typed the command, through sudo or not."""
    if home.exists():
        return home.owner()
    return os.environ.get("SUDO_USER") or getpass.getuser()


def _write(unit: Unit, *, force: bool) -> None:
    """The file, whole or not at all. Raises NotAllowed, ServiceFailed."""
    draft = unit.path.with_name(f".{unit.path.name}.{os.getpid()}")
    try:
        if not force and unit.path.exists() and unit.path.read_bytes() != unit.content:
            raise NotAllowed(
                f"{unit.path} is there already and says something else.",
                hint="--force replaces it; a second node on this machine needs another --name.",
            )
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(unit.content)
        draft.replace(unit.path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise _unwritable(unit.path, error) from error


def _remove(unit: Unit) -> None:
    try:
        unit.path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(unit.path, error) from error


def _unwritable(path: Path, error: OSError) -> ServiceFailed:
    return ServiceFailed(
        f"{path} cannot be written: {error.strerror or error}.", hint="With --system it needs root: use sudo."
    )


async def _run_all(commands: Sequence[Command]) -> None:
    for command in commands:
        code, said = await _run(command)
        if code:
            raise ServiceFailed(
                f"`{shlex.join(command)}` failed: {said or code}", hint="Run it by hand to see why."
            )


async def _run(command: Command) -> tuple[int, str]:
    """Its exit code and what it said; raises ServiceFailed when it cannot be run or does not end."""
    try:
        with trio.fail_after(COMMAND_S):
            done = await trio.run_process(
                command,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            )
    except (OSError, trio.TooSlowError) as error:
        raise ServiceFailed(f"`{shlex.join(command)}` does not work: {error or 'no end'}.") from error
    return done.returncode, done.stdout.decode(errors="replace").strip()[:OUTPUT_CHARACTERS_MAX]


def _show(screen: Screen, unit: Unit) -> None:
    text = unit.content.decode()
    screen.json(
        ServiceView(
            path=str(unit.path), installed=unit.path.exists(), commands=_spelled(unit.start), content=text
        )
    )
    screen.line(f"# {unit.path}")
    for line in text.splitlines():
        screen.line(line)
    screen.line("# started with:")
    for command in _spelled(unit.start):
        screen.line(f"#   {command}")


def _tell_next(screen: Screen, unit: Unit, view: ServiceView) -> None:
    if view.commands:
        screen.line("Start it with:")
    for command in view.commands:
        screen.line(f"  {command}")
    screen.line(f"Its log: {unit.logs}")
    if unit.note:
        screen.line(unit.note)


def _spelled(commands: Sequence[Command]) -> tuple[str, ...]:
    return tuple(map(shlex.join, commands))

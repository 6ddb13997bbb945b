"""`meshnode config`: the settings of this home, where each comes from, and changing those in its file."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from meshnode.cli import client
from meshnode.cli.complete import choices
from meshnode.cli.render import Screen
from meshnode.cli.verb import verb
from meshnode.config import NAMES
from meshnode.control.settings import (
    SettingChange,
    SettingView,
    file_of,
    set_setting,
    setting_of,
    settings_of,
    text_of,
    unset_setting,
)
from meshnode.errors import NotRunning
from meshnode.seams import in_thread

setting_argument = click.argument("key", shell_complete=choices(NAMES))


@click.group()
def config() -> None:
    """Show this node's settings and where each comes from, and change those in its file."""


@config.command("show")
@click.option("--changed", is_flag=True, help="Leave out those that have their default.")
@verb
async def show_verb(screen: Screen, home: Path, *, changed: bool) -> None:
    """Show every setting as a node that is started here now would have it.

    A flag of `meshnode up` beats the environment, that beats the file, that the default.
    """
    named = _named()
    views = await in_thread(lambda: settings_of(home, os.environ, named=named))
    shown = [view for view in views if not changed or view.source != "default"]
    for view in shown:
        screen.json(view)
    screen.table(("SETTING", "VALUE", "FROM"), [_row(view) for view in shown])


@config.command("get")
@setting_argument
@verb
async def get_verb(screen: Screen, home: Path, *, key: str) -> None:
    """Print the value of one setting: text as it is, the rest as in TOML."""
    named = _named()
    view = await in_thread(lambda: setting_of(key, home, os.environ, named=named))
    screen.json(view)
    screen.line(_plain(view.value))


@config.command("set")
@setting_argument
@click.argument("value")
@verb
async def set_verb(screen: Screen, home: Path, *, key: str, value: str) -> None:
    """Write a setting into config.toml; comments and all else in it stay.

    Several values are separated by commas; lists and tables may be written as TOML has them. A value that a node
    could not start with is refused, and the file stays as it was. Put `--` before a VALUE that begins with a hyphen.
    """
    change = await in_thread(lambda: set_setting(key, value, home, os.environ))
    change = await _told(screen, home, change)
    if change.changed:
        was = "" if change.before is None else f"; it was {text_of(change.before)}"
        screen.line(f"{key} = {text_of(change.after)} in {change.path}{was}.")
    else:
        screen.line(f"{key} is {text_of(change.after)} in {change.path} already.")
    _tell_next(screen, change)


@config.command("unset")
@setting_argument
@verb
async def unset_verb(screen: Screen, home: Path, *, key: str) -> None:
    """Take a setting out of config.toml, so that its default counts again."""
    change = await in_thread(lambda: unset_setting(key, home, os.environ))
    change = await _told(screen, home, change)
    if change.changed:
        screen.line(f"{key} is no longer in {change.path}; it was {text_of(change.before)}.")
    else:
        screen.line(f"{key} is not in {change.path}.")
    _tell_next(screen, change)


@config.command("path")
@verb
async def path_verb(screen: Screen, home: Path) -> None:
    """Print where the settings of this home are written, whether or not that file is there."""
    file = file_of(home)
    screen.json(file)
    screen.line(file.path)


def _named() -> bool:
    """Whether the home was named on the command line."""
    return click.get_current_context().params.get("home") is not None


async def _told(screen: Screen, home: Path, change: SettingChange) -> SettingChange:
    """The change, with what it means for a node that runs from here: it has read its settings when it started."""
    if change.changed and await _runs(home):
        change = msgspec.structs.replace(change, restart=True)
    screen.json(change)
    return change


async def _runs(home: Path) -> bool:
    try:
        await client.status(home)
    except NotRunning:
        return False
    return True


def _tell_next(screen: Screen, change: SettingChange) -> None:
    if change.variable:
        screen.line(f"{change.variable} is set in this environment, and outweighs the file.")
    if change.restart:
        screen.line("The node that runs from here goes on as it was started: restart it to have this count.")


def _row(view: SettingView) -> tuple[str, ...]:
    source = f"{view.source}: {view.where}" if view.where else view.source
    return view.name, text_of(view.value), source


def _plain(value: object) -> str:
    return value if isinstance(value, str) else text_of(value)

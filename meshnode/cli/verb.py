"""What all verbs share: `--home`, `--json`, and errors as two lines and an exit code, not a traceback."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Awaitable, Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from meshnode import config
from meshnode.cli import exits
from meshnode.cli.render import Screen
from meshnode.errors import MeshError, as_mesh_error

ALIASES = {"serve": "up"}
C = TypeVar("C", bound=Callable[..., Any])


class Program(click.Group):
    """A group with aliases, and the nearest name for a verb that does not exist."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name or alias."""
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion when there is no such verb."""
        known = [*self.list_commands(ctx), *ALIASES]
        close = difflib.get_close_matches(args[0], known, n=1) if args else []
        if close and args[0] not in known:
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx)
        return super().resolve_command(ctx, args)


def verb(work: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make an async function a verb's body: it runs on trio, with a Screen and the home put first."""

    def run(*, as_json: bool, home: Path | None, **options: Any) -> None:
        screen = Screen(as_json=as_json)
        place = (home or config.default_home(os.environ)).expanduser().absolute()

        async def begin() -> None:
            await work(screen, place, **options)

        code = _code(begin, screen)
        if code:
            click.get_current_context().exit(code)

    return _with_common_options(update_wrapper(run, work))


def _with_common_options(command: C) -> C:
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
    home = click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        help="The node's home directory; MESHNODE_HOME or this system's usual place if not given.",
    )
    return home(as_json(command))


def _code(begin: Callable[[], Awaitable[None]], screen: Screen) -> int:
    try:
        trio.run(begin)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    except MeshError as error:
        return _failed(error, screen)
    except BaseExceptionGroup as group:
        return _group_code(group, screen)
    return exits.OK


def _group_code(group: BaseExceptionGroup[BaseException], screen: Screen) -> int:
    """What nurseries wrapped; anything unforeseen in it is a bug and keeps its traceback."""
    if group.subgroup(KeyboardInterrupt) is not None:
        return exits.INTERRUPTED
    if group.subgroup(BrokenPipeError) is not None:
        return _reader_gone()
    known = as_mesh_error(group)
    if known is None:
        raise group
    return _failed(known, screen)


def _failed(error: MeshError, screen: Screen) -> int:
    screen.error(error)
    return exits.exit_code(error)


def _reader_gone() -> int:
    """Whoever read our output has left, as `| head` does; keep Python from complaining at its own exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exits.OK

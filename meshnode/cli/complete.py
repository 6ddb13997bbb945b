"""Completion in a shell: its script, and the names of models and nodes that a running node knows.

Such names come from other machines too, and a shell puts them on the command line as they are: only those are offered
in which nothing means anything to a shell.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click
import msgspec
import trio
from click.shell_completion import CompletionItem, get_completion_class

from meshnode import config
from meshnode.cli import client
from meshnode.cli.render import Screen
from meshnode.cli.verb import verb
from meshnode.errors import MeshError
from meshnode.models.store import ModelStore
from meshnode.observe.snapshot import Snapshot

MODELS_DIRECTORY = "models"
PROGRAM = "meshnode"
VARIABLE = "_MESHNODE_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
ANSWER_S = 0.5  # whoever pressed Tab waits
OFFERED_MAX = 200
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,255}")
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class Script(msgspec.Struct, frozen=True):
    """What a shell must run once, so that it completes this program."""

    shell: str
    script: str


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@verb
async def completion(screen: Screen, home: Path, *, shell: str) -> None:
    """Print what SHELL must run to complete verbs, options, models and nodes.

    bash: put `eval "$(meshnode completion bash)"` into ~/.bashrc. zsh: the same with zsh, into ~/.zshrc. fish:
    `meshnode completion fish > ~/.config/fish/completions/meshnode.fish`.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    root = click.get_current_context().find_root().command
    complete = kind(root, {}, PROGRAM, VARIABLE)
    # Not source(): for bash that runs another bash, only to look at its version.
    script = complete.source_template % complete.source_vars()
    screen.json(Script(shell, script))
    screen.text(script)


def models_offered(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The models that the running node can use in its mesh."""
    seen = _seen(context)
    return _items([model.name for model in seen.models] if seen else [], begun)


def models_here(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The models whose files are on this device; no node is needed."""
    with suppress(MeshError, OSError):
        return _items([model.name for model in ModelStore(_home(context) / MODELS_DIRECTORY).models()], begun)
    return []


def nodes_known(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The other nodes, by their ids and by their names."""
    seen = _seen(context)
    peers = seen.peers if seen else ()
    return _items([*(peer.name for peer in peers), *(peer.node for peer in peers)], begun)


def choices(names: Iterable[str]) -> Complete:
    """A completion by these names."""
    known = tuple(names)
    return lambda _context, _parameter, begun: _items(known, begun)


def _items(names: Iterable[str], begun: str) -> list[CompletionItem]:
    fitting = [name for name in names if name.startswith(begun) and PLAIN.fullmatch(name)]
    return [CompletionItem(name) for name in dict.fromkeys(fitting)][:OFFERED_MAX]


def _seen(context: click.Context) -> Snapshot | None:
    """What the running node says of itself; None if none runs, or it does not answer at once."""
    home = _home(context)

    async def ask() -> Snapshot | None:
        with trio.move_on_after(ANSWER_S):
            return await client.status(home)
        return None

    with suppress(MeshError, OSError, msgspec.MsgspecError):
        return trio.run(ask)
    return None


def _home(context: click.Context) -> Path:
    given = context.params.get("home")
    return Path(given or config.default_home(os.environ)).expanduser().absolute()

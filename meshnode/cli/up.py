"""`meshnode up`: run a node here, say where it is, and stop cleanly on a signal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import trio

from meshnode import config
from meshnode.cli import client
from meshnode.cli.first import QUESTION, Curious
from meshnode.cli.models import suggestion_lines
from meshnode.cli.options import node_options
from meshnode.cli.render import Screen
from meshnode.cli.spelling import joining, typed
from meshnode.cli.verb import verb
from meshnode.config import Config
from meshnode.control.models import fit
from meshnode.errors import HomeInUse, NotRunning
from meshnode.models.catalog import DEFAULT_MODEL
from meshnode.observe import log
from meshnode.seams import Seams

Event = dict[str, Any]


@click.command("up")
@verb
@click.option("--ask", default="", help="Ask this as soon as the mesh can answer, and go on running.")
@node_options
async def up(screen: Screen, home: Path, ask: str, **flags: Any) -> None:
    """Run a node on this device, until Ctrl-C.

    The first one founds a mesh and prints a ticket, with which the next device can join. `serve` is another
    name for this verb.
    """
    await run_here(screen, home, flags, ask=ask)


async def run_here(
    screen: Screen, home: Path, flags: Event, *, join: str = "", via: str = "", ask: str = ""
) -> None:
    """Run a node from this home in this process; `join` and `via` are those of the verb `join`, `ask` is a question.

    Raises HomeInUse, after saying where that other node is, and whatever the node itself ends with.
    """
    settings = config.load(home, flags, os.environ)
    await _refuse_second(screen, settings.home)
    _log_quietly(screen, settings.home)
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        nursery.start_soon(_stop_on_signal, stop, nursery.cancel_scope, screen)
        tell: Callable[[Event], None] = Teller(screen)
        if ask:
            curious = Curious(screen, settings.home, tell, "joined" if join else "mesh")
            nursery.start_soon(curious.ask, ask)
            tell = curious
        await run_node(settings, join=join, via=via, on_event=tell, stop=stop)
        nursery.cancel_scope.cancel()


async def run_node(
    settings: Config, *, join: str, via: str, on_event: Callable[[Event], None], stop: trio.Event
) -> None:
    """The node itself; imported late, for it is most of what there is to import."""
    from meshnode import node

    await node.run_node(settings, join=join, via=via, on_event=on_event, stop=stop)


class Teller:
    """Tells of a node's life: events as they are for programs, in words and without repetition for people."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._said: tuple[str, ...] = ()
        self._loading: set[str] = set()

    def __call__(self, event: Event) -> None:
        """One event."""
        if event.get("event") == "progress":
            self._screen.progress(event)
            return
        self._screen.json(event)
        words = _words(event) if self._is_news(event) else ()
        for line in words if words != self._said else ():
            self._screen.line(line)
        self._said = words or self._said

    def _is_news(self, event: Event) -> bool:
        """Whether people have not heard this yet: the steps of loading a model are one to them."""
        model = str(event.get("model"))
        if event.get("event") != "loading":
            self._loading.discard(model)
            return True
        known = model in self._loading
        self._loading.add(model)
        return not known


def _words(event: Event) -> tuple[str, ...]:
    match event:
        case {"event": "api", "url": url}:
            return (f"API                {url}", f"Dashboard          {url}/", f"OPENAI_BASE_URL    {url}/v1")
        case {"event": "mesh", "addresses": addresses}:
            return (f"Mesh               {', '.join(addresses)}",)
        case {"event": "ticket", "ticket": ticket}:
            return ("The next device joins with:", f"  {joining(ticket)}")
        case {"event": "joined", "mesh": mesh}:
            return (f"Joined {mesh}.",)
        case {"event": "loading", "model": model}:
            return (f"Loading{_after(' ', model)} …",)  # how far it is, bars show
        case {"event": "ready", "model": model}:
            return (*_ready(model), *_exposed(event), *_larger(model))
        case {"event": "error", "message": message}:
            return (f"error: {message}{_after(' hint: ', event.get('hint'))}",)
        case _:  # of a kind that is for programs only
            return ()


def _ready(model: str) -> tuple[str, ...]:
    """What can be done from now on."""
    if not model:
        return ("Ready, without a model of its own.",)
    ask = typed(f'run {model} "{QUESTION}"')
    return (f"Ready to answer with {model}. In another terminal:", f"  {ask}")


def _exposed(event: Event) -> tuple[str, ...]:
    """A line on what is not contained, if anything is not."""
    exposure = event.get("exposure")
    return (f"Sandbox            {event.get('sandbox')}: {exposure}",) if exposure else ()


def _larger(model: str) -> tuple[str, ...]:
    """What else would fit here, for those who run the model that is only a demonstration."""
    if model != DEFAULT_MODEL:
        return ()
    room = fit(Seams().free_memory_bytes())
    return (f"{model} is for trying things out. What else there is:", *suggestion_lines(room, {model}))


def _after(joint: str, text: object) -> str:
    """More to say, if there is anything."""
    return f"{joint}{text}" if text else ""


async def _refuse_second(screen: Screen, home: Path) -> None:
    try:
        running = await client.status(home)
    except NotRunning:
        return
    screen.line(f"API                {running.api_url}")
    screen.line(f"OPENAI_BASE_URL    {running.api_url}/v1")
    raise HomeInUse(
        f"A node already runs from {home}: {running.api_url}",
        hint="`meshnode status` shows it; for a second node on this machine choose another --home.",
    )


def _log_quietly(screen: Screen, home: Path) -> None:
    """Keep a person's terminal clear: the log goes to the home; without a terminal, to standard error."""
    to_terminal = sys.stderr.isatty() and not screen.as_json
    log.configure(wall=Seams().wall, out=log.to_file(home) if to_terminal else None)


async def _stop_on_signal(stop: trio.Event, scope: trio.CancelScope, screen: Screen) -> None:
    """The first Ctrl-C or SIGTERM lets answers end, the second breaks them off; a third Ctrl-C waits for nothing."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        screen.line("Stopping once the answers under way have ended; a second signal breaks them off.")
        stop.set()
        await anext(signals)
    screen.line("Stopping.")
    scope.cancel()

"""The first question of a new device: asked as soon as the mesh has somebody to answer it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from meshnode.cli import client
from meshnode.cli.render import Screen
from meshnode.cli.run import talking
from meshnode.errors import MeshError, NoCandidate
from meshnode.observe.snapshot import Snapshot

QUESTION = "Why is the sky blue?"
MODEL = "auto:chat"
LOOK_EVERY_S = 0.1
ANSWERER_WITHIN_S = 600.0  # a first model may still have to be fetched somewhere
PATIENCE_S = 5.0  # before it is said what is waited for

Event = dict[str, Any]


async def ask_when_ready(screen: Screen, home: Path, question: str) -> None:
    """Ask once somebody in the mesh has a model, and show the answer. Raises NoCandidate if nobody gets one."""
    with trio.move_on_after(ANSWERER_WITHIN_S) as waiting:
        await _answerer(screen, home)
    if waiting.cancelled_caught:
        raise NoCandidate(
            f"No node of the mesh has had a model for {ANSWERER_WITHIN_S:g} s.",
            hint="`meshnode models` lists what there is; `meshnode pull NAME` fetches one.",
        )
    screen.line()
    screen.line(f"> {question}")
    async with talking(screen, home, {"model": MODEL}) as talk:
        await talk.ask(question)


async def _answerer(screen: Screen, home: Path) -> None:
    """Wait until the mesh has a model that runs."""
    told = trio.current_time() + PATIENCE_S
    while not _answers(await client.status(home)):
        if trio.current_time() > told:
            told = float("inf")
            screen.note("waiting for a node of the mesh that has a model")
        await trio.sleep(LOOK_EVERY_S)


def _answers(seen: Snapshot) -> bool:
    return any(model.nodes for model in seen.models)


class Curious:
    """Hands a node's events on, and asks its question after the one that is named."""

    def __init__(self, screen: Screen, home: Path, tell: Callable[[Event], None], after: str) -> None:
        self._screen, self._home = screen, home
        self._tell, self._after = tell, after
        self._came = trio.Event()

    def __call__(self, event: Event) -> None:
        """One event of the node."""
        self._tell(event)
        if event.get("event") == self._after:
            self._came.set()

    async def ask(self, question: str) -> None:
        """Ask, and say what came of it; a question that fails is no reason for the node to end."""
        await self._came.wait()
        try:
            await ask_when_ready(self._screen, self._home, question)
        except MeshError as error:
            self._screen.error(error)
        self._screen.line()
        self._screen.line("This node runs on; Ctrl-C stops it.")

"""Whole nodes on the memory network, in virtual time: what the plays about nodes share."""

import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from meshnode import Node, open_node
from meshnode.config import Config
from meshnode.engine.scripted import ScriptedEngine
from meshnode.net.memory import MemoryNetwork
from meshnode.seams import Seams, inline
from meshnode.serve.running import Running
from meshnode.terms import Piece

WALL_S = 1_700_000_000.0
MODEL = "smollm2:135m"


class World:
    """One memory network, and a home for every node on it."""

    def __init__(self, homes: Path) -> None:
        self.homes = homes
        self.network = MemoryNetwork(random.Random(1), (0.005, 0.02))
        self.ahead_s = 0.0  # how far every wall clock has been set forward
        self._lives = 0

    def seams(self, **changes: Any) -> Seams:
        self._lives += 1
        rng = random.Random(self._lives)
        facts: dict[str, Any] = {
            "wall": lambda: WALL_S + self.ahead_s + trio.current_time(),
            "rng": rng,
            "entropy": rng.randbytes,
            "blocking": inline,
            "free_memory_bytes": lambda: 1 << 30,
        }
        return Seams(**(facts | changes))

    def node(
        self, name: str, seams: dict[str, Any] | None = None, *, place: str = "", **settings: Any
    ) -> AbstractAsyncContextManager[Node]:
        """A node without a model that dials nobody by itself, unless `settings` say otherwise.

        It is at `mem://place`, which is its name unless it has moved.
        """
        given: dict[str, Any] = {"name": name, "engine": "none", "model": MODEL, "discover": False} | settings
        attestation = given.pop("attestation", None)
        config = Config(home=self.homes / name, **given)
        at = place or name
        network = self.network.place(at)
        return open_node(
            config,
            seams=self.seams(**seams or {}),
            network=network,
            listen=f"mem://{at}",
            attestation=attestation,
        )

    async def line(
        self, stack: AsyncExitStack, seams: dict[str, Any] | None = None, **of_c: Any
    ) -> tuple[Node, Node, Node]:
        """A founds a mesh, B joins it, C joins through B and has the model: A - B - C. `of_c` are settings of C."""
        a = await stack.enter_async_context(self.node("a", seams))
        b = await stack.enter_async_context(self.node("b", seams))
        c = await stack.enter_async_context(self.node("c", seams, engine="scripted", **of_c))
        await b.join(await a.invite())
        await c.join(await a.invite(), via="mem://b")
        await until(a.models)
        return a, b, c


def engine_of(node: Node) -> ScriptedEngine:
    engine = node.engines.all[0]
    assert isinstance(engine, ScriptedEngine)
    return engine


async def text_of(running: Running) -> str:
    return "".join([piece.text async for piece in running.pieces if isinstance(piece, Piece)])


async def until(holds: Any, within_s: float = 30.0) -> None:
    """Wait in virtual time until `holds()`."""
    for _ in range(int(within_s / 0.05)):
        if holds():
            return
        await trio.sleep(0.05)
    assert holds(), f"not within {within_s} s"

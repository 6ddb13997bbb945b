"""The machines of a simulation: each has a disk, a clock that may be wrong, and at most one node on it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import trio

from meshnode.config import Config
from meshnode.net.memory import SCHEME, MemoryNetwork
from meshnode.node import Node, open_node
from meshnode.node.presence import Presence
from meshnode.seams import Seams
from meshnode.terms import Reading
from meshnode.testing.hostile import Hostile
from meshnode.testing.timeline import NODE

CALM = Reading(user_idle_s=1e6, others_cpu=0.0, on_mains=True, temperature_c=40.0)


class Host:
    """One machine. `ahead_s` is how far its clock is ahead of the true time, and `reading` what it is doing.

    Both may change at any moment.
    """

    def __init__(self, name: str, disk: Path, network: MemoryNetwork) -> None:
        self.name = name
        self.disk = disk
        self.ahead_s = 0.0
        self.reading = CALM
        self.settings: dict[str, Any] = {}
        self._network = network
        self._node: Node | None = None
        self._life = trio.CancelScope()
        self._over = trio.Event()
        self._copies = 0

    @property
    def running(self) -> bool:
        """Whether there is a node on it now."""
        return self._node is not None

    @property
    def node(self) -> Node:
        """The node on it; raises RuntimeError while there is none."""
        return self._check_running()

    def _check_running(self) -> Node:
        if self._node is None:
            raise RuntimeError(f"There is no node on {self.name!r}: start it.")
        return self._node

    @asynccontextmanager
    async def open(
        self, seams: Seams, *, hostile: Hostile | None = None, **settings: Any
    ) -> AsyncIterator[Node]:
        """A node here for as long as the context lasts; what it logs names this host, what its user logs not.

        `hostile` replaces one behaviour of it.
        """
        config = Config(home=self.disk, name=self.name, **settings)
        async with AsyncExitStack() as stack:
            with structlog.contextvars.bound_contextvars(**{NODE: self.name}):
                network = self._network.place(self.name)
                opened = open_node(
                    config,
                    seams=seams,
                    network=network,
                    listen=SCHEME + self.name,
                    presence_on=hostile.presence if hostile is not None else Presence,
                )
                node = await stack.enter_async_context(opened)
            yield node

    async def live(self, seams: Seams, settings: dict[str, Any], task_status: trio.TaskStatus[Node]) -> None:
        """A node here until `stop` or `crash`."""
        self.settings, self._life, self._over = settings, trio.CancelScope(), trio.Event()
        try:
            with self._life:
                async with self.open(seams, **settings) as node:
                    self._node = node
                    task_status.started(node)
                    await trio.sleep_forever()
        finally:
            self._node = None
            self._over.set()

    async def stop(self) -> None:
        """End the node as its owner would: it says goodbye."""
        self._check_running()
        self._life.cancel()
        await self._over.wait()

    async def crash(self, *, silent: bool) -> None:
        """End the node at once; its disk stays as it is at this moment, whatever the end would still write."""
        self._check_running()
        kept = self.copy_disk()
        self._network.crash(self.name, silent=silent)
        self._life.cancel()
        await self._over.wait()
        self.set_disk(kept)

    def copy_disk(self) -> Path:
        """A copy of the disk as it is now, for `set_disk`."""
        self._copies += 1
        return Path(shutil.copytree(self.disk, f"{self.disk}.{self._copies}", symlinks=True))

    def set_disk(self, copy: Path | None) -> None:
        """Put a copy in place of the disk; None for an empty one."""
        if self.running:
            raise RuntimeError(f"{self.name!r} runs: stop or crash it before its disk is exchanged.")
        shutil.rmtree(self.disk, ignore_errors=True)
        if copy is not None:
            shutil.copytree(copy, self.disk, symlinks=True)

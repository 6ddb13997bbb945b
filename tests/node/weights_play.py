"""A model file of several chunks, and simulated nodes that offer it: what the plays about weights share."""

import hashlib
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from meshnode.engine.scripted import scripted_card
from meshnode.models.share import OpenFile
from meshnode.node import Node, engines
from meshnode.testing.simulation import Simulation
from meshwire.limits import BLOB_CHUNK_MIN
from tests.models.conftest import gguf_file

MODEL = "tiny:1m"
CHUNKS = 6
Spoil = Callable[[int, bytes], bytes]


def model_bytes(seed: int = 1, chunks: int = CHUNKS) -> bytes:
    """A GGUF file whose chunks all differ, the last of them a short one."""
    size = chunks * BLOB_CHUNK_MIN - 4096
    head = gguf_file(elements=64)[:-256]
    elements = (size - len(head)) // 4
    return gguf_file(elements=elements)[: -elements * 4] + random.Random(seed).randbytes(elements * 4)


class Mill:
    """Makes nodes that advertise the file's digest; each has a cache of its own, as on a machine of its own."""

    def __init__(self, root: Path, monkeypatch: Any) -> None:
        self.content = model_bytes()
        self.digest = hashlib.sha256(self.content).digest()
        self.path = root / "tiny.gguf"
        self.path.write_bytes(self.content)
        self.reads: list[tuple[str, int]] = []
        self._root = root

        def card(name: str, **facts: Any) -> Any:
            return msgspec.structs.replace(scripted_card(name, **facts), digest=self.digest)

        monkeypatch.setattr(engines, "scripted_card", card)

    def on_own_machine(self, name: str, node: Node) -> None:
        """Give the node a cache that no other node of this process shares."""
        node.models_store._wanted_cache = self._root / f"cache-{name}"

    async def holder(self, simulation: Simulation, name: str, **settings: Any) -> Node:
        """A node that has the file, and says so."""
        node = await simulation.start(name, model=MODEL, **settings)
        self.on_own_machine(name, node)
        await node.pull(str(self.path), name=MODEL)
        self.watch(name, node)
        return node

    async def mesh(self, simulation: Simulation, holders: str = "bcd", **settings: Any) -> Node:
        """`a`, which has nothing, in a mesh with some that have the file."""
        a = await simulation.start("a", engine="none")
        self.on_own_machine("a", a)
        for name in holders:
            node = await self.holder(simulation, name, **settings)
            await node.join(await a.invite())
        await simulation.until(lambda: sum(len(model.nodes) for model in a.models()) == len(holders))
        return a

    def watch(self, name: str, node: Node, spoil: Spoil = lambda _begin, found: found) -> None:
        """Note what a node reads of the file, and let it give something else."""
        library = node._weights._library
        truly = type(library).open

        @asynccontextmanager
        async def open_watched(*given: Any) -> Any:
            async with truly(library, *given) as file:
                yield Watched(file, name, self.reads, spoil)

        library.open = open_watched


class Watched:
    """An open file of the library, watched."""

    def __init__(self, file: OpenFile, name: str, reads: list[tuple[str, int]], spoil: Spoil) -> None:
        self.size_bytes, self.chunk_bytes, self.hashes = file.size_bytes, file.chunk_bytes, file.hashes
        self._file, self._name, self._reads, self._spoil = file, name, reads, spoil

    async def read(self, begin: int, count: int) -> bytes:
        self._reads.append((self._name, begin // self.chunk_bytes))
        return self._spoil(begin, await self._file.read(begin, count))

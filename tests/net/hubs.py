"""Nodes that are only links: a switch and circuits each, on one memory network in virtual time."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import trio

from meshnode.errors import BadRequest, MeshError
from meshnode.identity import create
from meshnode.net.circuits import Circuits
from meshnode.net.link import Link, Stream
from meshnode.net.memory import MemoryNetwork
from meshnode.net.switch import Hooks, Self, Switch
from meshnode.seams import Seams
from meshwire.events import Introduced
from meshwire.ids import NodeId
from meshwire.messages import DhtPing, DhtPong, Open
from meshwire.numbers import Message

MESH = b"m" * 16


class Hub:
    """One node. Asks and requests are answered by `on_ask` and `on_request`, which plays exchange."""

    def __init__(self, world: "World", name: str, **seams: Any) -> None:
        rng = random.Random(name)
        self.world = world
        self.name = name
        self.identity = create(rng.randbytes)
        self.node: NodeId = self.identity.node
        self.verdict: bool | MeshError = True
        self.up: list[Link] = []
        self.down: list[Link] = []
        self.streams: list[Stream] = []
        self.tapped: list[bytes] = []
        self.carries = True
        self.approached: list[tuple[NodeId, bool]] = []
        self.static_keys: dict[bytes, bytes] = {}
        own = Self(
            self.identity,
            MESH,
            (),
            replace(
                Seams(), **{"rng": rng, "entropy": rng.randbytes, "relay_tap": self.tapped.append, **seams}
            ),
        )
        hooks = Hooks(
            judge=self.judge,
            on_request=self._late("on_request"),
            on_notice=self.on_notice,
            on_ask=self._late("on_ask"),
            on_circuit=self._late("on_circuit"),
            on_blob=self._late("on_blob"),
            on_up=self.up.append,
            on_down=self.down.append,
        )
        self.switch = Switch(own, world.network.place(name), hooks)
        self.circuits = Circuits(
            own,
            self.switch,
            static_key_of=self.static_key_of,
            carries_to=lambda _: self.carries,
            approach=self.approach,
            judge=self.judge,
            on_ask=self._late("on_ask"),
            on_request=self._late("on_request"),
        )

    def _late(self, name: str) -> Any:
        """The method of this name as it is when it is called."""

        def call(*given: Any) -> Any:
            return getattr(self, name)(*given)

        return call

    def judge(self, _introduced: Introduced) -> bool:
        if isinstance(self.verdict, MeshError):
            raise self.verdict
        return self.verdict

    def static_key_of(self, node: NodeId) -> bytes | None:
        known = {hub.node: hub.identity.static_public for hub in self.world.hubs.values()}
        return self.static_keys.get(node) or known.get(node)

    async def on_request(self, _link: Link, message: Message) -> Message | None:
        if isinstance(message, DhtPing):
            return DhtPong()
        raise BadRequest("only pings are answered here")

    async def approach(self, node: NodeId, approached: bool) -> None:
        self.approached.append((node, approached))

    async def on_notice(self, _link: Link, _message: Message) -> None:
        """Nobody listens."""

    async def on_ask(self, _link: Link, stream: Stream, _opening: Open) -> None:
        """Echo, until the other end is done."""
        self.streams.append(stream)
        while (payload := await stream.receive()) is not None:
            await stream.send(payload)
        await stream.aclose()

    async def on_circuit(self, link: Link, stream: Stream, opening: Open) -> None:
        await self.circuits.arrived(link, stream, opening)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.switch.run, f"mem://{self.name}")
            await nursery.start(self.circuits.run)
            task_status.started()

    async def link_to(self, other: "Hub") -> Link:
        return await self.switch.dial(f"mem://{other.name}", other.node)


class World:
    """Hubs by name, and their nursery: `stop` ends one of them in order."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork(random.Random(3), (0.01, 0.01))
        self.hubs: dict[str, Hub] = {}
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}

    async def hub(self, name: str, **seams: Any) -> Hub:
        hub = self.hubs[name] = Hub(self, name, **seams)
        await self._nursery.start(self._run, hub)
        return hub

    async def _run(self, hub: Hub, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as scope:
            self._scopes[hub.name] = scope
            await hub.run(task_status)

    async def line(self, *names: str, **seams: Any) -> list[Hub]:
        """Hubs, each linked with the next."""
        hubs = [await self.hub(name, **seams) for name in names]
        for hub, following in pairwise(hubs):
            await hub.link_to(following)
        await trio.sleep(0.1)
        return hubs

    def stop(self, hub: Hub) -> None:
        self._scopes[hub.name].cancel()


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(nursery)
        nursery.cancel_scope.cancel()


async def echo(link: Link, words: bytes) -> bytes | None:
    """Send words over a fresh ask, and what comes back."""
    stream = await link.open(Open("ask"))
    await stream.send(words, end=True)
    return await stream.receive()

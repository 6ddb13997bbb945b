"""A stage for plays about links: one network of either kind, a listener at one end, a dialler at the other."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from meshnode.errors import BadRequest, MeshError
from meshnode.net.base import Hello, Network, Transport
from meshnode.net.establish import establish
from meshnode.net.link import Link, Stream
from meshnode.net.memory import MemoryNetwork
from meshnode.net.websocket import WebsocketNetwork
from meshwire.messages import DhtFind, DhtFound, DhtPing, DhtPong, Open
from meshwire.numbers import Message
from meshwire.session import Introduced, SessionConfig
from tests.meshwire.pairs import MESH, config

HELLO = Hello((1,), MESH)


class Stage:
    """Where a play is given. `listen` makes `b` listen; `dial` links `a` to it; both links end with the play."""

    def __init__(self, nursery: trio.Nursery, kind: str) -> None:
        self.nursery = nursery
        self.kind = kind
        self.memory = MemoryNetwork(random.Random(7), (0.005, 0.02))
        self.address = ""
        self.accepted: list[Link] = []
        self.refused: list[MeshError] = []
        self.notices: list[Message] = []
        self.judge_b: Callable[[Introduced], bool] = lambda _: True
        self.on_stream: Callable[[Link, Stream, Open], Awaitable[None]] = echo
        self._ephemeral = random.Random(11)

    def network(self, name: str) -> Network:
        return self.memory.place(name) if self.kind == "memory" else WebsocketNetwork()

    def config(self, name: str, *, initiator: bool, **changes: Any) -> SessionConfig:
        fresh = {"ephemeral_private": self._ephemeral.randbytes(32)}
        return config(name, initiator=initiator, **(fresh | changes))

    async def listen(self, hello: Hello = HELLO, accept: Any = None) -> str:
        address = "mem://b" if self.kind == "memory" else "ws://127.0.0.1:0"
        self.address = await self.nursery.start(
            self.network("b").serve, address, hello, accept or self._accept
        )
        return self.address

    async def _accept(self, transport: Transport) -> None:
        try:
            link = await establish(transport, self.config("b", initiator=False), self.judge_b)
        except MeshError as error:
            self.refused.append(error)
            return
        self.accepted.append(link)
        await link.run(self.on_request, self.on_stream, self.on_notice)

    async def connect(self, hello: Hello = HELLO) -> Transport:
        return await self.network("a").dial(self.address, hello)

    async def dial(self, name: str = "a", judge: Callable[[Introduced], bool] = lambda _: True) -> Link:
        link = await establish(await self.connect(), self.config(name, initiator=True), judge)
        self.nursery.start_soon(link.run, self.on_request, self.on_stream, self.on_notice)
        return link

    async def pair(self) -> tuple[Link, Link]:
        await self.listen()
        link = await self.dial()
        await until(lambda: bool(self.accepted))
        return link, self.accepted[0]

    async def on_request(self, link: Link, message: Message) -> Message | None:
        if isinstance(message, DhtPing):
            return DhtPong()
        if isinstance(message, DhtFind):
            await trio.sleep(0.05)
            return DhtFound((message.target,))
        raise BadRequest("nothing of the kind", hint="ask for something else")

    async def on_notice(self, link: Link, message: Message) -> None:
        self.notices.append(message)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something has come about."""
    while not condition():
        await trio.sleep(0.01)


async def echo(link: Link, stream: Stream, opening: Open) -> None:
    while (payload := await stream.receive()) is not None:
        await stream.send(payload)
    await stream.send(b"", end=True)


@asynccontextmanager
async def open_stage(kind: str) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        yield Stage(nursery, kind)
        nursery.cancel_scope.cancel()


Play = Callable[[Stage], Awaitable[None]]


def give(kind: str, play: Play) -> None:
    """Give a play: in virtual time on the memory network, in real time over loopback."""

    async def main() -> None:
        with trio.fail_after(600 if kind == "memory" else 15):
            async with open_stage(kind) as stage:
                await play(stage)

    if kind == "memory":
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    else:
        trio.run(main)

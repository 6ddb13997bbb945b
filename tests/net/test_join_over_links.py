"""Joining over real links on the memory network: issuer, member and joiner, end to end."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from meshnode.control.invite import invite
from meshnode.control.join import join_with, parse_target
from meshnode.errors import BadRequest, NotAllowed, TicketUsed, Unreachable
from meshnode.identity import Identity, create
from meshnode.net.base import Hello, Transport
from meshnode.net.establish import establish
from meshnode.net.link import Link
from meshnode.net.membership import JoinLink, Membership
from meshnode.net.memory import MemoryNetwork
from meshnode.seams import Seams, inline
from meshnode.state.store import Store, open_store
from meshnode.trust.membership import Mesh, found_closed
from meshnode.trust.tickets import Ticket
from meshwire.events import Introduced
from meshwire.messages import DhtPing, Join
from meshwire.numbers import Message
from meshwire.session import SessionConfig, link_prologue
from meshwire.signing import Signer

NOW_S = 1_700_000_000.0
NOW = int(NOW_S * 1000)
VERSION = 1


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    """Virtual time: nothing here waits for real."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Peer:
    """A node that can only be joined and join."""

    def __init__(
        self, world: "World", name: str, mesh: Mesh | None = None, store: Store | None = None
    ) -> None:
        self.world = world
        self.name = name
        self.identity: Identity = create(world.rng.randbytes)
        self.mesh = mesh
        self.store = store
        self.members: dict[bytes, Link] = {}

    def config(self, *, initiator: bool) -> SessionConfig:
        return SessionConfig(
            initiator=initiator,
            pattern="XX",
            prologue=link_prologue(VERSION, self.world.mesh_id),
            static_private=self.identity.static_private,
            ephemeral_private=self.world.rng.randbytes(32),
            signer=self.identity.signer,
            chain=self.mesh.chain if self.mesh else (),
        )

    def judge(self, introduced: Introduced) -> bool:
        if self.mesh is None or not introduced.chain:
            return False
        self.mesh.standing(introduced.chain, introduced.key, NOW)
        return True

    async def on_request(self, link: Link, message: Message) -> Message | None:
        if not isinstance(message, Join):
            raise BadRequest("only joins are answered here")
        assert self.mesh is not None
        assert self.store is not None
        membership = Membership(
            self.identity,
            self.mesh,
            self.store,
            self.world.seams,
            find=self.find,
            next_seq=lambda: self.world.issuer_store.next_seq(NOW),
            publish=lambda raw: None,
        )
        return await membership.answer(link, message)

    async def find(self, key: bytes) -> JoinLink | None:
        return self.members.get(key)

    async def run(self, link: Link) -> None:
        self.members[link.key] = link
        await link.run(self.on_request, _no_streams, _no_notices)

    async def accept(self, transport: Transport) -> None:
        await self.run(await establish(transport, self.config(initiator=False), self.judge))

    async def serve(self) -> None:
        place = self.world.network.place(self.name)
        hello = Hello((VERSION,), self.world.mesh_id)
        await self.world.nursery.start(place.serve, f"mem://{self.name}", hello, self.accept)

    async def dial(self, address: str) -> Link:
        hello = Hello((VERSION,), self.world.mesh_id)
        transport = await self.world.network.place(self.name).dial(address, hello)
        link = await establish(transport, self.config(initiator=True), self.judge)
        self.world.nursery.start_soon(self.run, link)
        return link

    async def join(self, text: str) -> Mesh:
        ticket = parse_target(text)
        assert isinstance(ticket, Ticket)

        async def dial(address: str) -> JoinLink:
            return await self.dial(address)

        self.mesh = await join_with(ticket, self.identity, dial, name=self.name, now_ms=NOW)
        return self.mesh


async def _no_streams(*_: object) -> None:
    raise BadRequest("no streams here")


async def _no_notices(*_: object) -> None:
    return


class World:
    """A network with one issuer on it."""

    def __init__(self, nursery: trio.Nursery, store: Store) -> None:
        self.nursery = nursery
        self.rng = random.Random(6)
        self.seams = Seams(wall=lambda: NOW_S, rng=self.rng, entropy=self.rng.randbytes, blocking=inline)
        self.network = MemoryNetwork(self.rng, (0.001, 0.01))
        self.issuer_store = store
        self.issuer = Peer(self, "issuer", store=store)
        mesh = found_closed(
            Signer(b"\x01" * 32),
            self.issuer.identity,
            name="home",
            node_name="issuer",
            serial=b"12345678",
            now_ms=NOW,
        )
        self.issuer.mesh = mesh
        self.mesh_id = mesh.id

    async def ticket(self, *addresses: str) -> str:
        assert self.issuer.mesh is not None
        return await invite(
            self.issuer.identity,
            self.issuer.mesh,
            self.issuer_store,
            self.seams,
            addresses=addresses or ("mem://issuer",),
        )


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = await open_store(tmp_path, inline)
    async with trio.open_nursery() as nursery:
        made = World(nursery, store)
        await made.issuer.serve()
        yield made
        nursery.cancel_scope.cancel()
    await store.aclose()


async def test_a_ticket_lets_a_device_in(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        joiner = Peer(w, "laptop")
        mesh = await joiner.join(await w.ticket())
        assert mesh.role == "member"
        link = await joiner.dial("mem://issuer")  # once more, now with a certificate
        assert not link.joining


async def test_the_link_itself_opens_up(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        joiner = Peer(w, "laptop")
        links: list[Link] = []

        async def dial(address: str) -> JoinLink:
            links.append(await joiner.dial(address))
            assert links[0].joining
            return links[0]

        ticket = parse_target(await w.ticket())
        assert isinstance(ticket, Ticket)
        await join_with(ticket, joiner.identity, dial, name="laptop", now_ms=NOW)
        assert not links[0].joining
        with pytest.raises(BadRequest):  # it arrives, and is answered by the node itself
            await links[0].request(DhtPing())


async def test_a_used_ticket_is_refused_by_name(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        text = await w.ticket()
        await Peer(w, "laptop").join(text)
        with pytest.raises(TicketUsed, match="meshnode invite"):
            await Peer(w, "thief").join(text)


async def test_joining_through_a_member(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        member = Peer(w, "member", store=w.issuer_store)
        await member.join(await w.ticket())
        member.members.clear()
        await member.serve()
        joiner = Peer(w, "phone")
        text = await w.ticket("mem://nowhere", "mem://member")
        with pytest.raises(Unreachable, match="not in reach"):
            await joiner.join(text)
        await member.dial("mem://issuer")
        mesh = await joiner.join(text)
        assert w.issuer.mesh is not None
        assert w.issuer.mesh.standing(mesh.chain, joiner.identity.key, NOW).roles == ("member",)


async def test_without_a_certificate_nothing_but_joining(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        stranger = Peer(w, "stranger")
        link = await stranger.dial("mem://issuer")
        assert link.joining
        asked = Join(b"t" * 8, b"m" * 32, w.issuer.identity.key, b"h" * 32, w.issuer.identity.key)
        with pytest.raises(NotAllowed, match="own key"):
            await link.request(asked)
        assert link.joining

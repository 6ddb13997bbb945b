"""The way into another mesh, for a node that is no member of it yet: it dials and proves its ticket.

The link on which it was let in stays, as its first one there. What is a valid ticket or mesh is decided in
`control.join` and `trust`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import trio

from meshnode.control import join as joining
from meshnode.errors import NotAllowed, WrongProtocol
from meshnode.identity import Identity
from meshnode.net.base import Hello, Network
from meshnode.net.establish import establish
from meshnode.net.link import Link
from meshnode.net.switch import VERSION, Self
from meshnode.seams import Seams
from meshnode.trust.membership import Mesh, join_open
from meshnode.trust.tickets import Ticket
from meshwire.errors import LocalWireError
from meshwire.events import Introduced
from meshwire.numbers import Message


@dataclass(frozen=True, slots=True)
class Entry:
    """A mesh that let us in: the addresses that answered, best first, and the link to it, which nobody runs yet."""

    mesh: Mesh
    addresses: tuple[str, ...]
    link: Link


@dataclass(frozen=True, slots=True)
class _Asker:
    """A link that nobody runs, as redeeming a ticket needs it."""

    link: Link

    @property
    def key(self) -> bytes:
        return self.link.key

    @property
    def chain(self) -> tuple[bytes, ...]:
        return self.link.chain

    @property
    def handshake_hash(self) -> bytes:
        return self.link.handshake_hash

    @property
    def joining(self) -> bool:
        return self.link.joining

    async def request(self, message: Message, timeout_s: float = 3.0) -> Message:
        return await self.link.ask_first(message, timeout_s)


@dataclass(frozen=True, slots=True)
class Visitor:
    """A node with its keys and without a certificate."""

    identity: Identity
    name: str
    network: Network
    seams: Seams

    async def redeem(self, ticket: Ticket) -> Entry:
        """The way into the mesh that a ticket is for; raises as `join_with`.

        It asks at once when the other end has shown who it is, and hears with the answer that it was admitted.
        """
        me = Self(self.identity, joining.mesh_of(ticket), (), self.seams)
        links: dict[str, Link] = {}

        async def dial(address: str) -> _Asker:
            transport = await self.network.dial(address, me.hello)
            session = me.link_session(initiator=True)
            links[address] = await establish(transport, session, lambda _peer: False, eager=True)
            return _Asker(links[address])

        now_ms = self.seams.now_ms()
        try:
            mesh = await joining.join_with(ticket, self.identity, dial, name=self.name, now_ms=now_ms)
        except BaseException:
            await _close(links.values())
            raise
        # The one that was let in first; another may have been let in at the same moment.
        first = next(address for address, link in links.items() if not link.joining)
        await _close(link for address, link in links.items() if address != first)
        return Entry(mesh, tuple(dict.fromkeys((first, *links))), links[first])

    async def open_mesh_at(self, address: str) -> Entry:
        """The way into the open mesh of the node at an address; raises NotAllowed if that is a closed one.

        The greeting names the mesh, and the handshake shows whether its nodes have certificates.
        """
        transport = await self.network.dial(address, Hello((VERSION,), b""))
        try:
            mesh = join_open(transport.peer_hello.mesh)
        except LocalWireError as error:
            await transport.aclose()
            raise WrongProtocol(f"{address} does not say which mesh it belongs to.") from error
        me = Self(self.identity, mesh.id, (), self.seams)
        link = await establish(transport, me.link_session(initiator=True), _in_open_mesh)
        return Entry(mesh, (address,), link)


def _in_open_mesh(introduced: Introduced) -> bool:
    """Whether to go on with who answered: in an open mesh nobody has certificates."""
    if introduced.chain:
        raise NotAllowed(
            "That node belongs to a closed mesh, which takes a ticket.",
            hint="Run `meshnode invite` on one of its devices, and join with the ticket.",
        )
    return True


async def _close(links: Iterable[Link]) -> None:
    """Say goodbye on all of these at once."""
    async with trio.open_nursery() as nursery:
        for link in links:
            nursery.start_soon(link.aclose)

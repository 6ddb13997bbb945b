"""The way into another mesh, for a node that is no member of it yet: it dials, proves its ticket, and leaves.

What is a valid ticket or mesh is decided in `control.join` and `trust`.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

import trio

from meshnode.control import join as joining
from meshnode.errors import MeshError, NotAllowed, WrongProtocol
from meshnode.identity import Identity
from meshnode.net.base import Hello, Network
from meshnode.net.link import Link, Stream, establish
from meshnode.net.switch import VERSION, Self
from meshnode.seams import Seams
from meshnode.trust.membership import Mesh, join_open
from meshnode.trust.tickets import Ticket
from meshwire.errors import LocalWireError
from meshwire.events import Introduced
from meshwire.numbers import ResetCode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Visitor:
    """A node with its keys and without a certificate."""

    identity: Identity
    name: str
    network: Network
    seams: Seams

    async def redeem(self, ticket: Ticket) -> tuple[Mesh, tuple[str, ...]]:
        """The mesh that a ticket lets us into, and the addresses that answered; raises as `join_with`."""
        me = Self(self.identity, joining.mesh_of(ticket), (), self.seams)
        answered: list[str] = []

        async with trio.open_nursery() as nursery:

            async def dial(address: str) -> Link:
                transport = await self.network.dial(address, me.hello)
                link = await establish(transport, me.link_session(initiator=True), lambda _peer: False)
                answered.append(address)
                nursery.start_soon(link.run, _no_request, _no_stream, _no_request)
                return link

            outcome = await _caught(
                joining.join_with(ticket, self.identity, dial, name=self.name, now_ms=self.seams.now_ms())
            )
            nursery.cancel_scope.cancel()
        if isinstance(outcome, MeshError):
            raise outcome
        return outcome, tuple(answered)

    async def open_mesh_at(self, address: str) -> Mesh:
        """The open mesh of the node at an address; raises NotAllowed if that mesh is a closed one.

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
        await link.aclose()
        return mesh


def _in_open_mesh(introduced: Introduced) -> bool:
    """Whether to go on with who answered: in an open mesh nobody has certificates."""
    if introduced.chain:
        raise NotAllowed(
            "That node belongs to a closed mesh, which takes a ticket.",
            hint="Run `meshnode invite` on one of its devices, and join with the ticket.",
        )
    return True


async def _no_request(_link: Link, _message: object) -> None:
    """A visitor is asked nothing and told nothing."""
    raise NotAllowed("This device is not a member yet.")


async def _no_stream(_link: Link, stream: Stream, _opening: object) -> None:
    stream.reset(ResetCode.REFUSED)


async def _caught(work: Awaitable[T]) -> T | MeshError:
    """The outcome of work inside a nursery, as a value: raised there, an error would come out in a group."""
    try:
        return await work
    except MeshError as error:
        return error

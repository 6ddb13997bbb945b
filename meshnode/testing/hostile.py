"""Hostile peers of a simulation: real nodes of which one behaviour is replaced.

A node of good will and a hostile one are the same code but for the hooks below, so a hostile one is a member,
shakes hands, gossips and is believed like any other. `meshnode.testing.misdeeds` has those that come with the
simulator; a subclass of `Hostile` is another.
"""

from collections.abc import Awaitable, Callable

import trio

from meshnode.errors import MeshError
from meshnode.mesh.providers import keys_of
from meshnode.net.link import Link, Stream
from meshnode.node.presence import Presence, World
from meshnode.node.visit import Entry
from meshnode.trust.membership import Mesh
from meshwire.ids import NodeId
from meshwire.messages import Open
from meshwire.numbers import Message
from meshwire.records import Record, RecordType
from meshwire.signing import Signer

HonestAnswer = Callable[[], Awaitable[Message | None]]
HonestCircuit = Callable[[Stream], Awaitable[None]]


class Hostile:
    """What a hostile node does otherwise than others; here, nothing.

    `me` is its presence on the mesh: its links, book, DHT, keys and randomness.
    """

    @property
    def name(self) -> str:
        """What the timeline calls it."""
        return type(self).__name__

    def presence(
        self, world: World, mesh: Mesh, listen: str, incarnation: int, entry: Entry | None = None
    ) -> "HostilePresence":
        """A presence on a mesh that behaves like this."""
        return HostilePresence(world, mesh, listen, incarnation, entry, hostile=self)

    async def act(self, me: "HostilePresence") -> None:
        """What it does by itself, from when it listens until it ends."""

    async def answer(
        self, me: "HostilePresence", link: Link, message: Message, honest: HonestAnswer
    ) -> Message | None:
        """Its reply to a request; `honest()` makes the one that a node of good will would give."""
        return await honest()

    async def circuit(
        self, me: "HostilePresence", stream: Stream, opening: Open, honest: HonestCircuit
    ) -> None:
        """What it does with a circuit that comes in; `honest(stream)` passes it on, or ends it here."""
        await honest(stream)


class HostilePresence(Presence):
    """A node on one mesh, with the hooks of a `Hostile` in place of its own judgement."""

    def __init__(
        self,
        world: World,
        mesh: Mesh,
        listen: str,
        incarnation: int,
        entry: Entry | None = None,
        *,
        hostile: Hostile,
    ) -> None:
        self.hostile = hostile
        self.identity = world.identity
        self.seams = world.seams
        self.engines = world.bench.engines
        super().__init__(world, mesh, listen, incarnation, entry)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """As a presence runs, and act beside it."""
        async with trio.open_nursery() as nursery:
            await nursery.start(super().run)
            nursery.start_soon(self.hostile.act, self)
            task_status.started()

    @property
    def signer(self) -> Signer:
        """Signs as this node."""
        return self.identity.signer

    def peers_linked(self) -> list[Link]:
        """One link to each member."""
        return self.switch.best_links()

    def honest_records(self, kind: RecordType) -> list[Record]:
        """What others have signed, in an order that depends on their ids alone."""
        others = [record for owner, record in self.book.all(kind) if owner != self.book.own]
        return sorted(others, key=lambda record: (record.owner, record.name, record.seq))

    def keys_for(self, record: Record) -> tuple[bytes, ...]:
        """Where a record belongs in the DHT."""
        return keys_of(self.mesh.id, record)

    async def say(self, link: Link, message: Message) -> Message | None:
        """Ask over a link; None where the other end does not answer, or turns it down."""
        try:
            return await link.request(message)
        except MeshError:
            return None

    async def tell(self, link: Link, message: Message) -> None:
        """Send a notice; that the link may be gone is no matter."""
        try:
            await link.notify(message)
        except MeshError:
            return

    async def _on_request(self, link: Link, message: Message) -> Message | None:
        honest = super()._on_request
        return await self.hostile.answer(self, link, message, lambda: honest(link, message))

    async def _on_circuit(self, link: Link, stream: Stream, opening: Open) -> None:
        honest = super()._on_circuit
        await self.hostile.circuit(self, stream, opening, lambda bent: honest(link, bent, opening))


class Gang:
    """Hostile nodes that know of each other: what one says leads to the next."""

    def __init__(self) -> None:
        self._members: dict[NodeId, HostilePresence] = {}

    def enter(self, me: HostilePresence) -> None:
        """One more."""
        self._members[me.identity.node] = me

    def records(self, kind: RecordType) -> list[Record]:
        """What its members say of themselves."""
        return [
            record
            for node, me in sorted(self._members.items())
            for record in me.book.of(node)
            if record.type is kind
        ]

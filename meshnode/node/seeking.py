"""Finding others, and being found: whom a node dials by itself, and whom it names as relays. It knows no traffic."""

from collections.abc import Collection, Sequence
from functools import partial

import trio

from meshnode.config import Config
from meshnode.errors import Unreachable
from meshnode.mesh.book import RecordBook
from meshnode.mesh.peers import Peers
from meshnode.mesh.relaying import named_relays
from meshnode.net.lan import Lan
from meshnode.net.link import Link
from meshnode.net.switch import Switch
from meshnode.node.visit import Entry
from meshnode.seams import Seams
from meshnode.state.store import Store
from meshwire.ids import NodeId
from meshwire.records import RecordType

LINKS_WANTED = 16  # direct links a node opens by itself; more come in by others' dialling
LAN_WISHED = 4  # of them for who is only heard near: anybody can say anything there
LOOK_FOR_PEERS_S = 1.0
NO_DIALLING = "The node has no address to dial, or this node does not dial strangers."


class Seeker:
    """Keeps links up to those that a node knows of, and dials those that the DHT asks for."""

    def __init__(
        self,
        config: Config,
        store: Store,
        seams: Seams,
        book: RecordBook,
        peers: Peers,
        switch: Switch,
        mesh: bytes,
    ) -> None:
        self._config = config
        self._store = store
        self._seams = seams
        self._book = book
        self._peers = peers
        self._switch = switch
        self._lan = Lan(book.own, mesh)
        self._relays: tuple[NodeId, ...] = ()

    async def run(self, entry: Entry | None, addresses: Sequence[str]) -> None:
        """Link to members heard of, up to LINKS_WANTED, and forget the wish when their ads are gone or move.

        `entry` is the way on which the node has come into the mesh, if it has only just joined; `addresses` are
        its own.
        """
        async with trio.open_nursery() as nursery:
            if self._config.lan and all(address.startswith("ws") for address in addresses):
                announce = self._config.reachable
                nursery.start_soon(partial(self._lan.run, addresses, announce=announce))
            await self._seek(entry)

    async def _seek(self, entry: Entry | None) -> None:
        if entry is not None:
            self._switch.want(entry.addresses[:1], first=entry.link)
        for address in self._config.bootstrap:
            self._switch.want((address,))
        for _, address in await self._store.addresses():
            self._switch.want((address,))
        wished: dict[NodeId, tuple[str, ...]] = {}
        while self._config.discover:
            self._wish(wished)
            await trio.sleep(LOOK_FOR_PEERS_S)

    def _wish(self, wished: dict[NodeId, tuple[str, ...]]) -> None:
        for node, addresses in list(wished.items()):
            if self._addresses(node) != addresses:  # gone, or at another place
                self._switch.unwant(node)
                del wished[node]
        for node in self._strangers(wished) if len(wished) < LINKS_WANTED else ():
            wished[node] = self._addresses(node)
            self._switch.want(wished[node], node)

    def _strangers(self, wished: Collection[NodeId]) -> list[NodeId]:
        """Whom to wish for next, by lot: if all chose by one rule, all links would end at the same few nodes."""
        others = [node for node, _ in self._book.all(RecordType.NODE) if node not in wished]
        known = [node for node in sorted(others) if node != self._book.own and self._peers.addresses(node)]
        near = self._near(wished)
        room = max(0, LINKS_WANTED - len(wished) - len(near))
        return [*near, *self._seams.rng.sample(known, min(room, len(known)))]

    def _near(self, wished: Collection[NodeId]) -> list[NodeId]:
        """Nodes that are heard on the local network and that no record tells of, a few of them."""
        unknown = [node for node in self._lan.neighbours if not self._peers.addresses(node)]
        room = LAN_WISHED - sum(node in wished for node in unknown)
        return [node for node in unknown if node not in wished][: max(0, room)]

    def _addresses(self, node: NodeId) -> tuple[str, ...]:
        """Where to dial it: where it was heard near, then where its record says."""
        near = self._lan.neighbours.get(node)
        return tuple(dict.fromkeys([*([near] if near else []), *self._peers.addresses(node)]))

    async def reach(self, node: NodeId) -> Link:
        """A direct link to a node met in a lookup, dialled if there is none. Raises MeshError."""
        if (link := self._switch.direct(node)) is not None:
            return link
        return await self._switch.dial(self._address_of(node), node)

    async def probe(self, node: NodeId) -> str:
        """The address at which a node really is: dialled, whatever links to it there are. Raises MeshError."""
        link = await self._switch.dial(self._address_of(node), node)
        await link.aclose()
        return link.remote

    def relays(self) -> tuple[NodeId, ...]:
        """Who can reach this node by a link, if it cannot be dialled itself; for its record."""
        if self._config.reachable:
            return ()
        linked = self._switch.rtts_ms()
        dialable = [node for node in linked if self._peers.addresses(node)]
        self._relays = named_relays(self._relays, linked, dialable)
        return self._relays

    def _address_of(self, node: NodeId) -> str:
        addresses = self._peers.addresses(node)
        if not addresses or not self._config.discover:
            raise Unreachable(NO_DIALLING)
        return addresses[0]

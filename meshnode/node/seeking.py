"""Finding others: whom a node dials by itself, or because a lookup or a circuit led there. It knows no traffic."""

from collections.abc import Collection, Sequence
from functools import partial

import structlog
import trio

from meshnode.config import Config
from meshnode.errors import MeshError, Unreachable
from meshnode.mesh.book import RecordBook
from meshnode.mesh.peers import Peers
from meshnode.net.lan import Lan
from meshnode.net.link import Link
from meshnode.net.switch import Switch
from meshnode.node.visit import Entry
from meshnode.seams import Seams
from meshnode.state.store import Store
from meshwire.ids import NodeId, to_text
from meshwire.limits import LINKS_TOTAL
from meshwire.numbers import ERRAND
from meshwire.records import RecordType

LINKS_WANTED = 8  # direct links a node opens by itself; as many come in by others' dialling
SMALL_MESH = 128  # nodes; up to here loss is told from death faster with half as many again
LINKS_WANTED_SMALL = 12
LAN_WISHED = 4  # of them for who is only heard near: anybody can say anything there
LOOK_FOR_PEERS_S = 1.0
TURN_S = 1.5  # for the one of two whose turn it is to dial the other
APPROACH_LINKS = LINKS_TOTAL // 2  # with more than these, circuits stay circuits
APPROACHES = 8  # at once
RELAY_LOOKS = 10  # for relays that a node has not named yet
LOOK_FOR_RELAYS_S = 0.3
log = structlog.get_logger("meshnode.node.seeking")
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
        self._heard_at: dict[NodeId, float] = {}
        self._approaching: dict[NodeId, None] = {}

    async def run(self, entry: Entry | None, addresses: Sequence[str]) -> None:
        """Link to members heard of, up to as many as are wanted, and forget the wish when their ads are gone or move.

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
        for node in self._strangers(wished) if len(wished) < self._links_wanted else ():
            wished[node] = self._addresses(node)
            self._switch.want(wished[node], node)

    @property
    def _links_wanted(self) -> int:
        return LINKS_WANTED_SMALL if self._book.owners <= SMALL_MESH else LINKS_WANTED

    def _strangers(self, wished: Collection[NodeId]) -> list[NodeId]:
        """Whom to wish for next, by lot: if all chose by one rule, all links would end at the same few nodes."""
        others = [node for node, _ in self._book.all(RecordType.NODE) if node not in wished]
        now = trio.current_time()
        self._heard_at = {node: self._heard_at.get(node, now) for node in others}
        known = [node for node in sorted(others) if self._peers.addresses(node) and self._may_dial(node, now)]
        near = self._near(wished)
        room = max(0, self._links_wanted - len(wished) - len(near))
        return [*near, *self._seams.rng.sample(known, min(room, len(known)))]

    def _may_dial(self, node: NodeId, now: float) -> bool:
        """Whether it is this node's turn: of two that can dial each other, the one with the lesser id goes first."""
        goes_first = self._book.own < node or not self._config.reachable
        return node != self._book.own and (goes_first or now - self._heard_at[node] >= TURN_S)

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
        """A direct link to a node met in a lookup, on an errand if there is none. Raises MeshError."""
        if (link := self._switch.direct(node)) is not None:
            return link
        return await self._switch.ask_at(self._address_of(node), node)

    async def probe(self, node: NodeId) -> str:
        """The address at which a node really is: dialled, whatever links to it there are. Raises MeshError."""
        link = await self._switch.dial(self._address_of(node), node, features=(ERRAND,))
        await link.aclose()
        return link.remote

    async def come_near(self, node: NodeId) -> None:
        """Try for a link to a node, or, where it cannot be dialled, to its relays, once it has named some."""
        for _ in range(RELAY_LOOKS):
            ad = self._peers.ad(node)
            if ad is not None and (ad.dialable or ad.relays):
                for other in (node,) if ad.dialable else map(NodeId, ad.relays):
                    await self.approach(other)
                return
            await trio.sleep(LOOK_FOR_RELAYS_S)

    async def approach(self, node: NodeId, approached: bool = False) -> None:
        """Try once for a direct link to a node, such as the one at the other end of a circuit.

        Where that node has laid it, it is `approached` by it, unless this one cannot be dialled.
        """
        if not self._config.discover or (approached and self._config.reachable):
            return
        if self._switch.direct(node) is not None or node in self._approaching:
            return
        self._approaching[node] = None
        try:
            if len(self._switch.links()) < APPROACH_LINKS and len(self._approaching) <= APPROACHES:
                await self._switch.dial_any(self._peers.addresses(node), node)
        except MeshError as error:
            log.info("no direct link", peer=to_text(node), why=str(error))
        finally:
            del self._approaching[node]

    def _address_of(self, node: NodeId) -> str:
        addresses = self._peers.addresses(node)
        if not addresses or not self._config.discover:
            raise Unreachable(NO_DIALLING)
        return addresses[0]

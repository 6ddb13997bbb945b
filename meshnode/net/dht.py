"""The DHT over links: answers its requests, announces this node's models, runs lookups. It decides nothing.

The lookup is a pure machine (`meshnode.mesh.lookup`), the table and what is kept for others are plain data;
this limb asks the nodes that the machine names, over links that prove who answers, and feeds it what they
say. Records that come this way enter the book out of order, so gossip still asks for what lies between.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

import structlog
import trio

from meshnode.errors import Busy, MeshError, NotAllowed, Unreachable
from meshnode.mesh import keyspace
from meshnode.mesh.book import RecordBook
from meshnode.mesh.digest import within
from meshnode.mesh.diversity import group_of
from meshnode.mesh.lookup import Found, Lookup
from meshnode.mesh.node_ads import NodeAds
from meshnode.mesh.providers import Providers, StoreRate, keys_of
from meshnode.mesh.table import Contact, Table
from meshnode.net.announcing import Announcer
from meshnode.seams import Seams
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId, to_text
from meshwire.limits import (
    ANNOUNCE_S,
    CONTROL_FRAME_MAX,
    DHT_K,
    DHT_RPC_S,
    PROVIDERS_RETURNED,
    RECORD_MAX,
    STORES_WINDOW_S,
)
from meshwire.messages import DhtFind, DhtFound, DhtPing, DhtPong, DhtStore, DhtStored
from meshwire.numbers import Message
from meshwire.records import Read, Record, RecordType, read_record

log = structlog.get_logger("meshnode.net.dht")

ANSWER_BUDGET_BYTES = (CONTROL_FRAME_MAX - RECORD_MAX) // 2  # for the nodes, and as much for the providers
LONELY_PER_ROUND = 2
LOOKUPS_AT_ONCE = 4
PINGS_AT_ONCE = 8
LOOK_EVERY_S = 1.0  # for the ad of a node that has dialled, to dial it back
LOOKS = 10
PROBED_ANEW_S = 300.0
PROBED_MAX = 1024


class DhtLink(Protocol):
    """What the DHT needs of a link."""

    @property
    def node(self) -> NodeId:
        """The other end."""
        ...

    @property
    def remote(self) -> str:
        """The address at the other end."""
        ...

    @property
    def initiator(self) -> bool:
        """Whether this end dialled."""
        ...

    async def request(self, message: Message, timeout_s: float = DHT_RPC_S) -> Message:
        """Ask; raises MeshError."""
        ...


Reach = Callable[[NodeId], Awaitable[DhtLink]]
Probe = Callable[[NodeId], Awaitable[str]]


class Dht:
    """One node's part in the DHT.

    `mesh` is the mesh's id; `reach(node)` gives a link to a node, dialling the addresses in its ad if need
    be, and raises Unreachable. The book holds the ads; whose word counts is its judgement.

    In a mesh that anybody may join there is a `probe(node)`, which dials the node at the address in its ad,
    whether or not there is a link, and returns that address. There a node has a place in the table only once
    this one has reached it itself, and address groups are limited; elsewhere certificates limit who is there.
    """

    def __init__(
        self,
        mesh: bytes,
        book: RecordBook,
        reach: Reach,
        seams: Seams,
        *,
        read: Read = read_record,
        probe: Probe | None = None,
    ) -> None:
        self.table = Table(book.own, trio.current_time)
        self.providers = Providers()
        self._mesh = mesh
        self._book = book
        self._reach = reach
        self._seams = seams
        self._read = read
        self._probe = probe
        self._probed_at: dict[NodeId, float] = {}
        self._probes = trio.CapacityLimiter(PINGS_AT_ONCE)
        self._rate = StoreRate()
        self._ads = NodeAds(book)
        self._lookups = trio.CapacityLimiter(LOOKUPS_AT_ONCE)
        self._pinging: set[NodeId] = set()
        self._announcer = Announcer(
            mesh, book, self.providers, seams.rng, look_up=self.lookup, store=self._request
        )
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Announce every five minutes and at once on a change, refresh lonely buckets; until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                self.providers.expire(trio.current_time())
                await self._announcer.announce()
                await self._refresh()
                await self._announcer.until_next_round()

    def changed(self) -> None:
        """This node's ads have changed: announce them now."""
        self._announcer.changed()

    async def announce(self) -> None:
        """Store every one of this node's ads with the nodes nearest to its keys, and here."""
        await self._announcer.announce()

    def opened(self, link: DhtLink) -> None:
        """A link has opened: its other end is a contact, or may be one once this node has dialled it.

        While this node's ads have not found enough places yet, it may be one.
        """
        if self._announcer.wants_places and self._nursery is not None:
            self._announcer.search_soon()
            if self._book.owners <= DHT_K:  # then everybody is among the nearest
                self._nursery.start_soon(self._announcer.introduce, link.node)
        if self._probe is None or link.initiator:
            self._acquaint(link.node, link.remote)
        elif self._nursery is not None and self._is_due(link.node):
            self._nursery.start_soon(self._dial_back, self._probe, link.node)

    def _acquaint(self, node: NodeId, remote: str) -> None:
        """A node answers at an address: it gets a place, unless it says that it cannot be dialled."""
        if not self._may_serve(node):
            return
        group = group_of(remote) if self._probe is not None else ""
        head = self.table.add_contact(Contact(node, verified=True, group=group))
        if head is not None and self._nursery is not None and len(self._pinging) < PINGS_AT_ONCE:
            self._nursery.start_soon(self._ping, head)

    def _is_due(self, node: NodeId) -> bool:
        """Whether to dial a node back: not if it has its place, or was tried lately; noted if so."""
        now = trio.current_time()
        if self.table.has(node) or now < self._probed_at.get(node, -PROBED_ANEW_S) + PROBED_ANEW_S:
            return False
        self._probed_at.pop(node, None)
        self._probed_at[node] = now
        if len(self._probed_at) > PROBED_MAX:
            del self._probed_at[next(iter(self._probed_at))]
        return True

    async def _dial_back(self, probe: Probe, node: NodeId) -> None:
        """Give a node that has dialled us a place in the table, if it can be reached where it says."""
        try:
            for _ in range(LOOKS):
                if self._book.get(node, RecordType.NODE) is not None:
                    break
                await trio.sleep(LOOK_EVERY_S)
            async with self._probes:
                self._acquaint(node, await probe(node))
        except MeshError as error:
            log.debug("dht.client", peer=to_text(node), error=str(error))

    # --- Answering ---

    async def answer(self, link: DhtLink, message: Message) -> Message:
        """The reply to a request of the DHT's; raises NotAllowed, or Busy to a peer that stores too often."""
        match message:
            case DhtPing():
                return DhtPong()
            case DhtFind(target=target, providers=providers):
                return self._found(target, providers, link.node)
            case DhtStore(key=key, record=raw):
                return self._store(link, key, raw)
        raise NotAllowed(f"The DHT does not answer {type(message).__name__}.")

    def _found(self, target: bytes, providers: bool, asker: NodeId) -> DhtFound:
        near = (self._dialable(node) for node in self.table.nearest(target, 2 * DHT_K) if node != asker)
        ads = islice((record for record in near if record is not None), DHT_K)
        kept = self._kept(target) if providers else ()
        return DhtFound(tuple(within(ANSWER_BUDGET_BYTES, (record.raw for record in ads))), kept)

    def _kept(self, key: bytes) -> tuple[bytes, ...]:
        return self.providers.get(key, trio.current_time(), ANSWER_BUDGET_BYTES, self._seams.rng)

    def _store(self, link: DhtLink, key: bytes, raw: bytes) -> DhtStored:
        sender, now = link.node, trio.current_time()
        if not self._rate.admit(sender, now):
            raise Busy("Too many records to store.", retry_after_s=STORES_WINDOW_S)
        try:
            record = self._read(raw)
        except RemoteWireError as error:
            raise NotAllowed(f"This is no record: {error}.") from error
        if record.owner != sender:
            raise NotAllowed("Only a provider itself may announce what it provides.")
        if key not in keys_of(self._mesh, record):
            raise NotAllowed("This record does not belong under this key.")
        group = group_of(link.remote) if self._probe is not None else ""
        if not self.providers.put(key, record, now, group):
            raise Busy("There is no room under this key.", retry_after_s=ANNOUNCE_S)
        self._believe((raw,), sender)
        return DhtStored()

    def _dialable(self, node: NodeId) -> Record | None:
        """A node's record, if it can be dialled: others are the DHT's clients, not its servers."""
        ad = self._ads.get(node)
        return self._book.get(node, RecordType.NODE) if ad is not None and ad.dialable else None

    def _may_serve(self, node: NodeId) -> bool:
        """Whether a node does not say that it cannot be dialled."""
        return self._book.get(node, RecordType.NODE) is None or self._dialable(node) is not None

    def _group(self, node: NodeId) -> str:
        """The address group of a node by its own word, which dialling it puts to the test."""
        ad = self._ads.get(node) if self._probe is not None else None
        return group_of(ad.addresses[0]) if ad is not None and ad.dialable else ""

    # --- Asking ---

    async def find_providers(self, family: str, tier: int | None = None) -> list[Record]:
        """The MODEL records of those who provide a model family, at a quant tier if given.

        Every one is signed by its provider and belongs under the key asked for; all of them are in the book
        too, if their owners are members. What gossip knows counts as well: it adds providers that nobody
        named, and leaves out those that have left.
        """
        key = keyspace.capability_key(self._mesh, family, tier)
        found = await self.lookup(key, providers=True)
        gossiped = (record.raw for _, record in self._book.all(RecordType.MODEL))
        raws = (*self._kept(key), *found.providers.values(), *gossiped)
        slots = {(record.owner, record.name): record for record in self._believe(raws)}
        newest = (self._book.get(owner, RecordType.MODEL, name) for owner, name in slots)
        return [record for record in newest if record is not None and key in keys_of(self._mesh, record)]

    async def find_node(self, node: NodeId, key: bytes) -> Record | None:
        """The NODE record of the node with this public key, from the book or else from the DHT."""
        held = self._book.get(node, RecordType.NODE)
        if held is None:
            found = await self.lookup(keyspace.peer_key(key), providers=True)
            self._believe(found.providers.values())
        return held or self._book.get(node, RecordType.NODE)

    async def lookup(self, target: bytes, *, providers: bool = False) -> Found:
        """Search for the nodes nearest to a key, and for what providers stored there. Ends within 10 s."""
        async with self._lookups:
            self.table.touch(target)
            seeds = [node for node in self.table.nearest(target, 2 * DHT_K) if self._may_serve(node)]
            machine = Lookup(target, seeds[:DHT_K], trio.current_time(), group_of=self._group)
            with trio.move_on_at(machine.deadline):
                async with trio.open_nursery() as nursery:
                    await self._drive(machine, providers, nursery)
            machine.next(trio.current_time())
            return machine.result

    async def _drive(self, machine: Lookup, providers: bool, nursery: trio.Nursery) -> None:
        settled = trio.lowlevel.ParkingLot()
        while not machine.done:
            for node in machine.next(trio.current_time()):
                nursery.start_soon(self._ask, machine, node, providers, settled)
            if not machine.done:
                await settled.park()

    async def _ask(
        self, machine: Lookup, node: NodeId, providers: bool, settled: trio.lowlevel.ParkingLot
    ) -> None:
        """Ask one node, and tell the machine what came of it."""
        try:
            reply = await self._request(node, DhtFind(machine.target, providers))
        except MeshError as error:
            log.debug("dht.unanswered", peer=to_text(node), error=str(error))
            reply = None
        if isinstance(reply, DhtFound):
            nodes = self._believe(reply.nodes[:DHT_K])
            kept = self._believe(reply.records[:PROVIDERS_RETURNED])
            closer = self._servers(nodes)
            machine.on_reply(node, closer, {(record.owner, record.name): record.raw for record in kept})
        else:
            machine.on_failure(node)
        settled.unpark()

    def _servers(self, records: Iterable[Record]) -> Iterator[NodeId]:
        """The owners of NODE records that can be dialled."""
        owners = [record.owner for record in records if record.type is RecordType.NODE]
        return (owner for owner in owners if self._dialable(owner) is not None)

    async def _request(self, node: NodeId, message: Message) -> Message:
        """One RPC within its time, dialling included; a node out of reach loses its place in the table."""
        try:
            with trio.fail_after(DHT_RPC_S):
                link = await self._reach(node)
                reply = await link.request(message, DHT_RPC_S)
        except trio.TooSlowError:
            self.table.forget(node)
            raise Unreachable("It did not answer in time.") from None
        except Unreachable:
            self.table.forget(node)
            raise
        if self._probe is None or link.initiator:
            self._acquaint(node, link.remote)
        return reply

    async def _ping(self, contact: Contact) -> None:
        if contact.id in self._pinging:
            return
        self._pinging.add(contact.id)
        try:
            await self._request(contact.id, DhtPing())
        except MeshError as error:
            log.debug("dht.gone", peer=to_text(contact.id), error=str(error))
        finally:
            self._pinging.discard(contact.id)

    # --- Keeping the table ---

    async def _refresh(self) -> None:
        """Look somewhere into ranges where nothing has happened for an hour; drop who is no server any more."""
        for contact in [one for one in self.table.contacts() if not self._may_serve(one.id)]:
            self.table.forget(contact.id)
        for bucket in self.table.lonely_buckets()[:LONELY_PER_ROUND]:
            low, high = bucket.range
            target = self._seams.rng.randrange(low, min(high, 2**160 - 1) + 1)
            await self.lookup(target.to_bytes(20, "big"))

    # --- Records ---

    def _believe(self, raws: Iterable[bytes], sender: NodeId | None = None) -> tuple[Record, ...]:
        """Put records into the book; those that it believes."""
        now, wall_ms = trio.current_time(), self._seams.now_ms()
        return self._book.merge(raws, now=now, wall_ms=wall_ms, sender=sender, in_order=False).believed

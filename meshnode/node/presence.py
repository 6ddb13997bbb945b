"""One node's life on one mesh: its links, records, gossip and DHT, from joining to leaving.

It builds these parts, ties them together and runs them in one nursery. A node that joins another mesh ends
this and begins a new one; engines, API and control socket live on beside it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from meshnode import __version__
from meshnode.config import Config
from meshnode.errors import NotAllowed
from meshnode.identity import Identity
from meshnode.mesh import witness
from meshnode.mesh.ads import NodeAd
from meshnode.mesh.book import Merged
from meshnode.mesh.members import Members
from meshnode.mesh.peers import Peer, Peers
from meshnode.mesh.relaying import RelayService
from meshnode.mesh.shelf import PASSING
from meshnode.net.base import Network
from meshnode.net.circuits import Circuits
from meshnode.net.dht import Dht
from meshnode.net.gossip import Gossip
from meshnode.net.link import Link, Stream
from meshnode.net.membership import JoinLink, Membership
from meshnode.net.switch import Hooks, Self, Switch
from meshnode.net.watch import Ties, Watch
from meshnode.node import papers
from meshnode.node.attesting import Attestation
from meshnode.node.detours import another_way
from meshnode.node.leases import Leases
from meshnode.node.publisher import Publisher
from meshnode.node.seeking import Seeker
from meshnode.node.strangers import Strangers
from meshnode.node.visit import Entry
from meshnode.seams import Seams
from meshnode.serve.choose import LOOK_EVERY_S, NEWS_S
from meshnode.serve.local import Bench
from meshnode.state.store import Store
from meshnode.terms import Candidate
from meshnode.trust.audit import Point
from meshnode.trust.membership import Mesh
from meshnode.trust.weights import all_signed
from meshwire.events import Introduced
from meshwire.ids import NodeId
from meshwire.messages import (
    Accuse,
    GossipSyn,
    Join,
    Open,
    PingReq,
    RecordGet,
    RecordGot,
    Refute,
    Reserve,
    Reserved,
)
from meshwire.numbers import Message
from meshwire.records import read_record

log = structlog.get_logger("meshnode.node")
FAREWELL_S = 1.0  # no longer than this does a node that leaves wait to be heard
OnAsk = Callable[[Link, Stream, Open], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class World:
    """What a presence is built from and outlived by."""

    config: Config
    identity: Identity
    store: Store
    seams: Seams
    network: Network
    bench: Bench
    on_ask: OnAsk
    on_blob: OnAsk
    addresses_at: Callable[[str], tuple[str, ...]]
    audit_end: Callable[[], Point]
    attestation: Attestation


class Presence:
    """This node on one mesh."""

    def __init__(
        self, world: World, mesh: Mesh, listen: str, incarnation: int, entry: Entry | None = None
    ) -> None:
        self.mesh = mesh
        self._world, self._entry = world, entry
        self._listen = listen
        self.bound = listen
        self.addresses: tuple[str, ...] = ()
        self._nursery: trio.Nursery | None = None
        self._news = trio.Event()
        identity, seams = world.identity, world.seams
        self.members = Members(mesh, identity.key, seams.now_ms, verify=seams.verify, read=seams.read)
        self.book = self.members.book
        self.peers = Peers(self.book, world.attestation.holds)
        own = Self(identity, mesh.id, mesh.chain, seams)
        self.switch = Switch(own, world.network, self._hooks())
        self.relaying = RelayService(
            self.peers.ad, lambda node: self.switch.direct(node) is not None, willing=world.config.relay
        )
        self.leases = Leases(self.peers, self.switch, self._changed)
        self.seeker = Seeker(world.config, world.store, seams, self.book, self.peers, self.switch, mesh.id)
        self.circuits = Circuits(
            own,
            self.switch,
            static_key_of=self._static_key_of,
            carries_to=lambda node: self.relaying.carries_to(node, trio.current_time()),
            approach=self.seeker.approach,
            judge=self._judge,
            on_ask=world.on_ask,
            on_request=self._on_request,
        )
        self.gossip = Gossip(self.book, self.switch.best_links, seams, on_merged=self._on_merged)
        self.dht = Dht(
            mesh.id,
            self.book,
            self.seeker.reach,
            seams,
            read=seams.read,
            probe=self.seeker.probe if mesh.is_open else None,
        )
        self.publisher = self._publisher(incarnation)
        self.papers = self._papers(own)
        self._strangers = Strangers(self.papers.learn)
        self.membership = Membership(
            identity,
            mesh,
            world.store,
            seams,
            find=self._find,
            next_seq=self.papers.next_seq,
            publish=lambda raw: self.papers.put(read_record(raw)),
        )
        self.watch = Watch(
            self.book,
            Ties(
                signer=identity.signer,
                mesh=mesh.id,
                links=self.switch.links,
                is_member=self.members.is_member,
                merge=self._take,
                sign_vitals=self.publisher.sign_vitals,
                changed=self._changed,
            ),
            seams,
        )

    def _papers(self, own: Self) -> papers.Papers:
        ties = papers.Ties(
            links=lambda: (*self.switch.every_link(), *self.circuits.links()),
            nudge=self.gossip.nudge,
            on_mesh=self._certified,
            peers=self.view,
            cards=self.publisher.current_cards,
        )
        return papers.Papers(self._world.config.home, own, self.mesh, self.members, self._world.store, ties)

    def _publisher(self, incarnation: int) -> Publisher:
        return Publisher(
            self.book,
            self._world.identity.signer,
            self._world.seams,
            self._world.bench,
            node_ad=self._node_ad,
            rtts_ms=self._live_rtts_ms,
            keep_seq=self._world.store.raise_seq,
            on_ads=self.dht.changed,
            on_signed=self.gossip.nudge,
            incarnation=incarnation,
            price_usd=self._world.config.price_usd,
            audit_end=self._world.audit_end,
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be on the mesh until cancelled; started once the node listens. Raises PortInUse."""
        self.book.raise_floor(await self._world.store.next_seq(self._world.seams.now_ms()))
        await self.papers.recall()
        async with trio.open_nursery() as nursery:
            parts = trio.CancelScope()
            await nursery.start(self._live, parts)
            parts.shield = True
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(FAREWELL_S, shield=True):
                    await self._say_farewell()
                parts.cancel()

    async def _live(
        self, parts: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run all parts, in a scope that is shielded once they are up: who is told to end can still say so."""
        with parts:
            await self._run_parts(task_status)

    async def _run_parts(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.bound = await nursery.start(self.switch.run, self._listen)
            self.addresses = self._world.config.advertise or self._world.addresses_at(self.bound)
            await nursery.start(self.circuits.run)
            await nursery.start(self.papers.run)
            nursery.start_soon(self.publisher.run)
            nursery.start_soon(self.gossip.run)
            nursery.start_soon(self.dht.run)
            nursery.start_soon(self.watch.run)
            nursery.start_soon(self.seeker.run, self._entry, self.addresses)
            if not self._world.config.reachable:
                nursery.start_soon(self.leases.run)
            task_status.started()

    async def _say_farewell(self) -> None:
        """Let the neighbours know at once that this node leaves; they pass it on."""
        links = self.switch.best_links()
        if links:
            self.publisher.leave()
            await self._world.store.raise_seq(self.book.last_seq)
            async with trio.open_nursery() as nursery:
                for link in links:
                    nursery.start_soon(self.gossip.farewell, link)

    # --- What it knows ---

    def view(self) -> dict[NodeId, Peer]:
        """Every other member with a current record."""
        return self.peers.view(
            self.switch.rtts_ms(), self.members.standing, self.switch.doubted(), self.watch.dead()
        )

    def candidates(self) -> list[Candidate]:
        """What the others offer."""
        return self.peers.candidates(self.view())

    def vitals_seqs(self) -> dict[bytes, int]:
        """Which state of each peer's queues its vitals show."""
        return {node: peer.vitals_seq for node, peer in self.view().items()}

    def links(self) -> list[Link]:
        """Every link of this node, circuits after the direct ones."""
        return [*self.switch.links(), *self.circuits.links()]

    @property
    def alone(self) -> bool:
        """Whether nobody else has ever been met on this mesh."""
        return not self._others and not self.switch.links()

    @property
    def _others(self) -> bool:
        """Whether there is a current record of anybody else; whose signer counts was seen when it was taken."""
        return any(owner != self.book.own for kind in PASSING for owner, _ in self.book.all(kind))

    # --- What the parts ask of each other ---

    def _hooks(self) -> Hooks:
        return Hooks(
            judge=self._judge,
            on_request=self._on_request,
            on_notice=self._on_notice,
            on_ask=self._world.on_ask,
            on_circuit=self._on_circuit,
            on_blob=self._world.on_blob,
            on_up=self._on_up,
            on_down=self._on_down,
        )

    def _judge(self, introduced: Introduced) -> bool:
        if not introduced.chain and not self.mesh.is_open:
            return False
        self.members.admit(introduced.key, introduced.chain)
        return True

    async def _on_request(self, link: Link, message: Message) -> Message | None:
        if isinstance(message, Join):
            joined = await self.membership.answer(link, message)
            self.gossip.nudge()
            return joined
        if link.joining:
            raise NotAllowed("Only a request to join is taken before there is a certificate.")
        if isinstance(message, RecordGet) and message.name == witness.RECORD_NAME:
            return RecordGot(self.papers.witness.raw(message.owner))
        if isinstance(message, GossipSyn | RecordGet):
            return await self.gossip.answer(link, message)
        if isinstance(message, PingReq):
            return await self.watch.answer(link, message)
        if isinstance(message, Reserve):
            return Reserved(self.relaying.reserve(link.node, trio.current_time()))
        return await self.dht.answer(link, message)

    async def _on_notice(self, link: Link, message: Message) -> None:
        if isinstance(message, Accuse | Refute):
            await self.watch.notice(link, message)
        else:
            await self.gossip.notice(link, message)

    async def _on_circuit(self, link: Link, stream: Stream, opening: Open) -> None:
        await self.circuits.arrived(link, stream, opening)

    def _on_up(self, link: Link) -> None:
        self.papers.learn(link.chain)
        self.gossip.opened(link, newcomer=link.newcomer)
        if self._nursery is not None:
            self._nursery.start_soon(self.papers.greet, link)
        self.dht.opened(link)
        self.leases.nudge()
        self._tell()
        self.publisher.nudge()

    def _tell(self) -> None:
        """Wake whoever waits for links or records."""
        self._news.set()
        self._news = trio.Event()

    def _on_down(self, link: Link) -> None:
        self.watch.lost(link)
        self.publisher.nudge()

    def _changed(self) -> None:
        """Somebody is dead, or is not any more; or there is one more relay."""
        self._tell()
        self.publisher.nudge()

    def _live_rtts_ms(self) -> dict[NodeId, float | None]:
        """The neighbours to name: a link to a dead node may stay open for a while."""
        dead = self.watch.dead()
        return {node: rtt_ms for node, rtt_ms in self.switch.rtts_ms().items() if node not in dead}

    def _take(self, raws: tuple[bytes, ...], sender: NodeId) -> Merged:
        """Records that came outside gossip's order."""
        now, wall_ms = trio.current_time(), self._world.seams.now_ms()
        merged = self.book.merge(raws, now=now, wall_ms=wall_ms, sender=sender, in_order=False)
        if merged.accepted or merged.refused:
            self._on_merged(merged, sender)
        return merged

    def _static_key_of(self, node: bytes) -> bytes | None:
        peer = self.view().get(NodeId(node))
        return peer.ad.static_key if peer is not None and peer.ad is not None else None

    async def _find(self, key: bytes) -> JoinLink | None:
        """A link to the member with this key, over relays if need be; news of the way may take a moment."""
        with trio.move_on_after(NEWS_S):
            while True:
                for link in self.switch.best_links():
                    if link.key == key:
                        return link
                for peer in self.view().values():
                    if peer.key == key and peer.route is not None:
                        return await self.circuits.reach(peer.route.path)
                await trio.sleep(LOOK_EVERY_S)
        return None

    def _on_merged(self, merged: Merged, sender: NodeId) -> None:
        self._tell()
        self.papers.merged(merged)
        if self._nursery is not None and (link := self.switch.direct(sender)) is not None:
            self._strangers.meet(merged, link, self._nursery)

    def _certified(self, mesh: Mesh) -> None:
        self.mesh = self.membership.mesh = mesh

    def _node_ad(self) -> NodeAd:
        return NodeAd(
            name=self._world.config.name,
            static_key=self._world.identity.static_public,
            addresses=self.addresses if self._world.config.reachable else (),
            relays=self.leases.named(),
            carries=self._world.config.relay,
            version=__version__,
            sandboxed=self._world.bench.contained,
            signed_weights=all_signed(card.signer for card in self.publisher.current_cards().values()),
            evidence=self._world.attestation.evidence,
        )

    async def another_way(self, path: tuple[NodeId, ...], broken: Link) -> Link:
        """See `meshnode.node.detours`."""
        return await another_way(path, broken, self.peers, self.switch, self.circuits)

    # --- Finding others ---

    async def look_up(self, family: str) -> None:
        """Ask the DHT who has models of a family, if one is named, and come near to holders out of reach."""
        if family:
            await self.dht.find_providers(family)
        for peer in self.view().values():
            if not peer.in_reach and peer.offers(family) and self._nursery is not None:
                self._nursery.start_soon(self.seeker.come_near, peer.node)

    async def linked(self) -> None:
        """Wait until there is a link to another member, and what it knows of the mesh has come over it."""
        while not (self.switch.best_links() and self._others):
            await self._news.wait()

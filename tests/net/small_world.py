"""A small world for gossip and DHT plays: nodes joined by links that carry real frames in virtual time."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import trio

from meshnode.errors import Unreachable
from meshnode.mesh import ads
from meshnode.mesh.book import RecordBook
from meshnode.net.dht import Dht
from meshnode.net.gossip import Gossip
from meshnode.seams import Seams
from meshwire.codec import decode_frames, encode_frame
from meshwire.ids import NodeId, node_id
from meshwire.limits import CONTROL_FRAME_MAX
from meshwire.numbers import Flag, Message
from meshwire.records import Record, RecordType
from meshwire.signing import Signer
from tests.mesh.test_ads import CARD, NODE_AD

MESH = b"m" * 16
WALL_S = 1_700_000_000.0
LATENCY_S = 0.02

Answer = Callable[["End", Message], Awaitable[Message]]


class End:
    """One end of a link: what a limb at `here` sees of `there`."""

    def __init__(self, here: "Node", there: "Node") -> None:
        self.here = here
        self.there = there
        self.sent_bytes = 0

    @property
    def node(self) -> NodeId:
        return self.there.node

    remote = "mem://somewhere"
    initiator = True

    @property
    def alive(self) -> bool:
        return self.there.up and self.here.up and not self.cut

    @property
    def cut(self) -> bool:
        return frozenset((self.here.node, self.there.node)) in self.here.world.cuts

    async def carry(self, message: Message, flags: int) -> Message:
        frame = encode_frame(message, 1, flags)
        assert len(frame) <= CONTROL_FRAME_MAX
        self.sent_bytes += len(frame)
        await trio.sleep(LATENCY_S)
        if not self.alive:
            await trio.sleep(60)
        body = decode_frames(frame)[0].body
        assert isinstance(body, Message)
        return body

    async def request(self, message: Message, timeout_s: float = 3.0) -> Message:
        with trio.move_on_after(timeout_s):
            arrived = await self.carry(message, 0)
            reply = await self.there.answer(End(self.there, self.here), arrived)
            return await End(self.there, self.here).carry(reply, Flag.REPLY)
        raise Unreachable("no answer")

    async def notify(self, message: Message) -> None:
        arrived = await self.carry(message, 0)
        await self.there.gossip.notice(End(self.there, self.here), arrived)


class Node:
    """A node with both limbs."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.up = True
        self.signer = Signer(number.to_bytes(32, "big"))
        self.node = node_id(self.signer.public)
        self.seams = replace(Seams(), wall=lambda: WALL_S + trio.current_time(), rng=random.Random(number))
        self.book = RecordBook(self.node, is_member=lambda key: key not in world.strangers)
        self.ends: dict[NodeId, End] = {}
        self.gossip = Gossip(self.book, self.links, self.seams, on_merged=None)
        self.dht = Dht(MESH, self.book, self.reach, self.seams)
        self.lies: Answer | None = None

    def links(self) -> list[End]:
        return [end for end in self.ends.values() if end.alive]

    async def reach(self, node: NodeId) -> End:
        end = self.ends.get(node) or End(self, self.world.nodes[node])
        if not end.alive:
            raise Unreachable("it is down")
        return end

    async def answer(self, end: End, message: Message) -> Message:
        if self.lies is not None:
            return await self.lies(end, message)
        limb = self.dht if type(message).__name__.startswith("Dht") else self.gossip
        return await limb.answer(end, message)

    def publish(self, kind: RecordType, payload: dict[int, object], ttl_ms: int = ads.AD_TTL_MS) -> Record:
        return self.book.publish(
            self.signer, kind, payload, ttl_ms=ttl_ms, now=trio.current_time(), wall_ms=self.seams.now_ms()
        )

    def publish_node(self) -> Record:
        return self.publish(RecordType.NODE, ads.node_payload(NODE_AD))

    def publish_model(self, **facts: object) -> Record:
        return self.publish(
            RecordType.MODEL, ads.model_payload(ads.model_ad(msgspec.structs.replace(CARD, **facts)))
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.gossip.run)
            nursery.start_soon(self.dht.run)


class World:
    """Nodes and who is linked with whom."""

    def __init__(self, count: int) -> None:
        self.cuts: set[frozenset[NodeId]] = set()
        self.strangers: set[bytes] = set()
        self.all = [Node(self, number) for number in range(1, count + 1)]
        self.nodes = {node.node: node for node in self.all}

    def link(self, one: Node, other: Node) -> None:
        for here, there in ((one, other), (other, one)):
            here.ends[there.node] = End(here, there)
            here.gossip.opened(here.ends[there.node])
            here.dht.opened(here.ends[there.node])

    def link_ring(self, chords: int = 2, seed: int = 1) -> None:
        rng = random.Random(seed)
        for index, node in enumerate(self.all):
            self.link(node, self.all[index - 1])
            for other in rng.sample(self.all, chords):
                if other is not node:
                    self.link(node, other)

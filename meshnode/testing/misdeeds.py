"""What hostile peers of a simulation do: one class for each misdeed, to be had by `start(name, hostile=…)`.

They lie about the DHT and their models, replay, contradict themselves, spoil what they relay, keep silent or flood.
Everything that they draw by lot comes from their node's seed.
"""

from itertools import cycle
from typing import Any, cast

import trio

from meshnode.engine.scripted import ScriptedEngine
from meshnode.errors import MeshError
from meshnode.mesh import keyspace
from meshnode.mesh.ads import AD_TTL_MS, NodeAd, model_ad, model_payload, node_payload
from meshnode.net.link import Link, Stream, StreamLost
from meshnode.terms import ModelCard
from meshnode.testing.hostile import Gang, HonestAnswer, HonestCircuit, Hostile, HostilePresence
from meshwire.limits import PROVIDERS_RETURNED
from meshwire.messages import DhtFind, DhtFound, DhtStore, DhtStored, GossipAck, GossipSyn, GossipSynAck, Open
from meshwire.numbers import KIND_ASK, KIND_CIRCUIT, Message, ResetCode
from meshwire.records import Record, RecordType, make_record
from meshwire.signing import Signer

EVERY_S = 1.0
YEAR_MS = 366 * 24 * 3600 * 1000
INVENTED_PER_ANSWER = 30
ANSWER_RECORDS = 40  # as many as a control frame holds, and more than an answer may have

# --- Lies about the DHT ---


class HidesProviders(Hostile):
    """Knows nobody but its gang, keeps nothing that it is given, and says that it does."""

    def __init__(self, gang: Gang | None = None) -> None:
        self.gang = gang or Gang()

    async def act(self, me: HostilePresence) -> None:
        """Be one of the gang."""
        self.gang.enter(me)

    async def answer(
        self, me: HostilePresence, link: Link, message: Message, honest: HonestAnswer
    ) -> Message | None:
        """Lie about what is in the DHT."""
        if isinstance(message, DhtFind):
            gang = self.gang.records(RecordType.NODE)
            return DhtFound(tuple(record.raw for record in gang[:ANSWER_RECORDS]))
        return DhtStored() if isinstance(message, DhtStore) else await honest()


class NamesFarNodes(Hostile):
    """Names the nodes that are farthest from what is looked for, and no providers."""

    async def answer(
        self, me: HostilePresence, link: Link, message: Message, honest: HonestAnswer
    ) -> Message | None:
        """Lead away."""
        if not isinstance(message, DhtFind):
            return await honest()
        known: dict[bytes, bytes] = {one.owner: one.raw for one in me.honest_records(RecordType.NODE)}
        far = keyspace.closest(message.target, known, len(known))[::-1]
        return DhtFound(tuple(known[node] for node in far[:ANSWER_RECORDS]))


class InventsNodes(Hostile):
    """Names nodes that there are not, nearer to every key than the real ones, more than an answer may have.

    Their records are signed by keys of its own making; in an open mesh those are as good as any. With
    `family`, each of them claims to provide it.
    """

    def __init__(self, family: str = "", nodes: int = 200) -> None:
        self.family = family
        self.nodes = nodes
        self._invented: list[tuple[Record, Record]] = []

    async def act(self, me: HostilePresence) -> None:
        """Make them up."""
        for number in range(self.nodes):
            signer = Signer(me.seams.entropy(32))
            ad = NodeAd(name="nobody", static_key=bytes(31) + b"\x09", addresses=(f"mem://nobody{number}",))
            self._invented.append(
                (self._signed(me, signer, RecordType.NODE, node_payload(ad)), self._provider(me, signer))
            )

    async def answer(
        self, me: HostilePresence, link: Link, message: Message, honest: HonestAnswer
    ) -> Message | None:
        """Name those of them that lie nearest."""
        if not isinstance(message, DhtFind):
            return await honest()
        by_owner: dict[bytes, tuple[Record, Record]] = {pair[0].owner: pair for pair in self._invented}
        near = [by_owner[node] for node in keyspace.closest(message.target, by_owner, INVENTED_PER_ANSWER)]
        fakes = near[:PROVIDERS_RETURNED] if message.providers else []
        return DhtFound(tuple(node.raw for node, _ in near), tuple(model.raw for _, model in fakes))

    def _provider(self, me: HostilePresence, signer: Signer) -> Record:
        card = ModelCard(
            name="m", family=self.family or "f", size="", quant="q", tier=3, digest=bytes(32), context=4096
        )
        return self._signed(me, signer, RecordType.MODEL, model_payload(model_ad(card)))

    def _signed(
        self, me: HostilePresence, signer: Signer, kind: RecordType, payload: dict[int, object]
    ) -> Record:
        now_ms = me.seams.now_ms()
        return make_record(signer, kind, seq=now_ms, issued_ms=now_ms, ttl_ms=AD_TTL_MS, payload=payload)


class StoresForOthers(Hostile):
    """Stores records of others with everybody, again and again, where they belong and where they do not."""

    async def act(self, me: HostilePresence) -> None:
        """Store."""
        while True:
            await trio.sleep(EVERY_S)
            for record in me.honest_records(RecordType.MODEL):
                for link in me.peers_linked():
                    for key in (*me.keys_for(record), me.seams.rng.randbytes(20)):
                        await me.say(link, DhtStore(key, record.raw))


# --- Lies about records ---


class Replays(Hostile):
    """Keeps every record that it ever saw, and brings back the oldest at every chance."""

    def __init__(self) -> None:
        self.seen: dict[bytes, None] = {}

    async def act(self, me: HostilePresence) -> None:
        """Collect, and spread."""
        while True:
            await trio.sleep(EVERY_S)
            for kind in (RecordType.NODE, RecordType.MODEL, RecordType.VITALS, RecordType.TOMBSTONE):
                self.seen |= dict.fromkeys(record.raw for record in me.honest_records(kind))
            for link in me.peers_linked():
                await me.tell(link, GossipAck(self._oldest()))

    async def answer(
        self, me: HostilePresence, link: Link, message: Message, honest: HonestAnswer
    ) -> Message | None:
        """Answer with what was true once."""
        match message:
            case GossipSyn():
                return GossipSynAck(deltas=self._oldest())
            case DhtFind():
                return DhtFound(self._oldest()[:10], self._oldest()[10:20])
        return await honest()

    def _oldest(self) -> tuple[bytes, ...]:
        return tuple(list(self.seen)[:20])


class PostDates(Hostile):
    """Signs ads that are a year ahead of their time, to be the newest for ever, and spreads them."""

    def __init__(self, ahead_ms: int = YEAR_MS) -> None:
        self.ahead_ms = ahead_ms

    async def act(self, me: HostilePresence) -> None:
        """Sign and spread."""
        while True:
            await trio.sleep(EVERY_S)
            later = me.seams.now_ms() + self.ahead_ms
            ad = NodeAd(name="later", static_key=bytes(31) + b"\x09", addresses=("mem://later",))
            record = make_record(
                me.signer,
                RecordType.NODE,
                seq=later,
                issued_ms=later,
                ttl_ms=YEAR_MS,
                payload=node_payload(ad),
            )
            for link in me.peers_linked():
                await me.tell(link, GossipAck((record.raw,)))


class Equivocates(Hostile):
    """Signs two ads under one sequence number, and tells half of its neighbours the one, half the other."""

    async def act(self, me: HostilePresence) -> None:
        """Contradict itself."""
        while True:
            await trio.sleep(EVERY_S)
            seq = me.book.next_seq(me.seams.now_ms())
            two = [self._signed(me, seq, name) for name in ("one", "other")]
            links = sorted(me.peers_linked(), key=lambda link: link.node)
            for link, record in zip(links, cycle(two), strict=False):
                await me.tell(link, GossipAck((record.raw,)))

    def _signed(self, me: HostilePresence, seq: int, name: str) -> Record:
        ad = NodeAd(name=name, static_key=me.identity.static_public, addresses=me.addresses)
        return make_record(
            me.signer,
            RecordType.NODE,
            seq=seq,
            issued_ms=me.seams.now_ms(),
            ttl_ms=AD_TTL_MS,
            payload=node_payload(ad),
        )


# --- Bad relays ---


class DropsRelayed(Hostile):
    """Takes circuits to carry, and lets everything in them disappear."""

    async def circuit(
        self, me: HostilePresence, stream: Stream, opening: Open, honest: HonestCircuit
    ) -> None:
        """Read, and say nothing."""
        if not _passes_through(opening):
            await honest(stream)
            return
        while await stream.receive() is not None:
            pass


class BendsRelayed(Hostile):
    """Carries circuits and changes what goes through: flips a bit of every payload after the first `spared`."""

    def __init__(self, spared: int = 2) -> None:
        self.spared = spared

    async def circuit(
        self, me: HostilePresence, stream: Stream, opening: Open, honest: HonestCircuit
    ) -> None:
        """Carry it, bent."""
        bent = _Bent(stream, self) if _passes_through(opening) else stream
        await honest(cast(Stream, bent))

    def bend(self, payload: bytes, number: int) -> bytes | None:
        """What becomes of a payload, the so-manieth on its way; None ends the circuit as if it were over."""
        return payload if number < self.spared else payload[:-1] + bytes([payload[-1] ^ 1])


class TruncatesRelayed(BendsRelayed):
    """Carries circuits, and ends them cleanly after `spared` payloads, as if there were nothing more."""

    def bend(self, payload: bytes, number: int) -> bytes | None:
        """Nothing, after those."""
        return payload if number < self.spared else None


class _Bent:
    """A stream of which what is sent passes through `bend`; all else is the stream's own."""

    def __init__(self, stream: Stream, bends: BendsRelayed) -> None:
        self._stream = stream
        self._bends = bends
        self._sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send(self, payload: bytes, end: bool = False) -> None:
        """As `Stream.send`, of what becomes of the payload."""
        bent = self._bends.bend(payload, self._sent)
        self._sent += 1
        if bent is None:
            self._stream.reset(ResetCode.CANCEL)
            raise StreamLost(ResetCode.CANCEL)
        await self._stream.send(bent, end)


def _passes_through(opening: Open) -> bool:
    return opening.position + 1 < len(opening.route)


# --- Lies about models ---


class AnswersWithAnotherModel(Hostile):
    """Advertises a model, and answers with another one, or with a worse copy."""

    async def act(self, me: HostilePresence) -> None:
        """Exchange what its scripted engines write."""
        for engine in me.engines:
            if isinstance(engine, ScriptedEngine):
                engine.voice = "another model"


# --- Silence and floods ---


class NeverAnswers(Hostile):
    """Keeps its links up, answers pings, and no request at all."""

    async def answer(
        self, me: HostilePresence, link: Link, message: Message, honest: HonestAnswer
    ) -> Message | None:
        """Never."""
        await trio.sleep_forever()


class Floods(Hostile):
    """Sends one thing to each neighbour, `per_s` times a second; a subclass says what."""

    def __init__(self, per_s: int = 50) -> None:
        self.per_s = per_s

    async def act(self, me: HostilePresence) -> None:
        """Flood."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(1 / self.per_s)
                for link in me.peers_linked():
                    nursery.start_soon(self._one, me, link)

    async def _one(self, me: HostilePresence, link: Link) -> None:
        try:
            await self.one(me, link)
        except (StreamLost, MeshError):
            return

    async def one(self, me: HostilePresence, link: Link) -> None:
        """One drop of it."""
        raise NotImplementedError


class FloodsStores(Floods):
    """Stores its own ad with everybody."""

    async def one(self, me: HostilePresence, link: Link) -> None:
        """One STORE."""
        for record in me.book.of(me.book.own):
            for key in me.keys_for(record):
                await link.request(DhtStore(key, record.raw))


class FloodsStreams(Floods):
    """Opens asks and never says what it asks."""

    async def one(self, me: HostilePresence, link: Link) -> None:
        """One stream."""
        await link.open(Open(KIND_ASK))
        await trio.sleep_forever()


class FloodsCircuits(Floods):
    """Lays circuits through everybody to everybody, and leaves them open."""

    async def one(self, me: HostilePresence, link: Link) -> None:
        """One circuit."""
        others = [other.node for other in me.peers_linked() if other.node != link.node]
        if others:
            route = (link.node, me.seams.rng.choice(others))
            opening = Open(KIND_CIRCUIT, route, request=me.seams.entropy(8), origin=me.book.own)
            await link.open(opening)
            await trio.sleep_forever()

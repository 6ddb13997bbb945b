"""Gossip over links: rounds in which this node's book and its neighbours' come to agree. It decides nothing.

What is believed, and what is handed on, is the book's matter (`meshnode.mesh.book`); this limb carries
digests and deltas. A round a second with three peers, jittered, since rounds in step make herds; an exchange
at once when a link opens; and at once again after one that was cut short by its budget.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog
import trio

from meshnode.errors import MeshError, NotAllowed
from meshnode.mesh.book import DELTA_BUDGET_BYTES, NOTHING, Merged, RecordBook, Refused
from meshnode.mesh.digest import DIGEST_PAGE, within
from meshnode.net.rumours import Rumours, news_of
from meshnode.net.traffic import Traffic
from meshnode.seams import Seams
from meshwire.digests import PREFIX_BYTES, Version, pack_digest, unpack_digest
from meshwire.ids import NodeId, to_text
from meshwire.limits import CONTROL_FRAME_MAX, RECORD_MAX
from meshwire.messages import GossipAck, GossipSyn, GossipSynAck, RecordGet, RecordGot
from meshwire.numbers import Message
from meshwire.records import RecordType

log = structlog.get_logger("meshnode.net.gossip")

ROUND_S = 1.0
JITTER = 0.3
PEERS_PER_ROUND = 3
EXCHANGES_MAX = 16  # in one go, with a peer that has much to tell
REQUEST_S = 3.0
RECALL_S = 30.0
NUDGE_S = 0.1  # how soon after a nudge a round may come
WORTH_A_WARNING = frozenset({Refused.MALFORMED, Refused.EQUIVOCATION})


class GossipLink(Protocol):
    """What gossip needs of a link."""

    @property
    def node(self) -> NodeId:
        """The other end."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it is still up."""
        ...

    @property
    def initiator(self) -> bool:
        """Whether this end dialled."""
        ...

    async def request(self, message: Message, timeout_s: float = REQUEST_S) -> Message:
        """Ask; raises MeshError."""
        ...

    async def notify(self, message: Message) -> None:
        """Tell; raises MeshError."""
        ...


OnMerged = Callable[[Merged, NodeId], None]


class Gossip:
    """One node's gossip.

    `links` gives the links that are open now; `on_merged` hears what every batch brought, and from whom.
    """

    def __init__(
        self,
        book: RecordBook,
        links: Callable[[], Sequence[GossipLink]],
        seams: Seams,
        *,
        on_merged: OnMerged | None = None,
    ) -> None:
        self._book = book
        self._links = links
        self._seams = seams
        self._on_merged = on_merged
        self.traffic = Traffic()
        self._rumours = Rumours(book, links, seams.rng, self.traffic)
        self._busy: set[NodeId] = set()
        self._news = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Gossip until cancelled."""
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._rumours.run)
            while True:
                now = trio.current_time()
                self._book.expire(now)
                self._book.recalling = now - started < RECALL_S
                for link in self._chosen():
                    nursery.start_soon(self.exchange, link)
                await self._until_next_round()

    def opened(self, link: GossipLink, *, newcomer: bool = False) -> None:
        """A link has opened: exchange with it at once.

        Whoever has dialled begins it. The other end hears without asking who this node is; a newcomer, who has
        nothing, all that fits.
        """
        if self._nursery is not None:
            self._nursery.start_soon(self._greet, link, newcomer)
            if link.initiator:
                self._nursery.start_soon(self.exchange, link)

    async def farewell(self, link: GossipLink) -> None:
        """Tell the other end at once what this node said last: that it leaves."""
        await self._greet(link, newcomer=False)

    async def _greet(self, link: GossipLink, newcomer: bool) -> None:
        book, now = self._book, trio.current_time()
        greeting = GossipAck(book.deltas_for([], now=now)) if newcomer else news_of(book, {book.own: 0}, now)
        try:
            if greeting.deltas:
                await link.notify(self.traffic.sent(greeting))
        except MeshError as error:
            log.debug("gossip.ungreeted", peer=to_text(link.node), error=str(error))

    def nudge(self) -> None:
        """Something changed here that others should hear of before the next round is due."""
        self._rumours.stir()
        self._news.set()

    async def exchange(self, link: GossipLink) -> None:
        """Bring both books to agree, as far as `EXCHANGES_MAX` messages go. A link lost meanwhile ends it."""
        if link.node in self._busy:
            return
        self._busy.add(link.node)
        before: list[Version] | None = None
        try:
            for _ in range(EXCHANGES_MAX):
                theirs, more = await self._exchange_once(link)
                if not more or theirs == before or not link.alive:
                    break
                before = theirs
        except MeshError as error:
            log.debug("gossip.broken", peer=to_text(link.node), error=str(error))
        finally:
            self._busy.discard(link.node)

    async def answer(self, link: GossipLink, message: Message) -> Message:
        """The reply to a request of gossip's: GossipSyn or RecordGet."""
        match self.traffic.received(message):
            case GossipSyn(digest=digest):
                return self.traffic.sent(self._syn_ack(digest))
            case RecordGet() as wanted:
                return self.traffic.sent(self._record_got(wanted))
        raise NotAllowed(f"Gossip does not answer {type(message).__name__}.")

    async def notice(self, link: GossipLink, message: Message) -> None:
        """Take a GossipAck."""
        if isinstance(message, GossipAck):
            self.traffic.received(message)
            self._merge(message.deltas, link.node, dict(unpack_digest(message.follows)))

    async def _exchange_once(self, link: GossipLink) -> tuple[list[Version], bool]:
        """One round trip: where the other end differs, and whether a budget cut either side short."""
        start = self._seams.rng.randbytes(PREFIX_BYTES) if self._book.owners > DIGEST_PAGE else b""
        ours = self._book.digest(start)
        syn = GossipSyn(pack_digest(ours), self._seams.now_ms())
        reply = self.traffic.received(await link.request(self.traffic.sent(syn), REQUEST_S))
        if not isinstance(reply, GossipSynAck):
            raise NotAllowed("The peer answered gossip with something else.")
        merged = self._merge(reply.deltas, link.node)
        theirs = unpack_digest(reply.digest)
        self._book.notice_versions(theirs, self._seams.now_ms())
        # What the reply does not name is as this node said, which only of itself may be less than it has.
        own = [version for version in ours if self._book.own.startswith(version[0])]
        known = list(dict([*own, *theirs]).items())
        owed = self._book.deltas_for(known, now=trio.current_time(), named_only=True)
        if owed:
            await link.notify(self.traffic.sent(GossipAck(owed)))
        return theirs, (bool(merged) and _cut_short(reply.deltas)) or _cut_short(owed)

    def _syn_ack(self, digest: bytes) -> GossipSynAck:
        theirs = unpack_digest(digest)
        self._book.notice_versions(theirs, self._seams.now_ms())
        deltas = self._book.deltas_for(theirs, now=trio.current_time())
        return GossipSynAck(pack_digest(self._book.differences(theirs)), deltas)

    def _record_got(self, wanted: RecordGet) -> RecordGot:
        """The record asked for, after the certificates that it takes to believe it."""
        owner = NodeId(wanted.owner)
        if wanted.type not in RecordType._value2member_map_:
            return RecordGot()
        record = self._book.get(owner, RecordType(wanted.type), wanted.name)
        if record is None:
            return RecordGot()
        certificates = self._book.certificates_of(owner)
        issuers = [one for mine in certificates for one in self._book.certificates_of(mine.owner)]
        raws = dict.fromkeys(one.raw for one in (*issuers, *certificates, record))
        return RecordGot(tuple(within(CONTROL_FRAME_MAX - RECORD_MAX, raws)))

    def _merge(
        self, deltas: tuple[bytes, ...], sender: NodeId, follows: Mapping[bytes, int] = NOTHING
    ) -> Merged:
        merged = self._book.merge(
            deltas, now=trio.current_time(), wall_ms=self._seams.now_ms(), sender=sender, follows=follows
        )
        self._rumours.stir(sender)
        for refusal in merged.refused:
            if refusal.reason in WORTH_A_WARNING:
                owner = refusal.record.owner if refusal.record is not None else sender
                log.warning(
                    "gossip.refused", reason=refusal.reason, owner=to_text(owner), peer=to_text(sender)
                )
        if self._on_merged is not None and (merged.accepted or merged.refused):
            self._on_merged(merged, sender)
        return merged

    def _chosen(self) -> list[GossipLink]:
        """This round's peers: one link for each, drawn by lot."""
        by_node = {link.node: link for link in self._links() if link.alive and link.node not in self._busy}
        links = list(by_node.values())
        return self._seams.rng.sample(links, min(PEERS_PER_ROUND, len(links)))

    async def _until_next_round(self) -> None:
        wait_s = ROUND_S * (1 + JITTER * (2 * self._seams.rng.random() - 1))
        with trio.move_on_after(wait_s):
            await trio.sleep(NUDGE_S)
            await self._news.wait()
        self._news = trio.Event()


def _cut_short(deltas: tuple[bytes, ...]) -> bool:
    """Whether the budget, rather than the end of the news, stopped these."""
    return sum(map(len, deltas)) > DELTA_BUDGET_BYTES - RECORD_MAX

"""News, passed on at once: who a node hears of for the first time, its neighbours hear of a moment later.

Rounds would take it through a mesh as well, in seconds; this is for what changes who is there. It decides nothing:
what is news is the book's matter (`meshnode.mesh.book`), and whoever knows it already does not pass it on, so that
it ends by itself.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
import trio

from meshnode.errors import MeshError
from meshnode.mesh.book import DELTA_BUDGET_BYTES, RecordBook
from meshnode.net.traffic import Traffic
from meshnode.seams import Rng
from meshwire.digests import PREFIX_BYTES, Version, pack_digest
from meshwire.ids import NodeId, to_text
from meshwire.messages import GossipAck
from meshwire.numbers import Message

log = structlog.get_logger("meshnode.net.rumours")

GATHER_S = 0.05  # news that come together go out together
TOLD = 8  # neighbours who are told, drawn by lot; what they do not pass on to the others, rounds do


class Told(Protocol):
    """What this needs of a link."""

    @property
    def node(self) -> NodeId:
        """The other end."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it is still up."""
        ...

    async def notify(self, message: Message) -> None:
        """Tell; raises MeshError."""
        ...


class Rumours:
    """One node's passing on of news. `links` gives the links that are open now; `traffic` counts what goes out."""

    def __init__(
        self, book: RecordBook, links: Callable[[], Sequence[Told]], rng: Rng, traffic: Traffic
    ) -> None:
        self._book = book
        self._links = links
        self._rng = rng
        self._traffic = traffic
        self._waiting: dict[NodeId, tuple[int, NodeId | None]] = {}
        self._news = trio.Event()

    def stir(self, sender: NodeId | None = None) -> None:
        """The book may have news, from `sender` if from anybody."""
        for owner, follows in self._book.take_news().items():
            self._waiting.setdefault(owner, (follows, sender))
        if self._waiting:
            self._news.set()

    async def run(self) -> None:
        """Pass on what comes, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._news.wait()
                await trio.sleep(GATHER_S)
                self._news = trio.Event()
                waiting, self._waiting = self._waiting, {}
                for link in self._chosen():
                    nursery.start_soon(self._tell, link, waiting)

    def _chosen(self) -> list[Told]:
        links = [link for link in self._links() if link.alive]
        return self._rng.sample(links, min(TOLD, len(links)))

    async def _tell(self, link: Told, waiting: dict[NodeId, tuple[int, NodeId | None]]) -> None:
        news = {owner: follows for owner, (follows, sender) in waiting.items() if sender != link.node}
        ack = news_of(self._book, news, trio.current_time())
        try:
            if ack.deltas:
                await link.notify(self._traffic.sent(ack))
        except MeshError as error:
            log.debug("rumours.lost", peer=to_text(link.node), error=str(error))


def news_of(book: RecordBook, news: dict[NodeId, int], now: float) -> GossipAck:
    """The records of these owners above the versions named, as far as one message goes; rounds bring the rest."""
    deltas: list[bytes] = []
    follows: list[Version] = []
    room = DELTA_BUDGET_BYTES
    for owner, version in news.items():
        raws = [record.raw for record in book.above(owner, version, now)]
        room -= sum(map(len, raws))
        if room < 0:
            break
        if raws:
            deltas += raws
            follows.append((owner[:PREFIX_BYTES], version))
    return GossipAck(tuple(deltas), pack_digest(follows))

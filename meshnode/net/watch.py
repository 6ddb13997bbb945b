"""The watch over links: probes, questions to third nodes, accusations and denials on their way. It decides nothing.

Whom to doubt is `mesh.watching`'s to say, who is dead `mesh.liveness`'s.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import structlog
import trio

from meshnode.errors import MeshError, NotAllowed
from meshnode.mesh.book import Merged, RecordBook
from meshnode.mesh.liveness import Accusations, Word
from meshnode.mesh.vitals import read_vitals
from meshnode.mesh.watching import RTT_MOST_S, Lookout, Sight, answers_needed, is_live, own_fault
from meshnode.net.link import Link
from meshnode.net.neighbours import Neighbours
from meshnode.seams import Seams
from meshwire import accusing
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId, node_id, to_text
from meshwire.limits import PROBE_S, REFUTE_EVERY_S
from meshwire.messages import Accuse, Pinged, PingReq, Refute
from meshwire.records import RecordType
from meshwire.signing import Signer

log = structlog.get_logger("meshnode.net.watch")
JITTER = 0.1
ASKED = 12  # nodes that are asked whether they hear another
ASK_S = 3.0  # besides two round trips, as far as those are no stalls
ASK_LEAST_S = 1.5  # until then somebody may still say that it does
ANSWER_S = 0.7  # how long one who is asked, and does not watch that node itself, listens before it answers no
LISTEN_EVERY_S = 0.1
RTT_UNKNOWN_S = 0.25
SUSPECTS_TOLD = 4  # in each look
TOLD_OFTEN_S = 10.0  # one that has been accused for longer is told of now and then: one of those in each look
NEIGHBOURS_TOLD = 2
GATHER_S = 0.1  # news within this leave together: when a mesh is parted, each node hears hundreds at once
SHOWN_MAX = 1024


@dataclass(frozen=True, slots=True)
class Ties:
    """What the watch needs of the node.

    `links` gives every link; `is_member` whether a key counts; `merge` takes records that came from a node;
    `sign_vitals` signs fresh ones; `changed` hears that somebody is dead, or is not any more.
    """

    signer: Signer
    mesh: bytes
    links: Callable[[], Sequence[Link]]
    is_member: Callable[[bytes], bool]
    merge: Callable[[tuple[bytes, ...], NodeId], Merged]
    sign_vitals: Callable[[], bytes]
    changed: Callable[[], None]


class Watch:
    """One node's watch over its neighbours."""

    def __init__(self, book: RecordBook, ties: Ties, seams: Seams) -> None:
        self._book = book
        self._ties = ties
        self._seams = seams
        self._neighbours = Neighbours(ties.links, seams.rng)
        self._words: dict[NodeId, tuple[bytes, Word | None]] = {}
        self._accusations = Accusations(self._word_of)
        self._lookout = Lookout(trio.current_time())
        self._lost: dict[NodeId, float] = {}
        self._asking: dict[NodeId, None] = {}
        self._shown_at: dict[tuple[NodeId, NodeId], float] = {}
        self._ahead: dict[NodeId, None] = {}  # those whose denial came here before any accusation
        self._refuted_at = -REFUTE_EVERY_S
        self._denied_seq = -1
        self._shown_seq = -1
        self._dead: tuple[NodeId, ...] = ()
        self._news = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._tell_news)
            while True:
                self._look(trio.current_time())
                await trio.sleep(PROBE_S * (1 + JITTER * (2 * self._seams.rng.random() - 1)))

    def dead(self) -> frozenset[NodeId]:
        """The nodes that are dead, by what is known now. A link that answers outweighs every accusation."""
        suspects = self._accusations.suspects()
        if not suspects:
            return frozenset()
        return self._dead_of(suspects, self._sights(), trio.current_time())

    def lost(self, link: Link) -> None:
        """A link is gone; a watcher that has no other asks around at once."""
        if link.node not in self._sights():
            self._lost[link.node] = trio.current_time()

    async def answer(self, link: Link, message: PingReq) -> Pinged:
        """Whether this node hears another, which it probes to find out."""
        target = NodeId(message.target)
        if target == link.node:
            raise NotAllowed("A node is not asked about itself.")
        with trio.move_on_after(ANSWER_S):
            while (sight := self._sights().get(target)) is not None:
                if trio.current_time() - sight.heard_at <= PROBE_S:
                    return Pinged(True)
                if self._watches(target) and not is_live(sight, trio.current_time()):
                    return Pinged(False)
                self._probe((target,))
                await trio.sleep(LISTEN_EVERY_S)
        return Pinged(False)

    async def notice(self, link: Link, message: Accuse | Refute) -> None:
        """Take an accusation or a denial, and hand on what is news."""
        if isinstance(message, Refute):
            self._refuted(link, message)
        elif message.accused == self._book.own:
            self._accused(link, message)
        elif self._is_outdated(message):
            self._show(link, NodeId(message.accused), trio.current_time())
            self._catch_up(link, message)
        else:
            if self._accusations.is_news(message) and self._is_signed(message):
                self._accusations.take(message, trio.current_time())
                self._probe((NodeId(message.accused),))
                self._news.set()
            self._accusations.told_by(message, link.node)

    # --- Looking ---

    def _look(self, now: float) -> None:
        sights = self._sights()
        self._accusations.forget_denied()
        seen = self._lookout.look(self._watched(sights), now)
        self._probe(seen.quiet)
        for node in seen.doubted:
            self._ask_about(node)
        self._pass_on()
        self._tell_suspects(sights, now)
        self._deny(now)
        self._note_dead(sights, now)

    def _sights(self) -> dict[NodeId, Sight]:
        """Every member with a live link."""
        sights: dict[NodeId, Sight] = {}
        for link in self._ties.links():
            if link.alive and not link.joining:
                sight, known = self._sight(link), sights.get(link.node)
                if known is None or sight.heard_at > known.heard_at:
                    sights[link.node] = sight
        return sights

    @staticmethod
    def _sight(link: Link) -> Sight:
        return Sight(link.heard_at, RTT_UNKNOWN_S if link.rtt_ms is None else link.rtt_ms / 1000)

    def _watched(self, sights: dict[NodeId, Sight]) -> dict[NodeId, Sight]:
        """Those whose vitals name this node; also after their links are lost, until they sign others."""
        self._lost = {
            node: at for node, at in self._lost.items() if node not in sights and self._watches(node)
        }
        lost = {node: Sight(at, RTT_UNKNOWN_S, linked=False) for node, at in self._lost.items()}
        return {node: sight for node, sight in sights.items() if self._watches(node)} | lost

    def _watches(self, node: NodeId) -> bool:
        word = self._word_of(node)
        return word is not None and self._book.own in word.watchers

    def _word_of(self, node: NodeId) -> Word | None:
        """What a node's vitals say, read once."""
        record = self._book.get(node, RecordType.VITALS)
        if record is None:
            self._words.pop(node, None)
            return None
        known = self._words.get(node)
        if known is None or known[0] is not record.raw:
            try:
                watchers = frozenset(NodeId(one.node) for one in read_vitals(record).neighbours)
                known = self._words[node] = (record.raw, Word(record.seq, watchers))
            except RemoteWireError:
                known = self._words[node] = (record.raw, None)
        return known[1]

    def _probe(self, nodes: Collection[NodeId]) -> None:
        for link in self._ties.links() if nodes else ():
            if link.node in nodes and not link.joining:
                link.probe()

    # --- Doubting ---

    def _ask_about(self, node: NodeId) -> None:
        """Ask others, unless that is going on, or this node or enough others have accused it already."""
        accusers = [node_id(one.accuser) for one in self._accusations.against(node)]
        if (
            node not in self._asking
            and self._book.own not in accusers
            and not self._accusations.settled(node)
        ):
            self._asking[node] = None
            self._start(self._inquire, node)

    async def _inquire(self, node: NodeId) -> None:
        try:
            heard = await self._others_hear(node)
            if heard:
                self._lookout.vouched(node, trio.current_time())
            elif heard is False:
                self._accuse(node)
        finally:
            del self._asking[node]

    async def _others_hear(self, node: NodeId) -> bool | None:
        """Whether one of the neighbours, drawn by lot, hears a node; None if too few of them say anything.

        Then this node's own links are to blame, as Lifeguard has it.
        """
        now = trio.current_time()
        live = [
            link for link in self._neighbours.links() if link.node != node and is_live(self._sight(link), now)
        ]
        chosen = self._seams.rng.sample(live, min(ASKED, len(live)))
        answers: list[bool] = []
        async with trio.open_nursery() as nursery:

            def stop_if_enough() -> None:
                waited = trio.current_time() >= now + ASK_LEAST_S
                needed = answers_needed(len(chosen)) if waited else len(chosen)
                if any(answers) or len(answers) >= needed:
                    nursery.cancel_scope.cancel()

            async def ask(link: Link) -> None:
                with suppress(MeshError):
                    patience_s = ASK_S + 2 * min(self._sight(link).rtt_s, RTT_MOST_S)
                    reply = await link.request(PingReq(node), patience_s)
                    answers.append(isinstance(reply, Pinged) and reply.alive)
                    stop_if_enough()

            for link in chosen:
                nursery.start_soon(ask, link)
            await trio.sleep(ASK_LEAST_S)
            stop_if_enough()
        return True if any(answers) else None if len(answers) < answers_needed(len(chosen)) else False

    def _accuse(self, node: NodeId) -> None:
        """Sign that a node is not heard, unless it was while others were asked."""
        word, sight = self._word_of(node), self._sights().get(node)
        now = trio.current_time()
        if word is None or not self._watches(node) or (sight is not None and is_live(sight, now)):
            return
        message = accusing.accuse(self._ties.signer, self._ties.mesh, node, word.seq)
        if self._accusations.is_news(message):
            log.info("peer accused", peer=to_text(node))
            self._accusations.take(message, now)
            self._pass_on()

    def _dead_of(
        self, suspects: Sequence[NodeId], sights: dict[NodeId, Sight], now: float
    ) -> frozenset[NodeId]:
        silent = [node for node in suspects if (seen := sights.get(node)) is None or not is_live(seen, now)]
        rtt_s = median([one.rtt_s for one in sights.values()] or [RTT_UNKNOWN_S]) if silent else 0.0
        is_dead = self._accusations.is_dead
        return frozenset(node for node in silent if is_dead(node, now, rtt_s, own_fault(sights, node, now)))

    def _note_dead(self, sights: dict[NodeId, Sight], now: float) -> None:
        dead = tuple(sorted(self._dead_of(self._accusations.suspects(), sights, now)))
        if dead != self._dead:
            log.info("dead peers", peers=[to_text(node) for node in dead])
            self._dead = dead
            self._ties.changed()

    # --- Accusations and denials on their way ---

    def _is_signed(self, message: Accuse) -> bool:
        """Whether a member signed it; who is a watcher, `is_news` has seen."""
        if not self._ties.is_member(message.accuser):
            return False
        try:
            accusing.check(message, self._ties.mesh, self._seams.verify)
        except RemoteWireError:
            log.warning("accusation refused", accuser=to_text(node_id(message.accuser)))
            return False
        return True

    async def _tell_news(self) -> None:
        while True:
            await self._news.wait()
            await trio.sleep(GATHER_S)
            self._news = trio.Event()
            self._pass_on()

    def _pass_on(self) -> None:
        """Tell neighbours what is news, each of them all of it at once."""
        links, told = self._neighbours.links(), dict[Link, list[Accuse]]()
        for message, knowers in self._accusations.to_pass():
            for link in self._neighbours.unaware(links, knowers):
                told.setdefault(link, []).append(message)
        for link, messages in told.items():
            link.post(*messages)

    def _tell_suspects(self, sights: dict[NodeId, Sight], now: float) -> None:
        """Tell a few suspects again, or else neighbours: some may know newer vitals, and show them."""
        live = [link for link in self._neighbours.links() if is_live(sights[link.node], now)]
        for node in self._suspects_to_tell(now):
            self._probe((node,))
            message = self._accusations.against(node)[0]
            itself = [link for link in live if link.node == node]
            for link in itself or self._seams.rng.sample(live, min(NEIGHBOURS_TOLD, len(live))):
                link.post(message)

    def _suspects_to_tell(self, now: float) -> list[NodeId]:
        lately, all_ = self._accusations.suspects(now - TOLD_OFTEN_S), self._accusations.suspects()
        old = [node for node in all_ if node not in lately]
        rng = self._seams.rng
        return rng.sample(lately, min(SUSPECTS_TOLD, len(lately))) + rng.sample(old, min(1, len(old)))

    def _accused(self, link: Link, message: Accuse) -> None:
        """This node is accused: it denies it to all, or shows them what it has said since, and who lags behind."""
        word, now = self._word_of(self._book.own), trio.current_time()
        if self._is_outdated(message):
            self._show(link, self._book.own, now)
            self._show_all(now)
        elif word is not None and message.seq == word.seq and self._may_accuse(message, word):
            self._denied_seq = word.seq
            self._deny(now)

    def _may_accuse(self, message: Accuse, word: Word) -> bool:
        return node_id(message.accuser) in word.watchers and self._is_signed(message)

    def _is_outdated(self, message: Accuse) -> bool:
        """Whether the accused has signed vitals since."""
        word = self._word_of(NodeId(message.accused))
        return word is not None and message.seq < word.seq

    def _show(self, link: Link, node: NodeId, now: float) -> None:
        """Show newer vitals of an accused node to whoever lags behind, now and then."""
        shown = {key: at for key, at in self._shown_at.items() if now - at < REFUTE_EVERY_S}
        self._shown_at = shown
        record = self._book.get(node, RecordType.VITALS)
        if record is not None and (link.node, node) not in shown and len(shown) < SHOWN_MAX:
            shown[link.node, node] = now
            link.post(Refute(record.raw))

    def _show_all(self, now: float) -> None:
        """Show all neighbours this node's vitals, each of them once: rounds may take too long to bring them."""
        record = self._book.get(self._book.own, RecordType.VITALS)
        unseen = record is not None and record.seq > self._shown_seq
        if record is not None and unseen and now - self._refuted_at >= REFUTE_EVERY_S:
            self._refuted_at, self._shown_seq = now, record.seq
            self._neighbours.tell_all(Refute(record.raw))

    def _deny(self, now: float) -> None:
        """Sign vitals newer than those accused, if that was not done a moment ago, and show them to all."""
        word = self._word_of(self._book.own)
        accused = word is not None and self._denied_seq == word.seq
        if accused and now - self._refuted_at >= REFUTE_EVERY_S:
            self._refuted_at = now
            self._neighbours.tell_all(Refute(self._ties.sign_vitals()))

    def _refuted(self, link: Link, message: Refute) -> None:
        """Vitals came; they go on to where the accusation has been, at once or when it comes here."""
        for record in self._ties.merge((message.record,), link.node).accepted:
            if self._accusations.concern(record.owner):
                self._neighbours.hand_on(message, link.node)
            else:
                self._ahead[record.owner] = None
                for oldest in list(self._ahead)[:-SHOWN_MAX]:
                    del self._ahead[oldest]

    def _catch_up(self, link: Link, message: Accuse) -> None:
        """Send a denial after an accusation that it has overtaken: others may have heard that alone."""
        accused = NodeId(message.accused)
        record = self._book.get(accused, RecordType.VITALS)
        if accused in self._ahead and record is not None and self._is_signed(message):
            del self._ahead[accused]
            self._neighbours.hand_on(Refute(record.raw), link.node)

    def _start(self, work: Callable[..., object], *args: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(work, *args)  # type: ignore[arg-type]

"""What this node says of itself: signs its ads and vitals when they are due and puts them in the book."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from meshnode.engine.base import Engine, EngineState
from meshnode.mesh.ads import (
    AD_REFRESH_S,
    AD_TTL_MS,
    TOMBSTONE_TTL_MS,
    NodeAd,
    model_ad,
    model_payload,
    node_payload,
)
from meshnode.mesh.book import RecordBook
from meshnode.mesh.vitals import (
    VITALS_TTL_MS,
    Vitals,
    best_neighbours,
    should_resign,
    vitals_payload,
)
from meshnode.seams import Seams
from meshnode.serve.local import Bench
from meshnode.terms import ModelCard
from meshnode.trust.audit import Point
from meshwire.records import Record, RecordType
from meshwire.signing import Signer

LOOK_EVERY_S = 1.0
RTT_UNMEASURED_MS = 100.0


class Publisher:
    """Keeps this node's own records in the book true and fresh."""

    def __init__(
        self,
        book: RecordBook,
        signer: Signer,
        seams: Seams,
        bench: Bench,
        *,
        node_ad: Callable[[], NodeAd],
        rtts_ms: Callable[[], dict[Any, float | None]],
        keep_seq: Callable[[int], Awaitable[None]],
        on_ads: Callable[[], None],
        on_signed: Callable[[], None],
        incarnation: int,
        price_usd: float = 0.0,
        audit_end: Callable[[], Point] = Point,
    ) -> None:
        self._book = book
        self._signer = signer
        self._seams = seams
        self._bench = bench
        self._node_ad = node_ad
        self._rtts_ms = rtts_ms
        self._keep_seq = keep_seq
        self._on_ads = on_ads
        self._on_signed = on_signed
        self._incarnation = incarnation
        self._price_usd = price_usd
        self._audit_end = audit_end
        self._cards: dict[Engine, tuple[ModelCard, ...]] = {}
        self._signed_ads_at = -AD_REFRESH_S
        self._signed_ads: tuple[NodeAd, dict[str, ModelCard]] | None = None
        self._vitals: Vitals | None = None
        self._signed_vitals_at = 0.0
        self._wake = trio.Event()
        self._kept_seq = 0
        self._left = False

    def nudge(self) -> None:
        """Something changed: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Look at every change and every second, until cancelled."""
        while True:
            self._wake = trio.Event()
            if not self._left:
                self._publish_ads()
                self._publish_vitals()
            if self._book.last_seq != self._kept_seq:
                self._kept_seq = self._book.last_seq
                await self._keep_seq(self._kept_seq)
                self._on_signed()
            with trio.move_on_after(LOOK_EVERY_S):
                await self._wake.wait()

    def leave(self) -> None:
        """Sign that this node leaves, which ends all that it said; it says nothing after that."""
        if not self._left:
            self._left = True
            self._sign(RecordType.TOMBSTONE, {}, TOMBSTONE_TTL_MS)
            self.nudge()

    def sign_vitals(self) -> bytes:
        """Fresh vitals, whether they are due or not: somebody says that this node is dead."""
        self._vitals, self._signed_vitals_at = self._current_vitals(), trio.current_time()
        self.nudge()
        return self._sign(RecordType.VITALS, vitals_payload(self._vitals), VITALS_TTL_MS).raw

    def current_cards(self) -> dict[str, ModelCard]:
        """The models to offer to others, by name; those of an engine that is restarting stay."""
        self._cards = {engine: self._cards_of(engine) for engine in self._bench.engines}
        return {card.name: card for cards in self._cards.values() for card in cards}

    def _cards_of(self, engine: Engine) -> tuple[ModelCard, ...]:
        if not self._bench.open_to_others(engine):
            return ()
        restarting = engine.state is EngineState.LOADING and not engine.cards
        return self._cards.get(engine, ()) if restarting else engine.cards

    def _publish_ads(self) -> None:
        now = trio.current_time()
        ads = (self._node_ad(), self.current_cards())
        if ads == self._signed_ads and now - self._signed_ads_at < AD_REFRESH_S and not self._book.outrun:
            return
        if self._signed_ads is not None and self._signed_ads[1].keys() - ads[1].keys():
            self._sign(RecordType.TOMBSTONE, {}, TOMBSTONE_TTL_MS)  # ends them all; the others follow anew
        self._signed_ads, self._signed_ads_at = ads, now
        self._sign(RecordType.NODE, node_payload(ads[0]), AD_TTL_MS)
        for card in ads[1].values():
            self._sign(RecordType.MODEL, model_payload(model_ad(card, price_usd=self._price_usd)), AD_TTL_MS)
        self._vitals = None  # they name the newest ad
        self._on_ads()

    def _publish_vitals(self) -> None:
        now, vitals = trio.current_time(), self._current_vitals()
        mesh_size = self._book.owners
        if should_resign(
            self._vitals, vitals, now=now, last_signed=self._signed_vitals_at, mesh_size=mesh_size
        ):
            self._vitals, self._signed_vitals_at = vitals, now
            self._sign(RecordType.VITALS, vitals_payload(vitals), VITALS_TTL_MS)

    def _current_vitals(self) -> Vitals:
        gate = self._bench.gate
        loads = [gate.load(engine) for engine in self._bench.engines]
        rtts = {node: RTT_UNMEASURED_MS if rtt is None else rtt for node, rtt in self._rtts_ms().items()}
        named = {one.node for one in self._vitals.neighbours} if self._vitals is not None else ()
        ad, audit = self._book.get(self._book.own, RecordType.NODE), self._audit_end()
        return Vitals(
            in_flight=sum(load.in_flight for load in loads),
            slots=sum(load.slots for load in loads),
            queued_prefill=sum(load.queued_prefill for load in loads),
            queued_decode=sum(load.queued_decode for load in loads),
            free_memory_bytes=self._seams.free_memory_bytes(),
            neighbours=best_neighbours(rtts, named),
            ads_version=ad.seq if ad is not None else 0,
            accepting=gate.openness.takes_others,
            admission=gate.openness,
            incarnation=self._incarnation,
            audit_line=audit.n,
            audit_hash=audit.hash if audit.n else b"",
        )

    def _sign(self, kind: RecordType, payload: dict[int, object], ttl_ms: int) -> Record:
        return self._book.publish(
            self._signer,
            kind,
            payload,
            ttl_ms=ttl_ms,
            now=trio.current_time(),
            wall_ms=self._seams.now_ms(),
        )

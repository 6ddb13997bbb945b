"""The local step: run a job on one of this node's own engines, waiting for one that is still loading."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from meshnode.engine.base import Engine, EngineState
from meshnode.errors import Busy, EngineFailed
from meshnode.routing.policy import ModelWish, parse_model
from meshnode.terms import Emitted, Job

QUEUE_PER_SLOT = 4  # runs accepted for each slot before a newcomer is told to come back later


class Bench:
    """This node's engines, with a way to wait for one that loads; `expected` names the model it will have."""

    def __init__(self, engines: tuple[Engine, ...], expected: str = "") -> None:
        self.engines = engines
        self._expected = expected
        self._changed = trio.Event()
        for engine in engines:
            engine.watch(self._on_change)

    def _on_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    @property
    def loading(self) -> bool:
        """Whether an engine may yet become ready."""
        return any(engine.state is EngineState.LOADING for engine in self.engines)

    def may_bring(self, wanted: ModelWish) -> bool:
        """Whether an engine that is loading may turn out to run the model; not always can that be told."""
        told = self._expected and "/" not in self._expected and wanted.family
        return self.loading and (not told or wanted.family == parse_model(self._expected).family)

    async def settled(self) -> None:
        """Wait until no engine is loading."""
        while self.loading:
            await self._changed.wait()

    def engine_for(self, digest: bytes) -> Engine | None:
        """The ready engine that runs these weights."""
        for engine in self.engines:
            if any(card.digest == digest for card in engine.cards):
                return engine
        return None

    async def ready_engine(self, digest: bytes) -> Engine:
        """The engine that runs these weights, waited for while it loads; raises EngineFailed if it cannot."""
        while (engine := self.engine_for(digest)) is None:
            if not self.loading:
                raise EngineFailed(self._why_not(), hint="See `meshnode status` on the node that serves it.")
            await self._changed.wait()
        return engine

    def _why_not(self) -> str:
        details = "; ".join(engine.detail for engine in self.engines if engine.detail)
        return f"The engine for this model is not running. {details}".strip()

    @asynccontextmanager
    async def run(self, digest: bytes, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
        """Run a job on these weights; an engine whose queue is full raises Busy with an honest wait."""
        engine = await self.ready_engine(digest)
        refuse_when_full(engine)
        async with engine.run(job) as pieces:
            yield pieces


def queue_is_full(engine: Engine) -> bool:
    """Whether as many runs wait as the queue allows."""
    load = engine.load
    return load.in_flight >= load.slots * (1 + QUEUE_PER_SLOT)


def refuse_when_full(engine: Engine) -> None:
    """Raise Busy when the queue is full."""
    if queue_is_full(engine):
        load, wait_s = engine.load, estimated_wait_s(engine)
        raise Busy(
            f"All {load.slots} slots are taken and {load.in_flight - load.slots} requests wait.",
            hint=f"Try again in {wait_s:.0f} s.",
            retry_after_s=wait_s,
        )


def estimated_wait_s(engine: Engine) -> float:
    """Seconds until a newcomer would start, from measured speeds; at least one."""
    load, card = engine.load, engine.cards[0]
    prefill_s = load.queued_prefill / card.prompt_tps if card.prompt_tps else 0.0
    decode_s = load.queued_decode / (card.generate_tps * card.batch_gain) if card.generate_tps else 0.0
    return max(1.0, prefill_s + decode_s)

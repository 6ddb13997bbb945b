"""The local step: run a job on one of this node's own engines, waiting for one that is still loading."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from meshnode.engine.base import Engine, EngineState
from meshnode.errors import Busy, EngineFailed, NotAllowed
from meshnode.routing.policy import ModelWish, parse_model
from meshnode.serve.scopes import Scopes
from meshnode.terms import Emitted, Job

QUEUE_PER_SLOT = 4  # runs accepted for each slot before a newcomer is told to come back later


class Bench:
    """This node's engines, with a way to wait for one that loads; `expected` names the model it will have.

    `scopes` keeps apart those who must not learn of each other's prompts. Engines that are not contained work
    for other nodes only if `allow_unsandboxed` says so.
    """

    def __init__(
        self,
        engines: tuple[Engine, ...],
        scopes: Scopes,
        expected: str = "",
        *,
        allow_unsandboxed: bool = False,
    ) -> None:
        self.engines: tuple[Engine, ...] = ()
        self._scopes = scopes
        self._allow_unsandboxed = allow_unsandboxed
        self._expected: dict[Engine, str] = {}
        self._changed = trio.Event()
        self._watchers: list[Callable[[], None]] = []
        for engine in engines:
            self.add(engine, expected)

    def add(self, engine: Engine, expected: str = "") -> None:
        """One more engine."""
        self.engines = (*self.engines, engine)
        self._expected[engine] = expected
        engine.watch(self._on_change)
        self._on_change()

    def remove(self, engine: Engine) -> None:
        """One engine less; what runs on it is its own affair."""
        self.engines = tuple(one for one in self.engines if one is not engine)
        self._expected.pop(engine, None)
        self._on_change()

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call back when an engine has changed, come or gone."""
        self._watchers.append(on_change)

    def expected(self, engine: Engine) -> str:
        """The model that the settings, or whoever added it, want it to have; empty for any."""
        return self._expected.get(engine, "")

    def _on_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        for on_change in self._watchers:
            on_change()

    @property
    def contained(self) -> bool:
        """Whether there are engines, and a stranger's work could do no harm in any of them."""
        return bool(self.engines) and all(engine.posture.contained for engine in self.engines)

    def open_to_others(self, engine: Engine) -> bool:
        """Whether an engine works for other nodes: it is contained, or its owner takes the risk."""
        return self._allow_unsandboxed or engine.posture.contained

    def check_open(self, digest: bytes) -> None:
        """Raise NotAllowed when the engine that runs these weights does not work for other nodes."""
        engine = self.engine_for(digest)
        if engine is not None and not self.open_to_others(engine):
            raise NotAllowed(
                "This node runs the model without a sandbox, so it does not work for other nodes.",
                hint="Its owner can allow it: allow_unsandboxed = true, or --allow-unsandboxed.",
            )

    @property
    def loading(self) -> bool:
        """Whether an engine may yet become ready."""
        return any(engine.state is EngineState.LOADING for engine in self.engines)

    def may_bring(self, wanted: ModelWish) -> bool:
        """Whether an engine that is loading may turn out to run the model; not always can that be told."""
        return any(
            engine.state is EngineState.LOADING and _may_be(self.expected(engine), wanted)
            for engine in self.engines
        )

    async def settled(self, wanted: ModelWish | None = None) -> None:
        """Wait until no engine is loading, or none that may bring the model."""
        await self.until(lambda: not (self.may_bring(wanted) if wanted else self.loading))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that only changes with an engine."""
        while not holds():
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
    async def run(self, digest: bytes, job: Job, origin: bytes) -> AsyncIterator[AsyncIterator[Emitted]]:
        """Run a job of the node `origin` on these weights; a full engine raises Busy with an honest wait."""
        engine = await self.ready_engine(digest)
        refuse_when_full(engine)
        async with engine.run(job, self._scopes.of(origin, job)) as pieces:
            yield pieces


def _may_be(expected: str, wanted: ModelWish) -> bool:
    """Whether what is expected may be what is wanted."""
    told = expected and "/" not in expected and wanted.family
    return not told or wanted.family == parse_model(expected).family


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

"""The local step: run a job on one of this node's own engines, once that has loaded and the job's turn has come."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from meshnode.engine.base import Engine, EngineState
from meshnode.errors import EngineFailed, NotAllowed
from meshnode.routing.policy import ModelWish, parse_model
from meshnode.serve.gate import OWNER_SLOTS, Gate
from meshnode.serve.scopes import Scopes
from meshnode.terms import Emitted, Job


class Bench:
    """This node's engines, with a way to wait for one that loads; `expected` names the model it will have.

    `scopes` keeps apart those who must not learn of each other's prompts. Engines that are not contained work
    for other nodes only if `allow_unsandboxed` says so. Of each engine's slots `owner_slots` are this node's own;
    `gate` lets jobs through to the engines. `kept_for_others` tells how many places of a model are kept for others
    than the node that asks.
    """

    def __init__(
        self,
        engines: tuple[Engine, ...],
        scopes: Scopes,
        expected: str = "",
        *,
        allow_unsandboxed: bool = False,
        owner_slots: int = OWNER_SLOTS,
    ) -> None:
        self.gate = Gate(owner_slots)
        self.engines: tuple[Engine, ...] = ()
        self._scopes = scopes
        self._allow_unsandboxed = allow_unsandboxed
        self._expected: dict[Engine, str] = {}
        self.kept_for_others: Callable[[bytes, bytes], int] = lambda _digest, _origin: 0
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
        self.gate.forget(engine)
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
    async def run(
        self,
        digest: bytes,
        job: Job,
        origin: bytes,
        *,
        others: bool = False,
        on_end: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[AsyncIterator[Emitted]]:
        """Run a job of the node `origin` on these weights, in its turn; `others` says that it is not this node.

        Raises Busy, at once and with an honest time to come back, where it would have to wait too long; others' jobs
        raise Yielded when the owner wants the machine, and `on_end` hears of it at once.
        """
        self.gate.check_open(others=others)
        engine = await self.ready_engine(digest)
        card = next(card for card in engine.cards if card.digest == digest)
        scope = self._scopes.of(origin, job)
        kept = self.kept_for_others(digest, origin) if others else 0
        async with (
            self.gate.place(engine, card, job, origin, others=others, kept=kept, on_end=on_end) as place,
            engine.run(job, scope) as pieces,
        ):
            yield place.through(pieces)


def _may_be(expected: str, wanted: ModelWish) -> bool:
    """Whether what is expected may be what is wanted."""
    told = expected and "/" not in expected and wanted.family
    return not told or wanted.family == parse_model(expected).family

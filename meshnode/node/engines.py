"""The engines this node runs: those its settings ask for, and models that come and go while it runs.

A llama.cpp engine gets its model as soon as that is there. All of them share one memory budget.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from meshnode.config import Config, every_upstream
from meshnode.engine.base import Engine, EngineState
from meshnode.engine.budget import FREE_SHARE, MemoryBudget
from meshnode.engine.footprint import Shape
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.engine.sandbox import Sandbox
from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.engine.upstream.engine import UpstreamEngine
from meshnode.errors import Busy, MeshError
from meshnode.identity import secret_files
from meshnode.models.gguf import Header, read_header
from meshnode.models.pull import PullProgress, pull
from meshnode.models.signed import statement_of
from meshnode.models.store import ModelStore, StoredModel
from meshnode.models.verify import verify
from meshnode.seams import Seams
from meshnode.serve.local import Bench

log = structlog.get_logger("meshnode.node")


@dataclass(eq=False)
class _Berth:
    """Where one model lives, from `add` to `remove`."""

    name: str
    engine: LlamaEngine
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    begun: bool = False
    gone: trio.Event = field(default_factory=trio.Event)


class Engines:
    """The node's engines; whoever asks finds them on the bench. `on_progress` hears of models being fetched."""

    def __init__(self, config: Config, store: ModelStore, seams: Seams, bench: Bench) -> None:
        self.on_progress: Callable[[PullProgress], None] = lambda _progress: None
        self._config, self._store, self._seams, self._bench = config, store, seams, bench
        budget_bytes = config.memory_mb << 20 or int(seams.free_memory_bytes() * FREE_SHARE)
        self._budget = MemoryBudget(budget_bytes)
        self._sandbox = Sandbox(config.sandbox, private=secret_files(config.home))
        self._berths: list[_Berth] = []
        self._nursery: trio.Nursery | None = None
        for name in _model_names(config):
            self._new(name)
        self._standing = tuple(standing_engines(config))
        for engine in self._standing:
            bench.add(engine, config.model if isinstance(engine, ScriptedEngine) else "")

    @property
    def all(self) -> tuple[Engine, ...]:
        """Every engine, the one whose model the settings name first."""
        return self._bench.engines

    async def live(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run them until cancelled; models load behind the caller's back."""
        async with trio.open_nursery() as nursery:
            for engine in self._standing:
                await nursery.start(engine.serve)
            self._nursery = nursery
            nursery.start_soon(self._begin, tuple(self._berths))
            task_status.started()
            await trio.sleep_forever()

    def add(self, name: str) -> LlamaEngine:
        """Serve this model too from now on, fetching it if need be; one that failed is tried again."""
        berth = self._find(name)
        if berth is None:
            berth = self._new(name)
        elif berth.engine.state is EngineState.FAILED and self._nursery is not None:
            self._nursery.start_soon(self._give_model, berth)
        if self._nursery is not None and not berth.begun:
            self._nursery.start_soon(self._run, berth)
        return berth.engine

    async def remove(self, name: str, *, force: bool = False) -> bool:
        """Serve this model no longer; False if it was not served. Returns once its memory is free.

        Raises Busy while it answers somebody, unless that is to be broken off.
        """
        berth = self._find(name)
        if berth is None:
            return False
        if berth.engine.load.in_flight and not force:
            raise Busy(
                f"{name} is answering: {berth.engine.load.in_flight} under way.",
                hint="Wait for the end, or add --force, which breaks it off.",
                retry_after_s=5.0,
            )
        self._berths.remove(berth)
        self._bench.remove(berth.engine)
        berth.scope.cancel()
        if berth.begun:
            await berth.gone.wait()
        return True

    async def _begin(self, berths: tuple[_Berth, ...]) -> None:
        """The models of the settings one after the other: each is measured alone, the first one ends in memory."""
        assert self._nursery is not None
        for berth in berths:
            self._nursery.start_soon(self._run, berth)
            await self._settled(berth)
        if len(berths) > 1:
            berths[0].engine.wake()

    async def _settled(self, berth: _Berth) -> None:
        """Wait until it has its model in one way or another, or was removed."""
        under_way = (EngineState.ABSENT, EngineState.LOADING)
        await self._bench.until(lambda: berth.engine.state not in under_way or berth not in self._berths)

    async def _run(self, berth: _Berth) -> None:
        if berth.begun:
            return
        berth.begun = True
        try:
            with berth.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(berth.engine.serve)
                    await self._give_model(berth)
        finally:
            berth.gone.set()

    def _new(self, name: str) -> _Berth:
        config = self._config
        engine = LlamaEngine(
            slots=config.slots,
            context=config.context,
            slot_context=config.slot_context,
            thread_count=config.threads,
            budget=self._budget,
            sandbox=self._sandbox,
            verify=self._verify,
        )
        berth = _Berth(name, engine)
        self._berths.append(berth)
        self._bench.add(engine, name)
        return berth

    def _find(self, name: str) -> _Berth | None:
        for berth in self._berths:
            if name in (berth.name, *(card.name for card in berth.engine.cards)):
                return berth
        return None

    async def _give_model(self, berth: _Berth) -> None:
        """Find the model in the store, or fetch it, and hand it to its engine, whose state tells of a failure."""
        engine, name, blocking = berth.engine, berth.name, self._seams.blocking

        def progressed(progress: PullProgress) -> None:
            engine.expect(f"{progress.step} the model: {progress.done / max(1, progress.total):.0%}")
            self.on_progress(progress)

        engine.expect("looking for the model")
        try:
            model = await blocking(lambda: self._store.find(name)) or await pull(
                name, self._store, blocking=blocking, on_progress=progressed
            )
            file = await blocking(lambda: _model_file(model, self._store))
        except MeshError as error:
            log.warning("no model", model=name, why=str(error))
            engine.give_up(str(error))
        else:
            engine.use(file)

    async def _verify(self, file: ModelFile) -> None:
        """Whether a file is still what it was, before a worker opens it; raises ModelFileInvalid."""
        await self._seams.blocking(lambda: verify(Path(file.path), file.digest, file.name))


def standing_engines(config: Config) -> Iterator[Engine]:
    """Those that need no model of this node's own, and stay for as long as it runs."""
    if config.engine == "scripted":
        yield ScriptedEngine(scripted_card(config.model or "scripted:tiny", slots=config.slots))
    for upstream in every_upstream(config):
        yield UpstreamEngine(upstream, os.environ)


def _model_names(config: Config) -> tuple[str, ...]:
    """The models to run through llama.cpp, each once, in order."""
    names = (config.model, *config.models) if config.engine == "llama" else ()
    return tuple(dict.fromkeys(filter(None, names)))


def _model_file(model: StoredModel, store: ModelStore) -> ModelFile:
    """What an engine must know of a stored model; raises ModelFileInvalid."""
    return ModelFile(
        path=str(model.path),
        digest=model.digest,
        name=model.name,
        shape=shape_of(read_header(model.path)),
        statement=statement_of(store, model.digest),
    )


def shape_of(header: Header) -> Shape:
    """The facts that a model's size in memory follows from."""
    return Shape(
        weights_bytes=header.weights_bytes,
        kv_elements=sum(header.kv_heads) * (header.key_length + header.value_length),
        vocabulary=header.vocabulary,
        trained_context=header.context_length,
    )

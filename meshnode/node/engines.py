"""Which engine this node runs, by its settings; a llama.cpp engine gets its model as soon as it is there."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from meshnode.config import Config
from meshnode.engine.base import Engine
from meshnode.engine.process import LlamaEngine, ModelFile
from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.errors import MeshError
from meshnode.models.pull import PullProgress, pull
from meshnode.models.store import ModelStore
from meshnode.seams import Seams

log = structlog.get_logger("meshnode.node")


@dataclass(frozen=True, slots=True)
class Engines:
    """The node's engines, and the one whose model the settings name."""

    all: tuple[Engine, ...]
    llama: LlamaEngine | None = None


def build_engines(config: Config) -> Engines:
    """The engine that the settings ask for, without its model yet."""
    match config.engine:
        case "llama" if config.model:
            engine = LlamaEngine(slots=config.slots, context=config.context, thread_count=config.threads)
            return Engines((engine,), engine)
        case "scripted":
            card = scripted_card(config.model or "scripted:tiny", slots=config.slots)
            return Engines((ScriptedEngine(card),))
        case _:
            return Engines(())


async def give_model(
    engine: LlamaEngine,
    name: str,
    store: ModelStore,
    seams: Seams,
    on_progress: Callable[[PullProgress], None],
) -> None:
    """Find the model in the store, or fetch it, and hand it to the engine, whose state tells of a failure."""

    def progressed(progress: PullProgress) -> None:
        engine.expect(f"{progress.step} the model: {progress.done / max(1, progress.total):.0%}")
        on_progress(progress)

    engine.expect("looking for the model")
    try:
        model = await seams.blocking(lambda: store.find(name)) or await pull(
            name, store, blocking=seams.blocking, on_progress=progressed
        )
    except MeshError as error:
        log.warning("no model", model=name, why=str(error))
        engine.give_up(str(error))
    else:
        engine.use(ModelFile(path=str(model.path), digest=model.digest, name=model.name))

"""Models come and go while a node runs. The engines here take any model and load it in a second."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import trio

from meshnode.config import Config
from meshnode.engine.base import EngineState, Load
from meshnode.engine.scripted import scripted_card
from meshnode.errors import Busy, ModelNotFound
from meshnode.models.gguf import Header
from meshnode.models.store import StoredModel
from meshnode.node import engines as engines_module
from meshnode.node.engines import Engines
from meshnode.seams import Seams, inline
from meshnode.serve.local import Bench

LOAD_S = 1.0
STORED = ("a:1", "b:1", "c:1")


class Fake:
    """What LlamaEngine is to its owner."""

    made: ClassVar[list["Fake"]] = []

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.state, self.detail = EngineState.ABSENT, ""
        self.cards: tuple[Any, ...] = ()
        self.load = Load()
        self.log: list[str] = []
        self._watchers: list[Any] = []
        self._model = trio.Event()
        self.name = ""
        Fake.made.append(self)

    def watch(self, on_change: Any) -> None:
        self._watchers.append(on_change)

    def expect(self, detail: str) -> None:
        self._become(EngineState.LOADING, detail)

    def give_up(self, detail: str) -> None:
        self._become(EngineState.FAILED, detail)

    def use(self, file: Any) -> None:
        self.name = file.name
        self._model.set()

    def wake(self) -> None:
        self.log.append("woken")

    async def serve(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            await self._model.wait()
            self.log.append(f"loads at {trio.current_time():.0f}")
            await trio.sleep(LOAD_S)
            self.cards = (scripted_card(self.name),)
            self._become(EngineState.READY)
            await trio.sleep_forever()
        finally:
            self.log.append("ended")

    def _become(self, state: EngineState, detail: str = "") -> None:
        self.state, self.detail = state, detail
        for on_change in self._watchers:
            on_change()


class Store:
    """Has three models."""

    def __init__(self) -> None:
        self.names = list(STORED)

    def find(self, name: str) -> StoredModel | None:
        if name not in self.names:
            return None
        return StoredModel(name=name, digest=name.encode() * 8, path=Path("/nowhere"), size_bytes=1)

    def statement_file(self, digest: bytes) -> Path:
        return Path("/nowhere") / digest.hex()


async def _no_pull(name: str, *_: object, **__: object) -> StoredModel:
    raise ModelNotFound(f"there is no model {name}")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr(engines_module, "LlamaEngine", Fake)
    monkeypatch.setattr(engines_module, "pull", _no_pull)
    monkeypatch.setattr(engines_module, "read_header", lambda _path: Header(3, 0, {}))


@asynccontextmanager
async def living(tmp_path: Path, **settings: Any) -> AsyncIterator[SimpleNamespace]:
    given = {"model": "a:1", "engine": "llama"} | settings
    config, store = Config(home=tmp_path, **given), Store()
    seams = Seams(blocking=inline, free_memory_bytes=lambda: 1000 << 20)
    bench = Bench((), None)  # type: ignore[arg-type]  # nothing is run on it
    engines = Engines(config, store, seams, bench)  # type: ignore[arg-type]  # a store as far as it is used
    async with trio.open_nursery() as nursery:
        await nursery.start(engines.live)
        yield SimpleNamespace(engines=engines, bench=bench, store=store)
        nursery.cancel_scope.cancel()


async def test_models_are_loaded_one_after_the_other_and_the_first_ends_in_memory(tmp_path: Path) -> None:
    async with living(tmp_path, models=("b:1", "a:1", "c:1")) as node:
        await trio.sleep(5)
        assert [fake.name for fake in Fake.made] == ["a:1", "b:1", "c:1"]
        assert [fake.log for fake in Fake.made] == [["loads at 0", "woken"], ["loads at 1"], ["loads at 2"]]
        assert [node.bench.expected(engine) for engine in node.bench.engines] == ["a:1", "b:1", "c:1"]


async def test_a_model_that_cannot_be_had_holds_up_none_of_the_others(tmp_path: Path) -> None:
    async with living(tmp_path, model="x:1", models=("b:1",)):
        await trio.sleep(3)
        missing, there = Fake.made
        assert (missing.state, missing.detail) == (EngineState.FAILED, "there is no model x:1")
        assert there.state is EngineState.READY


async def test_all_share_what_is_free_or_what_the_settings_say(tmp_path: Path) -> None:
    async with living(tmp_path, models=("b:1",)):
        budgets = {fake.settings["budget"] for fake in Fake.made}
    assert [budget.total_bytes for budget in budgets] == [700 << 20]
    async with living(tmp_path, memory_mb=64):
        assert Fake.made[-1].settings["budget"].total_bytes == 64 << 20


async def test_a_model_comes_while_the_node_runs_and_is_told_of(tmp_path: Path) -> None:
    async with living(tmp_path, model="") as node:
        assert node.engines.all == ()
        changes: list[int] = []
        node.bench.watch(lambda: changes.append(len(node.bench.engines)))
        engine = node.engines.add("b:1")
        assert node.engines.add("b:1") is engine
        await trio.sleep(2)
        assert engine.state is EngineState.READY
        assert node.engines.all == (engine,)
        assert changes


async def test_one_that_failed_is_tried_again(tmp_path: Path) -> None:
    async with living(tmp_path, model="x:1") as node:
        await trio.sleep(1)
        assert Fake.made[0].state is EngineState.FAILED
        node.store.names.append("x:1")
        node.engines.add("x:1")
        await trio.sleep(2)
        assert Fake.made[0].state is EngineState.READY
        assert len(Fake.made) == 1


async def test_a_model_goes_and_its_engine_has_ended_by_then(tmp_path: Path) -> None:
    async with living(tmp_path, models=("b:1",)) as node:
        await trio.sleep(3)
        assert await node.engines.remove("b:1")
        assert Fake.made[1].log[-1] == "ended"
        assert [node.bench.expected(engine) for engine in node.engines.all] == ["a:1"]
        assert not await node.engines.remove("b:1")


async def test_one_that_answers_only_goes_by_force(tmp_path: Path) -> None:
    async with living(tmp_path) as node:
        await trio.sleep(2)
        Fake.made[0].load = Load(in_flight=2)
        with pytest.raises(Busy, match="2 under way"):
            await node.engines.remove("a:1")
        assert len(node.engines.all) == 1
        assert await node.engines.remove("a:1", force=True)
        assert node.engines.all == ()


async def test_one_that_is_removed_while_it_loads_holds_up_none_of_the_others(tmp_path: Path) -> None:
    async with living(tmp_path, models=("b:1",)) as node:
        await trio.sleep(0.5)
        assert await node.engines.remove("a:1")
        await trio.sleep(2)
        assert Fake.made[1].state is EngineState.READY

"""A node's models come and go while it runs."""

from pathlib import Path

import pytest

from meshnode.errors import Busy, ModelNotFound
from meshnode.node.node import Node
from tests.models.conftest import gguf_file
from tests.node.small_mesh import World


class Serving:
    """Engines that only write down what they are told; one that is `busy` does not let go unless forced."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.busy = False

    def add(self, name: str) -> None:
        self.told.append(("add", name))

    async def remove(self, name: str, *, force: bool = False) -> bool:
        if self.busy and not force:
            raise Busy(f"{name} is answering 1 requests.")
        self.told.append(("remove", name))
        return True


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf_file())
    return path


def with_engines(node: Node) -> Serving:
    serving = Serving()
    node.engines = serving  # type: ignore[assignment]
    return serving


async def test_a_model_is_served_once_it_is_here_and_no_longer_once_it_is_gone(
    world: World, model: Path
) -> None:
    async with world.node("a") as node:
        serving = with_engines(node)
        node.config = type(node.config)(home=node.config.home, engine="llama")
        stored = await node.pull(str(model), name="Mine")
        assert stored.name == "mine"
        assert (await node.remove("MINE")).freed_bytes == model.stat().st_size
        assert serving.told == [("add", "mine"), ("remove", "mine")]
        assert node.models_store.models() == []


async def test_a_node_without_llama_only_keeps_what_it_pulls(world: World, model: Path) -> None:
    async with world.node("a") as node:
        serving = with_engines(node)
        await node.pull(str(model))
        assert serving.told == []


async def test_a_model_that_answers_somebody_stays_unless_it_is_forced(world: World, model: Path) -> None:
    async with world.node("a") as node:
        await node.pull(str(model))
        serving = with_engines(node)
        serving.busy = True
        with pytest.raises(Busy):
            await node.remove("tiny")
        assert [kept.name for kept in node.models_store.models()] == ["tiny"]
        await node.remove("tiny", force=True)
        assert node.models_store.models() == []


async def test_a_model_that_is_not_here_cannot_go(world: World) -> None:
    async with world.node("a") as node:
        serving = with_engines(node)
        with pytest.raises(ModelNotFound, match="no model tiny"):
            await node.remove("tiny")
        assert serving.told == []

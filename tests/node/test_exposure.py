"""What a node tells others, and its owner, of an engine that nothing contains."""

from contextlib import AsyncExitStack

import pytest

from meshnode.engine.scripted import ScriptedEngine
from meshnode.terms import Posture
from tests.node.small_mesh import World, text_of, until


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripted engines that could do anything."""
    posture = Posture(why="bubblewrap is not installed")
    monkeypatch.setattr(ScriptedEngine, "posture", property(lambda _self: posture))


@pytest.mark.usefixtures("bare")
async def test_it_is_not_offered_to_others_and_still_works_for_its_owner(world: World) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a"))
        b = await stack.enter_async_context(world.node("b", engine="scripted"))
        await b.join(await a.invite())
        await until(lambda: a.snapshot().peers)
        assert not a.models()
        async with b.ask("hello") as running:
            assert await text_of(running)
        engine = b.snapshot().engine
        assert engine.sandbox == "none"
        assert "bubblewrap is not installed" in engine.exposure
        assert "other nodes' work is refused" in engine.exposure
        assert b.models()
        assert sandboxed(a) == [False]


@pytest.mark.usefixtures("bare")
async def test_it_is_offered_when_its_owner_allows_that_and_said_to_be_unsandboxed(world: World) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a"))
        b = await stack.enter_async_context(world.node("b", engine="scripted", allow_unsandboxed=True))
        await b.join(await a.invite())
        await until(a.models)
        assert "all the same" in b.snapshot().engine.exposure
        assert sandboxed(a) == [False]


async def test_a_contained_engine_is_said_to_be_so(world: World) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a"))
        b = await stack.enter_async_context(world.node("b", engine="scripted"))
        await b.join(await a.invite())
        await until(a.models)
        await until(lambda: sandboxed(a) == [True])
        assert b.snapshot().engine.exposure == ""


def sandboxed(node) -> list[bool]:  # type: ignore[no-untyped-def]
    """What the others say of themselves, as this node has heard."""
    return [peer.ad.sandboxed for peer in node.presence.view().values() if peer.ad]

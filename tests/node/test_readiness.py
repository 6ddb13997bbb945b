"""Whether a node is ready, on whole nodes: exactly when a request that is sent now is answered."""

from contextlib import AsyncExitStack

import trio

from meshnode import Node
from meshnode.errors import MeshError
from meshnode.serve.readiness import Readiness
from meshnode.terms import Openness, Privacy, Wish
from tests.node.small_mesh import MODEL, World, engine_of, text_of, until


def ready(node: Node, **wish: object) -> Readiness:
    return node.readiness(Wish(**wish))  # type: ignore[arg-type]


async def answers(node: Node) -> bool:
    try:
        async with node.ask("hello", max_tokens=2, deadline_s=5) as running:
            return bool(await text_of(running))
    except MeshError:
        return False


async def test_a_node_with_nothing_is_not_ready_and_one_with_a_peer_is(world: World) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a"))
        alone = ready(a)
        assert (alone.ready, alone.code) == (False, "model_not_found")
        assert "No node in reach" in alone.reasons[0]
        assert not await answers(a)
        b = await stack.enter_async_context(world.node("b", engine="scripted"))
        await b.join(await a.invite())
        await until(lambda: ready(a).ready)
        assert ready(a) == Readiness(ready=True, by="peer")
        assert ready(b) == Readiness(ready=True, by="local")
        assert await answers(a)


async def test_a_peer_that_takes_no_work_makes_nobody_ready(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        await until(lambda: ready(a).ready)
        c.bench.gate.set_openness(Openness.PAUSED)
        await until(lambda: not ready(a).ready)
        seen = ready(a)
        assert seen.code == "busy"
        assert seen.retry_after_s is not None
        assert "takes no work now" in seen.reasons[0]
        assert not await answers(a)
        assert ready(c).code == "busy"
        c.bench.gate.set_openness(Openness.ACCEPTING)
        await until(lambda: ready(a).ready)
        assert await answers(a)


async def test_a_model_that_loads_is_a_reason_by_name(world: World) -> None:
    async with world.node("a", engine="scripted") as a:
        engine = engine_of(a)
        assert ready(a).ready
        engine.crash()
        loading = ready(a)
        assert not loading.ready
        assert any(MODEL in reason and "loading" in reason for reason in loading.reasons)
        await until(lambda: ready(a).ready)


async def test_a_full_node_is_not_ready(world: World) -> None:
    async with world.node("a", engine="scripted") as a:
        a._admission.most = 1
        async with a.ask("hello", model=MODEL, max_tokens=500):
            full = ready(a)
            assert (full.ready, full.code, full.retry_after_s) == (False, "busy", 1.0)
        await trio.sleep(1)
        assert ready(a).ready


async def test_a_model_or_a_class_that_nobody_has_is_told(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack)
        await until(lambda: ready(a, model=MODEL).ready)
        assert ready(a, model="qwen3:8b").code == "model_not_found"
        sensitive = ready(a, privacy=Privacy.SENSITIVE)
        assert (sensitive.ready, sensitive.code) == (False, "no_candidate")
        assert "not trusted enough" in sensitive.reasons[0]

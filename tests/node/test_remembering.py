"""Kept answers and shared runs over a whole mesh: A asks and remembers, C answers."""

from contextlib import AsyncExitStack

import trio

from meshnode import Node
from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.node.remembering import embedder_on
from meshnode.terms import CacheMode, Feature, Piece
from tests.node.small_mesh import MODEL, World


async def asked(node: Node, prompt: str, **wishes: object) -> tuple[str, str]:
    """How it was found, and what was said."""
    async with node.ask(prompt, **({"model": MODEL, "temperature": 0.0} | wishes)) as running:
        text = "".join([item.text async for item in running.pieces if isinstance(item, Piece)])
    return running.answer.cache, text


async def test_an_answer_from_two_links_away_is_kept_here_for_its_tenant_alone(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        cache, text = await asked(a, "hello", tenant="ann")
        assert cache == ""
        assert await asked(a, "hello", tenant="ann") == ("exact", text)
        assert (await asked(a, "hello", tenant="bob"))[0] == ""
        assert (await asked(a, "hello", tenant="ann", privacy="public"))[0] == ""
        (engine,) = c.bench.engines
        assert isinstance(engine, ScriptedEngine)
        assert len(engine.finished_jobs) == 3


async def test_identical_requests_to_one_node_run_once_on_the_mesh(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(asked, a, "hello")
        (engine,) = c.bench.engines
        assert isinstance(engine, ScriptedEngine)
        assert len(engine.finished_jobs) == 1


async def test_a_kept_answer_outlives_the_node(world: World) -> None:
    settings = {"engine": "scripted", "cache": CacheMode.EXACT}
    async with world.node("n", **settings) as node:
        await node.bench.settled()
        _, text = await asked(node, "hello")
    async with world.node("n", **settings) as node:
        assert await asked(node, "hello") == ("exact", text)


async def test_a_node_whose_cache_is_off_keeps_nothing(world: World) -> None:
    async with world.node("n", engine="scripted", cache=CacheMode.OFF) as node:
        await node.bench.settled()
        assert (await asked(node, "hello", cache=CacheMode.EXACT))[0] == ""
        assert (await asked(node, "hello", cache=CacheMode.EXACT))[0] == ""
    assert not (world.homes / "n" / "answers.sqlite").exists()


async def test_only_a_model_made_for_it_judges_likeness(world: World) -> None:
    async with world.node("n", engine="scripted") as node, trio.open_nursery() as nursery:
        await node.bench.settled()
        embed = embedder_on(node.bench, node.identity.node, node.seams)
        assert await embed(("sea", "sand")) is None
        engine = ScriptedEngine(scripted_card("minilm:22m", features=(Feature.EMBEDDINGS,)))
        node.bench.add(engine)
        await nursery.start(engine.serve)
        await node.bench.settled()
        vectors = await embed(("sea", "sand"))
        assert vectors is not None
        assert len(vectors) == 2
        nursery.cancel_scope.cancel()

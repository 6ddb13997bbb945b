"""A closed mesh of three in a line, whole: A asks, B only passes on, C answers."""

from contextlib import AsyncExitStack

import pytest
import trio

from meshnode.errors import ContextExceeded, Interrupted, ModelNotFound
from meshnode.terms import Piece
from meshwire.limits import REPLAY_S
from tests.node.small_mesh import MODEL, World, engine_of, text_of, until

SECRET = "the combination of the safe is forty-two"


async def test_a_is_answered_by_c_through_b(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, b, c = await world.line(stack)
        async with a.ask(SECRET, model=MODEL, max_tokens=20) as running:
            answer = running.answer
            pieces = [item async for item in running.pieces if isinstance(item, Piece)]
        assert [name.partition("#")[0] for name in answer.path] == ["a", "b", "c"]
        assert answer.served_by.startswith("c#")
        assert (answer.rung, answer.trust) == ("peer", "trusted")
        assert [index for piece in pieces for index, _ in enumerate(piece.ids, piece.first_index)] == [
            *range(20)
        ]
        assert {link.node for link in a.presence.links() if link.path_links == 1} == {b.identity.node}
        assert c.bench.engines[0].load.in_flight == 0


@pytest.mark.parametrize("sealed", [True, False])
async def test_b_sees_the_text_only_where_the_seal_is_off(world: World, sealed: bool) -> None:
    tapped: list[bytes] = []
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack, {"relay_tap": tapped.append, "seal_circuits": sealed})
        async with a.ask(SECRET, model=MODEL, max_tokens=20, privacy="public") as running:
            words = (await text_of(running)).split()
    seen = b"".join(tapped)
    assert len(tapped) > 20
    assert (SECRET.encode() in seen) is not sealed
    assert all((word.encode() in seen) is not sealed for word in words if len(word) > 4)


async def test_later_requests_reuse_the_circuit(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack)
        for _ in range(2):
            async with a.ask("hello", model=MODEL, max_tokens=2) as running:
                await text_of(running)
            laid = a.presence.circuits.links()
            assert len(laid) == 1
        first = laid
        async with a.ask("hello", model=MODEL, max_tokens=2) as running:
            await text_of(running)
        assert a.presence.circuits.links() == first


async def test_leaving_frees_the_slot_two_links_away(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        async with a.ask("hello", model=MODEL) as running:
            await anext(running.pieces)
            assert engine_of(c).load.in_flight == 1
        await until(lambda: not engine_of(c).load.in_flight, 0.25)
        assert len(engine_of(c).cancelled_jobs) == 1


@pytest.mark.parametrize("gone", ["a", "b"])
async def test_the_worker_is_freed_when_origin_or_relay_crashes(world: World, gone: str) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        engine_of(c).answer_tokens = 1900  # longer than it waits for its asker to come back
        async with a.ask("hello", model=MODEL) as running:
            await anext(running.pieces)
            world.network.crash(gone)
            # It looks for another way for a while: a link that comes back would do.
            with pytest.raises(Interrupted), trio.fail_after(10):
                await text_of(running)
        await until(lambda: not engine_of(c).load.in_flight, REPLAY_S + 0.5)
        assert engine_of(c).cancelled_jobs


async def test_errors_of_the_worker_arrive_as_what_they_are(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack)
        with pytest.raises(ContextExceeded):
            async with a.ask("word " * 3000, model=MODEL):
                pytest.fail("it cannot begin")
        with pytest.raises(ModelNotFound):
            async with a.ask("hello", model="qwen3:8b"):
                pytest.fail("it cannot begin")
        async with a.ask("hello", model=MODEL, max_tokens=3) as running:
            assert await text_of(running)


async def test_a_crash_of_the_worker_is_not_seen_in_the_answer(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        texts = []
        for crash in (False, True):
            if crash:
                engine_of(c).crash_after(5)
            async with a.ask("hello", model=MODEL) as running:
                texts.append(await text_of(running))
        assert texts[0] == texts[1]
        assert len(texts[0].split()) > 10


async def test_a_model_that_is_gone_is_withdrawn_and_the_way_to_its_node_stays(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        assert a.models()
        engine_of(c).fail("the model file is gone")
        await until(lambda: not a.models(), within_s=10)
        assert c.identity.node in a.presence.view()
        with pytest.raises(ModelNotFound):
            async with a.ask(SECRET, model=MODEL):
                pass

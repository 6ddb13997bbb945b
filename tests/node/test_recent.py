"""What whole nodes show of a request: at the one that was asked, and at the one that served it."""

from contextlib import AsyncExitStack

import trio

from meshnode.node.run import NodeDoors
from meshnode.terms import Job
from meshwire.ids import to_text
from tests.node.small_mesh import MODEL, World, text_of


async def test_a_request_is_seen_where_it_was_asked_and_where_it_was_served(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, b, c = await world.line(stack)
        async with a.ask("hello", model=MODEL, max_tokens=5, privacy="public") as running:
            await text_of(running)
        await trio.sleep(1.0)
        now = trio.current_time()
        (asked,), (served,) = a.recent.views(now), c.recent.views(now)
        assert b.recent.views(now) == ()
        assert [one.partition("#")[0] for one in asked.path] == ["a", "b", "c"]
        assert (asked.state, asked.tokens, asked.rung, asked.privacy) == ("ok", 5, "peer", "public")
        assert (served.state, served.tokens, served.origin) == ("ok", 5, to_text(a.identity.node))
        assert served.id == asked.id


async def test_a_decision_that_was_made_is_told_from_one_that_would_be(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        async with a.ask("hello", model=MODEL, max_tokens=5) as running:
            await text_of(running)
        doors = NodeDoors(a)
        (view,) = doors.recent.views(trio.current_time())
        wish = doors.recent.wish_of(view.id)
        assert wish is not None
        made = doors.explain(Job(id=view.id, wish=wish, turns=()))
        assert made.made
        assert made.candidates[0].node == to_text(c.identity.node)
        assert not doors.explain(Job(id="another", wish=wish, turns=())).made


async def test_a_model_costs_the_least_that_another_asks(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack, price_usd=0.5)
        await trio.sleep(5.0)
        assert [one.price_usd for one in a.models() if to_text(c.identity.node) in one.nodes] == [0.5]

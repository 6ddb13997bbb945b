"""The metrics of whole nodes: what A asked for, what C did for it, and what went between them."""

from contextlib import AsyncExitStack

import trio

from meshnode import Node
from meshnode.testing.simulation import Simulation, simulate
from tests.node.small_mesh import MODEL, World, text_of


def value(node: Node, name: str, **labels: str) -> float | None:
    return node.metrics.registry.get_sample_value(f"meshnode_{name}", labels)


async def test_a_counts_what_it_asked_and_c_what_it_served(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, b, c = await world.line(stack)
        async with a.ask("hello", model=MODEL, max_tokens=5) as running:
            assert value(a, "requests_in_flight") == 1
            await text_of(running)
        with trio.move_on_after(0.2):
            async with a.ask("hello again", model=MODEL, max_tokens=500) as running:
                await text_of(running)
        await trio.sleep(1.0)
        assert value(a, "requests_total", rung="peer", outcome="ok") == 1
        assert value(a, "requests_total", rung="peer", outcome="cancelled") == 1
        assert value(a, "time_to_first_token_seconds_count", rung="peer") == 2
        assert value(c, "served_requests_total", outcome="ok") == 1
        assert value(c, "served_requests_total", outcome="cancelled") == 1
        assert value(c, "served_tokens_total", kind="answer") == 5
        assert value(b, "served_requests_total", outcome="ok") is None
        assert value(c, "requests_total", rung="peer", outcome="ok") is None
        assert value(a, "requests_in_flight") == value(c, "requests_in_flight") == 0


async def test_links_peers_and_gossip_are_those_of_the_mesh(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, b, _ = await world.line(stack)
        await trio.sleep(5.0)
        assert value(b, "links", kind="direct") == 2
        assert value(a, "peers", state="linked") == 1
        assert value(a, "peers", state="reachable") == 1
        sent, received = (value(a, "gossip_bytes_total", direction=one) for one in ("sent", "received"))
        assert sent > 500
        assert received > 500
        await trio.sleep(5.0)
        assert value(a, "gossip_bytes_total", direction="sent") > sent
        assert value(b, "engine_ready", kind="none", model="") is None


def test_a_crashed_peer_is_counted_as_dead() -> None:
    async def play(simulation: Simulation) -> None:
        a, b = [await simulation.start(name, engine="none") for name in "ab"]
        await b.join(await a.invite())
        await trio.sleep(6)
        assert value(a, "peers_dead") == 0
        await simulation.crash("b", silent=True)
        await simulation.until(lambda: value(a, "peers_dead") == 1)
        await simulation.until(lambda: value(a, "peers", state="unreachable") == 1)

    simulate(1, play)

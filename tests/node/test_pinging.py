"""Pings between real nodes in virtual time: over a link, through a relay, to who is gone, and by which name."""

from contextlib import AsyncExitStack

import pytest
import trio

from meshnode.errors import BadRequest
from meshwire.ids import to_text
from tests.node.small_mesh import World, until

LINK_MS = (10.0, 40.0)  # there and back on this network


def id_of(node) -> str:
    return to_text(node.identity.node)


def in_reach(node) -> int:
    return sum(peer.state != "unreachable" for peer in node.snapshot().peers)


async def test_a_ping_over_a_link_and_one_through_a_relay(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, b, c = await world.line(stack)
        await until(lambda: in_reach(a) == 2)
        near = await a.ping("b")
        assert (near.node, near.name, near.path, near.relays) == (id_of(b), "b", (id_of(b),), ())
        assert near.address.startswith("mem://")
        assert near.rtt_ms is not None
        assert LINK_MS[0] <= near.rtt_ms <= LINK_MS[1] + 1
        far = await a.ping("c")
        assert (far.path, far.relays, far.address, far.why) == ((id_of(b), id_of(c)), ("b",), "", "")
        assert far.rtt_ms is not None
        assert 2 * LINK_MS[0] <= far.rtt_ms <= 2 * LINK_MS[1] + 1


async def test_the_laying_of_a_circuit_is_not_measured(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack)
        await until(lambda: in_reach(a) == 2)
        begun = trio.current_time()
        first = await a.ping("c")
        took_ms = 1000 * (trio.current_time() - begun)
        assert first.rtt_ms is not None
        assert took_ms > first.rtt_ms + 2 * LINK_MS[0]


async def test_what_is_cut_off_is_lost_within_the_time_given(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack)
        world.network.partition("a", "b")
        begun = trio.current_time()
        lost = await a.ping("b", timeout_s=2.0)
        assert (lost.rtt_ms, lost.why) == (None, "No answer came within 2 s.")
        assert trio.current_time() - begun == pytest.approx(2.0, abs=0.01)
        world.network.heal_all()
        await until(lambda: bool(a.snapshot().links))
        assert (await a.ping("b", timeout_s=20.0)).rtt_ms is not None


async def test_a_link_that_is_lost_under_a_ping_says_so_at_once(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, b, _ = await world.line(stack)
        world.network.hold("a", "b")
        found = []

        async def ping() -> None:
            found.append(await a.ping("b", timeout_s=30.0))

        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping)
            await trio.sleep(0.5)
            await a.presence.switch.direct(b.identity.node).aclose()
        assert found[0].rtt_ms is None
        assert "lost" in found[0].why
        assert trio.current_time() - begun < 5


async def test_who_is_out_of_reach_is_looked_for(world: World) -> None:
    """C lost its only way to A; it can still be dialled, and A may dial strangers."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a", discover=True))
        c = await stack.enter_async_context(world.node("c"))
        await c.join(await a.invite())
        await until(lambda: [peer.state for peer in a.snapshot().peers] == ["linked"])
        world.network.partition("a", "c")
        world.network.reset("a", "c")
        await until(lambda: not a.snapshot().links)
        lost = await a.ping("c", timeout_s=1.0)
        assert (lost.rtt_ms, lost.path) == (None, ())
        world.network.heal_all()
        assert (await a.ping("c", timeout_s=20.0)).rtt_ms is not None


async def test_which_node_is_meant(world: World) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a"))
        b = await stack.enter_async_context(world.node("b"))
        c = await stack.enter_async_context(world.node(id_of(b)[:8], place="c"))
        d = await stack.enter_async_context(world.node(id_of(b), place="d"))
        for one in (b, c, d):
            await one.join(await a.invite())
        await until(lambda: in_reach(a) == 3)
        for called in (id_of(b), id_of(b).upper(), "b", f" {id_of(b)[:6]} "):
            assert (await a.ping(called)).node == id_of(b)
        with pytest.raises(BadRequest, match="Several") as several:
            await a.ping(id_of(b)[:8])
        assert id_of(b) in several.value.hint
        assert id_of(c) in several.value.hint
        for called in ("nobody", id_of(b)[:3], ""):
            with pytest.raises(BadRequest, match="No node"):
                await a.ping(called)
        with pytest.raises(BadRequest, match="this node itself"):
            await a.ping(id_of(a))

"""Circuits: laid on demand, sealed, reused, let go; and everything that is refused at either end."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from meshnode.errors import MeshError, NotAllowed, Unreachable
from meshnode.net.establish import establish
from meshnode.net.link import Link, Stream, StreamLost
from meshnode.net.relay import CircuitTransport
from meshwire.limits import CIRCUIT_IDLE_S
from meshwire.messages import DhtPing, Open
from meshwire.numbers import ResetCode
from tests.net.hubs import Hub, World, echo, open_world

WORDS = b"a prompt of some length that nobody else reads"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as world:
        yield world


def path(*hubs: Hub) -> tuple:
    return tuple(hub.node for hub in hubs)


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_circuit_is_a_link_that_relays_cannot_read(world: World, sealed: bool) -> None:
    a, b, c, d = await world.line("a", "b", "c", "d", seal_circuits=sealed)
    link = await a.circuits.reach(path(b, c, d))
    assert await echo(link, WORDS) == WORDS
    assert (link.node, link.path_links) == (d.node, 3)
    for relay in (b, c):
        assert (WORDS in b"".join(relay.tapped)) is not sealed
    assert a.tapped == d.tapped == []


async def test_both_ends_of_a_circuit_look_for_a_direct_link(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")
    link = await a.circuits.reach(path(b, c))
    assert await echo(link, WORDS) == WORDS
    assert (a.approached, b.approached, c.approached) == ([(c.node, False)], [], [(a.node, True)])


async def test_a_large_message_crosses_in_parts(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")
    stream = await (await a.circuits.reach(path(b, c))).open(Open("ask"))
    received: list[bytes] = []

    async def read() -> None:
        while (payload := await stream.receive()) is not None:
            received.append(payload)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for _ in range(20):
            await stream.send(bytes(30_000))
        await stream.send(b"", end=True)
    assert sum(map(len, received)) == 600_000


async def test_one_circuit_serves_everybody_who_goes_that_way(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")
    found: list[Link] = []

    async def reach() -> None:
        found.append(await a.circuits.reach(path(b, c)))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(reach)
    assert len({id(link) for link in found}) == 1
    assert a.circuits.links() == found[:1]
    assert not a.circuits._laying
    assert await a.circuits.reach(path(b)) is a.switch.direct(b.node)


async def test_a_circuit_is_let_go_when_nothing_has_run_over_it(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")
    link = await a.circuits.reach(path(b, c))
    for _ in range(4):
        await trio.sleep(0.6 * CIRCUIT_IDLE_S)
        assert await a.circuits.reach(path(b, c)) is link
    stream = await link.open(Open("ask"))
    await trio.sleep(2 * CIRCUIT_IDLE_S)
    assert link.alive  # a request is still under way
    stream.reset(ResetCode.CANCEL)
    await trio.sleep(30)
    assert not link.alive
    assert a.circuits.links() == []
    assert not a.circuits._used_at
    assert await echo(await a.circuits.reach(path(b, c)), WORDS) == WORDS


async def test_a_broken_circuit_is_laid_anew(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")
    link = await a.circuits.reach(path(b, c))
    await c.switch.links()[0].aclose()
    await trio.sleep(1)
    assert not link.alive
    with pytest.raises(Unreachable, match="unreachable"):
        await a.circuits.reach(path(b, c))
    await b.link_to(c)
    assert await echo(await a.circuits.reach(path(b, c)), WORDS) == WORDS


@pytest.mark.parametrize("gone", ["a", "b", "c"])
async def test_an_ask_ends_at_both_sides_when_a_node_is_gone(world: World, gone: str) -> None:
    a, b, c = await world.line("a", "b", "c")
    stream = await (await a.circuits.reach(path(b, c))).open(Open("ask"))
    await stream.send(WORDS)
    await trio.sleep(0.1)
    world.network.crash(gone)
    with trio.fail_after(1):
        await stream.lost()
        await c.streams[0].lost()


async def test_cancelling_an_ask_reaches_the_worker_and_leaves_the_circuit(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")
    link = await a.circuits.reach(path(b, c))
    stream = await link.open(Open("ask"))
    await stream.send(WORDS)
    await trio.sleep(0.1)
    stream.reset(ResetCode.CANCEL)
    with trio.fail_after(0.1):
        await c.streams[0].lost()
    assert link.alive


@pytest.mark.parametrize("links", [0, 4])
async def test_a_way_that_is_too_long_is_not_gone(world: World, links: int) -> None:
    hubs = await world.line("a", "b", "c", "d", "e")
    with pytest.raises(Unreachable):
        await hubs[0].circuits.reach(path(*hubs[1 : 1 + links]))
    assert hubs[0].switch.links()[0].alive


@pytest.mark.parametrize("key", [bytes(32), b"\1" * 32])
async def test_a_worker_whose_advertised_key_is_not_its_own_is_unreachable(world: World, key: bytes) -> None:
    a, b, c = await world.line("a", "b", "c")
    a.static_keys[c.node] = key
    with pytest.raises(Unreachable):
        await a.circuits.reach(path(b, c))
    a.static_keys.clear()
    assert await echo(await a.circuits.reach(path(b, c)), WORDS) == WORDS


async def test_a_worker_that_turns_us_away_is_out_of_reach(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")
    c.verdict = NotAllowed("you have been away for too long")
    with pytest.raises((Unreachable, StreamLost)):
        await echo(await a.circuits.reach(path(b, c)), WORDS)
    await trio.sleep(0.1)
    assert a.circuits.links() == []
    assert b.switch.direct(c.node) is not None


async def test_an_origin_is_who_its_route_says(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")
    onward = b.switch.direct(c.node)
    assert onward is not None
    stream = await onward.open(
        Open("circuit", route=path(b, c), position=1, request=b"forged", origin=a.node)
    )
    forged = b.switch.own.circuit_session(a.node, c.node, c.identity.static_public)
    link = await establish(CircuitTransport(stream, "c", b.switch.own.hello), forged, lambda _: True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run, c.on_request, c.on_ask, c.on_notice)
        with pytest.raises(MeshError), trio.fail_after(5):
            await echo_once(link)
        nursery.cancel_scope.cancel()
    assert c.streams == []


async def echo_once(link: Link) -> None:
    try:
        await echo(link, WORDS)
    except StreamLost as error:
        raise Unreachable("the circuit was refused") from error


async def test_only_asks_come_over_a_circuit(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")
    link = await a.circuits.reach(path(b, c))
    with pytest.raises(NotAllowed):
        await link.request(DhtPing())
    stream = await link.open(Open("circuit", route=path(c), origin=a.node))
    with pytest.raises(StreamLost) as caught:
        await stream.receive()
    assert caught.value.code is ResetCode.REFUSED
    assert link.alive


async def test_a_fault_of_ours_on_a_circuit_costs_the_circuit_only(world: World) -> None:
    a, b, c = await world.line("a", "b", "c")

    async def broken(_link: Link, _stream: Stream, _opening: Open) -> None:
        raise KeyError("a defect")

    c.on_ask = broken  # type: ignore[method-assign]
    with pytest.raises((StreamLost, Unreachable)):
        await echo(await a.circuits.reach(path(b, c)), WORDS)
    assert b.switch.direct(c.node) is not None
    del c.on_ask
    await trio.sleep(0.1)
    assert await echo(await a.circuits.reach(path(b, c)), WORDS) == WORDS

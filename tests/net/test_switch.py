"""The switch: links by node, bounds, wishes that are kept, and faults that cost one link."""

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import trio
import trio.testing

from meshnode.errors import Busy, MeshError, NotAllowed, Unreachable
from meshnode.net.link import Link, Stream, StreamLost
from meshnode.net.switch import LATELY_S, WANTED_MAX
from meshwire.limits import LINKS_PER_KEY
from meshwire.messages import DhtPing, DhtPong, Open
from meshwire.numbers import Message, ResetCode
from tests.net.hubs import World, echo, open_world


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as world:
        yield world


async def test_links_are_known_by_node_at_both_ends(world: World) -> None:
    a, b = await world.line("a", "b")
    assert a.switch.direct(b.node) is a.up[0]
    assert b.switch.direct(a.node) is b.up[0]
    assert a.switch.direct(a.node) is None
    assert await a.up[0].request(DhtPing()) == DhtPong()
    assert list(a.switch.rtts_ms()) == [b.node]
    await a.up[0].aclose()
    await trio.sleep(0.1)
    assert a.switch.links() == b.switch.links() == []
    assert (a.down, b.down) == (a.up, b.up)


async def test_one_that_may_only_join_is_no_link_to_a_member(world: World) -> None:
    a, b = await world.hub("a"), await world.hub("b")
    a.verdict = b.verdict = False
    with pytest.raises(Unreachable):
        await a.link_to(b)
    assert a.up == b.up == []
    assert b.switch.direct(a.node) is None


async def test_one_that_is_turned_away_hears_why(world: World) -> None:
    a, b = await world.hub("a"), await world.hub("b")
    b.verdict = NotAllowed("not you")
    with pytest.raises(NotAllowed, match="not you"):
        await a.link_to(b)
    assert b.switch.links() == []


async def test_another_node_than_expected_is_not_linked(world: World) -> None:
    a, b = await world.hub("a"), await world.hub("b")
    with pytest.raises(Unreachable, match="another node"):
        await a.switch.dial("mem://b", a.node)
    await trio.sleep(0.1)
    assert a.switch.links() == b.switch.links() == []


async def test_a_key_has_so_many_links_even_if_they_come_at_once(world: World) -> None:
    a, b = await world.hub("a"), await world.hub("b")

    async def dial() -> None:
        try:
            await a.link_to(b)
        except (Busy, Unreachable):
            return

    async with trio.open_nursery() as nursery:
        for _ in range(3 * LINKS_PER_KEY):
            nursery.start_soon(dial)
    await trio.sleep(0.1)
    assert len(b.switch.links()) <= LINKS_PER_KEY
    with pytest.raises(Busy):
        for _ in range(LINKS_PER_KEY + 1):
            await a.link_to(b)


async def test_a_fault_of_ours_costs_one_link(world: World) -> None:
    a, b, _ = await world.line("a", "b", "c")

    async def broken(_link: Link, _message: Message) -> Message | None:
        raise KeyError("a defect")

    b.on_request = broken  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        await a.up[0].request(DhtPing())
    assert len(b.switch.links()) == 1
    del b.on_request
    assert await (await a.link_to(b)).request(DhtPing()) == DhtPong()


async def test_an_error_of_one_stream_ends_that_stream(world: World) -> None:
    a, b = await world.line("a", "b")

    async def busy(_link: Link, _stream: Stream, _opening: Open) -> None:
        raise Busy("not now")

    b.on_ask = busy  # type: ignore[method-assign]
    with pytest.raises(StreamLost):
        await echo(a.up[0], b"x")
    del b.on_ask
    assert await echo(a.up[0], b"x") == b"x"


async def test_a_stream_of_no_known_kind_is_refused(world: World) -> None:
    a, _ = await world.line("a", "b")
    stream = await a.up[0].open(Open("telepathy"))
    with pytest.raises(StreamLost) as caught:
        await stream.receive()
    assert caught.value.code is ResetCode.REFUSED


async def test_a_node_that_stops_says_goodbye(world: World) -> None:
    a, b = await world.line("a", "b")
    world.stop(b)
    with trio.fail_after(0.5):
        await a.up[0].closed()
    assert "going_away" in str(a.up[0].error)


async def test_a_wanted_link_is_dialled_again_with_growing_pauses(world: World) -> None:
    a = await world.hub("a")
    dialled: list[float] = []
    dial = a.switch._network.dial

    async def noted(*given: object) -> object:
        dialled.append(trio.current_time())
        return await dial(*given)  # type: ignore[arg-type]

    a.switch._network.dial = noted  # type: ignore[method-assign, assignment]
    a.switch.want(("mem://b",))
    await trio.sleep(30)
    pauses = [later - earlier for earlier, later in pairwise(dialled)]
    assert pauses[0] < 2 < max(pauses) <= 5.1
    assert 6 <= len(dialled) <= 15
    assert isinstance(a.switch.last_failures["mem://b"], Unreachable)
    b = await world.hub("b")
    await trio.sleep(6)
    assert a.switch.direct(b.node) is not None
    assert a.switch.last_failures == {}
    world.network.crash("b")
    assert a.switch.links()
    await trio.sleep(0.1)
    assert not a.switch.links()


async def test_a_wanted_node_that_came_by_itself_is_not_dialled(world: World) -> None:
    a, b = await world.hub("a"), await world.hub("b")
    await b.link_to(a)
    a.switch.want(("mem://b",), b.node)
    await trio.sleep(20)
    assert len(a.switch.links()) == 1
    await a.switch.links()[0].aclose()
    await trio.sleep(6)
    assert [link.initiator for link in a.switch.links()] == [True]


async def test_a_nameless_address_is_not_dialled_while_its_node_is_linked(world: World) -> None:
    a, b = await world.hub("a"), await world.hub("b")
    a.switch.want(("mem://b",))
    await trio.sleep(1)
    await b.link_to(a)
    await a.up[0].aclose()
    await trio.sleep(20)
    assert len(a.switch.links()) == 1


async def test_a_wish_ends_when_it_is_taken_back(world: World) -> None:
    a = await world.hub("a")
    a.switch.want(("mem://b",))
    a.switch.want(("mem://c", "mem://b"), b"\1" * 20)  # type: ignore[arg-type]
    await trio.sleep(1)
    a.switch.unwant("mem://b")
    a.switch.unwant(b"\1" * 20)  # type: ignore[arg-type]
    await trio.sleep(1)
    await world.hub("b")
    await trio.sleep(20)
    assert a.switch.links() == []
    assert a.switch.last_failures == {}


async def test_somebody_elses_address_does_not_take_its_owners_place(world: World) -> None:
    a, b = await world.hub("a"), await world.hub("b")
    a.switch.want(("mem://b",), b"\1" * 20)  # type: ignore[arg-type]
    a.switch.want(("mem://b",), b.node)
    await trio.sleep(6)
    assert a.switch.direct(b.node) is not None


async def test_wishes_are_bounded(world: World) -> None:
    a = await world.hub("a")
    for number in range(2 * WANTED_MAX):
        a.switch.want((f"mem://{number}",))
    await trio.sleep(1)
    assert len(a.switch.last_failures) == WANTED_MAX


async def test_without_a_network_nothing_is_dialled(world: World) -> None:
    a = await world.hub("a")
    world.stop(a)
    await trio.sleep(0.1)
    with pytest.raises(MeshError):
        await a.switch.dial("mem://b")


@pytest.mark.parametrize("first", ["a", "b"])
async def test_a_stream_that_ended_both_ways_unread_may_be_reset(world: World, first: str) -> None:
    a, b = await world.line("a", "b")

    async def end(_link: Link, stream: Stream, _opening: Open) -> None:
        await stream.send(b"unread", end=True)
        await trio.sleep(0.1 if first == "b" else 0.3)

    b.on_ask = end  # type: ignore[method-assign]
    stream = await a.up[0].open(Open("ask"))
    await stream.send(b"unread", end=True)
    await trio.sleep(0.2)
    stream.reset(ResetCode.CANCEL)
    await trio.sleep(0.3)
    assert a.up[0].alive
    assert b.up[0].alive


async def test_a_node_that_lost_power_and_is_back_is_reached_over_its_new_link(world: World) -> None:
    a, b = await world.hub("a"), await world.hub("b")
    await b.link_to(a)
    await trio.sleep(6)
    stale = a.switch.direct(b.node)
    assert stale is not None
    world.network.crash("b", silent=True)
    world.stop(b)
    back = await world.hub("b")
    await back.link_to(a)
    assert a.switch.direct(back.node) is not stale
    await trio.sleep(2)
    assert stale.alive  # nobody has told; but it is in doubt, and leaves room for another
    assert a.switch.direct(back.node) is not stale
    world.network.crash("b", silent=True)
    world.stop(back)
    again = await world.hub("b")
    link = await again.link_to(a)
    assert link is not None
    await trio.sleep(0.2)
    assert len([each for each in a.switch.links() if each.node == again.node]) == 3


async def test_a_second_link_beside_a_live_one_casts_no_lasting_doubt(world: World) -> None:
    a, b = await world.hub("a"), await world.hub("b")
    await b.link_to(a)
    first = a.switch.direct(b.node)
    await b.link_to(a)
    await trio.sleep(0.5)
    assert first is not None
    assert not first.in_doubt()


async def test_a_node_whose_link_was_lost_lately_is_doubted_until_there_is_another() -> None:
    async with open_world() as world:
        a, b = await world.line("a", "b")
        assert a.switch.doubted() == ()
        world.network.reset("a", "b")
        await trio.sleep(0.1)
        assert a.switch.doubted() == (b.node,)
        await a.link_to(b)
        assert a.switch.doubted() == ()
        world.network.reset("a", "b")
        await trio.sleep(LATELY_S + 0.5)
        assert a.switch.doubted() == ()

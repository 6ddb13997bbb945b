"""Relays: every check of a route, the quotas, and that what ends at one side ends at the other."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from meshnode.net.link import Link, Stream, StreamLost
from meshnode.net.relay import RouteRefused, check_place
from meshwire.limits import CIRCUIT_IDLE_S, CIRCUITS_PER_KEY, PENDING_OPENS, SEEN_S
from meshwire.messages import Open
from meshwire.numbers import ResetCode
from tests.net.hubs import Hub, World, open_world


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Line:
    """a - b - c, where c keeps the circuits that end at it without reading them."""

    def __init__(self, world: World, hubs: list[Hub]) -> None:
        self.world = world
        self.a, self.b, self.c = hubs
        self.c.on_circuit = self.keep  # type: ignore[method-assign]
        self.kept: list[Stream] = []
        self._requests = 0

    async def keep(self, _link: Link, stream: Stream, _opening: Open) -> None:
        self.kept.append(stream)
        await stream.lost()

    @property
    def link(self) -> Link:
        link = self.a.switch.direct(self.b.node)
        assert link is not None
        return link

    def opening(self, **changes: object) -> Open:
        self._requests += 1
        route = (self.b.node, self.c.node)
        facts = {"route": route, "request": self._requests.to_bytes(8), "origin": self.a.node}
        return Open("circuit", **(facts | changes))

    async def open(self, **changes: object) -> Stream:
        stream = await self.link.open(self.opening(**changes))
        await trio.sleep(0.1)
        return stream


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    async with open_world() as world:
        yield Line(world, await world.line("a", "b", "c"))


async def code_of(stream: Stream) -> ResetCode:
    with pytest.raises(StreamLost) as caught, trio.fail_after(5):
        await stream.receive()
    return caught.value.code


async def test_a_good_route_is_carried_both_ways_and_seen_by_the_tap(line: Line) -> None:
    stream = await line.open()
    (far,) = line.kept
    await stream.send(b"there")
    assert await far.receive() == b"there"
    await far.send(b"back")
    assert await stream.receive() == b"back"
    assert line.b.tapped == [b"there", b"back"]


async def test_routes_that_do_not_fit_are_refused(line: Line) -> None:
    a, b, c = line.a.node, line.b.node, line.c.node
    stranger = b"\7" * 20
    for wrong in (
        {"route": (stranger, c)},  # it does not lead through here
        {"route": (c, b, stranger), "position": 0},
        {"route": (), "position": 9},
        {"route": (b, b)},  # a node twice
        {"route": (b, c, b)},
        {"route": (b, a)},  # back to where it came from
        {"origin": stranger},  # not who sent it
        {"origin": b""},
        {"route": (c, b, stranger), "position": 1, "origin": stranger},  # over another link than it should
    ):
        assert await code_of(await line.open(**wrong)) is ResetCode.BAD_ROUTE, wrong
    assert line.kept == []
    assert line.link.alive


def test_a_place_is_checked_on_its_own() -> None:
    a, b, c, d, e = (bytes([number]) * 20 for number in range(5))
    check_place(b, a, Open("circuit", route=(b, c, d), position=0, origin=a))
    check_place(c, b, Open("circuit", route=(b, c, d), position=1, origin=a))
    check_place(b, a, Open("circuit", route=(b,), position=0, origin=a))
    with pytest.raises(RouteRefused):
        check_place(b, a, Open("circuit", route=(b, c, d, e), position=0, origin=a))


async def test_a_hop_that_is_not_linked_is_unreachable(line: Line) -> None:
    stream = await line.open(route=(line.b.node, b"\7" * 20))
    assert await code_of(stream) is ResetCode.UNREACHABLE


async def test_a_relay_that_does_not_carry_to_the_next_hop_refuses(line: Line) -> None:
    line.b.carries = False
    assert await code_of(await line.open()) is ResetCode.REFUSED
    assert line.kept == []


async def test_the_same_circuit_passes_once(line: Line) -> None:
    await line.open(request=b"same")
    assert await code_of(await line.open(request=b"same")) is ResetCode.BAD_ROUTE
    await trio.sleep(SEEN_S + 1)
    await line.open(request=b"same")
    assert len(line.kept) == 2


async def test_a_peer_has_so_many_circuits_and_no_more(line: Line) -> None:
    held = [await line.open() for _ in range(CIRCUITS_PER_KEY)]
    assert await code_of(await line.open()) is ResetCode.TOO_MANY
    held[0].reset(ResetCode.CANCEL)
    await trio.sleep(0.5)
    await line.open()
    assert len(line.kept) == CIRCUITS_PER_KEY + 1


async def test_an_onward_link_that_is_full_refuses_the_circuit_and_nothing_else(line: Line) -> None:
    onward = line.b.switch.direct(line.c.node)
    assert onward is not None
    for number in range(PENDING_OPENS):
        await onward.open(Open("circuit", route=(line.c.node,), origin=line.b.node, request=bytes([number])))
    assert await code_of(await line.open()) is ResetCode.TOO_MANY
    assert line.link.alive


async def test_a_reset_travels_to_the_other_side(line: Line) -> None:
    near = await line.open()
    near.reset(ResetCode.CANCEL)
    assert await code_of(line.kept[0]) is ResetCode.CANCEL
    near = await line.open()
    line.kept[1].reset(ResetCode.DEADLINE)
    assert await code_of(near) is ResetCode.DEADLINE


@pytest.mark.parametrize("gone", ["a", "c"])
async def test_a_lost_link_breaks_the_circuit_on_the_other(line: Line, gone: str) -> None:
    near = await line.open()
    line.world.network.crash(gone)
    survivor = near if gone == "c" else line.kept[0]
    assert await code_of(survivor) is ResetCode.LINK_LOST


async def test_a_reset_is_seen_while_the_relay_waits_for_credit(line: Line) -> None:
    near = await line.open()
    with trio.move_on_after(1):
        while True:
            await near.send(bytes(30_000))
    near.reset(ResetCode.CANCEL)
    with trio.fail_after(1):
        await line.kept[0].lost()


async def test_what_came_before_a_reset_is_passed_on(line: Line) -> None:
    near = await line.open()
    far = line.kept[0]
    for number in range(4):  # more than the relay may pass on before somebody reads
        await far.send(bytes([number]) * 30_000)
    await trio.sleep(0.1)
    far.reset(ResetCode.REFUSED)
    await trio.sleep(0.05)
    for number in range(4):
        assert await near.receive() == bytes([number]) * 30_000


async def test_a_circuit_on_which_nothing_moves_is_let_go(line: Line) -> None:
    near = await line.open()
    await trio.sleep(CIRCUIT_IDLE_S / 2)
    await near.send(b"x")
    await trio.sleep(CIRCUIT_IDLE_S - 1)
    assert await line.kept[0].receive() == b"x"
    await trio.sleep(2)
    assert await code_of(near) is ResetCode.CANCEL

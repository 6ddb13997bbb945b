"""Streams on which something is due, over links that fall silent, answer slowly, or come back."""

import pytest
import trio

from meshnode.net.link import Link, Stream, StreamSilent
from meshwire.limits import ANSWER_PROBE_S, PROBE_ANSWER_S
from meshwire.messages import Open
from tests.net.hubs import World, open_world

SUSPECTED_S = ANSWER_PROBE_S + PROBE_ANSWER_S


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    """Nothing here waits for real."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def watched(world: World, *names: str) -> tuple[Link, Stream]:
    """A stream, to the end of a line, on which nothing comes by itself; it is watched."""
    hubs = await world.line(*names)
    path = tuple(hub.node for hub in hubs[1:])
    link = await hubs[0].circuits.reach(path)
    stream = await link.open(Open("ask"))
    link.watch(stream)
    await trio.sleep(20)
    return link, stream


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")], ids=["link", "circuit"])
async def test_silence_is_told_soon_and_again_and_not_once_it_is_over(names: tuple[str, ...]) -> None:
    async with open_world() as world:
        link, stream = await watched(world, *names)
        assert not link.in_doubt()
        world.network.hold(names[-2], names[-1])
        begun = trio.current_time()
        for _ in range(2):
            with pytest.raises(StreamSilent), trio.fail_after(2 * SUSPECTED_S):
                await stream.receive()
        assert SUSPECTED_S - 0.01 <= trio.current_time() - begun < 2 * SUSPECTED_S
        assert link.in_doubt()
        world.network.release(names[-2], names[-1])
        with trio.fail_after(1):
            await link.heard()
        assert not link.in_doubt()
        with trio.move_on_after(5):
            await stream.receive()
        assert link.alive


async def test_who_answers_pings_may_take_all_the_time_for_the_stream() -> None:
    async with open_world() as world:
        link, stream = await watched(world, "a", "b")
        world.network.shape("a", "b", delay_s=0.4)
        with trio.move_on_after(60) as scope:
            await stream.receive()
        assert scope.cancelled_caught
        assert link.alive


async def test_a_stream_that_nobody_watches_hears_of_no_silence() -> None:
    async with open_world() as world:
        link, stream = await watched(world, "a", "b")
        link.unwatch(stream)
        world.network.hold("a", "b")
        with trio.move_on_after(2 * SUSPECTED_S) as scope:
            await stream.receive()
        assert scope.cancelled_caught
        assert not link.in_doubt()


async def test_who_does_not_answer_is_not_asked_again_and_again() -> None:
    async with open_world() as world:
        link, _ = await watched(world, "a", "b")
        world.network.hold("a", "b")
        sent: list[str] = []
        world.network.on_message = lambda source, _target, _message: sent.append(source)
        for _ in range(8):
            link.probe()
            await trio.sleep(0.1)
        assert sent.count("a") == 1
        world.network.release("a", "b")
        with trio.fail_after(1):
            await link.heard()
        link.probe()
        assert sent.count("a") == 2

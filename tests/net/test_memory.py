"""What only the memory network can show: silence, stalls and cuts, in virtual time, the same every time."""

import random

import pytest
import trio

from meshnode.errors import Unreachable
from meshnode.net.base import Hello
from meshnode.net.link import Stream, StreamLost
from meshnode.net.memory import BUFFER_BYTES, MemoryNetwork
from meshnode.testing.clock import run_virtual
from meshwire import limits
from meshwire import messages as m
from meshwire.messages import Open
from tests.net.stage import HELLO, Stage, give, open_stage


def test_a_silent_end_is_found_dead_in_time() -> None:
    async def play(stage: Stage) -> None:
        near, far = await stage.pair()
        await trio.sleep(3)
        stage.memory.partition("a", "b")
        begun = trio.current_time()
        await near.closed()
        await far.closed()
        assert trio.current_time() - begun <= limits.DEAD_LINK_S
        assert "silent" in str(near.error)

    give("memory", play)


def test_an_idle_link_lives() -> None:
    async def play(stage: Stage) -> None:
        near, far = await stage.pair()
        await trio.sleep(500)
        assert near.alive
        assert far.alive

    give("memory", play)


def test_a_short_cut_is_survived_and_nothing_is_lost() -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        stream = await near.open(Open("ask"))
        stage.memory.partition("a", "b")
        for number in range(5):
            await stream.send(bytes([number]))
        await trio.sleep(6)
        stage.memory.heal("a", "b")
        assert [await stream.receive() for _ in range(5)] == [bytes([number]) for number in range(5)]
        assert near.alive

    give("memory", play)


def test_a_one_way_cut_kills_the_link_for_both() -> None:
    async def play(stage: Stage) -> None:
        near, far = await stage.pair()
        stage.memory.partition("b", "a", one_way=True)
        begun = trio.current_time()
        await near.closed()
        await far.closed()
        assert trio.current_time() - begun <= limits.DEAD_LINK_S + 1

    give("memory", play)


def test_a_crash_is_seen_at_once() -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        stream = await near.open(Open("ask"))
        begun = trio.current_time()
        stage.memory.crash("b")
        with pytest.raises(StreamLost):
            await stream.receive()
        assert trio.current_time() - begun < 0.1
        with pytest.raises(Unreachable):
            await stage.connect()

    give("memory", play)


def test_nobody_answers_behind_a_cut() -> None:
    async def play(stage: Stage) -> None:
        await stage.listen()
        stage.memory.partition("a", "b")
        with pytest.raises(Unreachable):
            await stage.connect()
        stage.memory.heal("a", "b")
        await stage.connect()

    give("memory", play)


async def send_for_ever(stream: Stream) -> None:
    while True:
        await stream.send(bytes(30_000))


def test_a_write_that_stalls_kills_the_link() -> None:
    """The other end takes nothing, and holds the connection open."""

    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        stage.memory.partition("a", "b", one_way=True)
        lost: list[float] = []

        async def pour() -> None:
            stream = await near.open(Open("ask"))
            with pytest.raises(StreamLost):
                await send_for_ever(stream)
            lost.append(trio.current_time())

        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(BUFFER_BYTES // limits.STREAM_CREDIT + 2):
                nursery.start_soon(pour)
        assert max(lost) - begun <= limits.WRITE_STALL_S + 0.1
        assert "has not taken anything" in str(near.error)

    give("memory", play)


def test_a_caller_that_leaves_a_stalled_write_leaves_no_half_message() -> None:
    """The caller itself is in the middle of the write when it is cancelled."""

    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        await trio.sleep(1)  # the first pings are over: nobody else writes
        stage.memory.partition("a", "b", one_way=True)

        async def heal_later() -> None:
            await trio.sleep(limits.WRITE_STALL_S / 2)
            stage.memory.heal("a", "b")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(heal_later)
            with trio.move_on_after(0.1) as impatience:
                for _ in range(BUFFER_BYTES // limits.STREAM_CREDIT + 4):
                    stream = await near.open(Open("ask"))
                    await stream.send(bytes(30_000))
                    await stream.send(bytes(30_000))
        assert impatience.cancelled_caught
        assert await near.request(m.DhtPing()) == m.DhtPong()

    give("memory", play)


def test_messages_pass_as_bytes_and_keep_their_order() -> None:
    async def play(stage: Stage) -> None:
        got: list[bytes] = []

        async def accept(transport: object) -> None:
            while True:
                got.append(await transport.receive())  # type: ignore[attr-defined]  # any transport

        await stage.listen(accept=accept)
        transport = await stage.connect()
        mutable = bytearray(b"first")
        await transport.send(mutable)
        mutable[:] = b"spoil"
        await transport.send(b"second")
        await trio.sleep(1)
        assert got == [b"first", b"second"]
        with pytest.raises(ValueError, match="too long"):
            await transport.send(bytes(limits.TRANSPORT_MESSAGE_MAX + 1))

    give("memory", play)


def test_the_same_seed_gives_the_same_play() -> None:
    async def play() -> list[tuple[float, int]]:
        trace: list[tuple[float, int]] = []
        async with open_stage("memory") as stage:
            near, _ = await stage.pair()

            async def talk(number: int) -> None:
                stream = await near.open(Open("ask"))
                for size in (10, 20_000, 500):
                    await stream.send(bytes(size))
                    await stream.receive()
                    trace.append((trio.current_time(), number))

            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(talk, number)
        return trace

    first = run_virtual(3, play)
    assert run_virtual(3, play) == first
    assert len(first) == 15


def test_delays_come_from_the_seed() -> None:
    one, same, other = (MemoryNetwork(random.Random(seed), (0.0, 1.0)) for seed in (1, 1, 2))
    drawn = [network.conditions.way("a", "b").delay_s for network in (one, other)]
    assert same.conditions.way("b", "a").delay_s == drawn[0] != drawn[1]


def test_hello_is_compared_before_anything_is_set_up() -> None:
    async def play(stage: Stage) -> None:
        await stage.listen(HELLO)
        with pytest.raises(Unreachable):
            await stage.connect(Hello((9,), b""))
        assert not stage.memory._transports

    give("memory", play)

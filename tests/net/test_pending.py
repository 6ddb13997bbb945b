"""Pings that somebody waits for: over both networks, many at once, on a link that ends, and given up."""

import pytest
import trio

from meshnode.errors import Unreachable
from meshnode.net.link import Link
from meshwire import limits
from tests.net.stage import Stage, give


@pytest.fixture(params=["memory", "websocket"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_ping_measures_its_own_round_trip(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, far = await stage.pair()
        for link in (near, far):
            begun = trio.current_time()
            rtt_ms = await link.ping()
            assert 0 < rtt_ms <= 1000 * (trio.current_time() - begun)

    give(kind, play)


def test_many_at_once_are_answered_and_only_so_many_are_on_their_way(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        answered: list[float] = []
        most = 0

        async def ping() -> None:
            nonlocal most
            answered.append(await near.ping())
            most = max(most, len(near._pongs._waiting))

        async with trio.open_nursery() as nursery:
            for _ in range(3 * limits.PENDING_REQUESTS):
                nursery.start_soon(ping)
        assert len(answered) == 3 * limits.PENDING_REQUESTS
        assert most <= limits.PENDING_REQUESTS
        assert not near._pongs._waiting

    give(kind, play)


def test_one_that_is_given_up_leaves_nothing_and_its_answer_harms_nobody(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        with trio.move_on_after(0) as scope:
            await near.ping()
        assert scope.cancelled_caught
        assert not near._pongs._waiting
        assert await near.ping() > 0
        assert near.alive

    give(kind, play)


def test_a_link_that_ends_or_has_ended_is_an_error(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        failures: list[Unreachable] = []

        async def ping(link: Link) -> None:
            try:
                await link.ping()
            except Unreachable as error:
                failures.append(error)

        near.session.ping = lambda _token: None  # type: ignore[method-assign]  # no ping leaves any more
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping, near)
            await trio.sleep(0.05)
            assert not failures
            await near.aclose()
        await ping(near)
        assert len(failures) == 2

    give(kind, play)

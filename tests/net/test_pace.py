"""The rate of bulk traffic, in virtual time."""

import pytest
import trio
import trio.testing

from meshnode.net.pace import BURST_S, LIVE_BYTES_PER_S, Pace


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def spend(pace: Pace, count: int, each: int) -> float:
    begun = trio.current_time()
    for _ in range(count):
        await pace.take(each)
    return trio.current_time() - begun


async def test_without_a_bound_nothing_waits() -> None:
    assert await spend(Pace(0, lambda: False), 1000, 1 << 20) == 0


async def test_the_owners_bound_holds_over_all_who_share_it() -> None:
    pace = Pace(1 << 20, lambda: False)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(spend, pace, 32, 1 << 15)
    took = trio.current_time() - begun
    assert took == pytest.approx(4.0, abs=2 * BURST_S + 0.05)


async def test_while_somebody_waits_for_an_answer_weights_go_slowly() -> None:
    live = True
    pace = Pace(0, lambda: live)
    took = await spend(pace, 64, 1 << 15)
    assert took == pytest.approx((64 << 15) / LIVE_BYTES_PER_S, abs=0.1)
    live = False
    assert await spend(pace, 64, 1 << 15) == 0

"""Virtual time: it jumps to what is waited for, calls back in order, and is still for whoever waits for idleness."""

import trio
import trio.testing

from meshnode.testing.clock import VirtualClock, run_virtual


def clock() -> VirtualClock:
    found = trio.lowlevel.current_clock()
    assert isinstance(found, VirtualClock)
    return found


def test_a_day_passes_at_once() -> None:
    async def play() -> float:
        await trio.sleep(86_400)
        return trio.current_time()

    assert run_virtual(1, play) == 86_400


def test_it_calls_back_in_the_order_of_times_and_of_asking() -> None:
    async def play() -> list[tuple[str, float]]:
        called: list[tuple[str, float]] = []
        for name, moment in (("late", 2.0), ("first", 1.0), ("second", 1.0), ("past", -1.0)):
            clock().call_at(moment, lambda name=name: called.append((name, trio.current_time())))  # type: ignore[misc]
        await trio.sleep(3)
        return called

    assert run_virtual(1, play) == [("past", 0.0), ("first", 1.0), ("second", 1.0), ("late", 2.0)]


def test_a_timeout_between_two_calls_is_not_jumped_over() -> None:
    async def play() -> float:
        clock().call_at(1.0, lambda: None)
        clock().call_at(3.0, lambda: None)
        with trio.move_on_after(2):
            await trio.sleep_forever()
        return trio.current_time()

    assert run_virtual(1, play) == 2.0


def test_time_stands_still_until_all_who_wait_for_idleness_have_gone_on() -> None:
    async def play() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            await trio.testing.wait_all_tasks_blocked()
            return trio.current_time()

    assert run_virtual(1, play) == 0.0

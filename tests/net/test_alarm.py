"""Waking whoever waits: at once, at a time, with and without a clock that calls back."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from meshnode.net.alarm import Alarm, CallAt
from meshnode.testing.clock import VirtualClock, run_virtual


def alarm_of(kind: str) -> Alarm:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, VirtualClock)
    call_at: CallAt | None = clock.call_at if kind == "called back" else None
    return Alarm(call_at)


async def woken_at(alarm: Alarm, change: Callable[[], None], until: float) -> float:
    """When whoever waits until then is woken, if this happens after a second."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.wait, until)
        await trio.sleep(1)
        change()
    return trio.current_time()


@pytest.mark.parametrize("kind", ["called back", "in a scope"])
@pytest.mark.parametrize(
    ("change", "until", "woken"),
    [("nothing", 5.0, 5.0), ("ring", 5.0, 1.0), ("ring_at", 5.0, 3.0), ("ring_at", float("inf"), 3.0)],
)
def test_it_wakes_when_it_should(kind: str, change: str, until: float, woken: float) -> None:
    async def play() -> float:
        alarm = alarm_of(kind)
        changes: dict[str, Any] = {
            "nothing": lambda: None,
            "ring": alarm.ring,
            "ring_at": lambda: alarm.ring_at(3.0),
        }
        return await woken_at(alarm, changes[change], until)

    assert run_virtual(1, play) == woken


@pytest.mark.parametrize("kind", ["called back", "in a scope"])
def test_who_stopped_waiting_is_not_woken_and_the_next_one_is(kind: str) -> None:
    async def play() -> float:
        alarm = alarm_of(kind)
        with trio.move_on_after(1):
            await alarm.wait()
        alarm.ring()  # nobody waits
        return await woken_at(alarm, alarm.ring, 5.0)

    assert run_virtual(1, play) == 2.0


def test_only_one_may_wait() -> None:
    async def play() -> str:
        alarm = alarm_of("called back")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarm.wait, 5.0)
            await trio.sleep(1)
            try:
                await alarm.wait(5.0)
            except trio.BusyResourceError as error:
                return str(error)
        return ""

    assert run_virtual(1, play) == "Somebody waits already."

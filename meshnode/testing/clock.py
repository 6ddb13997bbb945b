"""Virtual time with one reproducible schedule: the same seed gives the same order of everything.

Trio shuffles the tasks that are ready on purpose, from a random source of its own, and puts them in the order
of their creation first only when told that someone needs determinism. Both switches are private to trio, and so is
whether a task waits for all others to be blocked; this is the only place that touches them.
"""

import gc
import heapq
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
from trio._core import _run as scheduler

T = TypeVar("T")


class VirtualClock(trio.abc.Clock):
    """Time that jumps to the next moment anybody waits for, whenever every task waits.

    What `MockClock(autojump_threshold=0)` of trio does, and besides it calls back: a message that arrives wakes
    whoever reads without a cancel scope, which is most of what waiting costs.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._asked = 0

    def start_clock(self) -> None:
        """As trio wants it: there is nothing to start."""

    def current_time(self) -> float:
        """Seconds since the start."""
        return self._now

    def call_at(self, moment: float, call: Callable[[], object]) -> None:
        """Call this once it is that time, in the order of times and then of asking; it may not wait."""
        self._asked += 1
        heapq.heappush(self._calls, (moment, self._asked, call))

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump: trio asks only when no task can run."""
        moment = min(deadline, self._calls[0][0]) if self._calls else deadline
        if math.isinf(moment) or scheduler.GLOBAL_RUN_CONTEXT.runner.waiting_for_idle:
            return math.inf
        self._now = max(self._now, moment)
        while self._calls and self._calls[0][0] <= self._now:
            heapq.heappop(self._calls)[2]()
        return 0.0


@contextmanager
def _seeded_schedule(seed: int) -> Iterator[None]:
    """Trio's scheduler drawing from `seed`, and as it was afterwards."""
    state = scheduler._r.getstate()
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._r.setstate(state)
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Garbage collected less often: a run holds many objects, and looking at all of them was a third of its time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run_virtual(seed: int, play: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run `play(*args)` on a clock that jumps whenever every task waits, scheduled by `seed` alone."""
    with _seeded_schedule(seed), _seldom_collected():
        return trio.run(play, *args, clock=VirtualClock())

"""Virtual time with one reproducible schedule: the same seed gives the same order of everything.

Trio shuffles the tasks that are ready on purpose, from a random source of its own, and puts them in the order
of their creation first only when told that someone needs determinism. Both switches are private to trio, so
this is the only place that touches them.
"""

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
import trio.testing
from trio._core import _run as scheduler

T = TypeVar("T")


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
        return trio.run(play, *args, clock=trio.testing.MockClock(autojump_threshold=0))

"""Virtual time with one reproducible schedule: the same seed gives the same order of everything.

Trio shuffles the tasks that are ready on purpose, from a random source of its own, and puts them in the order
of their creation first only when told that someone needs determinism. Both switches are private to trio, so
this is the only place that touches them.
"""

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


def run_virtual(seed: int, play: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run `play(*args)` on a clock that jumps whenever every task waits, scheduled by `seed` alone."""
    with _seeded_schedule(seed):
        return trio.run(play, *args, clock=trio.testing.MockClock(autojump_threshold=0))

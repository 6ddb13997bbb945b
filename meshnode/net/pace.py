"""A rate for a node's bulk traffic, so that answers which people wait for never wait behind weights."""

from collections.abc import Callable

import trio

LIVE_BYTES_PER_S = 2 << 20  # all weights of a node together, while it works for a live request
BURST_S = 0.02


class Pace:
    """Lets bytes through at a rate, in the order in which they were asked for.

    `bytes_per_s` is the owner's bound, 0 for none; while `live()`, LIVE_BYTES_PER_S is one too.
    """

    def __init__(self, bytes_per_s: int, live: Callable[[], bool]) -> None:
        self._bytes_per_s = bytes_per_s
        self._live = live
        self._free_at = 0.0

    @property
    def rate(self) -> int:
        """The bound now, in bytes per second; 0 for none."""
        bounds = [self._bytes_per_s, LIVE_BYTES_PER_S if self._live() else 0]
        return min((bound for bound in bounds if bound), default=0)

    async def take(self, count: int) -> None:
        """Wait until so many bytes may pass."""
        rate = self.rate
        if not rate:
            return
        now = trio.current_time()
        begin = max(self._free_at, now - BURST_S)
        self._free_at = begin + count / rate
        if begin > now:
            await trio.sleep_until(begin)

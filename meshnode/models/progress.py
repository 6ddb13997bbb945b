"""How far a pull is and how fast it goes. It knows the clock it is given, and neither sources nor screens."""

from collections import deque
from collections.abc import Callable

import msgspec
import trio

RATE_WINDOW_S = 5.0
TELL_EVERY_S = 0.1
SAMPLES_MAX = 64


class PullProgress(msgspec.Struct, frozen=True):
    """How far a pull is.

    `step` is asking, fetching, unpacking, copying, checking, waiting or retrying; `done` and `total` are bytes,
    `total` 0 when it is not known; `bytes_per_s` is the speed over the last seconds, `left_s` how long the rest
    takes at that speed; both are 0 when they are not known yet. `peers` is how many nodes of the mesh give it.
    """

    step: str
    done: int
    total: int
    bytes_per_s: float = 0.0
    left_s: float = 0.0
    peers: int = 0


OnProgress = Callable[[PullProgress], None]


def silent(_progress: PullProgress) -> None:
    """For callers who do not care."""


class Meter:
    """Turns byte counts into progress: with a speed, not more often than anybody can read, the last always."""

    def __init__(self, tell: OnProgress, clock: Callable[[], float] = trio.current_time) -> None:
        self._tell = tell
        self._clock = clock
        self._step = ""
        self.peers = 0
        self._told: tuple[int, int] | None = None
        self._told_at = 0.0
        self._seen: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)

    def begin(self, step: str, done: int, total: int) -> None:
        """A step begins, with so much of it done before: that does not count as speed."""
        self._step = step
        self._told = None
        self._seen.clear()
        self.at(done, total)

    def at(self, done: int, total: int) -> None:
        """So many bytes of the step are done."""
        now = self._clock()
        last = done == total
        if (done, total) == self._told or (self._told and not last and now < self._told_at + TELL_EVERY_S):
            return
        self._told, self._told_at = (done, total), now
        speed = self._speed(now, done)
        left_s = (total - done) / speed if speed and total > done else 0.0
        self._tell(PullProgress(self._step, done, total, speed, left_s, self.peers))

    def _speed(self, now: float, done: int) -> float:
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[0][0] < now - RATE_WINDOW_S:
            self._seen.popleft()
        since, before = self._seen[0]
        return max(0, done - before) / (now - since) if now > since else 0.0

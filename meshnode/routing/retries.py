"""How many requests may be tried again: a tenth of those that came lately, so that trouble does not multiply itself.

A node that has few requests may always try a few again, as in Finagle's retry budget. It knows no requests.
"""

from collections import deque

SHARE = 0.1
ALTERNATES = 2  # for one request
WINDOW_S = 10.0
FLOOR = 10  # in a window, however few requests there were
REQUESTS_MAX = 65_536  # remembered; of more in a window, no more count


class RetryBudget:
    """Counts what comes in and what is tried again."""

    def __init__(self) -> None:
        self._asked: deque[float] = deque(maxlen=REQUESTS_MAX)
        self._retried: deque[float] = deque(maxlen=REQUESTS_MAX)

    def asked(self, now: float) -> None:
        """A request came in."""
        _forget(self._asked, now)
        self._asked.append(now)

    def may_retry(self, now: float) -> bool:
        """Whether one may be tried again; it counts then."""
        _forget(self._asked, now)
        _forget(self._retried, now)
        if len(self._retried) >= FLOOR + SHARE * len(self._asked):
            return False
        self._retried.append(now)
        return True


def _forget(times: deque[float], now: float) -> None:
    while times and times[0] <= now - WINDOW_S:
        times.popleft()

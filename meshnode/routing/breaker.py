"""A circuit breaker for each pair of node and model: who fails is left alone for a while, then tried once.

States and slow start are those of common practice (Nygard, Release It!; Envoy's outlier detection). Keyed by the
node's key, so that connecting anew resets nothing. Time and jitter are arguments; it waits for nothing.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import StrEnum

from meshnode.routing.ledger import Key
from meshnode.seams import Rng

IN_A_ROW = 3
WINDOW_S = 60.0
WINDOW_LEAST = 5
WINDOW_SHARE = 0.5
WINDOW_MAX = 256  # outcomes looked at
OPENS_S = 5.0
OPENS_LATEST_S = 60.0
JITTER = 0.2  # downwards only: nobody is shut out for longer than OPENS_LATEST_S
SLOW_START_S = 20.0
SLOW_START_SHARE = 0.2
TRIAL_S = 120.0  # a trial request whose end nobody tells is taken for abandoned after this
BREAKERS_MAX = 1024


class Outcome(StrEnum):
    """How a request went, as far as its node is at fault. What says nothing about the node is not told at all:
    that it was cancelled, refused as wrong, or that the node was busy.
    """

    SERVED = "served"
    FAILED = "failed"  # lost, or answered with an error of its own
    SILENT = "silent"  # nothing came in time: it costs so much that once is enough


@dataclass(slots=True)
class _Breaker:
    failures: int = 0  # in a row
    recent: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=WINDOW_MAX))
    open_until: float = 0.0
    opens_s: float = 0.0  # how long it was open last; 0 while it is closed
    silent: bool = False  # what opened it cost the time of waiting
    trial: str = ""  # the request that tries it
    trial_at: float = 0.0
    closed_at: float = -SLOW_START_S

    def trial_runs(self, now: float) -> bool:
        """Whether a request is trying it."""
        return bool(self.trial) and now < self.trial_at + TRIAL_S


class Breakers:
    """Every breaker of one node; a pair that never failed has none."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._breakers: OrderedDict[Key, _Breaker] = OrderedDict()

    def lets_through(self, key: Key, now: float) -> bool:
        """Whether a request may go there now."""
        breaker = self._breakers.get(key)
        if breaker is None or not breaker.opens_s:
            return True
        return now >= breaker.open_until and not breaker.trial_runs(now)

    def is_silent(self, key: Key) -> bool:
        """Whether its last failure was silence, so that even one who has nobody else is better off without it."""
        breaker = self._breakers.get(key)
        return breaker is not None and breaker.silent

    def is_due(self, key: Key, now: float) -> bool:
        """Whether it is open, and waits for a request to try it with."""
        breaker = self._breakers.get(key)
        return breaker is not None and bool(breaker.opens_s) and self.lets_through(key, now)

    def share(self, key: Key, now: float) -> float:
        """How much of its capacity to count on: it grows back slowly after it closed."""
        breaker = self._breakers.get(key)
        if breaker is None:
            return 1.0
        if breaker.opens_s:
            return SLOW_START_SHARE
        part = min(1.0, max(0.0, now - breaker.closed_at) / SLOW_START_S)
        return SLOW_START_SHARE + (1 - SLOW_START_SHARE) * part

    def sent(self, key: Key, request: str, now: float) -> None:
        """A request goes there; at a breaker that is open it is the one that tries it."""
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.opens_s and not breaker.trial_runs(now):
            breaker.trial, breaker.trial_at = request, now

    def left(self, key: Key, request: str) -> None:
        """A request ended there and says nothing about the node; another may try it."""
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.trial == request:
            breaker.trial = ""

    def note(self, key: Key, request: str, outcome: Outcome, now: float) -> None:
        """A request went well or not."""
        if outcome is Outcome.SERVED:
            self._served(key, request, now)
            return
        breaker = self._breakers.pop(key, None) or _Breaker()
        while len(self._breakers) >= BREAKERS_MAX:
            self._breakers.popitem(last=False)
        self._breakers[key] = breaker
        breaker.recent.append((now, False))
        breaker.failures += 1
        breaker.silent = outcome is Outcome.SILENT
        if breaker.opens_s:  # late news of what was sent before does not shut it for longer
            if breaker.trial and breaker.trial == request:
                self._open(breaker, now)
        elif outcome is Outcome.SILENT or breaker.failures >= IN_A_ROW or _mostly_fails(breaker, now):
            self._open(breaker, now)

    def _served(self, key: Key, request: str, now: float) -> None:
        breaker = self._breakers.get(key)
        if breaker is None:
            return
        breaker.recent.append((now, True))
        breaker.failures = 0
        if breaker.opens_s and breaker.trial and breaker.trial == request:
            breaker.opens_s, breaker.trial, breaker.closed_at = 0.0, "", now
            breaker.recent.clear()

    def _open(self, breaker: _Breaker, now: float) -> None:
        breaker.opens_s = min(OPENS_LATEST_S, 2 * breaker.opens_s or OPENS_S)
        breaker.open_until = now + breaker.opens_s * (1 - JITTER * self._rng.random())
        breaker.trial = ""
        breaker.failures = 0


def _mostly_fails(breaker: _Breaker, now: float) -> bool:
    recent = [served for at, served in breaker.recent if now - at < WINDOW_S]
    return len(recent) >= WINDOW_LEAST and recent.count(False) >= WINDOW_SHARE * len(recent)

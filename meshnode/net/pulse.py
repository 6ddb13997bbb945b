"""Whether the other end of a link still answers, and how fast. Pure: the time, in seconds, is an argument."""

from meshwire.limits import DEAD_LINK_S, PING_S

RTT_GAIN = 1 / 8  # how far one measurement moves the smoothed round trip (RFC 6298)
PINGS_KEPT = 16  # no more can be on their way before the link is dead: a watcher sends one a second


class Pulse:
    """The pings of one link.

    `rtt_ms` is the smoothed round trip, None before the first answer; `heard_at` when anything last came.
    """

    def __init__(self, now: float) -> None:
        self.rtt_ms: float | None = None
        self._doubted_at: float | None = None
        self.heard_at = now
        self._token = 0
        self._pinged_at: dict[int, float] = {}

    def heard(self, now: float) -> None:
        """Something, anything, has come."""
        self.heard_at = now
        self._doubted_at = None

    def doubt(self, now: float) -> None:
        """There is a reason to believe the other end gone."""
        if self._doubted_at is None:
            self._doubted_at = now

    def in_doubt(self, now: float, for_s: float = 0.0) -> bool:
        """Whether nothing has come since it was doubted, for so many seconds."""
        return self._doubted_at is not None and now >= self._doubted_at + for_s

    def ping(self, now: float) -> int:
        """The token of a ping that leaves now."""
        self._token += 1
        self._pinged_at[self._token] = now
        self._pinged_at.pop(self._token - PINGS_KEPT, None)
        return self._token

    def ponged(self, token: int, now: float) -> None:
        """A ping was answered; an answer to none is ignored."""
        pinged_at = self._pinged_at.pop(token, None)
        if pinged_at is not None:
            measured_ms = 1000 * (now - pinged_at)
            known_ms = measured_ms if self.rtt_ms is None else self.rtt_ms
            self.rtt_ms = known_ms + RTT_GAIN * (measured_ms - known_ms)

    def is_dead(self, now: float) -> bool:
        """Whether nothing has come for DEAD_LINK_S."""
        return now >= self.heard_at + DEAD_LINK_S

    def next_look(self, now: float) -> float:
        """When to ping, or to find the link dead."""
        return min(now + PING_S, self.heard_at + DEAD_LINK_S)

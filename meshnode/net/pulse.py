"""Whether the other end of a link still answers, and how fast. Pure: the time, in seconds, is an argument."""

from meshwire.limits import ANSWER_PROBE_S, DEAD_LINK_S, PING_S, PROBE_ANSWER_S

RTT_GAIN = 1 / 8  # how far one measurement moves the smoothed round trip (RFC 6298)
YOUNG_GAIN = (
    1 / 2
)  # down, while a link is young: its first round trips pass beside handshakes and models being loaded
YOUNG = 8  # measurements
SPREAD_GAIN = 1 / 4  # and how far its distance moves their mean distance
SPREAD_FIRST = 1 / 8  # of the first round trip: a way between two devices is steadier than RFC 6298 expects
SPREADS = 4
UNKNOWN_RTT_S = 0.5
MEASURE_S = 30.0  # no link goes longer without a measurement
MEASURE_FIRST_S = 1.0  # to the second measurement; then as long again as the link is old
PINGS_KEPT = 16  # no more can be on their way before the link is dead: a watcher sends one a second


class Pulse:
    """The pings of one link. One that `greets` sends the first at once.

    `rtt_ms` is the smoothed round trip, None before the first answer; `heard_at` when anything last came. While it is
    `watched`, silence is asked about after ANSWER_PROBE_S, and is suspicious when the answer is overdue.
    """

    def __init__(self, now: float, *, greets: bool = True) -> None:
        self.rtt_ms: float | None = None
        self.watched = False
        self._spread_ms = 0.0
        self._doubted_at: float | None = None
        self.heard_at = now
        self._asked_at: float | None = None  # the first ping since anything was heard
        self._pinged_last = now - MEASURE_S if greets else now
        self._born = now if greets else now - MEASURE_S
        self._measurements = 0
        self._token = 0
        self._pinged_at: dict[int, float] = {}

    def heard(self, now: float) -> None:
        """Something, anything, has come."""
        self.heard_at = now
        self._doubted_at = self._asked_at = None

    def doubt(self, now: float) -> None:
        """There is a reason to believe the other end gone."""
        if self._doubted_at is None:
            self._doubted_at = now

    def in_doubt(self, now: float, for_s: float = 0.0) -> bool:
        """Whether nothing has come since it was doubted, for so many seconds."""
        return self._doubted_at is not None and now >= self._doubted_at + for_s

    @property
    def asking(self) -> bool:
        """Whether a ping went out and nothing at all has come since."""
        return self._asked_at is not None

    @property
    def patience_s(self) -> float:
        """How long the answer to a ping may take: what is usual and somewhat more, at least PROBE_ANSWER_S."""
        if self.rtt_ms is None:
            return PROBE_ANSWER_S + UNKNOWN_RTT_S
        return max(PROBE_ANSWER_S, (self.rtt_ms + SPREADS * self._spread_ms) / 1000)

    def is_suspicious(self, now: float) -> bool:
        """Whether a ping went out and nothing at all has come for longer than an answer takes."""
        return self._asked_at is not None and now >= self._asked_at + self.patience_s

    def ping(self, now: float) -> int:
        """The token of a ping that leaves now."""
        self._token += 1
        self._pinged_at[self._token] = self._pinged_last = now
        self._pinged_at.pop(self._token - PINGS_KEPT, None)
        if self._asked_at is None:
            self._asked_at = now
        return self._token

    def ponged(self, token: int, now: float) -> None:
        """A ping was answered; an answer to none is ignored."""
        pinged_at = self._pinged_at.pop(token, None)
        if pinged_at is not None:
            self._measured(1000 * (now - pinged_at))

    def _measured(self, measured_ms: float) -> None:
        self._measurements += 1
        if self.rtt_ms is None:
            self.rtt_ms, self._spread_ms = measured_ms, SPREAD_FIRST * measured_ms
            return
        self._spread_ms += SPREAD_GAIN * (abs(measured_ms - self.rtt_ms) - self._spread_ms)
        young = self._measurements <= YOUNG and measured_ms < self.rtt_ms
        gain = YOUNG_GAIN if young else RTT_GAIN
        self.rtt_ms += gain * (measured_ms - self.rtt_ms)

    def is_dead(self, now: float) -> bool:
        """Whether nothing has come for DEAD_LINK_S."""
        return now >= self.heard_at + DEAD_LINK_S

    def wants_ping(self, now: float) -> bool:
        """Whether it is time for one: after PING_S of silence, to measure, and earlier where silence is watched."""
        return now >= min(self._ping_at, self._probe_at)

    @property
    def _ping_at(self) -> float:
        """When a ping is due whether or not silence is watched."""
        measure_s = min(max(self._pinged_last - self._born, MEASURE_FIRST_S), MEASURE_S)
        return min(max(self._pinged_last, self.heard_at) + PING_S, self._pinged_last + measure_s)

    @property
    def _probe_at(self) -> float:
        """When watched silence is asked about; never twice."""
        return self.heard_at + ANSWER_PROBE_S if self.watched and self._asked_at is None else float("inf")

    def next_look(self, now: float) -> float:
        """When to ping, to find the link suspicious, or to find it dead."""
        look = min(self._ping_at, self.heard_at + DEAD_LINK_S, self._probe_at)
        if self.watched and self._asked_at is not None:
            due = self._asked_at + self.patience_s
            look = min(look, due if due > now else now + ANSWER_PROBE_S)
        return look

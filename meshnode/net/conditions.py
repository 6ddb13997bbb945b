"""What lies between two places of the memory network, one way: delay, loss, bandwidth, and what stops all of it.

Connections behave as TCP's do: what is lost is sent again after a pause that doubles, so loss shows as a stall,
and as a broken connection once a packet has not got through for GIVE_UP_S. Order is kept within a connection
and not between two.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from meshnode.seams import Rng

PACKET_BYTES = 1448  # the payload of a TCP segment on Ethernet
RETRY_S = 0.2  # the shortest pause before a packet is sent again: Linux's TCP_RTO_MIN
GIVE_UP_S = 15.0  # a connection that has stalled for so long breaks
KNOCKS_S = (0.0, 1.0, 2.0, 4.0)  # pauses before each attempt to connect: Linux's, of SYN packets

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Way:
    """One direction between two places.

    `delay_s` is what every message takes, and up to `jitter_s` more, drawn for each; `loss` is the share of
    packets that are lost; `bytes_per_s` is shared by all connections.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bytes_per_s: float = math.inf

    def __post_init__(self) -> None:
        times = (self.delay_s, self.jitter_s)
        if min(times) < 0 or not all(map(math.isfinite, times)):
            raise ValueError(f"delay_s and jitter_s must be finite and not negative: {times}")
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss must be between 0 and 1: {self.loss}")
        if not self.bytes_per_s > 0:
            raise ValueError(f"bytes_per_s must be positive: {self.bytes_per_s}")

    @property
    def retry_s(self) -> float:
        """The first pause before a lost packet is sent again; the way back is taken to be as long."""
        return max(RETRY_S, 4 * self.delay_s)


class Conditions:
    """The ways between all places. A delay that nobody sets is drawn once for both directions of a pair."""

    def __init__(self, rng: Rng, delay_s: tuple[float, float]) -> None:
        self._rng = rng
        self._delay_range_s = delay_s
        self._ways: dict[Pair, Way] = {}
        self._busy_until: dict[Pair, float] = {}
        self._parted: dict[Pair, None] = {}
        self._held: dict[Pair, None] = {}
        self._paused: dict[str, None] = {}
        self._dark: dict[str, None] = {}

    # --- What can be set ---

    def set(self, a: str, b: str, *, one_way: bool = False, **changes: Any) -> None:
        """Change fields of the Way from a to b, and of the one back unless `one_way`."""
        for pair in _both(a, b, one_way=one_way):
            self._ways[pair] = replace(self.way(*pair), **changes)

    def part(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Lose everything from a to b, and back unless `one_way`."""
        self._parted |= dict.fromkeys(_both(a, b, one_way=one_way))

    def hold(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Keep everything from a to b where it is, and back unless `one_way`."""
        self._held |= dict.fromkeys(_both(a, b, one_way=one_way))

    def release(self, a: str, b: str) -> None:
        """Do not hold these two any more, in either direction."""
        for pair in _both(a, b):
            self._held.pop(pair, None)

    def open(self, a: str, b: str) -> None:
        """Neither part nor hold these two, in either direction."""
        self.release(a, b)
        for pair in _both(a, b):
            self._parted.pop(pair, None)

    def open_all(self) -> None:
        """Neither part nor hold anybody."""
        self._parted.clear()
        self._held.clear()

    def pause(self, name: str) -> None:
        """Let a place neither send nor receive until `resume`."""
        self._paused[name] = None

    def resume(self, name: str) -> None:
        """The end of a pause."""
        self._paused.pop(name, None)

    def darken(self, name: str, *, dark: bool) -> None:
        """Whether a place has no power: nobody hears of it, not even that its connections are gone."""
        if dark:
            self._dark[name] = None
        else:
            self._dark.pop(name, None)

    # --- What follows ---

    def way(self, a: str, b: str) -> Way:
        """The way from a to b."""
        if (a, b) not in self._ways:
            delay_s = self._rng.uniform(*self._delay_range_s)
            self._ways |= dict.fromkeys(_both(a, b), Way(delay_s))
        return self._ways[a, b]

    def parted(self, a: str, b: str) -> bool:
        """Whether what goes from a to b is lost."""
        return (a, b) in self._parted or a in self._dark or b in self._dark

    def passes(self, a: str, b: str) -> bool:
        """Whether anything gets from a to b now."""
        if not (self._held or self._paused or self._parted or self._dark):
            return True
        waits = (a, b) in self._held or a in self._paused or b in self._paused
        return not waits and not self.parted(a, b)

    def connects(self, a: str, b: str) -> bool:
        """Whether one attempt to connect would succeed now: a packet there and one back."""
        return self.passes(a, b) and self.passes(b, a) and not (self._loses(a, b) or self._loses(b, a))

    def arrival(self, a: str, b: str, size: int, now: float) -> float:
        """When a message of `size` bytes that leaves a now is at b; infinity if the connection breaks over it."""
        way = self.way(a, b)
        sent = max(now, self._busy_until.get((a, b), 0.0)) + size / way.bytes_per_s
        self._busy_until[a, b] = sent
        jitter_s = self._rng.uniform(0, way.jitter_s) if way.jitter_s else 0.0
        return sent + way.delay_s + jitter_s + self._stall_s(way, size)

    def retried(self, a: str, b: str, stopped_at: float, now: float) -> float:
        """When a packet that has been lost since `stopped_at` is sent again, now that it can pass; or infinity."""
        pause_s = self.way(a, b).retry_s
        if now - stopped_at > GIVE_UP_S:
            return math.inf
        doublings = math.ceil(math.log2((now - stopped_at) / pause_s + 1))
        return stopped_at + pause_s * float(2**doublings - 1)

    def _loses(self, a: str, b: str) -> bool:
        loss = self.way(a, b).loss
        return bool(loss) and self._rng.random() < loss

    def _stall_s(self, way: Way, size: int) -> float:
        """How long the packet of a message that is lost most often holds it up; infinity is too long."""
        if not way.loss:
            return 0.0
        packets = max(1, math.ceil(size / PACKET_BYTES))
        # One draw from the distribution of the largest of so many geometric numbers.
        share = 1 - self._rng.random() ** (1 / packets)
        losses = math.inf if way.loss == 1 else math.floor(math.log(share) / math.log(way.loss))
        stall_s: float = way.retry_s * (2 ** min(losses, 64) - 1)
        return stall_s if stall_s <= GIVE_UP_S else math.inf


def _both(a: str, b: str, *, one_way: bool = False) -> tuple[Pair, ...]:
    return ((a, b),) if one_way else ((a, b), (b, a))

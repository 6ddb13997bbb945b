"""Whom a watcher has not heard for too long, and whether that may be its own fault. Pure; it signs nothing.

Lifeguard's idea (Dadgar, Phillips, Currey, 2018): a node that hears many late is probably slow itself, so it takes
longer to doubt others; one that hears nobody doubts nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from meshwire.ids import NodeId
from meshwire.limits import PROBE_S

PROBES_MISSED = 2.5  # so many intervals of silence, besides the round trips, before a node is doubted
LATE_PROBES = 2.0  # a link counts as live if it answered within so many
RTT_MOST_S = 1.0  # stalls make a measured round trip longer than any probe that comes each second needs
LOST_S = 0.25  # a lost link is often made again at once
OWN_FAULT = 1.5  # how much longer it takes, in the same intervals, when all others are late too
ASLEEP_S = 3 * PROBE_S  # a look that comes so late tells of this node, not of the others


class Sight(NamedTuple):
    """What is known of another node by its link: when it was last heard, its round trip, whether it is up.

    For a link that was lost, `heard_at` is when that was seen.
    """

    heard_at: float
    rtt_s: float
    linked: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found: whom to probe now, and whom to ask others about."""

    quiet: tuple[NodeId, ...]
    doubted: tuple[NodeId, ...]


def is_live(sight: Sight, now: float) -> bool:
    """Whether the link answered lately enough to outweigh what anybody says."""
    return sight.linked and now - sight.heard_at <= LATE_PROBES * PROBE_S + min(sight.rtt_s, RTT_MOST_S)


def answers_needed(asked: int) -> int:
    """How many of those asked about a node must say that they do not hear it: a third, and two if there are three."""
    return max(min(2, ceil(asked / 2)), ceil(asked / 3))


def own_fault(sights: Mapping[NodeId, Sight], about: NodeId, now: float) -> float:
    """From 0 to 1, how likely it is that this node is the slow one: the share of its other links that are late."""
    others = [sight for node, sight in sights.items() if node != about and sight.linked]
    return sum(not is_live(sight, now) for sight in others) / len(others) if others else 0.0


class Lookout:
    """One node's own view of those it watches."""

    def __init__(self, now: float) -> None:
        self._looked_at = now
        self._awake_at = now
        self._vouched_at: dict[NodeId, float] = {}
        self._watched_since: dict[NodeId, float] = {}

    def vouched(self, node: NodeId, now: float) -> None:
        """Another node hears it: its silence counts from now."""
        self._vouched_at[node] = now

    def look(self, sights: Mapping[NodeId, Sight], now: float) -> Seen:
        """One look at everybody in sight, a second after the last."""
        if now - self._looked_at > ASLEEP_S:
            self._awake_at = now
        self._looked_at = now
        self._vouched_at = {node: at for node, at in self._vouched_at.items() if node in sights}
        self._watched_since = {node: self._watched_since.get(node, now) for node in sights}
        linked = {node: sight for node, sight in sights.items() if sight.linked}
        late = {node: None for node, sight in linked.items() if self._late(node, sight, now)}
        quiet = tuple(node for node, sight in linked.items() if now - sight.heard_at >= PROBE_S * 0.9)
        if not linked or (len(late) == len(linked) > 1):
            return Seen(quiet, ())  # who hears nobody is cut off himself
        return Seen(
            quiet, tuple(node for node in sights if self._doubted(node, sights[node], late, linked, now))
        )

    def _late(self, node: NodeId, sight: Sight, now: float) -> bool:
        return self._silence_s(node, sight, now) > LATE_PROBES * PROBE_S + min(sight.rtt_s, RTT_MOST_S)

    def _doubted(
        self,
        node: NodeId,
        sight: Sight,
        late: Mapping[NodeId, None],
        linked: Mapping[NodeId, Sight],
        now: float,
    ) -> bool:
        others = len(linked) - (node in linked)
        share = (len(late) - (node in late)) / others if others else 0.0
        patience_s = PROBES_MISSED * PROBE_S + min(sight.rtt_s, RTT_MOST_S) if sight.linked else LOST_S
        return self._silence_s(node, sight, now) > patience_s * (1 + OWN_FAULT * share)

    def _silence_s(self, node: NodeId, sight: Sight, now: float) -> float:
        asked_since = self._watched_since[node] if sight.linked else sight.heard_at
        return now - max(
            sight.heard_at, self._awake_at, self._vouched_at.get(node, self._awake_at), asked_since
        )

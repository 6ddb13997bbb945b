"""Relays and those who depend on them: whom a node asks, and to whom a relay has promised its service.

Pure choice and bookkeeping; it knows nothing of links or frames.
"""

from collections.abc import Callable, Collection, Mapping

from meshnode.errors import Busy, NotAllowed
from meshnode.mesh.ads import RELAYS_MAX, NodeAd
from meshwire.ids import NodeId
from meshwire.limits import RELAY_LEASE_S, RELAY_RESERVATIONS


class RelayService:
    """What a node does for others as their relay: nothing unless it is `willing`.

    To nodes that can be dialled it carries for everybody, to the others where they have reserved it. `ad_of` gives a
    node's current ad, `is_linked` whether there is a link to it.
    """

    def __init__(
        self,
        ad_of: Callable[[NodeId], NodeAd | None],
        is_linked: Callable[[NodeId], bool],
        *,
        willing: bool,
    ) -> None:
        self._ad_of = ad_of
        self._willing = willing
        self._reservations = Reservations(is_linked)

    def reserve(self, node: NodeId, now: float) -> int:
        """The lease in seconds; raises NotAllowed or Busy."""
        if not self._willing:
            raise NotAllowed("This node carries nothing for others.")
        lease_s = self._reservations.grant(node, now)
        if lease_s is None:
            raise Busy("This relay serves as many nodes as it may.", retry_after_s=60.0)
        return lease_s

    def carries_to(self, node: NodeId, now: float) -> bool:
        """Whether circuits to that neighbour are carried. One whose ad has not come yet counts as dialable."""
        ad = self._ad_of(node)
        return self._willing and (ad is None or ad.dialable or self._reservations.holds(node, now))

    def served(self, now: float) -> int:
        """How many nodes have a reservation here."""
        return self._reservations.count(now)


class Reservations:
    """To whom a relay has promised to carry circuits, each until a lease ends; one for a key.

    Once there are as many as it may have, those of nodes that are not linked any more make room.
    """

    def __init__(self, is_linked: Callable[[NodeId], bool]) -> None:
        self._is_linked = is_linked
        self._until: dict[NodeId, float] = {}

    def grant(self, node: NodeId, now: float) -> int | None:
        """Reserve, or renew: the lease in seconds; None if there is no room."""
        if node not in self._until and len(self._until) >= RELAY_RESERVATIONS:
            self._make_room(now)
            if len(self._until) >= RELAY_RESERVATIONS:
                return None
        self._until[node] = now + RELAY_LEASE_S
        return RELAY_LEASE_S

    def holds(self, node: NodeId, now: float) -> bool:
        """Whether the node has a lease that has not ended."""
        return self._until.get(node, now) > now

    def count(self, now: float) -> int:
        """How many leases have not ended."""
        return sum(until > now for until in self._until.values())

    def _make_room(self, now: float) -> None:
        self._until = {
            node: until for node, until in self._until.items() if until > now and self._is_linked(node)
        }


def wished_relays(
    held: Collection[NodeId], linked: Mapping[NodeId, float | None], willing: Collection[NodeId]
) -> tuple[NodeId, ...]:
    """The relays to have: those of `held` that are still good, in their order, then the nearest others.

    `linked` are live direct links with their round trips in milliseconds, None before the first measurement;
    `willing` are nodes that carry for others and have an address: without one nobody could reach it but through
    another. Those held before stay, so that round trips that change do not sign a record each time.
    """
    good = [node for node in linked if node in willing]
    kept = [node for node in held if node in good]
    others = sorted((node for node in good if node not in kept), key=lambda node: (_rtt(linked[node]), node))
    return tuple([*kept, *others][:RELAYS_MAX])


def _rtt(rtt_ms: float | None) -> float:
    return float("inf") if rtt_ms is None else rtt_ms

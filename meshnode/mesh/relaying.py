"""Which nodes a node that cannot be dialled names as its relays. Pure choice; it knows nothing of links or frames."""

from collections.abc import Collection, Mapping

from meshnode.mesh.ads import RELAYS_MAX
from meshwire.ids import NodeId


def named_relays(
    held: Collection[NodeId], linked: Mapping[NodeId, float | None], dialable: Collection[NodeId]
) -> tuple[NodeId, ...]:
    """The relays to name: those of `held` that are still good, in their order, then the nearest others.

    `linked` are live direct links with their round trips in milliseconds, None before the first measurement;
    `dialable` are nodes with an address. A node without one is no relay: nobody could reach it but through
    another. Those named before stay, so that round trips that change do not sign a record each time.
    """
    good = [node for node in linked if node in dialable]
    kept = [node for node in held if node in good]
    others = sorted((node for node in good if node not in kept), key=lambda node: (_rtt(linked[node]), node))
    return tuple([*kept, *others][:RELAYS_MAX])


def _rtt(rtt_ms: float | None) -> float:
    return float("inf") if rtt_ms is None else rtt_ms

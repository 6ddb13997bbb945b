"""Another way to a node when the one that was used has broken, or has fallen silent."""

import math

import trio

from meshnode.errors import Busy, Unreachable
from meshnode.mesh.peers import Peers
from meshnode.net.circuits import Circuits
from meshnode.net.link import Link
from meshnode.net.switch import Switch
from meshwire.ids import NodeId

WAYS = 3
ATTEMPT_S = 2.0  # for one of them, while there are others


async def another_way(
    path: tuple[NodeId, ...], broken: Link, peers: Peers, switch: Switch, circuits: Circuits
) -> Link:
    """A live link to the end of `path` that is not the broken one; raises Unreachable.

    Other relays come first; where it is only silent, one of its relays may be gone, and at least that is avoided.
    """
    _doubt_first(path, broken, switch)
    ways = _ways(path, broken, peers, switch)
    for number, way in enumerate(ways, start=1):
        patience_s = ATTEMPT_S if number < len(ways) else math.inf
        link = await _attempt(way, circuits, patience_s)
        if link is not None and link is not broken and not link.in_doubt():
            return link
    raise Unreachable("There is no other way to the node.")


def _ways(path: tuple[NodeId, ...], broken: Link, peers: Peers, switch: Switch) -> list[tuple[NodeId, ...]]:
    """The ways to try: without any of its relays, then without one of them, then, if it is broken, all."""
    avoided = [path[:-1], *([(relay,) for relay in path[:-1]] if len(path) > 2 else [])]
    if not broken.alive:
        avoided.append(())
    links, doubted = switch.rtts_ms(), switch.doubted()
    routes = [peers.alternates(path[-1], links, WAYS, doubted, without=relays) for relays in avoided]
    return list(dict.fromkeys(route.path for some in routes for route in some))


async def _attempt(way: tuple[NodeId, ...], circuits: Circuits, patience_s: float) -> Link | None:
    with trio.move_on_after(patience_s):
        try:
            return await circuits.reach(way)
        except (Unreachable, Busy):
            pass
    return None


def _doubt_first(path: tuple[NodeId, ...], broken: Link, switch: Switch) -> None:
    """A silent circuit may be so because its first link is."""
    first = switch.direct(path[0])
    if broken.alive and first is not None and first is not broken:
        first.doubt()

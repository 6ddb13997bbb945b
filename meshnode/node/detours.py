"""Another way to a node when the one that was used has broken, or has fallen silent."""

from meshnode.errors import Busy, Unreachable
from meshnode.mesh.peers import Peers
from meshnode.net.circuits import Circuits
from meshnode.net.link import Link
from meshnode.net.switch import Switch
from meshwire.ids import NodeId

WAYS = 3


async def another_way(
    path: tuple[NodeId, ...], broken: Link, peers: Peers, switch: Switch, circuits: Circuits
) -> Link:
    """A live link to the end of `path` that is not the broken one; raises Unreachable.

    Other relays come first; where it is only silent, one of its relays may be gone, and none is used again.
    """
    _doubt_first(path, broken, switch)
    links, doubted = switch.rtts_ms(), switch.doubted()
    ways = peers.alternates(path[-1], links, WAYS, doubted, without=path[:-1])
    if not broken.alive:
        ways += peers.alternates(path[-1], links, WAYS, doubted)
    for way in dict.fromkeys(route.path for route in ways):
        try:
            link = await circuits.reach(way)
        except (Unreachable, Busy):
            continue
        if link is not broken and not link.in_doubt():
            return link
    raise Unreachable("There is no other way to the node.")


def _doubt_first(path: tuple[NodeId, ...], broken: Link, switch: Switch) -> None:
    """A silent circuit may be so because its first link is."""
    first = switch.direct(path[0])
    if broken.alive and first is not None and first is not broken:
        first.doubt()

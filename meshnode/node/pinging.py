"""Pinging another node on the way of a request: over its link, or through relays. It decides nothing."""

from collections.abc import Awaitable, Callable

import msgspec
import trio

from meshnode.control.ping import TIMEOUT_DEFAULT_S, PingView, find_peer
from meshnode.errors import MeshError, Unreachable
from meshnode.mesh.peers import Peer
from meshnode.node.presence import Presence
from meshwire.ids import NodeId, to_text

ID_CHARACTERS = 8  # of a relay that has told no name
DIRECT = 1  # link


class Pinging:
    """Pings on whatever mesh the node is on."""

    def __init__(self, present: Callable[[], Awaitable[Presence]]) -> None:
        self._present = present

    async def ping(self, node: str, *, timeout_s: float = TIMEOUT_DEFAULT_S) -> PingView:
        """Send a frame to a node and wait for its answer.

        `node` is a name, an id or the beginning of one. The frame takes the way that a request would take: a circuit
        is laid through relays where there is no link, and stays for requests. Only the frame's own round trip is
        measured; all of it may take `timeout_s`. Raises BadRequest unless exactly one node is meant.
        """
        presence = await self._present()
        peer = find_peer(presence.view(), presence.book.own, node)
        view = PingView(
            node=to_text(peer.node), name=peer.name, why=f"No answer came within {timeout_s:g} s."
        )
        try:
            with trio.move_on_after(timeout_s):
                path = await _way(presence, peer.node)
                view = _over(path, presence, view)
                link = await presence.circuits.reach(path)
                address = link.remote if len(path) == DIRECT else ""
                view = msgspec.structs.replace(view, address=address)
                view = msgspec.structs.replace(view, rtt_ms=await link.ping(), why="")
        except MeshError as error:
            view = msgspec.structs.replace(view, why=str(error))
        return view


async def _way(presence: Presence, node: NodeId) -> tuple[NodeId, ...]:
    """The way that a request would take now; one that is not known is looked for as for a request."""
    if not (path := _known_way(presence, node)):
        await presence.seeker.come_near(node)
        path = _known_way(presence, node)
    if not path:
        raise Unreachable("No way leads to it.")
    return path


def _known_way(presence: Presence, node: NodeId) -> tuple[NodeId, ...]:
    peer = presence.view().get(node)
    return peer.route.path if peer is not None and peer.route is not None and peer.in_reach else ()


def _over(path: tuple[NodeId, ...], presence: Presence, view: PingView) -> PingView:
    known = presence.view()
    return msgspec.structs.replace(
        view,
        path=tuple(map(to_text, path)),
        relays=tuple(_label(node, known.get(node)) for node in path[:-1]),
    )


def _label(node: NodeId, peer: Peer | None) -> str:
    return peer.name if peer is not None and peer.name else to_text(node)[:ID_CHARACTERS]

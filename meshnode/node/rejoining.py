"""Joining again: a command that is repeated after a restart changes nothing, and one on the wrong device says so."""

import trio

from meshnode.control.join import OpenTarget, mesh_of
from meshnode.errors import MeshError, NotAllowed, Unreachable
from meshnode.node.presence import Presence
from meshnode.state.store import Store
from meshnode.trust.tickets import Ticket

LINKED_WITHIN_S = 3.0  # after a start; a device that was shut out gets no link, and its ticket is tried

Target = Ticket | OpenTarget


async def still_in(target: Target, presence: Presence, store: Store) -> bool:
    """Whether this node is in the mesh that it is to join, and linked there; the ticket is not spent then.

    An open mesh is known by the address at which it was joined. Raises NotAllowed on the device that made the ticket.
    """
    if isinstance(target, OpenTarget):
        known = (address for _node, address in await store.addresses())
        return presence.mesh.is_open and target.address in known
    if target.issuer == presence.switch.own.identity.key:
        raise NotAllowed(
            "This device made that ticket: it lets another one in.", hint="Join with it on the other device."
        )
    if not _same(target, presence):
        return False
    with trio.move_on_after(LINKED_WITHIN_S):
        await presence.linked()
    return bool(presence.switch.links())


def keeps(target: Target, presence: Presence, error: MeshError) -> bool:
    """Whether a node that nobody answers stays in the mesh that it has been in; it goes on dialling there."""
    return type(error) is Unreachable and _same(target, presence)


def _same(target: Target, presence: Presence) -> bool:
    return isinstance(target, Ticket) and mesh_of(target) == presence.mesh.id


def check_free(target: Target, presence: Presence) -> None:
    """Raise NotAllowed where joining would leave a mesh with others in it for another one."""
    if not presence.alone and not _same(target, presence):
        name = f": {presence.mesh.name}" if presence.mesh.name else ""
        raise NotAllowed(
            f"This node already belongs to a mesh with other members{name}.",
            hint="To leave it for good, add --leave.",
        )

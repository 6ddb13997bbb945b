"""Taking a device's membership back: every certificate that it has, for all nodes and for good."""

import msgspec

from meshnode.control.authority import Authority
from meshnode.control.verbs import Text
from meshnode.errors import BadRequest
from meshnode.trust.certificates import ROLE_ISSUER, revoke
from meshwire.ids import NodeId, to_text


class RevokeArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node` is a name or an id."""

    node: Text


class Revoked(msgspec.Struct, frozen=True):
    """Who is out: the serials in hex, and, of an issuer, the members that go with it: they rested on its word."""

    node: str
    name: str
    serials: tuple[str, ...]
    others: tuple[str, ...] = ()


async def revoke_node(authority: Authority, wanted: RevokeArguments) -> Revoked:
    """Revoke every certificate of a node, with the root's key where it is, else with this issuer's.

    The records are kept here and gossiped; each node that has one closes its links to whom it is about, and keeps
    it too. Raises NotAllowed and BadRequest.
    """
    authority.check_may_speak()
    member = authority.find(wanted.node)
    if member.node == authority.identity.node:
        raise BadRequest(
            "This device would shut itself out.", hint="Do it on another issuer of the mesh.", param="node"
        )
    before = _members(authority)
    by_root = authority.root is not None
    signer = authority.signer(by_root=by_root)
    serials = authority.serials_of(member.node)
    for certificate in serials.values():
        seq = await authority.next_seq_of(by_root=by_root)
        await authority.publish(revoke(signer, certificate, seq=seq, issued_ms=authority.seams.now_ms()))
    fallen = before.keys() - _members(authority).keys() - {member.node}
    return Revoked(
        node=to_text(member.node),
        name=member.certificate.name,
        serials=tuple(serial.hex() for serial in serials),
        others=tuple(sorted(before[node] or to_text(node) for node in fallen))
        if ROLE_ISSUER in member.certificate.roles
        else (),
    )


def _members(authority: Authority) -> dict[NodeId, str]:
    """Those who count now, with their names."""
    return {
        node: one.certificate.name
        for node, one in authority.everybody().items()
        if authority.members.is_member(one.certificate.key)
    }

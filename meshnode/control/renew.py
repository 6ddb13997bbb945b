"""Renewing certificates before they end: those that are due by themselves, or those that the operator names."""

from collections.abc import Callable

import msgspec

from meshnode.control.authority import Authority, Member
from meshnode.control.verbs import Text
from meshnode.errors import NotAllowed
from meshnode.trust.renewal import is_due, may_sign, renewed
from meshwire.ids import to_text


class RenewArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node` is a name or an id; empty means everybody who is there."""

    node: Text = ""


class Renewed(msgspec.Struct, frozen=True):
    """A node whose certificate now lasts until this, in unix milliseconds."""

    node: str
    name: str
    until_ms: int


async def renew(authority: Authority, wanted: RenewArguments) -> tuple[Renewed, ...]:
    """Sign newer certificates now, for one member or for all that are there. Raises NotAllowed, BadRequest."""
    authority.check_may_speak()
    if not wanted.node:
        return await _renew_those(authority, lambda _member: True)
    member = authority.find(wanted.node)
    if not authority.members.is_member(member.certificate.key):
        raise NotAllowed(
            f"{member.certificate.name or to_text(member.node)} is no member any more: revoked, or expired.",
            hint="Invite it again: `meshnode invite`.",
        )
    return (await _renew(authority, member),)


async def renew_due(authority: Authority) -> tuple[Renewed, ...]:
    """Sign newer certificates for those that are there and whose time has come, as far as this device may."""
    now_ms, own = authority.seams.now_ms(), authority.identity.key

    def due(member: Member) -> bool:
        ours = member.by_root or member.record.key == own
        return is_due(member.certificate, member.record.issued_ms, now_ms, ours=ours)

    return await _renew_those(authority, due)


async def _renew_those(authority: Authority, wanted: Callable[[Member], bool]) -> tuple[Renewed, ...]:
    found = [
        member
        for member in authority.everybody().values()
        if wanted(member)
        and authority.present(member.node)
        and authority.members.is_member(member.certificate.key)
        and _may(authority, member)
    ]
    return tuple([await _renew(authority, member) for member in found])


def _may(authority: Authority, member: Member) -> bool:
    """Whether this device can sign all that the certificate says; the root's word is only for the root to renew."""
    if member.by_root:
        return authority.root is not None
    return may_sign(member.certificate, authority.mesh.roles, by_root=False)


async def _renew(authority: Authority, member: Member) -> Renewed:
    if not _may(authority, member):
        raise NotAllowed(
            "This device may not sign all that the node's certificate says.",
            hint="Do it where the root key is.",
        )
    certificate = renewed(member.certificate, authority.seams.now_ms(), by_root=member.by_root)
    await authority.certify(certificate, by_root=member.by_root)
    return Renewed(to_text(member.node), certificate.name, certificate.not_after_ms)

"""Who belongs to the mesh and how far each is trusted, by the certificates that this node has."""

import msgspec

from meshnode.control.authority import Authority, Member
from meshnode.terms import Trust
from meshnode.trust.certificates import CLOCK_TOLERANCE_MS
from meshwire.ids import NodeId, to_text

CURRENT, REVOKED, EXPIRED, UNPROVEN = "member", "revoked", "expired", "unproven"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `state` is member, revoked, expired or unproven (its issuer counts no longer, or is not known here).

    `trust` is the highest level it has, with `weights` where it is endorsed with those alone; `by` is `root` or the
    id of the issuer that signed; `until_ms` unix milliseconds; `present` whether it is on the mesh now.
    """

    node: str
    name: str
    state: str
    trust: str
    roles: tuple[str, ...]
    labels: tuple[str, ...]
    weights: tuple[str, ...]
    by: str
    until_ms: int
    present: bool
    this: bool


def roster(authority: Authority) -> tuple[Row, ...]:
    """Every node that a certificate speaks of, members first and then by name."""
    rows = [_row(authority, node, member) for node, member in authority.everybody().items()]
    return tuple(sorted(rows, key=lambda row: (row.state != CURRENT, row.name, row.node)))


def _row(authority: Authority, node: NodeId, member: Member) -> Row:
    certificate = member.certificate
    standing = authority.members.standing(certificate.key)
    levels = (
        [Trust.NONE] if standing is None else [standing.trust, *map(standing.trust_for, standing.weights)]
    )
    own = node == authority.identity.node
    return Row(
        node=to_text(node),
        name=certificate.name or authority.name_of(node),
        state=_state(authority, member) if standing is None else CURRENT,
        trust=max(levels).name.lower(),
        roles=certificate.roles,
        labels=certificate.labels,
        weights=tuple(digest.hex() for digest in standing.weights) if standing is not None else (),
        by="root" if member.by_root else to_text(member.record.owner),
        until_ms=certificate.not_after_ms,
        present=own or authority.present(node),
        this=own,
    )


def _state(authority: Authority, member: Member) -> str:
    """Why a node is no member."""
    if any(authority.members.is_revoked(serial) for serial in authority.serials_of(member.node)):
        return REVOKED
    over = authority.seams.now_ms() > member.certificate.not_after_ms + CLOCK_TOLERANCE_MS
    return EXPIRED if over else UNPROVEN

"""Saying what a member may be trusted with: roles, labels, and the weights with which it may do sensitive work."""

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.control.authority import Authority, Member
from meshnode.control.verbs import Text
from meshnode.errors import BadRequest, NotAllowed
from meshnode.terms import Trust
from meshnode.trust.certificates import (
    ROLE_ENDORSER,
    ROLE_ISSUER,
    ROLE_MEMBER,
    WEIGHTS_MAX,
    WORDS_MAX,
    Certificate,
)
from meshnode.trust.renewal import lifetime_ms
from meshwire.ids import node_id, to_text

OFFERED, ANY, NONE = "offered", "any", "none"
ROLES = (ROLE_ISSUER, ROLE_ENDORSER)
DIGEST = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
Label = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[!-~]+$")]
Labels = Annotated[tuple[Label, ...], Meta(max_length=WORDS_MAX)]


class EndorseArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node` is a name or an id; `labels` are added and `without` taken away; `roles` are issuer or endorser.

    `weights` are SHA-256 in hex, or one word: `offered` (what the node advertises now), `any`, or `none` for labels
    and roles alone.
    """

    node: Text
    labels: Labels = ()
    without: Labels = ()
    roles: Annotated[tuple[Label, ...], Meta(max_length=len(ROLES))] = ()
    weights: Annotated[tuple[Text, ...], Meta(max_length=64)] = (OFFERED,)


class Endorsed(msgspec.Struct, frozen=True):
    """What now holds of a node, by whose word (`root` or `issuer`), and until when in unix milliseconds."""

    node: str
    name: str
    trust: str
    roles: tuple[str, ...]
    labels: tuple[str, ...]
    weights: tuple[str, ...]
    by: str
    until_ms: int


async def endorse(authority: Authority, wanted: EndorseArguments) -> Endorsed:
    """Certify a member anew, with what it may be trusted with.

    The root signs where its key is, else this node, if it is an issuer that the root allows to endorse. Raises
    NotAllowed and BadRequest.
    """
    authority.check_may_speak()
    member = authority.find(wanted.node)
    _check_member(authority, member)
    by_root = authority.root is not None
    if member.by_root and not by_root:
        raise NotAllowed(
            "The root itself has certified that node, and its word goes before this device's.",
            hint="Do it where the root key is.",
        )
    endorsed, weights = _weights(authority, member, wanted.weights)
    certificate = msgspec.structs.replace(
        member.certificate,
        roles=_roles(member.certificate, wanted.roles),
        labels=_labels(member.certificate, wanted),
        not_after_ms=authority.seams.now_ms() + lifetime_ms(by_root=by_root),
        endorsed=endorsed,
        weights=weights,
    )
    await authority.certify(certificate, by_root=by_root)
    return _told(authority, certificate, by_root)


def _check_member(authority: Authority, member: Member) -> None:
    if not authority.members.is_member(member.certificate.key):
        raise NotAllowed(
            f"{member.certificate.name or to_text(member.node)} is no member: revoked, or expired.",
            hint="Invite it again: `meshnode invite`.",
        )


def _roles(certificate: Certificate, wanted: tuple[str, ...]) -> tuple[str, ...]:
    for role in wanted:
        if role not in ROLES:
            raise BadRequest(
                f"There is no role {role!r}.", hint=f"It is one of: {', '.join(ROLES)}.", param="roles"
            )
    has = {*certificate.roles, *wanted, ROLE_MEMBER}
    return tuple(sorted(has, key=lambda role: (role != ROLE_ISSUER, role != ROLE_ENDORSER, role)))


def _labels(certificate: Certificate, wanted: EndorseArguments) -> tuple[str, ...]:
    labels = dict.fromkeys((*certificate.labels, *wanted.labels))
    kept = tuple(label for label in labels if label not in wanted.without)
    if len(kept) > WORDS_MAX:
        raise BadRequest(f"A certificate holds at most {WORDS_MAX} labels.", param="labels")
    return kept


def _weights(authority: Authority, member: Member, wanted: tuple[str, ...]) -> tuple[bool, tuple[bytes, ...]]:
    """Whether the node is endorsed, and with which weights; none named means all."""
    if wanted == (NONE,):
        return False, ()
    if wanted == (ANY,):
        return True, ()
    digests = authority.offers(member.node) if wanted == (OFFERED,) else tuple(map(_digest, wanted))
    if not digests:
        raise BadRequest(
            "The node offers no model now, so there are no weights to endorse it with.",
            hint="Name them by their SHA-256, or say `any`; `none` is for labels and roles alone.",
            param="weights",
        )
    if len(digests) > WEIGHTS_MAX:
        raise BadRequest(
            f"A certificate names at most {WEIGHTS_MAX} weights.", hint="Or say `any`.", param="weights"
        )
    return True, tuple(dict.fromkeys(digests))


def _digest(text: str) -> bytes:
    found = DIGEST.fullmatch(text)
    if found is None:
        raise BadRequest(
            f"{text[:80]!r} is not the SHA-256 of weights.",
            hint=f"It is 64 hex digits, or one word: {OFFERED}, {ANY} or {NONE}.",
            param="weights",
        )
    return bytes.fromhex(found[1])


def _told(authority: Authority, certificate: Certificate, by_root: bool) -> Endorsed:
    standing = authority.members.standing(certificate.key)
    levels = (
        [Trust.NONE] if standing is None else [standing.trust, *map(standing.trust_for, certificate.weights)]
    )
    return Endorsed(
        node=to_text(node_id(certificate.key)),
        name=certificate.name,
        trust=max(levels).name.lower(),
        roles=certificate.roles,
        labels=certificate.labels,
        weights=tuple(digest.hex() for digest in certificate.weights),
        by="root" if by_root else "issuer",
        until_ms=certificate.not_after_ms,
    )

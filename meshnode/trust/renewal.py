"""When a certificate is worth a newer one. Pure.

From half of its life on the issuer that signed it does so; others wait a little longer, since one new certificate is
enough. Only nodes that are there get one: a device that is off for a month has to be invited again.
"""

import msgspec

from meshnode.trust.certificates import (
    ISSUER_LIFETIME_MS,
    MEMBER_LIFETIME_MS,
    ROLE_ENDORSER,
    ROLE_ISSUER,
    Certificate,
)

DUE_SHARE = 0.5
DUE_SHARE_OF_OTHERS = 0.6


def lifetime_ms(*, by_root: bool) -> int:
    """How long a certificate lasts: the root's, which is seldom at hand, longer than an issuer's."""
    return ISSUER_LIFETIME_MS if by_root else MEMBER_LIFETIME_MS


def is_due(certificate: Certificate, issued_ms: int, now_ms: int, *, ours: bool) -> bool:
    """Whether to sign a newer one now; `ours` says whether the signer of this one is asking."""
    share = DUE_SHARE if ours else DUE_SHARE_OF_OTHERS
    return now_ms - issued_ms >= share * (certificate.not_after_ms - issued_ms)


def may_sign(certificate: Certificate, roles: tuple[str, ...], *, by_root: bool) -> bool:
    """Whether all that a certificate says counts when the root, or an issuer with these roles, signs it."""
    if by_root:
        return True
    if ROLE_ISSUER in certificate.roles or ROLE_ENDORSER in certificate.roles:
        return False
    return ROLE_ISSUER in roles and (not certificate.endorsed or ROLE_ENDORSER in roles)


def renewed(certificate: Certificate, now_ms: int, *, by_root: bool) -> Certificate:
    """The same for longer, under the same serial."""
    return msgspec.structs.replace(certificate, not_after_ms=now_ms + lifetime_ms(by_root=by_root))

"""When certificates are renewed, and by whom."""

import msgspec
import pytest

from meshnode.trust.certificates import ISSUER_LIFETIME_MS, MEMBER_LIFETIME_MS, Certificate
from meshnode.trust.renewal import is_due, may_sign, renewed

NOW = 1_700_000_000_000
MEMBER = Certificate(
    serial=b"serial--",
    mesh=bytes(16),
    key=bytes(32),
    roles=("member",),
    labels=("trusted", "eu"),
    name="laptop",
    not_after_ms=NOW + MEMBER_LIFETIME_MS,
)


@pytest.mark.parametrize(
    ("share", "ours", "due"),
    [(0.49, True, False), (0.5, True, True), (0.59, False, False), (0.6, False, True), (1.2, False, True)],
)
def test_it_is_due_from_half_of_its_life_on(share: float, ours: bool, due: bool) -> None:
    assert is_due(MEMBER, NOW, NOW + int(share * MEMBER_LIFETIME_MS), ours=ours) is due


def test_the_same_for_longer() -> None:
    later = NOW + 1000
    assert renewed(MEMBER, later, by_root=False) == msgspec.structs.replace(
        MEMBER, not_after_ms=later + MEMBER_LIFETIME_MS
    )
    assert renewed(MEMBER, later, by_root=True).not_after_ms == later + ISSUER_LIFETIME_MS


@pytest.mark.parametrize(
    ("changes", "signer", "may"),
    [
        ({}, ("issuer", "member"), True),
        ({}, ("member",), False),
        ({}, ("endorser", "member"), False),
        ({"endorsed": True}, ("issuer", "member"), False),
        ({"endorsed": True}, ("issuer", "endorser", "member"), True),
        ({"roles": ("issuer", "member")}, ("issuer", "endorser"), False),
        ({"roles": ("endorser", "member")}, ("issuer", "endorser"), False),
    ],
)
def test_who_may_sign_what(changes: dict[str, object], signer: tuple[str, ...], may: bool) -> None:
    certificate = msgspec.structs.replace(MEMBER, **changes)
    assert may_sign(certificate, signer, by_root=False) is may
    assert may_sign(certificate, (), by_root=True)

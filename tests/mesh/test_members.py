"""Who is a member: chains shown on links, certificates in the book, and time passing over both."""

import random
from typing import Any

import pytest

from meshnode.errors import NotAllowed, Revoked, WrongMesh
from meshnode.identity import Identity, create
from meshnode.mesh.members import KNOWN_MAX, Members
from meshnode.terms import Trust
from meshnode.trust.certificates import (
    LABEL_TRUSTED,
    MEMBER_LIFETIME_MS,
    Certificate,
    certificate_of,
    issue,
    issue_member,
    revoke,
)
from meshnode.trust.membership import Mesh, found_closed, found_open, join_closed
from meshwire import signing
from meshwire.records import Record, read_record
from meshwire.signing import Signer

NOW = 1_700_000_000_000
RNG = random.Random(5)
ROOT = Signer(RNG.randbytes(32))
ISSUER, MEMBER, OTHER = (create(RNG.randbytes) for _ in range(3))
MESH = found_closed(ROOT, ISSUER, name="m", node_name="i", serial=bytes(8), now_ms=NOW)


def certificate(
    identity: Identity, *, signer: Signer = ISSUER.signer, labels: tuple[str, ...] = ()
) -> Record:
    return issue_member(
        signer,
        mesh=MESH.id,
        key=identity.key,
        name="x",
        serial=RNG.randbytes(8),
        seq=NOW + 1,
        issued_ms=NOW,
        labels=labels,
    )


CHAIN = (certificate(MEMBER, labels=(LABEL_TRUSTED,)).raw, *MESH.chain)


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW
        self.verified = 0

    def verify(self, *given: Any) -> None:
        self.verified += 1
        signing.verify(*given)

    def members(self, mesh: Mesh = MESH, own: Identity = ISSUER) -> Members:
        members = Members(mesh, own.key, lambda: self.now_ms, verify=self.verify)
        members.book.recalling = False
        self.verified = 0
        return members


@pytest.fixture
def clock() -> Clock:
    return Clock()


def hear(members: Members, *raws: bytes, now_ms: int = NOW) -> None:
    members.book.merge(raws, now=0.0, wall_ms=now_ms, in_order=False)


def test_a_node_is_a_member_of_its_own_mesh(clock: Clock) -> None:
    assert clock.members().trust(ISSUER.key) is Trust.TRUSTED
    mesh = join_closed(ROOT.public, CHAIN, MEMBER.key, name="m", now_ms=NOW)
    members = clock.members(mesh, MEMBER)
    assert members.is_member(MEMBER.key)
    assert not members.is_issuer(MEMBER.key)


def test_a_chain_shown_on_a_link_makes_a_member(clock: Clock) -> None:
    members = clock.members()
    assert not members.is_member(MEMBER.key)
    assert members.trust(MEMBER.key) is Trust.NONE
    members.admit(MEMBER.key, CHAIN)
    assert members.trust(MEMBER.key) is Trust.TRUSTED


def test_somebody_elses_chain_makes_nobody_a_member(clock: Clock) -> None:
    members = clock.members()
    with pytest.raises(NotAllowed):
        members.admit(OTHER.key, CHAIN)
    with pytest.raises(NotAllowed):
        members.admit(OTHER.key, ())
    forged = (certificate(OTHER, signer=OTHER.signer).raw, *MESH.chain)
    with pytest.raises(NotAllowed):
        members.admit(OTHER.key, forged)
    root = Signer(bytes(32))
    foreign = found_closed(root, OTHER, name="f", node_name="o", serial=bytes(8), now_ms=NOW)
    with pytest.raises(WrongMesh):
        members.admit(OTHER.key, foreign.chain)
    assert not members.is_member(OTHER.key)


def test_certificates_in_the_book_count_too(clock: Clock) -> None:
    mesh = join_closed(ROOT.public, (certificate(OTHER).raw, *MESH.chain), OTHER.key, name="m", now_ms=NOW)
    members = clock.members(mesh, OTHER)
    hear(members, *MESH.chain, CHAIN[0])
    assert members.trust(MEMBER.key) is Trust.TRUSTED
    assert members.is_issuer(ISSUER.key)
    assert members.is_issuer(ROOT.public)
    assert not members.is_issuer(OTHER.key)


def test_membership_ends_with_the_certificate(clock: Clock) -> None:
    members = clock.members()
    members.admit(MEMBER.key, CHAIN)
    clock.now_ms = NOW + MEMBER_LIFETIME_MS
    assert members.is_member(MEMBER.key)
    clock.now_ms += 11 * 60_000
    assert not members.is_member(MEMBER.key)
    with pytest.raises(NotAllowed):
        members.admit(MEMBER.key, CHAIN)


def test_what_was_verified_is_not_verified_again(clock: Clock) -> None:
    members = clock.members()
    members.admit(MEMBER.key, CHAIN)
    before = clock.verified
    for _ in range(10):
        members.admit(MEMBER.key, CHAIN)
        assert members.is_member(MEMBER.key)
    clock.now_ms = NOW + MEMBER_LIFETIME_MS + 60_000  # within what clocks may differ by
    assert members.is_member(MEMBER.key)
    assert clock.verified == before


def test_everybody_is_a_member_of_an_open_mesh_and_nobody_is_trusted(clock: Clock) -> None:
    members = clock.members(found_open(RNG.randbytes))
    assert members.trust(OTHER.key) is Trust.MEMBER
    members.admit(MEMBER.key, ())
    assert not members.is_issuer(MEMBER.key)


def test_what_is_known_is_bounded(clock: Clock) -> None:
    members = clock.members(found_open(RNG.randbytes))
    for number in range(KNOWN_MAX + 50):
        members.admit(number.to_bytes(32, "big"), ())
    assert len(members._known) == KNOWN_MAX


def test_a_node_whose_own_certificate_has_expired_still_runs(clock: Clock) -> None:
    mesh = join_closed(ROOT.public, CHAIN, MEMBER.key, name="m", now_ms=NOW)
    clock.now_ms = NOW + 2 * MEMBER_LIFETIME_MS
    assert not clock.members(mesh, MEMBER).is_member(MEMBER.key)


def revocation(*, signer: Signer = ISSUER.signer, chain: tuple[bytes, ...] = ()) -> bytes:
    taken_back = certificate_of(read_record((chain or CHAIN)[0]))
    return revoke(signer, taken_back, seq=NOW + 2, issued_ms=NOW).raw


def test_a_revoked_member_is_none_whatever_was_known_of_it(clock: Clock) -> None:
    members = clock.members()
    members.admit(MEMBER.key, CHAIN)
    hear(members, revocation())
    assert not members.is_member(MEMBER.key)
    hear(members, CHAIN[0])
    assert not members.is_member(MEMBER.key)
    with pytest.raises(Revoked):
        members.admit(MEMBER.key, CHAIN)


def test_a_new_certificate_lets_a_revoked_member_in_again(clock: Clock) -> None:
    members = clock.members()
    hear(members, revocation())
    members.admit(MEMBER.key, (certificate(MEMBER).raw, *MESH.chain))
    assert members.is_member(MEMBER.key)


def test_all_that_a_revoked_issuer_certified_go_with_it(clock: Clock) -> None:
    mesh = join_closed(ROOT.public, CHAIN, MEMBER.key, name="m", now_ms=NOW)
    members = clock.members(mesh, MEMBER)
    other = (certificate(OTHER).raw, *MESH.chain)
    members.admit(OTHER.key, other)
    hear(members, revocation(signer=ROOT, chain=MESH.chain))
    assert not members.is_issuer(ISSUER.key)
    assert not members.is_member(OTHER.key)


def test_a_member_revokes_nobody(clock: Clock) -> None:
    members = clock.members()
    members.admit(MEMBER.key, CHAIN)
    members.admit(OTHER.key, (certificate(OTHER).raw, *MESH.chain))
    hear(members, revocation(signer=OTHER.signer))
    assert members.is_member(MEMBER.key)


def test_a_revocation_outlives_the_certificate_by_what_clocks_may_differ(clock: Clock) -> None:
    members = clock.members()
    hear(members, revocation())
    clock.now_ms = NOW + MEMBER_LIFETIME_MS + 5 * 60_000
    members.book.expire((clock.now_ms - NOW) / 1000)
    with pytest.raises(Revoked):
        members.admit(MEMBER.key, CHAIN)


def by_root(identity: Identity, issued_ms: int = NOW, **changes: Any) -> Record:
    facts: dict[str, Any] = {
        "serial": certificate_of(read_record(CHAIN[0])).serial,
        "mesh": MESH.id,
        "key": identity.key,
        "roles": ("member",),
        "not_after_ms": NOW + MEMBER_LIFETIME_MS,
    }
    return issue(ROOT, Certificate(**(facts | changes)), seq=issued_ms, issued_ms=issued_ms)


def test_a_better_certificate_counts_as_soon_as_it_comes(clock: Clock) -> None:
    members = clock.members()
    members.admit(MEMBER.key, CHAIN)
    hear(members, CHAIN[0])
    assert members.trust(MEMBER.key) is Trust.TRUSTED
    endorsed = by_root(MEMBER, endorsed=True)
    hear(members, endorsed.raw)
    assert members.trust(MEMBER.key) is Trust.ENDORSED
    assert members.chain_of(MEMBER.key) == (endorsed.raw,)
    lesser = by_root(MEMBER, NOW + 1)
    hear(members, lesser.raw)  # the root has changed its mind
    assert members.trust(MEMBER.key) is Trust.MEMBER
    hear(members, endorsed.raw)
    members.admit(MEMBER.key, (endorsed.raw,))
    assert members.trust(MEMBER.key) is Trust.MEMBER


def test_one_revocation_takes_all_certificates_with_its_serial_back(clock: Clock) -> None:
    members = clock.members()
    members.admit(MEMBER.key, CHAIN)
    hear(members, by_root(MEMBER, endorsed=True).raw, revocation())
    assert not members.is_member(MEMBER.key)
    assert members.chain_of(MEMBER.key) == ()
    later = by_root(MEMBER, NOW + 5, not_after_ms=NOW + 2 * MEMBER_LIFETIME_MS)
    hear(members, later.raw)  # from an issuer that had not heard of it
    assert not members.is_member(MEMBER.key)
    clock.now_ms = NOW + MEMBER_LIFETIME_MS + 60 * 60_000
    members.book.expire((clock.now_ms - NOW) / 1000)
    assert not members.is_member(MEMBER.key)


def test_nothing_is_verified_again_while_no_certificate_comes(clock: Clock) -> None:
    members = clock.members()
    members.admit(MEMBER.key, CHAIN)
    hear(members, CHAIN[0], certificate(OTHER).raw)
    for _ in range(5):
        assert members.is_member(MEMBER.key)
    before = clock.verified
    hear(members, certificate(OTHER, labels=("x",)).raw)  # about somebody else
    for _ in range(5):
        assert members.is_member(MEMBER.key)
    assert clock.verified == before

"""What a chain proves of endorsements: whose count, for which weights, and which of several chains does."""

from typing import Any

import pytest

from meshnode.errors import NotAllowed, WrongMesh
from meshnode.terms import Trust
from meshnode.trust.certificates import (
    LABEL_TRUSTED,
    WEIGHTS_MAX,
    WORDS_MAX,
    Certificate,
    Standing,
    issue,
    verify_chain,
)
from meshwire.fields import pack_fields, unpack_fields
from meshwire.ids import mesh_id
from meshwire.limits import RECORD_MAX
from meshwire.records import Record
from meshwire.signing import Signer

ROOT, ISSUER, MEMBER = (Signer(bytes([n]) * 32) for n in range(1, 4))
NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000
ONE, OTHER = b"\x01" * 32, b"\x02" * 32


def certified(key: bytes, by: Signer, issued_ms: int = NOW, **changes: Any) -> Record:
    facts: dict[str, Any] = {
        "serial": b"serial--",
        "mesh": mesh_id(ROOT.public),
        "key": key,
        "roles": ("member",),
        "labels": (LABEL_TRUSTED,),
        "not_after_ms": NOW + 30 * DAY,
    }
    return issue(by, Certificate(**(facts | changes)), seq=issued_ms, issued_ms=issued_ms)


def standing(*chain: Record) -> Standing:
    return verify_chain(tuple(record.raw for record in chain), MEMBER.public, ROOT.public, NOW)


def issuer(*roles: str) -> Record:
    return certified(ISSUER.public, ROOT, roles=("issuer", *roles, "member"), serial=b"issuer--")


def test_the_root_certifies_a_member_itself() -> None:
    assert standing(certified(MEMBER.public, ROOT)).trust is Trust.TRUSTED
    with pytest.raises(WrongMesh):
        standing(certified(MEMBER.public, ISSUER))


def test_the_roots_endorsement_counts() -> None:
    found = standing(certified(MEMBER.public, ROOT, endorsed=True))
    assert found.trust is Trust.ENDORSED
    assert found.trust_for(ONE) is Trust.ENDORSED


def test_it_counts_for_the_weights_it_names() -> None:
    found = standing(certified(MEMBER.public, ROOT, endorsed=True, weights=(ONE,)))
    assert found.trust is Trust.TRUSTED
    assert found.trust_for(ONE) is Trust.ENDORSED
    assert found.trust_for(OTHER) is Trust.TRUSTED


def test_an_issuers_counts_if_the_root_allows_it() -> None:
    endorsed = certified(MEMBER.public, ISSUER, endorsed=True, weights=(ONE,))
    assert standing(endorsed, issuer("endorser")).trust_for(ONE) is Trust.ENDORSED
    plain = standing(endorsed, issuer())
    assert (plain.trust_for(ONE), plain.weights) == (Trust.TRUSTED, ())
    everything = certified(MEMBER.public, ISSUER, endorsed=True)
    assert standing(everything, issuer()).trust is Trust.TRUSTED


@pytest.mark.parametrize("role", ["issuer", "endorser"])
def test_an_issuer_gives_no_role_that_is_the_roots(role: str) -> None:
    with pytest.raises(NotAllowed):
        standing(certified(MEMBER.public, ISSUER, roles=(role, "member")), issuer("endorser"))


def test_weights_without_the_word_endorse_nothing() -> None:
    found = standing(certified(MEMBER.public, ROOT, weights=(ONE,)))
    assert found.trust_for(ONE) is Trust.TRUSTED


def test_the_root_goes_before_an_issuer_an_endorsement_before_none_and_then_the_newest() -> None:
    chains = [
        standing(certified(MEMBER.public, ISSUER, NOW - 5), issuer()),
        standing(certified(MEMBER.public, ISSUER, NOW), issuer()),
        standing(certified(MEMBER.public, ISSUER, NOW - 5, endorsed=True), issuer("endorser")),
        standing(certified(MEMBER.public, ROOT, NOW - 9)),
        standing(certified(MEMBER.public, ROOT, NOW - 8)),
    ]
    assert sorted(chains, key=lambda one: one.rank) == chains


def test_readers_that_do_not_know_of_it_see_a_member() -> None:
    record = certified(MEMBER.public, ROOT, endorsed=True, weights=(ONE,))
    assert [key for key in record.payload if key > 7] == [64, 65]
    assert unpack_fields(Certificate, dict(record.payload)).weights == (ONE,)
    assert 64 not in pack_fields(Certificate(b"s" * 8, bytes(16), bytes(32), ("member",)))


def test_as_many_weights_as_there_may_be_fit_a_record() -> None:
    weights = tuple(bytes([n]) * 32 for n in range(WEIGHTS_MAX))
    labels = tuple(f"label-{n}" for n in range(WORDS_MAX))
    record = certified(MEMBER.public, ROOT, endorsed=True, weights=weights, labels=labels, name="n" * 64)
    assert len(record.raw) <= RECORD_MAX

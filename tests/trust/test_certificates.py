"""Chains: what they prove, and every way in which one may prove nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from meshnode.errors import ClockSkew, MeshError, NotAllowed, Revoked, WrongMesh
from meshnode.terms import Trust
from meshnode.trust.certificates import (
    DAY_MS,
    ISSUER_LIFETIME_MS,
    MEMBER_LIFETIME_MS,
    Certificate,
    certificate_of,
    issue_issuer,
    issue_member,
    revocation_of,
    revoke,
    verify_chain,
)
from meshwire.errors import RemoteWireError
from meshwire.fields import pack_fields
from meshwire.ids import mesh_id, node_id, to_text
from meshwire.limits import RECORD_MAX
from meshwire.records import Record, RecordType, make_record, read_record
from meshwire.signing import Signer

ROOT, ISSUER, MEMBER, STRANGER = (Signer(bytes([n]) * 32) for n in range(1, 5))
MESH = mesh_id(ROOT.public)
NOW = 1_700_000_000_000
MINUTE = 60_000


def issuer(**changes: Any) -> Record:
    facts: dict[str, Any] = {
        "key": ISSUER.public,
        "name": "desk",
        "serial": b"issuer--",
        "issued_ms": NOW,
        "labels": ("trusted",),
    }
    return issue_issuer(changes.pop("by", ROOT), **(facts | changes))


def member(**changes: Any) -> Record:
    facts: dict[str, Any] = {
        "mesh": MESH,
        "key": MEMBER.public,
        "name": "laptop",
        "serial": b"member--",
        "seq": NOW,
        "issued_ms": NOW,
        "labels": ("trusted",),
    }
    return issue_member(changes.pop("by", ISSUER), **(facts | changes))


def chain(first: Record | None = None, second: Record | None = None) -> tuple[bytes, ...]:
    return ((first or member()).raw, (second or issuer()).raw)


def signed(signer: Signer, certificate: Certificate, *, name: str = "") -> Record:
    """A certificate that no function of ours would make."""
    named = name or to_text(node_id(certificate.key))
    return make_record(
        signer,
        RecordType.CERTIFICATE,
        seq=NOW,
        issued_ms=NOW,
        ttl_ms=DAY_MS,
        payload=pack_fields(certificate, name=named),
    )


def plain(**changes: Any) -> Certificate:
    facts: dict[str, Any] = {
        "serial": b"12345678",
        "mesh": MESH,
        "key": MEMBER.public,
        "roles": ("member",),
        "not_after_ms": NOW + DAY_MS,
    }
    return Certificate(**(facts | changes))


def test_a_members_chain_proves_its_standing() -> None:
    standing = verify_chain(chain(), MEMBER.public, ROOT.public, NOW)
    assert standing.node == node_id(MEMBER.public)
    assert standing.roles == ("member",)
    assert standing.trust is Trust.TRUSTED
    assert standing.name == "laptop"
    assert standing.not_after_ms == NOW + MEMBER_LIFETIME_MS
    assert standing.serials == (b"member--", b"issuer--")


def test_an_issuers_chain_is_its_own_certificate() -> None:
    standing = verify_chain((issuer().raw,), ISSUER.public, ROOT.public, NOW)
    assert standing.roles == ("issuer", "member")
    assert standing.not_after_ms == NOW + ISSUER_LIFETIME_MS


def test_without_the_label_a_member_is_only_a_member() -> None:
    standing = verify_chain(chain(member(labels=())), MEMBER.public, ROOT.public, NOW)
    assert standing.trust is Trust.MEMBER


def test_in_an_open_mesh_everybody_is_a_member_and_nobody_is_trusted() -> None:
    standing = verify_chain((), STRANGER.public, None, NOW)
    assert standing.trust is Trust.MEMBER
    assert standing.labels == ()


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (tuple, NotAllowed),
        (lambda: (*chain(), issuer().raw), NotAllowed),
        (lambda: (b"garbage",), NotAllowed),
        (lambda: (member().raw,), WrongMesh),
        (lambda: chain(member(by=STRANGER)), NotAllowed),
        (lambda: chain(None, issuer(by=STRANGER)), WrongMesh),
        (lambda: chain(member(mesh=mesh_id(STRANGER.public))), WrongMesh),
        (lambda: chain(member(key=STRANGER.public)), NotAllowed),
        (lambda: chain(None, signed(ROOT, plain(key=ISSUER.public))), NotAllowed),
        (lambda: chain(signed(ISSUER, plain(roles=("issuer", "member")))), NotAllowed),
        (lambda: chain(signed(ISSUER, plain(), name="another")), NotAllowed),
        (lambda: chain(revoke(ISSUER, plain(), seq=1, issued_ms=NOW)), NotAllowed),
        (lambda: (signed(MEMBER, plain(roles=("issuer", "member"))).raw,), WrongMesh),
    ],
    ids=[
        "none",
        "three",
        "garbage",
        "member alone",
        "signed by a stranger",
        "another root",
        "another mesh",
        "another node's",
        "issuer that is none",
        "issuer made by an issuer",
        "another's name",
        "a revocation",
        "signed by itself",
    ],
)
def test_a_chain_that_proves_nothing(made: Callable[[], tuple[bytes, ...]], error: type[MeshError]) -> None:
    with pytest.raises(error) as caught:
        verify_chain(made(), MEMBER.public, ROOT.public, NOW)
    assert type(caught.value) is error


def test_any_flipped_bit_breaks_a_chain() -> None:
    raw = bytearray(member().raw)
    for position in range(0, len(raw), 7):
        raw[position] ^= 1
        with pytest.raises(NotAllowed):
            verify_chain((bytes(raw), issuer().raw), MEMBER.public, ROOT.public, NOW)
        raw[position] ^= 1


def test_the_clock_has_ten_minutes_either_way() -> None:
    verify_chain(chain(), MEMBER.public, ROOT.public, NOW - 10 * MINUTE)
    with pytest.raises(ClockSkew, match="clock right"):
        verify_chain(chain(), MEMBER.public, ROOT.public, NOW - 10 * MINUTE - 1)
    end = NOW + MEMBER_LIFETIME_MS
    verify_chain(chain(), MEMBER.public, ROOT.public, end + 10 * MINUTE)
    with pytest.raises(NotAllowed, match=r"expired 10 min ago.*new ticket"):
        verify_chain(chain(), MEMBER.public, ROOT.public, end + 10 * MINUTE + 1)


def test_an_expired_issuer_takes_its_members_along() -> None:
    later = NOW + ISSUER_LIFETIME_MS + 11 * MINUTE
    fresh = member(issued_ms=later)
    with pytest.raises(NotAllowed, match="expired"):
        verify_chain(chain(fresh), MEMBER.public, ROOT.public, later)


@pytest.mark.parametrize("serial", [b"member--", b"issuer--"])
def test_a_revoked_serial_anywhere_in_the_chain_counts(serial: bytes) -> None:
    with pytest.raises(Revoked, match="revoked"):
        verify_chain(chain(), MEMBER.public, ROOT.public, NOW, revoked={serial: True})
    verify_chain(chain(), MEMBER.public, ROOT.public, NOW, revoked={b"another-": True})


def test_revocations_are_records_too() -> None:
    certificate = certificate_of(member())
    record = read_record(revoke(ISSUER, certificate, seq=9, issued_ms=NOW).raw)
    assert revocation_of(record).serial == certificate.serial
    assert record.ttl_ms == ISSUER_LIFETIME_MS + 20 * MINUTE  # longer than any certificate with this serial
    with pytest.raises(RemoteWireError):
        revocation_of(member())


def test_certificates_are_small_and_named_after_their_subject() -> None:
    record = member(name="x" * 200)
    assert len(record.raw) <= RECORD_MAX // 2
    assert record.name == to_text(node_id(MEMBER.public))
    assert len(certificate_of(record).name) == 64


def test_verification_can_be_remembered_by_the_caller() -> None:
    calls = []
    verify_chain(chain(), MEMBER.public, ROOT.public, NOW, verify=lambda *facts: calls.append(facts))
    assert len(calls) == 2

"""Signatures: domains, kinds and bodies cannot be exchanged or run into each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.signing import DOMAIN_RECORD, DOMAIN_STATIC, Signer, signed_bytes, verify

SIGNER = Signer(b"\x07" * 32)


def refused(public: bytes, domain: bytes, kind: int | bytes, body: bytes, signature: bytes) -> bool:
    try:
        verify(public, domain, kind, body, signature)
    except RemoteWireError as error:
        return error.code is CloseCode.BAD_SIGNATURE
    return False


@given(st.binary(max_size=64), st.integers(0, 255), st.binary(max_size=64))
def test_a_signature_holds_for_its_own_words_only(domain: bytes, kind: int, body: bytes) -> None:
    signature = SIGNER.sign(domain, kind, body)
    verify(SIGNER.public, domain, kind, body, signature)
    assert refused(SIGNER.public, domain + b"x", kind, body, signature)
    assert refused(SIGNER.public, domain, kind ^ 1, body, signature)
    assert refused(SIGNER.public, domain, kind, body + b"x", signature)
    assert refused(Signer(bytes(32)).public, domain, kind, body, signature)


@given(st.binary(max_size=8), st.binary(max_size=8), st.binary(max_size=8), st.integers(0, 8))
def test_no_part_can_pose_as_another(domain: bytes, kind: bytes, body: bytes, cut: int) -> None:
    joined = domain + kind + body
    other = (joined[:cut], kind, joined[cut:])
    if other != (domain, kind, body):
        assert signed_bytes(*other) != signed_bytes(domain, kind, body)


@given(st.integers(0, 64 * 8 - 1))
def test_any_flipped_bit_of_the_signature_is_refused(bit: int) -> None:
    signature = bytearray(SIGNER.sign(DOMAIN_RECORD, 1, b"body"))
    signature[bit // 8] ^= 1 << (bit % 8)
    assert refused(SIGNER.public, DOMAIN_RECORD, 1, b"body", bytes(signature))


def test_domains_differ() -> None:
    assert refused(SIGNER.public, DOMAIN_STATIC, 1, b"body", SIGNER.sign(DOMAIN_RECORD, 1, b"body"))


def test_lengths_are_checked_before_the_library_sees_them() -> None:
    assert refused(b"short", DOMAIN_RECORD, 1, b"", bytes(64))
    assert refused(SIGNER.public, DOMAIN_RECORD, 1, b"", b"short")
    assert refused(bytes(32), DOMAIN_RECORD, 1, b"", bytes(64))
    with pytest.raises(LocalWireError):
        Signer(b"short")


def test_the_seed_can_be_stored_again() -> None:
    assert Signer(SIGNER.seed).public == SIGNER.public

"""Signed weights: a statement holds for one key, one file and one time, and a manifest only as it was signed."""

import msgspec
import pytest

from meshnode.errors import ModelFileInvalid
from meshnode.trust import weights
from meshnode.trust.weights import MANIFEST_BYTES_MAX, Statement, manifest_of, read_manifest, sign, to_json
from meshwire.signing import DOMAIN_RECORD, Signer

ANN, BOB = Signer(b"a" * 32), Signer(b"b" * 32)
DIGEST, AT_MS = b"d" * 32, 1_790_000_000_000


def signed() -> Statement:
    return sign(ANN, DIGEST, AT_MS)


def manifest_bytes() -> bytes:
    return to_json(manifest_of(signed(), name="tiny:1m", size_bytes=7))


def changed(**fields: object) -> bytes:
    """The manifest with fields of its one file changed, or its own."""
    manifest = msgspec.json.decode(manifest_bytes())
    for name, value in fields.items():
        (manifest if name in manifest else manifest["files"][0])[name] = value
    return msgspec.json.encode(manifest)


def test_a_statement_holds_for_who_made_it() -> None:
    assert signed().holds
    assert signed().signer == ANN.public


@pytest.mark.parametrize(
    "lie",
    [
        {"signer": BOB.public},
        {"digest": b"e" * 32},
        {"signed_at_ms": AT_MS + 1},
        {"signature": sign(BOB, DIGEST, AT_MS).signature},
        {"signature": b""},
        {"signer": b""},
        {"digest": b"short"},
        {"signed_at_ms": -1},
        {"signed_at_ms": 2**64},
    ],
)
def test_nothing_else_holds(lie: dict[str, object]) -> None:
    assert not msgspec.structs.replace(signed(), **lie).holds


def test_a_signature_made_for_something_else_is_none() -> None:
    body = DIGEST + AT_MS.to_bytes(8)
    other = ANN.sign(DOMAIN_RECORD, weights.KIND, body)
    assert not Statement(ANN.public, DIGEST, AT_MS, other).holds


def test_a_manifest_comes_back_as_it_was_signed() -> None:
    manifest = read_manifest(manifest_bytes())
    assert manifest.signer == ANN.public.hex()
    assert manifest.statements() == (signed(),)
    assert manifest.statement_of(DIGEST) == signed()


def test_a_manifest_does_not_expire() -> None:
    ancient = to_json(manifest_of(sign(ANN, DIGEST, 0), name="tiny:1m", size_bytes=7))
    assert read_manifest(ancient).statement_of(DIGEST).signed_at_ms == 0


@pytest.mark.parametrize(
    "tampered",
    [
        {"sha256": "e" * 64},
        {"signed_at_ms": AT_MS + 1},
        {"signature": "0" * 128},
        {"signer": BOB.public.hex()},
    ],
)
def test_a_tampered_manifest_is_refused(tampered: dict[str, object]) -> None:
    with pytest.raises(ModelFileInvalid, match="signature of tiny:1m is not that of"):
        read_manifest(changed(**tampered))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        changed(format="meshnode-weights/2"),
        changed(files=[]),
        changed(signature="xyz"),
        changed(extra=1),
        changed(name=""),
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFileInvalid, match="not a manifest"):
        read_manifest(content)


def test_a_manifest_is_bounded() -> None:
    with pytest.raises(ModelFileInvalid, match="at most"):
        read_manifest(manifest_bytes() + b" " * MANIFEST_BYTES_MAX)


def test_a_file_that_is_not_in_it_is_not_signed() -> None:
    with pytest.raises(ModelFileInvalid, match="says nothing of"):
        read_manifest(manifest_bytes()).statement_of(b"e" * 32)


def test_a_node_has_signed_weights_when_all_are() -> None:
    assert weights.all_signed([ANN.public, BOB.public])
    assert not weights.all_signed([ANN.public, b""])
    assert not weights.all_signed([])

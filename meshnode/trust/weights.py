"""Signed weights: who vouches for the bytes of a model file, and the manifest that carries it. Pure.

A statement is an Ed25519 signature, in a domain of its own, over a file's SHA-256 and the time of signing. It
says that the holder of a key stands for exactly these bytes. It does not expire: bytes do not change, and whoever
no longer believes a key takes it out of what they ask for.
"""

from collections.abc import Iterable
from functools import lru_cache
from struct import pack
from typing import Annotated

import msgspec

from meshnode.errors import ModelFileInvalid
from meshwire import signing
from meshwire.errors import RemoteWireError

DOMAIN = b"meshnode/weights/1"
KIND = b"sha256"
FORMAT = "meshnode-weights/1"
DIGEST_BYTES = 32
FILES_MAX = 256
MANIFEST_BYTES_MAX = 256 * 1024
KNOWN_MAX = 4096  # statements whose signature is remembered as good or bad
SIGN_AGAIN = "Get the manifest again from whoever signed it."

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Signature = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]
FileName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Statement(msgspec.Struct, frozen=True):
    """One signature over one file: `signer` is a public key, `digest` the file's SHA-256, the time Unix's."""

    signer: bytes
    digest: bytes
    signed_at_ms: int
    signature: bytes

    @property
    def holds(self) -> bool:
        """Whether the signature is the signer's over just this."""
        return _holds(self)


class SignedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a manifest. `name` is for people and is not signed."""

    name: FileName
    sha256: Digest
    size_bytes: Count
    signed_at_ms: Count
    signature: Signature


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files that one key has signed; `signer` is that key in hex."""

    format: Annotated[str, msgspec.Meta(pattern=f"^{FORMAT}$")] = FORMAT
    signer: Digest
    files: Annotated[tuple[SignedFile, ...], msgspec.Meta(min_length=1, max_length=FILES_MAX)]

    def statements(self) -> tuple[Statement, ...]:
        """What it says of each file, in order; verified when the manifest was read."""
        return tuple(_statement(self.signer, file) for file in self.files)

    def statement_of(self, digest: bytes) -> Statement:
        """What it says of this file; raises ModelFileInvalid when it says nothing."""
        for statement in self.statements():
            if statement.digest == digest:
                return statement
        raise ModelFileInvalid(
            f"The manifest says nothing of a file with SHA-256 {digest.hex()}.",
            hint="The file was changed, or the manifest is another model's.",
        )


def sign(signer: signing.Signer, digest: bytes, signed_at_ms: int) -> Statement:
    """A statement about the file with this SHA-256."""
    signature = signer.sign(DOMAIN, KIND, _body(digest, signed_at_ms))
    return Statement(signer.public, digest, signed_at_ms, signature)


def manifest_of(statement: Statement, *, name: str, size_bytes: int) -> Manifest:
    """A manifest of one file."""
    file = SignedFile(
        name=name,
        sha256=statement.digest.hex(),
        size_bytes=size_bytes,
        signed_at_ms=statement.signed_at_ms,
        signature=statement.signature.hex(),
    )
    return Manifest(signer=statement.signer.hex(), files=(file,))


def to_json(manifest: Manifest) -> bytes:
    """The manifest as a file's content."""
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


def read_manifest(content: bytes) -> Manifest:
    """The manifest in a file, every signature in it verified; raises ModelFileInvalid."""
    if len(content) > MANIFEST_BYTES_MAX:
        raise ModelFileInvalid(f"A manifest has at most {MANIFEST_BYTES_MAX} bytes.")
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelFileInvalid(f"This is not a manifest of signed weights: {error}.") from error
    for file, statement in zip(manifest.files, manifest.statements(), strict=True):
        if not statement.holds:
            message = f"The manifest's signature of {file.name} is not that of {manifest.signer}."
            raise ModelFileInvalid(message, hint=SIGN_AGAIN)
    return manifest


def all_signed(signers: Iterable[bytes]) -> bool:
    """Whether there are weights, and none that nobody signed."""
    found = tuple(signers)
    return bool(found) and all(found)


def _statement(signer: str, file: SignedFile) -> Statement:
    return Statement(
        bytes.fromhex(signer), bytes.fromhex(file.sha256), file.signed_at_ms, bytes.fromhex(file.signature)
    )


def _body(digest: bytes, signed_at_ms: int) -> bytes:
    """What is signed, besides the domain: the digest and the time in milliseconds (u64, big-endian)."""
    return digest + pack(">Q", signed_at_ms)


@lru_cache(KNOWN_MAX)  # ads are read again and again, and say the same
def _holds(statement: Statement) -> bool:
    if len(statement.digest) != DIGEST_BYTES or not 0 <= statement.signed_at_ms < 2**64:
        return False
    body = _body(statement.digest, statement.signed_at_ms)
    try:
        signing.verify(statement.signer, DOMAIN, KIND, body, statement.signature)
    except RemoteWireError:
        return False
    return True

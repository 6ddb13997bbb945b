"""What two ends agree on before a handshake, and tell each other in it. It does not judge who is welcome.

The Noise static key is a key of its own; the node's Ed25519 key signs it, so whoever completes the handshake
with that static key is the node. Messages 2 and 3 of XX carry this, messages 1 and 2 of IK.
"""

from typing import Annotated

import msgspec

from meshwire.codec import pack_map, unpack_map
from meshwire.errors import CloseCode, RemoteWireError
from meshwire.ids import NodeId
from meshwire.numbers import Message, Name, PublicKey, RawRecord
from meshwire.signing import DOMAIN_STATIC, Signer, verify

STATIC_KIND = b""
CHAIN_MAX = 4
FEATURES_MAX = 32


class Introduction(Message, frozen=True):
    """A node's public key, its signature over its Noise static key, raw certificates, and features."""

    key: PublicKey
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    chain: Annotated[tuple[RawRecord, ...], msgspec.Meta(max_length=CHAIN_MAX)] = ()
    features: Annotated[tuple[Name, ...], msgspec.Meta(max_length=FEATURES_MAX)] = ()


def write_introduction(
    signer: Signer, static_public: bytes, chain: tuple[bytes, ...], features: tuple[str, ...]
) -> bytes:
    """The handshake payload by which `signer` introduces itself."""
    signature = signer.sign(DOMAIN_STATIC, STATIC_KIND, static_public)
    return pack_map(Introduction(signer.public, signature, chain, features))


def read_introduction(payload: bytes, remote_static: bytes, own_key: bytes) -> Introduction:
    """The other end's introduction, verified against the static key it used.

    Raises RemoteWireError: BAD_SIGNATURE if the key is not its own, SELF if it is ours.
    """
    introduction = unpack_map(Introduction, payload)
    verify(introduction.key, DOMAIN_STATIC, STATIC_KIND, remote_static, introduction.signature)
    if introduction.key == own_key:
        raise RemoteWireError("the other end is this node itself", CloseCode.SELF)
    return introduction


def link_prologue(version: int, mesh: bytes) -> bytes:
    """What both ends of a link must agree on before the first byte: version and mesh id."""
    return _prologue(b"meshnode/link", version, mesh)


def circuit_prologue(version: int, mesh: bytes, origin: NodeId, worker: NodeId) -> bytes:
    """What both ends of an end-to-end session must agree on: version, mesh id, and each other's ids."""
    return _prologue(b"meshnode/circuit", version, mesh, origin, worker)


def _prologue(tag: bytes, version: int, *parts: bytes) -> bytes:
    fields = (tag, version.to_bytes(2, "big"), *parts)
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)

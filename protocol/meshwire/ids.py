"""The names of nodes and meshes, derived from their keys. It knows no keys' secrets and no tables."""

import base64
import binascii
import hashlib
from functools import lru_cache
from typing import NewType

from meshwire.errors import LocalWireError

NODE_ID_BYTES = 20  # 160 bits, which is what Kademlia implementations assume
MESH_ID_BYTES = 16
KEY_BYTES = 32  # an Ed25519 or X25519 public key
MESH_TAG = b"meshnode/mesh/1"

NodeId = NewType("NodeId", bytes)


@lru_cache(maxsize=4096)  # the same few keys are asked about with every record and message
def node_id(public_key: bytes) -> NodeId:
    """The id of the node with this Ed25519 public key: the first 20 bytes of its SHA-256."""
    if len(public_key) != KEY_BYTES:
        raise LocalWireError(f"a public key has {KEY_BYTES} bytes, not {len(public_key)}")
    return NodeId(hashlib.sha256(public_key).digest()[:NODE_ID_BYTES])


def mesh_id(root_key: bytes) -> bytes:
    """The id of the closed mesh with this root key: 16 bytes of a tagged SHA-256."""
    if len(root_key) != KEY_BYTES:
        raise LocalWireError(f"a root key has {KEY_BYTES} bytes, not {len(root_key)}")
    return hashlib.sha256(MESH_TAG + root_key).digest()[:MESH_ID_BYTES]


def to_text(identifier: bytes) -> str:
    """An id as people see it: base32 (RFC 4648), lower case, no padding."""
    return base64.b32encode(identifier).decode("ascii").rstrip("=").lower()


def from_text(text: str) -> NodeId:
    """The NodeId written as `text`; raises LocalWireError if it is not exactly how `to_text` writes one."""
    try:
        identifier = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (ValueError, binascii.Error) as error:
        raise LocalWireError(f"not a node id: {text!r}") from error
    if len(identifier) != NODE_ID_BYTES or to_text(identifier) != text:
        raise LocalWireError(f"not a node id: {text!r}")
    return NodeId(identifier)

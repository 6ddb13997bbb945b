"""The 160-bit keyspace of the DHT: distances and keys. It knows nothing of who holds what.

Distance is XOR (Maymounkov and Mazières, Kademlia, 2002).
"""

import hashlib
from collections.abc import Iterable

from meshwire.ids import NODE_ID_BYTES

CAPABILITY_TAG = b"cap"
PEER_TAG = b"peer"


def distance(one: bytes, other: bytes) -> int:
    """How far apart two ids are: their XOR, read as a number."""
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


def closest(target: bytes, ids: Iterable[bytes], count: int) -> list[bytes]:
    """The `count` ids nearest to the target, nearest first."""
    return sorted(ids, key=lambda identifier: distance(target, identifier))[:count]


def capability_key(mesh: bytes, family: str, tier: int | None = None) -> bytes:
    """Where providers of a model family are found; with `tier`, those that run it at that quant tier."""
    parts = [CAPABILITY_TAG, mesh, family.lower().encode()]
    return _key(*parts) if tier is None else _key(*parts, b"%d" % tier)


def peer_key(key: bytes) -> bytes:
    """Where the record of the node with this public key is found."""
    return _key(PEER_TAG, key)


def _key(*parts: bytes) -> bytes:
    """A hash over parts, each after its length, so that no two lists of parts collide."""
    whole = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(whole).digest()[:NODE_ID_BYTES]

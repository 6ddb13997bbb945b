"""Digests of gossip on the wire: the first bytes of each owner's id and a version, all of them in one string."""

import struct
from collections.abc import Iterable
from typing import Annotated

import msgspec

from meshwire.limits import DIGEST_MAX

PREFIX_BYTES = 8
_ENTRY = struct.Struct(f">{PREFIX_BYTES}sQ")

Version = tuple[bytes, int]
"""An owner, by the first bytes of its id, and the seq up to which all of its records are held."""

Digest = Annotated[bytes, msgspec.Meta(max_length=DIGEST_MAX * _ENTRY.size)]


def pack_digest(versions: Iterable[Version]) -> bytes:
    """The versions as bytes, 16 for each."""
    return b"".join([_ENTRY.pack(prefix, version) for prefix, version in versions])


def unpack_digest(digest: bytes) -> list[Version]:
    """The versions in a digest that was checked."""
    return list(_ENTRY.iter_unpack(digest))


def check_digest(digest: bytes) -> None:
    """Raise ValueError for a digest that ends within an entry."""
    if len(digest) % _ENTRY.size:
        raise ValueError("a digest ends within an entry")

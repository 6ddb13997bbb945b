"""Who may share what was computed for a prompt: one opaque scope for each origin, tenant and privacy class. Pure.

A scope never leaves its node. A tenant's tag does, so that a peer can tell our tenants apart: a keyed hash that
does not say who the tenant is, and is another one at every node.
"""

import hashlib

from meshnode.terms import Job
from meshnode.terms.job import TENANT_BYTES

SCOPE_BYTES = 16
TAG_BYTES = TENANT_BYTES
SECRET_MAX = 64


class Scopes:
    """Makes tags and scopes under a secret of this node, at most SECRET_MAX bytes of it."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def tag(self, tenant: str) -> bytes:
        """What stands for a tenant in a job; empty for none."""
        return self._hash(b"meshnode-tenant", (tenant.encode(),), TAG_BYTES) if tenant else b""

    def of(self, origin: bytes, job: Job) -> bytes:
        """The scope of a job that came from the node `origin`, which must be known from its link.

        Whatever else a peer writes into a job, it ends up in a scope of that peer's own.
        """
        parts = (origin, job.tenant_tag, job.wish.privacy.value.encode())
        return self._hash(b"meshnode-scope", parts, SCOPE_BYTES)

    def _hash(self, purpose: bytes, parts: tuple[bytes, ...], size: int) -> bytes:
        """A keyed hash; each part's length goes before it, so that no two lists of parts read the same."""
        hashed = hashlib.blake2b(key=self._secret, person=purpose, digest_size=size)
        for part in parts:
            hashed.update(len(part).to_bytes(4))
            hashed.update(part)
        return hashed.digest()

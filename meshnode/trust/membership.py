"""The mesh that this node belongs to: its id, its root, this node's chain, and everyone's standing. Pure."""

from collections.abc import Callable, Container
from functools import lru_cache

import msgspec

from meshnode.errors import NotAllowed
from meshnode.identity import Identity
from meshnode.trust.certificates import (
    LABEL_TRUSTED,
    ROLE_ISSUER,
    ROLE_MEMBER,
    SERIAL_BYTES,
    Standing,
    certificate_of,
    issue_issuer,
    verify_chain,
)
from meshwire import signing
from meshwire.errors import LocalWireError, RemoteWireError
from meshwire.ids import MESH_ID_BYTES, mesh_id
from meshwire.records import Verify, read_record

MESH_NAME_CHARACTERS_MAX = 64


class Mesh(msgspec.Struct, frozen=True):
    """A mesh, as one node of it knows it.

    `id` is 16 bytes; `root_key` is None in an open mesh, which anyone may join; `chain` holds this node's own
    raw certificates, its own first, and is empty in an open mesh.
    """

    id: bytes
    root_key: bytes | None
    name: str = ""
    chain: tuple[bytes, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether anyone may join."""
        return self.root_key is None

    @property
    def roles(self) -> tuple[str, ...]:
        """What this node's own certificate says that it may do; empty in an open mesh."""
        return _roles_in(self.chain[0]) if self.chain else ()

    @property
    def role(self) -> str:
        """This node's own role: issuer, member, or empty in an open mesh."""
        if self.is_open:
            return ""
        return ROLE_ISSUER if ROLE_ISSUER in self.roles else ROLE_MEMBER

    def standing(
        self,
        chain: tuple[bytes, ...],
        key: bytes,
        now_ms: int,
        *,
        revoked: Container[bytes] = (),
        verify: Verify = signing.verify,
    ) -> Standing:
        """What `chain` proves of the node with this key, here and now; raises as `verify_chain` does."""
        return verify_chain(chain, key, self.root_key, now_ms, revoked=revoked, verify=verify)


def found_closed(
    root: signing.Signer, identity: Identity, *, name: str, node_name: str, serial: bytes, now_ms: int
) -> Mesh:
    """A new closed mesh, with this node as its first issuer, trusted like every device of the same owner."""
    record = issue_issuer(
        root, key=identity.key, name=node_name, serial=serial, issued_ms=now_ms, labels=(LABEL_TRUSTED,)
    )
    return Mesh(mesh_id(root.public), root.public, name[:MESH_NAME_CHARACTERS_MAX], (record.raw,))


def found_open(entropy: Callable[[int], bytes], *, name: str = "") -> Mesh:
    """A new open mesh, with a random id."""
    return join_open(entropy(MESH_ID_BYTES), name=name)


def join_open(identifier: bytes, *, name: str = "") -> Mesh:
    """The open mesh with this id, which is all there is to know of it."""
    if len(identifier) != MESH_ID_BYTES:
        raise LocalWireError(f"a mesh id has {MESH_ID_BYTES} bytes, not {len(identifier)}")
    return Mesh(identifier, None, name[:MESH_NAME_CHARACTERS_MAX])


def join_closed(root_key: bytes, chain: tuple[bytes, ...], key: bytes, *, name: str, now_ms: int) -> Mesh:
    """The mesh that a chain just received makes this key a member of; raises as `verify_chain`."""
    verify_chain(chain, key, root_key, now_ms)
    return Mesh(mesh_id(root_key), root_key, name[:MESH_NAME_CHARACTERS_MAX], chain)


def new_serial(entropy: Callable[[int], bytes]) -> bytes:
    """A certificate's serial."""
    return entropy(SERIAL_BYTES)


def require_issuer(mesh: Mesh) -> None:
    """Return if this node may sign members in; raises NotAllowed."""
    if mesh.is_open:
        raise NotAllowed(
            "This mesh is open: nobody needs a ticket.",
            hint="On the other device, run `meshnode join ws://HOST:PORT` with this device's address.",
        )
    if mesh.role != ROLE_ISSUER:
        raise NotAllowed(
            "This device is a member of the mesh, and cannot invite others.",
            hint="Run it on the device that founded the mesh or another issuer: `meshnode trust list` names them.",
        )


@lru_cache(64)
def _roles_in(raw: bytes) -> tuple[str, ...]:
    """The roles in a certificate that was verified when it came."""
    try:
        return certificate_of(read_record(raw)).roles
    except RemoteWireError:
        return ()

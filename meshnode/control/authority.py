"""Who speaks for the mesh on this device, what it knows of the members, and how its word is signed and spread.

The operator's actions are built on it, each in a file of its own. It knows no links.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from meshnode.errors import BadRequest, NotAllowed
from meshnode.identity import Identity
from meshnode.mesh.members import Members
from meshnode.seams import Seams
from meshnode.trust.certificates import ROLE_ISSUER, Certificate, certificate_of, issue
from meshnode.trust.membership import Mesh
from meshnode.trust.renewal import may_sign
from meshwire.errors import LocalWireError, RemoteWireError
from meshwire.ids import NodeId, node_id, to_text
from meshwire.records import Record, RecordType, read_record
from meshwire.signing import Signer

ID_CHARACTERS_MIN = 4  # of a node's id, for a person to name it by
LIST_HINT = "`meshnode trust list` names the members."


@dataclass(frozen=True, slots=True)
class Member:
    """A node that certificates speak of: the one that counts, and who signed it."""

    node: NodeId
    certificate: Certificate
    record: Record
    by_root: bool


@dataclass(frozen=True, slots=True)
class Authority:
    """One node's place in its mesh. `root` is the mesh's root key, if it lies on this device.

    `next_seq` takes the next seq of this node's records; `publish` keeps a record and spreads it; `offers` are the
    SHA-256 of the weights that a node advertises, `name_of` what it calls itself, `present` whether it is there now.
    """

    identity: Identity
    mesh: Mesh
    members: Members
    seams: Seams
    root: Signer | None
    next_seq: Callable[[], Awaitable[int]]
    publish: Callable[[Record], Awaitable[None]]
    offers: Callable[[NodeId], tuple[bytes, ...]]
    name_of: Callable[[NodeId], str]
    present: Callable[[NodeId], bool]

    def check_may_speak(self) -> None:
        """Return if this device may sign anything about others; raises NotAllowed."""
        if self.mesh.is_open:
            raise NotAllowed("This mesh is open: nobody is certified in it, or trusted by anybody's word.")
        if self.root is None and self.mesh.role != ROLE_ISSUER:
            raise NotAllowed(
                "This device is a member of the mesh, and cannot speak for it.",
                hint="Do it on an issuer, or where the root key is. `meshnode trust list` names the issuers.",
            )

    # --- Who there is ---

    def everybody(self) -> dict[NodeId, Member]:
        """Every node with a certificate, also one that counts no longer."""
        found: dict[NodeId, Member] = {}
        for _, record in self.members.book.all(RecordType.CERTIFICATE):
            certificate = _certificate(record)
            if certificate is not None and node_id(certificate.key) not in found:
                found[node_id(certificate.key)] = self._member(certificate.key, record, certificate)
        return found

    def find(self, text: str) -> Member:
        """The member with this name, or whose id begins so; raises BadRequest unless there is exactly one."""
        wanted = text.strip()
        members = self.everybody()
        named = [one for one in members.values() if wanted in (one.certificate.name, self.name_of(one.node))]
        short = wanted.rpartition("#")[2].lower()
        by_id = [one for one in members.values() if to_text(one.node).startswith(short)]
        found = named or (by_id if len(short) >= ID_CHARACTERS_MIN else [])
        if len(found) == 1:
            return found[0]
        if not found:
            raise BadRequest(f"No node of this mesh is called {wanted[:64]!r}.", hint=LIST_HINT, param="node")
        ids = ", ".join(sorted(to_text(one.node) for one in found))
        raise BadRequest(
            f"Several nodes are called {wanted[:64]!r}.", hint=f"Name one by its id: {ids}.", param="node"
        )

    def serials_of(self, node: NodeId) -> dict[bytes, Certificate]:
        """The certificates about a node, one for each serial: that which lasts longest."""
        found: dict[bytes, Certificate] = {}
        for record in self.members.book.certificates_of(node):
            certificate = _certificate(record)
            if certificate is None:
                continue
            before = found.get(certificate.serial)
            if before is None or before.not_after_ms < certificate.not_after_ms:
                found[certificate.serial] = certificate
        return found

    def _member(self, key: bytes, record: Record, certificate: Certificate) -> Member:
        chain = self.members.chain_of(key)
        if chain:
            record = read_record(chain[0], self.seams.verify)
            certificate = certificate_of(record)
        return Member(node_id(key), certificate, record, record.key == self.mesh.root_key)

    # --- Its word ---

    async def certify(self, certificate: Certificate, *, by_root: bool) -> Record:
        """Sign a certificate, keep it and spread it; raises NotAllowed, or BadRequest if it says too much."""
        if not may_sign(certificate, self.mesh.roles, by_root=by_root):
            raise NotAllowed(
                "Only the root, or an issuer that it allows to endorse, can sign that.",
                hint="Do it where the root key is, or there give this device the role endorser first.",
            )
        seq, now_ms = await self.next_seq_of(by_root=by_root), self.seams.now_ms()
        signer = self.signer(by_root=by_root)
        try:
            record = issue(signer, certificate, seq=seq, issued_ms=now_ms)
        except LocalWireError as error:
            raise BadRequest(
                f"That is more than a certificate holds ({error}).", hint="Name fewer weights or labels."
            ) from error
        await self.publish(record)
        return record

    def signer(self, *, by_root: bool) -> Signer:
        """The root's key, or this node's."""
        return self.root if by_root and self.root is not None else self.identity.signer

    async def next_seq_of(self, *, by_root: bool) -> int:
        """The next seq of whoever signs. The root's is known by what it has signed."""
        if not by_root or self.root is None:
            return await self.next_seq()
        root = node_id(self.root.public)
        signed = [record.seq for record in self.members.book.of(root)]
        return max([self.seams.now_ms(), self.members.book.version(root) + 1, *(seq + 1 for seq in signed)])


def _certificate(record: Record) -> Certificate | None:
    try:
        return certificate_of(record)
    except RemoteWireError:
        return None

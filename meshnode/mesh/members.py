"""Who is a member, by the proof that this node has seen: chains shown on links, certificates in the book."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from meshnode.errors import MeshError
from meshnode.mesh.book import RecordBook
from meshnode.terms import Trust
from meshnode.trust.certificates import CLOCK_TOLERANCE_MS, ROLE_ISSUER, Standing, revocation_of
from meshnode.trust.membership import Mesh
from meshwire import signing
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId, node_id
from meshwire.records import Read, Record, Verify, read_record

KNOWN_MAX = 4096


class Members:
    """The standing of every key, judged anew as certificates come and expire.

    `wall_ms` gives unix milliseconds. What was verified once is not verified again, only its times are.
    """

    def __init__(
        self,
        mesh: Mesh,
        own_key: bytes,
        wall_ms: Callable[[], int],
        *,
        verify: Verify = signing.verify,
        read: Read = read_record,
    ) -> None:
        self._mesh = mesh
        self._wall_ms = wall_ms
        self._known: dict[bytes, Standing] = {}
        self._verify = verify
        self.book = RecordBook(
            node_id(own_key), is_member=self.is_member, is_issuer=self.is_issuer, read=read
        )
        if mesh.chain:
            with suppress(
                MeshError
            ):  # a node whose certificate has expired runs on, to join with a new ticket
                self.admit(own_key, mesh.chain)

    def admit(self, key: bytes, chain: tuple[bytes, ...]) -> Standing:
        """The standing that a chain shown on a link proves; raises as `verify_chain` does."""
        known = self._known.get(key)
        if known is not None and self._current(known):
            return known
        standing = self._mesh.standing(
            chain, key, self._wall_ms(), revoked=_Revoked(self.book, self._mesh.id), verify=self._verify
        )
        if len(self._known) >= KNOWN_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[key] = standing
        return standing

    def standing(self, key: bytes) -> Standing | None:
        """How far the node with this key is trusted; None if nothing proves that it is a member."""
        known = self._known.get(key)
        if known is not None and self._current(known):
            return known
        for chain in self._chains_in_book(key) if not self._mesh.is_open else [()]:
            try:
                return self.admit(key, chain)
            except MeshError:
                continue  # another issuer's certificate may do
        return None

    def is_member(self, key: bytes) -> bool:
        """Whether what this key signs counts."""
        return self.standing(key) is not None

    def is_issuer(self, key: bytes) -> bool:
        """Whether certificates that this key signs count."""
        if key == self._mesh.root_key:
            return True
        standing = self.standing(key)
        return standing is not None and ROLE_ISSUER in standing.roles

    def trust(self, key: bytes) -> Trust:
        """Its level in the lattice."""
        standing = self.standing(key)
        return standing.trust if standing is not None else Trust.NONE

    def _current(self, standing: Standing) -> bool:
        if self._wall_ms() > standing.not_after_ms + CLOCK_TOLERANCE_MS:
            return False
        revoked = _Revoked(self.book, self._mesh.id)
        return not any(serial in revoked for serial in standing.serials)

    def _chains_in_book(self, key: bytes) -> list[tuple[bytes, ...]]:
        chains: list[tuple[bytes, ...]] = []
        for record in self.book.certificates_of(node_id(key)):
            chains += self._with_issuer(record)
        return chains

    def _with_issuer(self, record: Record) -> list[tuple[bytes, ...]]:
        if record.key == self._mesh.root_key:
            return [(record.raw,)]
        issuers = self.book.certificates_of(NodeId(record.owner))
        return [(record.raw, issuer.raw) for issuer in issuers if issuer.key == self._mesh.root_key]


@dataclass(frozen=True, slots=True)
class _Revoked:
    """The serials that the revocations in a book take back. The book has only those that an issuer signed."""

    book: RecordBook
    mesh: bytes

    def __contains__(self, serial: object) -> bool:
        return isinstance(serial, bytes) and any(
            self._counts(record) for record in self.book.revocations_of(serial)
        )

    def _counts(self, record: Record) -> bool:
        try:
            return revocation_of(record).mesh == self.mesh
        except RemoteWireError:
            return False

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
Chain = tuple[bytes, ...]


class Members:
    """The standing of every key, judged anew as certificates come and expire.

    `wall_ms` gives unix milliseconds. What was verified once is not verified again, only its times are. Of several
    chains about one node the one of the highest rank counts, see `Standing`.
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
        self._known: dict[bytes, _Known] = {}
        self._verify = verify
        self.book = RecordBook(
            node_id(own_key), is_member=self.is_member, is_issuer=self.is_issuer, read=read
        )
        if mesh.chain:
            with suppress(
                MeshError
            ):  # a node whose certificate has expired runs on, to join with a new ticket
                self.admit(own_key, mesh.chain)

    def admit(self, key: bytes, chain: Chain) -> Standing:
        """The standing of a node that showed this chain on a link; raises as `verify_chain` does."""
        known = self._known_now(key)
        if known is None:
            known = _Known(self._proved(key, chain), chain, self.book.certified, self._chains_in_book(key))
            self._remember(key, known)
        return known.standing

    def standing(self, key: bytes) -> Standing | None:
        """How far the node with this key is trusted; None if nothing proves that it is a member."""
        known = self._known_now(key)
        return known.standing if known is not None else None

    def chain_of(self, key: bytes) -> Chain:
        """The certificates that its standing rests on; empty if it has none."""
        known = self._known_now(key)
        return known.chain if known is not None else ()

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

    def is_revoked(self, serial: bytes) -> bool:
        """Whether somebody who may has taken back the certificates with this serial."""
        return serial in _Revoked(self.book, self._mesh.id)

    def _known_now(self, key: bytes) -> "_Known | None":
        """What is known of a key, looked at again if certificates have come or gone since."""
        known = self._known.get(key)
        if known is not None and self._current(known.standing) and self._is_latest(key, known):
            return known
        best = self._best_in_book(key)
        if best is not None:
            self._remember(key, best)
            return best
        if known is None or not self._current(known.standing):
            return None
        known.certified, known.seen = self.book.certified, self._chains_in_book(key)
        return known

    def _is_latest(self, key: bytes, known: "_Known") -> bool:
        if known.certified == self.book.certified:
            return True
        if self._chains_in_book(key) != known.seen:
            return False
        known.certified = self.book.certified
        return True

    def _best_in_book(self, key: bytes) -> "_Known | None":
        """The chain of the highest rank among those that prove something."""
        chains, proved = self._chains_in_book(key), []
        for chain in chains:
            with suppress(MeshError):  # another issuer's certificate may do
                proved.append((self._proved(key, chain), chain))
        if not proved:
            return None
        standing, chain = max(proved, key=lambda one: one[0].rank)
        return _Known(standing, chain, self.book.certified, chains)

    def _proved(self, key: bytes, chain: Chain) -> Standing:
        revoked = _Revoked(self.book, self._mesh.id)
        return self._mesh.standing(chain, key, self._wall_ms(), revoked=revoked, verify=self._verify)

    def _remember(self, key: bytes, known: "_Known") -> None:
        if key not in self._known and len(self._known) >= KNOWN_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[key] = known

    def _current(self, standing: Standing) -> bool:
        if self._wall_ms() > standing.not_after_ms + CLOCK_TOLERANCE_MS:
            return False
        if not self.book.revoking:
            return True
        revoked = _Revoked(self.book, self._mesh.id)
        return not any(serial in revoked for serial in standing.serials)

    def _chains_in_book(self, key: bytes) -> list[Chain]:
        if self._mesh.is_open:
            return [()]
        chains: list[Chain] = []
        for record in self.book.certificates_of(node_id(key)):
            chains += self._with_issuer(record)
        return chains

    def _with_issuer(self, record: Record) -> list[Chain]:
        if record.key == self._mesh.root_key:
            return [(record.raw,)]
        issuers = self.book.certificates_of(NodeId(record.owner))
        return [(record.raw, issuer.raw) for issuer in issuers if issuer.key == self._mesh.root_key]


@dataclass(slots=True)
class _Known:
    """What was found of a key, by which chain, and which ones the book had then (`certified` says when)."""

    standing: Standing
    chain: Chain
    certified: int
    seen: list[Chain]


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

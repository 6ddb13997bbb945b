"""The book of records: what every node says of itself, as gossip keeps it. It does no IO and trusts no relay.

Reconciliation is scuttlebutt's (van Renesse et al., 2008), as in chitchat: a node uses one counter for all
its records, so the highest seq that a book has taken in order is its version of that owner, and what another
book lacks is every record above the version that it names. Deltas go out in seq order for each owner, so one
that was cut short leaves the receiver with a smaller version and no gap.

A record is verified before anything is read of it, counts only if its signer is a member, and is ordered
against its owner's other records by seq alone.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from meshnode.mesh.certified import Certified
from meshnode.mesh.digest import DIGEST_PAGE, around, covered, within
from meshnode.mesh.merged import SETTLED, Merged, Refusal, Refused
from meshnode.mesh.shelf import CERTIFYING, PASSING, Held, Shelf, life_s, plausible
from meshnode.mesh.shelves import Shelves
from meshwire import records, signing
from meshwire.digests import PREFIX_BYTES, Version
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId, to_text
from meshwire.limits import CLOCK_TOLERANCE_S, RECORDS_PER_PEER, RECORDS_TOTAL
from meshwire.records import Record, RecordType

__all__ = ["Merged", "RecordBook", "Refusal", "Refused"]

DELTA_BUDGET_BYTES = 12 * 1024  # with a full digest it stays within one control frame
CERTIFICATES_TOTAL = RECORDS_TOTAL
OWNERS_MAX = 2 * RECORDS_TOTAL
NOTHING: Mapping[bytes, int] = {}
LOOK_EVERY_S = 30.0  # at the latest, for what is to be forgotten
MEMORY_S = 30 * 60.0  # longer than any passing record can still be believed from a third hand


class RecordBook:
    """The records that one node holds.

    `is_member(key)` says whether what a key signs counts; it is asked anew each time, so it may look at the
    certificates in this book. `is_issuer(key)` says the same for certificates and revocations. `read` is
    `meshwire.records.read_record`, or one that remembers. `revision` grows with every change. While
    `recalling`, as a node does when it starts, the book asks others for this node's own earlier records: an
    issuer gets its certificates back, and everybody learns how far its counter had come.
    """

    def __init__(
        self,
        own: NodeId,
        *,
        is_member: Callable[[bytes], bool],
        is_issuer: Callable[[bytes], bool] = lambda key: False,
        read: records.Read = records.read_record,
    ) -> None:
        self.own = own
        self.revision = 0
        self._is_member = is_member
        self._is_issuer = is_issuer
        self._read_record = read
        self._shelves = Shelves()
        self._first_end = math.inf  # no record ends before, and no owner is forgotten
        self._by_raw: dict[bytes, Held] = {}
        self._certified = Certified()
        self._own_seen = 0
        self._outrun_at = 0
        self._recalled = 0
        self._news: dict[NodeId, int] = {}
        self.recalling = True
        self._shelf(own)

    # --- Own records ---

    def publish(
        self,
        signer: signing.Signer,
        kind: RecordType,
        payload: Mapping[int, Any],
        *,
        ttl_ms: int,
        now: float,
        wall_ms: int,
    ) -> Record:
        """Sign a record of this node's own and put it in, in place of the last of its type and name."""
        seq = self.next_seq(wall_ms)
        record = records.make_record(signer, kind, seq=seq, issued_ms=wall_ms, ttl_ms=ttl_ms, payload=payload)
        self.adopt(record, now)
        return record

    def next_seq(self, wall_ms: int) -> int:
        """Take the next seq of this node's own counter, for a record that is signed elsewhere."""
        self._own_seen = max(self._own_seen + 1, wall_ms)
        return self._own_seen

    def adopt(self, record: Record, now: float) -> None:
        """Put in a record that this node signed, such as a certificate; an older one is ignored."""
        self.raise_floor(record.seq)
        shelf = self._shelf(self.own)
        if record.seq > shelf.floor(record):
            self._note_news(shelf, record, shelf.version)
            self._place(shelf, record, now + life_s(record))
            self._shelves.advance(shelf, record.seq)

    def raise_floor(self, seq: int) -> None:
        """Never again sign with this seq or a lower one: the floor that was kept from an earlier run."""
        self._own_seen = max(self._own_seen, seq)

    @property
    def last_seq(self) -> int:
        """The highest own seq ever used, as far as this node knows; to be kept across restarts."""
        return self._own_seen

    @property
    def outrun(self) -> bool:
        """Whether others know newer records of this node, from an earlier life: publish all again.

        Until then nobody who has those asks for these.
        """
        return any(record.type in PASSING and record.seq <= self._outrun_at for record in self.of(self.own))

    def notice_versions(self, digest: Iterable[Version], wall_ms: int) -> None:
        """Learn from another book's digest how far this node's own counter had come.

        A claim beyond what a right clock could have signed is left to be proved by the record itself.
        """
        latest = wall_ms + CLOCK_TOLERANCE_S * 1000
        for prefix, version in digest:
            if prefix == self.own[:PREFIX_BYTES] and version <= latest:
                self._outrun(version)

    # --- Others' records ---

    def merge(
        self,
        raws: Iterable[bytes],
        *,
        now: float,
        wall_ms: int,
        sender: NodeId | None = None,
        in_order: bool = True,
        follows: Mapping[bytes, int] = NOTHING,
    ) -> Merged:
        """Take in a batch of raw records.

        `now` is monotonic seconds, `wall_ms` unix milliseconds; `sender` is the node at the other end of the
        link: its own records need not agree with our clock. `in_order` is for gossip's deltas only: records
        that came another way do not move the version, or what lies between would never be asked for. Nor do
        those of an owner, by the prefix of its id, that follow a version which has not come here.
        """
        batch, refused = self._read(raws)
        accepted: list[Record] = []
        believed: list[Record] = []
        for record in batch:
            owner = record.owner
            reason = self._fault(record, owner, wall_ms, owner == sender)
            after = follows.get(owner[:PREFIX_BYTES], 0)
            connected = in_order and self.version(owner) >= after
            if reason is None:
                if in_order:
                    self._note_news(self._shelf(owner), record, max(after, self.version(owner)))
                expires = now + life_s(record, None if owner == sender else wall_ms)
                self._place(self._shelf(owner), record, expires)
                accepted.append(record)
            elif reason is not Refused.STALE or record.raw not in self._by_raw:
                refused.append(Refusal(reason, record))
            if connected and owner == self.own:
                self._recalled = max(self._recalled, record.seq)
            if reason in SETTLED:
                believed.append(record)
                if connected and owner in self._shelves:
                    self._shelves.advance(self._shelves[owner], record.seq)
        return Merged(tuple(accepted), tuple(refused), tuple(believed))

    def take_news(self) -> dict[NodeId, int]:
        """The owners of whom this book took something of a new kind or name, or an end, since the last call.

        With each goes the version that the news follow.
        """
        news, self._news = self._news, {}
        return news

    def _note_news(self, shelf: Shelf, record: Record, follows: int) -> None:
        if record.type not in PASSING or (record.type, record.name) not in shelf.slots:
            self._news.setdefault(shelf.owner, follows)

    def expire(self, now: float) -> list[Record]:
        """Drop and return the records whose time is over, and forget owners long gone."""
        if now < self._first_end:
            return []
        over = [held for held in self._by_raw.values() if held.expires_at <= now]
        for held in over:
            shelf = self._shelves[held.owner]
            self._remove(shelf, held)
            shelf.remember(held.record)
            shelf.empty_since = now
        for owner, shelf in list(self._shelves.items()):
            forgotten = now - shelf.empty_since > MEMORY_S or len(self._shelves) > OWNERS_MAX
            if not shelf.slots and forgotten and owner != self.own:
                self._shelves.drop(owner)
        self._first_end = min([now + LOOK_EVERY_S, *(held.expires_at for held in self._by_raw.values())])
        return [held.record for held in over]

    def drop(self, owner: NodeId) -> None:
        """Forget all that a node ever signed, as when it is revoked."""
        shelf = self._shelves.get(owner)
        if shelf is not None:
            for held in list(shelf.slots.values()):
                self._remove(shelf, held)
            self._shelves.drop(owner)

    # --- Reconciliation ---

    def version(self, owner: NodeId) -> int:
        """The seq up to which all of an owner's records have come here; 0 for none."""
        return self._shelves[owner].version if owner in self._shelves else 0

    def digest(self, start: bytes = b"", limit: int = DIGEST_PAGE) -> list[Version]:
        """The versions of up to `limit` owners, in the order of their ids from `start` on, round the ring.

        Fewer than `DIGEST_PAGE` entries mean that these are all; a full page covers only the owners from its
        first entry to its last.
        """
        said = ((owner, self._said(self._shelves[owner])) for owner in around(self._shelves.ids, start))
        return list(
            islice(((owner[:PREFIX_BYTES], version) for owner, version in said if version is not None), limit)
        )

    def differences(self, digest: Sequence[Version]) -> list[Version]:
        """This book's versions of the owners that a digest names, where they differ; 0 for unknown ones."""
        known = self._shelves.versions
        if self.recalling:
            known = known | {self.own[:PREFIX_BYTES]: self._recalled}
        differing = (
            (prefix, known.get(prefix, 0)) for prefix, theirs in digest if known.get(prefix, 0) != theirs
        )
        return list(islice(differing, DIGEST_PAGE))

    def deltas_for(
        self,
        digest: Sequence[Version],
        *,
        now: float,
        budget_bytes: int = DELTA_BUDGET_BYTES,
        named_only: bool = False,
    ) -> tuple[bytes, ...]:
        """The raw records that the book with this digest lacks, as far as the budget goes.

        `named_only` is for differences: there an owner that is not named is no news. Owners with certificates
        come first, since others' records count only through those; then the most outdated.
        """
        versions = dict(digest)
        if named_only:
            asked = (shelf for prefix in versions for shelf in self._shelves.at(prefix))
        else:
            asked = (self._shelves[owner] for owner in covered(self._shelves.ids, digest))
        lacking = []
        for shelf in asked:
            prefix = shelf.owner[:PREFIX_BYTES]
            theirs = versions.get(prefix, 0)
            if shelf.version > theirs:
                fresh = shelf.above(theirs, now)
                certifies = any(record.type in CERTIFYING for record in fresh)
                lacking.append((not certifies, theirs - shelf.version, prefix, fresh))
        lacking.sort(key=lambda entry: entry[:3])
        return tuple(within(budget_bytes, (record.raw for *_, fresh in lacking for record in fresh)))

    # --- Reading ---

    @property
    def owners(self) -> int:
        """How many nodes there are records, or memories of records, of."""
        return len(self._shelves)

    def get(self, owner: NodeId, kind: RecordType, name: str = "") -> Record | None:
        """One record, or None."""
        shelf = self._shelves.get(owner)
        held = shelf.slots.get((kind, name)) if shelf is not None else None
        return held.record if held is not None else None

    def of(self, owner: NodeId) -> list[Record]:
        """All records that a node has signed."""
        return [held.record for held in self._shelves[owner].slots.values()] if owner in self._shelves else []

    def all(self, kind: RecordType | None = None) -> list[tuple[NodeId, Record]]:
        """Every record, or every one of a type, with its owner."""
        return [
            (held.owner, held.record)
            for held in self._by_raw.values()
            if kind is None or held.record.type is kind
        ]

    def above(self, owner: NodeId, version: int, now: float) -> list[Record]:
        """The records of an owner to hand on to somebody who has this version, in the order of their seqs."""
        return self._shelves[owner].above(version, now) if owner in self._shelves else []

    def certificates_of(self, subject: NodeId) -> list[Record]:
        """The certificate records about a node, whoever signed them."""
        return self._certified.about(RecordType.CERTIFICATE, to_text(subject))

    def revocations_of(self, serial: bytes) -> list[Record]:
        """The records that say that they take back the certificate with this serial."""
        return self._certified.about(RecordType.REVOCATION, serial.hex()) if self.revoking else []

    @property
    def revoking(self) -> int:
        """How many revocations there are."""
        return self._certified.revoking

    @property
    def certified(self) -> int:
        """A number that changes with every certificate and revocation that comes or goes."""
        return self._certified.revision

    def __len__(self) -> int:
        return len(self._by_raw)

    # --- Inside ---

    def _said(self, shelf: Shelf) -> int | None:
        """What a digest says of an owner, if anything; of this node, while recalling, what came back to it."""
        if self.recalling and shelf.owner == self.own:
            return self._recalled
        return shelf.version or None

    def _read(self, raws: Iterable[bytes]) -> tuple[list[Record], list[Refusal]]:
        """The batch, certificates first and then by seq; what is held already is not verified again."""
        batch: list[Record] = []
        refused: list[Refusal] = []
        for raw in raws:
            held = self._by_raw.get(raw)
            try:
                batch.append(held.record if held is not None else self._read_record(raw))
            except RemoteWireError:
                refused.append(Refusal(Refused.MALFORMED))
        batch.sort(key=lambda record: (record.type not in CERTIFYING, record.seq))
        return batch, refused

    def _fault(self, record: Record, owner: NodeId, wall_ms: int, from_owner: bool) -> Refused | None:
        """Why a record is not taken, or None."""
        if owner == self.own and record.type not in CERTIFYING:
            self._outrun(record.seq)
            return Refused.STALE if record.raw in self._by_raw else Refused.OWN
        entitled = self._is_issuer if record.type in CERTIFYING else self._is_member
        if not entitled(record.key):
            return Refused.STRANGER
        if record.raw in self._by_raw:
            return Refused.STALE
        shelf = self._shelves.get(owner)
        if shelf is not None:
            if shelf.contradicts(record):
                return Refused.EQUIVOCATION
            if record.seq <= shelf.floor(record):
                return Refused.STALE
            if record.type in PASSING and record.seq <= shelf.left_at:
                return Refused.LEFT
        if not from_owner and not plausible(record, wall_ms):
            return Refused.SKEWED
        return self._no_room(record, shelf)

    def _no_room(self, record: Record, shelf: Shelf | None) -> Refused | None:
        if shelf is not None and (record.type, record.name) in shelf.slots:
            return None
        if record.type in CERTIFYING:
            return Refused.FULL if len(self._certified) >= CERTIFICATES_TOTAL else None
        if shelf is not None and shelf.passing >= RECORDS_PER_PEER:
            return Refused.TOO_MANY
        return Refused.FULL if len(self._by_raw) - len(self._certified) >= RECORDS_TOTAL else None

    def _outrun(self, seq: int) -> None:
        """Somebody knows an own record of this seq."""
        if seq > self._own_seen:
            self._own_seen = self._outrun_at = seq

    def _shelf(self, owner: NodeId) -> Shelf:
        if owner not in self._shelves:
            self._shelves.make(owner)
            self._first_end = -math.inf
        return self._shelves[owner]

    def _place(self, shelf: Shelf, record: Record, expires_at: float) -> None:
        replaced = shelf.slots.get((record.type, record.name))
        if replaced is not None:
            self._remove(shelf, replaced)
        if record.type is RecordType.TOMBSTONE:
            for held in shelf.leave(record.seq):
                self._remove(shelf, held)
        held = Held(shelf.owner, record, expires_at)
        shelf.put(held)
        self._first_end = min(self._first_end, expires_at)
        self._by_raw[record.raw] = held
        self._certified.put(record)
        self.revision += 1

    def _remove(self, shelf: Shelf, held: Held) -> None:
        shelf.take(held)
        del self._by_raw[held.record.raw]
        self._certified.take(held.record)
        self.revision += 1

"""One owner's records: its slots, its floors, whether it has left. It decides nothing about who may sign."""

from dataclasses import dataclass, field

from meshwire.ids import NodeId
from meshwire.limits import CLOCK_TOLERANCE_S, RECORD_TTL_CAP_S
from meshwire.records import Record, RecordType

PASSING_TTL_CAP_S = 3600
FLOORS_PER_OWNER = 64
FADING = 4  # in the last quarter of its life a passing record is no longer handed on

PASSING = frozenset({RecordType.NODE, RecordType.MODEL, RecordType.VITALS})
"""What a node says of itself while it is there; a tombstone ends all of it."""

CERTIFYING = frozenset({RecordType.CERTIFICATE, RecordType.REVOCATION})
"""What an issuer says of others; it outlives the issuer's own presence."""

Slot = tuple[RecordType, str]


def life_s(record: Record, wall_ms: int | None = None) -> float:
    """How long a record may be held from now, in seconds.

    The TTL, capped by type. For one from a third hand, `wall_ms` says what time it is here: it never lives
    longer than its issue allows, clocks being within the tolerance.
    """
    cap_s = RECORD_TTL_CAP_S if record.type in CERTIFYING else PASSING_TTL_CAP_S
    life = min(record.ttl_ms / 1000, cap_s)
    if wall_ms is None:
        return life
    return min(life, (record.issued_ms - wall_ms) / 1000 + life + CLOCK_TOLERANCE_S)


def plausible(record: Record, wall_ms: int) -> bool:
    """Whether a record from a third hand can still be true, given clocks within the tolerance."""
    tolerance_ms = CLOCK_TOLERANCE_S * 1000
    age_ms = wall_ms - record.issued_ms
    return -tolerance_ms <= age_ms <= life_s(record) * 1000 + tolerance_ms


@dataclass(frozen=True, slots=True)
class Held:
    """A record and the local monotonic time at which it ends."""

    owner: NodeId
    record: Record
    expires_at: float

    def fading(self, now: float) -> bool:
        """Whether it is about to end without its owner having renewed it."""
        return self.record.type in PASSING and (self.expires_at - now) * FADING < life_s(self.record)


@dataclass(slots=True)
class Shelf:
    """All that is held of one owner.

    `version` is the seq up to which everything has come; `left_at` the seq of its latest tombstone; `floors`
    the seqs of records that have expired, so that they are not brought back.
    """

    owner: NodeId
    version: int = 0
    left_at: int = 0
    passing: int = 0
    empty_since: float = 0.0
    slots: dict[Slot, Held] = field(default_factory=dict)
    floors: dict[Slot, int] = field(default_factory=dict)
    seqs: dict[int, bytes] = field(default_factory=dict)

    def put(self, held: Held) -> None:
        """Place a record in its slot, which is empty."""
        record = held.record
        self.slots[record.type, record.name] = held
        self.seqs[record.seq] = record.raw
        self.passing += record.type not in CERTIFYING

    def take(self, held: Held) -> None:
        """Take a record out of its slot."""
        record = held.record
        del self.slots[record.type, record.name]
        del self.seqs[record.seq]
        self.passing -= record.type not in CERTIFYING

    def remember(self, record: Record) -> None:
        """Keep the floor of a slot that is empty now; of too many, the lowest are forgotten."""
        slot = (record.type, record.name)
        self.floors[slot] = max(record.seq, self.floors.get(slot, 0))
        while len(self.floors) > FLOORS_PER_OWNER:
            del self.floors[min(self.floors, key=lambda one: self.floors[one])]

    def leave(self, seq: int) -> list[Held]:
        """Note a tombstone; returns what it ends."""
        self.left_at = max(self.left_at, seq)
        return [
            held
            for held in self.slots.values()
            if held.record.type in PASSING and held.record.seq <= self.left_at
        ]

    def contradicts(self, record: Record) -> bool:
        """Whether the owner has signed another record under the same seq."""
        return self.seqs.get(record.seq, record.raw) != record.raw

    def floor(self, record: Record) -> int:
        """The seq that a record must exceed to enter its slot."""
        slot = (record.type, record.name)
        held = self.slots.get(slot)
        return held.record.seq if held is not None else self.floors.get(slot, -1)

    def above(self, version: int, now: float) -> list[Record]:
        """The records to hand on to somebody who has this version, in seq order."""
        fresh = [
            held.record
            for held in self.slots.values()
            if version < held.record.seq <= self.version and not held.fading(now)
        ]
        return sorted(fresh, key=lambda record: record.seq)

"""Books that gossip in any order among forgers and liars: they believe only what was signed, and agree in the end."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshnode.mesh.book import Refused
from meshwire.limits import RECORDS_PER_PEER
from meshwire.records import Record, RecordType
from tests.machines import PLAYED
from tests.mesh.cast import MINUTE_MS, Actor

COUNT = 3
actors = st.integers(0, COUNT - 1)
kinds = st.sampled_from((RecordType.NODE, RecordType.VITALS))
NAMES = ("", "a")


class GossipMachine(RuleBasedStateMachine):
    """Three members, each with a book, and a stranger who is none."""

    def __init__(self) -> None:
        super().__init__()
        self.stranger = Actor(99)
        self.actors = [Actor(1 + number, strangers=(self.stranger,)) for number in range(COUNT)]
        self.signed: dict[bytes, Record] = {}
        self.floors: dict[tuple[int, bytes, RecordType, str], int] = {}
        self.liars: set[bytes] = set()

    def keep(self, record: Record) -> Record:
        self.signed[record.raw] = record
        return record

    # --- What honest members do ---

    @rule(who=actors, kind=kinds, name=st.sampled_from(NAMES))
    def publish(self, who: int, kind: RecordType, name: str) -> None:
        self.keep(self.actors[who].publish(kind, name, content=str(len(self.signed))))

    @rule(who=actors)
    def leave(self, who: int) -> None:
        self.keep(self.actors[who].publish(RecordType.TOMBSTONE))

    @rule(who=actors, other=actors, budget=st.sampled_from((300, 2_000, 12_000)))
    def learn(self, who: int, other: int, budget: int) -> None:
        if who != other:
            self.actors[who].learn_from(self.actors[other], budget_bytes=budget)

    @rule(seconds=st.sampled_from((0.5, 5.0, 60.0, 400.0)))
    def pass_time(self, seconds: float) -> None:
        for actor in self.actors:
            actor.pass_time(seconds)
            for record in actor.book.expire(actor.now):
                assert record.raw in self.signed

    # --- What others do ---

    def handed(self, which: int) -> Record | None:
        records = sorted(self.signed.values(), key=lambda record: record.raw)
        return records[which % len(records)] if records else None

    @rule(who=actors, which=st.integers(0, 999), times=st.integers(1, 3), sender=actors)
    def replay(self, who: int, which: int, times: int, sender: int) -> None:
        """Anything that was ever signed may come again, out of order, from anybody."""
        if (record := self.handed(which)) is not None:
            actor = self.actors[who]
            actor.hear(*[record] * times, sender=self.actors[sender].node, in_order=False)

    @rule(who=actors, which=st.integers(0, 999), at=st.integers(0, 999), bit=st.integers(0, 7))
    def forge(self, who: int, which: int, at: int, bit: int) -> None:
        if (record := self.handed(which)) is not None:
            raw = bytearray(record.raw)
            raw[at % len(raw)] ^= 1 << bit
            merged = self.actors[who].hear(bytes(raw))
            assert not merged.accepted
            assert not merged.believed

    @rule(who=actors, seq=st.integers(1, 2**62), kind=kinds)
    def intrude(self, who: int, seq: int, kind: RecordType) -> None:
        merged = self.actors[who].hear(self.stranger.sign(seq, kind))
        assert [refusal.reason for refusal in merged.refused] == [Refused.STRANGER]

    @rule(who=actors, liar=actors, ahead_min=st.sampled_from((11, 600)))
    def date_ahead(self, who: int, liar: int, ahead_min: int) -> None:
        """A third hand brings a record from a future that no clock within the tolerance shows."""
        if who == liar:
            return
        actor, owner = self.actors[who], self.actors[liar]
        issued_ms = actor.wall_ms + ahead_min * MINUTE_MS
        record = owner.sign(2**60 + len(self.signed), RecordType.NODE, "future", issued_ms=issued_ms)
        assert not actor.hear(record, in_order=False).accepted

    @rule(who=actors, which=st.integers(0, 999))
    def equivocate(self, who: int, which: int) -> None:
        """The owner signs another body under a seq that it has used."""
        record = self.handed(which)
        owner = next(
            (one for one in self.actors if record is not None and one.signer.public == record.key), None
        )
        if record is None or owner is None or owner is self.actors[who]:
            return
        other = self.keep(owner.sign(record.seq, record.type, record.name, content="another"))
        self.liars.add(record.key)
        held = self.actors[who].book.get(owner.node, record.type, record.name)
        merged = self.actors[who].hear(other, in_order=False)
        if held == record and other.raw != record.raw:
            assert [refusal.reason for refusal in merged.refused] == [Refused.EQUIVOCATION]

    # --- What must always hold ---

    @invariant()
    def only_what_was_signed_and_never_backwards(self) -> None:
        for number, actor in enumerate(self.actors):
            for owner, record in actor.book.all():
                assert record.raw in self.signed
                assert record.owner == owner
                slot = (number, record.key, record.type, record.name)
                assert record.seq >= self.floors.get(slot, 0), "an older record came back"
                self.floors[slot] = record.seq
            for other in self.actors:
                assert len(actor.book.of(other.node)) <= RECORDS_PER_PEER + 1

    def teardown(self) -> None:
        """Left alone for some rounds, all hold the same of everybody who did not lie."""
        for _ in range(2 * COUNT):
            for actor in self.actors:
                for other in self.actors:
                    if actor is not other:
                        actor.learn_from(other)
        for owner in self.actors:
            if owner.signer.public in self.liars:
                continue
            fresh = {
                record.raw
                for record in owner.book.of(owner.node)
                if record.type is RecordType.TOMBSTONE or not self.fades(owner, record)
            }
            for actor in self.actors:
                held = {record.raw for record in actor.book.of(owner.node)}
                assert fresh <= held | self.gone(actor, owner), "somebody never heard of a record"

    def fades(self, owner: Actor, record: Record) -> bool:
        return (owner.wall_ms - record.issued_ms) * 4 >= record.ttl_ms * 3

    def gone(self, actor: Actor, owner: Actor) -> set[bytes]:
        """What an actor had once and has let go since its time was over there."""
        return {
            raw
            for raw, record in self.signed.items()
            if record.key == owner.signer.public and owner.wall_ms - record.issued_ms >= record.ttl_ms
        }


TestGossip = GossipMachine.TestCase
TestGossip.settings = PLAYED

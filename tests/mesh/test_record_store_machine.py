"""What the DHT keeps for others, whatever is announced and when: bounded, in time, the newest of each provider."""

import random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshnode.mesh.providers import Providers, StoreRate
from meshwire import limits
from meshwire.records import RecordType, read_record
from tests.machines import PLAYED
from tests.mesh.cast import MINUTE_MS, Actor

KEYS = tuple(bytes((number,)) * 20 for number in range(3))
ACTORS = tuple(Actor(1 + number) for number in range(limits.PROVIDERS_KEPT + 6))
BUDGET_BYTES = 6_000
keys = st.sampled_from(KEYS)
actors = st.integers(0, len(ACTORS) - 1)


class RecordStoreMachine(RuleBasedStateMachine):
    """Announcements, lookups and time, against a plain model of what should be there."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.rate, self.rng = Providers(), StoreRate(), random.Random(1)
        self.now = 0.0
        self.seq = 0
        self.model: dict[tuple[bytes, bytes], tuple[int, float]] = {}  # key and provider: seq and its end
        self.calls: dict[int, list[float]] = {}

    def announce(self, key: bytes, who: int, seq: int, ttl_ms: int) -> bool:
        actor = ACTORS[who]
        kept = self.store.put(key, actor.sign(seq, RecordType.MODEL, "m", ttl_ms=ttl_ms), self.now)
        if kept:
            ends = self.now + min(ttl_ms / 1000, limits.PROVIDER_TTL_S)
            self.model[key, actor.node] = (seq, ends)
        return kept

    @rule(key=keys, who=actors, ttl_min=st.sampled_from((1, 15, 600)))
    def announce_newer(self, key: bytes, who: int, ttl_min: int) -> None:
        self.seq += 1
        known = self.model.get((key, ACTORS[who].node), (0, 0.0))[1] > self.now
        kept = self.announce(key, who, self.seq, ttl_min * MINUTE_MS)
        assert kept or not known, "a provider's newer record was turned away"

    @rule(key=keys, who=actors)
    def announce_older(self, key: bytes, who: int) -> None:
        held = self.model.get((key, ACTORS[who].node))
        if held is not None and held[1] > self.now and held[0] > 1:
            assert not self.announce(key, who, held[0] - 1, MINUTE_MS)

    @rule(key=keys, first=actors)
    def announce_many(self, key: bytes, first: int) -> None:
        self.seq += 1
        for offset in range(limits.PROVIDERS_KEPT + 4):
            self.announce(key, (first + offset) % len(ACTORS), self.seq, 15 * MINUTE_MS)

    @rule(who=actors)
    def store_often(self, who: int) -> None:
        calls = self.calls.setdefault(who, [])
        within = [at for at in calls if self.now - at < limits.STORES_WINDOW_S]
        admitted = self.rate.admit(ACTORS[who].node, self.now)
        assert admitted == (len(within) < limits.STORES_PER_PEER)
        if admitted:
            calls.append(self.now)

    @rule(seconds=st.sampled_from((0.5, 30.0, 70.0, 1000.0)), tidy=st.booleans())
    def pass_time(self, seconds: float, tidy: bool) -> None:
        self.now += seconds
        if tidy:
            self.store.expire(self.now)
            self.model = {slot: held for slot, held in self.model.items() if held[1] > self.now}

    @rule(key=keys)
    def look_up(self, key: bytes) -> None:
        found = [read_record(raw) for raw in self.store.get(key, self.now, BUDGET_BYTES, self.rng)]
        current = {
            node: seq for (one, node), (seq, ends) in self.model.items() if one == key and ends > self.now
        }
        assert len({record.owner for record in found}) == len(found) <= limits.PROVIDERS_RETURNED
        assert sum(len(record.raw) for record in found) <= BUDGET_BYTES
        for record in found:
            assert record.seq == current[record.owner], "what is over, or was replaced, came back"
        assert len(found) == min(len(current), limits.PROVIDERS_RETURNED)

    @invariant()
    def bounded(self) -> None:
        """Of those who announced, no more than there are places for are still there."""
        for key in KEYS:
            held = self.store._keys.get(key, {})
            assert len(held) <= limits.PROVIDERS_KEPT


TestRecordStore = RecordStoreMachine.TestCase
TestRecordStore.settings = PLAYED

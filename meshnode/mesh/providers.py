"""What the DHT keeps for others: under each key, who provides, by the provider's own signed word. Bounded.

It knows neither links nor clocks. A provider stores for itself only, under the keys that its record entitles
it to, so that nobody can announce another, or fill keys at will. Where there is no room, whoever has most of it
makes room: a member, or in a mesh that anybody may join an address group.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from meshnode.mesh import keyspace
from meshnode.mesh.ads import ModelAd, read_model_ad
from meshnode.mesh.digest import within
from meshnode.seams import Rng
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId
from meshwire.limits import (
    KEYS_KEPT,
    PROVIDER_TTL_S,
    PROVIDERS_KEPT,
    PROVIDERS_RETURNED,
    STORED_PER_OWNER,
    STORES_PER_PEER,
    STORES_WINDOW_S,
)
from meshwire.records import Record, RecordType

CALLERS_MAX = 1000


def keys_of(mesh: bytes, record: Record) -> tuple[bytes, ...]:
    """The keys that a record may be stored under: none for one that is no ad."""
    if record.type is RecordType.NODE:
        return (keyspace.peer_key(record.key),)
    if record.type is not RecordType.MODEL:
        return ()
    try:
        ad = read_model_ad(record)
    except RemoteWireError:
        return ()
    return model_keys(mesh, ad)


def model_keys(mesh: bytes, ad: ModelAd) -> tuple[bytes, ...]:
    """The keys under which the providers of a model are found: its family, and its family at its tier."""
    return keyspace.capability_key(mesh, ad.family), keyspace.capability_key(mesh, ad.family, ad.tier)


@dataclass(frozen=True, slots=True)
class _Stored:
    record: Record
    group: str
    expires_at: float


_Slots = dict[tuple[NodeId, str], _Stored]


@dataclass(slots=True)
class Providers:
    """The provider records that one node keeps. Times are monotonic seconds.

    A `group` names whom a record counts against: its owner, or the address group that it came from.
    """

    _keys: dict[bytes, _Slots] = field(default_factory=dict)
    _owned: Counter[NodeId] = field(default_factory=Counter)

    def put(self, key: bytes, record: Record, now: float, group: str = "") -> bool:
        """Keep a record under a key; False if there is no room, its owner has its share, or a newer one is there.

        Of a full key what has expired goes first, then the oldest of the group that has most places in it, if
        that has at least two more than the newcomer's; so do keys that belong to one group alone.
        """
        slot, group = (record.owner, record.name), group or record.owner.hex()
        held = self._keys.get(key, {}).get(slot)
        if held is not None and held.record.seq > record.seq:
            return False
        if held is None and not self._make_room(key, record.owner, group, now):
            return False
        self._owned[record.owner] += held is None
        self._keys.setdefault(key, {})[slot] = _Stored(
            record, group, now + min(record.ttl_ms / 1000, PROVIDER_TTL_S)
        )
        return True

    def get(self, key: bytes, now: float, budget_bytes: int, rng: Rng) -> tuple[bytes, ...]:
        """Raw records under a key, as many as may be returned: one of each group by lot, then a second of each.

        So each of those who keep a key names others, and many announcements do not hide a few.
        """
        current = [stored for stored in self._keys.get(key, {}).values() if stored.expires_at > now]
        current.sort(key=lambda stored: (stored.record.owner, stored.record.name))
        rng.shuffle(current)
        by_group: dict[str, list[_Stored]] = {}
        for stored in current:
            by_group.setdefault(stored.group, []).append(stored)
        fair = [stored for stored in chain(*zip_longest(*by_group.values())) if stored is not None]
        return tuple(within(budget_bytes, (stored.record.raw for stored in fair[:PROVIDERS_RETURNED])))

    def expire(self, now: float) -> None:
        """Drop what is over."""
        for key in list(self._keys):
            self._expire_key(key, now)

    def _expire_key(self, key: bytes, now: float) -> None:
        for slot, stored in list(self._keys.get(key, {}).items()):
            if stored.expires_at <= now:
                self._drop(key, slot)

    def _drop(self, key: bytes, slot: tuple[NodeId, str]) -> None:
        owner, _ = slot
        del self._keys[key][slot]
        if not self._keys[key]:
            del self._keys[key]
        self._owned[owner] -= 1
        if not self._owned[owner]:
            del self._owned[owner]

    def _make_room(self, key: bytes, owner: NodeId, group: str, now: float) -> bool:
        """Whether there is room for one more record of an owner under a key, or can be made."""
        if self._owned[owner] >= STORED_PER_OWNER:
            return False
        slots = self._keys.get(key)
        if slots is None:
            return len(self._keys) < KEYS_KEPT or self._drop_key(group, now)
        if len(slots) >= PROVIDERS_KEPT:
            self._expire_key(key, now)
        if len(slots) < PROVIDERS_KEPT:
            return True
        crowd = _crowd([stored.group for stored in slots.values()], group)
        if crowd is None:
            return False
        of_crowd = [slot for slot, stored in slots.items() if stored.group == crowd]
        self._drop(key, min(of_crowd, key=lambda slot: (slots[slot].expires_at, slot)))
        return True

    def _drop_key(self, group: str, now: float) -> bool:
        """Make room for one more key; False if nobody has too many."""
        self.expire(now)
        if len(self._keys) < KEYS_KEPT:
            return True
        sole = {key: _sole_group(slots) for key, slots in self._keys.items()}
        crowd = _crowd([one for one in sole.values() if one], group)
        if crowd is None:
            return False
        crowded = next(key for key, one in sole.items() if one == crowd)
        for slot in list(self._keys[crowded]):
            self._drop(crowded, slot)
        return True


def _sole_group(slots: _Slots) -> str:
    """The group that all of a key's records count against; empty if there are several."""
    groups = {stored.group: None for stored in slots.values()}
    return next(iter(groups)) if len(groups) == 1 else ""


def _crowd(groups: list[str], newcomer: str) -> str | None:
    """The group with most places, if it has at least two more than the newcomer's."""
    counts = Counter(groups)
    most = max(counts, key=lambda group: (counts[group], group), default="")
    return most if counts[most] > counts[newcomer] + 1 else None


@dataclass(slots=True)
class StoreRate:
    """How often each peer may store: a sliding window."""

    _calls: dict[bytes, deque[float]] = field(default_factory=dict)

    def admit(self, peer: bytes, now: float) -> bool:
        """Count one call and say whether it is within the bound."""
        if peer not in self._calls and len(self._calls) >= CALLERS_MAX:
            self._calls = {
                one: calls for one, calls in self._calls.items() if now - calls[-1] < STORES_WINDOW_S
            }
        calls = self._calls.setdefault(peer, deque(maxlen=STORES_PER_PEER))
        if len(calls) == STORES_PER_PEER and now - calls[0] < STORES_WINDOW_S:
            return False
        calls.append(now)
        return True

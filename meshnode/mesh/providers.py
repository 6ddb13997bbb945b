"""What the DHT keeps for others: under each key, who provides, by the provider's own signed word. Bounded.

It knows neither links nor clocks. A provider stores for itself only, under the keys that its record entitles
it to, so that nobody can announce another, or fill keys at will.
"""

from collections import deque
from dataclasses import dataclass, field

from meshnode.mesh import keyspace
from meshnode.mesh.ads import ModelAd, read_model_ad
from meshnode.mesh.digest import within
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId
from meshwire.limits import (
    PROVIDER_TTL_S,
    PROVIDERS_KEPT,
    PROVIDERS_RETURNED,
    STORES_PER_PEER,
    STORES_WINDOW_S,
)
from meshwire.records import Record, RecordType

KEYS_MAX = 1000
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
    expires_at: float


@dataclass(slots=True)
class Providers:
    """The provider records that one node keeps. Times are monotonic seconds."""

    _keys: dict[bytes, dict[tuple[NodeId, str], _Stored]] = field(default_factory=dict)

    def put(self, key: bytes, record: Record, now: float) -> bool:
        """Keep a record under a key; False if there is no room or a newer one is there.

        Of a full key, what has expired goes first; then newcomers are turned away.
        """
        slots = self._keys.get(key)
        if slots is None:
            if len(self._keys) >= KEYS_MAX:
                return False
            slots = self._keys[key] = {}
        slot = (record.owner, record.name)
        held = slots.get(slot)
        if held is not None and held.record.seq > record.seq:
            return False
        if held is None and len(slots) >= PROVIDERS_KEPT:
            return False
        slots[slot] = _Stored(record, now + min(record.ttl_ms / 1000, PROVIDER_TTL_S))
        return True

    def get(self, key: bytes, now: float, budget_bytes: int) -> tuple[bytes, ...]:
        """Raw records under a key, as many as may be returned: those announced last come first."""
        current = [stored for stored in self._keys.get(key, {}).values() if stored.expires_at > now]
        current.sort(key=lambda stored: (-stored.expires_at, stored.record.owner))
        return tuple(within(budget_bytes, (stored.record.raw for stored in current[:PROVIDERS_RETURNED])))

    def expire(self, now: float) -> None:
        """Drop what is over."""
        for key, slots in list(self._keys.items()):
            for slot, stored in list(slots.items()):
                if stored.expires_at <= now:
                    del slots[slot]
            if not slots:
                del self._keys[key]


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

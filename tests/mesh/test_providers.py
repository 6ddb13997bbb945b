"""What the DHT keeps for others."""

from meshnode.mesh.providers import CALLERS_MAX, KEYS_MAX, Providers, StoreRate, keys_of
from meshwire.ids import NodeId
from meshwire.limits import (
    PROVIDER_TTL_S,
    PROVIDERS_KEPT,
    PROVIDERS_RETURNED,
    STORES_PER_PEER,
    STORES_WINDOW_S,
)
from meshwire.records import RecordType
from tests.mesh.cast import MINUTE_MS, Actor

KEY = b"k" * 20
ROOM = 10**6


def test_a_newer_record_replaces_an_older_one_only() -> None:
    ann, kept = Actor(1), Providers()
    old, new = ann.sign(1, RecordType.MODEL, "m"), ann.sign(2, RecordType.MODEL, "m")
    assert kept.put(KEY, new, 0.0)
    assert not kept.put(KEY, old, 0.0)
    assert kept.get(KEY, 0.0, ROOM) == (new.raw,)


def test_what_is_kept_expires() -> None:
    ann, kept = Actor(1), Providers()
    kept.put(KEY, ann.sign(1, ttl_ms=MINUTE_MS), 0.0)
    kept.put(KEY, ann.sign(2, RecordType.MODEL, "m", ttl_ms=2**60), 0.0)
    assert len(kept.get(KEY, 59.0, ROOM)) == 2
    assert len(kept.get(KEY, 61.0, ROOM)) == 1
    assert kept.get(KEY, PROVIDER_TTL_S, ROOM) == ()
    kept.expire(PROVIDER_TTL_S)
    assert kept._keys == {}


def test_a_key_and_an_answer_are_bounded() -> None:
    kept = Providers()
    taken = [kept.put(KEY, Actor(number).sign(1), 0.0) for number in range(1, PROVIDERS_KEPT + 10)]
    assert sum(taken) == PROVIDERS_KEPT
    assert len(kept.get(KEY, 0.0, ROOM)) == PROVIDERS_RETURNED
    assert kept.put(KEY, Actor(1).sign(2), 0.0)
    assert 0 < len(kept.get(KEY, 0.0, 500)) < PROVIDERS_RETURNED


def test_the_number_of_keys_is_bounded() -> None:
    kept, record = Providers(), Actor(1).sign(1)
    taken = [kept.put(number.to_bytes(20, "big"), record, 0.0) for number in range(KEYS_MAX + 5)]
    assert sum(taken) == KEYS_MAX


def test_a_peer_that_stores_too_often_is_told_so() -> None:
    rate, peer = StoreRate(), NodeId(b"p" * 20)
    assert all(rate.admit(peer, 0.1 * call) for call in range(STORES_PER_PEER))
    assert not rate.admit(peer, STORES_WINDOW_S - 0.1)
    assert rate.admit(NodeId(b"q" * 20), 1.0)
    assert rate.admit(peer, STORES_WINDOW_S)
    assert not rate.admit(peer, STORES_WINDOW_S)


def test_the_memory_of_callers_is_bounded() -> None:
    rate = StoreRate()
    for number in range(3 * CALLERS_MAX):
        rate.admit(number.to_bytes(20, "big"), number * 1.0)
    assert len(rate._calls) <= CALLERS_MAX


def test_only_ads_have_keys() -> None:
    ann = Actor(1)
    assert keys_of(b"m" * 16, ann.sign(1, RecordType.VITALS)) == ()
    assert keys_of(b"m" * 16, ann.sign(1, RecordType.MODEL, "no ad")) == ()
    assert len(keys_of(b"m" * 16, ann.sign(1, RecordType.NODE))) == 1

"""What the DHT keeps for others."""

import random

from meshnode.mesh.providers import CALLERS_MAX, Providers, StoreRate, keys_of
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
from meshwire.records import RecordType
from tests.mesh.cast import MINUTE_MS, Actor

KEY = b"k" * 20
ROOM = 10**6


def test_a_newer_record_replaces_an_older_one_only() -> None:
    ann, kept = Actor(1), Providers()
    old, new = ann.sign(1, RecordType.MODEL, "m"), ann.sign(2, RecordType.MODEL, "m")
    assert kept.put(KEY, new, 0.0)
    assert not kept.put(KEY, old, 0.0)
    assert kept.get(KEY, 0.0, ROOM, random.Random(1)) == (new.raw,)


def test_what_is_kept_expires() -> None:
    ann, kept = Actor(1), Providers()
    kept.put(KEY, ann.sign(1, ttl_ms=MINUTE_MS), 0.0)
    kept.put(KEY, ann.sign(2, RecordType.MODEL, "m", ttl_ms=2**60), 0.0)
    assert len(kept.get(KEY, 59.0, ROOM, random.Random(1))) == 2
    assert len(kept.get(KEY, 61.0, ROOM, random.Random(1))) == 1
    assert kept.get(KEY, PROVIDER_TTL_S, ROOM, random.Random(1)) == ()
    kept.expire(PROVIDER_TTL_S)
    assert kept._keys == {}


def test_a_key_and_an_answer_are_bounded() -> None:
    kept = Providers()
    taken = [kept.put(KEY, Actor(number).sign(1), 0.0) for number in range(1, PROVIDERS_KEPT + 10)]
    assert sum(taken) == PROVIDERS_KEPT
    assert len(kept.get(KEY, 0.0, ROOM, random.Random(1))) == PROVIDERS_RETURNED
    assert kept.put(KEY, Actor(1).sign(2), 0.0)
    assert 0 < len(kept.get(KEY, 0.0, 500, random.Random(1))) < PROVIDERS_RETURNED


def test_the_number_of_keys_is_bounded() -> None:
    kept = Providers()
    records = [Actor(number).sign(1) for number in range(1, KEYS_KEPT // STORED_PER_OWNER + 2)]
    keys = iter(range(KEYS_KEPT + STORED_PER_OWNER))
    for record in records:
        for _ in range(STORED_PER_OWNER):
            kept.put(next(keys).to_bytes(20, "big"), record, 0.0)
    assert len(kept._keys) == KEYS_KEPT
    assert kept.put(b"n" * 20, Actor(1000).sign(1), 1.0)
    assert len(kept._keys) == KEYS_KEPT


def test_an_owner_has_a_share_of_all_that_is_kept() -> None:
    kept, record = Providers(), Actor(1).sign(1)
    taken = [kept.put(number.to_bytes(20, "big"), record, 0.0) for number in range(KEYS_KEPT)]
    assert sum(taken) == STORED_PER_OWNER
    kept.expire(PROVIDER_TTL_S)
    assert kept.put(KEY, record, PROVIDER_TTL_S)


def test_in_a_full_key_the_group_with_most_places_makes_room() -> None:
    kept = Providers()
    for number in range(1, PROVIDERS_KEPT + 1):
        kept.put(KEY, Actor(number).sign(1), float(number), "crowd" if number % 2 else f"group {number}")
    honest = Actor(1000)
    assert kept.put(KEY, honest.sign(1), 100.0, "newcomer")
    assert not kept.put(KEY, Actor(1001).sign(1), 100.0, "crowd")
    owners = {owner for owner, _ in kept._keys[KEY]}
    assert len(owners) == PROVIDERS_KEPT
    assert honest.node in owners
    assert Actor(1).node not in owners  # the crowd's oldest


def test_in_a_full_key_what_has_expired_goes_first() -> None:
    kept = Providers()
    for number in range(1, PROVIDERS_KEPT + 1):
        ttl_ms = MINUTE_MS if number == 7 else 10 * MINUTE_MS
        kept.put(KEY, Actor(number).sign(1, ttl_ms=ttl_ms), 0.0)
    assert not kept.put(KEY, Actor(1000).sign(1), 59.0)
    assert kept.put(KEY, Actor(1000).sign(1), 61.0)
    assert Actor(7).node not in {owner for owner, _ in kept._keys[KEY]}


def test_many_announcements_of_one_group_hide_no_other() -> None:
    kept, honest = Providers(), Actor(1000)
    kept.put(KEY, honest.sign(1), 0.0, "honest")
    for number in range(1, PROVIDERS_KEPT):
        kept.put(KEY, Actor(number).sign(1), 1.0, "crowd")
    for seed in range(20):
        assert honest.sign(1).raw in kept.get(KEY, 1.0, ROOM, random.Random(seed))


def test_those_who_keep_a_key_do_not_all_name_the_same() -> None:
    kept = Providers()
    for number in range(1, PROVIDERS_KEPT + 1):
        kept.put(KEY, Actor(number).sign(1), 0.0)
    named = {raw for seed in range(30) for raw in kept.get(KEY, 0.0, ROOM, random.Random(seed))}
    assert len(named) > PROVIDERS_KEPT * 0.9


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

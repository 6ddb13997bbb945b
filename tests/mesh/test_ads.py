"""Ads, vitals, and their records."""

import msgspec
import pytest

from meshnode.mesh import ads, keyspace, vitals
from meshnode.mesh.vitals import FLOOR_S, REFRESH_LATEST_S, REFRESH_S, Neighbour, Vitals, should_resign
from meshnode.terms import ModelCard, Openness
from meshnode.trust.weights import sign
from meshwire.errors import LocalWireError, RemoteWireError
from meshwire.fields import unpack_fields
from meshwire.limits import RECORD_MAX
from meshwire.records import RecordType, read_record
from tests.mesh.cast import WALL_MS, Actor

CARD = ModelCard(
    name="smollm2:135m",
    family="smollm2",
    size="135m",
    quant="Q4_1",
    tier=2,
    digest=b"d" * 32,
    context=2048,
    prompt_tps=400.5,
    generate_tps=110.0,
    slots=8,
    batch_gain=1.3,
    features=("token-ids",),
    watts=12.5,
)
NODE_AD = ads.NodeAd(
    name="kitchen",
    static_key=b"k" * 32,
    addresses=("ws://10.0.0.2:8421",),
    relays=(b"r" * 20,),
    sandboxed=True,
)


def published(actor: Actor, kind: RecordType, payload: dict[int, object]) -> bytes:
    record = actor.book.publish(actor.signer, kind, payload, ttl_ms=ads.AD_TTL_MS, now=0, wall_ms=WALL_MS)
    return record.raw


def test_ads_survive_the_wire() -> None:
    ann = Actor(1)
    node = read_record(published(ann, RecordType.NODE, ads.node_payload(NODE_AD)))
    model = read_record(published(ann, RecordType.MODEL, ads.model_payload(ads.model_ad(CARD))))
    assert ads.read_node_ad(node) == NODE_AD
    assert ads.read_model_ad(model).card == CARD
    assert ads.read_model_ad(model).watts == 12.5
    assert model.name == "smollm2:135m@Q4_1"


def signed_by(actor: Actor, **changes: object) -> ModelCard:
    """The card with the actor's statement about its weights, and then these fields changed."""
    statement = sign(actor.signer, CARD.digest, 1_790_000_000_000)
    facts = {"signer": statement.signer, "signed_at_ms": statement.signed_at_ms}
    return msgspec.structs.replace(CARD, **facts, signature=statement.signature, **changes)


def heard(actor: Actor, card: ModelCard) -> ModelCard:
    """The card as others read it in the actor's ad."""
    raw = published(actor, RecordType.MODEL, ads.model_payload(ads.model_ad(card)))
    assert len(raw) <= RECORD_MAX
    return ads.read_model_ad(read_record(raw)).card


def test_who_signed_the_weights_is_told_to_others() -> None:
    ann, bob = Actor(1), Actor(2)
    assert heard(bob, signed_by(ann)) == signed_by(ann)


@pytest.mark.parametrize(
    "lie",
    [
        {"digest": b"e" * 32},
        {"signed_at_ms": 1},
        {"signer": Actor(3).signer.public},
        {"signature": b"s" * 64},
        {"signature": b""},
        {"signer": b""},
    ],
)
def test_a_signer_who_did_not_sign_is_dropped(lie: dict[str, object]) -> None:
    card = heard(Actor(2), msgspec.structs.replace(signed_by(Actor(1)), **lie))
    assert (card.signer, card.signed_at_ms, card.signature) == (b"", 0, b"")
    assert card.name == CARD.name


def test_the_largest_ads_fit_a_record() -> None:
    ann = Actor(1)
    largest = ads.NodeAd(
        name="n" * 64,
        static_key=b"k" * 32,
        addresses=("ws://[2001:db8:85a3:8d3:1319:8a2e:370:7348]:65535",) * 8,
        relays=(b"r" * 20,) * 4,
        version="0.1.0",
    )
    full = Vitals(
        neighbours=tuple(Neighbour(bytes([n]) * 20, 123.4) for n in range(16)),
        in_flight=999,
        slots=8,
        queued_prefill=10**6,
        queued_decode=10**6,
        free_memory_bytes=2**40,
        ads_version=WALL_MS,
        incarnation=2**32,
        accepting=False,
        admission=3,
    )
    assert len(published(ann, RecordType.NODE, ads.node_payload(largest))) <= RECORD_MAX
    assert len(published(ann, RecordType.VITALS, vitals.vitals_payload(full))) <= RECORD_MAX


def test_an_ad_others_would_refuse_is_our_own_error() -> None:
    with pytest.raises(LocalWireError):
        ads.node_payload(ads.NodeAd(name="short key", static_key=b"k"))


def test_a_model_record_under_another_name_is_refused() -> None:
    payload = ads.model_payload(ads.model_ad(CARD))
    record = read_record(published(Actor(1), RecordType.MODEL, {**payload, 0: "qwen3:8b@Q8_0"}))
    with pytest.raises(RemoteWireError, match="name"):
        ads.read_model_ad(record)


def test_a_record_of_another_type_is_refused() -> None:
    record = read_record(published(Actor(1), RecordType.NODE, ads.node_payload(NODE_AD)))
    with pytest.raises(RemoteWireError):
        ads.read_model_ad(record)
    with pytest.raises(RemoteWireError):
        vitals.read_vitals(record)


def test_keys_of_capabilities_and_peers_do_not_collide() -> None:
    mesh = b"m" * 16
    keys = {
        keyspace.capability_key(mesh, "qwen3"),
        keyspace.capability_key(mesh, "qwen3", 4),
        keyspace.capability_key(mesh, "qwen34"),
        keyspace.capability_key(b"n" * 16, "qwen3"),
        keyspace.peer_key(b"k" * 32),
    }
    assert len(keys) == 5
    assert all(len(key) == 20 for key in keys)
    assert keyspace.capability_key(mesh, "Qwen3") == keyspace.capability_key(mesh, "qwen3")


# --- When vitals are signed again ---

BASE = Vitals(
    in_flight=10, queued_prefill=1000, free_memory_bytes=10**9, neighbours=(Neighbour(b"a" * 20, 5.0),)
)


def resign(new: Vitals, age_s: float, mesh_size: int = 10) -> bool:
    return should_resign(BASE, new, now=100.0 + age_s, last_signed=100.0, mesh_size=mesh_size)


def changed(**changes: object) -> Vitals:
    return msgspec.structs.replace(BASE, **changes)


def test_the_first_vitals_are_signed() -> None:
    assert should_resign(None, BASE, now=0, last_signed=0, mesh_size=1)


def test_how_much_a_node_takes_is_one_number_that_older_readers_ignore() -> None:
    payload = vitals.vitals_payload(Vitals(accepting=False, admission=Openness.PAUSED_FOR_REMOTE))
    assert payload == {8: False, 64: 2}
    assert unpack_fields(Vitals, payload).openness is Openness.PAUSED_FOR_REMOTE
    assert Vitals().openness is Openness.ACCEPTING
    assert Vitals(admission=1).openness is Openness.DEPRIORITISED
    assert Vitals(accepting=False).openness is Openness.PAUSED_FOR_REMOTE  # by an older node
    assert Vitals(admission=77).openness is Openness.PAUSED  # by a newer one
    assert resign(changed(admission=3), 3)


def test_small_moves_are_not_worth_a_signature() -> None:
    assert not resign(changed(queued_prefill=1190), 19)
    assert resign(changed(queued_prefill=1260), 2)


def test_nothing_is_signed_within_two_seconds() -> None:
    assert not resign(changed(accepting=False, queued_prefill=0), FLOOR_S - 0.1)


def test_load_waits_longer_in_a_large_mesh_and_neighbours_less_so() -> None:
    moved, parted = changed(in_flight=50), changed(neighbours=())
    assert not resign(moved, 9, mesh_size=500)
    assert resign(moved, 10, mesh_size=500)
    assert resign(parted, 2, mesh_size=500)
    assert not resign(parted, 3.9, mesh_size=1000)
    assert resign(parted, 4, mesh_size=1000)


def test_round_trips_alone_wait_for_the_refresh() -> None:
    slower = changed(neighbours=(Neighbour(b"a" * 20, 500.0),))
    assert not resign(slower, REFRESH_S - 0.1)
    assert resign(slower, REFRESH_S)


def test_the_refresh_comes_well_before_expiry() -> None:
    assert resign(BASE, REFRESH_S)
    assert not resign(BASE, 29.9, mesh_size=5000)
    assert resign(BASE, 30, mesh_size=5000)
    assert vitals.VITALS_TTL_MS / 1000 >= 2 * REFRESH_LATEST_S


def test_neighbours_equally_far_do_not_take_turns() -> None:
    near = {bytes([n]) * 20: 50.0 for n in range(16)}
    named = [one.node for one in vitals.best_neighbours(near)]
    rival = bytes([20]) * 20
    assert [one.node for one in vitals.best_neighbours(near | {rival: 45.0}, named)] == named
    assert rival in [one.node for one in vitals.best_neighbours(near | {rival: 39.0}, named)]
    assert rival in [one.node for one in vitals.best_neighbours(near | {rival: 45.0})]


def test_the_nearest_neighbours_are_named() -> None:
    named = vitals.best_neighbours({bytes([n]) * 20: 100.0 - n for n in range(20)})
    assert [neighbour.rtt_ms for neighbour in named] == sorted(100.0 - n for n in range(4, 20))

"""The joined view of other nodes."""

from dataclasses import dataclass

from msgspec import structs

from meshnode.mesh import ads, vitals
from meshnode.mesh.peers import Peers
from meshnode.mesh.vitals import Neighbour, Vitals
from meshnode.terms import Trust
from meshwire.ids import NodeId
from meshwire.records import RecordType
from tests.mesh.cast import Actor
from tests.mesh.test_ads import CARD, NODE_AD


@dataclass(frozen=True)
class Known:
    trust: Trust = Trust.TRUSTED
    labels: tuple[str, ...] = ("eu",)
    endorsed_for: bytes = b""

    def trust_for(self, weights: bytes) -> Trust:
        return Trust.ENDORSED if weights == self.endorsed_for else self.trust


def member(key: bytes) -> Known | None:
    return Known()


def announce(actor: Actor, *neighbours: NodeId, in_flight: int = 0) -> None:
    said = Vitals(neighbours=tuple(Neighbour(node, 20.0) for node in neighbours), in_flight=in_flight)
    for kind, payload in (
        (RecordType.NODE, ads.node_payload(NODE_AD)),
        (RecordType.MODEL, ads.model_payload(ads.model_ad(CARD))),
        (RecordType.VITALS, vitals.vitals_payload(said)),
    ):
        actor.book.publish(actor.signer, kind, payload, ttl_ms=60_000, now=actor.now, wall_ms=actor.wall_ms)


def test_a_peer_two_links_away_is_a_candidate_with_its_path() -> None:
    ann, bob, cat = Actor(1), Actor(2), Actor(3)
    announce(bob, cat.node, ann.node)
    announce(cat, bob.node, in_flight=2)
    ann.learn_from(bob)
    ann.learn_from(cat)
    peers = Peers(ann.book)
    view = peers.view({bob.node: 10.0}, member)
    (candidate,) = [one for one in peers.candidates(view) if one.node == cat.node]
    assert candidate.path == (bob.node, cat.node)
    assert candidate.card == CARD
    assert (candidate.trust, candidate.labels, candidate.in_flight) == (Trust.TRUSTED, ("eu",), 2)
    assert candidate.reachable
    assert not candidate.ad_expired
    assert (view[bob.node].linked, view[bob.node].rtt_ms, view[bob.node].name) == (True, 10.0, "kitchen")
    assert peers.alternates(cat.node, {bob.node: 10.0})[0].path == candidate.path


def test_a_node_without_a_way_to_it_is_named_unreachable() -> None:
    ann, bob = Actor(1), Actor(2)
    announce(bob)
    ann.learn_from(bob)
    peers = Peers(ann.book)
    (candidate,) = peers.candidates(peers.view({}, member))
    assert not candidate.reachable


def test_silence_expires_a_node_before_its_ad_does() -> None:
    ann, bob = Actor(1), Actor(2)
    announce(bob)
    vitals_only = bob.book.get(bob.node, RecordType.VITALS)
    assert vitals_only is not None
    ann.hear(*(record for record in bob.book.of(bob.node) if record is not vitals_only))
    peers = Peers(ann.book)
    (candidate,) = peers.candidates(peers.view({bob.node: 1.0}, member))
    assert candidate.ad_expired


def test_only_members_are_seen_and_never_the_node_itself() -> None:
    ann, bob = Actor(1), Actor(2)
    announce(ann)
    announce(bob)
    ann.learn_from(bob)
    peers = Peers(ann.book)
    assert list(peers.view({}, member)) == [bob.node]
    assert peers.view({}, lambda key: None) == {}


def test_a_record_that_makes_no_sense_counts_as_unsaid() -> None:
    ann, bob = Actor(1), Actor(2)
    announce(bob)
    ann.learn_from(bob)
    ann.hear(bob.sign(2**50, RecordType.VITALS, content="no vitals"))
    peers = Peers(ann.book)
    assert peers.view({}, member)[bob.node].vitals is None


def test_the_view_follows_the_book_and_the_links() -> None:
    ann, bob = Actor(1), Actor(2)
    peers = Peers(ann.book)
    assert peers.view({bob.node: 1.0}, member) == {}
    announce(bob)
    ann.learn_from(bob)
    assert peers.view({bob.node: 1.0}, member)[bob.node].route is not None
    assert peers.view({}, member)[bob.node].route is None


def test_a_node_whose_vitals_have_not_come_is_reached_through_the_relay_it_names() -> None:
    ann, bob, cat = Actor(1), Actor(2), Actor(3)
    ad = structs.replace(NODE_AD, relays=(bob.node,))
    cat.book.publish(
        cat.signer, RecordType.NODE, ads.node_payload(ad), ttl_ms=60_000, now=cat.now, wall_ms=cat.wall_ms
    )
    ann.learn_from(cat)
    route = Peers(ann.book).view({bob.node: 10.0}, member)[cat.node].route
    assert route is not None
    assert route.path == (bob.node, cat.node)


def test_vitals_that_name_all_neighbours_outweigh_a_relay_in_the_ad() -> None:
    ann, bob, cat = Actor(1), Actor(2), Actor(3)
    ad = structs.replace(NODE_AD, relays=(bob.node,))
    announce(cat)
    cat.book.publish(
        cat.signer, RecordType.NODE, ads.node_payload(ad), ttl_ms=60_000, now=cat.now, wall_ms=cat.wall_ms
    )
    ann.learn_from(cat)
    assert Peers(ann.book).view({bob.node: 10.0}, member)[cat.node].route is None


def test_trust_goes_with_the_weights_and_evidence_raises_only_what_is_endorsed() -> None:
    ann, bob = Actor(1), Actor(2)
    announce(bob)
    other = structs.replace(CARD, name="other:1b", digest=b"\x07" * 32)
    shown = structs.replace(NODE_AD, evidence=b"a report")
    for kind, payload in (
        (RecordType.NODE, ads.node_payload(shown)),
        (RecordType.MODEL, ads.model_payload(ads.model_ad(other))),
    ):
        bob.book.publish(bob.signer, kind, payload, ttl_ms=60_000, now=bob.now, wall_ms=bob.wall_ms)
    ann.learn_from(bob)

    def trusts(peers: Peers, endorsed_for: bytes) -> dict[bytes, Trust]:
        view = peers.view({bob.node: 1.0}, lambda _key: Known(endorsed_for=endorsed_for))
        return {one.card.digest: one.trust for one in peers.candidates(view)}

    plain, believing = Peers(ann.book), Peers(ann.book, lambda _key, evidence: evidence == b"a report")
    assert trusts(plain, CARD.digest) == {CARD.digest: Trust.ENDORSED, other.digest: Trust.TRUSTED}
    assert trusts(believing, CARD.digest) == {CARD.digest: Trust.HARDWARE, other.digest: Trust.TRUSTED}
    assert set(trusts(believing, b"").values()) == {Trust.TRUSTED}

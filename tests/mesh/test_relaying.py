"""Which relays a node asks: linked, willing, the nearest, the same while they are good; and what a relay promises."""

import pytest
from msgspec import structs

from meshnode.errors import Busy, NotAllowed
from meshnode.mesh.ads import RELAYS_MAX, NodeAd
from meshnode.mesh.relaying import RelayService, wished_relays
from meshwire.ids import NodeId
from meshwire.limits import RELAY_LEASE_S, RELAY_RESERVATIONS
from tests.mesh.test_ads import NODE_AD

A, B, C, D, E, F = (NodeId(bytes([n]) * 20) for n in range(6))


def test_the_nearest_willing_neighbours_are_asked_up_to_the_bound() -> None:
    linked = {A: 50.0, B: 10.0, C: None, D: 30.0, E: 20.0, F: 5.0}
    assert wished_relays((), linked, {A, B, C, D, E}) == (B, E, D, A)
    assert RELAYS_MAX == 4


def test_who_is_not_willing_is_not_asked() -> None:
    assert wished_relays((), {A: 1.0, B: 2.0}, {B}) == (B,)


def test_a_relay_stays_when_another_becomes_nearer() -> None:
    assert wished_relays((A, B), {A: 90.0, B: 80.0, C: 1.0}, {A, B, C}) == (A, B, C)


def test_a_relay_that_is_gone_is_dropped_and_another_takes_its_place() -> None:
    assert wished_relays((A, B, C, D), {B: 2.0, C: 3.0, D: 4.0, E: 5.0}, {A, B, C, D, E}) == (B, C, D, E)


class Stage:
    """A relay, what it knows of others, and its links."""

    def __init__(self, *, willing: bool = True) -> None:
        self.ads: dict[NodeId, NodeAd] = {}
        self.linked: set[NodeId] = set()
        self.service = RelayService(self.ads.get, self.linked.__contains__, willing=willing)

    def meet(self, node: NodeId, *addresses: str) -> None:
        self.ads[node] = structs.replace(NODE_AD, addresses=addresses)
        self.linked.add(node)


def other(number: int) -> NodeId:
    return NodeId(number.to_bytes(20))


def test_a_relay_carries_to_who_can_be_dialled_and_to_who_has_reserved() -> None:
    stage = Stage()
    stage.meet(A, "ws://a:1")
    stage.meet(B)
    assert stage.service.carries_to(A, 0)
    assert not stage.service.carries_to(B, 0)
    assert stage.service.carries_to(C, 0), "its ad may not have come yet"
    assert stage.service.reserve(B, 0) == RELAY_LEASE_S
    assert stage.service.carries_to(B, RELAY_LEASE_S - 1)
    assert not stage.service.carries_to(B, RELAY_LEASE_S)


def test_a_reservation_asked_again_begins_anew() -> None:
    stage = Stage()
    stage.meet(B)
    stage.service.reserve(B, 0)
    stage.service.reserve(B, RELAY_LEASE_S - 1)
    assert stage.service.carries_to(B, RELAY_LEASE_S + 1)
    assert stage.service.served(RELAY_LEASE_S + 1) == 1


def test_a_relay_serves_so_many_and_those_that_are_gone_make_room() -> None:
    stage = Stage()
    for number in range(RELAY_RESERVATIONS):
        stage.meet(other(number))
        stage.service.reserve(other(number), 0)
    with pytest.raises(Busy):
        stage.service.reserve(other(99), 1)
    assert stage.service.reserve(other(0), 1) == RELAY_LEASE_S, "who is served already may renew"
    stage.linked.discard(other(7))
    stage.meet(other(99))
    assert stage.service.reserve(other(99), 1) == RELAY_LEASE_S
    assert not stage.service.carries_to(other(7), 1)
    with pytest.raises(Busy):
        stage.service.reserve(other(100), 1)
    assert stage.service.reserve(other(100), RELAY_LEASE_S) == RELAY_LEASE_S, "leases end"


def test_who_is_not_willing_carries_nothing() -> None:
    stage = Stage(willing=False)
    stage.meet(A, "ws://a:1")
    assert not stage.service.carries_to(A, 0)
    with pytest.raises(NotAllowed):
        stage.service.reserve(B, 0)

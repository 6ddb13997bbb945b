"""Which relays a node names: linked, dialable, the nearest, and the same ones as long as they are good."""

from meshnode.mesh.ads import RELAYS_MAX
from meshnode.mesh.relaying import named_relays
from meshwire.ids import NodeId

A, B, C, D, E, F = (NodeId(bytes([n]) * 20) for n in range(6))


def test_the_nearest_dialable_neighbours_are_named_up_to_the_bound() -> None:
    linked = {A: 50.0, B: 10.0, C: None, D: 30.0, E: 20.0, F: 5.0}
    assert named_relays((), linked, {A, B, C, D, E}) == (B, E, D, A)
    assert RELAYS_MAX == 4


def test_a_node_that_cannot_be_dialled_is_no_relay() -> None:
    assert named_relays((), {A: 1.0, B: 2.0}, {B}) == (B,)


def test_a_relay_stays_when_another_becomes_nearer() -> None:
    assert named_relays((A, B), {A: 90.0, B: 80.0, C: 1.0}, {A, B, C}) == (A, B, C)


def test_a_relay_that_is_gone_is_dropped_and_another_takes_its_place() -> None:
    assert named_relays((A, B, C, D), {B: 2.0, C: 3.0, D: 4.0, E: 5.0}, {A, B, C, D, E}) == (B, C, D, E)

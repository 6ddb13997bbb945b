"""The routing table: each fault of the package that it mends, and what it adds."""

import random

import pytest
from kademlia.routing import RoutingTable

from meshnode.mesh import keyspace
from meshnode.mesh.table import Bucket, Contact, Table
from meshwire.ids import NodeId
from meshwire.limits import DHT_GROUP_PER_BUCKET, DHT_GROUP_PER_TABLE

OWN = NodeId(bytes(20))


class HandClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def ids(count: int, seed: int = 1) -> list[NodeId]:
    rng = random.Random(seed)
    return [NodeId(rng.randbytes(20)) for _ in range(count)]


def full_table(clock: HandClock, count: int = 500, size: int = 20) -> Table:
    table = Table(OWN, clock, size)
    for node in ids(count):
        table.add_contact(Contact(node, verified=True))
    return table


def test_a_full_bucket_names_its_oldest_contact_and_starts_no_task(clock: HandClock) -> None:
    table = full_table(clock)
    far = [NodeId(b"\xff" + bytes([n]) * 19) for n in range(200)]
    heads = [table.add_contact(Contact(node, verified=True)) for node in far]
    to_ping = [head for head in heads if head is not None]
    assert to_ping
    assert all(head in list(table.contacts()) for head in to_ping)


def test_the_packages_own_table_cannot_do_that_without_asyncio() -> None:
    class Protocol:
        def call_ping(self, node: object) -> None:
            return None

    theirs = RoutingTable(Protocol(), 20, Contact(OWN))

    def fill() -> None:
        for node in ids(2000):
            theirs.add_contact(Contact(node, verified=True))

    with pytest.raises((RuntimeError, TypeError)):
        fill()


def test_neighbours_are_the_nearest_by_xor(clock: HandClock) -> None:
    table = full_table(clock)
    present = [contact.id for contact in table.contacts()]
    for target in ids(500, seed=2):
        expected = keyspace.closest(target, present, 20)
        assert [near.id for near in table.find_neighbors(Contact(target))] == expected
        assert table.nearest(target) == expected


def test_neighbours_leave_out_the_node_itself_and_the_excluded(clock: HandClock) -> None:
    table = full_table(clock)
    one, two = (contact for contact in list(table.contacts())[:2])
    found = table.find_neighbors(one, k=500, exclude=two)
    assert one not in found
    assert two not in found
    assert len(found) == len(table) - 2


def test_nodes_without_addresses_are_not_the_same(clock: HandClock) -> None:
    one, two = (Contact(node) for node in ids(2))
    assert not one.same_home_as(two)
    assert one.same_home_as(Contact(one.id))


def test_buckets_grow_lonely_by_the_injected_clock(clock: HandClock) -> None:
    table = full_table(clock)
    assert table.lonely_buckets() == []
    clock.now = 2 * 3600.0
    assert table.lonely_buckets() == table.buckets
    table.touch(b"\xff" * 20)
    assert len(table.lonely_buckets()) == len(table.buckets) - 1


def test_a_split_keeps_the_time_of_the_last_update(clock: HandClock) -> None:
    bucket = Bucket(0, 2**160, 20, clock)
    clock.now = 10.0
    assert [half.last_updated for half in bucket.split()] == [0.0, 0.0]


def test_only_a_verified_replacement_is_promoted(clock: HandClock) -> None:
    bucket = Bucket(0, 2**160, 2, clock)
    first, second, waiting, rumour = (Contact(node, verified=True) for node in ids(4))
    rumour.verified = False
    assert bucket.add_node(first)
    assert bucket.add_node(second)
    assert not bucket.add_node(waiting)
    assert bucket.add_node(rumour)
    bucket.remove_node(first)
    assert bucket.get_nodes() == [second, waiting]
    bucket.remove_node(second)
    assert bucket.get_nodes() == [waiting]


def test_an_unverified_contact_gets_no_place_not_even_by_a_split(clock: HandClock) -> None:
    table = Table(OWN, clock, size=2)
    rumours = [Contact(node) for node in ids(50, seed=3)]
    for contact in rumours:
        assert table.add_contact(contact) is None
    for node in ids(50, seed=4):
        table.add_contact(Contact(node, verified=True))
    assert len(table.buckets) > 1
    assert all(contact.verified for contact in table.contacts())


def test_a_rumour_does_not_displace_a_verified_contact(clock: HandClock) -> None:
    table = full_table(clock, count=1)
    table.add_contact(Contact(ids(1)[0]))
    assert [contact.verified for contact in table.contacts()] == [True]


def test_replacements_are_bounded(clock: HandClock) -> None:
    bucket = Bucket(0, 2**160, 2, clock)
    for node in ids(100):
        bucket.add_node(Contact(node))
    assert len(bucket.replacement_nodes) == 2 * 5


def test_the_midpoint_of_a_split_is_found_again(clock: HandClock) -> None:
    table = Table(OWN, clock, size=1)
    middle = Contact((2**159).to_bytes(20, "big"), verified=True)
    table.add_contact(middle)
    for node in ids(20):
        table.add_contact(Contact(node, verified=True))
    assert middle in table.buckets[table.get_bucket_for(middle)].get_nodes()


def test_the_node_itself_is_never_a_contact(clock: HandClock) -> None:
    table = Table(OWN, clock)
    assert table.add_contact(Contact(OWN, verified=True)) is None
    assert len(table) == 0


def test_an_address_group_has_only_its_share_of_a_bucket_and_of_the_table(clock: HandClock) -> None:
    rng = random.Random(31)
    table = Table(NodeId(bytes(20)), clock, size=20)
    for _ in range(300):
        table.add_contact(Contact(NodeId(rng.randbytes(20)), verified=True, group="8.8.8.0/24"))
    assert len(table) == DHT_GROUP_PER_BUCKET
    for bits in range(160):  # one in each range, so that buckets split
        near = (1 << bits | rng.getrandbits(bits)).to_bytes(20, "big")
        table.add_contact(Contact(NodeId(near), verified=True))
        near = (1 << bits | rng.getrandbits(bits)).to_bytes(20, "big")
        table.add_contact(Contact(NodeId(near), verified=True, group="8.8.8.0/24"))
    assert sum(contact.group != "" for contact in table.contacts()) == DHT_GROUP_PER_TABLE


def test_a_contact_of_a_crowded_group_may_still_be_heard_of_again(clock: HandClock) -> None:
    table = Table(NodeId(bytes(20)), clock)
    known = Contact(NodeId(b"a" * 20), verified=True, group="8.8.8.0/24")
    other = Contact(NodeId(b"b" * 20), verified=True, group="8.8.8.0/24")
    for contact in (known, other, known):
        table.add_contact(contact)
    assert [contact.id for contact in table.contacts()] == [other.id, known.id]

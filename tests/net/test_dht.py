"""The DHT over links, in virtual time."""

import random
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from meshnode.errors import Busy, NotAllowed, Unreachable
from meshnode.mesh import ads, keyspace
from meshnode.mesh.table import Contact, Table
from meshnode.net.dht import Dht
from meshwire.ids import NodeId
from meshwire.limits import (
    DHT_GROUP_PER_BUCKET,
    DHT_K,
    DHT_QUERY_S,
    DHT_RPC_S,
    STORES_PER_PEER,
    STORES_WINDOW_S,
)
from meshwire.messages import DhtFind, DhtFound, DhtPing, DhtPong, DhtStore, DhtStored, GossipSyn
from meshwire.numbers import Message
from meshwire.records import RecordType
from tests.net.small_world import MESH, End, World

FAMILY = keyspace.capability_key(MESH, "smollm2")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
async def nursery() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


def acquainted(count: int, known_to_each: int = 12) -> World:
    """A world in which everybody has an ad and knows some others, near and far."""
    world = World(count)
    records = {node.node: node.publish_node() for node in world.all}
    rng = random.Random(5)
    for node in world.all:
        near = keyspace.closest(node.node, list(world.nodes), known_to_each)[1:]
        for other in [NodeId(one) for one in near] + [one.node for one in rng.sample(world.all, 4)]:
            node.book.merge([records[other].raw], now=0, wall_ms=node.seams.now_ms(), in_order=False)
            node.dht.table.add_contact(Contact(other, verified=True))
    return world


async def test_a_lookup_finds_the_nearest_nodes_of_the_mesh() -> None:
    world = acquainted(80)
    for node in world.all[:5]:
        found = await node.dht.lookup(FAMILY)
        nearest = [one for one in keyspace.closest(FAMILY, list(world.nodes), 9) if one != node.node]
        assert list(found.closest[:8]) == nearest[:8]


async def test_an_announced_model_is_found_by_a_node_that_never_heard_of_it() -> None:
    world = acquainted(80)
    provider, asker = world.all[3], world.all[70]
    provider.publish_model()
    provider.publish_model(quant="Q8_0", tier=6)
    await provider.dht.announce()
    both = await asker.dht.find_providers("smollm2")
    assert sorted(record.name for record in both) == ["smollm2:135m@Q4_1", "smollm2:135m@Q8_0"]
    (better,) = await asker.dht.find_providers("smollm2", 6)
    assert ads.read_model_ad(better).tier == 6
    assert asker.book.get(provider.node, RecordType.MODEL, "smollm2:135m@Q8_0") == better
    assert asker.book.version(provider.node) == 0


async def test_a_node_is_found_by_its_key() -> None:
    world = acquainted(40)
    wanted, asker = world.all[3], world.all[30]
    await wanted.dht.announce()
    asker.book.drop(wanted.node)
    record = await asker.dht.find_node(wanted.node, wanted.signer.public)
    assert record is not None
    assert record.owner == wanted.node


async def test_a_fifth_of_hostile_nodes_does_not_hide_a_provider() -> None:
    world = acquainted(100)
    provider, asker = world.all[0], world.all[1]
    provider.publish_model()
    await provider.dht.announce()
    hostile = random.Random(9).sample(world.all[2:], 20)
    fakes = [node.publish_model() for node in hostile]

    async def lie(end: End, message: Message) -> Message:
        if isinstance(message, DhtFind):
            nodes = tuple(
                record.raw for node in hostile if (record := node.book.get(node.node, RecordType.NODE))
            )
            return DhtFound(nodes, tuple(fake.raw for fake in fakes[:10]))
        return DhtStored()

    for node in hostile:
        node.lies = lie
    asker.book.drop(provider.node)
    found = [record.owner for record in await asker.dht.find_providers("smollm2")]
    assert provider.node in found


async def test_a_change_is_announced_at_once_and_a_first_link_counts_as_one(nursery: trio.Nursery) -> None:
    world = World(2)
    one, other = world.all
    for node in world.all:
        node.publish_node()
        nursery.start_soon(node.run)
    await trio.sleep(5)
    one.publish_model()
    world.link(one, other)
    await trio.sleep(3)
    assert [record.owner for record in await other.dht.find_providers("smollm2")] == [one.node]


async def test_announcements_are_renewed_before_they_expire(nursery: trio.Nursery) -> None:
    world = acquainted(4)
    one, other = world.all[:2]
    nursery.start_soon(one.dht.run)
    for _ in range(7):
        one.publish_model()
        await trio.sleep(200)
    assert other.dht.providers.get(FAMILY, trio.current_time(), 10_000, random.Random(1))


# --- Storing ---


async def test_only_the_provider_itself_may_store() -> None:
    world = World(3)
    keeper, provider, eve = world.all
    record = provider.publish_model()
    with pytest.raises(NotAllowed, match="itself"):
        await keeper.dht.answer(End(keeper, eve), DhtStore(FAMILY, record.raw))
    assert await keeper.dht.answer(End(keeper, provider), DhtStore(FAMILY, record.raw)) == DhtStored()


async def test_a_record_is_stored_only_where_it_belongs() -> None:
    world = World(2)
    keeper, provider = world.all
    end = End(keeper, provider)
    model, vitals = provider.publish_model(), provider.publish(RecordType.VITALS, {})
    for key, raw in (
        (keyspace.capability_key(MESH, "qwen3"), model.raw),
        (keyspace.capability_key(MESH, "smollm2", 6), model.raw),
        (keyspace.capability_key(b"n" * 16, "smollm2"), model.raw),
        (FAMILY, vitals.raw),
        (FAMILY, model.raw[:-1] + bytes([model.raw[-1] ^ 1])),
        (FAMILY, b"junk"),
    ):
        with pytest.raises(NotAllowed):
            await keeper.dht.answer(end, DhtStore(key, raw))
    assert keeper.dht.providers.get(FAMILY, 0.0, 10_000, random.Random(1)) == ()


async def test_storing_is_rate_limited_for_each_peer() -> None:
    world = World(3)
    keeper, provider, other = world.all
    stores = [(node, DhtStore(FAMILY, node.publish_model().raw)) for node in (provider, other)]
    for _ in range(STORES_PER_PEER):
        await keeper.dht.answer(End(keeper, provider), stores[0][1])
    with pytest.raises(Busy):
        await keeper.dht.answer(End(keeper, provider), stores[0][1])
    await keeper.dht.answer(End(keeper, other), stores[1][1])
    await trio.sleep(STORES_WINDOW_S)
    await keeper.dht.answer(End(keeper, provider), stores[0][1])


# --- Contacts ---


async def test_a_node_without_addresses_is_nobodys_server() -> None:
    world = World(3)
    keeper, hidden, asker = world.all
    hidden.publish(RecordType.NODE, ads.node_payload(ads.NodeAd(name="behind NAT", static_key=b"k" * 32)))
    keeper.book.merge(
        [record.raw for record in hidden.book.of(hidden.node)], now=0, wall_ms=keeper.seams.now_ms()
    )
    keeper.dht.opened(End(keeper, hidden))
    assert await keeper.dht.answer(End(keeper, asker), DhtFind(bytes(20))) == DhtFound()


async def test_an_answer_leaves_out_who_asks_and_is_bounded() -> None:
    world = acquainted(60, known_to_each=50)
    keeper, asker = world.all[:2]
    found = await keeper.dht.answer(End(keeper, asker), DhtFind(asker.node))
    assert isinstance(found, DhtFound)
    assert 0 < len(found.nodes) <= DHT_K
    own = asker.book.get(asker.node, RecordType.NODE)
    assert own is not None
    assert own.raw not in found.nodes


async def test_who_is_out_of_reach_loses_its_place_and_who_refuses_does_not() -> None:
    world = acquainted(10)
    one, dead, busy = world.all[0], world.all[1], world.all[2]
    for node in (dead, busy):
        one.dht.opened(End(one, node))
    dead.up = False

    async def refuse(end: End, message: Message) -> Message:
        raise Busy("not now")

    busy.lies = refuse
    await one.dht.lookup(bytes(20))
    contacts = [contact.id for contact in one.dht.table.contacts()]
    assert dead.node not in contacts
    assert busy.node in contacts


async def test_a_full_bucket_pings_its_oldest_and_replaces_it_if_it_is_gone(nursery: trio.Nursery) -> None:
    world = World(20)
    one = world.all[0]
    one.dht.table = Table(one.node, trio.current_time, size=1)
    nursery.start_soon(one.dht.run)
    await trio.sleep(0.1)
    oldest, other = [node for node in world.all if (node.node[0] ^ one.node[0]) & 0x80][:2]
    one.dht.opened(End(one, oldest))
    one.dht.opened(End(one, other))
    await trio.sleep(1)
    assert [contact.id for contact in one.dht.table.contacts()] == [oldest.node]
    oldest.up = False
    one.dht.opened(End(one, other))
    await trio.sleep(DHT_RPC_S + 1)
    assert [contact.id for contact in one.dht.table.contacts()] == [other.node]


async def test_a_lookup_among_the_silent_ends_in_time() -> None:
    world = acquainted(60)

    async def never(end: End, message: Message) -> Message:
        await trio.sleep_forever()
        raise AssertionError

    for node in world.all[1:]:
        node.lies = never
    begun = trio.current_time()
    found = await world.all[0].dht.lookup(FAMILY)
    assert trio.current_time() - begun <= DHT_QUERY_S
    assert found.closest == ()


async def test_pings_are_answered_and_other_messages_are_not() -> None:
    world = World(2)
    end = End(*world.all)
    assert await world.all[0].dht.answer(end, DhtPing()) == DhtPong()
    with pytest.raises(NotAllowed):
        await world.all[0].dht.answer(end, GossipSyn())


async def test_lonely_ranges_are_looked_into(nursery: trio.Nursery) -> None:
    world = acquainted(6)
    one = world.all[0]
    nursery.start_soon(one.dht.run)
    await trio.sleep(3 * 3600)
    assert one.dht.table.lonely_buckets() == []


# --- Meshes that anybody may join ---


class OpenWorld(World):
    """Nodes of an open mesh, which dial each other back; `where` is the address at which each answers."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.where: dict[NodeId, str] = {}
        self.dialled: list[NodeId] = []
        for node in self.all:
            node.dht = Dht(MESH, node.book, node.reach, node.seams, probe=self.probe)

    async def probe(self, node: NodeId) -> str:
        self.dialled.append(node)
        if node not in self.where:
            raise Unreachable("nobody answers there")
        return self.where[node]


class Inbound(End):
    """A link that the other end has dialled."""

    initiator = False


async def test_who_dials_in_gets_a_place_only_once_it_was_dialled_back(nursery: trio.Nursery) -> None:
    world = OpenWorld(4)
    one, honest, liar, dialled = world.all
    world.where[honest.node] = "ws://8.8.8.8:1"
    nursery.start_soon(one.dht.run)
    await trio.sleep(0.1)
    for node in (honest, liar):
        one.dht.opened(Inbound(one, node))
        one.book.merge([node.publish_node().raw], now=0, wall_ms=one.seams.now_ms())
    one.dht.opened(End(one, dialled))
    await trio.sleep(3)
    groups = {contact.id: contact.group for contact in one.dht.table.contacts()}
    assert groups == {honest.node: "8.8.8.0/24", dialled.node: ""}


async def test_who_dials_in_again_and_again_is_dialled_back_once(nursery: trio.Nursery) -> None:
    world = OpenWorld(2)
    one, caller = world.all
    nursery.start_soon(one.dht.run)
    await trio.sleep(0.1)
    one.book.merge([caller.publish_node().raw], now=0, wall_ms=one.seams.now_ms())
    for _ in range(20):
        one.dht.opened(Inbound(one, caller))
        await trio.sleep(1)
    assert world.dialled == [caller.node]


async def test_one_neighbourhood_has_only_its_share_of_the_table(nursery: trio.Nursery) -> None:
    world = OpenWorld(30)
    one, *others = world.all
    world.where = {node.node: f"ws://8.8.8.{number}:1" for number, node in enumerate(others)}
    nursery.start_soon(one.dht.run)
    await trio.sleep(0.1)
    for node in others:
        one.book.merge([node.publish_node().raw], now=0, wall_ms=one.seams.now_ms())
        one.dht.opened(Inbound(one, node))
    await trio.sleep(5)
    assert len(one.dht.table) == DHT_GROUP_PER_BUCKET


async def test_in_a_closed_mesh_a_home_may_be_one_neighbourhood() -> None:
    world = World(15)
    one, *others = world.all
    for node in others:
        one.dht.opened(End(one, node))
    assert len(one.dht.table) == len(others)


# --- Clients, and what gossip knows ---


async def test_a_client_is_neither_asked_nor_given_anything_to_keep() -> None:
    world = World(2)
    one, hidden = world.all
    hidden.publish(RecordType.NODE, ads.node_payload(ads.NodeAd(name="behind NAT", static_key=b"k" * 32)))
    one.dht.opened(End(one, hidden))  # its ad has not come yet
    one.book.merge([record.raw for record in hidden.book.of(hidden.node)], now=0, wall_ms=one.seams.now_ms())
    assert (await one.dht.lookup(FAMILY)).asked == 0
    one.publish_model()
    await one.dht.announce()
    assert hidden.dht.providers.get(FAMILY, 0.0, 10_000, random.Random(1)) == ()


async def test_providers_that_only_gossip_knows_count_and_those_that_left_do_not() -> None:
    world = acquainted(20)
    asker, gossiped, left = world.all[:3]
    gone = left.publish_model()
    await left.dht.announce()
    tombstone = left.publish(RecordType.TOMBSTONE, {})
    known = gossiped.publish_model()
    asker.book.merge([gone.raw, tombstone.raw, known.raw], now=0, wall_ms=asker.seams.now_ms())
    assert await asker.dht.find_providers("smollm2") == [known]

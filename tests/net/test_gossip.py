"""Gossip over links, in virtual time."""

from collections.abc import AsyncIterator

import pytest
import structlog
import trio
import trio.testing

from meshnode.errors import NotAllowed
from meshnode.mesh.book import Merged
from meshnode.net.traffic import bytes_of
from meshwire.ids import NodeId, to_text
from meshwire.messages import DhtPing, GossipAck, GossipSyn, GossipSynAck, RecordGet, RecordGot
from meshwire.numbers import Message
from meshwire.records import RecordType, make_record
from tests.net.small_world import End, World

VITALS = RecordType.VITALS


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
async def nursery() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


def start(nursery: trio.Nursery, world: World) -> None:
    for node in world.all:
        nursery.start_soon(node.gossip.run)


def agreed(world: World) -> bool:
    held = [sorted(record.raw for _, record in node.book.all()) for node in world.all if node.up]
    return all(one == held[0] for one in held)


async def seconds_until_agreed(world: World, limit_s: float = 30.0) -> float:
    begun = trio.current_time()
    while not agreed(world):
        assert trio.current_time() - begun < limit_s
        await trio.sleep(0.1)
    return trio.current_time() - begun


async def test_an_opened_link_is_gossiped_over_at_once(nursery: trio.Nursery) -> None:
    world = World(2)
    start(nursery, world)
    await trio.sleep(0.5)
    for node in world.all:
        node.publish_node()
    world.link(*world.all)
    await trio.sleep(0.3)
    assert agreed(world)
    assert len(world.all[0].book) == 2


async def test_news_reach_everybody_before_rounds_could_bring_them(nursery: trio.Nursery) -> None:
    world = World(16)
    start(nursery, world)
    await trio.sleep(0.1)
    world.link_ring()
    await trio.sleep(3)
    newest = world.all[0]
    newest.publish_node()
    newest.gossip.nudge()
    assert await seconds_until_agreed(world) <= 0.7


async def test_what_is_no_news_is_left_to_rounds(nursery: trio.Nursery) -> None:
    world = World(2)
    world.link(*world.all)
    one, _ = world.all
    for node in world.all:
        nursery.start_soon(node.gossip._rumours.run)
    one.publish(VITALS, {1: 1})
    one.gossip.nudge()
    await trio.sleep(0.5)
    assert agreed(world)
    one.publish(VITALS, {1: 2})
    one.gossip.nudge()
    await trio.sleep(60)
    assert not agreed(world)


async def test_a_newcomer_is_told_everything_unasked() -> None:
    world = World(3)
    host, newcomer, third = world.all
    host.book.merge([third.publish_node().raw], now=0, wall_ms=host.seams.now_ms())
    host.publish_node()
    world.link(host, newcomer)
    await host.gossip._greet(host.ends[newcomer.node], newcomer=False)
    assert len(newcomer.book) == 1
    await host.gossip._greet(host.ends[newcomer.node], newcomer=True)
    assert len(newcomer.book) == 2


async def test_sixteen_nodes_agree_within_five_seconds(nursery: trio.Nursery) -> None:
    world = World(16)
    start(nursery, world)
    await trio.sleep(0.1)
    for node in world.all:
        node.publish_node()
        node.publish_model()
    world.link_ring()
    assert await seconds_until_agreed(world) <= 5.0


async def test_a_change_reaches_everybody_within_five_seconds(nursery: trio.Nursery) -> None:
    world = World(16)
    start(nursery, world)
    await trio.sleep(0.1)
    world.link_ring()
    for node in world.all:
        node.publish_node()
    await seconds_until_agreed(world)
    world.all[0].publish(VITALS, {1: 1})
    assert await seconds_until_agreed(world) <= 5.0


async def test_a_partition_heals_within_ten_seconds(nursery: trio.Nursery) -> None:
    world = World(8)
    start(nursery, world)
    await trio.sleep(0.1)
    world.link_ring(chords=3)
    west = [node.node for node in world.all[:4]]
    world.cuts = {
        frozenset((one, other.node)) for one in west for other in world.all if other.node not in west
    }
    for _ in range(6):
        for node in world.all:
            node.publish(VITALS, {1: 1}, ttl_ms=60_000)
        await trio.sleep(10)
    assert not agreed(world)
    world.cuts = set()
    assert await seconds_until_agreed(world) <= 10.0


async def test_a_lot_of_news_takes_one_exchange_not_one_round_for_each_budget(nursery: trio.Nursery) -> None:
    world = World(32)
    one, other = world.all[:2]
    for node in world.all[2:]:
        for number in range(4):
            record = node.publish(RecordType.MODEL, {0: f"m{number}", 1: "x" * 400})
            one.book.merge([record.raw], now=0, wall_ms=one.seams.now_ms())
    nursery.start_soon(one.gossip.run)
    nursery.start_soon(other.gossip.run)
    await trio.sleep(0.01)
    world.link(one, other)
    await trio.sleep(0.9)
    assert len(other.book) == len(one.book) == 120


async def test_more_owners_than_a_page_still_fit_the_frames_and_agree(nursery: trio.Nursery) -> None:
    world = World(150)
    one, other = world.all[:2]
    for node in world.all:
        record = node.publish(RecordType.MODEL, {0: "m", 1: "x" * 700})
        for book in (one.book, other.book) if node.signer.public[0] % 2 else (one.book,):
            book.merge([record.raw], now=0, wall_ms=one.seams.now_ms())
    nursery.start_soon(one.gossip.run)
    nursery.start_soon(other.gossip.run)
    await trio.sleep(0.01)
    world.link(one, other)
    await trio.sleep(8)
    assert len(other.book) == len(one.book) == 150


async def test_what_a_peer_will_not_take_is_not_pressed_on_it_again_at_once(nursery: trio.Nursery) -> None:
    world = World(34)
    one, other = world.all[:2]
    for node in world.all[2:]:
        world.strangers.add(node.signer.public)
    one.book._is_member = lambda key: True
    for node in world.all[2:]:
        record = node.publish(RecordType.MODEL, {0: "m", 1: "x" * 700})
        one.book.merge([record.raw], now=0, wall_ms=one.seams.now_ms())
    world.link(one, other)
    end = one.ends[other.node]
    await one.gossip.exchange(end)
    assert end.sent_bytes < 3 * 16 * 1024


async def test_the_traffic_of_a_quiet_mesh_is_small(nursery: trio.Nursery) -> None:
    world = World(16)
    start(nursery, world)
    await trio.sleep(0.1)
    for node in world.all:
        node.publish_node()
    world.link_ring()
    await trio.sleep(31)
    before = sum(end.sent_bytes for end in world.all[0].ends.values())
    await trio.sleep(60)
    per_s = (sum(end.sent_bytes for end in world.all[0].ends.values()) - before) / 60
    assert per_s < 4_000


async def test_a_nudge_does_not_wait_for_the_round(nursery: trio.Nursery) -> None:
    world = World(2)
    one, other = world.all
    start(nursery, world)
    world.link(one, other)
    for _ in range(5):
        record = one.publish(VITALS, {1: 1})
        one.gossip.nudge()
        await trio.sleep(0.25)
        assert other.book.get(one.node, VITALS) == record


async def test_silent_peers_do_not_hold_up_the_others(nursery: trio.Nursery) -> None:
    world = World(6)
    start(nursery, world)
    await trio.sleep(0.1)
    world.link_ring(chords=3)
    silent = world.all[5]

    async def never(end: End, message: Message) -> Message:
        await trio.sleep_forever()
        raise AssertionError

    silent.lies = never
    silent.up = True
    record = world.all[0].publish(VITALS, {1: 1})
    await trio.sleep(4)
    assert all(node.book.get(record.owner, VITALS) == record for node in world.all[:5])


async def test_forgeries_change_nothing_and_are_reported(nursery: trio.Nursery) -> None:
    world = World(2)
    one, other = world.all
    heard: list[Merged] = []
    one.gossip._on_merged = lambda merged, sender: heard.append(merged)

    async def forge(end: End, message: Message) -> Message:
        return GossipSynAck(b"", (b"\x95forged",))

    other.lies = forge
    world.link(one, other)
    await one.gossip.exchange(one.ends[other.node])
    assert len(one.book) == 0
    assert [len(merged.refused) for merged in heard] == [1]


async def test_an_answer_of_another_kind_ends_the_exchange_only(nursery: trio.Nursery) -> None:
    world = World(2)
    one, other = world.all

    async def odd(end: End, message: Message) -> Message:
        return RecordGot()

    other.lies = odd
    world.link(one, other)
    await one.gossip.exchange(one.ends[other.node])
    await one.gossip.exchange(one.ends[other.node])


async def test_a_record_is_given_with_the_certificates_it_rests_on() -> None:
    world = World(3)
    root, issuer, member = world.all
    for node in world.all:
        node.book._is_issuer = lambda key: True
    above = root.publish(RecordType.CERTIFICATE, {0: to_text(issuer.node)})
    certificate = issuer.publish(RecordType.CERTIFICATE, {0: to_text(member.node)})
    record = member.publish_node()
    issuer.book.merge([above.raw, record.raw], now=0, wall_ms=issuer.seams.now_ms())
    end = End(issuer, member)
    got = await issuer.gossip.answer(end, RecordGet(member.node, RecordType.NODE))
    assert got == RecordGot((above.raw, certificate.raw, record.raw))
    assert await issuer.gossip.answer(end, RecordGet(member.node, 99)) == RecordGot()
    assert await issuer.gossip.answer(end, RecordGet(NodeId(bytes(20)), 1)) == RecordGot()


async def test_other_messages_are_refused() -> None:
    world = World(2)
    end = End(*world.all)
    with pytest.raises(NotAllowed):
        await world.all[0].gossip.answer(end, DhtPing())
    await world.all[0].gossip.notice(end, GossipAck((b"junk",)))
    reply = await world.all[0].gossip.answer(end, GossipSyn())
    assert reply == GossipSynAck()


async def test_who_contradicts_itself_is_named_in_the_log() -> None:
    world = World(2)
    listener, liar = world.all
    now_ms = liar.seams.now_ms()
    with structlog.testing.capture_logs() as logs:
        for content in ("one", "other"):
            record = make_record(
                liar.signer, VITALS, seq=now_ms, issued_ms=now_ms, ttl_ms=60_000, payload={1: content}
            )
            await listener.gossip.notice(End(listener, liar), GossipAck((record.raw,)))
    (alert,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert alert["reason"] == "equivocation"
    assert alert["owner"] == to_text(liar.node)


async def test_what_gossip_says_is_counted_where_it_leaves_and_where_it_comes(nursery: trio.Nursery) -> None:
    world = World(2)
    start(nursery, world)
    one, other = (node.gossip.traffic for node in world.all)
    first = world.all[0].publish_node()
    world.link(*world.all)
    await trio.sleep(0.5)
    assert one.sent_bytes >= len(first.raw)
    await trio.sleep(20)
    world.all[1].publish_node()
    world.all[1].gossip.nudge()
    await trio.sleep(0.2)
    assert one.sent_bytes == other.received_bytes
    assert other.sent_bytes == one.received_bytes
    told = one.sent_bytes
    end = world.all[1].ends[world.all[0].node]
    got = await end.request(RecordGet(first.owner, RecordType.NODE))
    assert isinstance(got, RecordGot)
    assert one.sent_bytes == told + sum(map(len, got.records))
    assert bytes_of(DhtPing()) == 0

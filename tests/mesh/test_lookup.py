"""The lookup machine: it finds the nearest, and nobody can make it run for ever or stop early."""

import random
from collections.abc import Callable, Iterable

import pytest

from meshnode.mesh import keyspace, lookup
from meshnode.mesh.lookup import DISJOINT_PATHS, STALLED_AFTER, Found, Lookup, Provider
from meshwire.ids import NodeId
from meshwire.limits import (
    DHT_ALPHA,
    DHT_GROUP_PER_PATH,
    DHT_HEAP,
    DHT_K,
    DHT_QUERY_RPCS,
    DHT_QUERY_S,
    PROVIDERS_RETURNED,
)

Answer = tuple[Iterable[NodeId], dict[Provider, bytes]]


def ids(count: int, seed: int) -> list[NodeId]:
    rng = random.Random(seed)
    return [NodeId(rng.randbytes(20)) for _ in range(count)]


def play(lookup: Lookup, answer: Callable[[NodeId], Answer | None]) -> Found:
    """Ask and answer until the machine is done; None is a failure."""
    for _ in range(10_000):
        asked = lookup.next(0.0)
        if not asked:
            break
        for node in asked:
            reply = answer(node)
            if reply is None:
                lookup.on_failure(node)
            else:
                lookup.on_reply(node, *reply)
    assert lookup.done
    return lookup.result


class World:
    """A network in which each node knows some others near it and some far away."""

    def __init__(self, count: int, seed: int) -> None:
        rng = random.Random(seed)
        self.nodes = ids(count, seed)
        self.knows = {
            node: keyspace.closest(node, self.nodes, 25)[1:] + rng.sample(self.nodes, 10)
            for node in self.nodes
        }

    def answer(self, target: bytes, node: NodeId) -> Answer:
        return [NodeId(one) for one in keyspace.closest(target, self.knows[node], DHT_K)], {}


def test_it_finds_the_k_nearest_of_a_network() -> None:
    world = World(300, seed=1)
    for target in ids(20, seed=2):
        found = play(
            Lookup(target, random.Random(3).sample(world.nodes, 4), 0.0),
            lambda node, target=target: world.answer(target, node),  # type: ignore[misc]
        )
        nearest = keyspace.closest(target, world.nodes, DHT_K)
        assert list(found.closest[:8]) == nearest[:8]
        assert found.asked <= DHT_QUERY_RPCS


def test_at_most_alpha_are_asked_at_once_on_each_path() -> None:
    lookup = Lookup(bytes(20), ids(20, 1), 0.0)
    assert len(lookup.next(0.0)) == DHT_ALPHA * DISJOINT_PATHS
    assert lookup.next(0.0) == []


def test_nobody_is_asked_twice() -> None:
    world = World(60, seed=4)
    asked: list[NodeId] = []

    def answer(node: NodeId) -> Answer:
        asked.append(node)
        return world.answer(bytes(20), node)

    play(Lookup(bytes(20), world.nodes[:4], 0.0), answer)
    assert len(asked) == len(set(asked))


def test_an_unverified_provider_does_not_end_the_search() -> None:
    world = World(100, seed=5)
    target = bytes(20)
    liar, honest = keyspace.closest(target, world.nodes, 100)[60], keyspace.closest(target, world.nodes, 1)[0]

    def answer(node: NodeId) -> Answer:
        closer, _ = world.answer(target, node)
        held = {liar: {(NodeId(b"x" * 20), "m"): b"fake"}, honest: {(NodeId(b"y" * 20), "m"): b"true"}}
        return closer, held.get(node, {})

    found = play(Lookup(target, [NodeId(liar), world.nodes[0]], 0.0), answer)
    assert b"true" in found.providers.values()
    assert b"fake" in found.providers.values()


def test_a_responder_that_always_knows_somebody_nearer_is_cut_short() -> None:
    rng = random.Random(6)

    def answer(node: NodeId) -> Answer:
        return [NodeId(bytes(2) + rng.randbytes(18)) for _ in range(1000)], {}

    lookup = Lookup(bytes(20), ids(2, 7), 0.0)
    found = play(lookup, answer)
    assert found.asked <= DHT_QUERY_RPCS
    assert all(len(path.heap.heap) <= DHT_HEAP for path in lookup._paths)


def test_paths_that_always_get_nearer_still_end() -> None:
    left = iter(range(2**80, 0, -1))

    def answer(node: NodeId) -> Answer:
        return [NodeId(next(left).to_bytes(20, "big")) for _ in range(DHT_K)], {}

    assert play(Lookup(bytes(20), ids(4, 7), 0.0), answer).asked == DHT_QUERY_RPCS


def test_only_the_first_k_of_a_reply_count() -> None:
    lookup = Lookup(bytes(20), ids(1, 8), 0.0)
    (asked,) = lookup.next(0.0)
    lookup.on_reply(asked, ids(1000, 9))
    assert sum(len(path.heap.heap) for path in lookup._paths) == 1 + DHT_K


def test_one_answer_cannot_crowd_out_the_other_providers() -> None:
    lookup = Lookup(bytes(20), ids(2, 8), 0.0)
    liar, honest = lookup.next(0.0)
    lookup.on_reply(liar, [], {(node, "m"): b"fake" for node in ids(10_000, 9)})
    lookup.on_reply(honest, [], {(NodeId(b"y" * 20), "m"): b"true"})
    assert len(lookup.result.providers) == PROVIDERS_RETURNED + 1


def test_a_path_that_gets_nowhere_ends() -> None:
    seeds = sorted(ids(DHT_K, 11))

    def answer(node: NodeId) -> Answer | None:
        return ([], {}) if node == seeds[0] else None

    asked = play(Lookup(bytes(20), seeds, 0.0, paths=1), answer).asked
    assert STALLED_AFTER < asked <= STALLED_AFTER + DHT_ALPHA


def made_up_nodes_near_the_target() -> Found:
    """Three of ten seeds invent nodes nearer than any, which never answer; the provider is farther away."""
    rng = random.Random(21)
    world = World(60, seed=22)
    target = bytes(20)
    holders = keyspace.closest(target, world.nodes, 8)
    known = [NodeId(node) for node in keyspace.closest(target, world.nodes, 60)[20:30]]
    hostile, real = known[:3], set(world.nodes)

    def answer(node: NodeId) -> Answer | None:
        if node in hostile:
            return [NodeId(bytes(2) + rng.randbytes(18)) for _ in range(DHT_K)], {}
        if node not in real:
            return None
        return world.answer(target, node)[0], {(NodeId(b"p" * 20), "m"): b"true"} if node in holders else {}

    return play(Lookup(target, known, 0.0), answer)


def test_made_up_nodes_do_not_use_up_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made_up_nodes_near_the_target().providers
    monkeypatch.setattr(lookup, "STRIKES", 1000)
    assert not made_up_nodes_near_the_target().providers


def test_who_named_some_that_are_gone_and_more_that_answer_is_still_believed() -> None:
    world = World(60, seed=23)
    target, gone = bytes(20), set(random.Random(24).sample(World(60, seed=23).nodes, 15))
    known = [NodeId(node) for node in world.nodes if node not in gone][:2]
    found = play(
        Lookup(target, known, 0.0), lambda node: None if node in gone else world.answer(target, node)
    )
    alive = [node for node in keyspace.closest(target, world.nodes, 60) if node not in gone]
    assert list(found.closest[:8]) == alive[:8]


def test_an_address_group_is_asked_only_so_often() -> None:
    near = [NodeId(bytes(2) + number.to_bytes(18, "big")) for number in range(1, 41)]
    far = ids(20, 25)
    asked: list[NodeId] = []

    def answer(node: NodeId) -> Answer:
        asked.append(node)
        return near, {}

    play(Lookup(bytes(20), far, 0.0, group_of=lambda node: "8.8.8.0/24" if node in near else ""), answer)
    assert sum(node in near for node in asked) == DHT_GROUP_PER_PATH * DISJOINT_PATHS
    assert sum(node in far for node in asked) == len(far)


def hostile_play(paths: int) -> Found:
    """One of two seeds invents nodes ever nearer, which answer as it does; a true provider is elsewhere."""
    rng = random.Random(12)
    world = World(200, seed=13)
    target = bytes(20)
    seeds = [NodeId(seed) for seed in keyspace.closest(target, world.nodes[:20], 2)]
    holder = keyspace.closest(target, world.nodes, 1)[0]
    hostile = {seeds[0]}

    def answer(node: NodeId) -> Answer:
        if node in hostile:
            fakes = [NodeId(bytes(3) + rng.randbytes(17)) for _ in range(DHT_K)]
            hostile.update(fakes)
            return fakes, {}
        return world.answer(target, node)[0], {(holder, "m"): b"true"} if node == holder else {}

    return play(Lookup(target, seeds, 0.0, paths=paths), answer)


def test_a_hostile_path_cannot_starve_the_other() -> None:
    assert hostile_play(paths=2).providers
    assert not hostile_play(paths=1).providers


def test_the_deadline_ends_it_even_while_it_waits() -> None:
    lookup = Lookup(bytes(20), ids(4, 14), 100.0)
    assert lookup.next(100.0)
    assert not lookup.done
    assert lookup.next(100.0 + DHT_QUERY_S) == []
    assert lookup.done
    assert lookup.result.timed_out


def test_an_answer_nobody_waits_for_changes_nothing() -> None:
    lookup = Lookup(bytes(20), ids(1, 15), 0.0)
    lookup.on_reply(ids(1, 16)[0], ids(5, 17), {(NodeId(b"z" * 20), "m"): b"r"})
    assert not lookup.result.closest
    assert not lookup.result.providers


def test_without_seeds_it_is_done_at_once() -> None:
    lookup = Lookup(bytes(20), [], 0.0)
    assert lookup.next(0.0) == []
    assert lookup.done
    assert not lookup.result.timed_out

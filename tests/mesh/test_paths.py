"""Paths: the cheapest within three links, and which edges count."""

import random

from meshnode.mesh.paths import (
    DETOUR_GAIN,
    DOUBT_MS,
    LINK_MS,
    UNKNOWN_RTT_MS,
    Carriers,
    Claim,
    Claims,
    Links,
    Route,
    alternates,
    graph,
    keep_to_relays,
    routes,
)
from meshwire.ids import NodeId
from meshwire.limits import ROUTE_LINKS

A, B, C, D, E, F = (NodeId(bytes([n]) * 20) for n in range(6))


def claim(*neighbours: tuple[NodeId, float], issued_ms: int = 0, full: bool = False) -> Claim:
    return Claim(issued_ms, dict(neighbours), full)


def ways(links: Links, claims: Claims) -> dict[NodeId, Route]:
    return routes(A, graph(A, links, claims))


def test_a_node_behind_a_neighbour_is_reached_through_it() -> None:
    found = ways({B: 10.0}, {B: claim((C, 20.0))})
    assert found[C] == Route((B, C), 30.0 + 2 * LINK_MS)


def test_an_edge_named_by_the_far_end_alone_counts() -> None:
    assert ways({B: 10.0}, {C: claim((B, 20.0))})[C].path == (B, C)


def test_an_edge_that_the_other_end_denies_later_does_not() -> None:
    dead = claim((B, 20.0), issued_ms=1000)
    assert C not in ways({B: 10.0}, {C: dead, B: claim(issued_ms=2000)})
    assert C in ways({B: 10.0}, {C: dead, B: claim(issued_ms=500)})
    assert C in ways({B: 10.0}, {C: dead, B: claim((D, 1.0), issued_ms=2000, full=True)})


def test_own_links_outweigh_what_is_claimed_of_them() -> None:
    assert ways({}, {B: claim((A, 1.0))}) == {}
    assert ways({B: 30.0}, {B: claim((A, 1.0))})[B].rtt_ms == 30.0 + LINK_MS


def test_a_detour_wins_over_the_direct_link_if_it_is_much_faster() -> None:
    found = ways({B: 10.0, C: 500.0}, {B: claim((C, 10.0))})
    assert found[C].path == (B, C)
    found = ways({B: 10.0, C: 30.0}, {B: claim((C, 10.0))})
    assert found[C].path == (C,), "what others claim is worth less than a link of one's own"


def test_who_cannot_be_dialled_is_reached_through_its_relays_alone() -> None:
    links, claims = {B: 10.0, D: 10.0}, {B: claim((C, 10.0)), D: claim((C, 50.0)), C: claim((E, 5.0))}
    edges = graph(A, links, claims)
    keep_to_relays(A, edges, {C: Carriers(frozenset({D}))})
    found = routes(A, edges)
    assert found[C].path == (D, C)
    assert found[E].path == (D, C, E), "it may carry to others itself"
    edges = graph(A, {C: 10.0}, claims)
    keep_to_relays(A, edges, {C: Carriers(frozenset())})
    assert routes(A, edges)[C].path == (C,), "a link of one's own needs no relay"


def test_who_carries_nothing_is_the_end_of_every_route() -> None:
    edges = graph(A, {B: 10.0}, {B: claim((C, 10.0))})
    keep_to_relays(A, edges, {B: Carriers(None, carries=False), A: Carriers(None, carries=False)})
    assert set(routes(A, edges)) == {B}


def test_of_two_claims_the_slower_is_believed() -> None:
    found = ways({B: 10.0}, {B: claim((C, 5.0)), C: claim((B, 80.0))})
    assert found[C].rtt_ms == 90.0 + 2 * LINK_MS


def test_an_unmeasured_link_counts_as_slow() -> None:
    assert ways({B: None}, {})[B].rtt_ms == UNKNOWN_RTT_MS + LINK_MS


def test_a_usable_route_is_never_given_up_for_a_cheaper_long_one() -> None:
    chain = {
        B: claim((C, 1.0)),
        C: claim((D, 1.0)),
        D: claim((E, 1.0)),
        F: claim((E, 900.0)),
    }
    found = ways({B: 1.0, F: 1.0}, chain)
    assert found[E].path == (F, E)
    assert found[D].path == (B, C, D)


def test_what_is_too_far_is_known_to_be_there() -> None:
    chain = {B: claim((C, 1.0)), C: claim((D, 1.0)), D: claim((E, 1.0))}
    assert len(ways({B: 1.0}, chain)[E].path) == ROUTE_LINKS + 1


def test_alternates_share_no_relay() -> None:
    claims = {B: claim((D, 1.0)), C: claim((D, 5.0)), D: claim()}
    edges = graph(A, {B: 1.0, C: 1.0}, {node: one for node, one in claims.items() if node != D})
    assert [route.path for route in alternates(A, edges, D, 3)] == [(B, D), (C, D)]


def test_a_direct_link_has_a_relayed_alternate() -> None:
    edges = graph(A, {B: 1.0, C: 1.0}, {C: claim((B, 3.0))})
    assert [route.path for route in alternates(A, edges, B)] == [(B,), (C, B)]


def test_what_leads_through_a_doubted_node_is_taken_last() -> None:
    claims = {B: claim((D, 1.0), (C, 1.0)), C: claim((D, 200.0))}
    links: Links = {B: 1.0, C: 1.0}
    assert routes(A, graph(A, links, claims))[D].path == (B, D)
    doubted = routes(A, graph(A, links, claims, (B,)))
    assert doubted[D].path == (C, D)  # not over C and B, either
    assert doubted[B].rtt_ms > DOUBT_MS  # nor is the node itself sought before others
    only_way = routes(A, graph(A, {B: 1.0}, {B: claim((D, 1.0))}, (B,)))
    assert only_way[D].path == (B, D)


def test_alternates_go_round_what_they_are_told_to() -> None:
    edges = graph(A, {B: 1.0, C: 1.0}, {B: claim((D, 1.0), (C, 1.0)), C: claim((D, 90.0))})
    assert [route.path for route in alternates(A, edges, D, 3)] == [(B, D), (C, D)]
    assert [route.path for route in alternates(A, edges, D, 3, without=(B,))] == [(C, D)]
    assert alternates(A, edges, D, 3, without=(B, C)) == []


def test_it_agrees_with_exhaustive_search() -> None:
    rng = random.Random(1)
    nodes = [NodeId(bytes([n]) * 20) for n in range(9)]
    for _ in range(40):
        claims = {
            node: claim(*((other, rng.uniform(1, 99)) for other in rng.sample(nodes[1:], 3) if other != node))
            for node in nodes[1:]
        }
        edges = graph(nodes[0], {node: rng.uniform(1, 99) for node in rng.sample(nodes[1:], 2)}, claims)
        found = routes(nodes[0], edges, ROUTE_LINKS)
        for node, cost in cheapest(nodes[0], edges).items():
            direct = edges[nodes[0]].get(node, float("inf")) + LINK_MS
            expected = direct if direct < DETOUR_GAIN * cost else cost
            assert abs(found[node].rtt_ms - expected) < 1e-6
        assert found.keys() == cheapest(nodes[0], edges).keys()


def cheapest(own: NodeId, edges: dict[NodeId, dict[NodeId, float]]) -> dict[NodeId, float]:
    best: dict[NodeId, float] = {}
    walks: list[tuple[tuple[NodeId, ...], float]] = [((own,), 0.0)]
    for _ in range(ROUTE_LINKS):
        walks = [
            ((*walk, node), cost + rtt_ms + LINK_MS)
            for walk, cost in walks
            for node, rtt_ms in edges.get(walk[-1], {}).items()
            if node not in walk
        ]
        for walk, cost in walks:
            best[walk[-1]] = min(cost, best.get(walk[-1], cost))
    return best
